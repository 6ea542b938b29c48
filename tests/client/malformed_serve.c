// SPDX-License-Identifier: Apache-2.0
// Command lines and model directories that are not what they should be.
#include "tests/client/malformed.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// ---- command lines -----------------------------------------------------------------------------

enum { WORDS = 10 };

struct words_row {
    int code;
    const char *part;
    const char *words[WORDS];
};

#define GENERATE(part, ...)                                                                        \
    {                                                                                              \
        2, part,                                                                                   \
        {                                                                                          \
            "generate", __VA_ARGS__                                                                \
        }                                                                                          \
    }

static const struct words_row words_rows[] = {
    {2, "unknown command", {"frobnicate"}},
    {2, "unknown command", {""}},
    {2, "usage", {NULL}},
    GENERATE("expected one of --prompt", "--model", "golden"),
    GENERATE("expected one of --prompt", "--prompt", "x", "--tokens", "1"),
    GENERATE("unknown option --promt", "--promt", "x"),
    GENERATE("unexpected word", "hello"),
    GENERATE("needs a value", "--prompt"),
    GENERATE("not a token id", "--tokens", "1,x"),
    GENERATE("not a token id", "--tokens", "-1"),
    GENERATE("not a token id", "--tokens", "4294967296"),
    GENERATE("not a token id", "--tokens", "1,,2"),
    GENERATE("not a token id", "--tokens", " 1"),
    GENERATE("not a token id", "--tokens", "1;2"),
    GENERATE("--tokens is empty", "--tokens", ""),
    GENERATE("--max-tokens is", "--tokens", "1", "--max-tokens", "1e3"),
    GENERATE("--max-tokens is", "--tokens", "1", "--max-tokens", "99999999999999999999"),
    GENERATE("--max-tokens is", "--tokens", "1", "--max-tokens", "-1"),
    GENERATE("--n is", "--tokens", "1", "--n", "0"),
    GENERATE("--n is", "--tokens", "1", "--n", "65"),
    GENERATE("--temperature is", "--tokens", "1", "--temperature", "nan"),
    GENERATE("--temperature is", "--tokens", "1", "--temperature", "inf"),
    GENERATE("--temperature is", "--tokens", "1", "--temperature", "-0.1"),
    GENERATE("--temperature is", "--tokens", "1", "--temperature", ""),
    GENERATE("--top-p is", "--tokens", "1", "--top-p", "1.1"),
    GENERATE("--top-k is", "--tokens", "1", "--top-k", "-2"),
    GENERATE("--seed is", "--tokens", "1", "--seed", "-1"),
    GENERATE("--seed is", "--tokens", "1", "--seed", "18446744073709551616"),
    GENERATE("--seed is", "--tokens", "1", "--seed", "one"),
    GENERATE("--seed is", "--tokens", "1", "--seed", ""),
    GENERATE("--prompt-logprobs is", "--tokens", "1", "--prompt-logprobs", "21"),
    GENERATE("--logit-bias is", "--tokens", "1", "--logit-bias", "5"),
    GENERATE("--logit-bias is", "--tokens", "1", "--logit-bias", "5:x"),
    GENERATE("--logit-bias is", "--tokens", "1", "--logit-bias", "-5:1"),
    GENERATE("--logit-bias is", "--tokens", "1", "--logit-bias", "5:nan"),
    GENERATE("--logit-bias is", "--tokens", "1", "--logit-bias", ":1"),
    GENERATE("--stop-token-id is", "--tokens", "1", "--stop-token-id", "-1"),
    GENERATE("--stop-token-id is", "--tokens", "1", "--stop-token-id", "x"),
    GENERATE("--output is", "--tokens", "1", "--output", "xml"),
    GENERATE("--ignore-eos is", "--tokens", "1", "--ignore-eos=maybe"),
    {1, "No such file", {"generate", "--prompt-file", "/nowhere/prompt.txt"}},
    GENERATE("expected ipc://", "--tokens", "1", "--endpoint", "http://localhost"),
    GENERATE("expected ipc://", "--tokens", "1", "--endpoint", "nonsense"),
    GENERATE("expected ipc://", "--tokens", "1", "--model", "m", "--endpoint", "tcp://nowhere"),
    {1, "is the server running",
        {"models", "--timeout-ms", "50", "--endpoint", "ipc:///tmp/phalanx-nobody.ipc"}},
    {1, "is the server running",
        {"generate", "--tokens", "1", "--model", "m", "--timeout-ms", "50", "--endpoint",
            "ipc:///tmp/phalanx-nobody.ipc"}},
    {2, "--timeout-ms is", {"models", "--timeout-ms", "0"}},
    {2, "unexpected word", {"stop", "now"}},
    {2, "expected one of --prompt", {"score"}},
    {2, "--model is missing", {"serve"}},
    {1, "is not a directory", {"serve", "--model", "/nowhere"}},
    {2, "--tensor-parallel-degree is", {"serve", "--tensor-parallel-degree", "0"}},
    {2, "--block-size is", {"serve", "--block-size", "7"}},
    {2, "unexpected word", {"serve", "a", "b"}},
    {2, "--device is", {"serve", "--device", "abacus"}},
    {2, "expected tcp://ADDRESS:PORT", {"serve", "/", "--endpoint", "tcp://127.0.0.1:99999"}},
    {2, "expected tcp://ADDRESS:PORT", {"serve", "/", "--endpoint", "ipc://relative"}},
};

void malformed_words(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof words_rows / sizeof words_rows[0]; i++) {
        const struct words_row *row = &words_rows[i];
        const char *words[WORDS + 1] = {NULL};
        struct command m;
        memcpy(words, row->words, sizeof row->words);
        cluster_run(NULL, &m, words);
        bool right = m.code == row->code && strstr(m.err, row->part) && m.out[0] == '\0';
        if (!right) {
            for (int k = 0; words[k]; k++)
                print_error("%s ", words[k]);
            print_error("\nended with %d, expected %d and \"%s\": %s%s", m.code, row->code,
                row->part, m.out, m.err);
        }
        assert_true(right);
        malformed_rows++;
        command_free(&m);
    }
}

// ---- model directories -------------------------------------------------------------------------

enum damage {
    GONE,      // the file is not there
    DIRECTORY, // a directory of its name
    CUT,       // its first `n` bytes
    BECOMES,   // `to` is all that it holds
    REPLACE,   // `from` once becomes `to`
    BYTE,      // byte `n` becomes 0xff
};

struct file_row {
    const char *file;
    enum damage damage;
    const char *part; // of what serve prints
    size_t n;
    const char *from, *to;
};

#define CONFIG(part, from, to)                                                                     \
    {                                                                                              \
        "config.json", REPLACE, part, 0, from, to                                                  \
    }
#define WEIGHTS "model.safetensors"

static const struct file_row file_rows[] = {
    {"config.json", GONE, "config.json", 0, NULL, NULL},
    {"config.json", DIRECTORY, "config.json", 0, NULL, NULL},
    {"config.json", CUT, "config.json", 0, NULL, NULL},
    {"config.json", CUT, "config.json", 100, NULL, NULL},
    {"config.json", BECOMES, "config.json", 0, NULL, "[]"},
    {"config.json", BECOMES, "config.json", 0, NULL, "{}"},
    {"config.json", BECOMES, "config.json", 0, NULL, "{\"architectures\": [\"\xff\"]}"},
    CONFIG("hidden_size", "\"hidden_size\": ", "\"hidden_size\": -"),
    CONFIG("num_attention_heads", "\"num_attention_heads\": ", "\"num_attention_heads\": 99999999"),
    CONFIG("num_hidden_layers", "\"num_hidden_layers\": ", "\"num_hidden_layers\": 1e"),
    CONFIG("vocab_size", "\"vocab_size\": ", "\"vocab_size\": \"many\", \"x\": "),
    CONFIG("Frobnicator", "\"LlamaForCausalLM\"", "\"FrobnicatorForCausalLM\""),
    {"tokenizer.json", CUT, "tokenizer.json", 0, NULL, NULL},
    {"tokenizer.json", CUT, "tokenizer.json", 1000, NULL, NULL},
    {"tokenizer.json", BECOMES, "tokenizer.json", 0, NULL, "{\"model\": 5}"},
    {"tokenizer.json", REPLACE, "tokenizer.json", 0, "\"type\": \"BPE\"", "\"type\": \"XYZ\""},
    {"tokenizer.json", DIRECTORY, "tokenizer.json", 0, NULL, NULL},
    {WEIGHTS, GONE, "safetensors", 0, NULL, NULL},
    {WEIGHTS, CUT, WEIGHTS, 0, NULL, NULL},
    {WEIGHTS, CUT, WEIGHTS, 7, NULL, NULL},
    {WEIGHTS, CUT, WEIGHTS, 500, NULL, NULL},
    {WEIGHTS, CUT, WEIGHTS, 20000, NULL, NULL},
    {WEIGHTS, BYTE, WEIGHTS, 7, NULL, NULL},
    {WEIGHTS, BYTE, WEIGHTS, 8, NULL, NULL},
    {WEIGHTS, REPLACE, WEIGHTS, 0, "F16", "F61"},
    {WEIGHTS, REPLACE, "model.embed_tokens.weight", 0, "embed_tokens", "embed_tokenz"},
    {WEIGHTS, REPLACE, WEIGHTS, 0, "data_offsets\":[", "data_offsets\":[9"},
};

static void copy_file(const char *from, const char *to)
{
    static char bytes[1 << 20];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    assert_non_null(in);
    assert_non_null(out);
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, in)) > 0;)
        assert_int_equal(fwrite(bytes, 1, n, out), n);
    fclose(in);
    assert_int_equal(fclose(out), 0);
}

// Replaces the first occurrence, in a file that may hold zeros.
static void replace(const char *path, const char *from, const char *to)
{
    static char bytes[1 << 20];
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(bytes, 1, sizeof bytes, f);
    assert_true(n < sizeof bytes);
    fclose(f);
    char *at = memmem(bytes, n, from, strlen(from));
    if (!at)
        fail_msg("%s has no %s", path, from);
    f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(bytes, 1, (size_t)(at - bytes), f);
    fputs(to, f);
    at += strlen(from);
    fwrite(at, 1, n - (size_t)(at - bytes), f);
    assert_int_equal(fclose(f), 0);
}

static void apply(const char *path, const struct file_row *row)
{
    int fd;
    switch (row->damage) {
    case GONE:
        assert_int_equal(unlink(path), 0);
        break;
    case DIRECTORY:
        assert_int_equal(unlink(path), 0);
        assert_int_equal(mkdir(path, 0700), 0);
        break;
    case CUT:
        assert_int_equal(truncate(path, (off_t)row->n), 0);
        break;
    case BECOMES:
        fd = open(path, O_WRONLY | O_TRUNC);
        assert_int_equal(write(fd, row->to, strlen(row->to)), strlen(row->to));
        close(fd);
        break;
    case REPLACE:
        replace(path, row->from, row->to);
        break;
    case BYTE:
        fd = open(path, O_WRONLY);
        assert_int_equal(pwrite(fd, "\xff", 1, (off_t)row->n), 1);
        close(fd);
        break;
    }
}

static void make_model(const char *dir, const struct file_row *row)
{
    static const char *const files[] = {"config.json", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", WEIGHTS};
    char from[1024];
    snprintf(from, sizeof from, "%s/tests/golden/models/llama-mqa-f16", test_source_dir());
    assert_int_equal(mkdir(dir, 0700), 0);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        copy_file(test_path(from, files[i]), test_path(dir, files[i]));
    apply(test_path(dir, row->file), row);
}

static void remove_model(const char *dir)
{
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.')
            assert_int_equal(remove(test_path(dir, e->d_name)), 0);
    closedir(d);
    assert_int_equal(rmdir(dir), 0);
}

static void expect_failure(struct cluster *c, const struct file_row *row)
{
    int code = cluster_wait(c);
    const char *err = c->serve.err;
    bool right = (code == 1 || code == 2) && strstr(err, row->part) && c->serve.out[0] == '\0' &&
                 !strstr(err, "signal") && !strstr(err, "Sanitizer");
    if (!right)
        print_error("%s, damage %d of %zu: ended with %d, expected 1 and \"%s\":\n%s%s", row->file,
            (int)row->damage, row->n, code, row->part, c->serve.out, err);
    assert_true(right);
    malformed_rows++;
    command_free(&c->serve);
}

// A few servers at once: most of their time is mpirun's.
void malformed_files(void **state)
{
    (void)state;
    enum { AT_ONCE = 4, ROWS = sizeof file_rows / sizeof file_rows[0] };
    static struct cluster clusters[AT_ONCE];
    char dirs[AT_ONCE][80], scratch[64];
    snprintf(scratch, sizeof scratch, "/tmp/phalanx-malformed-%d", (int)getpid());
    assert_int_equal(mkdir(scratch, 0700), 0);
    for (int first = 0; first < ROWS; first += AT_ONCE) {
        int n = ROWS - first < AT_ONCE ? ROWS - first : AT_ONCE;
        for (int i = 0; i < n; i++) {
            snprintf(dirs[i], sizeof dirs[i], "%s/%d", scratch, first + i);
            make_model(dirs[i], &file_rows[first + i]);
            cluster_spawn(&clusters[i], dirs[i], NULL);
        }
        for (int i = 0; i < n; i++) {
            expect_failure(&clusters[i], &file_rows[first + i]);
            remove_model(dirs[i]);
        }
    }
    assert_int_equal(rmdir(scratch), 0);
    struct wire w;
    wire_open(&w, NULL);
    wire_expect_service(&w);
    wire_close(&w);
}
