// SPDX-License-Identifier: Apache-2.0
#include "model/serving_properties.h"

#include "base/check.h"
#include "base/config.h"
#include "base/utf8.h"
#include "model/text_file.h"

#include <stdlib.h>
#include <string.h>

enum kind { KIND_TEXT, KIND_COUNT, KIND_WORD, KIND_DEGREE, KIND_IGNORED };

static const struct row {
    const char *key;
    enum kind kind;
    size_t offset;
    int64_t min, max;
    const char *words;
} rows[] = {
#define FIELD(f) offsetof(struct serving_properties, f)
#define TEXT(k, f) {.key = k, .kind = KIND_TEXT, .offset = FIELD(f)},
#define COUNT(k, f, least, most)                                                                   \
    {.key = k, .kind = KIND_COUNT, .offset = FIELD(f), .min = least, .max = most},
#define WORD(k, f, w) {.key = k, .kind = KIND_WORD, .offset = FIELD(f), .words = w},
#define DEGREE(k) {.key = k, .kind = KIND_DEGREE},
#define IGNORED(k) {.key = k, .kind = KIND_IGNORED},
#include "model/serving_properties.def"
};

struct line {
    const char *where;
    unsigned number;
    char *key, *value;
    struct error *err;
};

static enum status fail(const struct line *l, const char *expected)
{
    return status_fail(l->err, STATUS_INVALID, "%s, line %u: %s = %.80s, but %s was expected",
        l->where, l->number, l->key, l->value, expected);
}

static bool find_word(const char *words, const char *text, uint32_t *index)
{
    size_t n = strlen(text);
    uint32_t i = 0;
    for (const char *w = words; *w; i++) {
        size_t len = strcspn(w, "|");
        if (len == n && memcmp(w, text, n) == 0) {
            *index = i;
            return true;
        }
        w += len + (w[len] == '|');
    }
    return false;
}

static enum status set_degree(const struct line *l, struct serving_properties *out)
{
    int64_t v = 0;
    out->tensor_parallel_max = strcmp(l->value, "max") == 0;
    if (!out->tensor_parallel_max && (!config_int_parse(l->value, &v) || v < 1 || v > 1024))
        return fail(l, "a number from 1 to 1024 or max");
    out->tensor_parallel_degree = (uint32_t)v;
    return STATUS_OK;
}

static enum status set(const struct row *row, const struct line *l, struct serving_properties *out)
{
    void *field = (char *)out + row->offset;
    int64_t v;
    size_t n = strlen(l->value);
    switch (row->kind) {
    case KIND_TEXT:
        if (n == 0 || n >= SERVING_PROPERTIES_TEXT_BYTES)
            return fail(l, "a text of 1 to 1023 bytes");
        memcpy(field, l->value, n + 1);
        return STATUS_OK;
    case KIND_COUNT:
        if (!config_int_parse(l->value, &v) || v < row->min || v > row->max)
            return status_fail(l->err, STATUS_INVALID,
                "%s, line %u: %s = %.80s, but a number from %lld to %lld was expected", l->where,
                l->number, l->key, l->value, (long long)row->min, (long long)row->max);
        *(uint32_t *)field = (uint32_t)v;
        return STATUS_OK;
    case KIND_WORD:
        return find_word(row->words, l->value, field) ? STATUS_OK : fail(l, row->words);
    case KIND_DEGREE:
        return set_degree(l, out);
    case KIND_IGNORED:
        return STATUS_OK;
    }
    return STATUS_OK;
}

static char *trim(char *text)
{
    static const char space[] = " \t\r\f";
    text += strspn(text, space);
    size_t n = strlen(text);
    while (n && strchr(space, text[n - 1]))
        text[--n] = 0;
    return text;
}

static enum status read_line(
    struct line *l, char *text, uint64_t *seen, struct serving_properties *out)
{
    text = trim(text);
    if (!*text || *text == '#' || *text == '!')
        return STATUS_OK;
    size_t n = strlen(text);
    char *separator = strpbrk(text, "=:");
    if (!separator || separator == text)
        return status_fail(
            l->err, STATUS_INVALID, "%s, line %u: expected \"key = value\"", l->where, l->number);
    if (text[n - 1] == '\\')
        return status_fail(l->err, STATUS_UNSUPPORTED,
            "%s, line %u: a line that goes on behind '\\' is not supported", l->where, l->number);
    *separator = 0;
    l->key = trim(text);
    l->value = trim(separator + 1);
    if (strcmp(l->key, "option.trust_remote_code") == 0)
        return strcasecmp(l->value, "false") == 0 ? STATUS_OK
                                                  : fail(l, "false (code of a model is never run)");
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (strcmp(l->key, rows[i].key) == 0) {
            if (*seen & 1ull << i)
                return status_fail(l->err, STATUS_INVALID, "%s, line %u: %s is given twice",
                    l->where, l->number, l->key);
            *seen |= 1ull << i;
            return set(&rows[i], l, out);
        }
    return status_fail(l->err, STATUS_UNSUPPORTED, "%s, line %u: the key \"%.80s\" is not known",
        l->where, l->number, l->key);
}

static enum status read_lines(
    char *copy, const char *where, struct serving_properties *out, struct error *err)
{
    struct line l = {.where = where, .err = err};
    uint64_t seen = 0;
    _Static_assert(COUNT_OF(rows) <= 64, "a bit for each key");
    for (char *next, *text = copy; text; text = next) {
        next = strchr(text, '\n');
        if (next)
            *next++ = 0;
        l.number++;
        TRY(read_line(&l, text, &seen, out));
    }
    return STATUS_OK;
}

enum status serving_properties_parse(const char *text, size_t bytes, const char *where,
    struct serving_properties *out, struct error *err)
{
    if (bytes > SERVING_PROPERTIES_BYTES_MAX)
        return status_fail(err, STATUS_TOO_LARGE, "%s has %zu bytes, but at most %d are expected",
            where, bytes, (int)SERVING_PROPERTIES_BYTES_MAX);
    if (memchr(text, 0, bytes) || !utf8_valid(text, bytes))
        return status_fail(err, STATUS_INVALID, "%s is not a UTF-8 text", where);
    struct serving_properties p = {0};
    char *copy = malloc(bytes + 1);
    if (!copy)
        return status_fail(err, STATUS_NO_MEMORY, "no memory to read %s", where);
    memcpy(copy, text, bytes);
    copy[bytes] = 0;
    enum status s = read_lines(copy, where, &p, err);
    free(copy);
    if (s == STATUS_OK)
        *out = p;
    return s;
}

enum status serving_properties_read(
    const char *dir, struct serving_properties *out, struct error *err)
{
    char path[TEXT_FILE_PATH_BYTES];
    char *text = NULL;
    size_t bytes = 0;
    if (!text_file_path(path, dir, "serving.properties"))
        return status_fail(err, STATUS_TOO_LARGE, "the path %s is too long", dir);
    enum status s = text_file_read(path, SERVING_PROPERTIES_BYTES_MAX, &text, &bytes, err);
    if (s == STATUS_NOT_FOUND) {
        memset(out, 0, sizeof *out);
        return STATUS_OK;
    }
    if (s == STATUS_OK)
        s = serving_properties_parse(text, bytes, path, out, err);
    free(text);
    return s;
}
