// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer.h"

#include "base/check.h"
#include "base/utf8.h"
#include "model/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

// ---- lists of ids --------------------------------------------------------------------------

void tokenizer_ids_init(struct tokenizer_ids *ids, size_t count_max)
{
    *ids = (struct tokenizer_ids){.count_max = count_max};
}

void tokenizer_ids_deinit(struct tokenizer_ids *ids)
{
    free(ids->data);
    *ids = (struct tokenizer_ids){.count_max = ids->count_max};
}

static enum status ids_grow(struct tokenizer_ids *ids, struct error *err)
{
    if (ids->count >= ids->count_max)
        return status_fail(
            err, STATUS_TOO_LARGE, "the text has more than %zu tokens", ids->count_max);
    size_t capacity = ids->capacity ? ids->capacity * 2 : 64;
    if (capacity > ids->count_max)
        capacity = ids->count_max;
    uint32_t *data = realloc(ids->data, capacity * sizeof *data);
    if (!data)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for %zu token ids", capacity);
    ids->data = data;
    ids->capacity = capacity;
    return STATUS_OK;
}

// ---- life cycle ----------------------------------------------------------------------------

struct tokenizer *tokenizer_new(void)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    arena_init(&t->arena, TOKENIZER_ARENA_BYTES_MAX);
    t->bos = t->eos = TOKENIZER_NONE;
    t->key = tokenizer_table_random_key();
    return t;
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < TOKENIZER_STEPS_MAX; i++) {
        tokenizer_pattern_deinit(&t->steps[i].pattern);
        tokenizer_pattern_deinit(&t->stages[i].pattern);
    }
    arena_reset(&t->arena);
    free(t);
}

// ---- lookups -------------------------------------------------------------------------------

uint32_t tokenizer_vocab_size(const struct tokenizer *t)
{
    return t->n_ids;
}

uint32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

uint32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

uint32_t tokenizer_id(const struct tokenizer *t, const void *content, size_t n)
{
    uint32_t item = tokenizer_table_texts_get(&t->added.by_content, content, n);
    if (item != TOKENIZER_NONE)
        return t->added.items[item].id;
    return tokenizer_table_texts_get(&t->vocab, content, n);
}

const char *tokenizer_content(const struct tokenizer *t, uint32_t id, size_t *n)
{
    if (id >= t->n_ids || !t->tokens[id].content.data)
        return NULL;
    *n = t->tokens[id].content.n;
    return (const char *)t->tokens[id].content.data;
}

const uint8_t *tokenizer_bytes(const struct tokenizer *t, uint32_t id, size_t *n)
{
    if (id >= t->n_ids || !t->tokens[id].content.data)
        return NULL;
    *n = t->tokens[id].bytes.n;
    return t->tokens[id].bytes.data;
}

bool tokenizer_is_special(const struct tokenizer *t, uint32_t id)
{
    return id < t->n_ids && t->tokens[id].special;
}

// ---- encoding ------------------------------------------------------------------------------

void tokenizer_work_init(struct tokenizer_work *w, const struct tokenizer *t,
    struct tokenizer_ids *ids, struct error *err)
{
    // Prepending and replacing make a text longer, and byte-level characters twice as long.
    const size_t size_max = TOKENIZER_TEXT_BYTES_MAX * 4;
    *w = (struct tokenizer_work){.t = t, .ids = ids, .err = err};
    for (size_t i = 0; i < COUNT_OF(w->normal); i++)
        buf_init(&w->normal[i], size_max);
    for (size_t i = 0; i < t->n_stages; i++)
        buf_init(&w->stage[i], size_max);
}

void tokenizer_work_deinit(struct tokenizer_work *w)
{
    for (size_t i = 0; i < COUNT_OF(w->normal); i++)
        buf_deinit(&w->normal[i]);
    for (size_t i = 0; i < w->t->n_stages; i++)
        buf_deinit(&w->stage[i]);
    tokenizer_pattern_matcher_deinit(&w->matcher);
    free(w->symbols);
    free(w->heap);
    free(w->path);
}

enum status tokenizer_work_emit(struct tokenizer_work *w, uint32_t id)
{
    struct tokenizer_ids *ids = w->ids;
    if (ids->count == ids->capacity)
        TRY(ids_grow(ids, w->err));
    ids->data[ids->count++] = id;
    return STATUS_OK;
}

typedef enum status (*between)(
    struct tokenizer_work *w, const uint8_t *text, size_t n, bool at_start);

// Emits the added tokens of a text and hands what lies between them to `rest`. As in the
// reference, a token that strips on its right may reach over tokens that follow; those come out
// nevertheless, unless they strip on their left and have nothing left.
static enum status cut_added(struct tokenizer_work *w, bool normalized, const uint8_t *text,
    size_t n, bool at_start, between rest)
{
    size_t at = 0, done = 0;
    struct tokenizer_found f;
    while (tokenizer_added_next(w, normalized, text, n, &at, &f)) {
        if (f.lstrip && f.start < done)
            f.start = done;
        if (done < f.start)
            TRY(rest(w, text + done, f.start - done, at_start && done == 0));
        if (f.start < f.end)
            TRY(tokenizer_work_emit(w, f.id));
        done = f.end;
    }
    return done < n ? rest(w, text + done, n - done, at_start && done == 0) : STATUS_OK;
}

static enum status encode_normalized(
    struct tokenizer_work *w, const uint8_t *text, size_t n, bool at_start)
{
    return tokenizer_split(w, 0, text, n, at_start);
}

static enum status encode_piece(
    struct tokenizer_work *w, const uint8_t *text, size_t n, bool at_start)
{
    struct tokenizer_bytes normal;
    w->at_start = at_start;
    TRY(tokenizer_normalize(w, (struct tokenizer_bytes){text, n}, &normal));
    at_start = at_start && !w->start_gone;
    if (normal.n == 0)
        return STATUS_OK;
    return cut_added(w, true, normal.data, normal.n, at_start, encode_normalized);
}

static enum status encode_raw(
    struct tokenizer_work *w, const uint8_t *text, size_t n, bool at_start)
{
    return w->n_plain ? tokenizer_spans_encode(w, text, n, at_start, encode_piece)
                      : encode_piece(w, text, n, at_start);
}

static enum status emit_around(struct tokenizer_work *w, const struct tokenizer_around *a)
{
    for (size_t i = 0; i < a->n; i++)
        TRY(tokenizer_work_emit(w, a->ids[i]));
    return STATUS_OK;
}

static enum status encode(struct tokenizer_work *w, const uint8_t *text, size_t n, unsigned flags)
{
    w->parse_special = flags & TOKENIZER_PARSE_SPECIAL;
    if (flags & TOKENIZER_ADD_SPECIAL)
        TRY(emit_around(w, &w->t->before));
    TRY(cut_added(w, false, text, n, true, encode_raw));
    return flags & TOKENIZER_ADD_SPECIAL ? emit_around(w, &w->t->after) : STATUS_OK;
}

// Where `text` stops being UTF-8, or n.
static size_t first_invalid(const uint8_t *text, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (n - i >= sizeof eight) {
            memcpy(&eight, text + i, sizeof eight);
            if (!(eight & 0x8080808080808080u)) {
                i += sizeof eight;
                continue;
            }
        }
        int k = utf8_length(text + i, n - i, NULL);
        if (k <= 0)
            return i;
        i += (size_t)k;
    }
    return n;
}

enum status tokenizer_encode_marked(const struct tokenizer *t, const struct tokenizer_marked *text,
    unsigned flags, struct tokenizer_ids *ids, struct error *err)
{
    if (text->n > TOKENIZER_TEXT_BYTES_MAX)
        return status_fail(err, STATUS_TOO_LARGE, "the text has %zu bytes, at most %zu are taken",
            text->n, TOKENIZER_TEXT_BYTES_MAX);
    size_t bad = first_invalid(text->data, text->n);
    if (bad != text->n)
        return status_fail(err, STATUS_INVALID, "the text is not valid UTF-8 at byte %zu", bad);
    size_t count = ids->count;
    struct tokenizer_work w;
    tokenizer_work_init(&w, t, ids, err);
    w.text = text->data;
    w.plain = text->plain;
    w.n_plain = flags & TOKENIZER_PARSE_SPECIAL ? text->n_plain : 0;
    enum status st = encode(&w, text->data, text->n, flags);
    tokenizer_work_deinit(&w);
    if (st != STATUS_OK)
        ids->count = count;
    return st;
}

enum status tokenizer_encode(const struct tokenizer *t, const void *text, size_t n, unsigned flags,
    struct tokenizer_ids *ids, struct error *err)
{
    return tokenizer_encode_marked(
        t, &(struct tokenizer_marked){.data = text, .n = n}, flags, ids, err);
}
