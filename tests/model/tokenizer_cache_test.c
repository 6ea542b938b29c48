// SPDX-License-Identifier: Apache-2.0
// The cache of tokenizers: what is loaded from it equals what is loaded from the files, damage of
// any kind is noticed and mended, other users' files are not believed, and many writers may meet.
#include "model/tokenizer_cache.h"
#include "tests/test_support.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORDS = 30000 };

struct place {
    char model[64], cache[80];
};

static void write_file(const char *dir, const char *name, const void *data, size_t n)
{
    FILE *f = fopen(test_path(dir, name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

// A tokenizer that is large enough to be kept: letters, and words "aN" that merge with them.
static void make_model(const char *dir)
{
    struct buf b;
    buf_init(&b, 1 << 24);
    buf_printf(&b, "{\"added_tokens\":[{\"content\":\"<x>\",\"special\":true}],"
                   "\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (int c = '0'; c <= '9'; c++)
        buf_printf(&b, "\"%c\":%d,", c, c - '0');
    for (int i = 10; i < WORDS; i++)
        buf_printf(&b, "\"%d\":%d,", i, i);
    buf_printf(&b, "\"a\":%d},\"merges\":[\"1 0\"", WORDS);
    for (int i = 11; i < WORDS; i++)
        buf_printf(&b, ",\"%d %d\"", i / 10, i % 10);
    buf_printf(&b, "]}}");
    assert_false(buf_failed(&b));
    write_file(dir, "tokenizer.json", b.data, b.size);
    buf_deinit(&b);
}

static int set_up(void **state)
{
    static struct place p;
    snprintf(p.model, sizeof p.model, "/tmp/tokenizer_cache_test.XXXXXX");
    assert_non_null(mkdtemp(p.model));
    snprintf(p.cache, sizeof p.cache, "%s/a/b", p.model);
    make_model(p.model);
    *state = &p;
    return 0;
}

static void empty(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
}

static int tear_down(void **state)
{
    const struct place *p = *state;
    char above[80];
    empty(p->cache);
    rmdir(p->cache);
    snprintf(above, sizeof above, "%s/a", p->model);
    rmdir(above);
    empty(p->model);
    return rmdir(p->model);
}

// The name of the one file in the cache; returns how many there are.
static int cache_file(const struct place *p, char path[512])
{
    int count = 0;
    DIR *d = opendir(p->cache);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, 512, "%s/%s", p->cache, e->d_name);
        count++;
    }
    if (d)
        closedir(d);
    return count;
}

static void load_and_check(const struct place *p)
{
    static const char TEXT[] = "12a31<x>a7";
    static const uint32_t IDS[] = {12, WORDS, 31, WORDS + 1, WORDS, 7};
    struct tokenizer *t = NULL;
    struct error err = {0};
    struct tokenizer_ids ids;
    if (tokenizer_load_cached(p->model, p->cache, &t, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    tokenizer_ids_init(&ids, 100);
    assert_int_equal(
        tokenizer_encode(t, TEXT, sizeof TEXT - 1, TOKENIZER_PARSE_SPECIAL, &ids, &err), STATUS_OK);
    assert_int_equal(ids.count, 6);
    assert_memory_equal(ids.data, IDS, sizeof IDS);
    tokenizer_ids_deinit(&ids);
    tokenizer_free(t);
}

static bool cache_is_taken(const struct place *p)
{
    char *text;
    size_t n;
    struct tokenizer_draft d;
    assert_int_equal(
        text_file_read(test_path(p->model, "tokenizer.json"), 1 << 24, &text, &n, NULL), STATUS_OK);
    const struct tokenizer_file file = {"tokenizer.json", text, n};
    tokenizer_draft_init(&d);
    bool taken = tokenizer_cache_read(&d, p->cache, &file, 1);
    assert_int_equal(d.n_tokens, taken ? WORDS + 1 : 0);
    tokenizer_draft_deinit(&d);
    free(text);
    return taken;
}

static void a_second_load_takes_the_cache(void **state)
{
    const struct place *p = *state;
    char path[512];
    struct stat s;
    assert_false(cache_is_taken(p));
    load_and_check(p);
    assert_int_equal(cache_file(p, path), 1);
    assert_int_equal(stat(path, &s), 0);
    assert_int_equal(s.st_mode & 077, 0);
    assert_true(cache_is_taken(p));
    load_and_check(p);
    assert_int_equal(cache_file(p, path), 1);
}

static void flip(const char *path, off_t at)
{
    int fd = open(path, O_RDWR);
    uint8_t b;
    assert_int_equal(pread(fd, &b, 1, at), 1);
    b ^= 0x10;
    assert_int_equal(pwrite(fd, &b, 1, at), 1);
    close(fd);
}

static void damage_is_noticed_and_mended(void **state)
{
    const struct place *p = *state;
    char path[512];
    struct stat s;
    load_and_check(p);
    assert_int_equal(cache_file(p, path), 1);
    assert_int_equal(stat(path, &s), 0);
    for (off_t at = 0; at < s.st_size; at += at < 120 ? 1 : s.st_size / 20) {
        flip(path, at);
        assert_false(cache_is_taken(p));
        flip(path, at);
    }
    assert_true(cache_is_taken(p));
    flip(path, s.st_size - 1);
    load_and_check(p);
    assert_true(cache_is_taken(p));
    for (int part = 0; part < 4; part++) {
        assert_int_equal(truncate(path, part * s.st_size / 4 + part), 0);
        assert_false(cache_is_taken(p));
        load_and_check(p);
        assert_true(cache_is_taken(p));
    }
}

// What others may have written is not believed; nor is a link.
static void files_of_others_are_not_taken(void **state)
{
    const struct place *p = *state;
    char path[512], aside[520];
    load_and_check(p);
    assert_int_equal(cache_file(p, path), 1);
    assert_int_equal(chmod(path, 0620), 0);
    assert_false(cache_is_taken(p));
    assert_int_equal(chmod(path, 0600), 0);
    assert_true(cache_is_taken(p));
    snprintf(aside, sizeof aside, "%s.x", path);
    assert_int_equal(rename(path, aside), 0);
    assert_int_equal(symlink(aside, path), 0);
    assert_false(cache_is_taken(p));
    assert_int_equal(rename(aside, path), 0);
    assert_true(cache_is_taken(p));
}

static void another_source_has_another_cache(void **state)
{
    const struct place *p = *state;
    load_and_check(p);
    assert_true(cache_is_taken(p));
    FILE *f = fopen(test_path(p->model, "tokenizer.json"), "ab");
    fputc('\n', f);
    fclose(f);
    assert_false(cache_is_taken(p));
    load_and_check(p);
    assert_true(cache_is_taken(p));
    make_model(p->model);
    empty(p->cache);
}

static void many_writers_may_meet(void **state)
{
    const struct place *p = *state;
    char path[512];
    empty(p->cache);
    for (int i = 0; i < 8; i++) {
        if (fork() == 0) {
            load_and_check(p);
            _exit(0);
        }
    }
    for (int i = 0; i < 8; i++) {
        int status;
        assert_true(wait(&status) > 0);
        assert_int_equal(status, 0);
    }
    assert_int_equal(cache_file(p, path), 1); // no drafts are left
    assert_true(cache_is_taken(p));
}

// A cache that cannot be made is no error.
static void a_folder_that_cannot_be_made_changes_nothing(void **state)
{
    struct place p = *(const struct place *)*state;
    snprintf(p.cache, sizeof p.cache, "/proc/nowhere/x");
    load_and_check(&p);
    assert_false(cache_is_taken(&p));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_second_load_takes_the_cache),
        cmocka_unit_test(damage_is_noticed_and_mended),
        cmocka_unit_test(files_of_others_are_not_taken),
        cmocka_unit_test(another_source_has_another_cache),
        cmocka_unit_test(many_writers_may_meet),
        cmocka_unit_test(a_folder_that_cannot_be_made_changes_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
