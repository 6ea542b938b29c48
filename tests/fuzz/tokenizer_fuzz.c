// SPDX-License-Identifier: Apache-2.0
// A tokenizer.json from an enemy, then the byte FF, then a text for it: loading gives a tokenizer
// or a sentence; ids are in range and the same when asked twice; decoding gives UTF-8, and the same
// whole, streamed and forked in the middle.
#include "base/check.h"
#include "base/utf8.h"
#include "model/tokenizer.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { TEXT_MAX = 1 << 16, OUT_MAX = 1 << 26 };

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
    }
    buf_deinit(&whole);
    buf_deinit(&streamed);
}

static void check_encoding(const struct tokenizer *t, const uint8_t *text, size_t n, unsigned flags)
{
    struct tokenizer_ids ids, again;
    struct error err = {0};
    tokenizer_ids_init(&ids, 4 * TEXT_MAX);
    tokenizer_ids_init(&again, 4 * TEXT_MAX);
    enum status st = tokenizer_encode(t, text, n, flags, &ids, &err);
    check(st == STATUS_OK || err.text[0] != '\0');
    check(st == tokenizer_encode(t, text, n, flags, &again, &err));
    check(ids.count == again.count);
    for (size_t i = 0; i < ids.count; i++) {
        size_t length;
        check(ids.data[i] == again.data[i] && ids.data[i] < tokenizer_vocab_size(t));
        check(
            tokenizer_content(t, ids.data[i], &length) && tokenizer_bytes(t, ids.data[i], &length));
    }
    check_decoding(t, ids.data, ids.count, flags & TOKENIZER_PARSE_SPECIAL);
    tokenizer_ids_deinit(&ids);
    tokenizer_ids_deinit(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *end = n ? memchr(data, 0xff, n) : NULL;
    size_t n_json = end ? (size_t)(end - data) : n;
    const uint8_t *text = data + (end ? n_json + 1 : 0);
    size_t n_text = end ? n - n_json - 1 : n;
    struct tokenizer *t = NULL;
    struct error err = {0};
    if (tokenizer_load_memory(data, n_json, &t, &err) != STATUS_OK) {
        check(!t && err.text[0] != '\0');
        return 0;
    }
    if (n_text > TEXT_MAX)
        n_text = TEXT_MAX;
    check_encoding(t, text, n_text, TOKENIZER_PARSE_SPECIAL);
    check_encoding(t, text, n_text, TOKENIZER_ADD_SPECIAL);
    uint32_t ids[256]; // any ids at all, taken from the text
    size_t n_ids = n_text < 256 ? n_text : 256;
    for (size_t i = 0; i < n_ids; i++)
        ids[i] = text[i] % (tokenizer_vocab_size(t) + 1);
    check_decoding(t, ids, n_ids, false);
    tokenizer_free(t);
    return 0;
}
