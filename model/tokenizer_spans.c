// SPDX-License-Identifier: Apache-2.0
// Parts of a text in which special tokens are not looked for: what clients wrote into a prompt that
// a template made. Most special tokens are found in the text as it is, where a byte's part is
// known. Those that are found in normalized text are counted: if the whole piece has as many as the
// parts between have, none of them touches what clients wrote, and the piece is encoded in one go,
// as if there were no parts. Otherwise it is cut at the borders.
#include "model/tokenizer_internal.h"

size_t tokenizer_spans_room(const struct tokenizer_work *w, const uint8_t *at)
{
    size_t i = (size_t)(at - w->text), low = 0, high = w->n_plain;
    while (low < high) { // the first part that ends behind `i`
        size_t middle = low + (high - low) / 2;
        if (w->plain[middle].end <= i)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == w->n_plain)
        return SIZE_MAX;
    return w->plain[low].begin > i ? w->plain[low].begin - i : 0;
}

static bool any_normalized(const struct tokenizer *t)
{
    for (size_t i = 0; i < t->added.n_items; i++)
        if (t->added.items[i].special && t->added.items[i].normalized)
            return true;
    return false;
}

// Adds how many special tokens a text has when it is normalized alone.
static enum status count(struct tokenizer_work *w, const uint8_t *text, size_t n, size_t *sum)
{
    struct tokenizer_bytes normal;
    struct tokenizer_found f;
    size_t at = 0;
    TRY(tokenizer_normalize(w, (struct tokenizer_bytes){text, n}, &normal));
    while (tokenizer_added_next(w, true, normal.data, normal.n, &at, &f))
        *sum += w->t->tokens[f.id].special;
    return STATUS_OK;
}

// The piece that begins at *at and lies wholly inside of a part, or outside of all; *at is moved
// behind it.
static size_t cut(
    const struct tokenizer_work *w, const uint8_t *text, size_t n, size_t *at, bool *plain)
{
    size_t room = tokenizer_spans_room(w, text + *at), begin = *at;
    *plain = room == 0;
    if (!*plain) {
        *at = room < n - begin ? begin + room : n;
        return begin;
    }
    while (*at < n && tokenizer_spans_room(w, text + *at) == 0)
        ++*at;
    return begin;
}

enum status tokenizer_spans_encode(struct tokenizer_work *w, const uint8_t *text, size_t n,
    bool at_start, tokenizer_spans_rest rest)
{
    if (!any_normalized(w->t))
        return rest(w, text, n, at_start);
    size_t whole = 0, between = 0;
    bool plain;
    TRY(count(w, text, n, &whole));
    for (size_t at = 0; at < n && whole > 0;) {
        size_t begin = cut(w, text, n, &at, &plain);
        if (!plain)
            TRY(count(w, text + begin, at - begin, &between));
    }
    if (whole == between)
        return rest(w, text, n, at_start);
    enum status st = STATUS_OK;
    for (size_t at = 0; at < n && st == STATUS_OK;) {
        size_t begin = cut(w, text, n, &at, &plain);
        w->parse_special = !plain;
        st = rest(w, text + begin, at - begin, at_start && begin == 0);
    }
    w->parse_special = true;
    return st;
}
