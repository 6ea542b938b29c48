// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer_load.h"

#include "base/check.h"
#include "model/text_file.h"
#include "model/tokenizer_cache.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

// ---- choosing ------------------------------------------------------------------------------

static const struct tokenizer_file *find(
    const struct tokenizer_file *files, size_t n_files, const char *name)
{
    for (size_t i = 0; i < n_files; i++) {
        if (strcmp(files[i].name, name) == 0)
            return &files[i];
    }
    return NULL;
}

static bool is_tiktoken_name(const char *name)
{
    static const char END[] = ".tiktoken";
    size_t n = strlen(name);
    return n >= sizeof END && strcmp(name + n - (sizeof END - 1), END) == 0;
}

static struct tokenizer_bytes bytes_of(const struct tokenizer_file *f)
{
    return (struct tokenizer_bytes){f->data, f->n};
}

static enum status read_model_file(struct tokenizer_draft *d, const struct tokenizer_side *side,
    const struct tokenizer_file *f, struct error *err)
{
    // Llama 3 and GLM-4 gave this name to a tiktoken file.
    if (tokenizer_read_is_tiktoken(bytes_of(f)))
        return tokenizer_read_tiktoken(d, side, f->name, bytes_of(f), err);
    return tokenizer_read_sentencepiece(d, side, bytes_of(f), err);
}

enum status tokenizer_load_draft(struct tokenizer_draft *d, const struct tokenizer_side *side,
    const struct tokenizer_file *files, size_t n_files, struct error *err)
{
    const struct tokenizer_file *f = find(files, n_files, "tokenizer.json");
    if (f)
        return tokenizer_read_json(d, f->data, f->n, err);
    f = find(files, n_files, "tokenizer.model");
    if (f)
        return read_model_file(d, side, f, err);
    f = find(files, n_files, "vocab.json");
    const struct tokenizer_file *merges = find(files, n_files, "merges.txt");
    if (f && merges)
        return tokenizer_read_bpe(d, side, bytes_of(f), bytes_of(merges), err);
    for (size_t i = 0; i < n_files; i++) {
        if (is_tiktoken_name(files[i].name))
            return tokenizer_read_tiktoken(d, side, files[i].name, bytes_of(&files[i]), err);
    }
    f = find(files, n_files, "vocab.txt");
    if (f)
        return tokenizer_read_word_piece(d, side, bytes_of(f), err);
    return status_fail(err, STATUS_NOT_FOUND,
        "there is no tokenizer: neither tokenizer.json nor tokenizer.model, vocab.json with "
        "merges.txt, a .tiktoken file or vocab.txt");
}

// ---- from files in memory ------------------------------------------------------------------

static enum status build(struct tokenizer *t, const struct tokenizer_file *files, size_t n_files,
    const char *cache_dir, struct error *err)
{
    struct tokenizer_side side;
    struct tokenizer_draft d;
    TRY(tokenizer_side_read(&side, files, n_files, err));
    tokenizer_draft_init(&d);
    // What a tokenizer.json says depends on no other file.
    const struct tokenizer_file *json = find(files, n_files, "tokenizer.json");
    const struct tokenizer_file *source = json ? json : files;
    size_t n_source = json ? 1 : n_files;
    enum status st = STATUS_OK;
    if (!cache_dir || !tokenizer_cache_read(&d, cache_dir, source, n_source)) {
        st = tokenizer_load_draft(&d, &side, files, n_files, err);
        if (st == STATUS_OK && cache_dir)
            tokenizer_cache_write(&d, cache_dir, source, n_source);
    }
    if (st == STATUS_OK)
        st = tokenizer_build(t, &d, err);
    if (st == STATUS_OK)
        tokenizer_side_apply(&side, t);
    tokenizer_draft_deinit(&d);
    tokenizer_side_free(&side);
    return st;
}

static enum status load(const struct tokenizer_file *files, size_t n_files, const char *cache_dir,
    struct tokenizer **out, struct error *err)
{
    struct tokenizer *t = tokenizer_new();
    if (!t)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the tokenizer");
    enum status st = build(t, files, n_files, cache_dir, err);
    if (st != STATUS_OK) {
        tokenizer_free(t);
        return st;
    }
    *out = t;
    return STATUS_OK;
}

enum status tokenizer_load_files(
    const struct tokenizer_file *files, size_t n_files, struct tokenizer **out, struct error *err)
{
    return load(files, n_files, NULL, out, err);
}

enum status tokenizer_load_memory(
    const void *json, size_t n, struct tokenizer **out, struct error *err)
{
    const struct tokenizer_file file = {"tokenizer.json", json, n};
    return load(&file, 1, NULL, out, err);
}

// ---- from a directory ----------------------------------------------------------------------

enum { FILES_MAX = 10, NAME_BYTES = 256 };

struct folder {
    const char *dir;
    struct tokenizer_file file[FILES_MAX];
    char *text[FILES_MAX]; // owned; what file[i].data points to
    size_t n;
    char tiktoken[NAME_BYTES]; // the name of the .tiktoken file
    struct error *err;
};

// Reads a file that need not exist; *found tells.
static enum status take(struct folder *f, const char *name, bool *found)
{
    char path[TEXT_FILE_PATH_BYTES];
    size_t n;
    check(f->n < FILES_MAX);
    if (!text_file_path(path, f->dir, name))
        return status_fail(f->err, STATUS_TOO_LARGE, "the path of %s is too long", name);
    enum status st = text_file_read(path, TOKENIZER_FILE_BYTES_MAX, &f->text[f->n], &n, f->err);
    *found = st == STATUS_OK;
    if (st == STATUS_NOT_FOUND)
        return STATUS_OK;
    TRY(st);
    f->file[f->n] = (struct tokenizer_file){name, f->text[f->n], n};
    f->n++;
    return STATUS_OK;
}

// The first .tiktoken file by name; empty if there is none.
static void find_tiktoken(struct folder *f)
{
    DIR *d = opendir(f->dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        if (n < NAME_BYTES && is_tiktoken_name(e->d_name) &&
            (f->tiktoken[0] == '\0' || strcmp(e->d_name, f->tiktoken) < 0))
            memcpy(f->tiktoken, e->d_name, n + 1);
    }
    if (d)
        closedir(d);
}

// The first kind of tokenizer that the directory has.
static enum status take_tokenizer(struct folder *f)
{
    bool found;
    TRY(take(f, "tokenizer.json", &found));
    if (found)
        return STATUS_OK;
    TRY(take(f, "tokenizer.model", &found));
    if (found)
        return STATUS_OK;
    TRY(take(f, "vocab.json", &found));
    if (found)
        TRY(take(f, "merges.txt", &found));
    if (found)
        return STATUS_OK;
    find_tiktoken(f);
    if (f->tiktoken[0] != '\0')
        return take(f, f->tiktoken, &found);
    return take(f, "vocab.txt", &found);
}

static enum status take_all(struct folder *f)
{
    static const char *const BESIDE[] = {
        "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"};
    bool found;
    TRY(take_tokenizer(f));
    for (size_t i = 0; i < COUNT_OF(BESIDE); i++)
        TRY(take(f, BESIDE[i], &found));
    return STATUS_OK;
}

enum status tokenizer_load_cached(
    const char *dir, const char *cache_dir, struct tokenizer **out, struct error *err)
{
    struct folder f = {.dir = dir, .err = err};
    enum status st = take_all(&f);
    if (st == STATUS_OK)
        st = load(f.file, f.n, cache_dir, out, err);
    for (size_t i = 0; i < f.n; i++)
        free(f.text[i]);
    return st;
}

enum status tokenizer_load(const char *dir, struct tokenizer **out, struct error *err)
{
    return tokenizer_load_cached(dir, NULL, out, err);
}
