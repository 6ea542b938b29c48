// SPDX-License-Identifier: Apache-2.0
// The tokenizer against what Hugging Face's library computed: for three small trained tokenizers
// (tests/golden/tokenizers) and for many random ones that combine all parts of tokenizer.json
// (tokenizer_vectors.json, or the file named on the command line); then its limits.
#include "base/check.h"
#include "base/utf8.h"
#include "model/tokenizer.h"
#include "tests/test_support.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IDS_MAX = 100000, TEXT_MAX = 1 << 20 };

static const char *vectors_path; // set once by main

// ---- comparing -----------------------------------------------------------------------------

static bool same_ids(const struct tokenizer_ids *got, const json_t *want)
{
    bool same = got->count == json_array_size(want);
    for (size_t i = 0; same && i < got->count; i++)
        same = (json_int_t)got->data[i] == json_integer_value(json_array_get(want, i));
    return same;
}

static void print_ids(const struct tokenizer_ids *got, const json_t *want)
{
    printf("  got     ");
    for (size_t i = 0; i < got->count && i < 50; i++)
        printf(" %u", got->data[i]);
    printf("\n  expected");
    for (size_t i = 0; i < json_array_size(want) && i < 50; i++)
        printf(" %lld", json_integer_value(json_array_get(want, i)));
    printf("\n");
}

static int check_encode(const struct tokenizer *t, const char *where, const json_t *text,
    unsigned flags, const json_t *want)
{
    if (json_is_null(want))
        return 0;
    struct tokenizer_ids ids;
    struct error err = {0};
    tokenizer_ids_init(&ids, IDS_MAX);
    enum status st =
        tokenizer_encode(t, json_string_value(text), json_string_length(text), flags, &ids, &err);
    bool same = st == STATUS_OK && same_ids(&ids, want);
    if (!same) {
        char *shown = json_dumps(text, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
        printf("%s, flags %u: %s: %s %s\n", where, flags, shown, status_name(st), err.text);
        print_ids(&ids, want);
        free(shown);
    }
    tokenizer_ids_deinit(&ids);
    return !same;
}

// Pushes the ids one by one: each push must give whole characters.
static void stream(
    const struct tokenizer *t, const uint32_t *ids, size_t n, bool skip_special, struct buf *out)
{
    struct tokenizer_stream s;
    tokenizer_stream_begin(t, &s, skip_special, false);
    for (size_t i = 0; i < n; i++) {
        size_t before = out->size;
        struct tokenizer_stream copy = s;
        assert_int_equal(tokenizer_stream_push(t, &copy, ids[i], out), STATUS_OK);
        s = copy;
        if (out->size > before)
            assert_true(utf8_valid(out->data + before, out->size - before));
    }
    assert_int_equal(tokenizer_stream_finish(t, &s, out), STATUS_OK);
}

static bool same_text(const struct buf *got, const json_t *want)
{
    return got->size == json_string_length(want) &&
           (got->size == 0 || memcmp(got->data, json_string_value(want), got->size) == 0);
}

static int check_decode(const struct tokenizer *t, const char *where, const json_t *ids,
    bool skip_special, const json_t *want)
{
    size_t n = json_array_size(ids);
    uint32_t *list = calloc(n + 1, sizeof *list);
    for (size_t i = 0; i < n; i++)
        list[i] = (uint32_t)json_integer_value(json_array_get(ids, i));
    struct buf whole, streamed;
    buf_init(&whole, TEXT_MAX);
    buf_init(&streamed, TEXT_MAX);
    assert_int_equal(tokenizer_decode(t, list, n, skip_special, &whole), STATUS_OK);
    stream(t, list, n, skip_special, &streamed);
    bool same = same_text(&whole, want) && same_text(&streamed, want);
    if (!same) {
        char *shown = json_dumps(ids, 0), *expected = json_dumps(want, JSON_ENCODE_ANY);
        printf("%s, skip %d: %s\n  got      \"%.*s\"\n  expected %s\n", where, skip_special, shown,
            (int)whole.size, (const char *)whole.data, expected);
        free(shown);
        free(expected);
    }
    buf_deinit(&whole);
    buf_deinit(&streamed);
    free(list);
    return !same;
}

// ---- small trained tokenizers --------------------------------------------------------------

static int check_trained(const char *dir, const json_t *golden)
{
    struct tokenizer *t;
    struct error err = {0};
    size_t i;
    json_t *row;
    int bad = 0;
    if (tokenizer_load(dir, &t, &err) != STATUS_OK)
        fail_msg("%s: %s", dir, err.text);
    json_array_foreach(json_object_get(golden, "encode"), i, row)
    {
        const json_t *text = json_object_get(row, "text"), *ids = json_object_get(row, "ids");
        const json_t *around = json_object_get(row, "with_bos");
        bad += check_encode(t, dir, text, TOKENIZER_PARSE_SPECIAL, ids);
        bad += check_encode(t, dir, text, TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_SPECIAL, around);
        bad += check_decode(t, dir, ids, true, json_object_get(row, "decoded"));
        bad += check_decode(t, dir, around, false, json_object_get(row, "decoded_all"));
    }
    json_array_foreach(json_object_get(golden, "decode"), i, row)
    {
        const json_t *ids = json_object_get(row, "ids");
        bad += check_decode(t, dir, ids, true, json_object_get(row, "decoded"));
        bad += check_decode(t, dir, ids, false, json_object_get(row, "decoded_all"));
    }
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_true(tokenizer_is_special(t, 1) && !tokenizer_is_special(t, 300));
    tokenizer_free(t);
    return bad;
}

static void trained_tokenizers_equal_the_reference(void **state)
{
    (void)state;
    const char *folder = test_path(test_source_dir(), "tests/golden/tokenizers");
    json_t *all = json_load_file(test_path(folder, "golden.json"), JSON_ALLOW_NUL, NULL);
    const char *name;
    json_t *golden;
    int bad = 0;
    assert_true(json_object_size(all) >= 3);
    json_object_foreach(all, name, golden) bad += check_trained(test_path(folder, name), golden);
    json_decref(all);
    assert_int_equal(bad, 0);
}

// ---- random tokenizers ---------------------------------------------------------------------

static struct tokenizer *load_value(const json_t *value, const char *where)
{
    char *text = json_dumps(value, 0);
    struct tokenizer *t = NULL;
    struct error err = {0};
    enum status st = tokenizer_load_memory(text, strlen(text), &t, &err);
    if (st != STATUS_OK && st != STATUS_UNSUPPORTED)
        fail_msg("%s: %s: %s", where, status_name(st), err.text);
    if (st == STATUS_UNSUPPORTED)
        printf("%s is refused: %s\n", where, err.text);
    free(text);
    return t;
}

static int check_case(const json_t *one, const char *where)
{
    struct tokenizer *t = load_value(json_object_get(one, "tokenizer"), where);
    size_t i;
    json_t *row;
    int bad = 0;
    if (!t)
        return 0;
    json_array_foreach(json_object_get(one, "encode"), i, row)
    {
        const json_t *text = json_array_get(row, 0);
        bad += check_encode(t, where, text, TOKENIZER_PARSE_SPECIAL, json_array_get(row, 1));
        bad += check_encode(t, where, text, TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_SPECIAL,
            json_array_get(row, 2));
        bad += check_encode(t, where, text, 0, json_array_get(row, 3));
        // Once more, now that it is known which words are whole tokens.
        bad += check_encode(t, where, text, TOKENIZER_PARSE_SPECIAL, json_array_get(row, 1));
    }
    json_array_foreach(json_object_get(one, "decode"), i, row)
    {
        bad += check_decode(t, where, json_array_get(row, 0), false, json_array_get(row, 1));
        bad += check_decode(t, where, json_array_get(row, 0), true, json_array_get(row, 2));
    }
    tokenizer_free(t);
    return bad;
}

static void random_tokenizers_equal_the_reference(void **state)
{
    (void)state;
    json_t *all = json_load_file(vectors_path, JSON_ALLOW_NUL, NULL), *one;
    size_t i;
    int bad = 0;
    assert_true(json_array_size(all) > 0);
    json_array_foreach(all, i, one)
    {
        char where[32];
        snprintf(where, sizeof where, "case %zu", i);
        bad += check_case(one, where);
    }
    json_decref(all);
    assert_int_equal(bad, 0);
}

// ---- by hand -------------------------------------------------------------------------------

#define BPE(more, vocab, merges)                                                                   \
    "\"model\":{\"type\":\"BPE\"," more "\"vocab\":" vocab ",\"merges\":" merges "}"

static struct tokenizer *load_text(const char *json)
{
    struct tokenizer *t = NULL;
    struct error err = {0};
    if (tokenizer_load_memory(json, strlen(json), &t, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return t;
}

// Byte tokens in a row: a cut character comes out when it is complete, an invalid run as one
// U+FFFD per byte, and a run that is longer than the stream holds in pieces.
static void byte_runs_are_held_back_and_bounded(void **state)
{
    (void)state;
    struct tokenizer *t = load_text("{" BPE("", "{\"a\":0,\"<0xC3>\":1,\"<0xA9>\":2,\"<0xFF>\":3}",
        "[]") ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},"
              "{\"type\":\"Fuse\"}]}}");
    struct buf out;
    struct tokenizer_stream s;
    buf_init(&out, TEXT_MAX);
    tokenizer_stream_begin(t, &s, false, false);
    tokenizer_stream_push(t, &s, 1, &out);
    tokenizer_stream_push(t, &s, 2, &out);
    assert_int_equal(out.size, 0);
    tokenizer_stream_push(t, &s, 0, &out);
    assert_memory_equal(out.data,
        "\xc3\xa9"
        "a",
        3);
    buf_clear(&out);
    uint32_t run[4 * TOKENIZER_STREAM_HELD_MAX];
    for (size_t i = 0; i < COUNT_OF(run); i++)
        run[i] = 1 + (uint32_t)i % 2;
    tokenizer_stream_begin(t, &s, false, false);
    for (size_t i = 0; i < COUNT_OF(run); i++)
        tokenizer_stream_push(t, &s, run[i], &out);
    assert_true(out.size + TOKENIZER_STREAM_HELD_MAX >= COUNT_OF(run));
    tokenizer_stream_push(t, &s, 3, &out);
    tokenizer_stream_finish(t, &s, &out);
    assert_true(utf8_valid(out.data, out.size));
    buf_clear(&out);
    run[1] = 3; // C3 FF C3 A9 ...: all of it becomes U+FFFD, one for each byte
    assert_int_equal(tokenizer_decode(t, run, COUNT_OF(run), false, &out), STATUS_OK);
    assert_int_equal(out.size, 3 * COUNT_OF(run));
    buf_deinit(&out);
    tokenizer_free(t);
}

static void stripping_holds_back_and_can_be_left_out(void **state)
{
    (void)state;
    struct tokenizer *t = load_text("{" BPE("", "{\"a\":0,\" \":1}",
        "[]") ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":"
              "\"Strip\",\"content\":\" \",\"start\":1,\"stop\":2}]}}");
    static const uint32_t IDS[] = {1, 1, 0, 1, 1, 1, 0, 1, 1, 1};
    struct buf out;
    buf_init(&out, TEXT_MAX);
    stream(t, IDS, COUNT_OF(IDS), false, &out);
    assert_int_equal(out.size, 7);
    assert_memory_equal(out.data, " a   a ", 7);
    struct tokenizer_stream s;
    buf_clear(&out);
    tokenizer_stream_begin(t, &s, false, true);
    tokenizer_stream_push(t, &s, 1, &out);
    tokenizer_stream_push(t, &s, 0, &out);
    assert_memory_equal(out.data, " a", 2);
    buf_deinit(&out);
    tokenizer_free(t);
}

static void tokens_are_found_by_content_and_by_id(void **state)
{
    (void)state;
    struct tokenizer *t = load_text("{" BPE("",
        "{\"\xc4\xa0"
        "a\":0,\"b\":5}",
        "[]") ",\"added_tokens\":[{\"content\":\"<x>\",\"special\":true},{\"content\":\"b\"}],"
              "\"decoder\":{\"type\":\"ByteLevel\"}}");
    size_t n;
    assert_int_equal(tokenizer_vocab_size(t), 6);
    assert_int_equal(tokenizer_id(t, "b", 1), 5);
    assert_int_equal(tokenizer_id(t, "<x>", 3), 2);
    assert_int_equal(tokenizer_id(t, "c", 1), TOKENIZER_NONE);
    assert_memory_equal(tokenizer_content(t, 0, &n),
        "\xc4\xa0"
        "a",
        3);
    assert_memory_equal(tokenizer_bytes(t, 0, &n), " a", 2);
    assert_int_equal(n, 2);
    assert_null(tokenizer_content(t, 1, &n));
    assert_null(tokenizer_bytes(t, 6, &n));
    assert_true(tokenizer_is_special(t, 2) && !tokenizer_is_special(t, 5));
    assert_false(tokenizer_is_special(t, TOKENIZER_NONE));
    tokenizer_free(t);
}

static void encoding_has_limits(void **state)
{
    (void)state;
    struct tokenizer *t = load_text("{" BPE("", "{\"a\":0}", "[]") "}");
    struct tokenizer_ids ids;
    struct error err = {0};
    tokenizer_ids_init(&ids, 3);
    assert_int_equal(tokenizer_encode(t, "aa", 2, 0, &ids, &err), STATUS_OK);
    assert_int_equal(ids.count, 2);
    assert_int_equal(tokenizer_encode(t, "aa", 2, 0, &ids, &err), STATUS_TOO_LARGE);
    assert_int_equal(ids.count, 2);
    assert_int_equal(tokenizer_encode(t, "a", 1, 0, &ids, &err), STATUS_OK);
    assert_int_equal(ids.count, 3);
    assert_int_equal(tokenizer_encode(t, "aaaaaaaaa\xff", 10, 0, &ids, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "byte 9"));
    assert_int_equal(tokenizer_encode(t, "\xc3", 1, 0, &ids, &err), STATUS_INVALID);
    assert_int_equal(
        tokenizer_encode(t, "", TOKENIZER_TEXT_BYTES_MAX + 1, 0, &ids, &err), STATUS_TOO_LARGE);
    tokenizer_ids_deinit(&ids);
    tokenizer_free(t);
}

// A word of a million characters goes through the heap; every merge order must be that of the
// short way, which the vectors cover.
static void long_words_are_merged_in_good_time(void **state)
{
    (void)state;
    struct tokenizer *t = load_text("{" BPE(
        "", "{\"a\":0,\"b\":1,\"aa\":2,\"ab\":3,\"aaaa\":4}", "[\"a b\",\"a a\",\"aa aa\"]") "}");
    enum { N = 1000000 };
    char *text = malloc(N);
    struct tokenizer_ids ids;
    struct error err = {0};
    memset(text, 'a', N);
    text[N - 1] = 'b';
    tokenizer_ids_init(&ids, N);
    assert_int_equal(tokenizer_encode(t, text, N, 0, &ids, &err), STATUS_OK);
    // The last pair is "ab"; of the 999,998 before it, pairs from the left make 249,999 fours.
    assert_int_equal(ids.count, 249999 + 1 + 1);
    assert_int_equal(ids.data[0], 4);
    assert_int_equal(ids.data[249998], 4);
    assert_int_equal(ids.data[249999], 2);
    assert_int_equal(ids.data[250000], 3);
    tokenizer_ids_deinit(&ids);
    free(text);
    tokenizer_free(t);
}

// U+11A7 stands before the letters that end a Hangul syllable and is none of them (the Unicode
// standard, 3.12), so that NFC leaves it alone.
static void what_is_no_final_letter_stays(void **state)
{
    (void)state;
    struct tokenizer *t = load_text("{\"normalizer\":{\"type\":\"NFC\"}," BPE(
        "", "{\"\\uac00\":0,\"\\u11a7\":1,\"\\uac01\":2,\"\\u11a8\":3}", "[]") "}");
    static const char text[] = "\u1100\u1161\u11a7\u11a8\u11a7\uac00\u11a8\uac00\u11a7";
    static const uint32_t want[] = {0, 1, 3, 1, 2, 0, 1};
    struct tokenizer_ids ids;
    tokenizer_ids_init(&ids, 100);
    assert_int_equal(tokenizer_encode(t, text, sizeof text - 1, 0, &ids, NULL), STATUS_OK);
    assert_int_equal(ids.count, COUNT_OF(want));
    assert_memory_equal(ids.data, want, sizeof want);
    tokenizer_ids_deinit(&ids);
    tokenizer_free(t);
}

#define WITH(field) "{" BPE("", "{\"a\":0}", "[]") "," field "}"
#define SEQ9(open, inner) open open open open open open open open open inner "]}]}]}]}]}]}]}]}]}"
#define SEQUENCE "{\"type\":\"Sequence\",\"normalizers\":["

static void bad_files_get_a_status_and_a_sentence(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        enum status status;
        const char *says;
    } CASES[] = {
        {"", STATUS_INVALID, "not valid JSON"},
        {"[]", STATUS_INVALID, "must be a JSON object"},
        {"{\"model\":", STATUS_INVALID, "not valid JSON"},
        {"{}", STATUS_INVALID, "\"model\" must be an object"},
        {"{\"model\":{\"type\":\"Phone\",\"vocab\":{}}}", STATUS_UNSUPPORTED, "Phone"},
        {"{\"model\":{\"vocab\":[[\"a\"]]}}", STATUS_INVALID, "its score"},
        {"{\"model\":{\"type\":\"BPE\"}}", STATUS_INVALID, "vocabulary must be an object"},
        {"{" BPE("", "{\"a\":-1}", "[]") "}", STATUS_INVALID, "token \"a\""},
        {"{" BPE("", "{\"a\":1048576}", "[]") "}", STATUS_INVALID, "below 1048576"},
        {"{" BPE("", "{\"a\":1.5}", "[]") "}", STATUS_INVALID, "must be an integer"},
        {"{" BPE("", "{\"a\":0,\"b\":0}", "[]") "}", STATUS_INVALID, "two tokens"},
        {"{" BPE("", "{\"a\":0}", "{}") "}", STATUS_INVALID, "\"merges\" must be a list"},
        {"{" BPE("", "{\"a\":0}", "[\"a b\"]") "}", STATUS_INVALID, "not in the vocabulary"},
        {"{" BPE("", "{\"a\":0}", "[\"a a\"]") "}", STATUS_INVALID, "not in the vocabulary"},
        {"{" BPE("", "{\"a\":0}", "[\"a\"]") "}", STATUS_INVALID, "must be two tokens"},
        {"{" BPE("", "{\"a\":0}", "[\"a a a\"]") "}", STATUS_INVALID, "must be two tokens"},
        {"{" BPE("", "{\"a\":0}", "[[\"a\",1]]") "}", STATUS_INVALID, "must be two tokens"},
        {"{" BPE("\"dropout\":0.1,", "{\"a\":0}", "[]") "}", STATUS_UNSUPPORTED, "dropout"},
        {"{" BPE("\"end_of_word_suffix\":\"</w>\",\"byte_fallback\":true,", "{\"a\":0}", "[]") "}",
            STATUS_UNSUPPORTED, "end_of_word_suffix"},
        {"{" BPE("\"fuse_unk\":1,", "{\"a\":0}", "[]") "}", STATUS_INVALID, "true or false"},
        {WITH("\"added_tokens\":{}"), STATUS_INVALID, "must be a list"},
        {WITH("\"added_tokens\":[{}]"), STATUS_INVALID, "\"content\" must be a text"},
        {WITH("\"normalizer\":{\"type\":\"Nmtx\"}"), STATUS_UNSUPPORTED, "Nmtx"},
        {WITH("\"normalizer\":[]"), STATUS_INVALID, "\"type\""},
        {WITH("\"normalizer\":{\"type\":\"Replace\",\"content\":\"\"}"), STATUS_INVALID,
            "\"pattern\""},
        {WITH("\"normalizer\":" SEQ9(SEQUENCE, "")), STATUS_TOO_LARGE, "nested"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},"
              "\"behavior\":\"Isolated\"}"),
            STATUS_UNSUPPORTED, "regular expression"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a\"},"
              "\"behavior\":\"Isolated\"}"),
            STATUS_UNSUPPORTED, "closing bracket"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"\"},"
              "\"behavior\":\"Isolated\"}"),
            STATUS_UNSUPPORTED, "must not be empty"},
        {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},"
              "\"behavior\":\"Gone\"}"),
            STATUS_INVALID, "\"behavior\""},
        {WITH("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}"), STATUS_INVALID,
            "one character"},
        {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
              "{\"id\":\"x\"}}]}"),
            STATUS_INVALID, "\"special_tokens\""},
        {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
              "{\"id\":\"x\"}}],\"special_tokens\":{\"x\":{\"ids\":[1]}}}"),
            STATUS_INVALID, "that of a token"},
        {WITH("\"decoder\":{\"type\":\"Phone\"}"), STATUS_UNSUPPORTED, "Phone"},
        {WITH("\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}"),
            STATUS_UNSUPPORTED, "Strip"},
        {WITH("\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":"
              "\"Strip\",\"content\":\" \",\"start\":99,\"stop\":0}]}"),
            STATUS_INVALID, "from 0 to"},
    };
    for (size_t i = 0; i < COUNT_OF(CASES); i++) {
        struct tokenizer *t = NULL;
        struct error err = {0};
        enum status st = tokenizer_load_memory(CASES[i].json, strlen(CASES[i].json), &t, &err);
        if (st != CASES[i].status || !strstr(err.text, CASES[i].says))
            fail_msg("case %zu: %s: %s", i, status_name(st), err.text);
        assert_null(t);
    }
    struct tokenizer *t = NULL;
    struct error err = {0};
    assert_int_equal(tokenizer_load("/nowhere", &t, &err), STATUS_NOT_FOUND);
}

// A pattern that backtracks without end is stopped, not waited for.
static void patterns_have_a_limit_of_steps(void **state)
{
    (void)state;
    struct tokenizer *t =
        load_text(WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":"
                       "{\"Regex\":\"(a+)+(a+)+(a+)+[bc]\"},\"behavior\":\"Isolated\"}"));
    char text[4000];
    struct tokenizer_ids ids;
    struct error err = {0};
    memset(text, 'a', sizeof text);
    tokenizer_ids_init(&ids, IDS_MAX);
    assert_int_equal(tokenizer_encode(t, text, sizeof text, 0, &ids, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "too many steps"));
    tokenizer_ids_deinit(&ids);
    tokenizer_free(t);
}

// Neither id nor content may hold a byte 0 back: it is a character like others.
static void the_character_zero_is_a_token(void **state)
{
    (void)state;
    struct tokenizer *t = load_text(
        "{" BPE("", "{\"\\u0000\":7,\"a\":1,\"\\u0000a\":2}", "[[\"\\u0000\",\"a\"]]") "}");
    struct tokenizer_ids ids;
    struct error err = {0};
    tokenizer_ids_init(&ids, IDS_MAX);
    assert_int_equal(tokenizer_encode(t, "\0\0a", 3, 0, &ids, &err), STATUS_OK);
    assert_int_equal(ids.count, 2);
    assert_int_equal(ids.data[0], 7);
    assert_int_equal(ids.data[1], 2);
    tokenizer_ids_deinit(&ids);
    tokenizer_free(t);
}

int main(int argc, char **argv)
{
    vectors_path =
        argc > 1 ? argv[1] : test_path(test_source_dir(), "tests/model/tokenizer_vectors.json");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trained_tokenizers_equal_the_reference),
        cmocka_unit_test(random_tokenizers_equal_the_reference),
        cmocka_unit_test(byte_runs_are_held_back_and_bounded),
        cmocka_unit_test(stripping_holds_back_and_can_be_left_out),
        cmocka_unit_test(tokens_are_found_by_content_and_by_id),
        cmocka_unit_test(encoding_has_limits),
        cmocka_unit_test(long_words_are_merged_in_good_time),
        cmocka_unit_test(what_is_no_final_letter_stays),
        cmocka_unit_test(bad_files_get_a_status_and_a_sentence),
        cmocka_unit_test(patterns_have_a_limit_of_steps),
        cmocka_unit_test(the_character_zero_is_a_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
