// SPDX-License-Identifier: Apache-2.0
// Tokenizers of real models against what Hugging Face's library, and for tokenizer.model files
// SentencePiece, made of 1,301 texts: ids equal, decoding equal, in one piece and streamed id by
// id.
#include "base/utf8.h"
#include "model/text_file.h"
#include "model/tokenizer.h"
#include "tests/model/tokenizer_convert.h"
#include "tests/test_support.h"

#include <jansson.h>
#include <lzma.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_BYTES_MAX = 256 * 1024 * 1024 };

static bool read_xz(const char *path, struct buf *out)
{
    char *packed = NULL;
    size_t n = 0;
    lzma_stream s = LZMA_STREAM_INIT;
    bool ok = text_file_read(path, FILE_BYTES_MAX, &packed, &n, NULL) == STATUS_OK &&
              lzma_stream_decoder(&s, UINT64_MAX, 0) == LZMA_OK;
    lzma_ret rc = LZMA_OK;
    s.next_in = (const uint8_t *)packed;
    s.avail_in = n;
    while (ok && rc == LZMA_OK) {
        static uint8_t block[1 << 20];
        s.next_out = block;
        s.avail_out = sizeof block;
        rc = lzma_code(&s, LZMA_FINISH);
        buf_append(out, block, sizeof block - s.avail_out);
    }
    lzma_end(&s);
    free(packed);
    return ok && rc == LZMA_STREAM_END && !buf_failed(out);
}

static json_t *read_json_xz(const char *path)
{
    struct buf text;
    buf_init(&text, FILE_BYTES_MAX);
    json_t *j = NULL;
    if (read_xz(path, &text))
        j = json_loadb((const char *)text.data, text.size, JSON_ALLOW_NUL, NULL);
    buf_deinit(&text);
    assert_non_null(j);
    return j;
}

// A SentencePiece model, whatever its name, with a configuration (or NULL).
static struct tokenizer *load_model(const char *path, const char *config)
{
    struct tokenizer *t = NULL;
    struct error err = {0};
    char *data;
    size_t n;
    assert_int_equal(text_file_read(path, FILE_BYTES_MAX, &data, &n, &err), STATUS_OK);
    const struct tokenizer_file files[] = {{"tokenizer.model", data, n},
        {"tokenizer_config.json", config, config ? strlen(config) : 0}};
    if (tokenizer_load_files(files, config ? 2 : 1, &t, &err) != STATUS_OK)
        fail_msg("%s: %s", path, err.text);
    free(data);
    return t;
}

static struct tokenizer *load(const char *dir)
{
    struct tokenizer *t = NULL;
    struct error err = {0};
    enum status st = tokenizer_load(dir, &t, &err);
    if (st == STATUS_NOT_FOUND) {
        struct buf text;
        buf_init(&text, FILE_BYTES_MAX);
        assert_true(read_xz(test_path(dir, "tokenizer.json.xz"), &text));
        st = tokenizer_load_memory(text.data, text.size, &t, &err);
        buf_deinit(&text);
    }
    if (st != STATUS_OK)
        fail_msg("%s: %s", dir, err.text);
    return t;
}

// One row: the text, its ids and its decoded form. Returns the number of things that differ.
static int check_row(const struct tokenizer *t, unsigned flags, const char *name, size_t row,
    const json_t *text, const json_t *ids, const json_t *decoded)
{
    struct tokenizer_ids got;
    struct error err = {0};
    int bad = 0;
    tokenizer_ids_init(&got, 1 << 20);
    enum status st =
        tokenizer_encode(t, json_string_value(text), json_string_length(text), flags, &got, &err);
    bool same = st == STATUS_OK && got.count == json_array_size(ids);
    size_t at = 0;
    while (same && at < got.count &&
           got.data[at] == (uint32_t)json_integer_value(json_array_get(ids, at)))
        at++;
    if (!same || at < got.count) {
        printf("%s row %zu: %s, %zu ids (expected %zu), first difference near %zu: %.60s\n", name,
            row, status_name(st), got.count, json_array_size(ids), at, json_string_value(text));
        bad++;
    }
    // Decoding is tested with the expected ids, whatever encoding gave.
    got.count = 0;
    tokenizer_ids_deinit(&got);
    size_t n = json_array_size(ids);
    uint32_t *want_ids = calloc(n + 1, sizeof *want_ids);
    for (size_t i = 0; i < n; i++)
        want_ids[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
    const json_t *want = json_is_null(decoded) ? text : decoded;
    struct buf whole, streamed;
    buf_init(&whole, 1 << 20);
    buf_init(&streamed, 1 << 20);
    assert_int_equal(tokenizer_decode(t, want_ids, n, false, &whole), STATUS_OK);
    if (whole.size != json_string_length(want) ||
        (whole.size && memcmp(whole.data, json_string_value(want), whole.size) != 0)) {
        printf("%s row %zu: decodes to \"%.*s\", expected \"%.60s\"\n", name, row,
            whole.size < 60 ? (int)whole.size : 60, (const char *)whole.data,
            json_string_value(want));
        bad++;
    }
    struct tokenizer_stream s;
    tokenizer_stream_begin(t, &s, false, false);
    for (size_t i = 0; i < n; i++) {
        size_t before = streamed.size;
        assert_int_equal(tokenizer_stream_push(t, &s, want_ids[i], &streamed), STATUS_OK);
        if (streamed.size > before)
            assert_true(utf8_valid(streamed.data + before, streamed.size - before));
    }
    assert_int_equal(tokenizer_stream_finish(t, &s, &streamed), STATUS_OK);
    bad += streamed.size != whole.size ||
           (whole.size && memcmp(streamed.data, whole.data, whole.size) != 0);
    buf_deinit(&whole);
    buf_deinit(&streamed);
    free(want_ids);
    return bad;
}

// The same tokenizer from the files that `as` names; its configuration is `config`.
static struct tokenizer *load_converted(const char *dir, const char *as, const char *config)
{
    struct buf text, more, first, second;
    struct tokenizer *t = NULL;
    struct error err = {0};
    buf_init(&text, FILE_BYTES_MAX);
    buf_init(&more, FILE_BYTES_MAX);
    buf_init(&first, FILE_BYTES_MAX);
    buf_init(&second, FILE_BYTES_MAX);
    assert_true(read_xz(test_path(dir, "tokenizer.json.xz"), &text));
    json_t *json = json_loadb((const char *)text.data, text.size, JSON_ALLOW_NUL, NULL);
    json_t *extra = json_loads(config, 0, NULL);
    assert_true(json && extra);
    tokenizer_convert_config(json, extra, &more);
    bool bpe = strcmp(as, "vocab.json") == 0;
    if (bpe)
        tokenizer_convert_bpe(json, &first, &second);
    else
        tokenizer_convert_tiktoken(json, &first);
    const struct tokenizer_file files[] = {{as, first.data, first.size},
        {"merges.txt", second.data, second.size}, {"tokenizer_config.json", more.data, more.size}};
    if (tokenizer_load_files(files, 3, &t, &err) != STATUS_OK)
        fail_msg("%s: %s", as, err.text);
    json_decref(json);
    json_decref(extra);
    buf_deinit(&text);
    buf_deinit(&more);
    buf_deinit(&first);
    buf_deinit(&second);
    return t;
}

static void check_golden(const char *folder, const char *golden, const char *as, const char *config)
{
    const char *shared = test_shared_dir();
    if (!shared)
        return;
    char path[256];
    bool model = strstr(folder, ".model") != NULL;
    unsigned flags = model && !config ? 0 : TOKENIZER_PARSE_SPECIAL;
    snprintf(path, sizeof path, "oracle/%s", folder);
    struct tokenizer *t = model ? load_model(test_path(shared, path), config)
                          : as  ? load_converted(test_path(shared, path), as, config)
                                : load(test_path(shared, path));
    json_t *texts = read_json_xz(test_path(shared, "oracle/tokenizers/golden/texts.json.xz"));
    snprintf(path, sizeof path, "oracle/tokenizers/golden/%s.json.xz", golden);
    json_t *file = read_json_xz(test_path(shared, path));
    const json_t *rows = json_object_get(file, "rows");
    size_t n = json_array_size(texts);
    int bad = 0;
    assert_true(n > 1000 && json_array_size(rows) == n);
    for (size_t i = 0; i < n && bad < 20; i++) {
        const json_t *row = json_array_get(rows, i);
        bad += check_row(t, flags, golden, i, json_array_get(texts, i), json_array_get(row, 0),
            json_array_get(row, 1));
    }
    json_decref(texts);
    json_decref(file);
    tokenizer_free(t);
    assert_int_equal(bad, 0);
}

// *state: {folder of the tokenizer, name of its golden file, file to turn it into, configuration}
static void equals_golden(void **state)
{
    char *const *names = *state;
    check_golden(names[0], names[1], names[2], names[3]);
}

#define CONVERTED(folder, golden, as, config)                                                      \
    {                                                                                              \
        .name = golden as, .test_func = equals_golden,                                             \
        .initial_state = (const char *[]){folder, golden, as, config},                             \
    }
#define GOLDEN(folder, golden)                                                                     \
    {                                                                                              \
        .name = golden, .test_func = equals_golden,                                                \
        .initial_state = (const char *[]){folder, golden, NULL, NULL},                             \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
#ifdef TOKENIZER_GOLDEN_ALL
        GOLDEN("tokenizers/falcon-tokenizer", "falcon-tokenizer"),
        GOLDEN("tokenizers/gpt-neox-20b", "gpt-neox-20b"),
        GOLDEN("tokenizers/olmo2-dolma2", "olmo2-dolma2"),
        GOLDEN("tokenizers/phi-2", "phi-2"),
        GOLDEN("tokenizers/phi-3-mini", "phi-3-mini"),
        GOLDEN("tokenizers/deepseek-v3", "deepseek-v3"),
        GOLDEN("tokenizers/qwen3", "qwen3"),
        GOLDEN("tokenizers/gpt-oss", "gpt-oss"),
        GOLDEN("tokenizers/internlm2", "internlm2"),
        GOLDEN("tokenizers/chatglm", "chatglm"),
        GOLDEN("tokenizers/gemma2", "gemma2"),
        GOLDEN("tokenizers/gemma3", "gemma3"),
        GOLDEN("tokenizers/mistral/tokenizer.model.v1", "spm-mistral-tokenizer.model.v1"),
        GOLDEN("tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3",
            "spm-mistral-mistral_instruct_tokenizer_240323.model.v3"),
        CONVERTED("tokenizers/qwen2.5", "qwen2.5", "vocab.json",
            "{\"tokenizer_class\":\"Qwen2Tokenizer\"}"),
        CONVERTED("tokenizers/llama3.2", "llama3.2", "tokenizer.model", "{}"),
        CONVERTED("tokenizers/gpt-oss", "gpt-oss", "o200k_base.tiktoken", "{}"),
#else
        GOLDEN("tokenizers/TinyLlama_v1.1", "TinyLlama_v1.1"),
        GOLDEN("tokenizers/llama3.2", "llama3.2"),
        GOLDEN("tokenizers/qwen2.5", "qwen2.5"),
        GOLDEN("tokenizers/mistral-nemo", "mistral-nemo"),
        GOLDEN("tokenizers/gpt2", "gpt2"),
        GOLDEN("tokenizers/t5-small", "t5-small"),
        GOLDEN("tokenizers/llama2/tokenizer.model", "spm-llama2-tokenizer.model"),
        // The same vocabulary, as Hugging Face's library reads it.
        CONVERTED("tokenizers/llama2/tokenizer.model", "TinyLlama_v1.1", "tokenizer.model",
            "{\"unk_token\":\"<unk>\",\"bos_token\":\"<s>\",\"legacy\":true}"),
        GOLDEN("models/minimind2-small", "weights-minimind2-small"),
        GOLDEN("models/stories260K", "weights-stories260K"),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
