// SPDX-License-Identifier: Apache-2.0
#include "model/text_file.h"
#include "model/tokenizer_json.h"
#include "model/tokenizer_load.h"

#include <stdlib.h>

enum status tokenizer_load_file(
    const char *dir, const char *name, char **text, size_t *n, struct error *err)
{
    char path[TEXT_FILE_PATH_BYTES];
    if (!text_file_path(path, dir, name))
        return status_fail(err, STATUS_TOO_LARGE, "the path of %s is too long", name);
    return text_file_read(path, TOKENIZER_FILE_BYTES_MAX, text, n, err);
}

// Parses a file that need not exist: *out stays NULL then.
static enum status optional_file(const char *dir, const char *name, json_t **out, struct error *err)
{
    char *text;
    size_t n;
    enum status st = tokenizer_load_file(dir, name, &text, &n, err);
    if (st == STATUS_NOT_FOUND)
        return STATUS_OK;
    TRY(st);
    // These files often have a model_max_length that fits into no integer.
    st = tokenizer_json_parse(name, text, n, JSON_DECODE_INT_AS_REAL, out, err);
    free(text);
    return st;
}

// The id of the token that `field` names, as a text or as {"content": text}.
static uint32_t named_token(const struct tokenizer *t, const json_t *file, const char *field)
{
    const json_t *v = json_object_get(file, field);
    if (json_is_object(v))
        v = json_object_get(v, "content");
    return json_is_string(v) ? tokenizer_id(t, json_string_value(v), json_string_length(v))
                             : TOKENIZER_NONE;
}

static void add_around(struct tokenizer_around *a, uint32_t id, const json_t *wanted)
{
    if (json_is_true(wanted) && id != TOKENIZER_NONE)
        a->ids[a->n++] = id;
}

enum status tokenizer_load_config(struct tokenizer *t, const char *dir, struct error *err)
{
    json_t *config = NULL, *map = NULL;
    enum status st = optional_file(dir, "tokenizer_config.json", &config, err);
    if (st == STATUS_OK)
        st = optional_file(dir, "special_tokens_map.json", &map, err);
    if (st == STATUS_OK) {
        const json_t *from = json_object_get(config, "bos_token") ? config : map;
        t->bos = named_token(t, from, "bos_token");
        from = json_object_get(config, "eos_token") ? config : map;
        t->eos = named_token(t, from, "eos_token");
        if (t->before.n == 0 && t->after.n == 0) {
            add_around(&t->before, t->bos, json_object_get(config, "add_bos_token"));
            add_around(&t->after, t->eos, json_object_get(config, "add_eos_token"));
        }
    }
    json_decref(config);
    json_decref(map);
    return st;
}
