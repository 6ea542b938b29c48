// SPDX-License-Identifier: Apache-2.0
// Draft -> struct tokenizer: tables, and everything that the small document says.
#include "base/utf8.h"
#include "model/tokenizer_draft.h"
#include "model/tokenizer_json.h"
#include "model/tokenizer_parse.h"

#include <math.h>
#include <string.h>

static enum status no_memory(struct error *err)
{
    return status_fail(err, STATUS_NO_MEMORY, "out of memory for the tokenizer");
}

// ---- tokens --------------------------------------------------------------------------------

static enum status check_token(const struct tokenizer_draft_token *k, struct error *err)
{
    size_t n = k->content.n;
    if (n > TOKENIZER_TOKEN_BYTES_MAX || k->id >= TOKENIZER_VOCAB_MAX || !isfinite(k->score))
        return status_fail(err, STATUS_INVALID,
            "the tokenizer's token \"%.*s\" must have at most %zu bytes, an id below %u and a "
            "finite score",
            (int)(n < 32 ? n : 32), (const char *)k->content.data, TOKENIZER_TOKEN_BYTES_MAX,
            TOKENIZER_VOCAB_MAX);
    if (!utf8_valid(k->content.data, n))
        return status_fail(
            err, STATUS_INVALID, "the tokenizer's token %u is not valid UTF-8", k->id);
    return STATUS_OK;
}

// SentencePiece keeps its special pieces apart and asks for them first.
static bool is_reserved(enum tokenizer_token_type type)
{
    return type == TOKENIZER_UNKNOWN || type == TOKENIZER_CONTROL || type == TOKENIZER_BYTE;
}

// Contents move into the arena, all in one block, in the draft's order. Of equal contents the last
// one counts, but SentencePiece's special pieces before all others. *n_ids becomes one more than
// the highest id.
static enum status make_vocab(struct tokenizer *t, const struct tokenizer_draft *d,
    struct tokenizer_bytes *contents, uint32_t *n_ids, struct error *err)
{
    size_t bytes = 0;
    for (size_t i = 0; i < d->n_tokens; i++) {
        TRY(check_token(&d->tokens[i], err));
        bytes += d->tokens[i].content.n + 1;
        if (d->tokens[i].id >= *n_ids)
            *n_ids = d->tokens[i].id + 1;
    }
    uint8_t *at = arena_take(&t->arena, bytes);
    if (!at || !tokenizer_table_texts_init(&t->vocab, &t->arena, t->key, d->n_tokens))
        return no_memory(err);
    *contents = (struct tokenizer_bytes){at, bytes};
    for (size_t i = 0; i < d->n_tokens; i++) {
        const struct tokenizer_draft_token *k = &d->tokens[i];
        memcpy(at, k->content.data, k->content.n);
        at += k->content.n + 1;
    }
    for (int reserved = 1; reserved >= 0; reserved--) {
        const uint8_t *end = at;
        for (size_t i = d->n_tokens; i-- > 0;) {
            const struct tokenizer_draft_token *k = &d->tokens[i];
            end -= k->content.n + 1;
            if (is_reserved(k->type) == (reserved != 0))
                tokenizer_table_texts_put(&t->vocab, end, k->content.n, k->id);
        }
    }
    t->n_vocab = d->n_tokens;
    return STATUS_OK;
}

// ---- added tokens --------------------------------------------------------------------------

static enum status read_added(struct tokenizer *t, const json_t *value, bool explicit_ids,
    struct tokenizer_added *out, struct error *err)
{
    static const char WHERE[] = "tokenizer.json: added_tokens";
    struct tokenizer_added a = {.id = TOKENIZER_NONE};
    json_int_t id = json_integer_value(json_object_get(value, "id"));
    if (explicit_ids && id >= 0 && id < (json_int_t)TOKENIZER_VOCAB_MAX)
        a.id = (uint32_t)id;
    TRY(tokenizer_json_text(value, "content", WHERE, &a.content, err));
    TRY(tokenizer_json_bool(value, "special", WHERE, false, &a.special, err));
    TRY(tokenizer_json_bool(value, "single_word", WHERE, false, &a.single_word, err));
    TRY(tokenizer_json_bool(value, "lstrip", WHERE, false, &a.lstrip, err));
    TRY(tokenizer_json_bool(value, "rstrip", WHERE, false, &a.rstrip, err));
    TRY(tokenizer_json_bool(value, "normalized", WHERE, !a.special, &a.normalized, err));
    if (a.content.n > TOKENIZER_ADDED_BYTES_MAX)
        return status_fail(err, STATUS_TOO_LARGE, "%s: a content is longer than %d bytes", WHERE,
            TOKENIZER_ADDED_BYTES_MAX);
    TRY(tokenizer_json_keep(t, &a.content, err));
    *out = a;
    return STATUS_OK;
}

// The id of an added token is that of the vocabulary or, as in the reference, the next one above
// everything so far, whatever tokenizer.json says (files that it wrote say the same).
static uint32_t added_id(
    const struct tokenizer *t, struct tokenizer_bytes content, uint32_t explicit, uint32_t highest)
{
    uint32_t id = tokenizer_table_texts_get(&t->vocab, content.data, content.n);
    if (id != TOKENIZER_NONE)
        return id;
    if (explicit != TOKENIZER_NONE)
        return explicit;
    if (highest != TOKENIZER_NONE && (highest >= t->n_vocab || t->n_vocab == 0))
        return highest + 1;
    return (uint32_t)t->n_vocab;
}

// A content that comes twice is one token with the last one's properties; it stays special.
static void added_put(
    struct tokenizer *t, const struct tokenizer_added *a, uint32_t *highest, uint32_t *n_ids)
{
    struct tokenizer_added_set *set = &t->added;
    uint32_t at = tokenizer_table_texts_get(&set->by_content, a->content.data, a->content.n);
    if (at != TOKENIZER_NONE) {
        struct tokenizer_added *old = &set->items[at];
        uint32_t id = old->id;
        bool special = old->special || a->special;
        *old = *a;
        old->id = id;
        old->special = special;
        return;
    }
    uint32_t id = added_id(t, a->content, a->id, *highest);
    tokenizer_table_texts_put(
        &set->by_content, a->content.data, a->content.n, (uint32_t)set->n_items);
    set->items[set->n_items] = *a;
    set->items[set->n_items++].id = id;
    if (*highest == TOKENIZER_NONE || id > *highest)
        *highest = id;
    if (id >= *n_ids)
        *n_ids = id + 1;
}

static enum status read_added_tokens(
    struct tokenizer *t, const struct tokenizer_draft *d, uint32_t *n_ids, struct error *err)
{
    const json_t *list = json_object_get(d->rest, "added_tokens");
    size_t n = json_array_size(list);
    uint32_t highest = d->explicit_ids && *n_ids > 0 ? *n_ids - 1 : TOKENIZER_NONE;
    if (list && !json_is_null(list) && !json_is_array(list))
        return status_fail(err, STATUS_INVALID, "tokenizer.json: \"added_tokens\" must be a list");
    if (n > TOKENIZER_VOCAB_MAX - *n_ids && !d->explicit_ids)
        return status_fail(err, STATUS_TOO_LARGE,
            "tokenizer.json: more than %u tokens with the %zu added ones", TOKENIZER_VOCAB_MAX, n);
    t->added.items = arena_array(&t->arena, n + 1, sizeof *t->added.items);
    if (!t->added.items || !tokenizer_table_texts_init(&t->added.by_content, &t->arena, t->key, n))
        return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        struct tokenizer_added a;
        TRY(read_added(t, json_array_get(list, i), d->explicit_ids, &a, err));
        if (a.content.n > 0)
            added_put(t, &a, &highest, n_ids);
    }
    return STATUS_OK;
}

// The array by id.
static enum status make_tokens(struct tokenizer *t, const struct tokenizer_draft *d,
    struct tokenizer_bytes contents, uint32_t n_ids, struct error *err)
{
    const uint8_t *at = contents.data;
    t->tokens = arena_array(&t->arena, (size_t)n_ids + 1, sizeof *t->tokens);
    if (!t->tokens)
        return no_memory(err);
    t->n_ids = n_ids;
    for (size_t i = 0; i < d->n_tokens; i++) {
        const struct tokenizer_draft_token *k = &d->tokens[i];
        if (t->tokens[k->id].content.data)
            return status_fail(err, STATUS_INVALID,
                "two tokens of the tokenizer's vocabulary have the id %u", k->id);
        t->tokens[k->id].content = (struct tokenizer_bytes){at, k->content.n};
        at += k->content.n + 1;
    }
    for (size_t i = 0; i < t->added.n_items; i++) {
        const struct tokenizer_added *a = &t->added.items[i];
        t->tokens[a->id].content = a->content;
        t->tokens[a->id].special = a->special;
    }
    return STATUS_OK;
}

// ---- all of it -----------------------------------------------------------------------------

enum status tokenizer_build(struct tokenizer *t, const struct tokenizer_draft *d, struct error *err)
{
    const json_t *rest = d->rest;
    struct tokenizer_bytes contents = {0};
    uint32_t n_ids = 0;
    TRY(make_vocab(t, d, &contents, &n_ids, err));
    TRY(read_added_tokens(t, d, &n_ids, err));
    TRY(make_tokens(t, d, contents, n_ids, err));
    if (d->sentencepiece) {
        TRY(tokenizer_build_frozen(t, d, err));
        TRY(tokenizer_parse_sentencepiece(t, &d->normalizer, err));
    } else {
        TRY(tokenizer_parse_normalizer(t, json_object_get(rest, "normalizer"), err));
    }
    TRY(tokenizer_parse_pre_tokenizer(t, json_object_get(rest, "pre_tokenizer"), err));
    TRY(tokenizer_build_model(t, d, contents.n, err));
    TRY(tokenizer_parse_post_processor(t, json_object_get(rest, "post_processor"), err));
    TRY(d->sentencepiece ? tokenizer_parse_decoder_sentencepiece(t, &d->normalizer, err)
                         : tokenizer_parse_decoder(t, json_object_get(rest, "decoder"), err));
    if (d->bos.n > 0)
        t->bos = tokenizer_id(t, d->bos.data, d->bos.n);
    if (d->eos.n > 0)
        t->eos = tokenizer_id(t, d->eos.data, d->eos.n);
    t->add_bos = d->add_bos;
    struct tokenizer_work w;
    tokenizer_work_init(&w, t, NULL, err);
    enum status st = tokenizer_added_build(t, &w);
    tokenizer_work_deinit(&w);
    return st;
}
