// SPDX-License-Identifier: Apache-2.0
#include "tests/test_support.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/config.h"
#include "base/hash.h"
#include "base/philox.h"
#include "base/status.h"
#include "base/utf8.h"

#include <string.h>

static void test_status(void **state)
{
    (void)state;
    struct error err = {0};
    assert_int_equal(status_fail(&err, STATUS_INVALID, "bad\nbyte %d", 7), STATUS_INVALID);
    assert_string_equal(err.text, "bad?byte 7");
    assert_string_equal(status_name(STATUS_PEER_GONE), "peer_gone");
    assert_string_equal(status_name((enum status)999), "unknown");
}

static void test_arena(void **state)
{
    (void)state;
    struct arena a;
    arena_init(&a, 100000);
    assert_non_null(arena_take(&a, 1000));
    assert_null(arena_take(&a, 200000));
    assert_null(arena_array(&a, SIZE_MAX / 2, 4));
    assert_string_equal(arena_text(&a, "abc", 3), "abc");
    assert_non_null(arena_take(&a, 20000));
    assert_null(arena_take(&a, 90000));
    arena_reset(&a);
    assert_int_equal(a.used_bytes, 0);
    assert_non_null(arena_take(&a, 90000));
    arena_reset(&a);
}

static void test_buf(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1000);
    assert_true(buf_printf(&b, "%s-%d", "x", 5));
    assert_memory_equal(b.data, "x-5", 3);
    for (int i = 0; i < 300; i++)
        buf_append(&b, "abcd", 4);
    assert_true(buf_failed(&b));
    assert_true(b.size <= 1000);
    buf_clear(&b);
    assert_true(buf_append(&b, "hello", 5));
    buf_drop(&b, 2);
    assert_memory_equal(b.data, "llo", 3);
    buf_deinit(&b);
}

// Known answers of Random123's own test file (kat_vectors, philox4x32 10).
static void test_philox(void **state)
{
    (void)state;
    uint32_t out[4];
    philox_block(0, (uint32_t[4]){0, 0, 0, 0}, out);
    assert_int_equal(out[0], 0x6627e8d5);
    assert_int_equal(out[1], 0xe169c58d);
    assert_int_equal(out[2], 0xbc57ac4c);
    assert_int_equal(out[3], 0x9b00dbd8);
    philox_block(
        0xffffffffffffffffu, (uint32_t[4]){0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, out);
    assert_int_equal(out[0], 0x408f276d);
    double u = philox_uniform(1, 2, 3, PHILOX_SAMPLE);
    assert_true(u >= 0 && u < 1);
}

// Vectors of the SipHash reference implementation: key 00..0f, message 00..(n-1).
static void test_siphash(void **state)
{
    (void)state;
    struct hash_key key = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
    uint8_t message[15];
    for (int i = 0; i < 15; i++)
        message[i] = (uint8_t)i;
    assert_true(hash_64(key, message, 0) == 0x726fdb47dd0e0e31u);
    assert_true(hash_64(key, message, 15) == 0xa129ca6149be45e5u);
    struct hash128 h = hash_128(key, message, 0);
    uint8_t expected[16] = {0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14,
        0xc7, 0x55, 0x02, 0x93};
    assert_memory_equal(&h, expected, 16);
}

static void test_utf8(void **state)
{
    (void)state;
    assert_true(utf8_valid("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 10));
    assert_false(utf8_valid("\xc0\x80", 2));
    assert_false(utf8_valid("\xed\xa0\x80", 3));
    assert_false(utf8_valid("\xf4\x90\x80\x80", 4));
    assert_false(utf8_valid("\xe2\x82", 2));
    size_t bad = 0;
    assert_int_equal(utf8_length((const uint8_t *)"\xe2\x82", 2, &bad), 0);
    assert_int_equal(utf8_length((const uint8_t *)"\xe2\x41", 2, &bad), -1);
    assert_int_equal(bad, 1);
    assert_int_equal(utf8_length((const uint8_t *)"\xf0\x9f\x41", 3, &bad), -1);
    assert_int_equal(bad, 2);
}

struct sample {
    bool on;
    int64_t count;
    uint64_t bytes;
    double heat;
    const char *text;
    int device;
    struct config_list models;
};

static const struct config_row sample_rows[] = {
    {"on", CONFIG_FLAG, offsetof(struct sample, on), NULL, 0, 0, NULL, NULL, "Switch."},
    {"count", CONFIG_INT, offsetof(struct sample, count), "3", 1, 9, NULL, "N", "Count."},
    {"bytes", CONFIG_BYTES, offsetof(struct sample, bytes), "1KiB", 0, 0, NULL, "B", "Bytes."},
    {"heat", CONFIG_FLOAT, offsetof(struct sample, heat), "0.5", 0, 2, NULL, "F", "Heat."},
    {"text", CONFIG_TEXT, offsetof(struct sample, text), NULL, 0, 0, NULL, "T", "Text."},
    {"device", CONFIG_ENUM, offsetof(struct sample, device), "cpu", 0, 0, "cpu|cuda", NULL, "D."},
    {"model", CONFIG_LIST, offsetof(struct sample, models), NULL, 0, 0, NULL, "DIR", "Model."},
};

static enum status parse(struct sample *out, struct error *err, int argc, char *const *argv)
{
    bool help;
    *out = (struct sample){0};
    return config_parse(sample_rows, 7, argc, argv, out, NULL, &help, err);
}

static void test_config(void **state)
{
    (void)state;
    struct sample s;
    struct error err;
    char *good[] = {"x", "--count", "7", "--on", "--bytes=2MiB", "--device", "cuda", "--model", "a",
        "--model=b"};
    assert_int_equal(parse(&s, &err, 10, good), STATUS_OK);
    assert_int_equal(s.count, 7);
    assert_true(s.on);
    assert_true(s.bytes == 2u << 20);
    assert_int_equal(s.device, 1);
    assert_int_equal(s.models.count, 2);
    assert_true(s.heat == 0.5);
    static char *const bad[][3] = {{"x", "--count", "10"}, {"x", "--count", "3x"},
        {"x", "--heat", "nan"}, {"x", "--bytes", "-1"}, {"x", "--device", "cud"},
        {"x", "--nope", "1"}, {"x", "word", "1"}, {"x", "--on=maybe", "--on"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(parse(&s, &err, 3, bad[i]), STATUS_INVALID);
    char *many[CONFIG_LIST_MAX + 2] = {"x"};
    for (int i = 1; i < CONFIG_LIST_MAX + 2; i++)
        many[i] = "--model=a";
    assert_int_equal(parse(&s, &err, CONFIG_LIST_MAX + 1, many), STATUS_OK);
    assert_int_equal(parse(&s, &err, CONFIG_LIST_MAX + 2, many), STATUS_INVALID);
    char *missing[] = {"x", "--count"};
    assert_int_equal(parse(&s, &err, 2, missing), STATUS_INVALID);
    assert_string_equal(err.text, "--count needs a value (N)");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_buf),
        cmocka_unit_test(test_philox),
        cmocka_unit_test(test_siphash),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_config),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
