// SPDX-License-Identifier: Apache-2.0
// Decoders. A Sequence of them is read as a machine with four states, in this order: steps on one
// token (Replace), joining of bytes (ByteFallback or ByteLevel), single characters replaced
// (Metaspace, Replace), ends stripped (Strip). What does not fit into that order is refused.
#include "model/tokenizer_json.h"
#include "model/tokenizer_parse.h"
#include "model/unicode.h"

#include <string.h>

static const char WHERE[] = "tokenizer.json: decoder";

struct parser {
    struct tokenizer *t;
    struct tokenizer_step replace[TOKENIZER_STEPS_MAX]; // before anything else
    size_t n_replace;
    bool joined; // bytes are joined, or characters replaced: `replace` is closed
    bool fused;  // the text is one token from here on
    bool closed; // words are joined: nothing may follow but Fuse
    struct error *err;
};

static enum status wrong_order(const struct parser *p, const char *type)
{
    return status_fail(p->err, STATUS_UNSUPPORTED,
        "%s: %s is not supported at this place in a Sequence", WHERE, type);
}

// Appends `text` with the character `from` replaced by `to`; false if it gets too long.
static bool map_apply(
    struct tokenizer_map *m, struct tokenizer_bytes from, struct tokenizer_bytes to)
{
    uint8_t out[TOKENIZER_MAP_BYTES_MAX];
    size_t n = 0;
    for (size_t i = 0, k; i < m->n_to; i += k) {
        unicode_decode(m->to + i, m->n_to - i, &k);
        bool hit = k == from.n && memcmp(m->to + i, from.data, k) == 0;
        struct tokenizer_bytes piece = hit ? to : (struct tokenizer_bytes){m->to + i, k};
        if (piece.n > sizeof out - n)
            return false;
        memcpy(out + n, piece.data, piece.n);
        n += piece.n;
    }
    memcpy(m->to, out, n);
    m->n_to = (uint8_t)n;
    return true;
}

// A character replaced after those that are replaced already: they may have produced it.
static enum status add_map(struct parser *p, const char *type, struct tokenizer_bytes from,
    struct tokenizer_bytes to, bool drop_in_first)
{
    struct tokenizer_decoder *d = &p->t->decoder;
    bool taken = false;
    if (d->n_strip_char > 0 || d->n_maps == TOKENIZER_MAPS_MAX || to.n > TOKENIZER_MAP_BYTES_MAX)
        return wrong_order(p, type);
    for (size_t i = 0; i < d->n_maps; i++) {
        struct tokenizer_map *m = &d->maps[i];
        if (memmem(m->to, m->n_to, from.data, from.n) && drop_in_first)
            return wrong_order(p, type);
        if (!map_apply(m, from, to))
            return wrong_order(p, type);
        taken |= m->n_from == from.n && memcmp(m->from, from.data, from.n) == 0;
    }
    p->joined = true;
    if (taken)
        return STATUS_OK;
    struct tokenizer_map *m = &d->maps[d->n_maps++];
    *m = (struct tokenizer_map){
        .n_from = (uint8_t)from.n, .n_to = (uint8_t)to.n, .drop_in_first = drop_in_first};
    memcpy(m->from, from.data, from.n);
    memcpy(m->to, to.data, to.n);
    return STATUS_OK;
}

static enum status parse_replace(struct parser *p, const json_t *value)
{
    struct tokenizer_bytes content;
    TRY(tokenizer_json_text(value, "content", WHERE, &content, p->err));
    TRY(tokenizer_json_keep(p->t, &content, p->err));
    if (!p->joined && !p->fused) {
        if (p->n_replace == TOKENIZER_STEPS_MAX)
            return status_fail(
                p->err, STATUS_TOO_LARGE, "%s: more than %d steps", WHERE, TOKENIZER_STEPS_MAX);
        struct tokenizer_step *s = &p->replace[p->n_replace++];
        *s = (struct tokenizer_step){.kind = TOKENIZER_STEP_REPLACE, .content = content};
        return tokenizer_json_pattern(p->t, value, WHERE, &s->pattern, p->err);
    }
    const json_t *pattern = json_object_get(value, "pattern");
    struct tokenizer_bytes from;
    if (!json_object_get(pattern, "String"))
        return wrong_order(p, "Replace with a Regex");
    TRY(tokenizer_json_char(pattern, "String", WHERE, &from, p->err));
    return add_map(p, "Replace", from, content, false);
}

static enum status parse_metaspace(struct parser *p, const json_t *value)
{
    struct tokenizer_bytes replacement;
    enum tokenizer_prepend prepend;
    if (p->fused)
        return wrong_order(p, "Metaspace");
    TRY(tokenizer_json_char(value, "replacement", WHERE, &replacement, p->err));
    TRY(tokenizer_parse_prepend_scheme(value, WHERE, &prepend, p->err));
    return add_map(p, "Metaspace", replacement, (struct tokenizer_bytes){(const uint8_t *)" ", 1},
        prepend != TOKENIZER_NEVER);
}

static enum status parse_strip(struct parser *p, const json_t *value)
{
    struct tokenizer_decoder *d = &p->t->decoder;
    struct tokenizer_bytes c;
    size_t start, stop;
    if (!p->fused || d->n_strip_char > 0)
        return wrong_order(p, "Strip");
    TRY(tokenizer_json_char(value, "content", WHERE, &c, p->err));
    TRY(tokenizer_json_count(value, "start", WHERE, TOKENIZER_STRIP_MAX, &start, p->err));
    TRY(tokenizer_json_count(value, "stop", WHERE, TOKENIZER_STRIP_MAX, &stop, p->err));
    memcpy(d->strip_char, c.data, c.n);
    d->n_strip_char = (uint8_t)c.n;
    d->strip_left = (uint8_t)start;
    d->strip_right = (uint8_t)stop;
    return STATUS_OK;
}

// An optional text, or what it is if absent.
static enum status optional_text(struct parser *p, const json_t *value, const char *field,
    const char *absent, struct tokenizer_bytes *out)
{
    *out = (struct tokenizer_bytes){(const uint8_t *)absent, strlen(absent)};
    if (!json_object_get(value, field))
        return STATUS_OK;
    TRY(tokenizer_json_text(value, field, WHERE, out, p->err));
    return tokenizer_json_keep(p->t, out, p->err);
}

// The decoders of models that are made of words.
static enum status parse_words(struct parser *p, const json_t *value, const char *type)
{
    struct tokenizer_decoder *d = &p->t->decoder;
    if (p->joined || p->fused)
        return wrong_order(p, type);
    p->joined = p->closed = true;
    if (strcmp(type, "WordPiece") == 0) {
        d->words = true;
        TRY(tokenizer_json_bool(value, "cleanup", WHERE, true, &d->cleanup, p->err));
        return optional_text(p, value, "prefix", "##", &d->prefix);
    }
    if (strcmp(type, "BPEDecoder") == 0) {
        TRY(optional_text(p, value, "suffix", "</w>", &d->suffix));
        return d->suffix.n > 0 ? STATUS_OK
                               : status_fail(p->err, STATUS_UNSUPPORTED,
                                     "%s: the \"suffix\" of BPEDecoder must not be empty", WHERE);
    }
    d->ctc = true;
    TRY(tokenizer_json_bool(value, "cleanup", WHERE, true, &d->cleanup, p->err));
    TRY(optional_text(p, value, "pad_token", "<pad>", &d->pad));
    return optional_text(p, value, "word_delimiter_token", "|", &d->delimiter);
}

static enum status parse_one(struct parser *p, const json_t *value, unsigned depth);

static enum status parse_sequence(struct parser *p, const json_t *value, unsigned depth)
{
    const json_t *list = json_object_get(value, "decoders");
    if (!json_is_array(list) || depth >= TOKENIZER_NESTING_MAX)
        return status_fail(p->err, STATUS_INVALID,
            "%s: \"decoders\" must be a list, nested at most %d deep", WHERE,
            TOKENIZER_NESTING_MAX);
    for (size_t i = 0; i < json_array_size(list); i++)
        TRY(parse_one(p, json_array_get(list, i), depth + 1));
    return STATUS_OK;
}

static enum status parse_one(struct parser *p, const json_t *value, unsigned depth)
{
    struct tokenizer_decoder *d = &p->t->decoder;
    const char *type = tokenizer_json_type(value, WHERE, p->err);
    if (!type)
        return STATUS_INVALID;
    if (strcmp(type, "Sequence") == 0)
        return parse_sequence(p, value, depth);
    if (p->closed && strcmp(type, "Fuse") != 0)
        return wrong_order(p, type);
    if (strcmp(type, "WordPiece") == 0 || strcmp(type, "BPEDecoder") == 0 ||
        strcmp(type, "CTC") == 0)
        return parse_words(p, value, type);
    if (strcmp(type, "Replace") == 0)
        return parse_replace(p, value);
    if (strcmp(type, "Metaspace") == 0)
        return parse_metaspace(p, value);
    if (strcmp(type, "Strip") == 0)
        return parse_strip(p, value);
    if (strcmp(type, "Fuse") == 0) {
        p->fused = true;
        return STATUS_OK;
    }
    bool fallback = strcmp(type, "ByteFallback") == 0;
    if (!fallback && strcmp(type, "ByteLevel") != 0)
        return status_fail(
            p->err, STATUS_UNSUPPORTED, "%s: type \"%.64s\" is not supported", WHERE, type);
    if (p->joined || p->fused)
        return wrong_order(p, type);
    p->joined = true;
    d->byte_fallback = fallback;
    d->bytes = p->fused = !fallback;
    return STATUS_OK;
}

enum status tokenizer_parse_decoder(struct tokenizer *t, const json_t *value, struct error *err)
{
    struct parser p = {.t = t, .err = err};
    enum status st = STATUS_OK;
    if (value && !json_is_null(value)) {
        t->decoder.present = true;
        st = parse_one(&p, value, 0);
    }
    if (st == STATUS_OK)
        st = tokenizer_decode_prepare(t, p.replace, p.n_replace, err);
    for (size_t i = 0; i < p.n_replace; i++)
        tokenizer_pattern_deinit(&p.replace[i].pattern);
    return st;
}

enum status tokenizer_parse_decoder_sentencepiece(
    struct tokenizer *t, const struct tokenizer_sentencepiece *how, struct error *err)
{
    static const struct tokenizer_map META = {
        .from = TOKENIZER_META, .to = " ", .n_from = 3, .n_to = 1};
    t->decoder = (struct tokenizer_decoder){.present = true,
        .byte_fallback = t->byte_fallback,
        .each_byte = true,
        .sentencepiece = true,
        .drops_space = how->add_dummy_prefix || how->remove_extra_whitespaces,
        .all_spaces = how->remove_extra_whitespaces,
        .maps = {META},
        .n_maps = 1,
        .unknown = how->unknown};
    TRY(tokenizer_json_keep(t, &t->decoder.unknown, err));
    return tokenizer_decode_prepare(t, NULL, 0, err);
}
