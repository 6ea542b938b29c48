// SPDX-License-Identifier: Apache-2.0
// Parts of a text in which no special token is found. The vectors of tokenizer_test (random
// tokenizers with all flags of added tokens, texts with those tokens in them) are cut into random
// parts; the ids must be those of the whole text unless a special token touches a part, and then
// must not have it.
#include "base/check.h"
#include "model/tokenizer.h"
#include "tests/test_support.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IDS_MAX = 100000, SPANS_MAX = 64 };

static uint64_t random_state = 4711;

static uint32_t draw(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % below;
}

static struct tokenizer_ids encode(const struct tokenizer *t, const char *text, size_t n,
    const struct tokenizer_span *plain, size_t n_plain)
{
    struct tokenizer_ids ids;
    struct error err = {0};
    tokenizer_ids_init(&ids, IDS_MAX);
    const struct tokenizer_marked marked = {text, n, plain, n_plain};
    enum status st = tokenizer_encode_marked(t, &marked, TOKENIZER_PARSE_SPECIAL, &ids, &err);
    if (st != STATUS_OK)
        ids.count = 0;
    return ids;
}

static size_t count_special(const struct tokenizer *t, const struct tokenizer_ids *ids)
{
    size_t n = 0;
    for (size_t i = 0; i < ids->count; i++)
        n += tokenizer_is_special(t, ids->data[i]);
    return n;
}

static bool same(const struct tokenizer_ids *a, const struct tokenizer_ids *b)
{
    return a->count == b->count &&
           (a->count == 0 || memcmp(a->data, b->data, a->count * sizeof *a->data) == 0);
}

// Random parts that begin and end at characters.
static size_t draw_spans(const char *text, size_t n, struct tokenizer_span spans[SPANS_MAX])
{
    size_t n_spans = 0, at = 0;
    while (n_spans < SPANS_MAX) {
        size_t begin = at + draw(12), end = begin + 1 + draw(12);
        while (begin < n && ((uint8_t)text[begin] & 0xc0) == 0x80)
            begin++;
        while (end < n && ((uint8_t)text[end] & 0xc0) == 0x80)
            end++;
        if (begin >= n || end > n || begin >= end)
            break;
        spans[n_spans++] = (struct tokenizer_span){begin, end};
        at = end + 1;
    }
    return n_spans;
}

static unsigned equal, different;

static void try_text(const struct tokenizer *t, const char *text, size_t n)
{
    struct tokenizer_span spans[SPANS_MAX];
    struct tokenizer_ids whole = encode(t, text, n, NULL, 0);
    for (int round = 0; round < 8; round++) {
        size_t n_spans = draw_spans(text, n, spans);
        struct tokenizer_ids ids = encode(t, text, n, spans, n_spans);
        if (same(&ids, &whole)) {
            equal++;
        } else {
            different++;
            assert_true(count_special(t, &whole) > 0); // nothing else can be the reason
        }
        tokenizer_ids_deinit(&ids);
    }
    tokenizer_ids_deinit(&whole);
}

static void parts_change_nothing_but_special_tokens(void **state)
{
    (void)state;
    json_t *all = json_load_file(
        test_path(test_source_dir(), "tests/model/tokenizer_vectors.json"), JSON_ALLOW_NUL, NULL);
    json_t *one, *row;
    size_t i, k;
    assert_true(json_array_size(all) > 10);
    json_array_foreach(all, i, one)
    {
        struct tokenizer *t = NULL;
        char *json = json_dumps(json_object_get(one, "tokenizer"), 0);
        struct error err = {0};
        if (tokenizer_load_memory(json, strlen(json), &t, &err) == STATUS_OK) {
            json_array_foreach(json_object_get(one, "encode"), k, row)
            {
                const json_t *text = json_array_get(row, 0);
                try_text(t, json_string_value(text), json_string_length(text));
            }
        }
        tokenizer_free(t);
        free(json);
    }
    json_decref(all);
    printf("%u cuts equal, %u with a special token in a part\n", equal, different);
    assert_true(equal > 100 && different > 10);
}

// ---- by hand -----------------------------------------------------------------------------------

static struct tokenizer *load(bool normalized)
{
    json_t *json = json_load_file(
        test_path(test_source_dir(), "tests/golden/tokenizers/byte-fallback/tokenizer.json"), 0,
        NULL);
    json_t *added = json_object_get(json, "added_tokens"), *one;
    size_t i;
    assert_non_null(json);
    json_array_foreach(added, i, one)
        json_object_set_new(one, "normalized", json_boolean(normalized));
    if (normalized) // no prefix, with which no token is found but at the start
        json_object_set_new(json, "normalizer", json_pack("{s:s}", "type", "Lowercase"));
    char *text = json_dumps(json, 0);
    struct tokenizer *t = NULL;
    struct error err = {0};
    assert_int_equal(tokenizer_load_memory(text, strlen(text), &t, &err), STATUS_OK);
    free(text);
    json_decref(json);
    return t;
}

// The text of a prompt, and the part of it that a client wrote between '[' and ']', which are not
// in the text; `want` are the special ids that come out.
static void expect(const struct tokenizer *t, const char *marked, const char *want)
{
    char text[128], got[128] = "";
    struct tokenizer_span span = {0};
    size_t n = 0;
    for (const char *p = marked; *p; p++) {
        if (*p == '[')
            span.begin = n;
        else if (*p == ']')
            span.end = n;
        else
            text[n++] = *p;
    }
    struct tokenizer_ids ids = encode(t, text, n, &span, span.end > span.begin);
    for (size_t i = 0; i < ids.count; i++)
        if (tokenizer_is_special(t, ids.data[i]))
            snprintf(got + strlen(got), sizeof got - strlen(got), "%u ", ids.data[i]);
    if (strcmp(got, want) != 0)
        print_error("%s: special ids %s, expected %s\n", marked, got, want);
    assert_string_equal(got, want);
    tokenizer_ids_deinit(&ids);
}

static void no_byte_of_a_special_token_is_a_clients(void **state)
{
    (void)state;
    for (int normalized = 0; normalized < 2; normalized++) {
        struct tokenizer *t = load(normalized);
        expect(t, "<s>hello</s>", "1 2 ");
        expect(t, "<s>[hello]</s>", "1 2 ");
        expect(t, "<s>[hel</s>lo]</s>", "1 2 ");
        expect(t, "<s>[</s>]</s>", "1 2 ");
        expect(t, "<s>[</s]></s>", "1 2 ");
        expect(t, "<s>x<[/s>]</s>", "1 2 ");
        expect(t, "<s>x<[/]s></s>", "1 2 ");
        expect(t, "[<s>]", "");
        expect(t, "[<]<s>", "1 ");
        expect(t, "<s>[<]/s> </s>", "1 2 ");
        expect(t, "<s>[x</S>]y</S>", normalized ? "1 2 " : "1 ");
        tokenizer_free(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_change_nothing_but_special_tokens),
        cmocka_unit_test(no_byte_of_a_special_token_is_a_clients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
