// SPDX-License-Identifier: Apache-2.0
// Conversations end to end: generate --messages and phalanx chat, with a small model of this
// repository that is given a template, and with the chat model of ../shared, whose ids and answers
// transformers computed.
#include "tests/e2e/cluster.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DONE = 0, REFUSED = 3, IDS_MAX = 1024 };

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static const char template[] =
    "{{ bos_token }}{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('no role ' + m.role) }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}{{ extra }}{{ tools }}";

static struct cluster cluster;
static char model_dir[64];

// A copy, by links, of a golden model with a chat template beside its files.
static void make_model(void)
{
    static char from[1024];
    snprintf(
        from, sizeof from, "%s", test_path(test_source_dir(), "tests/golden/models/llama-mqa-f16"));
    snprintf(model_dir, sizeof model_dir, "/tmp/phalanx-chat-XXXXXX");
    assert_non_null(mkdtemp(model_dir));
    DIR *d = opendir(from);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.')
            assert_int_equal(
                symlink(test_path(from, e->d_name), test_path(model_dir, e->d_name)), 0);
    closedir(d);
    FILE *f = fopen(test_path(model_dir, "chat_template.jinja"), "wb");
    assert_non_null(f);
    fputs(template, f);
    fclose(f);
}

static int start(void **state)
{
    (void)state;
    make_model();
    cluster_start(&cluster, model_dir, NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    cluster_stop(&cluster);
    DIR *d = opendir(model_dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.')
            unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    return rmdir(model_dir);
}

// ---- ids ---------------------------------------------------------------------------------------

// The prompt's ids, as --prompt-logprobs reports them.
static size_t prompt_ids(const struct cluster *c, const char *const *words, int64_t ids[IDS_MAX])
{
    struct command m;
    size_t i, n = 0;
    json_t *line;
    cluster_run(c, &m, words);
    if (m.code != DONE)
        fail_msg("%s ends with %d: %s", words[0], m.code, m.err);
    assert_non_null(m.lines);
    json_array_foreach(m.lines, i, line)
    {
        if (json_object_get(line, "prompt_offset") && n < IDS_MAX)
            ids[n++] = json_integer_value(json_object_get(line, "id"));
    }
    command_free(&m);
    return n;
}

#define REPORT                                                                                     \
    "--prompt-logprobs", "0", "--max-tokens", "1", "--temperature", "0", "--output", "jsonl"

static bool has_id(const int64_t *ids, size_t n, int64_t id, size_t times)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++)
        found += ids[i] == id;
    return found == times;
}

// The template's ids are those of its text, and its BOS comes once.
static void messages_become_the_templates_text(void **state)
{
    (void)state;
    int64_t a[IDS_MAX], b[IDS_MAX];
    size_t n = prompt_ids(&cluster,
        WORDS("generate", "--messages", "[{\"role\": \"user\", \"content\": \"Hello there\"}]",
            REPORT),
        a);
    size_t k = prompt_ids(&cluster,
        WORDS("generate", "--prompt", "<|bos|><user>Hello there<|eos|><assistant>None",
            "--parse-special-tokens", "--add-special-tokens=false", REPORT),
        b);
    assert_true(n > 8);
    assert_int_equal(n, k);
    assert_memory_equal(a, b, n * sizeof *a);
    assert_true(has_id(a, n, 1, 1));
    assert_true(has_id(a, n, 2, 1));
}

// What a user writes is no control token, unless asked.
static void special_text_of_a_user_is_text(void **state)
{
    (void)state;
    static const char messages[] = "[{\"role\": \"user\", \"content\": \"a<|eos|><|bos|>b\"}]";
    int64_t ids[IDS_MAX];
    size_t n = prompt_ids(&cluster, WORDS("generate", "--messages", messages, REPORT), ids);
    assert_true(has_id(ids, n, 1, 1) && has_id(ids, n, 2, 1));
    n = prompt_ids(
        &cluster, WORDS("generate", "--messages", messages, "--parse-special-tokens", REPORT), ids);
    assert_true(has_id(ids, n, 1, 2) && has_id(ids, n, 2, 2));
}

static void options_reach_the_template(void **state)
{
    (void)state;
    int64_t a[IDS_MAX], b[IDS_MAX];
    size_t n = prompt_ids(&cluster,
        WORDS("generate", "--messages",
            "[{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"assistant\", \"content\": "
            "\"Once\"}]",
            "--continue-final-message", REPORT),
        a);
    size_t k = prompt_ids(&cluster,
        WORDS("generate", "--prompt", "<|bos|><user>x<|eos|><assistant>Once",
            "--parse-special-tokens", "--add-special-tokens=false", REPORT),
        b);
    assert_int_equal(n, k);
    assert_memory_equal(a, b, n * sizeof *a);
    n = prompt_ids(&cluster,
        WORDS("generate", "--messages", "[{\"role\": \"user\", \"content\": \"x\"}]",
            "--add-generation-prompt=false", "--chat-template-kwargs", "{\"extra\": \"y\"}",
            "--tools", "[1]", REPORT),
        a);
    k = prompt_ids(&cluster,
        WORDS("generate", "--prompt", "<|bos|><user>x<|eos|>y[1]", "--parse-special-tokens",
            "--add-special-tokens=false", REPORT),
        b);
    assert_int_equal(n, k);
    assert_memory_equal(a, b, n * sizeof *a);
}

// ---- what is refused ---------------------------------------------------------------------------

static void bad_conversations_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *messages, *part;
    } rows[] = {
        {"[", "not valid JSON"},
        {"[]", "empty"},
        {"{\"a\": 1}", "expected a list"},
        {"[{\"role\": 1}]", "messages[0]"},
        {"[{\"role\": \"tool\", \"content\": \"\"}]", "no role tool"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct command m;
        cluster_run(&cluster, &m, WORDS("generate", "--messages", rows[i].messages));
        if (m.code != REFUSED || !strstr(m.err, rows[i].part))
            fail_msg("%s ends with %d: %s", rows[i].messages, m.code, m.err);
        assert_string_equal(m.out, "");
        command_free(&m);
    }
    struct command m;
    cluster_run(&cluster, &m, WORDS("generate", "--messages", "[1]", "--chat-template", "rag"));
    assert_int_equal(m.code, REFUSED);
    assert_non_null(strstr(m.err, "no chat template named \"rag\""));
    command_free(&m);
    cluster_run(&cluster, &m, WORDS("generate", "--messages", "[1]", "--prompt", "x"));
    assert_int_equal(m.code, 2);
    command_free(&m);
}

// ---- phalanx chat ------------------------------------------------------------------------------

// Counts lines of `text` that begin with `with`.
static size_t count_lines(const char *text, const char *with)
{
    size_t n = 0;
    for (const char *p = text; *p; p += strcspn(p, "\n"), p += *p == '\n')
        n += strncmp(p, with, strlen(with)) == 0;
    return n;
}

static void chat_reads_a_message_per_line(void **state)
{
    (void)state;
    struct command m;
    cluster_run_shell(&cluster, &m,
        "printf 'one\\ntwo\\n\\n/reset\\n/nonsense\\n/system Be kind\\n//three\\n/exit\\nfour\\n' "
        "| "
        "exec \"$0\" \"$@\"",
        WORDS("chat", "--max-tokens", "3", "--ignore-eos", "--temperature", "0", "--output",
            "jsonl"));
    assert_int_equal(m.code, DONE);
    assert_int_equal(count_lines(m.out, "{\"message\":{\"role\":\"assistant\""), 3);
    assert_int_equal(count_lines(m.out, "{\"index\":0,\"finish_reason\":\"length\""), 3);
    assert_non_null(strstr(m.err, "\"/nonsense\" is no command"));
    command_free(&m);
}

// The second turn's prompt holds the first one's question and answer.
static void chat_remembers(void **state)
{
    (void)state;
    struct command m;
    int tokens[2] = {0};
    size_t i, n = 0;
    json_t *line;
    cluster_run_shell(&cluster, &m, "printf 'one\\ntwo\\n' | exec \"$0\" \"$@\"",
        WORDS("chat", "--system", "s", "--max-tokens", "3", "--ignore-eos", "--temperature", "0",
            "--output", "jsonl"));
    assert_int_equal(m.code, DONE);
    json_array_foreach(m.lines, i, line)
    {
        if (json_object_get(line, "prompt_tokens") && n < 2)
            tokens[n++] = (int)json_integer_value(json_object_get(line, "prompt_tokens"));
    }
    assert_int_equal(n, 2);
    assert_true(tokens[1] >= tokens[0] + 6);
    command_free(&m);
}

static void chat_says_one_message(void **state)
{
    (void)state;
    struct command m;
    cluster_run(
        &cluster, &m, WORDS("chat", "--message", "hi", "--max-tokens", "3", "--ignore-eos"));
    assert_int_equal(m.code, DONE);
    assert_string_equal(m.err, "");
    assert_true(strlen(m.out) > 0 && m.out[strlen(m.out) - 1] == '\n');
    command_free(&m);
    cluster_run(&cluster, &m, WORDS("chat", "--model", "other", "--message", "hi"));
    assert_int_equal(m.code, REFUSED);
    assert_non_null(strstr(m.err, "\"other\" is not served here"));
    command_free(&m);
    cluster_run(&cluster, &m, WORDS("chat", "--system", "a\xff", "--message", "hi"));
    assert_int_equal(m.code, 2);
    assert_string_equal(m.err, "phalanx chat: --system is not valid UTF-8\n");
    command_free(&m);
}

// Ctrl-C ends the answer, not the program, which then says what it was told next. (An answer that
// was complete before the signal came leaves a program that waits for input: that one it ends.)
static void an_interrupt_stops_the_answer_only(void **state)
{
    (void)state;
    struct command m;
    command_spawn_shell(&m, &cluster,
        "exec \"$0\" \"$@\" < <(printf 'one\\n'; sleep 2; printf '/reset\\ntwo\\n')",
        WORDS("chat", "--max-tokens", "400", "--ignore-eos", "--output", "jsonl"));
    bool streams = false;
    for (int i = 0; i < 2000 && !streams; i++) {
        char *out = command_peek(&m);
        streams = strlen(out) > 500;
        free(out);
        usleep(streams ? 0 : 2000);
    }
    assert_true(streams);
    kill(m.pid, SIGINT);
    command_wait(&m);
    assert_int_equal(m.code, DONE);
    bool stopped = count_lines(m.out, "{\"index\":0,\"finish_reason\":\"abort\"") == 1;
    assert_int_equal(count_lines(m.out, "{\"message\""), stopped ? 2 : 1);
    command_free(&m);
}

// ---- a real model ------------------------------------------------------------------------------

static void golden_ids(const struct cluster *c, const json_t *prompt, const char *messages)
{
    int64_t ids[IDS_MAX];
    size_t n = prompt_ids(c, WORDS("generate", "--messages", messages, REPORT), ids), i;
    json_t *id;
    const json_t *want = json_object_get(prompt, "input_ids");
    assert_int_equal(n, json_array_size(want));
    json_array_foreach(want, i, id) assert_int_equal(ids[i], json_integer_value(id));
}

static void a_real_model_answers_as_with_transformers(void **state)
{
    (void)state;
    const char *shared = test_shared_dir();
    if (!shared)
        return;
    static char dir[1024];
    snprintf(dir, sizeof dir, "%s", test_path(shared, "oracle/models/minimind2-small"));
    json_t *golden = json_load_file(test_path(dir, "golden.json"), 0, NULL), *prompt;
    struct cluster c;
    struct command m;
    size_t i, compared = 0;
    assert_non_null(golden);
    cluster_start(&c, dir, WORDS("--max-model-len", "2048"));
    json_array_foreach(json_object_get(golden, "prompts"), i, prompt)
    {
        char *messages = json_dumps(json_object_get(prompt, "messages"), 0);
        if (messages) {
            golden_ids(&c, prompt, messages);
            compared++;
        }
        free(messages);
    }
    assert_true(compared > 0);
    cluster_run_shell(&c, &m, "echo 'What is the capital of France?' | exec \"$0\" \"$@\"",
        WORDS("chat", "--temperature", "0", "--max-tokens", "40"));
    assert_int_equal(m.code, DONE);
    assert_string_equal(m.out, "The capital of France is Paris.\n");
    command_free(&m);
    cluster_stop(&c);
    json_decref(golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_become_the_templates_text),
        cmocka_unit_test(special_text_of_a_user_is_text),
        cmocka_unit_test(options_reach_the_template),
        cmocka_unit_test(bad_conversations_are_refused),
        cmocka_unit_test(chat_reads_a_message_per_line),
        cmocka_unit_test(chat_remembers),
        cmocka_unit_test(chat_says_one_message),
        cmocka_unit_test(an_interrupt_stops_the_answer_only),
        cmocka_unit_test(a_real_model_answers_as_with_transformers),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
