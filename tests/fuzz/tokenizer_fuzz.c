// SPDX-License-Identifier: Apache-2.0
// The files of a tokenizer from an enemy, then a text for it: loading gives a tokenizer or a
// sentence; ids are in range and the same when asked twice, and from a cache; decoding gives UTF-8,
// and the same whole, streamed and forked in the middle; a damaged cache does no harm.
//
// The input is a tokenizer.json up to the byte FF, then the text; or files, each behind a line with
// its name and size, and the text behind the last one.
#include "base/check.h"
#include "base/utf8.h"
#include "model/tokenizer_cache.h"
#include "model/tokenizer_load.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { TEXT_MAX = 1 << 16, OUT_MAX = 1 << 26, FILES_MAX = 4 };

// ---- the input -----------------------------------------------------------------------------

struct input {
    struct tokenizer_file file[FILES_MAX];
    size_t n_files;
    const uint8_t *text;
    size_t n_text;
};

// Reads "NAME SIZE\n"; a size beyond the end means all that is left.
static bool read_head(const uint8_t **data, size_t *n, struct tokenizer_file *file)
{
    static const char *const NAMES[] = {"tokenizer.json", "tokenizer.model", "vocab.json",
        "merges.txt", "vocab.txt", "x.tiktoken", "qwen.tiktoken", "tokenizer_config.json",
        "special_tokens_map.json", "added_tokens.json"};
    for (size_t i = 0; i < COUNT_OF(NAMES); i++) {
        size_t length = strlen(NAMES[i]), at = length + 1, size = 0;
        if (*n < length + 2 || memcmp(*data, NAMES[i], length) != 0 || (*data)[length] != ' ')
            continue;
        for (; at < *n && (*data)[at] >= '0' && (*data)[at] <= '9' && size < 1 << 24; at++)
            size = size * 10 + (size_t)((*data)[at] - '0');
        if (at == *n || (*data)[at] != '\n')
            return false;
        at++;
        if (size > *n - at)
            size = *n - at;
        *file = (struct tokenizer_file){NAMES[i], *data + at, size};
        *data += at + size;
        *n -= at + size;
        return true;
    }
    return false;
}

static void read_input(struct input *in, const uint8_t *data, size_t n)
{
    *in = (struct input){0};
    while (in->n_files < FILES_MAX && read_head(&data, &n, &in->file[in->n_files]))
        in->n_files++;
    if (in->n_files == 0) {
        const uint8_t *end = n ? memchr(data, 0xff, n) : NULL;
        size_t n_json = end ? (size_t)(end - data) : n;
        in->file[in->n_files++] = (struct tokenizer_file){"tokenizer.json", data, n_json};
        data += end ? n_json + 1 : n;
        n -= end ? n_json + 1 : n;
    }
    in->text = data;
    in->n_text = n < TEXT_MAX ? n : TEXT_MAX;
}

// ---- what must hold ------------------------------------------------------------------------

static void check_decoding(const struct tokenizer *t, const uint32_t *ids, size_t n, bool skip)
{
    struct buf whole, streamed;
    buf_init(&whole, OUT_MAX);
    buf_init(&streamed, OUT_MAX);
    if (tokenizer_decode(t, ids, n, skip, &whole) == STATUS_OK) {
        struct tokenizer_stream s, fork;
        tokenizer_stream_begin(t, &s, skip, false);
        for (size_t i = 0; i < n; i++) {
            fork = s;
            size_t before = streamed.size;
            check(tokenizer_stream_push(t, &fork, ids[i], &streamed) == STATUS_OK);
            if (streamed.size > before)
                check(utf8_valid(streamed.data + before, streamed.size - before));
            s = fork;
        }
        check(tokenizer_stream_finish(t, &s, &streamed) == STATUS_OK);
        check(whole.size == streamed.size);
        check(whole.size == 0 || memcmp(whole.data, streamed.data, whole.size) == 0);
        check(utf8_valid(whole.data, whole.size));
    }
    buf_deinit(&whole);
    buf_deinit(&streamed);
}

// `again` is the same tokenizer, or one that must say the same.
static void check_encoding(const struct tokenizer *t, const struct tokenizer *again,
    const struct input *in, unsigned flags)
{
    struct tokenizer_ids ids, more;
    struct error err = {0};
    tokenizer_ids_init(&ids, 4 * TEXT_MAX);
    tokenizer_ids_init(&more, 4 * TEXT_MAX);
    enum status st = tokenizer_encode(t, in->text, in->n_text, flags, &ids, &err);
    check(st == STATUS_OK || err.text[0] != '\0');
    check(st == tokenizer_encode(again, in->text, in->n_text, flags, &more, &err));
    check(ids.count == more.count);
    for (size_t i = 0; i < ids.count; i++) {
        size_t length;
        check(ids.data[i] == more.data[i] && ids.data[i] < tokenizer_vocab_size(t));
        check(
            tokenizer_content(t, ids.data[i], &length) && tokenizer_bytes(t, ids.data[i], &length));
    }
    check_decoding(t, ids.data, ids.count, flags & TOKENIZER_PARSE_SPECIAL);
    tokenizer_ids_deinit(&ids);
    tokenizer_ids_deinit(&more);
}

// A tokenizer from the bytes of a cache, or NULL.
static struct tokenizer *from_cache(
    const uint8_t *data, size_t n, const struct tokenizer_side *side)
{
    struct tokenizer_draft d;
    struct tokenizer *t = NULL;
    struct error err = {0};
    tokenizer_draft_init(&d);
    if (tokenizer_cache_unpack(&d, data, n)) {
        t = tokenizer_new();
        check(t);
        if (tokenizer_build(t, &d, &err) == STATUS_OK) {
            tokenizer_side_apply(side, t);
        } else {
            check(err.text[0] != '\0');
            tokenizer_free(t);
            t = NULL;
        }
    }
    tokenizer_draft_deinit(&d);
    return t;
}

static void check_cache(const struct tokenizer *t, const struct input *in)
{
    struct tokenizer_side side;
    struct tokenizer_draft d;
    struct buf packed;
    struct hash128 source = {1, 2};
    buf_init(&packed, OUT_MAX);
    tokenizer_draft_init(&d);
    check(tokenizer_side_read(&side, in->file, in->n_files, NULL) == STATUS_OK);
    check(tokenizer_load_draft(&d, &side, in->file, in->n_files, NULL) == STATUS_OK);
    if (tokenizer_cache_pack(&d, source, &packed)) {
        struct tokenizer *again = from_cache(packed.data, packed.size, &side);
        check(again);
        check_encoding(t, again, in, TOKENIZER_ADD_SPECIAL);
        tokenizer_free(again);
        // Damage where the text says so.
        for (size_t i = 0; i + 2 < in->n_text && i < 12; i += 3)
            packed.data[(in->text[i] * 251u + in->text[i + 1]) % packed.size] ^= in->text[i + 2];
        again = from_cache(packed.data, packed.size, &side);
        if (again)
            check_encoding(again, again, in, TOKENIZER_PARSE_SPECIAL);
        tokenizer_free(again);
    }
    tokenizer_draft_deinit(&d);
    tokenizer_side_free(&side);
    buf_deinit(&packed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct input in;
    struct tokenizer *t = NULL;
    struct error err = {0};
    read_input(&in, data, n);
    if (tokenizer_load_files(in.file, in.n_files, &t, &err) != STATUS_OK) {
        check(!t && err.text[0] != '\0');
        return 0;
    }
    check_encoding(t, t, &in, TOKENIZER_PARSE_SPECIAL);
    check_encoding(t, t, &in, TOKENIZER_ADD_SPECIAL);
    check_cache(t, &in);
    uint32_t ids[256]; // any ids at all, taken from the text
    size_t n_ids = in.n_text < 256 ? in.n_text : 256;
    for (size_t i = 0; i < n_ids; i++)
        ids[i] = in.text[i] % (tokenizer_vocab_size(t) + 1);
    check_decoding(t, ids, n_ids, false);
    tokenizer_free(t);
    return 0;
}
