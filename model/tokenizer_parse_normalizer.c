// SPDX-License-Identifier: Apache-2.0
// Normalizers, and what all lists of steps share.
#include "base/check.h"
#include "model/tokenizer_json.h"
#include "model/tokenizer_parse.h"

#include <stdlib.h>
#include <string.h>

static const char WHERE[] = "tokenizer.json: normalizer";

enum status tokenizer_parse_unknown(const char *where, const char *type, struct error *err)
{
    return status_fail(err, STATUS_UNSUPPORTED, "%s: type \"%.64s\" is not supported", where, type);
}

enum status tokenizer_parse_sequence(struct tokenizer *t, const json_t *value, const char *field,
    const char *where, unsigned depth, tokenizer_parse_one one, struct error *err)
{
    const json_t *list = json_object_get(value, field);
    if (!json_is_array(list))
        return status_fail(err, STATUS_INVALID, "%s: \"%s\" must be a list", where, field);
    if (depth >= TOKENIZER_NESTING_MAX)
        return status_fail(err, STATUS_TOO_LARGE, "%s: Sequences are nested more than %d deep",
            where, TOKENIZER_NESTING_MAX);
    for (size_t i = 0; i < json_array_size(list); i++)
        TRY(one(t, json_array_get(list, i), depth + 1, err));
    return STATUS_OK;
}

// Counted first, so that a half-read step is freed with the others.
static enum status step_add(struct tokenizer *t, enum tokenizer_step_kind kind,
    struct tokenizer_step **out, struct error *err)
{
    if (t->n_steps == TOKENIZER_STEPS_MAX)
        return status_fail(
            err, STATUS_TOO_LARGE, "%s: more than %d steps", WHERE, TOKENIZER_STEPS_MAX);
    struct tokenizer_step *s = &t->steps[t->n_steps++];
    *s = (struct tokenizer_step){.kind = kind};
    if (out)
        *out = s;
    return STATUS_OK;
}

static enum status parse_charsmap(
    struct tokenizer *t, const json_t *value, struct tokenizer_step *s, struct error *err)
{
    struct tokenizer_bytes text;
    if (json_is_null(json_object_get(value, "precompiled_charsmap")))
        return STATUS_OK;
    TRY(tokenizer_json_text(value, "precompiled_charsmap", WHERE, &text, err));
    if (text.n == 0)
        return STATUS_OK;
    size_t n = 0;
    uint8_t *bytes = malloc(text.n / 4 * 3 + 3);
    if (!bytes)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the tokenizer");
    enum status st = STATUS_OK;
    if (tokenizer_charsmap_base64((const char *)text.data, text.n, bytes, &n))
        st = tokenizer_charsmap_read(&s->map, &t->arena, bytes, n, err);
    else
        st = status_fail(err, STATUS_INVALID, "%s: \"precompiled_charsmap\" is not base64", WHERE);
    free(bytes);
    return st;
}

static enum status parse_step(
    struct tokenizer *t, const json_t *value, struct tokenizer_step *s, struct error *err)
{
    switch (s->kind) {
    case TOKENIZER_STEP_PREPEND:
        TRY(tokenizer_json_text(value, "prepend", WHERE, &s->content, err));
        return tokenizer_json_keep(t, &s->content, err);
    case TOKENIZER_STEP_REPLACE:
        TRY(tokenizer_json_text(value, "content", WHERE, &s->content, err));
        TRY(tokenizer_json_keep(t, &s->content, err));
        return tokenizer_json_pattern(t, value, WHERE, &s->pattern, err);
    case TOKENIZER_STEP_STRIP:
        TRY(tokenizer_json_bool(value, "strip_left", WHERE, false, &s->left, err));
        return tokenizer_json_bool(value, "strip_right", WHERE, false, &s->right, err);
    case TOKENIZER_STEP_PRECOMPILED:
        return parse_charsmap(t, value, s, err);
    default:
        return STATUS_OK;
    }
}

// BERT's normalizer is four of these steps, each of which may be left out.
static enum status parse_bert(struct tokenizer *t, const json_t *value, struct error *err)
{
    bool clean, chinese, lowercase, accents;
    TRY(tokenizer_json_bool(value, "clean_text", WHERE, true, &clean, err));
    TRY(tokenizer_json_bool(value, "handle_chinese_chars", WHERE, true, &chinese, err));
    TRY(tokenizer_json_bool(value, "lowercase", WHERE, true, &lowercase, err));
    TRY(tokenizer_json_bool(value, "strip_accents", WHERE, lowercase, &accents, err));
    if (clean)
        TRY(step_add(t, TOKENIZER_STEP_BERT_CLEAN, NULL, err));
    if (chinese)
        TRY(step_add(t, TOKENIZER_STEP_BERT_CHINESE, NULL, err));
    if (accents) {
        TRY(step_add(t, TOKENIZER_STEP_NFD, NULL, err));
        TRY(step_add(t, TOKENIZER_STEP_STRIP_NONSPACING, NULL, err));
    }
    return lowercase ? step_add(t, TOKENIZER_STEP_LOWERCASE, NULL, err) : STATUS_OK;
}

static enum status parse_normalizer(
    struct tokenizer *t, const json_t *value, unsigned depth, struct error *err)
{
    static const struct {
        const char *type;
        enum tokenizer_step_kind kind;
    } STEPS[] = {
        {"Prepend", TOKENIZER_STEP_PREPEND},
        {"Replace", TOKENIZER_STEP_REPLACE},
        {"NFC", TOKENIZER_STEP_NFC},
        {"NFD", TOKENIZER_STEP_NFD},
        {"NFKC", TOKENIZER_STEP_NFKC},
        {"NFKD", TOKENIZER_STEP_NFKD},
        {"Lowercase", TOKENIZER_STEP_LOWERCASE},
        {"Strip", TOKENIZER_STEP_STRIP},
        {"StripAccents", TOKENIZER_STEP_STRIP_ACCENTS},
        {"Nmt", TOKENIZER_STEP_NMT},
        {"ByteLevel", TOKENIZER_STEP_BYTES},
        {"Precompiled", TOKENIZER_STEP_PRECOMPILED},
    };
    const char *type = tokenizer_json_type(value, WHERE, err);
    struct tokenizer_step *s = NULL;
    if (!type)
        return STATUS_INVALID;
    if (strcmp(type, "Sequence") == 0)
        return tokenizer_parse_sequence(
            t, value, "normalizers", WHERE, depth, parse_normalizer, err);
    if (strcmp(type, "BertNormalizer") == 0)
        return parse_bert(t, value, err);
    for (size_t i = 0; i < COUNT_OF(STEPS); i++) {
        if (strcmp(type, STEPS[i].type) == 0) {
            TRY(step_add(t, STEPS[i].kind, &s, err));
            return parse_step(t, value, s, err);
        }
    }
    return tokenizer_parse_unknown(WHERE, type, err);
}

enum status tokenizer_parse_normalizer(struct tokenizer *t, const json_t *value, struct error *err)
{
    return !value || json_is_null(value) ? STATUS_OK : parse_normalizer(t, value, 0, err);
}

enum status tokenizer_parse_sentencepiece(
    struct tokenizer *t, const struct tokenizer_sentencepiece *how, struct error *err)
{
    struct tokenizer_step *s = NULL;
    TRY(step_add(t, TOKENIZER_STEP_SENTENCEPIECE, &s, err));
    s->white = *how;
    s->white.charsmap = (struct tokenizer_bytes){0};
    if (how->charsmap.n == 0)
        return STATUS_OK;
    return tokenizer_charsmap_read(&s->map, &t->arena, how->charsmap.data, how->charsmap.n, err);
}
