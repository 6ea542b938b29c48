// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer_charsmap.h"

#include "base/utf8.h"

#include <string.h>

enum status tokenizer_charsmap_read(
    struct tokenizer_charsmap *m, struct arena *a, const uint8_t *data, size_t n, struct error *err)
{
    uint32_t trie_bytes = 0;
    if (n >= sizeof trie_bytes)
        memcpy(&trie_bytes, data, sizeof trie_bytes); // little-endian hosts only
    if (n < sizeof trie_bytes || trie_bytes > n - sizeof trie_bytes || trie_bytes % 4 != 0 ||
        trie_bytes == 0)
        return status_fail(err, STATUS_INVALID,
            "the tokenizer's precompiled_charsmap of %zu bytes is damaged: its trie would have "
            "%u bytes",
            n, trie_bytes);
    const uint8_t *texts = data + sizeof trie_bytes + trie_bytes;
    size_t n_texts = n - sizeof trie_bytes - trie_bytes;
    if (!utf8_valid(texts, n_texts))
        return status_fail(err, STATUS_INVALID,
            "the tokenizer's precompiled_charsmap is damaged: its texts are not UTF-8");
    uint32_t *units = arena_take(a, trie_bytes);
    uint8_t *copy = arena_take(a, n_texts + 1); // and a zero, whatever the file ends with
    if (!units || !copy)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the tokenizer");
    memcpy(units, data + sizeof trie_bytes, trie_bytes);
    memcpy(copy, texts, n_texts);
    *m = (struct tokenizer_charsmap){units, trie_bytes / 4, copy, n_texts + 1};
    return STATUS_OK;
}

static size_t unit_offset(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & 0x200u) >> 6);
}

// The text that begins at `at`; false for a place that is none.
static bool text_at(
    const struct tokenizer_charsmap *m, uint32_t at, const uint8_t **by, size_t *n_by)
{
    if (at >= m->n_texts || (m->texts[at] & 0xc0) == 0x80)
        return false;
    const uint8_t *end = memchr(m->texts + at, 0, m->n_texts - at);
    *by = m->texts + at;
    *n_by = (size_t)(end - *by);
    return true;
}

size_t tokenizer_charsmap_find(const struct tokenizer_charsmap *m, const uint8_t *text, size_t n,
    bool longest, const uint8_t **by, size_t *n_by)
{
    size_t found = 0;
    if (m->n_units == 0)
        return 0;
    size_t at = unit_offset(m->units[0]);
    for (size_t i = 0; i < n && text[i] != 0; i++) {
        at ^= text[i];
        if (at >= m->n_units)
            break;
        uint32_t unit = m->units[at];
        if ((unit & 0x800000ffu) != text[i])
            break;
        at ^= unit_offset(unit);
        if (!(unit & 0x100u))
            continue;
        if (at >= m->n_units)
            break;
        if (text_at(m, m->units[at] & 0x7fffffffu, by, n_by)) {
            found = i + 1;
            if (!longest)
                break;
        }
    }
    return found;
}

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool tokenizer_charsmap_base64(const char *text, size_t n, uint8_t *out, size_t *n_out)
{
    size_t pad = 0;
    *n_out = 0;
    if (n % 4 != 0)
        return false;
    while (pad < 2 && pad < n && text[n - 1 - pad] == '=')
        pad++;
    for (size_t i = 0; i < n; i += 4) {
        uint32_t bits = 0;
        size_t bytes = i + 4 == n ? 3 - pad : 3;
        for (size_t k = 0; k < 4; k++) {
            int v = k > bytes ? 0 : base64_value(text[i + k]);
            if (v < 0)
                return false;
            bits = bits << 6 | (uint32_t)v;
        }
        for (size_t k = 0; k < bytes; k++)
            out[(*n_out)++] = (uint8_t)(bits >> (16 - 8 * k));
    }
    return true;
}
