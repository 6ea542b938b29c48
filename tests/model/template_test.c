// SPDX-License-Identifier: Apache-2.0
// The interpreter of chat templates: what Jinja renders (template_vectors.json, one small template
// per thing that the language can do), limits, what a client wrote, and the files of a model.
#include "base/utf8.h"
#include "model/template.h"
#include "tests/model/scratch_dir.h"
#include "tests/test_support.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define USER "[{\"role\": \"user\", \"content\": \"Hi\"}]"

// Renders one template; the sentence of a failure is left in `err`.
static enum status render(const char *source, size_t n, const char *messages, const char *kwargs,
    struct template_text_spans *out, struct error *err)
{
    struct template *t = NULL;
    template_text_spans_init(out);
    *err = (struct error){0};
    enum status st = template_parse(source, n, &t, err);
    if (st != STATUS_OK)
        return st;
    struct template_chat chat = {.messages = messages,
        .n_messages = strlen(messages),
        .kwargs = kwargs,
        .n_kwargs = kwargs ? strlen(kwargs) : 0,
        .add_generation_prompt = true};
    st = template_render_one(t, &chat, out, err);
    template_free(t);
    return st;
}

// ---- the language ------------------------------------------------------------------------------

static bool one_vector(const json_t *one, const char *messages, const char *kwargs)
{
    const json_t *source = json_array_get(one, 0), *want = json_array_get(one, 1);
    struct template_text_spans out;
    struct error err;
    enum status st =
        render(json_string_value(source), json_string_length(source), messages, kwargs, &out, &err);
    bool same = json_is_null(want)
                    ? st != STATUS_OK && err.text[0]
                    : st == STATUS_OK && out.text.size == json_string_length(want) &&
                          (out.text.size == 0 ||
                              memcmp(out.text.data, json_string_value(want), out.text.size) == 0);
    if (!same)
        print_error("%s\n  got      %s %.*s\n  expected %s\n", json_string_value(source), err.text,
            (int)out.text.size, (char *)out.text.data,
            json_is_null(want) ? "a sentence" : json_string_value(want));
    template_text_spans_deinit(&out);
    return same;
}

static void small_templates_render_as_in_jinja(void **state)
{
    (void)state;
    json_t *all = json_load_file(
        test_path(test_source_dir(), "tests/model/template_vectors.json"), JSON_ALLOW_NUL, NULL);
    char *messages = json_dumps(json_object_get(all, "messages"), 0);
    char *kwargs = json_dumps(json_object_get(all, "kwargs"), 0);
    size_t i, wrong = 0;
    json_t *one;
    assert_true(json_array_size(json_object_get(all, "cases")) > 300);
    json_array_foreach(json_object_get(all, "cases"), i, one) wrong +=
        !one_vector(one, messages, kwargs);
    assert_int_equal(wrong, 0);
    free(messages);
    free(kwargs);
    json_decref(all);
}

// ---- limits ------------------------------------------------------------------------------------

static void expect_sentence(const char *source, const char *part)
{
    struct template_text_spans out;
    struct error err;
    enum status st = render(source, strlen(source), USER, NULL, &out, &err);
    if (st == STATUS_OK || !strstr(err.text, part))
        fail_msg("%.200s: %s \"%s\", expected a sentence with \"%s\"", source, status_name(st),
            err.text, part);
    assert_int_equal(out.text.size, 0);
    template_text_spans_deinit(&out);
}

// begin, `unit` n times, end
static char *repeated(const char *begin, const char *unit, size_t n, const char *end)
{
    size_t k = strlen(unit), b = strlen(begin);
    char *text = malloc(b + n * k + strlen(end) + 1);
    memcpy(text, begin, b);
    for (size_t i = 0; i < n; i++)
        memcpy(text + b + i * k, unit, k);
    memcpy(text + b + n * k, end, strlen(end) + 1);
    return text;
}

static void hostile_templates_end_in_a_sentence(void **state)
{
    (void)state;
    static const struct {
        const char *source, *part;
    } rows[] = {
        {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "more than"},
        {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "deep"},
        {"{{ range(10**9) }}", "range"},
        {"{{ 'a' * 10**9 }}", "more than"},
        {"{{ 'a' * 10**18 }}", "more than"},
        {"{{ [1] * 10**9 }}", "more than"},
        {"{{ [[1] * 1000000] * 1000000 }}", "more than"},
        {"{% set ns = namespace(x='ab') %}{% for i in range(99) %}"
         "{% set ns.x = ns.x ~ ns.x %}"
         "{% endfor %}",
            "more than"},
        {"{% set ns = namespace(x=[1]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}"
         "{% endfor %}{{ ns.x }}",
            "deep"},
        {"{% set ns = namespace(x=[1]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}"
         "{% endfor %}{{ ns.x|tojson }}",
            "deep"},
        {"{% set ns = namespace() %}{% set ns.n = ns %}{{ ns }}", "deep"},
        {"{% for i in range(99999) %}{% set x = 'ab' * 100000 %}{% endfor %}", "MiB"},
        {"{{ '%10000000d' % 1 }}", "wide"},
        {"{{ 'x'.ljust(10**12) }}", "width"},
        {"{{ 'x'|center(10**12) }}", "more than"},
        {"{{ 'x'|indent(10**12, true) }}", "more than"},
        {"{{ 2 ** 100 }}", "63 bits"},
        {"{{ 9223372036854775807 + 1 }}", "63 bits"},
        {"{{ 99999999999999999999 }}", "63 bits"},
        {"{% include 'x' %}", "not supported"},
        {"{% import 'x' as y %}", "not supported"},
        {"{{ raise_exception('roles must alternate') }}", "roles must alternate"},
        {"\xff", "UTF-8"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        expect_sentence(rows[i].source, rows[i].part);
}

static void deep_and_long_sources_end_in_a_sentence(void **state)
{
    (void)state;
    static const struct {
        const char *begin, *unit, *end;
        size_t n;
    } rows[] = {
        {"{{ ", "(", "1 }}", 100000},
        {"{{ ", "[", "1 }}", 200},
        {"{{ ", "-", "1 }}", 100000},
        {"{{ ", "not ", "1 }}", 100000},
        {"{{ 1", "+1", " }}", 100000},
        {"{{ 1", " if 1 else 1", " }}", 100000},
        {"{{ a", ".a", " }}", 100000},
        {"{{ a", "|a", " }}", 100000},
        {"{{ 1", " and 1", " }}", 100000},
        {"", "{% if 1 %}", "", 50000},
        {"{% set ", "(", "a = 1 %}", 50000},
        {"", "x", "", TEMPLATE_SOURCE_BYTES_MAX + 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *source = repeated(rows[i].begin, rows[i].unit, rows[i].n, rows[i].end);
        expect_sentence(source, " ");
        free(source);
    }
    struct template_text_spans out;
    struct error err;
    char *many = repeated("{% if 0 %}a", "{% elif 0 %}b", 20000, "{% else %}c{% endif %}");
    assert_int_equal(render(many, strlen(many), USER, NULL, &out, &err), STATUS_OK);
    assert_int_equal(out.text.size, 1);
    template_text_spans_deinit(&out);
    free(many);
}

static void bad_conversations_get_a_sentence(void **state)
{
    (void)state;
    static const struct {
        const char *messages, *kwargs, *part;
    } rows[] = {
        {"[", NULL, "not valid JSON"},
        {"{}", NULL, "messages is an object, expected a list"},
        {"[]", NULL, "empty"},
        {"[1]", NULL, "messages[0]"},
        {"[{\"role\": \"user\"}, {\"content\": \"x\"}]", NULL, "messages[1]"},
        {"[{\"role\": 5}]", NULL, "messages[0]"},
        {USER, "[]", "chat_template_kwargs is a list, expected an object"},
        {USER, "{", "chat_template_kwargs is not valid JSON"},
        {USER, "{\"messages\": []}", "its own field"},
        {"[{\"role\": \"a\", \"n\": 99999999999999999999}]", NULL, "not valid JSON"},
        {"[{\"role\": \"a\", \"content\": \"\\ud800\"}]", NULL, "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct template_text_spans out;
        struct error err;
        assert_int_not_equal(
            render("x", 1, rows[i].messages, rows[i].kwargs, &out, &err), STATUS_OK);
        if (!strstr(err.text, rows[i].part))
            fail_msg("%s: \"%s\", expected \"%s\"", rows[i].messages, err.text, rows[i].part);
        template_text_spans_deinit(&out);
    }
    struct template_text_spans out;
    struct error err;
    char *deep = repeated("[{\"role\": \"a\", \"x\": ", "[", 1500, "");
    char *all = repeated(deep, "]", 1500, "}]");
    assert_int_equal(render("x", 1, all, NULL, &out, &err), STATUS_TOO_LARGE);
    template_text_spans_deinit(&out);
    free(deep);
    free(all);
}

// ---- what clients wrote ------------------------------------------------------------------------

// Renders over messages with the content "<c>" and writes '[' and ']' around what clients wrote.
static void expect_marked(const char *source, const char *want)
{
    static const char messages[] = "[{\"role\": \"user\", \"content\": \" <c> \", \"n\": 7},"
                                   "{\"role\": \"a b\", \"content\": \"x,y\"}]";
    struct template_text_spans out;
    struct error err;
    char got[512];
    size_t n = 0;
    enum status st = render(source, strlen(source), messages, "{\"k\": \"kw\"}", &out, &err);
    if (st != STATUS_OK)
        fail_msg("%s: %s", source, err.text);
    for (size_t i = 0, s = 0; i <= out.text.size; i++) {
        if (s < out.n_spans && out.spans[s].end == i)
            got[n++] = ']', s++;
        if (s < out.n_spans && out.spans[s].begin == i)
            got[n++] = '[';
        if (i < out.text.size)
            got[n++] = (char)out.text.data[i];
    }
    got[n] = '\0';
    if (strcmp(got, want) != 0)
        fail_msg("%s: %s, expected %s", source, got, want);
    template_text_spans_deinit(&out);
}

static void every_byte_knows_who_wrote_it(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"<s>{{ messages[0].content }}</s>", "<s>[ <c> ]</s>"},
        {"{{ messages[0].content|trim }}", "[<c>]"},
        {"{{ messages[0].content.strip()[1:-1] ~ 'c' }}", "[c]c"},
        {"{{ '<' + messages[1].content.split(',')|join('|') + '>' }}", "<[x]|[y]>"},
        {"{{ messages[0].content|upper }}{{ messages[1].content|title }}", "[ <C> X,y]"},
        {"{{ messages[0]|tojson }}",
            "{\"[role]\": \"user\", \"[content]\": \"[ <c> ]\", \"[n]\": 7}"},
        {"{{ messages[0] }}", "{'[role]': 'user', '[content]': '[ <c> ]', '[n]': 7}"},
        {"{{ 'a%sb' % messages[1].content }}{{ 'a{}b'.format(messages[1].content) }}",
            "a[x,y]ba[x,y]b"},
        {"{{ messages[1].content.replace(',', '<|') }}", "[x]<|[y]"},
        {"{{ 'a-b'.replace('-', messages[1].content) }}", "a[x,y]b"},
        {"{% set x %}<{{ messages[1].content }}>{% endset %}{{ x|replace('<', '') }}", "[x,y]>"},
        {"{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(messages[1].content) }}", "<[x,y]>"},
        {"{% for c in messages[1].content %}{{ c }}.{% endfor %}", "[x].[,].[y]."},
        {"{{ messages[0].role }}|{{ messages[1].role }}", "user|[a b]"},
        {"{{ '<|' + messages[0]['role'] + '|>' }}", "<|user|>"},
        {"{{ k }}{{ messages[0].n }}", "[kw]7"},
        {"{{ messages[1].content[::-1] }}{{ messages[1].content * 2 }}", "[y,xx,yx,y]"},
        {"{{ messages[1].content|indent(1, true) }}", " [x,y]"},
        {"{{ [messages[1].content]|map('upper')|join }}", "[X,Y]"},
        {"{{ messages[0].content|e }}", "[ ]&lt;[c]&gt;[ ]"},
        {"{{ messages[1].content|length }}{{ messages[1].content == 'x,y' }}", "3True"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        expect_marked(rows[i][0], rows[i][1]);
}

// ---- the last message goes on ------------------------------------------------------------------

static void expect_continued(const char *source, const char *messages, const char *want)
{
    struct template *t = NULL;
    struct template_text_spans out;
    struct error err = {0};
    struct template_chat chat = {
        .messages = messages, .n_messages = strlen(messages), .continue_final_message = true};
    template_text_spans_init(&out);
    assert_int_equal(template_parse(source, strlen(source), &t, &err), STATUS_OK);
    enum status st = template_render_one(t, &chat, &out, &err);
    if (!want) {
        assert_int_equal(st, STATUS_INVALID);
        assert_non_null(strstr(err.text, "continue_final_message"));
    } else {
        if (st != STATUS_OK || out.text.size != strlen(want) ||
            memcmp(out.text.data, want, out.text.size) != 0)
            fail_msg("%s: %s \"%.*s\", expected \"%s\"", source, err.text, (int)out.text.size,
                (char *)out.text.data, want);
    }
    template_text_spans_deinit(&out);
    template_free(t);
}

static void the_last_message_goes_on(void **state)
{
    (void)state;
    static const char plain[] = "{% for m in messages %}<{{ m.content }}>{% endfor %}";
    static const char trimmed[] = "{% for m in messages %}<{{ m.content|trim }}>{% endfor %}";
    static const char parts[] = "{% for p in messages[0].content %}<{{ p.text }}>{% endfor %}";
    expect_continued(plain, "[{\"role\": \"a\", \"content\": \"One two \"}]", "<One two ");
    expect_continued(trimmed, "[{\"role\": \"a\", \"content\": \"One two \"}]", "<One two");
    expect_continued(plain,
        "[{\"role\": \"u\", \"content\": \"x\"}, {\"role\": \"a\", \"content\": \"x\"}]", "<x><x");
    expect_continued(parts,
        "[{\"role\": \"a\", \"content\": [{\"text\": \"p\"}, {\"text\": \"q\"}, {\"image\": 1}]}]",
        "<p><q");
    expect_continued("nothing", "[{\"role\": \"a\", \"content\": \"x\"}]", NULL);
    expect_continued(plain, "[{\"role\": \"a\"}]", NULL);
}

// ---- files -------------------------------------------------------------------------------------

static void expect_from(
    const struct template_set *set, const char *name, bool tools, const char *want)
{
    struct template_text_spans out;
    struct error err = {0};
    struct template_chat chat = {.messages = USER, .n_messages = sizeof USER - 1, .name = name};
    if (tools) {
        chat.tools = "[]";
        chat.n_tools = 2;
    }
    template_text_spans_init(&out);
    enum status st = template_render(set, &chat, &out, &err);
    char got[600];
    snprintf(got, sizeof got, "%.*s", st == STATUS_OK ? (int)out.text.size : 500,
        st == STATUS_OK ? (char *)out.text.data : err.text);
    if (!strstr(got, want))
        fail_msg("template %s: \"%s\", expected \"%s\"", name ? name : "default", got, want);
    assert_int_equal(template_set_has(set, name, tools, &err), st == STATUS_OK ? STATUS_OK : st);
    template_text_spans_deinit(&out);
}

static void write_file(const char *name, const char *text)
{
    scratch_dir_write(name, text, strlen(text));
}

static void templates_come_from_the_files_of_a_model(void **state)
{
    (void)state;
    struct template_set *set = NULL;
    struct error err = {0};
    const char *dir = scratch_dir_make();
    assert_int_equal(template_set_load(dir, &set, &err), STATUS_OK);
    assert_null(set);
    write_file("tokenizer_config.json",
        "{\"model_max_length\": 1000000000000000019884624838656, \"bos_token\": {\"content\": "
        "\"<B>\"},"
        "\"eos_token\": null, \"chat_template\": [{\"name\": \"default\", \"template\": \"d{{ "
        "bos_token }}"
        "{{ eos_token }}\"}, {\"name\": \"rag\", \"template\": \"rag {{ documents }}\"},"
        "{\"name\": \"tool_use\", \"template\": \"{{ tools }} use\"},"
        "{\"name\": \"broken\", \"template\": \"{{\"}]}");
    write_file("special_tokens_map.json", "{\"eos_token\": \"<E>\", \"bos_token\": \"<no>\"}");
    assert_int_equal(template_set_load(dir, &set, &err), STATUS_OK);
    expect_from(set, NULL, false, "d<B><E>");
    expect_from(set, "", true, "[] use");
    expect_from(set, "default", true, "d<B><E>");
    expect_from(set, "rag", false, "rag None");
    expect_from(set, "broken", false, "cannot be used: template line 1");
    expect_from(set, "nothing", false, "no chat template named \"nothing\"");
    template_set_free(set);
    // A file of its own stands before the one in the configuration.
    write_file("chat_template.jinja", "file {{ bos_token }}\n");
    assert_int_equal(mkdir(test_path(dir, "additional_chat_templates"), 0700), 0);
    write_file("additional_chat_templates/rag.jinja", "rag file");
    assert_int_equal(template_set_load(dir, &set, &err), STATUS_OK);
    expect_from(set, NULL, false, "file <B>");
    expect_from(set, "rag", false, "rag file");
    template_set_free(set);
    assert_int_equal(unlink(test_path(dir, "additional_chat_templates/rag.jinja")), 0);
    assert_int_equal(rmdir(test_path(dir, "additional_chat_templates")), 0);
    scratch_dir_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_templates_render_as_in_jinja),
        cmocka_unit_test(hostile_templates_end_in_a_sentence),
        cmocka_unit_test(deep_and_long_sources_end_in_a_sentence),
        cmocka_unit_test(bad_conversations_get_a_sentence),
        cmocka_unit_test(every_byte_knows_who_wrote_it),
        cmocka_unit_test(the_last_message_goes_on),
        cmocka_unit_test(templates_come_from_the_files_of_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
