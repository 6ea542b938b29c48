// SPDX-License-Identifier: Apache-2.0
#include "model/config_json.h"

#include <stdarg.h>
#include <stdio.h>

enum status config_json_parse(
    const char *text, size_t bytes, const char *where, json_t **out, struct error *err)
{
    json_error_t why;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return status_fail(
            err, STATUS_INVALID, "%s, line %d: not valid JSON: %s", where, why.line, why.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return status_fail(err, STATUS_INVALID, "%s does not hold a JSON object", where);
    }
    *out = root;
    return STATUS_OK;
}

void config_json_fail(struct config_json *c, enum status status, const char *format, ...)
{
    if (c->status != STATUS_OK)
        return;
    char text[ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    c->status = status_fail(c->err, status, "%s: %s", c->where, text);
}

const json_t *config_json_get(const struct config_json *c, const char *key)
{
    const json_t *v = json_object_get(c->object, key);
    return json_is_null(v) ? NULL : v;
}

static void need(struct config_json *c, const char *key)
{
    if (!config_json_get(c, key))
        config_json_fail(c, STATUS_INVALID, "\"%s\" is missing", key);
}

uint32_t config_json_u32(
    struct config_json *c, const char *key, uint32_t missing, uint32_t min, uint32_t max)
{
    const json_t *v = config_json_get(c, key);
    if (!v)
        return missing;
    json_int_t i = json_integer_value(v);
    if (json_is_integer(v) && i >= (json_int_t)min && i <= (json_int_t)max)
        return (uint32_t)i;
    if (json_is_integer(v))
        config_json_fail(c, STATUS_INVALID, "\"%s\" is %lld, but %u to %u was expected", key,
            (long long)i, min, max);
    else
        config_json_fail(c, STATUS_INVALID,
            "\"%s\" is not a whole number; one from %u to %u was expected", key, min, max);
    return min;
}

uint32_t config_json_need_u32(struct config_json *c, const char *key, uint32_t min, uint32_t max)
{
    need(c, key);
    return config_json_u32(c, key, min, min, max);
}

double config_json_f64(
    struct config_json *c, const char *key, double missing, double min, double max)
{
    const json_t *v = config_json_get(c, key);
    if (!v)
        return missing;
    double f = json_number_value(v);
    if (json_is_number(v) && f >= min && f <= max)
        return f;
    if (json_is_number(v))
        config_json_fail(
            c, STATUS_INVALID, "\"%s\" is %g, but %g to %g was expected", key, f, min, max);
    else
        config_json_fail(c, STATUS_INVALID,
            "\"%s\" is not a number; one from %g to %g was expected", key, min, max);
    return min;
}

double config_json_need_f64(struct config_json *c, const char *key, double min, double max)
{
    need(c, key);
    return config_json_f64(c, key, min, min, max);
}

bool config_json_bool(struct config_json *c, const char *key, bool missing)
{
    const json_t *v = config_json_get(c, key);
    if (!v)
        return missing;
    if (!json_is_boolean(v))
        config_json_fail(c, STATUS_INVALID, "\"%s\" is neither true nor false", key);
    return json_is_true(v);
}

const char *config_json_text(struct config_json *c, const char *key, const char *missing)
{
    const json_t *v = config_json_get(c, key);
    if (!v)
        return missing;
    if (!json_is_string(v)) {
        config_json_fail(c, STATUS_INVALID, "\"%s\" is not a string", key);
        return missing;
    }
    return json_string_value(v);
}
