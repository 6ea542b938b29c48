// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer_json.h"

#include "model/unicode.h"

#include <stdlib.h>
#include <string.h>

// Each value but the first comes behind a comma, a colon or an opening bracket.
static bool too_many_values(const uint8_t *text, size_t n)
{
    size_t values = 0;
    bool in_text = false;
    for (size_t i = 0; i < n; i++) {
        uint8_t c = text[i];
        if (c == '"')
            in_text = !in_text;
        else if (in_text)
            i += c == '\\';
        else
            values += c == ',' || c == '[' || c == '{';
    }
    return values > TOKENIZER_JSON_VALUES_MAX;
}

// The end of the text literal that begins with the quote at `i`: behind its closing quote.
static size_t literal_end(const char *text, size_t n, size_t i)
{
    for (i++; i < n && text[i] != '"'; i++)
        i += text[i] == '\\';
    return i < n ? i + 1 : n;
}

static bool is_key(const char *text, size_t n, size_t end)
{
    while (end < n &&
           (text[end] == ' ' || text[end] == '\t' || text[end] == '\n' || text[end] == '\r'))
        end++;
    return end < n && text[end] == ':';
}

// Rewrites \u0000 between `i` and `end`; returns how often.
static size_t hide_in_key(char *text, size_t i, size_t end)
{
    size_t hidden = 0;
    for (; i < end; i++) {
        if (text[i] != '\\')
            continue;
        if (end - i > 6 && memcmp(text + i, "\\u0000", 6) == 0) {
            memcpy(text + i, "\\ufdd0", 6);
            hidden++;
        }
        i++;
    }
    return hidden;
}

enum status tokenizer_json_hide_nul(const void *text, size_t n, char **copy, struct error *err)
{
    *copy = NULL;
    if (!memmem(text, n, "\\u0000", 6))
        return STATUS_OK;
    char *c = malloc(n);
    if (!c)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the tokenizer");
    memcpy(c, text, n);
    size_t hidden = 0;
    for (size_t i = 0; i < n; i++) {
        if (c[i] != '"')
            continue;
        size_t end = literal_end(c, n, i);
        if (is_key(c, n, end))
            hidden += hide_in_key(c, i, end);
        i = end - 1;
    }
    bool both = memmem(text, n, TOKENIZER_JSON_NUL, 3) || memmem(text, n, "\\ufdd0", 6) ||
                memmem(text, n, "\\uFDD0", 6);
    if (hidden == 0 || both)
        free(c);
    if (hidden == 0)
        return STATUS_OK;
    if (both)
        return status_fail(err, STATUS_UNSUPPORTED,
            "tokenizer.json: tokens with both U+0000 and U+FDD0 are not supported");
    *copy = c;
    return STATUS_OK;
}

enum status tokenizer_json_parse(
    const char *name, const void *text, size_t n, size_t flags, json_t **out, struct error *err)
{
    if (n > TOKENIZER_FILE_BYTES_MAX || too_many_values(text, n))
        return status_fail(err, STATUS_TOO_LARGE,
            "%s is too large: at most %zu bytes and %zu JSON values are read", name,
            TOKENIZER_FILE_BYTES_MAX, TOKENIZER_JSON_VALUES_MAX);
    json_error_t e;
    json_t *root = json_loadb(text, n, flags, &e);
    if (!root)
        return status_fail(
            err, STATUS_INVALID, "%s is not valid JSON: line %d: %s", name, e.line, e.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return status_fail(err, STATUS_INVALID, "%s must be a JSON object", name);
    }
    *out = root;
    return STATUS_OK;
}

enum status tokenizer_json_text(const json_t *object, const char *field, const char *where,
    struct tokenizer_bytes *out, struct error *err)
{
    const json_t *v = json_object_get(object, field);
    if (!json_is_string(v))
        return status_fail(err, STATUS_INVALID, "%s: \"%s\" must be a text", where, field);
    *out = (struct tokenizer_bytes){(const uint8_t *)json_string_value(v), json_string_length(v)};
    return STATUS_OK;
}

enum status tokenizer_json_bool(const json_t *object, const char *field, const char *where,
    bool absent, bool *out, struct error *err)
{
    const json_t *v = json_object_get(object, field);
    if (v && !json_is_null(v) && !json_is_boolean(v))
        return status_fail(err, STATUS_INVALID, "%s: \"%s\" must be true or false", where, field);
    *out = json_is_boolean(v) ? json_is_true(v) : absent;
    return STATUS_OK;
}

enum status tokenizer_json_count(const json_t *object, const char *field, const char *where,
    size_t max, size_t *out, struct error *err)
{
    const json_t *v = json_object_get(object, field);
    json_int_t n = json_is_integer(v) ? json_integer_value(v) : 0;
    if ((v && !json_is_integer(v)) || n < 0 || (json_int_t)max < n)
        return status_fail(
            err, STATUS_INVALID, "%s: \"%s\" must be an integer from 0 to %zu", where, field, max);
    *out = (size_t)n;
    return STATUS_OK;
}

enum status tokenizer_json_char(const json_t *object, const char *field, const char *where,
    struct tokenizer_bytes *out, struct error *err)
{
    struct tokenizer_bytes b;
    TRY(tokenizer_json_text(object, field, where, &b, err));
    size_t k = 0;
    if (b.n > 0)
        unicode_decode(b.data, b.n, &k);
    if (b.n == 0 || k != b.n)
        return status_fail(err, STATUS_INVALID, "%s: \"%s\" must be one character", where, field);
    *out = b;
    return STATUS_OK;
}

const char *tokenizer_json_type(const json_t *object, const char *where, struct error *err)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    if (!type)
        status_fail(err, STATUS_INVALID, "%s must be an object with a \"type\"", where);
    return type;
}

enum status tokenizer_json_keep(
    struct tokenizer *t, struct tokenizer_bytes *bytes, struct error *err)
{
    const char *copy = arena_text(&t->arena, (const char *)bytes->data, bytes->n);
    if (!copy)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the tokenizer");
    bytes->data = (const uint8_t *)copy;
    return STATUS_OK;
}

enum status tokenizer_json_pattern(struct tokenizer *t, const json_t *object, const char *where,
    struct tokenizer_pattern *out, struct error *err)
{
    const json_t *p = json_object_get(object, "pattern");
    struct tokenizer_bytes b;
    if (json_object_get(p, "Regex")) {
        TRY(tokenizer_json_text(p, "Regex", where, &b, err));
        return tokenizer_pattern_regex(out, (const char *)b.data, b.n, where, err);
    }
    if (!json_object_get(p, "String"))
        return status_fail(
            err, STATUS_INVALID, "%s: \"pattern\" must have a \"String\" or a \"Regex\"", where);
    TRY(tokenizer_json_text(p, "String", where, &b, err));
    if (b.n == 0)
        return status_fail(err, STATUS_UNSUPPORTED, "%s: \"pattern\" must not be empty", where);
    TRY(tokenizer_json_keep(t, &b, err));
    *out = (struct tokenizer_pattern){.literal = b.data, .n_literal = b.n};
    return STATUS_OK;
}
