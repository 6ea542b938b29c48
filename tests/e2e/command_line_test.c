// SPDX-License-Identifier: Apache-2.0
// The words that scripts rely on: exit codes, what goes to which stream, defaults, and the sentence
// that each wrong use gets.
#include "tests/e2e/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DONE = 0, FAILED = 1, USAGE = 2, REFUSED = 3 };

static struct cluster cluster;
static char model_dir[512];

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

// Runs a command that must end with `code` and say `sentence` on standard error, in one line.
static void expect_at(
    const struct cluster *c, int code, const char *sentence, const char *const *words)
{
    struct command m;
    cluster_run(c, &m, words);
    const char *end = strchr(m.err, '\n');
    bool one_line = end && end[1] == '\0';
    if (m.code != code || !strstr(m.err, sentence) || !one_line)
        fail_msg("%s %s ends with %d and says \"%s\", expected %d and \"%s\"", words[0],
            words[1] ? words[1] : "", m.code, m.err, code, sentence);
    assert_string_equal(m.out, "");
    command_free(&m);
}

static void expect(int code, const char *sentence, const char *const *words)
{
    expect_at(&cluster, code, sentence, words);
}

// ---- without a server --------------------------------------------------------------------------

static void test_help(void **state)
{
    (void)state;
    static const char *const commands[] = {"serve", "generate", "chat", "score", "models", "stop"};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        struct command m;
        cluster_run(NULL, &m, WORDS(commands[i], "--help"));
        assert_int_equal(m.code, DONE);
        assert_non_null(strstr(m.out, "usage: phalanx "));
        assert_non_null(strstr(m.out, "--endpoint"));
        assert_string_equal(m.err, "");
        command_free(&m);
    }
    struct command m;
    for (int k = 0; k < 3; k++) {
        cluster_run(NULL, &m, WORDS(k == 0 ? "--help" : k == 1 ? "-h" : "help"));
        assert_int_equal(m.code, DONE);
        for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
            assert_non_null(strstr(m.out, commands[i]));
        assert_string_equal(m.err, "");
        command_free(&m);
    }
    cluster_run(NULL, &m, WORDS("--version"));
    assert_int_equal(m.code, DONE);
    assert_int_equal(strncmp(m.out, "phalanx ", 8), 0);
    command_free(&m);
}

static void test_usage(void **state)
{
    (void)state;
    struct command m;
    cluster_run(NULL, &m, WORDS(NULL));
    assert_int_equal(m.code, USAGE);
    assert_string_equal(m.out, "");
    command_free(&m);
    cluster_run(NULL, &m, WORDS("launch"));
    assert_int_equal(m.code, USAGE);
    assert_non_null(strstr(m.err, "launch"));
    command_free(&m);
    expect_at(NULL, USAGE, "--colour", WORDS("models", "--colour"));
    expect_at(
        NULL, USAGE, "one of --prompt, --prompt-file, --tokens and --messages", WORDS("generate"));
    expect_at(NULL, USAGE, "one of --prompt, --prompt-file, --tokens and --messages",
        WORDS("generate", "--prompt", "a", "--tokens", "1"));
    expect_at(NULL, USAGE, "such as 1,2,3", WORDS("generate", "--tokens", "1,x"));
    expect_at(NULL, USAGE, "such as 1,2,3", WORDS("generate", "--tokens", "1,"));
    expect_at(NULL, USAGE, "such as 1,2,3", WORDS("score", "--tokens", ""));
    expect_at(NULL, USAGE, "is larger than", WORDS("generate", "--prompt-file", "/dev/zero"));
    expect_at(
        NULL, USAGE, "--temperature", WORDS("generate", "--prompt", "a", "--temperature", "nan"));
    expect_at(
        NULL, USAGE, "--max-tokens", WORDS("generate", "--prompt", "a", "--max-tokens", "-1"));
    expect_at(NULL, USAGE, "--seed", WORDS("generate", "--prompt", "a", "--seed", "-1"));
    expect_at(NULL, USAGE, "0 to 9007199254740992", WORDS("serve", "--seed", "-1"));
    expect_at(NULL, USAGE, "--output", WORDS("generate", "--prompt", "a", "--output", "xml"));
    expect_at(
        NULL, FAILED, "/nowhere/prompt", WORDS("generate", "--prompt-file", "/nowhere/prompt"));
    expect_at(NULL, USAGE, "--model is missing", WORDS("serve"));
    static const char *const endpoints[] = {"", "nonsense", "inproc://x", "tcp://127.0.0.1",
        "tcp://:5555", "tcp://127.0.0.1:", "tcp://127.0.0.1:0", "tcp://127.0.0.1:65536"};
    for (size_t i = 0; i < sizeof endpoints / sizeof *endpoints; i++)
        expect_at(NULL, USAGE, "expected ipc://PATH or tcp://HOST:PORT",
            WORDS("models", "--endpoint", endpoints[i]));
    expect_at(NULL, FAILED, "is the server running?",
        WORDS("models", "--timeout-ms", "200", "--endpoint", "ipc:///nowhere/x.ipc"));
    expect_at(NULL, FAILED, "is the server running?",
        WORDS("generate", "--prompt", "a", "--timeout-ms", "200", "--model", "m", "--endpoint",
            "ipc:///nowhere/x.ipc"));
}

// Every setting of serve is refused by serve itself where its value is out of range or no such
// word.
static void test_settings(void **state)
{
    (void)state;
    static const struct {
        unsigned programs;
        const char *field, *value;
    } bad[] = {
#define SERVE 1
#define COORDINATOR 0
#define WORKER 0
#define TEXT(field, programs, value_name, help)
#define INT(field, programs, value, min, max, help)                                                \
    {programs, #field, "-1"}, {programs, #field, "9007199254740993"}, {programs, #field, "many"},
#define BYTES(field, programs, value, help) {programs, #field, "-1"}, {programs, #field, "1X"},
#define CHOICE(field, programs, value, words, help) {programs, #field, "nonsense"},
#define FLAG(field, programs, help) {programs, #field, "maybe"},
#include "proto/settings.def"
    };
    int n = 0;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char option[64], word[96];
        if (!bad[i].programs)
            continue;
        n++;
        snprintf(option, sizeof option, "--%s", bad[i].field);
        for (char *p = option; (p = strchr(p, '_'));)
            *p = '-';
        snprintf(word, sizeof word, "%s=%s", option, bad[i].value);
        expect_at(NULL, USAGE, option, WORDS("serve", model_dir, word));
    }
    assert_true(n > 30);
}

// ---- a server that cannot start ----------------------------------------------------------------

static void expect_no_start(
    const char *model, const char *const *words, int code, const char *first, const char *second)
{
    struct cluster c;
    cluster_spawn(&c, model, words);
    int got = cluster_wait(&c);
    if (got != code || !strstr(c.serve.err, first) || !strstr(c.serve.err, second))
        fail_msg("serve ends with %d and says \"%s\", expected %d, \"%s\" and \"%s\"", got,
            c.serve.err, code, first, second);
    assert_string_equal(c.serve.out, "");
    command_free(&c.serve);
}

// A copy of the model's folder in which config.json has one field more.
static void copy_with(const char *dir, const char *key, const char *value)
{
    static const char *const files[] = {"model.safetensors.index.json", "tokenizer.json",
        "tokenizer_config.json", "model-00001-of-00004.safetensors",
        "model-00002-of-00004.safetensors", "model-00003-of-00004.safetensors",
        "model-00004-of-00004.safetensors"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        assert_int_equal(symlink(test_path(model_dir, files[i]), test_path(dir, files[i])), 0);
    json_t *config = json_load_file(test_path(model_dir, "config.json"), 0, NULL);
    json_object_set_new(config, key, json_loads(value, JSON_DECODE_ANY, NULL));
    assert_int_equal(json_dump_file(config, test_path(dir, "config.json"), 0), 0);
    json_decref(config);
}

static void remove_dir(const char *dir)
{
    struct command m;
    cluster_run_shell(NULL, &m, "rm -r \"$1\"", WORDS(dir));
    assert_int_equal(m.code, 0);
    command_free(&m);
}

// More than the coordinator can keep books of.
static void expect_too_many(void)
{
    char dir[] = "/tmp/phalanx-e2e-model-XXXXXX";
    assert_non_null(mkdtemp(dir));
    copy_with(dir, "max_position_embeddings", "1048576");
    expect_no_start(dir, WORDS("--max-num-seqs", "1024", "--tensor-parallel-degree", "2"), FAILED,
        "1024 sequences of 1048576 tokens", "--max-num-seqs");
    remove_dir(dir);
}

static void expect_unsupported(const char *key, const char *value, const char *feature)
{
    char dir[] = "/tmp/phalanx-e2e-model-XXXXXX";
    assert_non_null(mkdtemp(dir));
    copy_with(dir, key, value);
    expect_no_start(dir, NULL, FAILED, "config.json", feature);
    remove_dir(dir);
}

static void test_serve_refuses(void **state)
{
    (void)state;
    expect_no_start("/nowhere/model", NULL, FAILED, "/nowhere/model", "config.json");
    expect_no_start("/usr/share", NULL, FAILED, "config.json", "/usr/share");
    expect_no_start(model_dir, WORDS("--tensor-parallel-degree", "3"), FAILED, "3", "1, 2, 4");
    expect_no_start(model_dir, WORDS("--tensor-parallel-degree", "0"), USAGE, "degree", "0");
    expect_no_start(model_dir, WORDS("--block-size", "12"), USAGE, "12", "power of two");
    expect_no_start(model_dir, WORDS("--kv-cache-memory", "lots"), USAGE, "lots", "64MiB");
    expect_no_start(model_dir, WORDS("--max-model-len", "100000"), FAILED, "100000", "512");
    expect_no_start(model_dir, WORDS("--kv-cache-memory", "8K", "--max-model-len", "512"), FAILED,
        "--kv-cache-memory", "512");
    expect_no_start(
        model_dir, WORDS("--endpoint", "tcp://0.0.0.0:5555"), USAGE, "0.0.0.0", "expected");
    expect_no_start(model_dir, WORDS("--model-name", ""), USAGE, "--model-name", "1 to 128");
    expect_no_start(model_dir, WORDS("--model-name", "a\nb"), USAGE, "--model-name", "control");
    expect_no_start(model_dir, WORDS("--model-name", "a\xff"), USAGE, "--model-name", "UTF-8");
    expect_too_many();
    expect_unsupported("model_type", "\"gpt9\"", "gpt9");
    expect_unsupported("rope_parameters", "{\"rope_type\":\"spiral\",\"rope_theta\":1}", "spiral");
    expect_unsupported("hidden_act", "\"sine\"", "sine");
}

// ---- with a server -----------------------------------------------------------------------------

static void test_ready_line(void **state)
{
    (void)state;
    char expected[160];
    char *out = command_peek(&cluster.serve);
    snprintf(expected, sizeof expected, "ready: golden on %s\n", cluster.endpoint);
    assert_string_equal(out, expected); // and nothing else
    free(out);
}

static void test_models(void **state)
{
    (void)state;
    json_t *m = cluster_model(&cluster);
    assert_string_equal(json_string_value(json_object_get(m, "name")), "golden");
    assert_string_equal(json_string_value(json_object_get(m, "state")), "ready");
    assert_int_equal(json_integer_value(json_object_get(m, "degree")), 2);
    assert_int_equal(json_integer_value(json_object_get(m, "context_length")), 512);
    assert_int_equal(json_integer_value(json_object_get(m, "vocab_size")), 515);
    assert_int_equal(json_integer_value(json_object_get(m, "running")), 0);
    json_decref(m);
    struct command c;
    cluster_run(&cluster, &c, WORDS("models"));
    assert_int_equal(c.code, DONE);
    assert_non_null(strstr(c.out, "golden"));
    assert_non_null(strstr(c.out, "ready"));
    command_free(&c);
}

// A KV cache that is smaller than the model's context is the context that clients are told.
static void test_models_small(void **state)
{
    (void)state;
    struct cluster c;
    cluster_start(&c, model_dir, WORDS("--kv-cache-memory", "64KiB"));
    json_t *m = cluster_model(&c);
    assert_int_equal(json_integer_value(json_object_get(m, "context_length")), 128);
    json_decref(m);
    cluster_stop(&c);
}

static void test_refused(void **state)
{
    (void)state;
    expect(REFUSED, "\"other\"", WORDS("generate", "--model", "other", "--tokens", "1"));
    expect(REFUSED, "515", WORDS("generate", "--tokens", "1,515"));
    expect(REFUSED, "515", WORDS("generate", "--tokens", "1", "--stop-token-id", "515"));
    expect(REFUSED, "515", WORDS("generate", "--tokens", "1", "--logit-bias", "515:1"));
    struct command m; // what the environment says is one more, not two
    cluster_run_shell(&cluster, &m,
        "PHALANX_STOP=x exec \"$0\" \"$@\" $(yes -- --stop=y | head -n 16)",
        WORDS("generate", "--tokens", "1"));
    assert_int_equal(m.code, REFUSED);
    assert_non_null(strstr(m.err, "stop has 17 strings"));
    command_free(&m);
    expect(REFUSED, "bias", WORDS("generate", "--tokens", "1", "--logit-bias", "5:101"));
    uint32_t ids[512];
    for (uint32_t i = 0; i < 512; i++)
        ids[i] = 5;
    expect(REFUSED, "512", WORDS("generate", "--tokens", cluster_answer_ids(ids, 512)));
    // As text it is known only once it has been tokenized, which makes no difference to scripts.
    char text[2048];
    memset(text, 'x', sizeof text - 1);
    for (size_t i = 1; i < sizeof text; i += 2)
        text[i] = ' ';
    text[sizeof text - 1] = '\0';
    expect(REFUSED, "refused: the prompt leaves no room", WORDS("generate", "--prompt", text));
    expect(REFUSED, "refused: the prompt leaves no room", WORDS("score", "--prompt", text));
    expect(REFUSED, "max_tokens", WORDS("generate", "--tokens", "1", "--max-tokens", "0"));
    expect(USAGE, "--n", WORDS("generate", "--tokens", "1", "--n", "65"));
}

static void generate(struct answer *out, const char *const *words)
{
    struct command m;
    cluster_run(&cluster, &m, words);
    cluster_answer(&m, 0, out);
    command_free(&m);
}

static void test_defaults(void **state)
{
    (void)state;
    static struct answer a;
    generate(&a, WORDS("generate", "--tokens", "1,5", "--ignore-eos", "--output", "jsonl"));
    assert_int_equal(a.n, 16);
    assert_int_equal(a.prompt_tokens, 2); // nothing is added
    assert_string_equal(a.reason, "length");
    assert_string_equal(a.stop, "null");
    uint32_t ids[510];
    for (uint32_t i = 0; i < 510; i++)
        ids[i] = 5 + i % 9;
    generate(&a, WORDS("generate", "--tokens", cluster_answer_ids(ids, 510), "--max-tokens", "50",
                     "--ignore-eos", "--output", "jsonl"));
    assert_int_equal(a.n, 2); // the context is full
    assert_string_equal(a.reason, "length");
}

// The first answer's "seed" asks for the same answer again.
static void test_seed(void **state)
{
    (void)state;
    static struct answer a[3];
    struct command m;
    cluster_run(
        &cluster, &m, WORDS("generate", "--tokens", "1,9", "--ignore-eos", "--output", "jsonl"));
    cluster_answer(&m, 0, &a[0]);
    json_t *last = json_array_get(m.lines, json_array_size(m.lines) - 1);
    json_t *seed = json_object_get(last, "seed");
    assert_true(json_is_integer(seed) && json_integer_value(seed) >= 0);
    assert_true(json_integer_value(seed) < 1LL << 53);
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)json_integer_value(seed));
    command_free(&m);
    generate(&a[1],
        WORDS("generate", "--tokens", "1,9", "--ignore-eos", "--output", "jsonl", "--seed", text));
    assert_true(cluster_answer_same(&a[0], &a[1]));
    generate(&a[2], WORDS("generate", "--tokens", "1,9", "--ignore-eos", "--output", "jsonl"));
    assert_int_not_equal(memcmp(a[0].ids, a[2].ids, sizeof a[0].ids), 0);
    cluster_run(&cluster, &m,
        WORDS(
            "generate", "--tokens", "1,9", "--output", "jsonl", "--seed", "18446744073709551615"));
    assert_non_null(strstr(m.out, "\"seed\":\"18446744073709551615\""));
    command_free(&m);
}

static void test_lines(void **state)
{
    (void)state;
    struct command m;
    cluster_run(&cluster, &m,
        WORDS("generate", "--tokens", "1,5", "--ignore-eos", "--n", "3", "--max-tokens", "4",
            "--logprobs", "2", "--output", "jsonl"));
    assert_int_equal(m.code, DONE);
    assert_int_equal(json_array_size(m.lines), 3 * 5);
    int tokens[3] = {0}, ends[3] = {0};
    const json_t *line;
    size_t i;
    json_array_foreach(m.lines, i, line)
    {
        int64_t index = json_integer_value(json_object_get(line, "index"));
        assert_true(json_is_integer(json_object_get(line, "index")) && index >= 0 && index < 3);
        assert_true(json_is_string(json_object_get(line, "text")));
        if (!json_object_get(line, "id")) {
            ends[index]++;
            assert_true(json_is_string(json_object_get(line, "finish_reason")));
            assert_true(json_is_real(json_object_get(line, "first_token_ms")));
            assert_true(json_is_real(json_object_get(line, "total_ms")));
            continue;
        }
        tokens[index]++;
        assert_true(json_is_real(json_object_get(line, "logprob")));
        assert_int_equal(json_array_size(json_object_get(line, "top_logprobs")), 2);
    }
    for (int k = 0; k < 3; k++)
        assert_true(tokens[k] == 4 && ends[k] == 1);
    assert_null(json_object_get(json_array_get(m.lines, 14), "id")); // the last line
    command_free(&m);
}

// Samples are printed as text one after the other, whole: what jsonl has, put together by index.
static void test_samples_as_text(void **state)
{
    (void)state;
    struct command text, lines;
    cluster_run(&cluster, &text,
        WORDS("generate", "--tokens", "1,5", "--n", "5", "--max-tokens", "30", "--seed", "7"));
    cluster_run(&cluster, &lines,
        WORDS("generate", "--tokens", "1,5", "--n", "5", "--max-tokens", "30", "--seed", "7",
            "--output", "jsonl"));
    assert_int_equal(text.code, DONE);
    assert_int_equal(lines.code, DONE);
    char joined[4096] = "";
    for (int k = 0; k < 5; k++) {
        const json_t *line;
        size_t i;
        json_array_foreach(lines.lines, i, line)
        {
            if (json_integer_value(json_object_get(line, "index")) != k)
                continue;
            size_t n = strlen(joined);
            snprintf(joined + n, sizeof joined - n, "%s%s",
                json_string_value(json_object_get(line, "text")),
                json_object_get(line, "finish_reason") ? "\n" : "");
        }
    }
    assert_string_equal(text.out, joined);
    command_free(&text);
    command_free(&lines);
}

// One line, whatever the number of samples.
static void test_stats(void **state)
{
    (void)state;
    for (int n = 1; n <= 3; n += 2) {
        struct command m;
        unsigned prompt = 0, tokens = 0, samples = 1;
        double first_ms, rate;
        cluster_run(&cluster, &m,
            WORDS("generate", "--tokens", "1,5", "--n", n == 1 ? "1" : "3", "--max-tokens", "9",
                "--ignore-eos", "--stats"));
        assert_int_equal(m.code, DONE);
        int found = n == 1 ? sscanf(m.err,
                                 "%u prompt tokens, first token after %lf ms, %u tokens, then "
                                 "%lf tokens per second\n",
                                 &prompt, &first_ms, &tokens, &rate)
                           : sscanf(m.err,
                                 "%u prompt tokens, first token after %lf ms, %u tokens in %u "
                                 "samples, then %lf tokens per second\n",
                                 &prompt, &first_ms, &tokens, &samples, &rate);
        assert_int_equal(found, n == 1 ? 4 : 5);
        assert_int_equal(prompt, 2);
        assert_int_equal(tokens, 9 * n);
        assert_int_equal(samples, n);
        assert_ptr_equal(strchr(m.err, '\n'), m.err + strlen(m.err) - 1);
        command_free(&m);
    }
}

// A model without a tokenizer has no text: its ids are printed instead.
static void test_without_tokenizer(void **state)
{
    (void)state;
    struct cluster c;
    struct command text, lines;
    char joined[256] = "";
    cluster_start(&c, model_dir, WORDS("--skip-tokenizer"));
    cluster_run(&c, &text,
        WORDS("generate", "--tokens", "1,5", "--temperature", "0", "--ignore-eos", "--n", "2"));
    cluster_run(&c, &lines,
        WORDS("generate", "--tokens", "1,5", "--temperature", "0", "--ignore-eos", "--n", "2",
            "--output", "jsonl"));
    assert_int_equal(text.code, DONE);
    for (int k = 0; k < 2; k++) {
        static struct answer a;
        cluster_answer(&lines, k, &a);
        for (uint32_t i = 0; i < a.n; i++) {
            size_t n = strlen(joined);
            snprintf(joined + n, sizeof joined - n, "%u%s", a.ids[i], i + 1 == a.n ? "\n" : " ");
        }
    }
    assert_string_equal(text.out, joined);
    command_free(&text);
    command_free(&lines);
    expect_at(&c, REFUSED, "no tokenizer", WORDS("generate", "--prompt", "x"));
    cluster_stop(&c);
}

// Text is tokenized with what the tokenizer adds, from whichever source it comes.
static void test_prompts(void **state)
{
    (void)state;
    char file[] = "/tmp/phalanx-e2e-prompt-XXXXXX";
    int fd = mkstemp(file);
    assert_true(fd >= 0 && write(fd, "x", 1) == 1);
    close(fd);
    const char *const sources[][3] = {
        {"--prompt", "x", "\"$0\" \"$@\""},
        {"--prompt-file", file, "\"$0\" \"$@\""},
        {"--prompt-file", "-", "printf x | \"$0\" \"$@\""},
        {"--tokens", "1,90", "\"$0\" \"$@\""},
        {"--tokens-file", "-", "echo 1,90 | \"$0\" \"$@\""},
    };
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        struct command m;
        cluster_run_shell(&cluster, &m, sources[i][2],
            WORDS("score", sources[i][0], sources[i][1], "--output", "jsonl"));
        assert_int_equal(m.code, DONE);
        assert_int_equal(json_array_size(m.lines), 2); // each line is a token
        // tests/golden: "x" is 1 (BOS), 90.
        const json_t *first = json_array_get(m.lines, 0), *second = json_array_get(m.lines, 1);
        assert_int_equal(json_integer_value(json_object_get(first, "id")), 1);
        assert_int_equal(json_integer_value(json_object_get(second, "id")), 90);
        assert_true(json_is_null(json_object_get(first, "logprob")));
        assert_true(json_is_real(json_object_get(second, "logprob")));
        command_free(&m);
    }
    assert_int_equal(truncate(file, 0), 0);
    expect(USAGE, "--tokens-file is empty", WORDS("generate", "--tokens-file", file));
    unlink(file);
    expect(FAILED, file, WORDS("generate", "--tokens-file", file));
    expect(USAGE, "empty", WORDS("generate", "--tokens", ""));
    expect(USAGE, "one of", WORDS("score", "--tokens", "1", "--tokens-file", file));
}

static void test_closed_files(void **state)
{
    (void)state;
    struct command m;
    cluster_run_shell(&cluster, &m, "exec \"$0\" \"$@\" <&-",
        WORDS("generate", "--tokens", "1,5", "--output", "jsonl"));
    assert_int_equal(m.code, DONE);
    command_free(&m);
    cluster_run_shell(&cluster, &m, "exec \"$0\" \"$@\" <&-", WORDS("chat"));
    assert_int_equal(m.code, DONE); // nothing was said
    command_free(&m);
    cluster_run_shell(
        &cluster, &m, "exec \"$0\" \"$@\" <&-", WORDS("generate", "--prompt-file", "-"));
    assert_int_equal(m.code, FAILED);
    command_free(&m);
    cluster_run_shell(&cluster, &m, "exec \"$0\" \"$@\" <&- >&- 2>&-", WORDS("models"));
    assert_int_equal(m.code, FAILED);
    command_free(&m);
    for (int i = 0; i < 2; i++) {
        cluster_run_shell(&cluster, &m, "exec \"$0\" \"$@\" >/dev/full",
            i ? WORDS("models") : WORDS("generate", "--tokens", "1,5"));
        assert_int_equal(m.code, FAILED);
        assert_non_null(strstr(m.err, "standard output"));
        command_free(&m);
    }
    // The reader goes away after the first bytes; the client dies of it and nobody else.
    for (int i = 0; i < 3; i++) {
        cluster_run_shell(&cluster, &m,
            "\"$0\" \"$@\" | head -c 20 >/dev/null; echo ${PIPESTATUS[0]}",
            WORDS("generate", "--tokens", "1,5", "--output", "jsonl", "--max-tokens", "500",
                "--ignore-eos", "--n", "4"));
        assert_int_not_equal(strtol(m.out, NULL, 10), DONE);
        command_free(&m);
    }
    cluster_run(&cluster, &m, WORDS("generate", "--tokens", "1,5"));
    assert_int_equal(m.code, DONE);
    command_free(&m);
}

// A second server on the same endpoint says so and does the first one no harm.
static void test_endpoint_in_use(void **state)
{
    (void)state;
    static struct answer a;
    expect_no_start(
        model_dir, WORDS("--endpoint", cluster.endpoint), FAILED, cluster.endpoint, "in use");
    generate(&a, WORDS("generate", "--tokens", "1,5", "--ignore-eos", "--output", "jsonl"));
    assert_int_equal(a.n, 16);
}

static int start(void **state)
{
    (void)state;
    snprintf(
        model_dir, sizeof model_dir, "%s/tests/golden/models/llama-gqa-sharded", test_source_dir());
    cluster_start(&cluster, model_dir, WORDS("--tensor-parallel-degree", "2"));
    return 0;
}

static int stop(void **state)
{
    (void)state;
    cluster_stop(&cluster);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_usage),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_serve_refuses),
        cmocka_unit_test(test_ready_line),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_models_small),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_seed),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_samples_as_text),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_without_tokenizer),
        cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_closed_files),
        cmocka_unit_test(test_endpoint_in_use),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
