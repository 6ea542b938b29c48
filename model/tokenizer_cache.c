// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer_cache.h"

#include "base/config.h"
#include "model/text_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Raised whenever a draft changes its meaning: older files are then not found.
enum { CACHE_VERSION = 1 };
// Smaller sources are read about as fast as a cache.
#define CACHE_SOURCE_BYTES_MIN ((size_t)512 << 10)
#define CACHE_BYTES_MAX ((size_t)256 << 20)

static const char MAGIC[8] = "PHXTOKC";

enum {
    FLAG_SENTENCEPIECE = 1 << 0,
    FLAG_EXPLICIT_IDS = 1 << 1,
    FLAG_ADD_BOS = 1 << 2,
    FLAG_DUMMY_PREFIX = 1 << 3,
    FLAG_REMOVE_EXTRA = 1 << 4,
    FLAG_ESCAPE = 1 << 5,
    FLAG_SUFFIX = 1 << 6,
    FLAG_PREFIX_ONCE = 1 << 7,
};

// One behind the other, in this order, behind the header.
enum section {
    SECTION_TOKENS,
    SECTION_MERGES,
    SECTION_CONTENTS,
    SECTION_REST,
    SECTION_CHARSMAP,
    SECTION_UNKNOWN,
    SECTION_BOS,
    SECTION_EOS,
    SECTION_COUNT
};

struct cache_header {
    char magic[8];
    uint32_t version, flags;
    struct hash128 source; // of the files that the draft was read from
    struct hash128 whole;  // of all but itself
    uint64_t bytes[SECTION_COUNT];
};

struct cache_token {
    uint32_t id;
    uint16_t n, type;
    double score;
};

_Static_assert(sizeof(struct cache_header) == 112, "the file's layout");
_Static_assert(sizeof(struct cache_token) == 16, "the file's layout");
_Static_assert(sizeof(struct tokenizer_merge) == 16, "the file's layout");
_Static_assert(TOKENIZER_TOKEN_BYTES_MAX <= UINT16_MAX, "a length fits");

// ---- names ---------------------------------------------------------------------------------

static struct hash128 source_hash(const struct tokenizer_file *files, size_t n_files)
{
    struct hash128 h = {CACHE_VERSION, n_files};
    for (size_t i = 0; i < n_files; i++) {
        struct hash_key key = {h.lo, h.hi};
        struct hash128 name = hash_128(key, files[i].name, strlen(files[i].name));
        key = (struct hash_key){name.lo, name.hi ^ files[i].n};
        h = hash_128(key, files[i].data, files[i].n);
    }
    return h;
}

static bool is_worth_it(const struct tokenizer_file *files, size_t n_files)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n_files; i++)
        bytes += files[i].n;
    return bytes >= CACHE_SOURCE_BYTES_MIN;
}

static bool cache_path(char path[TEXT_FILE_PATH_BYTES], const char *dir, struct hash128 source)
{
    char name[64];
    snprintf(name, sizeof name, "%016llx%016llx.tokenizer", (unsigned long long)source.hi,
        (unsigned long long)source.lo);
    return text_file_path(path, dir, name);
}

bool tokenizer_cache_default_dir(char path[TEXT_FILE_PATH_BYTES])
{
    const char *dir = config_env("XDG_CACHE_HOME"), *home = config_env("HOME");
    char cache[TEXT_FILE_PATH_BYTES];
    if (dir && dir[0] == '/')
        return text_file_path(path, dir, "phalanx");
    return home && home[0] == '/' && text_file_path(cache, home, ".cache") &&
           text_file_path(path, cache, "phalanx");
}

// The hash of a file whose header is `h`, and what follows it.
static struct hash128 whole_hash(const struct cache_header *h, const uint8_t *body, size_t n)
{
    struct cache_header plain = *h;
    plain.whole = (struct hash128){0};
    struct hash128 head =
        hash_128((struct hash_key){h->source.lo, h->source.hi}, &plain, sizeof plain);
    return hash_128((struct hash_key){head.lo, head.hi}, body, n);
}

// ---- reading -------------------------------------------------------------------------------

// The whole file, if it is the user's own and nobody else may write it; NULL otherwise.
static uint8_t *read_own_file(const char *path, size_t *n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat s;
    uint8_t *data = NULL;
    if (fd < 0)
        return NULL;
    if (fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && s.st_uid == geteuid() &&
        !(s.st_mode & (S_IWGRP | S_IWOTH)) && s.st_size >= (off_t)sizeof(struct cache_header) &&
        (size_t)s.st_size <= CACHE_BYTES_MAX)
        data = malloc((size_t)s.st_size);
    if (data) {
        *n = (size_t)s.st_size;
        if (text_file_pread(fd, path, data, *n, 0, NULL) != STATUS_OK) {
            free(data);
            data = NULL;
        }
    }
    close(fd);
    return data;
}

struct sections {
    struct tokenizer_bytes part[SECTION_COUNT];
};

// Finds the sections; false unless they fill the file exactly.
static bool find_sections(const uint8_t *data, size_t n, struct cache_header *h, struct sections *s)
{
    if (n < sizeof *h)
        return false;
    memcpy(h, data, sizeof *h);
    size_t at = sizeof *h;
    for (size_t i = 0; i < SECTION_COUNT; i++) {
        if (h->bytes[i] > n - at)
            return false;
        s->part[i] = (struct tokenizer_bytes){data + at, (size_t)h->bytes[i]};
        at += (size_t)h->bytes[i];
    }
    return at == n;
}

// True if the file is whole and was made for these sources.
static bool is_of(const uint8_t *data, size_t n, struct hash128 source)
{
    struct cache_header h;
    if (n < sizeof h)
        return false;
    memcpy(&h, data, sizeof h);
    struct hash128 whole = whole_hash(&h, data + sizeof h, n - sizeof h);
    return memcmp(h.magic, MAGIC, sizeof MAGIC) == 0 && h.version == CACHE_VERSION &&
           h.source.lo == source.lo && h.source.hi == source.hi && whole.lo == h.whole.lo &&
           whole.hi == h.whole.hi;
}

static bool read_tokens(struct tokenizer_draft *d, const struct sections *s)
{
    struct tokenizer_bytes rows = s->part[SECTION_TOKENS], text = s->part[SECTION_CONTENTS];
    size_t n = rows.n / sizeof(struct cache_token), at = 0;
    if (rows.n % sizeof(struct cache_token) != 0 ||
        tokenizer_draft_reserve_tokens(d, n, NULL) != STATUS_OK)
        return false;
    for (size_t i = 0; i < n; i++) {
        struct cache_token k;
        memcpy(&k, rows.data + i * sizeof k, sizeof k);
        if (k.n > text.n - at || k.type < TOKENIZER_NORMAL || k.type > TOKENIZER_BYTE)
            return false;
        d->tokens[i] = (struct tokenizer_draft_token){.content = {text.data + at, k.n},
            .id = k.id,
            .type = (enum tokenizer_token_type)k.type,
            .score = k.score};
        at += k.n;
    }
    d->n_tokens = n;
    return at == text.n;
}

static bool read_merges(struct tokenizer_draft *d, const struct sections *s)
{
    struct tokenizer_bytes rows = s->part[SECTION_MERGES];
    size_t n = rows.n / sizeof(struct tokenizer_merge);
    if (rows.n % sizeof(struct tokenizer_merge) != 0 ||
        tokenizer_draft_reserve_merges(d, n, NULL) != STATUS_OK)
        return false;
    if (n > 0)
        memcpy(d->merges, rows.data, rows.n);
    d->n_merges = n;
    return true;
}

static bool read_draft(
    struct tokenizer_draft *d, const struct cache_header *h, const struct sections *s)
{
    struct tokenizer_bytes rest = s->part[SECTION_REST];
    if (!read_tokens(d, s) || !read_merges(d, s))
        return false;
    d->rest = json_loadb((const char *)rest.data, rest.n, JSON_ALLOW_NUL, NULL);
    d->sentencepiece = h->flags & FLAG_SENTENCEPIECE;
    d->explicit_ids = h->flags & FLAG_EXPLICIT_IDS;
    d->add_bos = h->flags & FLAG_ADD_BOS;
    d->bos = s->part[SECTION_BOS];
    d->eos = s->part[SECTION_EOS];
    d->normalizer = (struct tokenizer_sentencepiece){
        .add_dummy_prefix = h->flags & FLAG_DUMMY_PREFIX,
        .remove_extra_whitespaces = h->flags & FLAG_REMOVE_EXTRA,
        .escape_whitespaces = h->flags & FLAG_ESCAPE,
        .space_is_suffix = h->flags & FLAG_SUFFIX,
        .prefix_once = h->flags & FLAG_PREFIX_ONCE,
        .charsmap = s->part[SECTION_CHARSMAP],
        .unknown = s->part[SECTION_UNKNOWN],
    };
    return d->rest != NULL;
}

bool tokenizer_cache_unpack(struct tokenizer_draft *d, const uint8_t *data, size_t n)
{
    struct cache_header h;
    struct sections s;
    if (find_sections(data, n, &h, &s) && read_draft(d, &h, &s))
        return true;
    tokenizer_draft_deinit(d);
    tokenizer_draft_init(d);
    return false;
}

bool tokenizer_cache_read(struct tokenizer_draft *d, const char *cache_dir,
    const struct tokenizer_file *files, size_t n_files)
{
    char path[TEXT_FILE_PATH_BYTES];
    struct hash128 source = source_hash(files, n_files);
    size_t n = 0;
    if (!is_worth_it(files, n_files) || !cache_path(path, cache_dir, source))
        return false;
    uint8_t *data = read_own_file(path, &n);
    if (!data || !is_of(data, n, source) || !tokenizer_cache_unpack(d, data, n)) {
        free(data);
        return false;
    }
    d->file = data;
    return true;
}

// ---- writing -------------------------------------------------------------------------------

static void set_flags(struct cache_header *h, const struct tokenizer_draft *d)
{
    const struct tokenizer_sentencepiece *how = &d->normalizer;
    h->flags |= d->sentencepiece ? FLAG_SENTENCEPIECE : 0;
    h->flags |= d->explicit_ids ? FLAG_EXPLICIT_IDS : 0;
    h->flags |= d->add_bos ? FLAG_ADD_BOS : 0;
    h->flags |= how->add_dummy_prefix ? FLAG_DUMMY_PREFIX : 0;
    h->flags |= how->remove_extra_whitespaces ? FLAG_REMOVE_EXTRA : 0;
    h->flags |= how->escape_whitespaces ? FLAG_ESCAPE : 0;
    h->flags |= how->space_is_suffix ? FLAG_SUFFIX : 0;
    h->flags |= how->prefix_once ? FLAG_PREFIX_ONCE : 0;
}

static void append_section(
    struct buf *out, struct cache_header *h, enum section i, struct tokenizer_bytes bytes)
{
    h->bytes[i] = bytes.n;
    if (bytes.n > 0)
        buf_append(out, bytes.data, bytes.n);
}

static void append_tokens(struct buf *out, struct cache_header *h, const struct tokenizer_draft *d)
{
    for (size_t i = 0; i < d->n_tokens; i++) {
        const struct tokenizer_draft_token *k = &d->tokens[i];
        struct cache_token row = {k->id, (uint16_t)k->content.n, (uint16_t)k->type, k->score};
        out->failed |= k->content.n > UINT16_MAX;
        buf_append(out, &row, sizeof row);
        h->bytes[SECTION_CONTENTS] += k->content.n;
    }
    h->bytes[SECTION_TOKENS] = d->n_tokens * sizeof(struct cache_token);
}

bool tokenizer_cache_pack(const struct tokenizer_draft *d, struct hash128 source, struct buf *out)
{
    struct cache_header h = {.version = CACHE_VERSION, .source = source};
    memcpy(h.magic, MAGIC, sizeof MAGIC);
    set_flags(&h, d);
    char *rest = json_dumps(d->rest, JSON_COMPACT);
    if (!rest)
        return false;
    buf_append(out, &h, sizeof h);
    append_tokens(out, &h, d);
    append_section(out, &h, SECTION_MERGES,
        (struct tokenizer_bytes){(const uint8_t *)d->merges, d->n_merges * sizeof *d->merges});
    for (size_t i = 0; i < d->n_tokens; i++)
        buf_append(out, d->tokens[i].content.data, d->tokens[i].content.n);
    append_section(
        out, &h, SECTION_REST, (struct tokenizer_bytes){(const uint8_t *)rest, strlen(rest)});
    free(rest);
    append_section(out, &h, SECTION_CHARSMAP, d->normalizer.charsmap);
    append_section(out, &h, SECTION_UNKNOWN, d->normalizer.unknown);
    append_section(out, &h, SECTION_BOS, d->bos);
    append_section(out, &h, SECTION_EOS, d->eos);
    if (buf_failed(out))
        return false;
    h.whole = whole_hash(&h, out->data + sizeof h, out->size - sizeof h);
    memcpy(out->data, &h, sizeof h);
    return true;
}

static bool write_all(int fd, const uint8_t *data, size_t n)
{
    while (n > 0) {
        ssize_t k = write(fd, data, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        data += k;
        n -= (size_t)k;
    }
    return true;
}

// Makes the folder and those above it, as far as they are missing.
static void make_folders(const char *dir)
{
    char path[TEXT_FILE_PATH_BYTES];
    size_t n = strlen(dir);
    if (n >= sizeof path)
        return;
    for (size_t i = 1; i <= n; i++) {
        if (dir[i] != '/' && dir[i] != '\0')
            continue;
        memcpy(path, dir, i);
        path[i] = '\0';
        mkdir(path, S_IRWXU); // if it cannot be made, the file in it cannot either
    }
}

void tokenizer_cache_write(const struct tokenizer_draft *d, const char *cache_dir,
    const struct tokenizer_file *files, size_t n_files)
{
    char path[TEXT_FILE_PATH_BYTES], draft[TEXT_FILE_PATH_BYTES + 8];
    struct hash128 source = source_hash(files, n_files);
    if (!is_worth_it(files, n_files) || !cache_path(path, cache_dir, source))
        return;
    struct buf out;
    buf_init(&out, CACHE_BYTES_MAX);
    if (tokenizer_cache_pack(d, source, &out)) {
        make_folders(cache_dir);
        snprintf(draft, sizeof draft, "%s.XXXXXX", path);
        int fd = mkostemp(draft, O_CLOEXEC); // for the user alone
        bool ok = fd >= 0 && write_all(fd, out.data, out.size);
        if (fd >= 0)
            ok = close(fd) == 0 && ok && rename(draft, path) == 0;
        if (fd >= 0 && !ok)
            unlink(draft);
    }
    buf_deinit(&out);
}
