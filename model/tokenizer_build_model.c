// SPDX-License-Identifier: Apache-2.0
// The tables of the models, from a draft.
#include "model/tokenizer_draft.h"
#include "model/tokenizer_json.h"
#include "model/unicode.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define UNKNOWN_PENALTY 10.0 // below the lowest score, as in the reference

static enum status no_memory(struct error *err)
{
    return status_fail(err, STATUS_NO_MEMORY, "out of memory for the tokenizer");
}

// ---- words of BPE --------------------------------------------------------------------------

// ByteLevel's characters to bytes; false if one is none of the 256 (no word ever has it).
static bool to_bytes(const struct tokenizer_table_key *k, uint8_t *out, size_t *n)
{
    *n = 0;
    for (size_t i = 0, length; i < k->n; i += length) {
        int byte =
            tokenizer_split_char_byte(unicode_decode(k->text + i, (size_t)k->n - i, &length));
        if (byte < 0)
            return false;
        out[(*n)++] = (uint8_t)byte;
    }
    return true;
}

// Words that differ from their contents lie one behind the other at *to, which has room.
static void add_byte_word(struct tokenizer *t, const struct tokenizer_table_key *k, uint8_t **to)
{
    struct tokenizer_bpe *b = &t->bpe;
    size_t n;
    if (!to_bytes(k, *to, &n))
        return;
    if (n == 1)
        b->byte_id[(*to)[0]] = k->id;
    if (n > b->word_bytes_max)
        b->word_bytes_max = n;
    tokenizer_table_texts_put(&b->words, *to, n, k->id);
    *to += n;
}

static void add_char_word(struct tokenizer *t, const struct tokenizer_table_key *k)
{
    struct tokenizer_bpe *b = &t->bpe;
    size_t length = 0;
    uint32_t c = k->n > 0 ? unicode_decode(k->text, k->n, &length) : 0;
    if (k->n > 0 && length == k->n && c < 0x10000)
        b->char_id[c] = k->id;
    if (k->n > b->word_bytes_max)
        b->word_bytes_max = k->n;
}

// The vocabulary as the model sees it. A last stage that only spells bytes as characters is left
// out: the model then works on bytes.
static enum status make_words(struct tokenizer *t, size_t content_bytes, struct error *err)
{
    struct tokenizer_bpe *b = &t->bpe;
    memset(b->byte_id, 0xff, sizeof b->byte_id);
    b->raw_bytes = t->n_stages > 0 && t->stages[t->n_stages - 1].kind == TOKENIZER_STAGE_BYTES &&
                   b->prefix.n + b->suffix.n == 0;
    b->char_id = arena_array(&t->arena, 0x10000, sizeof *b->char_id);
    b->whole = arena_array(&t->arena, (size_t)t->n_ids + 1, sizeof *b->whole);
    if (!b->char_id || !b->whole)
        return no_memory(err);
    memset(b->char_id, 0xff, 0x10000 * sizeof *b->char_id);
    b->words = t->vocab;
    uint8_t *to = NULL;
    if (b->raw_bytes) {
        t->n_stages--;
        to = arena_take(&t->arena, content_bytes);
        if (!to || !tokenizer_table_texts_init(&b->words, &t->arena, t->key, t->n_vocab))
            return no_memory(err);
    }
    for (size_t i = 0; i <= t->vocab.mask; i++) {
        const struct tokenizer_table_key *k = &t->vocab.slots[i];
        if (!k->text)
            continue;
        if (b->raw_bytes)
            add_byte_word(t, k, &to);
        else
            add_char_word(t, k);
    }
    return STATUS_OK;
}

// ---- merges --------------------------------------------------------------------------------

// Notes the bytes before each U+2581 that stands inside of a token, unless it continues a run.
static void note_glue(struct tokenizer_bpe *b, struct tokenizer_bytes text)
{
    static const uint8_t META[] = TOKENIZER_META;
    for (size_t i = 1; i + 3 <= text.n; i++) {
        const uint8_t *p = text.data + i;
        if (p[0] == META[0] && memcmp(p, META, 3) == 0 && (i < 3 || memcmp(p - 3, META, 3) != 0))
            b->glue[p[-1]] = true;
    }
}

// True if no character of a text is lost: what is lost brings its neighbours together.
static bool keeps_all(const struct tokenizer *t)
{
    bool all_bytes = t->byte_fallback;
    for (size_t i = 0; i < 256; i++)
        all_bytes = all_bytes && t->fallback_id[i] != TOKENIZER_NONE;
    return all_bytes || t->unk != TOKENIZER_NONE;
}

// The contents of tokens that stand for something else say nothing about the text.
static bool is_stand_in(const struct tokenizer *t, uint32_t id)
{
    if (id == t->unk)
        return true;
    const struct tokenizer_bytes *c = &t->tokens[id].content;
    bool found = false;
    for (size_t i = 0; t->byte_fallback && c->n == 6 && c->data[0] == '<' && i < 256; i++)
        found |= t->fallback_id[i] == id;
    return found;
}

static enum status add_merge(
    struct tokenizer *t, const struct tokenizer_merge *m, struct error *err)
{
    const uint32_t ids[] = {m->a, m->b, m->id};
    for (size_t i = 0; i < 3; i++) {
        if (ids[i] >= t->n_ids || !t->tokens[ids[i]].content.data)
            return status_fail(err, STATUS_INVALID,
                "a merge of the tokenizer names the id %u, which is no token's", ids[i]);
    }
    if (m->rank == UINT32_MAX)
        return status_fail(err, STATUS_INVALID, "a merge of the tokenizer has no rank");
    tokenizer_table_pairs_put(&t->bpe.pairs, m);
    if (!t->bpe.cut_meta)
        return STATUS_OK;
    note_glue(&t->bpe, t->tokens[m->id].content);
    if (is_stand_in(t, m->a) || is_stand_in(t, m->b))
        t->bpe.cut_meta = false;
    return STATUS_OK;
}

static enum status make_merges(
    struct tokenizer *t, const struct tokenizer_draft *d, struct error *err)
{
    struct tokenizer_bpe *b = &t->bpe;
    if (!tokenizer_table_pairs_init(&b->pairs, &t->arena, t->key, d->n_merges))
        return no_memory(err);
    b->cut_meta = !b->raw_bytes && b->char_id[0x2581] != TOKENIZER_NONE && keeps_all(t) &&
                  b->prefix.n + b->suffix.n == 0;
    for (size_t i = 0; i < d->n_merges; i++)
        TRY(add_merge(t, &d->merges[i], err));
    for (uint32_t id = 0; b->ignore_merges && b->cut_meta && id < t->n_ids; id++)
        note_glue(b, t->tokens[id].content);
    return STATUS_OK;
}

// ---- models --------------------------------------------------------------------------------

static const char MODEL[] = "tokenizer.json: model";

// An optional short text that a model writes before or behind characters.
static enum status read_affix(struct tokenizer *t, const json_t *model, const char *field,
    struct tokenizer_bytes *out, struct error *err)
{
    const json_t *v = json_object_get(model, field);
    if (!v || json_is_null(v))
        return STATUS_OK;
    TRY(tokenizer_json_text(model, field, MODEL, out, err));
    if (out->n > TOKENIZER_AFFIX_BYTES_MAX)
        return status_fail(err, STATUS_TOO_LARGE, "%s: \"%s\" is longer than %d bytes", MODEL,
            field, TOKENIZER_AFFIX_BYTES_MAX);
    return tokenizer_json_keep(t, out, err);
}

static void find_fallback(struct tokenizer *t)
{
    for (unsigned i = 0; i < 256; i++) {
        char name[8];
        int n = snprintf(name, sizeof name, "<0x%02X>", i);
        t->fallback_id[i] = tokenizer_table_texts_get(&t->vocab, name, (size_t)n);
    }
}

static enum status build_bpe(struct tokenizer *t, const struct tokenizer_draft *d,
    const json_t *model, size_t content_bytes, struct error *err)
{
    struct tokenizer_bpe *b = &t->bpe;
    if (json_number_value(json_object_get(model, "dropout")) != 0.0)
        return status_fail(err, STATUS_UNSUPPORTED,
            "%s: \"dropout\" makes results random and is not supported", MODEL);
    TRY(tokenizer_json_bool(model, "fuse_unk", MODEL, false, &b->fuse_unk, err));
    TRY(tokenizer_json_bool(model, "ignore_merges", MODEL, false, &b->ignore_merges, err));
    TRY(read_affix(t, model, "continuing_subword_prefix", &b->prefix, err));
    TRY(read_affix(t, model, "end_of_word_suffix", &b->suffix, err));
    if (t->byte_fallback && b->prefix.n + b->suffix.n > 0)
        return status_fail(err, STATUS_UNSUPPORTED,
            "%s: \"byte_fallback\" is not supported together with \"continuing_subword_prefix\" "
            "or \"end_of_word_suffix\"",
            MODEL);
    TRY(make_words(t, content_bytes, err));
    return make_merges(t, d, err);
}

// A user-defined piece that tokenizer_config.json calls special is found with the special tokens,
// when they are looked for, and not by the model.
static bool is_special(const struct tokenizer *t, struct tokenizer_bytes content)
{
    uint32_t item = tokenizer_table_texts_get(&t->added.by_content, content.data, content.n);
    return item != TOKENIZER_NONE && t->added.items[item].special;
}

// The tokens that a model may find in a text, by their contents.
static enum status make_prefixes(struct tokenizer *t, const struct tokenizer_draft *d,
    bool (*wanted)(enum tokenizer_token_type), struct tokenizer_prefixes *out, struct error *err)
{
    struct arena scratch;
    arena_init(&scratch, TOKENIZER_ARENA_BYTES_MAX);
    struct tokenizer_prefix_token *list = arena_array(&scratch, d->n_tokens + 1, sizeof *list);
    size_t n = 0;
    for (size_t i = 0; list && i < d->n_tokens; i++) {
        const struct tokenizer_draft_token *k = &d->tokens[i];
        if (k->type == TOKENIZER_USER_DEFINED && is_special(t, k->content))
            continue;
        if (k->content.n > 0 && wanted(k->type))
            list[n++] = (struct tokenizer_prefix_token){k->content.data, k->content.n, k->id};
    }
    bool ok = list && tokenizer_prefix_init(out, &t->arena, t->key, list, n);
    arena_reset(&scratch);
    return ok ? STATUS_OK : no_memory(err);
}

static bool is_piece(enum tokenizer_token_type type)
{
    return type == TOKENIZER_NORMAL || type == TOKENIZER_USER_DEFINED;
}

static bool is_user_defined(enum tokenizer_token_type type)
{
    return type == TOKENIZER_USER_DEFINED;
}

enum status tokenizer_build_frozen(
    struct tokenizer *t, const struct tokenizer_draft *d, struct error *err)
{
    return make_prefixes(t, d, is_user_defined, &t->frozen, err);
}

// SentencePiece makes user-defined pieces win over every other way.
static void make_scores(struct tokenizer *t, const struct tokenizer_draft *d)
{
    struct tokenizer_unigram *u = &t->unigram;
    double lowest = INFINITY, highest = 0;
    for (size_t i = 0; i < d->n_tokens; i++) {
        const struct tokenizer_draft_token *k = &d->tokens[i];
        u->score[k->id] = k->score;
        if (k->type == TOKENIZER_NORMAL && k->score < lowest)
            lowest = k->score;
        if (k->type == TOKENIZER_NORMAL && k->score > highest)
            highest = k->score;
    }
    u->unk_score = lowest - UNKNOWN_PENALTY;
    for (size_t i = 0; i < d->n_tokens; i++) {
        const struct tokenizer_draft_token *k = &d->tokens[i];
        if (k->type == TOKENIZER_USER_DEFINED)
            u->score[k->id] = (double)((float)k->content.n * (float)highest) - 0.1;
    }
}

static enum status build_unigram(
    struct tokenizer *t, const struct tokenizer_draft *d, const json_t *model, struct error *err)
{
    const json_t *unk = json_object_get(model, "unk_id");
    if (unk && !json_is_null(unk)) {
        json_int_t v = json_is_integer(unk) ? json_integer_value(unk) : -1;
        if (v < 0 || v >= t->n_ids || !t->tokens[v].content.data)
            return status_fail(
                err, STATUS_INVALID, "%s: \"unk_id\" must be the id of a token", MODEL);
        t->unk = (uint32_t)v;
    }
    if (d->n_tokens == 0)
        return status_fail(err, STATUS_INVALID, "%s: the vocabulary is empty", MODEL);
    t->unigram.sentencepiece = d->sentencepiece;
    t->unigram.score = arena_array(&t->arena, (size_t)t->n_ids + 1, sizeof *t->unigram.score);
    if (!t->unigram.score)
        return no_memory(err);
    make_scores(t, d);
    return make_prefixes(t, d, is_piece, &t->unigram.pieces, err);
}

static enum status build_word_piece(
    struct tokenizer *t, const struct tokenizer_draft *d, const json_t *model, struct error *err)
{
    struct tokenizer_bytes prefix = {(const uint8_t *)"##", 2};
    struct tokenizer_words *m = &t->words;
    TRY(read_affix(t, model, "continuing_subword_prefix", &prefix, err));
    m->chars_max = 100;
    if (json_object_get(model, "max_input_chars_per_word"))
        TRY(tokenizer_json_count(model, "max_input_chars_per_word", MODEL, TOKENIZER_TEXT_BYTES_MAX,
            &m->chars_max, err));
    TRY(make_prefixes(t, d, is_piece, &m->pieces, err));
    m->continued = TOKENIZER_PREFIX_ROOT;
    for (size_t i = 0; i < prefix.n && m->continued != TOKENIZER_NONE; i++) {
        const struct tokenizer_merge *e =
            tokenizer_prefix_step(&m->pieces, m->continued, prefix.data[i]);
        m->continued = e ? e->id : TOKENIZER_NONE;
    }
    return STATUS_OK;
}

static enum status read_model(struct tokenizer *t, const json_t *model, struct error *err)
{
    static const struct {
        const char *name;
        enum tokenizer_model model;
    } MODELS[] = {
        {"BPE", TOKENIZER_BPE},
        {"Unigram", TOKENIZER_UNIGRAM},
        {"WordPiece", TOKENIZER_WORD_PIECE},
        {"WordLevel", TOKENIZER_WORD_LEVEL},
    };
    const char *type = tokenizer_json_type(model, MODEL, err);
    if (!type)
        return STATUS_INVALID;
    for (size_t i = 0; i < sizeof MODELS / sizeof MODELS[0]; i++) {
        if (strcmp(type, MODELS[i].name) == 0) {
            t->model = MODELS[i].model;
            return STATUS_OK;
        }
    }
    return status_fail(
        err, STATUS_UNSUPPORTED, "%s: models of type \"%.64s\" are not supported", MODEL, type);
}

enum status tokenizer_build_model(
    struct tokenizer *t, const struct tokenizer_draft *d, size_t content_bytes, struct error *err)
{
    const json_t *model = json_object_get(d->rest, "model");
    const json_t *unk = json_object_get(model, "unk_token");
    TRY(read_model(t, model, err));
    t->unk = TOKENIZER_NONE;
    t->unk_named = json_is_string(unk);
    if (t->unk_named)
        t->unk =
            tokenizer_table_texts_get(&t->vocab, json_string_value(unk), json_string_length(unk));
    TRY(tokenizer_json_bool(model, "byte_fallback", MODEL, false, &t->byte_fallback, err));
    find_fallback(t);
    switch (t->model) {
    case TOKENIZER_BPE:
        return build_bpe(t, d, model, content_bytes, err);
    case TOKENIZER_UNIGRAM:
        return build_unigram(t, d, model, err);
    case TOKENIZER_WORD_PIECE:
        return build_word_piece(t, d, model, err);
    case TOKENIZER_WORD_LEVEL:
        break;
    }
    return STATUS_OK;
}
