// SPDX-License-Identifier: Apache-2.0
// What a client reads while tokens arrive: only what is final, in whole characters, and nothing of
// a stop string, wherever the tokens cut it.
#include "coordinator/text_stream.h"
#include "tests/test_support.h"

#include <string.h>

// ---- a decoder whose tokens are written out -----------------------------------------------------

// Token i is pieces[i]. Like a tokenizer's decoder it holds back the first half of a character of
// two bytes.
struct toy {
    const char *const *pieces;
};

static void toy_begin(const void *user, void *state, bool skip_special)
{
    (void)user, (void)skip_special;
    *(char *)state = 0;
}

static void toy_push(const void *user, void *state, uint32_t id, struct buf *out)
{
    const struct toy *toy = user;
    char *half = state;
    for (const char *p = toy->pieces[id]; *p; p++) {
        if (*half)
            buf_append(out, half, 1);
        *half = 0;
        if ((*p & 0xe0) == 0xc0)
            *half = *p;
        else
            buf_append(out, p, 1);
    }
}

static void toy_finish(const void *user, void *state, struct buf *out)
{
    (void)user;
    if (*(char *)state)
        buf_append(out, "\xef\xbf\xbd", 3);
}

// ---- a story: what comes out after each token ---------------------------------------------------

enum { PIECES_MAX = 16 };

struct story {
    const char *tokens[PIECES_MAX];
    const char *stops[LIMIT_STOP_STRINGS];
    bool include, no_match;
    const char *expected[PIECES_MAX]; // new text after each token
    int found;                        // at the last token; or TEXT_STREAM_GOES_ON,
    const char *finish;               // and then this text ends it
};

enum { ROOM = 1 << 16 };
static uint8_t out_memory[ROOM], scratch_memory[ROOM];
static uint8_t fail[LIMIT_STOP_STRINGS][LIMIT_STOP_STRING_BYTES];

static struct buf room(uint8_t memory[ROOM])
{
    return (struct buf){.data = memory, .capacity = ROOM, .size_max = ROOM};
}

static void prepare(const struct story *story, struct text_stops *stops)
{
    *stops = (struct text_stops){0};
    for (uint32_t i = 0; story->stops[i]; i++) {
        uint32_t size = (uint32_t)strlen(story->stops[i]);
        const uint8_t *bytes = (const uint8_t *)story->stops[i];
        text_stream_prepare(bytes, size, fail[i]);
        stops->stop[stops->n++] = (struct text_stop){bytes, fail[i], size};
    }
}

static void expect(const struct buf *out, const char *want, uint32_t token)
{
    if (out->size != strlen(want) || memcmp(out->data, want, out->size) != 0)
        fail_msg("after token %u: \"%.*s\", expected \"%s\"", token, (int)out->size,
            (const char *)out->data, want);
}

static void tell(const struct story *story)
{
    struct toy toy = {story->tokens};
    struct text_decoder decoder = {&toy, toy_begin, toy_push, toy_finish};
    struct text_stops stops;
    prepare(story, &stops);
    struct buf out = room(out_memory), scratch = room(scratch_memory);
    struct text_stream s;
    text_stream_begin(&s, &decoder, true);
    int found = TEXT_STREAM_GOES_ON;
    for (uint32_t i = 0; story->tokens[i]; i++) {
        assert_int_equal(found, TEXT_STREAM_GOES_ON);
        buf_clear(&out);
        found = text_stream_push(
            &s, &decoder, &stops, i, !story->no_match, story->include, &scratch, &out);
        expect(&out, story->expected[i], i);
    }
    assert_int_equal(found, story->found);
    if (found != TEXT_STREAM_GOES_ON)
        return;
    buf_clear(&out);
    text_stream_finish(&s, &decoder, &stops, &scratch, &out);
    expect(&out, story->finish, PIECES_MAX);
}

#define GOES_ON(text) .found = TEXT_STREAM_GOES_ON, .finish = (text)

static void without_stop_strings_text_comes_at_once(void **state)
{
    (void)state;
    tell(&(struct story){{"Hel", "lo", ""}, {NULL}, .expected = {"Hel", "lo", ""}, GOES_ON("")});
}

static void a_character_cut_by_tokens_comes_whole(void **state)
{
    (void)state;
    tell(&(struct story){
        {"caf\xc3", "\xa9!"}, {NULL}, .expected = {"caf", "\xc3\xa9!"}, GOES_ON("")});
    // And a half that stays one is replaced at the end.
    tell(&(struct story){{"caf\xc3"}, {NULL}, .expected = {"caf"}, GOES_ON("\xef\xbf\xbd")});
}

static void a_stop_string_across_tokens_is_cut_off(void **state)
{
    (void)state;
    tell(&(struct story){{"one EN", "D two"}, {"END"}, .expected = {"one ", ""}, .found = 0});
    tell(&(struct story){{"one E", "N", "D"}, {"END"}, .expected = {"one ", "", ""}, .found = 0});
    tell(&(struct story){{"one END two"}, {"END"}, .expected = {"one "}, .found = 0});
}

static void or_is_kept_where_the_client_asks_for_it(void **state)
{
    (void)state;
    tell(&(struct story){
        {"one EN", "D two"}, {"END"}, .include = true, .expected = {"one ", "END"}, .found = 0});
}

static void what_turns_out_to_be_no_stop_string_is_sent(void **state)
{
    (void)state;
    tell(&(struct story){{"one EN", "TER"}, {"END"}, .expected = {"one ", "ENTER"}, GOES_ON("")});
    // The beginning may overlap with itself: "aab" within "aaab".
    tell(&(struct story){{"aa", "a", "b"}, {"aab"}, .expected = {"", "a", ""}, .found = 0});
}

static void what_is_held_back_at_the_end_is_sent(void **state)
{
    (void)state;
    tell(&(struct story){{"one EN"}, {"END"}, .expected = {"one "}, GOES_ON("EN")});
    tell(&(struct story){
        {"one E\xc3"}, {"E\xc3\xa9"}, .expected = {"one "}, GOES_ON("E\xef\xbf\xbd")});
}

static void the_stop_string_that_ends_first_wins(void **state)
{
    (void)state;
    tell(&(struct story){{"abcd"}, {"bcd", "bc"}, .expected = {"a"}, .found = 1});
    // Two that end together: the first of the list.
    tell(&(struct story){{"abc"}, {"bc", "abc"}, .expected = {"a"}, .found = 0});
    // The longest beginning is held back, whichever string it belongs to.
    tell(&(struct story){{"xab", "z"}, {"bq", "abc"}, .expected = {"x", "abz"}, GOES_ON("")});
}

static void below_min_tokens_stop_strings_pass(void **state)
{
    (void)state;
    tell(&(struct story){
        {"END", "."}, {"END"}, .no_match = true, .expected = {"END", "."}, GOES_ON("")});
}

static void a_stop_string_may_begin_with_a_cut_character(void **state)
{
    (void)state;
    tell(&(struct story){
        {"a\xc3", "\xa9", "!"}, {"\xc3\xa9!"}, .expected = {"a", "", ""}, .found = 0});
}

// ---- any way of cutting a text into tokens gives the same text ----------------------------------

static const char text[] = "ababacabab\xc3\xa9zabac";
enum { SIZE = sizeof text - 1 };

struct cut {
    char piece[SIZE][SIZE + 1];
    const char *tokens[SIZE + 1];
};

// Bit i: a token ends after byte i.
static void cut_text(uint32_t cuts, struct cut *out)
{
    uint32_t n = 0, length = 0;
    memset(out, 0, sizeof *out);
    for (uint32_t i = 0; i < SIZE; i++) {
        out->piece[n][length++] = text[i];
        if (i + 1 == SIZE || cuts >> i & 1) {
            out->tokens[n] = out->piece[n];
            n++;
            length = 0;
        }
    }
}

// Where the text is cut off: in front of the stop string that ends first.
static size_t search_whole(const struct text_stops *stops, bool *found)
{
    size_t end = SIZE + 1, begin = SIZE;
    for (uint32_t i = 0; i < stops->n; i++) {
        const char *at = strstr(text, (const char *)stops->stop[i].text);
        if (at && (size_t)(at - text) + stops->stop[i].size < end) {
            begin = (size_t)(at - text);
            end = begin + stops->stop[i].size;
        }
    }
    *found = end <= SIZE;
    return begin;
}

static void cutting_into_tokens_changes_nothing(void **state)
{
    (void)state;
    static const struct story sets[] = {{.stops = {"abac"}}, {.stops = {"bab", "cab"}},
        {.stops = {"zz", "\xc3\xa9z"}}, {.stops = {"acabab\xc3\xa9", "q"}}, {.stops = {"nowhere"}}};
    for (uint32_t cuts = 0; cuts < 1u << (SIZE - 1); cuts += 37) {
        struct cut cut;
        struct text_stops stops;
        cut_text(cuts, &cut);
        prepare(&sets[cuts % (sizeof sets / sizeof *sets)], &stops);
        bool expected;
        size_t size = search_whole(&stops, &expected);
        struct toy toy = {cut.tokens};
        struct text_decoder decoder = {&toy, toy_begin, toy_push, toy_finish};
        struct buf out = room(out_memory), scratch = room(scratch_memory);
        struct text_stream s;
        text_stream_begin(&s, &decoder, true);
        int found = TEXT_STREAM_GOES_ON;
        for (uint32_t i = 0; cut.tokens[i] && found < 0; i++)
            found = text_stream_push(&s, &decoder, &stops, i, true, false, &scratch, &out);
        if (found < 0)
            text_stream_finish(&s, &decoder, &stops, &scratch, &out);
        assert_int_equal(found >= 0, expected);
        assert_int_equal(out.size, size);
        assert_memory_equal(out.data, text, size);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_stop_strings_text_comes_at_once),
        cmocka_unit_test(a_character_cut_by_tokens_comes_whole),
        cmocka_unit_test(a_stop_string_across_tokens_is_cut_off),
        cmocka_unit_test(or_is_kept_where_the_client_asks_for_it),
        cmocka_unit_test(what_turns_out_to_be_no_stop_string_is_sent),
        cmocka_unit_test(what_is_held_back_at_the_end_is_sent),
        cmocka_unit_test(the_stop_string_that_ends_first_wins),
        cmocka_unit_test(below_min_tokens_stop_strings_pass),
        cmocka_unit_test(a_stop_string_may_begin_with_a_cut_character),
        cmocka_unit_test(cutting_into_tokens_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
