// SPDX-License-Identifier: Apache-2.0
// Every template of ../shared/oracle/templates over every conversation there, against what
// transformers renders: the same text, or a sentence where it raises.
#include "model/template.h"
#include "tests/test_support.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// The text of a template by its key: "templates/PATH", "PATH.json#chat_template" or
// "PATH.json#chat_template:NAME", below the oracles.
static char *source_of(const char *shared, const char *key)
{
    char path[1024], file[512];
    snprintf(file, sizeof file, "%.*s", (int)strcspn(key, "#"), key);
    snprintf(path, sizeof path, "%s/oracle/%s", shared, file);
    const char *name = strchr(key, '#');
    if (name) {
        json_t *config = json_load_file(path, JSON_DECODE_INT_AS_REAL, NULL), *one;
        json_t *value = json_object_get(config, "chat_template");
        size_t i;
        const char *text = json_string_value(value);
        name = strchr(name, ':');
        json_array_foreach(value, i,
            one) if (name && strcmp(json_string_value(json_object_get(one, "name")), name + 1) == 0)
            text = json_string_value(json_object_get(one, "template"));
        char *copy = text ? strdup(text) : NULL;
        json_decref(config);
        return copy;
    }
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    char *text = calloc(1, TEMPLATE_SOURCE_BYTES_MAX + 1);
    size_t n = fread(text, 1, TEMPLATE_SOURCE_BYTES_MAX, f);
    text[n] = '\0';
    fclose(f);
    return text;
}

// 2024-07-26 12:00, where the goldens' clock stands.
static int64_t golden_time(void)
{
    struct tm tm = {.tm_year = 124, .tm_mon = 6, .tm_mday = 26, .tm_hour = 12, .tm_isdst = -1};
    return mktime(&tm);
}

struct asked {
    char *messages, *tools, *kwargs;
    struct template_chat chat;
};

static void ask(struct asked *a, const json_t *conversation)
{
    json_t *kwargs = json_pack("{s:s, s:s, s:s, s:s}", "bos_token", "<BOS>", "eos_token", "<EOS>",
        "pad_token", "<PAD>", "unk_token", "<UNK>");
    const char *name;
    json_t *value;
    *a = (struct asked){.chat = {.add_generation_prompt = true, .now_s = golden_time()}};
    json_object_foreach((json_t *)(uintptr_t)conversation, name, value)
    {
        if (strcmp(name, "messages") == 0)
            a->messages = json_dumps(value, 0);
        else if (strcmp(name, "tools") == 0)
            a->tools = json_dumps(value, 0);
        else if (strcmp(name, "add_generation_prompt") == 0)
            a->chat.add_generation_prompt = json_is_true(value);
        else
            json_object_set(kwargs, name, value);
    }
    a->kwargs = json_dumps(kwargs, 0);
    json_decref(kwargs);
    a->chat.messages = a->messages;
    a->chat.n_messages = strlen(a->messages);
    a->chat.tools = a->tools;
    a->chat.n_tools = a->tools ? strlen(a->tools) : 0;
    a->chat.kwargs = a->kwargs;
    a->chat.n_kwargs = strlen(a->kwargs);
}

struct tally {
    unsigned equal, refused, wrong;
    uint64_t steps;
};

static void compare(const struct template *t, const char *where, const json_t *conversation,
    const json_t *want, struct tally *tally)
{
    struct asked a;
    struct error err = {0};
    struct template_text_spans out;
    const json_t *text = json_object_get(want, "text");
    template_text_spans_init(&out);
    ask(&a, conversation);
    enum status st = template_render_one(t, &a.chat, &out, &err);
    bool equal =
        st == STATUS_OK && text && out.text.size == json_string_length(text) &&
        (out.text.size == 0 || memcmp(out.text.data, json_string_value(text), out.text.size) == 0);
    if (equal) {
        tally->equal++;
        tally->steps = out.steps > tally->steps ? out.steps : tally->steps;
    } else if (!text && st != STATUS_OK && err.text[0]) {
        tally->refused++;
    } else {
        tally->wrong++;
        printf("%s: %s %s\n  expected %.2000s\n  got      %.*s\n", where, status_name(st), err.text,
            text ? json_string_value(text) : json_string_value(json_object_get(want, "error")),
            (int)out.text.size, out.text.data ? (char *)out.text.data : "");
    }
    template_text_spans_deinit(&out);
    free(a.messages);
    free(a.tools);
    free(a.kwargs);
}

static void one_template(
    const char *shared, const char *key, const json_t *all, const json_t *want, struct tally *tally)
{
    struct error err = {0};
    struct template *t = NULL;
    char *source = source_of(shared, key);
    const char *name;
    json_t *conversation;
    if (!source)
        print_error("%s: no such template\n", key);
    assert_non_null(source);
    enum status st = template_parse(source, strlen(source), &t, &err);
    if (st != STATUS_OK)
        printf("%s: %s\n", key, err.text);
    json_object_foreach(json_object_get(all, "conversations"), name, conversation)
    {
        char where[600];
        snprintf(where, sizeof where, "%s, %s", key, name);
        const json_t *golden = json_object_get(want, name);
        if (t)
            compare(t, where, conversation, golden, tally);
        else if (json_object_get(golden, "text"))
            tally->wrong++;
        else
            tally->refused++;
    }
    template_free(t);
    free(source);
}

static void templates_render_as_transformers_does(void **state)
{
    (void)state;
    const char *shared = test_shared_dir(), *key;
    json_t *want;
    struct tally tally = {0};
    if (!shared)
        return;
    json_t *all =
        json_load_file(test_path(shared, "oracle/templates/golden_renderings.json"), 0, NULL);
    assert_non_null(all);
    json_object_foreach(json_object_get(all, "rendered"), key, want)
        one_template(shared, key, all, want, &tally);
    printf("%u texts equal, %u refused as they should be, %u wrong; at most %llu steps\n",
        tally.equal, tally.refused, tally.wrong, (unsigned long long)tally.steps);
    assert_int_equal(tally.wrong, 0);
    assert_true(tally.equal > 500 && tally.refused > 50);
    json_decref(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(templates_render_as_transformers_does)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
