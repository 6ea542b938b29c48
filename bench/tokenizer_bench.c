// SPDX-License-Identifier: Apache-2.0
// How fast a tokenizer loads, encodes and decodes on one thread:
//   tokenizer_bench DIR [TEXT_FILE]
// DIR holds a tokenizer (or is a tokenizer.json itself); without a text, one is made of its tokens.
// A directory is loaded without a cache, while its cache is made, and from its cache, each several
// times.
// Rows are the median of several passes, as MB of text per second and as a ratio to checking the
// text's UTF-8 just before and after, which survives a noisy machine.
#include "base/clock.h"
#include "base/utf8.h"
#include "bench/limits.h"
#include "model/text_file.h"
#include "model/tokenizer.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PASSES = 7, PIECE_BYTES = 1 << 16, CHAT_BYTES = 1 << 10 };

// Every token's text once, as a stand-in for a text.
static void make_text(const struct tokenizer *t, struct buf *out)
{
    for (uint32_t i = 0; i < tokenizer_vocab_size(t); i++) {
        if (!tokenizer_is_special(t, i))
            tokenizer_decode(t, &i, 1, true, out);
        buf_append(out, " ", 1);
    }
}

// The end of a piece of about `bytes` that begins at `at`: in front of a space.
static size_t piece_end(const struct buf *text, size_t at, size_t bytes)
{
    size_t end = at + bytes < text->size ? at + bytes : text->size;
    while (end < text->size && text->data[end] != ' ')
        end++;
    return end;
}

static double validate(const struct buf *text)
{
    double v[PASSES];
    for (int i = 0; i < PASSES; i++) {
        uint64_t begin = clock_now_us();
        bool valid = utf8_valid(text->data, text->size);
        v[i] = valid ? (double)text->size / (double)(clock_now_us() - begin + 1) : 0;
    }
    return limits_median(v, PASSES);
}

// MB/s of encoding the text in pieces; `ids` holds all ids afterwards.
static double encode(
    const struct tokenizer *t, const struct buf *text, size_t piece, struct tokenizer_ids *ids)
{
    double v[PASSES];
    struct error err;
    for (int i = 0; i < PASSES; i++) {
        uint64_t begin = clock_now_us();
        ids->count = 0;
        for (size_t at = 0, end; at < text->size; at = end) {
            end = piece_end(text, at, piece);
            if (tokenizer_encode(t, text->data + at, end - at, 0, ids, &err) != STATUS_OK) {
                fprintf(stderr, "%s\n", err.text);
                return 0;
            }
        }
        v[i] = (double)text->size / (double)(clock_now_us() - begin + 1);
    }
    return limits_median(v, PASSES);
}

static void empty_folder(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        unlinkat(dirfd(d), e->d_name, 0); // not "." and ".."
    if (d)
        closedir(d);
}

static double decode(const struct tokenizer *t, const struct tokenizer_ids *ids, struct buf *out)
{
    double v[PASSES];
    for (int i = 0; i < PASSES; i++) {
        uint64_t begin = clock_now_us();
        buf_clear(out);
        tokenizer_decode(t, ids->data, ids->count, false, out);
        v[i] = (double)out->size / (double)(clock_now_us() - begin + 1);
    }
    return limits_median(v, PASSES);
}

static void print_rows(const struct tokenizer *t, const struct buf *text)
{
    struct tokenizer_ids ids;
    struct buf out;
    tokenizer_ids_init(&ids, text->size + 1024);
    buf_init(&out, text->size * 4 + 1024);
    double limit = validate(text);
    double whole = encode(t, text, PIECE_BYTES, &ids);
    double chat = encode(t, text, CHAT_BYTES, &ids);
    double back = decode(t, &ids, &out);
    limit = (limit + validate(text)) / 2;
    printf("text    %zu bytes, %zu tokens, %.2f bytes per token\n", text->size, ids.count,
        (double)text->size / (double)(ids.count + !ids.count));
    printf("check   %7.1f MB/s\n", limit);
    printf("encode  %7.1f MB/s in pieces of 64 KiB   %.3f of check\n", whole, whole / limit);
    printf("encode  %7.1f MB/s in pieces of 1 KiB    %.3f of check\n", chat, chat / limit);
    printf("decode  %7.1f MB/s   %.3f of check, %.1f ns per token\n", back, back / limit,
        (double)out.size * 1000.0 / back / (double)(ids.count + !ids.count));
    tokenizer_ids_deinit(&ids);
    buf_deinit(&out);
}

static enum status read_text(const char *path, struct buf *out, struct error *err)
{
    char *text = NULL;
    size_t n = 0;
    TRY(text_file_read(path, TOKENIZER_TEXT_BYTES_MAX, &text, &n, err));
    buf_append(out, text, n);
    free(text);
    return STATUS_OK;
}

// The median seconds of loading with `cache` (NULL: none); removes the cache's files first where
// `fresh`. Negative if it fails.
static double load_time(const char *dir, const char *cache, bool fresh)
{
    double v[PASSES];
    struct error err;
    for (int i = 0; i < PASSES; i++) {
        struct tokenizer *t;
        if (fresh)
            empty_folder(cache);
        uint64_t begin = clock_now_us();
        if (tokenizer_load_cached(dir, cache, &t, &err) != STATUS_OK)
            return -1;
        v[i] = (double)(clock_now_us() - begin) / 1e6;
        tokenizer_free(t);
    }
    return limits_median(v, PASSES);
}

static void print_load_times(const char *dir)
{
    char cache[] = "/tmp/tokenizer_bench.XXXXXX";
    if (!mkdtemp(cache))
        return;
    double plain = load_time(dir, NULL, false);
    double making = load_time(dir, cache, true);
    double cached = load_time(dir, cache, false);
    printf("load    %.3f s, %.3f s with writing its cache, %.3f s from the cache\n", plain, making,
        cached);
    empty_folder(cache);
    rmdir(cache);
}

static enum status load(const char *path, struct tokenizer **t, struct error *err)
{
    char *json = NULL;
    size_t n = strlen(path);
    if (n < 5 || strcmp(path + n - 5, ".json") != 0)
        return tokenizer_load(path, t, err);
    TRY(text_file_read(path, TOKENIZER_FILE_BYTES_MAX, &json, &n, err));
    enum status st = tokenizer_load_memory(json, n, t, err);
    free(json);
    return st;
}

int main(int argc, char **argv)
{
    struct tokenizer *t;
    struct error err = {0};
    struct buf text;
    buf_init(&text, TOKENIZER_TEXT_BYTES_MAX);
    if (argc < 2) {
        fprintf(stderr, "usage: tokenizer_bench DIR|FILE.json [TEXT_FILE]\n");
        return 2;
    }
    uint64_t begin = clock_now_us();
    if (load(argv[1], &t, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    printf("load    %.3f s the first time, %u ids\n", (double)(clock_now_us() - begin) / 1e6,
        tokenizer_vocab_size(t));
    print_load_times(argv[1]);
    if (argc < 3)
        make_text(t, &text);
    else if (read_text(argv[2], &text, &err) != STATUS_OK)
        fprintf(stderr, "%s\n", err.text);
    if (text.size > 0)
        print_rows(t, &text);
    buf_deinit(&text);
    tokenizer_free(t);
    return 0;
}
