// SPDX-License-Identifier: Apache-2.0
#include "tests/model/tokenizer_convert.h"

#include "base/check.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void append_json(const json_t *value, struct buf *out)
{
    char *text = json_dumps(value, JSON_COMPACT);
    check(text);
    buf_append(out, text, strlen(text));
    free(text);
}

void tokenizer_convert_bpe(const json_t *tokenizer, struct buf *vocab, struct buf *merges)
{
    const json_t *model = json_object_get(tokenizer, "model");
    append_json(json_object_get(model, "vocab"), vocab);
    buf_printf(merges, "#version: 0.2\n");
    size_t i;
    json_t *pair;
    json_array_foreach(json_object_get(model, "merges"), i, pair)
    {
        if (json_is_string(pair))
            buf_printf(merges, "%s\n", json_string_value(pair));
        else
            buf_printf(merges, "%s %s\n", json_string_value(json_array_get(pair, 0)),
                json_string_value(json_array_get(pair, 1)));
    }
}

// The byte that stands behind a character of a byte-level vocabulary: GPT-2's table, written down
// once more.
static int byte_of_char(unsigned c)
{
    int next = 0;
    for (int b = 0; b < 256; b++) {
        int printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if ((printable ? (unsigned)b : 256u + (unsigned)next) == c)
            return b;
        next += !printable;
    }
    return -1;
}

static size_t bytes_of(const char *content, uint8_t *out)
{
    size_t n = 0;
    for (const uint8_t *p = (const uint8_t *)content; *p; n++) {
        unsigned c = *p < 0x80 ? p[0] : (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
        p += *p < 0x80 ? 1 : 2;
        int b = byte_of_char(c);
        check(b >= 0);
        out[n] = (uint8_t)b;
    }
    return n;
}

static void append_base64(const uint8_t *in, size_t n, struct buf *out)
{
    static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t bits = (uint32_t)in[i] << 16;
        bits |= i + 1 < n ? (uint32_t)in[i + 1] << 8 : 0;
        bits |= i + 2 < n ? in[i + 2] : 0;
        char four[4] = {
            DIGITS[bits >> 18], DIGITS[bits >> 12 & 63], DIGITS[bits >> 6 & 63], DIGITS[bits & 63]};
        memset(four + (n - i < 3 ? n - i + 1 : 4), '=', n - i < 3 ? 3 - (n - i) : 0);
        buf_append(out, four, 4);
    }
}

void tokenizer_convert_tiktoken(const json_t *tokenizer, struct buf *ranks)
{
    json_t *vocab = json_object_get(json_object_get(tokenizer, "model"), "vocab"), *id;
    json_t *added = json_object(), *one;
    const char *content;
    size_t i;
    static uint8_t bytes[1 << 16];
    json_array_foreach(json_object_get(tokenizer, "added_tokens"), i, one)
        json_object_set_new(added, json_string_value(json_object_get(one, "content")), json_true());
    json_object_foreach(vocab, content, id)
    {
        if (json_object_get(added, content))
            continue;
        append_base64(bytes, bytes_of(content, bytes), ranks);
        buf_printf(ranks, " %lld\n", json_integer_value(id));
    }
    json_decref(added);
}

void tokenizer_convert_config(const json_t *tokenizer, const json_t *more, struct buf *config)
{
    json_t *root = json_deep_copy(more), *decoder = json_object(), *one;
    size_t i;
    json_array_foreach(json_object_get(tokenizer, "added_tokens"), i, one)
    {
        char id[32];
        snprintf(id, sizeof id, "%lld", json_integer_value(json_object_get(one, "id")));
        json_object_set(decoder, id, one);
    }
    json_object_set_new(root, "added_tokens_decoder", decoder);
    append_json(root, config);
    json_decref(root);
}
