// SPDX-License-Identifier: Apache-2.0
#include "base/config.h"

#include "base/check.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *config_env(const char *name)
{
    return getenv(name);
}

bool config_int_parse(const char *text, int64_t *out)
{
    if (!*text || isspace((unsigned char)*text))
        return false;
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || *end)
        return false;
    *out = v;
    return true;
}

bool config_bytes_parse(const char *text, uint64_t *out)
{
    if (!isdigit((unsigned char)*text))
        return false;
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno)
        return false;
    static const char letters[] = "KMGT";
    int shift = 0;
    const char *found = *end ? strchr(letters, toupper((unsigned char)*end)) : NULL;
    if (found) {
        shift = 10 * (int)(found - letters + 1);
        end++;
        if (strcmp(end, "iB") == 0 || strcmp(end, "B") == 0)
            end += strlen(end);
    }
    if (*end || v > UINT64_MAX >> shift)
        return false;
    *out = (uint64_t)v << shift;
    return true;
}

static bool choice_parse(const char *choices, const char *text, int *out)
{
    size_t n = strlen(text);
    int index = 0;
    for (const char *p = choices; *p; index++) {
        size_t len = strcspn(p, "|");
        if (len == n && memcmp(p, text, n) == 0) {
            *out = index;
            return true;
        }
        p += len + (p[len] == '|');
    }
    return false;
}

static bool in_range(const struct config_row *row, double v)
{
    return (row->min == 0 && row->max == 0) || (v >= row->min && v <= row->max);
}

// As whole numbers: beyond 2^53 neighbours are one double.
static bool int_in_range(const struct config_row *row, int64_t v)
{
    return (row->min == 0 && row->max == 0) || (v >= (int64_t)row->min && v <= (int64_t)row->max);
}

static enum status set_number(
    const struct config_row *row, const char *text, void *field, struct error *err)
{
    int64_t i = 0;
    uint64_t bytes = 0;
    double f = 0;
    bool ok;
    if (row->type == CONFIG_INT) {
        ok = config_int_parse(text, &i) && int_in_range(row, i);
    } else if (row->type == CONFIG_BYTES) {
        ok = config_bytes_parse(text, &bytes) && in_range(row, (double)bytes);
    } else {
        char *end;
        f = strtod(text, &end);
        ok = *text && !*end && isfinite(f) && in_range(row, f);
    }
    if (!ok && row->min == 0 && row->max == 0)
        return status_fail(err, STATUS_INVALID, "--%s is \"%.64s\", expected a number%s", row->name,
            text, row->type == CONFIG_BYTES ? " of bytes such as 64MiB" : "");
    if (!ok)
        return status_fail(err, STATUS_INVALID,
            "--%s is \"%.64s\", expected a number from %.16g to %.16g", row->name, text, row->min,
            row->max);
    if (row->type == CONFIG_INT)
        memcpy(field, &i, sizeof i);
    else if (row->type == CONFIG_BYTES)
        memcpy(field, &bytes, sizeof bytes);
    else
        memcpy(field, &f, sizeof f);
    return STATUS_OK;
}

static enum status set_flag(
    const struct config_row *row, const char *text, void *field, struct error *err)
{
    bool on = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
    if (!on && strcmp(text, "false") != 0 && strcmp(text, "0") != 0)
        return status_fail(
            err, STATUS_INVALID, "--%s is \"%.64s\", expected true or false", row->name, text);
    memcpy(field, &on, sizeof on);
    return STATUS_OK;
}

enum status config_set(const struct config_row *row, const char *text, void *out, struct error *err)
{
    void *field = (char *)out + row->offset;
    int choice;
    switch (row->type) {
    case CONFIG_FLAG:
        return set_flag(row, text, field, err);
    case CONFIG_TEXT:
        memcpy(field, &text, sizeof text);
        return STATUS_OK;
    case CONFIG_ENUM:
        if (!choice_parse(row->choices, text, &choice))
            return status_fail(err, STATUS_INVALID, "--%s is \"%.64s\", expected one of %s",
                row->name, text, row->choices);
        memcpy(field, &choice, sizeof choice);
        return STATUS_OK;
    case CONFIG_LIST: {
        struct config_list *list = field;
        if (list->count == CONFIG_LIST_MAX)
            return status_fail(err, STATUS_INVALID, "--%s is given more than %d times", row->name,
                CONFIG_LIST_MAX);
        list->item[list->count++] = text;
        return STATUS_OK;
    }
    default:
        return set_number(row, text, field, err);
    }
}

static void print_choice(const char *choices, int index, struct buf *out)
{
    for (; index > 0; index--)
        choices = strchr(choices, '|') + 1;
    buf_append(out, choices, strcspn(choices, "|"));
}

bool config_print(const struct config_row *row, const void *values, struct buf *out)
{
    const void *field = (const char *)values + row->offset;
    switch (row->type) {
    case CONFIG_FLAG:
        buf_printf(out, "%s", *(const bool *)field ? "true" : "false");
        return true;
    case CONFIG_INT:
        buf_printf(out, "%lld", (long long)*(const int64_t *)field);
        return true;
    case CONFIG_BYTES:
        buf_printf(out, "%llu", (unsigned long long)*(const uint64_t *)field);
        return true;
    case CONFIG_FLOAT:
        buf_printf(out, "%.17g", *(const double *)field);
        return true;
    case CONFIG_ENUM:
        print_choice(row->choices, *(const int *)field, out);
        return true;
    case CONFIG_TEXT: {
        const char *text = *(const char *const *)field;
        if (text)
            buf_append(out, text, strlen(text));
        return text != NULL;
    }
    default:
        return false;
    }
}

void config_spell(struct config_row *rows, size_t n_rows, char (*names)[CONFIG_NAME_BYTES])
{
    for (size_t i = 0; i < n_rows; i++) {
        check(strlen(rows[i].name) < CONFIG_NAME_BYTES);
        snprintf(names[i], CONFIG_NAME_BYTES, "%s", rows[i].name);
        for (char *p = names[i]; (p = strchr(p, '_'));)
            *p = '-';
        rows[i].name = names[i];
    }
}

static enum status set_from_environment(const struct config_row *row, void *out, struct error *err)
{
    char name[80] = "PHALANX_";
    size_t n = strlen(name);
    for (const char *p = row->name; *p && n + 1 < sizeof name; p++)
        name[n++] = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
    name[n] = '\0';
    const char *value = config_env(name);
    if (!value)
        return STATUS_OK;
    enum status s = config_set(row, value, out, err);
    if (s != STATUS_OK && err) {
        struct error inner = *err;
        return status_fail(err, s, "environment variable %s: %.400s", name, inner.text);
    }
    return s;
}

static const struct config_row *row_find(
    const struct config_row *rows, size_t n_rows, const char *name, size_t n)
{
    for (size_t i = 0; i < n_rows; i++)
        if (strlen(rows[i].name) == n && memcmp(rows[i].name, name, n) == 0)
            return &rows[i];
    return NULL;
}

// Handles argv[*at], and the next word where the option takes a value.
static enum status parse_option(const struct config_row *rows, size_t n_rows, int argc,
    char *const *argv, int *at, void *out, struct error *err)
{
    const char *word = argv[*at] + 2;
    const char *equals = strchr(word, '=');
    size_t n = equals ? (size_t)(equals - word) : strlen(word);
    const struct config_row *row = row_find(rows, n_rows, word, n);
    if (!row)
        return status_fail(err, STATUS_INVALID,
            "unknown option --%.*s, see --help for those that exist", n > 64 ? 64 : (int)n, word);
    if (equals)
        return config_set(row, equals + 1, out, err);
    if (row->type == CONFIG_FLAG)
        return config_set(row, "true", out, err);
    if (*at + 1 >= argc)
        return status_fail(err, STATUS_INVALID, "--%s needs a value (%s)", row->name,
            row->value_name ? row->value_name : "text");
    *at += 1;
    return config_set(row, argv[*at], out, err);
}

enum status config_parse(const struct config_row *rows, size_t n_rows, int argc, char *const *argv,
    void *out, struct config_list *positional, bool *help, struct error *err)
{
    *help = false;
    for (size_t i = 0; i < n_rows; i++) {
        if (rows[i].default_text)
            check(config_set(&rows[i], rows[i].default_text, out, NULL) == STATUS_OK);
        TRY(set_from_environment(&rows[i], out, err));
    }
    bool options = true;
    for (int at = 1; at < argc; at++) {
        const char *word = argv[at];
        if (options && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)) {
            *help = true;
            return STATUS_OK;
        }
        if (options && strcmp(word, "--") == 0) {
            options = false;
        } else if (options && strncmp(word, "--", 2) == 0) {
            TRY(parse_option(rows, n_rows, argc, argv, &at, out, err));
        } else if (!positional) {
            return status_fail(err, STATUS_INVALID,
                "unexpected word \"%.64s\", expected options only, see --help", word);
        } else if (positional->count == CONFIG_LIST_MAX) {
            return status_fail(err, STATUS_INVALID, "more than %d words", CONFIG_LIST_MAX);
        } else {
            positional->item[positional->count++] = word;
        }
    }
    return STATUS_OK;
}

void config_help(const struct config_row *rows, size_t n_rows, FILE *to)
{
    for (size_t i = 0; i < n_rows; i++) {
        const struct config_row *row = &rows[i];
        char left[96];
        const char *value = row->type == CONFIG_FLAG ? ""
                            : row->choices           ? row->choices
                            : row->value_name        ? row->value_name
                                                     : "TEXT";
        snprintf(left, sizeof left, "--%s%s%s", row->name, *value ? " " : "", value);
        fprintf(to, "  %-34s %s", left, row->help);
        if (row->default_text)
            fprintf(to, " [%s]", row->default_text);
        fputc('\n', to);
    }
}
