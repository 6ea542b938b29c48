// SPDX-License-Identifier: Apache-2.0
#include "model/template_load.h"

#include "base/check.h"
#include "model/text_file.h"
#include "model/tokenizer_json.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const special_names[] = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

// ---- adding ------------------------------------------------------------------------------------

static struct template_named *find(struct template_set *set, const char *name)
{
    for (size_t i = 0; i < set->n_named; i++)
        if (strcmp(set->named[i].name, name) == 0)
            return &set->named[i];
    return NULL;
}

// Parses a template unless there is one of that name already.
static enum status add(
    struct template_set *set, const char *name, const void *source, size_t n, struct error *err)
{
    if (find(set, name))
        return STATUS_OK;
    if (set->n_named == TEMPLATE_NAMED_MAX || strlen(name) > TEMPLATE_NAME_BYTES_MAX)
        return status_fail(err, STATUS_TOO_LARGE,
            "chat template \"%.80s\": expected at most %d of them with names of at most %d bytes",
            name, TEMPLATE_NAMED_MAX, TEMPLATE_NAME_BYTES_MAX);
    struct template_named *to = &set->named[set->n_named++];
    snprintf(to->name, sizeof to->name, "%s", name);
    to->status = template_parse(source, n, &to->parsed, &to->why);
    return to->status == STATUS_NO_MEMORY
               ? status_fail(err, STATUS_NO_MEMORY, "out of memory for the chat templates")
               : STATUS_OK;
}

static enum status add_file(
    struct template_set *set, const char *path, const char *name, struct error *err)
{
    char *text;
    size_t n;
    enum status st = text_file_read(path, TEMPLATE_SOURCE_BYTES_MAX, &text, &n, err);
    if (st == STATUS_NOT_FOUND)
        return STATUS_OK;
    TRY(st);
    st = add(set, name, text, n, err);
    free(text);
    return st;
}

// ---- files -------------------------------------------------------------------------------------

// additional_chat_templates/NAME.jinja
static enum status add_folder(struct template_set *set, const char *dir, struct error *err)
{
    char path[TEXT_FILE_PATH_BYTES];
    if (!text_file_path(path, dir, "additional_chat_templates"))
        return status_fail(err, STATUS_TOO_LARGE, "the path of the chat templates is too long");
    DIR *d = opendir(path);
    enum status st = STATUS_OK;
    for (struct dirent *e; d && st == STATUS_OK && (e = readdir(d));) {
        char file[TEXT_FILE_PATH_BYTES], name[sizeof e->d_name];
        size_t n = strlen(e->d_name);
        if (n < 7 || strcmp(e->d_name + n - 6, ".jinja") != 0 ||
            !text_file_path(file, path, e->d_name))
            continue;
        snprintf(name, sizeof name, "%.*s", (int)(n - 6), e->d_name);
        st = add_file(set, file, name, err);
    }
    if (d)
        closedir(d);
    return st;
}

// A text, or a list of {"name", "template"}.
static enum status add_json(struct template_set *set, const json_t *value, struct error *err)
{
    if (json_is_string(value))
        return add(set, "default", json_string_value(value), json_string_length(value), err);
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        const json_t *name = json_object_get(item, "name"),
                     *text = json_object_get(item, "template");
        if (json_is_string(name) && json_is_string(text))
            TRY(add(set, json_string_value(name), json_string_value(text), json_string_length(text),
                err));
    }
    return STATUS_OK;
}

// Parses a file that need not be there: *out stays NULL then.
static enum status load(const char *dir, const char *name, json_t **out, struct error *err)
{
    char path[TEXT_FILE_PATH_BYTES], *text;
    size_t n;
    if (!text_file_path(path, dir, name))
        return status_fail(err, STATUS_TOO_LARGE, "the path of %s is too long", name);
    enum status st = text_file_read(path, TOKENIZER_FILE_BYTES_MAX, &text, &n, err);
    if (st == STATUS_NOT_FOUND)
        return STATUS_OK;
    TRY(st);
    st = tokenizer_json_parse(name, text, n, JSON_DECODE_INT_AS_REAL, out, err);
    free(text);
    return st;
}

// A special token is a text, or {"content": text}.
static enum status add_special(
    struct template_set *set, const char *name, const json_t *value, struct error *err)
{
    if (json_is_object(value))
        value = json_object_get(value, "content");
    if (!json_is_string(value))
        return STATUS_OK;
    size_t n = json_string_length(value);
    char *text = malloc(n + 1);
    if (!text)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the special tokens");
    memcpy(text, json_string_value(value), n + 1);
    set->specials[set->n_specials++] = (struct template_special){name, text, n};
    return STATUS_OK;
}

static enum status add_specials(
    struct template_set *set, const json_t *config, const json_t *map, struct error *err)
{
    _Static_assert(COUNT_OF(special_names) <= TEMPLATE_SPECIALS_MAX, "all fit");
    for (size_t i = 0; i < COUNT_OF(special_names); i++) {
        const json_t *value = json_object_get(config, special_names[i]);
        if (!value || json_is_null(value))
            value = json_object_get(map, special_names[i]);
        TRY(add_special(set, special_names[i], value, err));
    }
    return STATUS_OK;
}

static enum status fill(struct template_set *set, const char *dir, struct error *err)
{
    char path[TEXT_FILE_PATH_BYTES];
    json_t *config = NULL, *map = NULL, *processor = NULL;
    if (!text_file_path(path, dir, "chat_template.jinja"))
        return status_fail(err, STATUS_TOO_LARGE, "the path of the chat template is too long");
    TRY(add_file(set, path, "default", err));
    TRY(add_folder(set, dir, err));
    enum status st = load(dir, "chat_template.json", &processor, err);
    if (st == STATUS_OK)
        st = load(dir, "tokenizer_config.json", &config, err);
    if (st == STATUS_OK)
        st = load(dir, "special_tokens_map.json", &map, err);
    if (st == STATUS_OK)
        st = add_json(set, json_object_get(processor, "chat_template"), err);
    if (st == STATUS_OK)
        st = add_json(set, json_object_get(config, "chat_template"), err);
    if (st == STATUS_OK)
        st = add_specials(set, config, map, err);
    json_decref(processor);
    json_decref(config);
    json_decref(map);
    return st;
}

// ---- the set -----------------------------------------------------------------------------------

enum status template_set_load(const char *dir, struct template_set **out, struct error *err)
{
    struct template_set *set = calloc(1, sizeof *set);
    if (!set)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the chat templates");
    enum status st = fill(set, dir, err);
    if (st != STATUS_OK || set->n_named == 0) {
        template_set_free(set);
        set = NULL;
    }
    if (st == STATUS_OK)
        *out = set;
    return st;
}

void template_set_free(struct template_set *set)
{
    if (!set)
        return;
    for (size_t i = 0; i < set->n_named; i++)
        template_free(set->named[i].parsed);
    for (size_t i = 0; i < set->n_specials; i++)
        free(set->specials[i].text);
    free(set);
}

enum status template_load_find(const struct template_set *set, const char *name, bool tools,
    const struct template_named **out, struct error *err)
{
    struct template_set *s = (struct template_set *)(uintptr_t)set;
    const struct template_named *found = NULL;
    if (name && *name)
        found = find(s, name);
    else if (!(tools && (found = find(s, "tool_use"))))
        found = find(s, "default");
    if (!found)
        return status_fail(err, STATUS_NOT_FOUND,
            "the model has no chat template named \"%.64s\", the first that it has is \"%s\"",
            name && *name ? name : "default", s->named[0].name);
    if (!found->parsed)
        return status_fail(err, found->status, "the chat template of the model cannot be used: %s",
            found->why.text);
    *out = found;
    return STATUS_OK;
}

enum status template_set_has(
    const struct template_set *set, const char *name, bool tools, struct error *err)
{
    const struct template_named *named;
    return template_load_find(set, name, tools, &named, err);
}
