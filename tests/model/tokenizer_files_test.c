// SPDX-License-Identifier: Apache-2.0
// The files that stand where there is no tokenizer.json: small SentencePiece models against what
// SentencePiece computed, our small byte-level tokenizers turned into vocab.json with merges.txt
// and into tiktoken files, BERT's vocab.txt; what stands beside them; and malformed ones.
#include "base/check.h"
#include "model/text_file.h"
#include "model/tokenizer.h"
#include "tests/model/tokenizer_convert.h"
#include "tests/test_support.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IDS_MAX = 100000, TEXT_MAX = 1 << 20 };

// ---- comparing -----------------------------------------------------------------------------

static struct tokenizer *load_files(const struct tokenizer_file *files, size_t n)
{
    struct tokenizer *t = NULL;
    struct error err = {0};
    if (tokenizer_load_files(files, n, &t, &err) != STATUS_OK)
        fail_msg("%s: %s", files[0].name, err.text);
    return t;
}

static int check_encode(const struct tokenizer *t, const char *where, const json_t *text,
    unsigned flags, const json_t *want)
{
    struct tokenizer_ids ids;
    struct error err = {0};
    tokenizer_ids_init(&ids, IDS_MAX);
    enum status st =
        tokenizer_encode(t, json_string_value(text), json_string_length(text), flags, &ids, &err);
    bool same = st == STATUS_OK && ids.count == json_array_size(want);
    for (size_t i = 0; same && i < ids.count; i++)
        same = (json_int_t)ids.data[i] == json_integer_value(json_array_get(want, i));
    if (!same) {
        char *shown = json_dumps(text, JSON_ENCODE_ANY), *expected = json_dumps(want, 0);
        printf("%s: %s: %s\n  expected %s\n  got      ", where, shown, err.text, expected);
        for (size_t i = 0; i < ids.count; i++)
            printf("%u ", ids.data[i]);
        printf("\n");
        free(shown);
        free(expected);
    }
    tokenizer_ids_deinit(&ids);
    return !same;
}

static int check_decode(
    const struct tokenizer *t, const char *where, const json_t *ids, const json_t *want)
{
    struct buf out;
    struct tokenizer_stream s;
    buf_init(&out, TEXT_MAX);
    tokenizer_stream_begin(t, &s, false, false);
    for (size_t i = 0; i < json_array_size(ids); i++)
        assert_int_equal(tokenizer_stream_push(
                             t, &s, (uint32_t)json_integer_value(json_array_get(ids, i)), &out),
            STATUS_OK);
    assert_int_equal(tokenizer_stream_finish(t, &s, &out), STATUS_OK);
    bool same = out.size == json_string_length(want) &&
                (out.size == 0 || memcmp(out.data, json_string_value(want), out.size) == 0);
    if (!same) {
        char *shown = json_dumps(ids, 0), *expected = json_dumps(want, JSON_ENCODE_ANY);
        printf("%s: %s\n  expected %s\n  got      \"%.*s\"\n", where, shown, expected,
            (int)out.size, (const char *)out.data);
        free(shown);
        free(expected);
    }
    buf_deinit(&out);
    return !same;
}

// ---- SentencePiece -------------------------------------------------------------------------

static struct tokenizer *load_model(const char *path)
{
    char *data;
    size_t n;
    assert_int_equal(text_file_read(path, TEXT_MAX, &data, &n, NULL), STATUS_OK);
    const struct tokenizer_file file = {"tokenizer.model", data, n};
    struct tokenizer *t = load_files(&file, 1);
    free(data);
    return t;
}

static void sentencepiece_models_equal_sentencepiece(void **state)
{
    (void)state;
    char folder[1024];
    snprintf(folder, sizeof folder, "%s/tests/golden/tokenizers/spm", test_source_dir());
    json_t *all = json_load_file(test_path(folder, "golden.json"), JSON_ALLOW_NUL, NULL), *golden;
    const char *name;
    int bad = 0;
    assert_true(json_object_size(all) >= 8);
    json_object_foreach(all, name, golden)
    {
        char file[64];
        snprintf(file, sizeof file, "%s.model", name);
        struct tokenizer *t = load_model(test_path(folder, file));
        size_t i;
        json_t *row;
        json_array_foreach(json_object_get(golden, "encode"), i, row)
        {
            bad += check_encode(t, name, json_array_get(row, 0), 0, json_array_get(row, 1));
            bad += check_decode(t, name, json_array_get(row, 1), json_array_get(row, 2));
        }
        json_array_foreach(json_object_get(golden, "decode"), i, row) bad +=
            check_decode(t, name, json_array_get(row, 0), json_array_get(row, 1));
        assert_int_equal(tokenizer_bos(t), 1);
        assert_int_equal(tokenizer_eos(t), 2);
        tokenizer_free(t);
    }
    json_decref(all);
    assert_int_equal(bad, 0);
}

// ---- the other kinds -----------------------------------------------------------------------

// Two buffers with files, and a configuration.
struct converted {
    struct buf first, second, config;
};

static void convert(const char *folder, const char *name, bool bpe, struct converted *c)
{
    char path[64];
    snprintf(path, sizeof path, "%s/tokenizer.json", name);
    json_t *json = json_load_file(test_path(folder, path), JSON_ALLOW_NUL, NULL);
    json_t *none = json_object();
    assert_non_null(json);
    buf_init(&c->first, TEXT_MAX);
    buf_init(&c->second, TEXT_MAX);
    buf_init(&c->config, TEXT_MAX);
    if (bpe)
        tokenizer_convert_bpe(json, &c->first, &c->second);
    else
        tokenizer_convert_tiktoken(json, &c->first);
    tokenizer_convert_config(json, none, &c->config);
    json_decref(none);
    json_decref(json);
}

// As its tokenizer.json has them, so has it them from other files.
static int check_converted(
    const char *folder, const json_t *golden, const char *name, const char *as)
{
    struct converted c;
    size_t i;
    json_t *row;
    int bad = 0;
    convert(folder, name, strcmp(as, "vocab.json") == 0, &c);
    const struct tokenizer_file files[] = {{as, c.first.data, c.first.size},
        {"merges.txt", c.second.data, c.second.size},
        {"tokenizer_config.json", c.config.data, c.config.size}};
    struct tokenizer *t = load_files(files, 3);
    json_array_foreach(json_object_get(json_object_get(golden, name), "encode"), i, row)
    {
        const json_t *around = json_object_get(row, "with_bos");
        bad += check_encode(t, as, json_object_get(row, "text"), TOKENIZER_PARSE_SPECIAL,
            json_object_get(row, "ids"));
        bad += check_decode(t, as, around, json_object_get(row, "decoded_all"));
    }
    tokenizer_free(t);
    buf_deinit(&c.first);
    buf_deinit(&c.second);
    buf_deinit(&c.config);
    return bad;
}

static void converted_tokenizers_equal_their_originals(void **state)
{
    (void)state;
    char folder[1024];
    snprintf(folder, sizeof folder, "%s/tests/golden/tokenizers", test_source_dir());
    json_t *golden = json_load_file(test_path(folder, "golden.json"), JSON_ALLOW_NUL, NULL);
    int bad = check_converted(folder, golden, "gpt2-split", "vocab.json");
    bad += check_converted(folder, golden, "llama3-split", "tokenizer.model");
    bad += check_converted(folder, golden, "gpt2-split", "r50k_base.tiktoken");
    json_decref(golden);
    assert_int_equal(bad, 0);
}

static void bert_vocabularies_equal_transformers(void **state)
{
    (void)state;
    char folder[1024];
    char *vocab;
    size_t n;
    int bad = 0;
    snprintf(folder, sizeof folder, "%s/tests/golden/tokenizers/bert", test_source_dir());
    json_t *golden = json_load_file(test_path(folder, "golden.json"), JSON_ALLOW_NUL, NULL);
    assert_int_equal(
        text_file_read(test_path(folder, "vocab.txt"), TEXT_MAX, &vocab, &n, NULL), STATUS_OK);
    for (int lower = 0; lower < 2; lower++) {
        static const char PLAIN[] = "{\"do_lower_case\":false}";
        const struct tokenizer_file files[] = {
            {"vocab.txt", vocab, n}, {"tokenizer_config.json", PLAIN, sizeof PLAIN - 1}};
        struct tokenizer *t = load_files(files, lower ? 1 : 2);
        size_t i;
        json_t *row;
        json_array_foreach(json_object_get(golden, lower ? "lower" : "plain"), i, row)
        {
            bad += check_encode(t, "bert", json_array_get(row, 0),
                TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_SPECIAL, json_array_get(row, 1));
            bad += check_decode(t, "bert", json_array_get(row, 1), json_array_get(row, 2));
        }
        tokenizer_free(t);
    }
    free(vocab);
    json_decref(golden);
    assert_int_equal(bad, 0);
}

// ---- by hand -------------------------------------------------------------------------------

static uint32_t id_of(const struct tokenizer *t, const char *content)
{
    return tokenizer_id(t, content, strlen(content));
}

// Special tokens that stand in a family's code: Qwen's behind its vocabulary, Llama 3's 256, and
// ChatGLM's with its two before every text.
static void families_bring_their_special_tokens(void **state)
{
    (void)state;
    static const char RANKS[] = "YQ== 0\nYg== 1\nYWI= 2\n",
                      CHATGLM[] = "{\"tokenizer_class\":\"ChatGLMTokenizer\"}";
    const struct tokenizer_file qwen = {"qwen.tiktoken", RANKS, sizeof RANKS - 1};
    struct tokenizer *t = load_files(&qwen, 1);
    assert_int_equal(id_of(t, "<|endoftext|>"), 3);
    assert_int_equal(id_of(t, "<|im_end|>"), 5);
    assert_int_equal(id_of(t, "<|extra_204|>"), 210);
    assert_int_equal(tokenizer_vocab_size(t), 211);
    assert_int_equal(tokenizer_eos(t), 3);
    tokenizer_free(t);
    char *data;
    size_t n;
    assert_int_equal(
        text_file_read(test_path(test_source_dir(), "tests/golden/tokenizers/spm/bpe-llama.model"),
            TEXT_MAX, &data, &n, NULL),
        STATUS_OK);
    const struct tokenizer_file glm[] = {
        {"tokenizer.model", data, n}, {"tokenizer_config.json", CHATGLM, sizeof CHATGLM - 1}};
    t = load_files(glm, 2);
    uint32_t mask = id_of(t, "[gMASK]"), sop = id_of(t, "sop");
    struct tokenizer_ids ids;
    struct error err = {0};
    tokenizer_ids_init(&ids, IDS_MAX);
    assert_int_equal(mask + 2, sop);
    assert_int_equal(sop + 2, tokenizer_vocab_size(t));
    assert_int_equal(tokenizer_encode(t, "a", 1, TOKENIZER_ADD_SPECIAL, &ids, &err), STATUS_OK);
    assert_true(ids.count > 2 && ids.data[0] == mask && ids.data[1] == sop);
    tokenizer_ids_deinit(&ids);
    tokenizer_free(t);
    free(data);
}

// What clients write never becomes a control token unless they may: neither a control piece nor a
// user-defined one that the configuration calls special.
static void control_pieces_are_text_unless_asked_for(void **state)
{
    (void)state;
    static const char CONFIG[] =
        "{\"added_tokens_decoder\":{\"9000\":{\"content\":\"<u>\",\"special\":true}},"
        "\"add_bos_token\":false}";
    char *data;
    size_t n;
    assert_int_equal(text_file_read(test_path(test_source_dir(),
                                        "tests/golden/tokenizers/spm/bpe-symbols.model"),
                         TEXT_MAX, &data, &n, NULL),
        STATUS_OK);
    const struct tokenizer_file files[] = {
        {"tokenizer.model", data, n}, {"tokenizer_config.json", CONFIG, sizeof CONFIG - 1}};
    struct tokenizer *t = load_files(files, 2);
    uint32_t special[] = {id_of(t, "<u>"), id_of(t, "<c>"), id_of(t, "</s>")};
    for (unsigned parse = 0; parse < 2; parse++) {
        struct tokenizer_ids ids;
        struct error err = {0};
        unsigned found = 0;
        tokenizer_ids_init(&ids, IDS_MAX);
        assert_int_equal(
            tokenizer_encode(t, "x<u><c></s>y", 12,
                TOKENIZER_ADD_SPECIAL | (parse ? TOKENIZER_PARSE_SPECIAL : 0), &ids, &err),
            STATUS_OK);
        for (size_t i = 0; i < ids.count; i++)
            for (size_t k = 0; k < COUNT_OF(special); k++)
                found += ids.data[i] == special[k];
        assert_int_equal(found, parse ? 3 : 0);
        tokenizer_ids_deinit(&ids);
    }
    tokenizer_free(t);
    free(data);
}

#define FILE_OF(name, text)                                                                        \
    {                                                                                              \
        name, text, sizeof text - 1                                                                \
    }

static void bad_files_get_a_status_and_a_sentence(void **state)
{
    (void)state;
    static const struct {
        struct tokenizer_file file;
        enum status status;
        const char *says;
    } CASES[] = {
        {FILE_OF("config.json", "{}"), STATUS_NOT_FOUND, "no tokenizer"},
        {FILE_OF("tokenizer.model", ""), STATUS_INVALID, "0 unknown pieces"},
        {FILE_OF("tokenizer.model", "\x0a\xff"), STATUS_INVALID, "neither a tiktoken file"},
        {FILE_OF("tokenizer.model", "\x0a\x03\x0a\x05x"), STATUS_INVALID, "pieces cannot be read"},
        {FILE_OF("tokenizer.model", "\x0a\x02\x18\x02"), STATUS_INVALID, "piece 0"},
        {FILE_OF("tokenizer.model", "\x0a\x05\x0a\x01\xff\x18\x02"), STATUS_INVALID, "UTF-8"},
        {FILE_OF("tokenizer.model", "\x0a\x0a\x0a\x01u\x15\x00\x00\xc0\x7f\x18\x02"),
            STATUS_INVALID, "finite score"},
        {FILE_OF("tokenizer.model", "\x0a\x05\x0a\x01u\x18\x02\x12\x02\x18\x03"),
            STATUS_UNSUPPORTED, "WORD or CHAR"},
        {FILE_OF("tokenizer.model", "\x0a\x05\x0a\x01u\x18\x02\x1a\x03\x12\x01x"), STATUS_INVALID,
            "precompiled_charsmap"},
        {FILE_OF("tokenizer.model", "\x0a\x05\x0a\x01u\x18\x02\x2a\x03\x12\x01x"),
            STATUS_UNSUPPORTED, "denormalizer_spec"},
        {FILE_OF("tokenizer.model", "\x0a\x05\x0a\x01u\x18\x02\x12\x03\x98\x02\x01"),
            STATUS_INVALID, "0 byte pieces, expected 1 and 256"},
        {FILE_OF("x.tiktoken", "YQ== 0\nYg==\n"), STATUS_INVALID, "line 2"},
        {FILE_OF("x.tiktoken", "YQ== 0\nYg== 1048576\n"), STATUS_INVALID, "line 2"},
        {FILE_OF("x.tiktoken", "YQ== 0\nYg== 0\n"), STATUS_INVALID, "two tokens"},
        {FILE_OF("x.tiktoken", "Y?== 0\n"), STATUS_INVALID, "base64"},
        {FILE_OF("vocab.txt", "a\n\xff\n"), STATUS_INVALID, "UTF-8"},
    };
    for (size_t i = 0; i < COUNT_OF(CASES); i++) {
        struct tokenizer *t = NULL;
        struct error err = {0};
        enum status st = tokenizer_load_files(&CASES[i].file, 1, &t, &err);
        if (st != CASES[i].status || !strstr(err.text, CASES[i].says))
            fail_msg("case %zu: %s: %s", i, status_name(st), err.text);
        assert_null(t);
    }
    const struct tokenizer_file bpe[] = {
        FILE_OF("vocab.json", "{\"a\":0}"), FILE_OF("merges.txt", "#version\na b\n")};
    struct tokenizer *t = NULL;
    struct error err = {0};
    assert_int_equal(tokenizer_load_files(bpe, 1, &t, &err), STATUS_NOT_FOUND);
    assert_int_equal(tokenizer_load_files(bpe, 2, &t, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "not in the vocabulary"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sentencepiece_models_equal_sentencepiece),
        cmocka_unit_test(converted_tokenizers_equal_their_originals),
        cmocka_unit_test(bert_vocabularies_equal_transformers),
        cmocka_unit_test(families_bring_their_special_tokens),
        cmocka_unit_test(control_pieces_are_text_unless_asked_for),
        cmocka_unit_test(bad_files_get_a_status_and_a_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
