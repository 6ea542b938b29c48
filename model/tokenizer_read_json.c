// SPDX-License-Identifier: Apache-2.0
// tokenizer.json -> draft: the vocabulary and the merges become lists, the rest stays JSON.
#include "model/tokenizer_draft.h"
#include "model/tokenizer_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum status no_memory(struct error *err)
{
    return status_fail(err, STATUS_NO_MEMORY, "out of memory for the tokenizer");
}

// ---- the vocabulary ------------------------------------------------------------------------

// A key of the vocabulary, with U+0000 as it was in the file.
static enum status unhide_nul(
    struct tokenizer_draft *d, struct tokenizer_bytes *b, struct error *err)
{
    if (!memmem(b->data, b->n, TOKENIZER_JSON_NUL, 3))
        return STATUS_OK;
    uint8_t *copy = arena_take(&d->arena, b->n);
    if (!copy)
        return no_memory(err);
    size_t n = 0;
    for (size_t i = 0; i < b->n; i++) {
        bool hidden = b->n - i >= 3 && memcmp(b->data + i, TOKENIZER_JSON_NUL, 3) == 0;
        copy[n++] = hidden ? 0 : b->data[i];
        i += hidden ? 2 : 0;
    }
    *b = (struct tokenizer_bytes){copy, n};
    return STATUS_OK;
}

enum status tokenizer_read_vocab_object(
    struct tokenizer_draft *d, json_t *vocab, bool nul_hidden, const char *where, struct error *err)
{
    const char *content;
    json_t *id;
    if (!json_is_object(vocab))
        return status_fail(err, STATUS_INVALID, "%s: the vocabulary must be an object", where);
    TRY(tokenizer_draft_reserve_tokens(d, json_object_size(vocab), err));
    json_object_foreach(vocab, content, id)
    {
        struct tokenizer_bytes b = {(const uint8_t *)content, strlen(content)};
        json_int_t v = json_is_integer(id) ? json_integer_value(id) : -1;
        if (v < 0 || v >= (json_int_t)TOKENIZER_VOCAB_MAX)
            return status_fail(err, STATUS_INVALID,
                "%s: the id of token \"%.32s\" must be an integer below %u", where, content,
                TOKENIZER_VOCAB_MAX);
        if (nul_hidden)
            TRY(unhide_nul(d, &b, err));
        d->tokens[d->n_tokens++] = (struct tokenizer_draft_token){
            .content = b, .id = (uint32_t)v, .type = TOKENIZER_NORMAL};
    }
    return STATUS_OK;
}

// The reference's JSON reader divides all digits by a power of ten, which rounds twice; where ways
// to cut a text are equally good, the last bit decides. This is what it makes of the number whose
// shortest decimal form is that of `v`.
static double as_reference_reads(double v)
{
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*e", digits - 1, v);
        if (strtod(text, NULL) == v)
            break;
    }
    uint64_t sum = 0;
    int exponent = 0;
    const char *p = text + (text[0] == '-');
    for (bool fraction = false; *p && *p != 'e'; p++) {
        if (*p == '.') {
            fraction = true;
            continue;
        }
        sum = sum * 10 + (uint64_t)(*p - '0');
        exponent -= fraction;
    }
    exponent += *p == 'e' ? (int)strtol(p + 1, NULL, 10) : 0;
    for (; sum > 0 && sum % 10 == 0; exponent++)
        sum /= 10;
    if (exponent < -22 || exponent > 22) // powers beyond are not exact; no score is so small
        return v;
    double power = 1, r = (double)sum;
    for (int i = 0; i < (exponent < 0 ? -exponent : exponent); i++)
        power *= 10;
    r = exponent < 0 ? r / power : r * power;
    return v < 0 ? -r : r;
}

// Unigram: a list of [content, score]; ids are places in the list.
static enum status read_vocab_list(
    struct tokenizer_draft *d, const json_t *vocab, struct error *err)
{
    TRY(tokenizer_draft_reserve_tokens(d, json_array_size(vocab), err));
    for (size_t i = 0; i < json_array_size(vocab); i++) {
        const json_t *row = json_array_get(vocab, i);
        const json_t *content = json_array_get(row, 0), *score = json_array_get(row, 1);
        if (!json_is_string(content) || !json_is_number(score))
            return status_fail(err, STATUS_INVALID,
                "tokenizer.json: entry %zu of the vocabulary must be a text and its score", i);
        d->tokens[d->n_tokens++] = (struct tokenizer_draft_token){
            .content = {(const uint8_t *)json_string_value(content), json_string_length(content)},
            .id = (uint32_t)i,
            .type = TOKENIZER_NORMAL,
            .score = as_reference_reads(json_number_value(score))};
    }
    return STATUS_OK;
}

// ---- merges --------------------------------------------------------------------------------

// "a b" or ["a", "b"].
static bool read_pair(const json_t *value, struct tokenizer_bytes pair[2])
{
    if (json_is_array(value) && json_array_size(value) == 2) {
        for (size_t i = 0; i < 2; i++) {
            const json_t *v = json_array_get(value, i);
            if (!json_is_string(v))
                return false;
            pair[i] = (struct tokenizer_bytes){
                (const uint8_t *)json_string_value(v), json_string_length(v)};
        }
        return true;
    }
    return json_is_string(value) && tokenizer_read_pair((const uint8_t *)json_string_value(value),
                                        json_string_length(value), pair);
}

bool tokenizer_read_pair(const uint8_t *text, size_t n, struct tokenizer_bytes pair[2])
{
    const uint8_t *space = memchr(text, ' ', n);
    if (!space)
        return false;
    size_t at = (size_t)(space - text);
    if (memchr(space + 1, ' ', n - at - 1))
        return false;
    pair[0] = (struct tokenizer_bytes){text, at};
    pair[1] = (struct tokenizer_bytes){space + 1, n - at - 1};
    return true;
}

enum status tokenizer_read_merge(struct tokenizer_draft *d, const struct tokenizer_texts *table,
    const struct tokenizer_bytes pair[2], size_t n_prefix, struct error *err)
{
    uint8_t both[2 * TOKENIZER_TOKEN_BYTES_MAX];
    size_t rank = d->n_merges;
    if (pair[0].n > TOKENIZER_TOKEN_BYTES_MAX || pair[1].n > TOKENIZER_TOKEN_BYTES_MAX)
        return status_fail(err, STATUS_TOO_LARGE,
            "the tokenizer's merge %zu is longer than %zu bytes", rank, TOKENIZER_TOKEN_BYTES_MAX);
    size_t skip = n_prefix < pair[1].n ? n_prefix : pair[1].n;
    size_t n = pair[0].n + pair[1].n - skip;
    memcpy(both, pair[0].data, pair[0].n);
    memcpy(both + pair[0].n, pair[1].data + skip, pair[1].n - skip);
    uint32_t a = tokenizer_table_texts_get(table, pair[0].data, pair[0].n);
    uint32_t b = tokenizer_table_texts_get(table, pair[1].data, pair[1].n);
    uint32_t made = tokenizer_table_texts_get(table, both, n);
    if (a == TOKENIZER_NONE || b == TOKENIZER_NONE || made == TOKENIZER_NONE)
        return status_fail(err, STATUS_INVALID,
            "the tokenizer's merge %zu (\"%.*s\" and \"%.*s\") names a token, or makes one, that "
            "is not in the vocabulary",
            rank, (int)(pair[0].n < 32 ? pair[0].n : 32), (const char *)pair[0].data,
            (int)(pair[1].n < 32 ? pair[1].n : 32), (const char *)pair[1].data);
    d->merges[d->n_merges++] = (struct tokenizer_merge){.a = d->tokens[a].id,
        .b = d->tokens[b].id,
        .rank = (uint32_t)rank,
        .id = d->tokens[made].id};
    return STATUS_OK;
}

static enum status read_merges(struct tokenizer_draft *d, const json_t *model, struct error *err)
{
    const json_t *merges = json_object_get(model, "merges");
    size_t n_prefix = json_string_length(json_object_get(model, "continuing_subword_prefix"));
    struct tokenizer_texts table;
    if (!json_is_array(merges))
        return status_fail(err, STATUS_INVALID, "tokenizer.json: model: \"merges\" must be a list");
    size_t n = json_array_size(merges);
    TRY(tokenizer_draft_reserve_merges(d, n, err));
    TRY(tokenizer_draft_index(d, &table, err));
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_array_get(merges, i);
        const char *text = json_string_value(value);
        struct tokenizer_bytes pair[2];
        if (text && strncmp(text, "#version", 8) == 0)
            continue;
        if (!read_pair(value, pair))
            return status_fail(err, STATUS_INVALID,
                "tokenizer.json: merge %zu must be two tokens, \"a b\" or [\"a\", \"b\"]",
                d->n_merges);
        TRY(tokenizer_read_merge(d, &table, pair, n_prefix, err));
    }
    return STATUS_OK;
}

// ---- the document --------------------------------------------------------------------------

// Old files do not name the model's type; what it has tells.
static const char *model_type(const json_t *model)
{
    const json_t *type = json_object_get(model, "type");
    if (json_is_string(type))
        return json_string_value(type);
    if (json_is_array(json_object_get(model, "vocab")))
        return "Unigram";
    if (json_object_get(model, "merges") || !json_object_get(model, "unk_token"))
        return "BPE";
    return json_object_get(model, "max_input_chars_per_word") ? "WordPiece" : "WordLevel";
}

// The document without the two long lists, and with the model's type.
static enum status make_rest(
    struct tokenizer_draft *d, json_t *root, json_t *model, const char *type, struct error *err)
{
    json_t *rest = json_copy(root), *small = json_copy(model);
    bool ok = rest && small && json_object_set_new(small, "type", json_string(type)) == 0;
    if (ok) {
        json_object_del(small, "vocab");
        json_object_del(small, "merges");
        ok = json_object_set(rest, "model", small) == 0;
    }
    json_decref(small);
    if (!ok) {
        json_decref(rest);
        return no_memory(err);
    }
    d->rest = rest;
    return STATUS_OK;
}

static enum status read_document(
    struct tokenizer_draft *d, json_t *root, bool nul_hidden, struct error *err)
{
    json_t *model = json_object_get(root, "model");
    if (!json_is_object(model))
        return status_fail(err, STATUS_INVALID, "tokenizer.json: \"model\" must be an object");
    const char *type = model_type(model);
    bool bpe = strcmp(type, "BPE") == 0, unigram = strcmp(type, "Unigram") == 0;
    if (!bpe && !unigram && strcmp(type, "WordPiece") != 0 && strcmp(type, "WordLevel") != 0)
        return status_fail(err, STATUS_UNSUPPORTED,
            "tokenizer.json: models of type \"%.64s\" are not supported", type);
    json_t *vocab = json_object_get(model, "vocab");
    if (unigram && !json_is_array(vocab))
        return status_fail(err, STATUS_INVALID,
            "tokenizer.json: model: the \"vocab\" of a Unigram model must be a list");
    TRY(unigram ? read_vocab_list(d, vocab, err)
                : tokenizer_read_vocab_object(d, vocab, nul_hidden, "tokenizer.json: model", err));
    if (bpe)
        TRY(read_merges(d, model, err));
    return make_rest(d, root, model, type, err);
}

enum status tokenizer_read_json(
    struct tokenizer_draft *d, const void *text, size_t n, struct error *err)
{
    char *copy;
    TRY(tokenizer_json_hide_nul(text, n, &copy, err));
    bool nul_hidden = copy != NULL;
    enum status st = tokenizer_json_parse(
        "tokenizer.json", copy ? copy : text, n, JSON_ALLOW_NUL, &d->source, err);
    free(copy);
    TRY(st);
    return read_document(d, d->source, nul_hidden, err);
}
