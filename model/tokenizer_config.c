// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/config.h"
#include "model/tokenizer_json.h"
#include "model/tokenizer_load.h"

#include <stdlib.h>
#include <string.h>

// ---- reading -------------------------------------------------------------------------------

static enum status read_one(json_t **out, const char *name, const struct tokenizer_file *files,
    size_t n_files, struct error *err)
{
    for (size_t i = 0; i < n_files; i++) {
        // These files often have a model_max_length that fits into no integer.
        if (strcmp(files[i].name, name) == 0)
            return tokenizer_json_parse(
                name, files[i].data, files[i].n, JSON_DECODE_INT_AS_REAL, out, err);
    }
    return STATUS_OK;
}

enum status tokenizer_side_read(struct tokenizer_side *side, const struct tokenizer_file *files,
    size_t n_files, struct error *err)
{
    *side = (struct tokenizer_side){0};
    enum status st = read_one(&side->config, "tokenizer_config.json", files, n_files, err);
    if (st == STATUS_OK)
        st = read_one(&side->map, "special_tokens_map.json", files, n_files, err);
    if (st == STATUS_OK)
        st = read_one(&side->added, "added_tokens.json", files, n_files, err);
    if (st != STATUS_OK)
        tokenizer_side_free(side);
    return st;
}

void tokenizer_side_free(struct tokenizer_side *side)
{
    json_decref(side->config);
    json_decref(side->map);
    json_decref(side->added);
    *side = (struct tokenizer_side){0};
}

// ---- fields --------------------------------------------------------------------------------

const json_t *tokenizer_side_field(const struct tokenizer_side *side, const char *field)
{
    const json_t *v = json_object_get(side->config, field);
    return v ? v : json_object_get(side->map, field);
}

static const char *content_of(const json_t *value)
{
    if (json_is_object(value))
        value = json_object_get(value, "content");
    return json_string_value(value);
}

const char *tokenizer_side_token(const struct tokenizer_side *side, const char *field)
{
    return content_of(tokenizer_side_field(side, field));
}

bool tokenizer_side_bool(const struct tokenizer_side *side, const char *field, bool absent)
{
    const json_t *v = json_object_get(side->config, field);
    return json_is_boolean(v) ? json_is_true(v) : absent;
}

void tokenizer_side_class(const struct tokenizer_side *side, char out[64])
{
    const char *name = json_string_value(json_object_get(side->config, "tokenizer_class"));
    size_t n = name ? strlen(name) : 0;
    if (n > 4 && strcmp(name + n - 4, "Fast") == 0)
        n -= 4;
    if (n > 63)
        n = 0;
    if (n > 0)
        memcpy(out, name, n);
    out[n] = '\0';
}

// ---- added tokens --------------------------------------------------------------------------

// Rows as tokenizer.json has them. Ids that no file says are TOKENIZER_VOCAB_MAX and what follows.
struct rows {
    json_t *list;
    json_t *by_content;
    json_int_t next_unknown;
};

static bool rows_add(
    struct rows *r, const char *content, json_int_t id, const json_t *flags, bool special)
{
    static const char *const FLAGS[] = {"lstrip", "rstrip", "single_word", "normalized"};
    if (!content || content[0] == '\0')
        return true;
    json_t *row = json_object_get(r->by_content, content);
    if (row)
        return !special || json_object_set_new(row, "special", json_true()) == 0;
    row = json_pack("{s:s, s:I, s:b}", "content", content, "id", id >= 0 ? id : r->next_unknown++,
        "special", special || json_is_true(json_object_get(flags, "special")));
    for (size_t i = 0; row && i < COUNT_OF(FLAGS); i++)
        json_object_set_new(
            row, FLAGS[i], json_boolean(json_is_true(json_object_get(flags, FLAGS[i]))));
    bool ok = row && json_array_append(r->list, row) == 0 &&
              json_object_set(r->by_content, content, row) == 0;
    json_decref(row);
    return ok;
}

// "added_tokens_decoder": {"32000": {"content": ...}}
static bool add_decoder(struct rows *r, json_t *decoder)
{
    const char *key;
    json_t *value;
    bool ok = true;
    json_object_foreach(decoder, key, value)
    {
        int64_t id;
        if (config_int_parse(key, &id) && id >= 0 && id < (int64_t)TOKENIZER_VOCAB_MAX)
            ok = ok && rows_add(r, content_of(value), id, value, false);
    }
    return ok;
}

// added_tokens.json: {"<x>": 32000}
static bool add_added(struct rows *r, json_t *added)
{
    const char *content;
    json_t *id;
    bool ok = true;
    json_object_foreach(added, content, id)
    {
        double v = json_number_value(id);
        if (v >= 0 && v < TOKENIZER_VOCAB_MAX)
            ok = ok && rows_add(r, content, (json_int_t)v, NULL, false);
    }
    return ok;
}

// The named ones are special, whatever the other files say.
static bool add_named(struct rows *r, const struct tokenizer_side *side)
{
    static const char *const NAMES[] = {
        "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
    bool ok = true;
    for (size_t i = 0; i < COUNT_OF(NAMES); i++) {
        const json_t *v = tokenizer_side_field(side, NAMES[i]);
        ok = ok && rows_add(r, content_of(v), -1, json_is_object(v) ? v : NULL, true);
    }
    const json_t *more = tokenizer_side_field(side, "additional_special_tokens");
    for (size_t i = 0; i < json_array_size(more); i++) {
        const json_t *v = json_array_get(more, i);
        ok = ok && rows_add(r, content_of(v), -1, json_is_object(v) ? v : NULL, true);
    }
    return ok;
}

static int by_id(const void *a, const void *b)
{
    json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "id"));
    json_int_t y = json_integer_value(json_object_get(*(json_t *const *)b, "id"));
    return (x > y) - (x < y);
}

static json_t *sorted(const json_t *list)
{
    size_t n = json_array_size(list);
    json_t **rows = malloc((n + 1) * sizeof(json_t *));
    json_t *out = json_array();
    for (size_t i = 0; rows && i < n; i++)
        rows[i] = json_array_get(list, i);
    if (rows && out)
        qsort(rows, n, sizeof(json_t *), by_id);
    bool ok = rows && out;
    for (size_t i = 0; ok && i < n; i++)
        ok = json_array_append(out, rows[i]) == 0;
    free(rows);
    if (ok)
        return out;
    json_decref(out);
    return NULL;
}

enum status tokenizer_side_added(const struct tokenizer_side *side, json_t **out, struct error *err)
{
    struct rows r = {json_array(), json_object(), TOKENIZER_VOCAB_MAX};
    json_t *decoder = json_object_get(side->config, "added_tokens_decoder");
    json_t *list = NULL;
    if (r.list && r.by_content && add_decoder(&r, decoder) && add_added(&r, side->added) &&
        add_named(&r, side))
        list = sorted(r.list);
    json_decref(r.list);
    json_decref(r.by_content);
    if (!list)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the tokenizer");
    *out = list;
    return STATUS_OK;
}

// ---- what surrounds a text -----------------------------------------------------------------

static uint32_t named_id(
    const struct tokenizer *t, const struct tokenizer_side *side, const char *field)
{
    const char *content = tokenizer_side_token(side, field);
    return content ? tokenizer_id(t, content, strlen(content)) : TOKENIZER_NONE;
}

static void add_around(struct tokenizer_around *a, uint32_t id, bool wanted)
{
    if (wanted && id != TOKENIZER_NONE)
        a->ids[a->n++] = id;
}

void tokenizer_side_apply(const struct tokenizer_side *side, struct tokenizer *t)
{
    uint32_t bos = named_id(t, side, "bos_token"), eos = named_id(t, side, "eos_token");
    if (tokenizer_side_field(side, "bos_token"))
        t->bos = bos;
    if (tokenizer_side_field(side, "eos_token"))
        t->eos = eos;
    if (t->before.n == 0 && t->after.n == 0) {
        add_around(&t->before, t->bos, tokenizer_side_bool(side, "add_bos_token", t->add_bos));
        add_around(&t->after, t->eos, tokenizer_side_bool(side, "add_eos_token", false));
    }
}
