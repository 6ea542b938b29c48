// SPDX-License-Identifier: Apache-2.0
#include "model/template_internal.h"

#include "model/template_load.h"

#include <stdlib.h>
#include <string.h>

enum { SOURCE_MEMORY_FACTOR = 256 }; // a byte of source makes at most so much of a tree

// ---- life cycle --------------------------------------------------------------------------------

enum status template_parse(const void *source, size_t n, struct template **out, struct error *err)
{
    if (n > TEMPLATE_SOURCE_BYTES_MAX)
        return status_fail(err, STATUS_TOO_LARGE,
            "the template has %zu bytes, expected at most %zu", n, TEMPLATE_SOURCE_BYTES_MAX);
    struct template *t = calloc(1, sizeof *t);
    if (!t)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the template");
    arena_init(&t->arena, (n + 4096) * SOURCE_MEMORY_FACTOR);
    enum status st = template_parse_program(t, source, n, err);
    if (st != STATUS_OK) {
        template_free(t);
        return st;
    }
    *out = t;
    return STATUS_OK;
}

void template_free(struct template *t)
{
    if (!t)
        return;
    arena_reset(&t->arena);
    free(t);
}

void template_text_spans_init(struct template_text_spans *out)
{
    *out = (struct template_text_spans){0};
    buf_init(&out->text, TEMPLATE_OUTPUT_BYTES_MAX);
}

void template_text_spans_deinit(struct template_text_spans *out)
{
    buf_deinit(&out->text);
    free(out->spans);
    *out = (struct template_text_spans){0};
}

// ---- limits ------------------------------------------------------------------------------------

enum status template_step(struct template_run *r, uint64_t steps)
{
    r->steps += steps;
    if (steps <= r->steps_max && r->steps <= r->steps_max)
        return STATUS_OK;
    return status_fail(r->err, STATUS_TOO_LARGE,
        "the template takes more than %llu steps for this conversation",
        (unsigned long long)r->steps_max);
}

enum status template_no_memory(struct template_run *r)
{
    return status_fail(r->err, STATUS_TOO_LARGE,
        "the template takes more than %zu MiB for this conversation",
        TEMPLATE_MEMORY_BYTES_MAX >> 20);
}

enum status template_enter(struct template_run *r)
{
    if (r->depth >= TEMPLATE_DEPTH_MAX)
        return status_fail(r->err, STATUS_TOO_LARGE,
            "the template nests calls and values more than %d deep", TEMPLATE_DEPTH_MAX);
    r->depth++;
    return STATUS_OK;
}

void template_leave(struct template_run *r)
{
    r->depth--;
}

// ---- names of a conversation -------------------------------------------------------------------

static enum status set_name(
    struct template_run *r, const char *name, size_t n, const struct template_value *value)
{
    // A name that the template does not have is of no use to it.
    const struct template_name *interned = template_parse_find(r->t, name, n);
    return interned ? template_exec_set(r, interned, value) : STATUS_OK;
}

static bool is_word(struct template_text text)
{
    for (size_t i = 0; i < text.n; i++) {
        uint8_t c = text.data[i], lower = c | 0x20;
        if (!(c >= '0' && c <= '9') && !(lower >= 'a' && lower <= 'z') && c != '_' && c != '-')
            return false;
    }
    return text.n > 0 && text.n <= 64;
}

static const char *json_kind(const json_t *json)
{
    static const char *const names[] = {
        "an object", "a list", "a text", "a number", "a number", "true", "false", "null"};
    return names[json_typeof(json)];
}

// Each message is an object with a role; a role that is one word is trusted.
static enum status check_messages(struct template_run *r, const struct template_list *messages)
{
    struct template_text role_name = TEMPLATE_LITERAL("role");
    struct template_value role = {.kind = TEMPLATE_TEXT, .text = &role_name};
    for (size_t i = 0; i < messages->n; i++) {
        const struct template_value *v = &messages->items[i], *found = NULL;
        if (v->kind == TEMPLATE_DICT)
            TRY(template_dict_find(r, v->dict, &role, &found));
        if (!found || found->kind != TEMPLATE_TEXT)
            return status_fail(r->err, STATUS_INVALID,
                "messages[%zu] is not an object with a \"role\" that is a text", i);
        struct template_text text = *found->text;
        text.taint = NULL;
        if (is_word(text))
            TRY(template_make_text(r, text, (struct template_value *)(uintptr_t)found));
    }
    return STATUS_OK;
}

struct document {
    const char *what;
    const void *text;
    size_t n;
    bool object; // or a list
};

static enum status parse_json(
    struct template_run *r, const struct document *d, struct template_value *out)
{
    json_error_t at;
    json_t *json = json_loadb(d->text, d->n, JSON_ALLOW_NUL, &at);
    if (!json)
        return status_fail(r->err, STATUS_INVALID, "%s is not valid JSON: %s (byte %d)", d->what,
            at.text, at.position);
    enum status st = STATUS_OK;
    if (d->object ? !json_is_object(json) : !json_is_array(json))
        st = status_fail(r->err, STATUS_INVALID, "%s is %s, expected %s", d->what, json_kind(json),
            d->object ? "an object" : "a list");
    if (st == STATUS_OK)
        st = template_from_json(r, json, true, out);
    json_decref(json);
    return st;
}

static enum status set_documents(
    struct template_run *r, const struct template_chat *chat, struct template_value *messages)
{
    struct template_value value = template_none();
    TRY(set_name(r, "tools", 5, &value));
    TRY(set_name(r, "documents", 9, &value));
    TRY(parse_json(
        r, &(struct document){"messages", chat->messages, chat->n_messages, false}, messages));
    if (messages->list->n == 0)
        return status_fail(r->err, STATUS_INVALID, "messages is empty, expected at least one");
    TRY(check_messages(r, messages->list));
    value = template_bool(chat->add_generation_prompt);
    TRY(set_name(r, "add_generation_prompt", 21, &value));
    if (chat->tools) {
        TRY(parse_json(r, &(struct document){"tools", chat->tools, chat->n_tools, false}, &value));
        TRY(set_name(r, "tools", 5, &value));
    }
    if (!chat->kwargs)
        return STATUS_OK;
    TRY(parse_json(
        r, &(struct document){"chat_template_kwargs", chat->kwargs, chat->n_kwargs, true}, &value));
    for (size_t i = 0; i < value.dict->n; i++) {
        const struct template_pair *p = &value.dict->pairs[i];
        if (template_text_is(*p->key.text, "messages"))
            return status_fail(r->err, STATUS_INVALID,
                "chat_template_kwargs names messages, which has its own field");
        TRY(set_name(r, (const char *)p->key.text->data, p->key.text->n, &p->value));
    }
    return STATUS_OK;
}

// ---- the last message that goes on -------------------------------------------------------------

// Stands behind the content while the template runs; transformers uses the same.
static const char continue_mark[] = "CONTINUE_FINAL_MESSAGE_TAG ";

static enum status mark_text(struct template_run *r, struct template_value *value)
{
    struct template_builder b = {0};
    TRY(template_put(r, &b, *value->text));
    TRY(template_put_bytes(r, &b, continue_mark, sizeof continue_mark - 1));
    return template_make_built(r, &b, value);
}

// The text that is to go on: the content of the last message, or the last text in its parts.
static enum status final_text(
    struct template_run *r, const struct template_list *messages, struct template_value **out)
{
    struct template_text content_name = TEMPLATE_LITERAL("content"),
                         text_name = TEMPLATE_LITERAL("text");
    struct template_value content = {.kind = TEMPLATE_TEXT, .text = &content_name};
    struct template_value text = {.kind = TEMPLATE_TEXT, .text = &text_name};
    const struct template_value *found;
    *out = NULL;
    TRY(template_dict_find(r, messages->items[messages->n - 1].dict, &content, &found));
    if (found && found->kind == TEMPLATE_LIST) {
        const struct template_list *parts = found->list;
        found = NULL;
        for (size_t i = parts->n; i-- > 0 && !found;)
            if (parts->items[i].kind == TEMPLATE_DICT)
                TRY(template_dict_find(r, parts->items[i].dict, &text, &found));
    }
    if (found && found->kind == TEMPLATE_TEXT)
        *out = (struct template_value *)(uintptr_t)found;
    return *out ? STATUS_OK
                : status_fail(r->err, STATUS_INVALID,
                      "continue_final_message is set, but the last message has no text");
}

static enum status cut_at_mark(
    struct template_run *r, struct template_text content, struct template_text *text)
{
    struct template_text mark = TEMPLATE_LITERAL("CONTINUE_FINAL_MESSAGE_TAG");
    size_t at = template_text_find_last(*text, mark);
    struct template_text stripped = template_text_strip(content, NULL, true, true);
    if (at == SIZE_MAX || template_text_find(*text, stripped, 0) == SIZE_MAX)
        return status_fail(r->err, STATUS_INVALID,
            "continue_final_message is set, but the chat template does not print the last message");
    bool spaced = at + mark.n < text->n && text->data[at + mark.n] == ' ';
    *text = template_cut(*text, 0, at);
    if (!spaced) // the template trims what it prints
        *text = template_text_strip(*text, NULL, false, true);
    return STATUS_OK;
}

// ---- rendering ---------------------------------------------------------------------------------

static enum status give_spans(
    struct template_run *r, struct template_text text, struct template_text_spans *out)
{
    size_t count = 0, n = 0;
    for (size_t i = 0; text.taint && i < text.n; i++)
        count += text.taint[i] && (i == 0 || !text.taint[i - 1]);
    struct tokenizer_span *spans = calloc(count ? count : 1, sizeof *spans);
    if (!spans)
        return template_no_memory(r);
    for (size_t i = 0; text.taint && i < text.n; i++) {
        if (!text.taint[i])
            continue;
        if (i == 0 || !text.taint[i - 1])
            spans[n++].begin = i;
        spans[n - 1].end = i + 1;
    }
    if (!buf_append(&out->text, text.data, text.n)) {
        free(spans);
        return template_no_memory(r);
    }
    out->spans = spans;
    out->n_spans = count;
    out->steps = r->steps;
    return STATUS_OK;
}

static enum status run(struct template_run *r, const struct template_chat *chat,
    const struct template_set *set, struct template_text_spans *out)
{
    struct template_builder b = {0};
    struct template_value messages, *last = NULL;
    struct template_text content = {0};
    uint8_t *ones = arena_take(&r->arena, r->n_ones);
    if (!ones)
        return template_no_memory(r);
    memset(ones, 1, r->n_ones);
    r->ones = ones;
    TRY(template_scope_push(r, NULL));
    for (size_t i = 0; set && i < set->n_specials; i++) {
        struct template_value value;
        const struct template_special *s = &set->specials[i];
        TRY(template_make_text(
            r, (struct template_text){.data = (const uint8_t *)s->text, .n = s->n}, &value));
        TRY(set_name(r, s->name, strlen(s->name), &value));
    }
    TRY(set_documents(r, chat, &messages));
    if (chat->continue_final_message) {
        TRY(final_text(r, messages.list, &last));
        content = *last->text;
        TRY(mark_text(r, last));
    }
    TRY(set_name(r, "messages", 8, &messages));
    r->out = &b;
    TRY(template_exec(r, r->t->body));
    struct template_text text = template_built(&b);
    if (last)
        TRY(cut_at_mark(r, content, &text));
    return give_spans(r, text, out);
}

static enum status render(const struct template *t, const struct template_set *set,
    const struct template_chat *chat, struct template_text_spans *out, struct error *err)
{
    if (chat->add_generation_prompt && chat->continue_final_message)
        return status_fail(err, STATUS_INVALID,
            "both add_generation_prompt and continue_final_message are set, expected one of them");
    struct template_run r = {.t = t,
        .err = err,
        .now_s = chat->now_s,
        .steps_max = chat->steps_max ? chat->steps_max : TEMPLATE_STEPS_MAX};
    r.n_ones = chat->n_messages > chat->n_tools ? chat->n_messages : chat->n_tools;
    r.n_ones = r.n_ones > chat->n_kwargs ? r.n_ones : chat->n_kwargs;
    arena_init(&r.arena, TEMPLATE_MEMORY_BYTES_MAX);
    enum status st = run(&r, chat, set, out);
    arena_reset(&r.arena);
    return st;
}

enum status template_render_one(const struct template *t, const struct template_chat *chat,
    struct template_text_spans *out, struct error *err)
{
    return render(t, NULL, chat, out, err);
}

enum status template_render(const struct template_set *set, const struct template_chat *chat,
    struct template_text_spans *out, struct error *err)
{
    const struct template_named *named;
    TRY(template_load_find(set, chat->name, chat->tools != NULL, &named, err));
    return render(named->parsed, set, chat, out, err);
}
