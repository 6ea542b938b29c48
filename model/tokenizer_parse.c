// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer_parse.h"

#include "base/check.h"
#include "model/tokenizer_json.h"
#include "model/tokenizer_split_patterns.h"
#include "model/unicode.h"

#include <stdio.h>
#include <string.h>

// ---- pre-tokenizers ------------------------------------------------------------------------

enum { FIXED_LENGTH_MAX = 65535 }; // what a repetition in a regular expression can count

static const char PRE[] = "tokenizer.json: pre_tokenizer";

// Word characters as UTS 18 has them, or what is neither that nor white space.
#define UTS18_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}"
static const char WHITESPACE_SPLIT[] = "[" UTS18_WORD "]+|[^\\s" UTS18_WORD "]+";

static enum status stage_add(struct tokenizer *t, enum tokenizer_stage_kind kind,
    struct tokenizer_stage **out, struct error *err)
{
    if (t->n_stages == TOKENIZER_STEPS_MAX)
        return status_fail(
            err, STATUS_TOO_LARGE, "%s: more than %d stages", PRE, TOKENIZER_STEPS_MAX);
    struct tokenizer_stage *s = &t->stages[t->n_stages++];
    *s = (struct tokenizer_stage){.kind = kind};
    *out = s;
    return STATUS_OK;
}

static enum status parse_behavior(
    const json_t *value, enum tokenizer_behavior *out, struct error *err)
{
    static const char *const NAMES[] = {
        [TOKENIZER_REMOVED] = "Removed",
        [TOKENIZER_ISOLATED] = "Isolated",
        [TOKENIZER_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [TOKENIZER_MERGED_WITH_NEXT] = "MergedWithNext",
        [TOKENIZER_CONTIGUOUS] = "Contiguous",
    };
    const char *name = json_string_value(json_object_get(value, "behavior"));
    for (unsigned i = 0; name && i < COUNT_OF(NAMES); i++) {
        if (strcmp(name, NAMES[i]) == 0) {
            *out = (enum tokenizer_behavior)i;
            return STATUS_OK;
        }
    }
    return status_fail(err, STATUS_INVALID,
        "%s: \"behavior\" must be Removed, Isolated, MergedWithPrevious, MergedWithNext or "
        "Contiguous",
        PRE);
}

static enum status parse_byte_level(
    struct tokenizer *t, const json_t *value, unsigned depth, struct error *err)
{
    (void)depth;
    bool prefix, use_regex;
    struct tokenizer_stage *s = NULL;
    TRY(tokenizer_json_bool(value, "add_prefix_space", PRE, true, &prefix, err));
    TRY(tokenizer_json_bool(value, "use_regex", PRE, true, &use_regex, err));
    if (prefix)
        TRY(stage_add(t, TOKENIZER_STAGE_PREFIX_SPACE, &s, err));
    if (use_regex) {
        TRY(stage_add(t, TOKENIZER_STAGE_SPLIT, &s, err));
        s->behavior = TOKENIZER_ISOLATED;
        TRY(tokenizer_pattern_regex(
            &s->pattern, TOKENIZER_SPLIT_GPT2, sizeof TOKENIZER_SPLIT_GPT2 - 1, PRE, err));
    }
    return stage_add(t, TOKENIZER_STAGE_BYTES, &s, err);
}

static enum status parse_split(
    struct tokenizer *t, const json_t *value, unsigned depth, struct error *err)
{
    (void)depth;
    struct tokenizer_stage *s = NULL;
    TRY(stage_add(t, TOKENIZER_STAGE_SPLIT, &s, err));
    TRY(parse_behavior(value, &s->behavior, err));
    TRY(tokenizer_json_bool(value, "invert", PRE, false, &s->invert, err));
    return tokenizer_json_pattern(t, value, PRE, &s->pattern, err);
}

static enum status add_class_split(struct tokenizer *t, bool (*is_member)(uint32_t),
    enum tokenizer_behavior behavior, struct error *err)
{
    struct tokenizer_stage *s = NULL;
    TRY(stage_add(t, TOKENIZER_STAGE_SPLIT, &s, err));
    s->pattern.is_member = is_member;
    s->behavior = behavior;
    return STATUS_OK;
}

static enum status parse_digits(
    struct tokenizer *t, const json_t *value, unsigned depth, struct error *err)
{
    (void)depth;
    bool individual;
    TRY(tokenizer_json_bool(value, "individual_digits", PRE, false, &individual, err));
    return add_class_split(
        t, unicode_is_numeric, individual ? TOKENIZER_ISOLATED : TOKENIZER_CONTIGUOUS, err);
}

static enum status parse_punctuation(
    struct tokenizer *t, const json_t *value, unsigned depth, struct error *err)
{
    (void)depth;
    enum tokenizer_behavior behavior = TOKENIZER_ISOLATED;
    if (json_object_get(value, "behavior"))
        TRY(parse_behavior(value, &behavior, err));
    return add_class_split(t, unicode_is_punctuation, behavior, err);
}

static enum status parse_whitespace_split(
    struct tokenizer *t, const json_t *value, unsigned depth, struct error *err)
{
    (void)value;
    (void)depth;
    return add_class_split(t, unicode_is_space, TOKENIZER_REMOVED, err);
}

static enum status parse_whitespace(
    struct tokenizer *t, const json_t *value, unsigned depth, struct error *err)
{
    (void)value;
    (void)depth;
    struct tokenizer_stage *s = NULL;
    TRY(stage_add(t, TOKENIZER_STAGE_SPLIT, &s, err));
    s->behavior = TOKENIZER_REMOVED;
    s->invert = true;
    return tokenizer_pattern_regex(
        &s->pattern, WHITESPACE_SPLIT, sizeof WHITESPACE_SPLIT - 1, PRE, err);
}

static enum status parse_delimiter_split(
    struct tokenizer *t, const json_t *value, unsigned depth, struct error *err)
{
    (void)depth;
    struct tokenizer_stage *s = NULL;
    struct tokenizer_bytes delimiter;
    TRY(tokenizer_json_char(value, "delimiter", PRE, &delimiter, err));
    TRY(tokenizer_json_keep(t, &delimiter, err));
    TRY(stage_add(t, TOKENIZER_STAGE_SPLIT, &s, err));
    s->pattern = (struct tokenizer_pattern){.literal = delimiter.data, .n_literal = delimiter.n};
    s->behavior = TOKENIZER_REMOVED;
    return STATUS_OK;
}

// Older files say add_prefix_space, newer ones prepend_scheme.
enum status tokenizer_parse_prepend_scheme(
    const json_t *value, const char *where, enum tokenizer_prepend *out, struct error *err)
{
    bool prefix;
    TRY(tokenizer_json_bool(value, "add_prefix_space", where, true, &prefix, err));
    const json_t *scheme = json_object_get(value, "prepend_scheme");
    const char *name = json_string_value(scheme);
    *out = TOKENIZER_ALWAYS;
    if (name && strcmp(name, "first") == 0)
        *out = TOKENIZER_FIRST;
    else if (name && strcmp(name, "never") == 0)
        *out = TOKENIZER_NEVER;
    else if (scheme && !json_is_null(scheme) && (!name || strcmp(name, "always") != 0))
        return status_fail(
            err, STATUS_INVALID, "%s: \"prepend_scheme\" must be first, always or never", where);
    if (!prefix && name && *out != TOKENIZER_NEVER)
        return status_fail(err, STATUS_INVALID,
            "%s: \"add_prefix_space\" false contradicts \"prepend_scheme\"", where);
    if (!prefix)
        *out = TOKENIZER_NEVER;
    return STATUS_OK;
}

static enum status parse_metaspace(
    struct tokenizer *t, const json_t *value, unsigned depth, struct error *err)
{
    (void)depth;
    struct tokenizer_stage *s = NULL;
    bool split;
    TRY(stage_add(t, TOKENIZER_STAGE_META, &s, err));
    TRY(tokenizer_json_char(value, "replacement", PRE, &s->content, err));
    TRY(tokenizer_json_keep(t, &s->content, err));
    TRY(tokenizer_parse_prepend_scheme(value, PRE, &s->prepend, err));
    TRY(tokenizer_json_bool(value, "split", PRE, true, &split, err));
    if (!split)
        return STATUS_OK;
    struct tokenizer_bytes replacement = s->content;
    TRY(stage_add(t, TOKENIZER_STAGE_SPLIT, &s, err));
    s->behavior = TOKENIZER_MERGED_WITH_NEXT;
    s->pattern =
        (struct tokenizer_pattern){.literal = replacement.data, .n_literal = replacement.n};
    return STATUS_OK;
}

static enum status parse_bert(
    struct tokenizer *t, const json_t *value, unsigned depth, struct error *err)
{
    (void)value;
    (void)depth;
    TRY(add_class_split(t, unicode_is_space, TOKENIZER_REMOVED, err));
    return add_class_split(t, unicode_is_punctuation, TOKENIZER_ISOLATED, err);
}

static enum status parse_fixed_length(
    struct tokenizer *t, const json_t *value, unsigned depth, struct error *err)
{
    (void)depth;
    size_t length = 5;
    char regex[32];
    struct tokenizer_stage *s = NULL;
    if (json_object_get(value, "length"))
        TRY(tokenizer_json_count(value, "length", PRE, FIXED_LENGTH_MAX, &length, err));
    if (length == 0)
        return status_fail(err, STATUS_INVALID, "%s: \"length\" must not be 0", PRE);
    TRY(stage_add(t, TOKENIZER_STAGE_SPLIT, &s, err));
    s->behavior = TOKENIZER_ISOLATED;
    int n = snprintf(regex, sizeof regex, "[\\s\\S]{1,%zu}", length);
    return tokenizer_pattern_regex(&s->pattern, regex, (size_t)n, PRE, err);
}

static enum status parse_pre_tokenizer(
    struct tokenizer *t, const json_t *value, unsigned depth, struct error *err)
{
    static const struct {
        const char *type;
        tokenizer_parse_one parse;
    } KINDS[] = {
        {"ByteLevel", parse_byte_level},
        {"Split", parse_split},
        {"Digits", parse_digits},
        {"Punctuation", parse_punctuation},
        {"Whitespace", parse_whitespace},
        {"WhitespaceSplit", parse_whitespace_split},
        {"CharDelimiterSplit", parse_delimiter_split},
        {"Metaspace", parse_metaspace},
        {"BertPreTokenizer", parse_bert},
        {"FixedLength", parse_fixed_length},
    };
    const char *type = tokenizer_json_type(value, PRE, err);
    if (!type)
        return STATUS_INVALID;
    if (strcmp(type, "Sequence") == 0)
        return tokenizer_parse_sequence(
            t, value, "pretokenizers", PRE, depth, parse_pre_tokenizer, err);
    for (size_t i = 0; i < COUNT_OF(KINDS); i++) {
        if (strcmp(type, KINDS[i].type) == 0)
            return KINDS[i].parse(t, value, depth, err);
    }
    return tokenizer_parse_unknown(PRE, type, err);
}

enum status tokenizer_parse_pre_tokenizer(
    struct tokenizer *t, const json_t *value, struct error *err)
{
    return !value || json_is_null(value) ? STATUS_OK : parse_pre_tokenizer(t, value, 0, err);
}

// ---- post-processors -----------------------------------------------------------------------

static const char POST[] = "tokenizer.json: post_processor";

// What one post-processor puts around its text; the next one goes around both.
struct wrap {
    struct tokenizer_around before, after;
};

static enum status around_add(
    struct tokenizer *t, struct tokenizer_around *a, const json_t *id, struct error *err)
{
    json_int_t v = json_integer_value(id);
    if (!json_is_integer(id) || v < 0 || v >= t->n_ids || !t->tokens[v].content.data)
        return status_fail(
            err, STATUS_INVALID, "%s: a special token's id must be that of a token", POST);
    if (a->n == TOKENIZER_AROUND_MAX)
        return status_fail(
            err, STATUS_TOO_LARGE, "%s: more than %d tokens on a side", POST, TOKENIZER_AROUND_MAX);
    a->ids[a->n++] = (uint32_t)v;
    return STATUS_OK;
}

static enum status add_special(struct tokenizer *t, const json_t *value, const json_t *name,
    struct tokenizer_around *to, struct error *err)
{
    const char *text = json_string_value(name);
    const json_t *special =
        text ? json_object_get(json_object_get(value, "special_tokens"), text) : NULL;
    const json_t *ids = json_object_get(special, "ids");
    if (!json_is_array(ids))
        return status_fail(err, STATUS_INVALID,
            "%s: \"special_tokens\" has no \"ids\" for \"%.64s\"", POST, text ? text : "?");
    for (size_t i = 0; i < json_array_size(ids); i++)
        TRY(around_add(t, to, json_array_get(ids, i), err));
    return STATUS_OK;
}

static enum status parse_template(
    struct tokenizer *t, const json_t *value, struct wrap *w, struct error *err)
{
    const json_t *single = json_object_get(value, "single");
    if (!json_is_array(single))
        return status_fail(err, STATUS_INVALID, "%s: \"single\" must be a list", POST);
    bool seen = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *part = json_array_get(single, i);
        const json_t *special = json_object_get(part, "SpecialToken");
        if (special) {
            TRY(add_special(
                t, value, json_object_get(special, "id"), seen ? &w->after : &w->before, err));
            continue;
        }
        if (!json_object_get(part, "Sequence") || seen)
            return status_fail(err, STATUS_UNSUPPORTED,
                "%s: \"single\" must be special tokens around one Sequence", POST);
        seen = true;
    }
    if (!seen)
        return status_fail(err, STATUS_UNSUPPORTED, "%s: \"single\" must have one Sequence", POST);
    return STATUS_OK;
}

// BertProcessing and RobertaProcessing: "cls" and "sep" are [text, id].
static enum status parse_cls_sep(
    struct tokenizer *t, const json_t *value, struct wrap *w, struct error *err)
{
    TRY(around_add(t, &w->before, json_array_get(json_object_get(value, "cls"), 1), err));
    return around_add(t, &w->after, json_array_get(json_object_get(value, "sep"), 1), err);
}

static enum status around_join(struct tokenizer_around *to, const struct tokenizer_around *first,
    const struct tokenizer_around *second, struct error *err)
{
    struct tokenizer_around joined = *first;
    if (first->n + second->n > TOKENIZER_AROUND_MAX)
        return status_fail(
            err, STATUS_TOO_LARGE, "%s: more than %d tokens on a side", POST, TOKENIZER_AROUND_MAX);
    memcpy(joined.ids + joined.n, second->ids, second->n * sizeof second->ids[0]);
    joined.n += second->n;
    *to = joined;
    return STATUS_OK;
}

static enum status parse_post_processor(
    struct tokenizer *t, const json_t *value, unsigned depth, struct error *err)
{
    const char *type = tokenizer_json_type(value, POST, err);
    struct wrap w = {0};
    if (!type)
        return STATUS_INVALID;
    if (strcmp(type, "Sequence") == 0)
        return tokenizer_parse_sequence(
            t, value, "processors", POST, depth, parse_post_processor, err);
    if (strcmp(type, "ByteLevel") == 0)
        return STATUS_OK; // moves offsets only
    if (strcmp(type, "TemplateProcessing") == 0)
        TRY(parse_template(t, value, &w, err));
    else if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        TRY(parse_cls_sep(t, value, &w, err));
    else
        return tokenizer_parse_unknown(POST, type, err);
    TRY(around_join(&t->before, &w.before, &t->before, err));
    return around_join(&t->after, &t->after, &w.after, err);
}

enum status tokenizer_parse_post_processor(
    struct tokenizer *t, const json_t *value, struct error *err)
{
    return !value || json_is_null(value) ? STATUS_OK : parse_post_processor(t, value, 0, err);
}
