// SPDX-License-Identifier: Apache-2.0
#include "tests/test_support.h"

#include "model/safetensors.h"
#include "tests/model/scratch_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int setup(void **state)
{
    *state = (void *)(uintptr_t)scratch_dir_make();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    scratch_dir_remove();
    return 0;
}

// A header of one tensor "a": F32 [2, 3], bytes 0 to 24.
#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}"
#define T(name, dtype, shape, begin, end)                                                          \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end \
    "]}"
#define N64 "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"

static void test_good(void **state)
{
    (void)state;
    struct safetensors *s = NULL;
    struct error err = {0};
    const char *path = scratch_dir_tensors("x.safetensors",
        "{\"__metadata__\":{\"format\":\"pt\",\"\\u00e9\":\"x\"}, " T(
            "z", "BF16", "[2,2,1]", 24, 32) " ,\n" A ", " T("\\u0065\\ud83d\\ude00\\n", "U8", "[]",
            32, 33) "," T("empty", "I64", "[0,7]", 33, 33) "}",
        8, 33);
    assert_int_equal(safetensors_open_file(path, &s, &err), STATUS_OK);
    assert_int_equal(safetensors_count(s), 4);
    const struct tensor *a = safetensors_find(s, "a"), *z = safetensors_find(s, "z");
    assert_int_equal(a->n_dims, 2);
    assert_int_equal(a->shape[0], 2);
    assert_int_equal(a->shape[1], 3);
    assert_int_equal(a->dtype, DTYPE_F32);
    assert_int_equal(a->bytes, 24);
    assert_int_equal(((const uint8_t *)a->data)[23], 23);
    assert_int_equal(z->n_dims, 3);
    assert_int_equal(((const uint8_t *)z->data)[0], 24);
    const struct tensor *e = safetensors_find(s, "e\xf0\x9f\x98\x80\n");
    assert_int_equal(e->n_dims, 0);
    assert_int_equal(*(const uint8_t *)e->data, 32);
    assert_null(safetensors_find(s, ""));
    assert_null(safetensors_find(s, "b"));
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(safetensors_index(s, safetensors_at(s, i)), i);
    assert_string_equal(safetensors_at(s, 0)->name, "a");
    assert_string_equal(safetensors_at(s, 3)->name, "z");
    safetensors_close(s);
    safetensors_close(NULL);
}

// Hand-made files do not pad the header: data must come out aligned all the same.
static void test_unaligned(void **state)
{
    (void)state;
    static const char *const spaces[] = {
        "", " ", "  ", "   ", "    ", "     ", "      ", "       "};
    for (int i = 0; i < 8; i++) {
        struct safetensors *s = NULL;
        struct error err = {0};
        char header[256];
        snprintf(header, sizeof header, "{%s}%s",
            A "," T("b", "U8", "[1]", 24, 25) "," T("c", "I64", "[1]", 25, 33), spaces[i]);
        const char *path = scratch_dir_tensors("x.safetensors", header, 1, 33);
        assert_int_equal(safetensors_open_file(path, &s, &err), STATUS_OK);
        const struct tensor *a = safetensors_find(s, "a"), *c = safetensors_find(s, "c");
        assert_int_equal((uintptr_t)a->data % 4, 0);
        assert_int_equal((uintptr_t)c->data % 8, 0);
        for (uint8_t k = 0; k < 24; k++)
            assert_int_equal(((const uint8_t *)a->data)[k], k);
        assert_int_equal(((const uint8_t *)c->data)[7], 32);
        safetensors_close(s);
    }
}

static const struct bad {
    const char *header;
    size_t data_bytes;
    enum status status;
    const char *sentence;
} bad[] = {
    {"", 0, STATUS_INVALID, "does not begin with '{'"},
    {" {" A "}", 24, STATUS_INVALID, "does not begin with '{'"},
    {"[]", 0, STATUS_INVALID, "does not begin with '{'"},
    {"{", 0, STATUS_INVALID, "a string was expected"},
    {"{" A, 24, STATUS_INVALID, "the header ends at byte 56, but ',' or '}'"},
    {"{" A "}x", 24, STATUS_INVALID, "nothing but spaces"},
    {"{" A "}{}", 24, STATUS_INVALID, "nothing but spaces"},
    {"{" A ",}", 24, STATUS_INVALID, "a string was expected"},
    {"{," A "}", 24, STATUS_INVALID, "a string was expected"},
    {"{" A " " T("b", "U8", "[1]", 24, 25) "}", 25, STATUS_INVALID, "',' or '}'"},
    {"{\"a\" {}}", 0, STATUS_INVALID, "':' was expected"},
    {"{\"a\":7}", 0, STATUS_INVALID, "'{' of a tensor"},
    {"{\"a\":null}", 0, STATUS_INVALID, "'{' of a tensor"},
    {"{\"a\":{}}", 0, STATUS_INVALID, "lacks one of"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, STATUS_INVALID, "lacks one of"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, STATUS_INVALID, "lacks one of"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, STATUS_INVALID, "lacks one of"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
        STATUS_INVALID, "same field twice"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, STATUS_INVALID,
        "a field other than"},
    {"{" T("a", "F33", "[1]", 0, 4) "}", 4, STATUS_UNSUPPORTED, "the dtype \"F33\""},
    {"{" T("a", "f32", "[1]", 0, 4) "}", 4, STATUS_UNSUPPORTED, "the dtype \"f32\""},
    {"{" T("a", "", "[1]", 0, 4) "}", 4, STATUS_UNSUPPORTED, "the dtype \"\""},
    {"{" T("a", "F32F32F32F32F32F32", "[1]", 0, 4) "}", 4, STATUS_INVALID, "a string of at most"},
    {"{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, STATUS_INVALID, "a string"},
    {"{" T("a", "F32", "[1.0]", 0, 4) "}", 4, STATUS_INVALID, "',' or ']'"},
    {"{" T("a", "F32", "[1e0]", 0, 4) "}", 4, STATUS_INVALID, "',' or ']'"},
    {"{" T("a", "F32", "[-1]", 0, 4) "}", 4, STATUS_INVALID, "a whole number"},
    {"{" T("a", "F32", "[01]", 0, 4) "}", 4, STATUS_INVALID, "leading zero"},
    {"{" T("a", "F32", "[1,]", 0, 4) "}", 4, STATUS_INVALID, "a whole number"},
    {"{" T("a", "F32", "[,1]", 0, 4) "}", 4, STATUS_INVALID, "a whole number"},
    {"{" T("a", "F32", "[\"1\"]", 0, 4) "}", 4, STATUS_INVALID, "a whole number"},
    {"{" T("a", "F32", "1", 0, 4) "}", 4, STATUS_INVALID, "'[' was expected"},
    {"{" T("a", "F32", "[1", 0, 4) "}", 4, STATUS_INVALID, "a whole number"},
    {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, STATUS_INVALID, "too long"},
    {"{" T("a", "F32", "[18446744073709551616]", 0, 4) "}", 4, STATUS_INVALID, "below 2^64"},
    {"{" T("a", "F32", "[99999999999999999999999]", 0, 4) "}", 4, STATUS_INVALID, "below 2^64"},
    {"{" T("a", "F32", "[4611686018427387905]", 0, 4) "}", 4, STATUS_INVALID, "more than 2^64"},
    {"{" T("a", "U8", "[4294967296,4294967296]", 0, 0) "}", 0, STATUS_INVALID, "more than 2^64"},
    {"{" T("a", "F32", "[2]", 0, 4) "}", 4, STATUS_INVALID,
        "takes 4 bytes, but dtype and shape "
        "need 8"},
    {"{" T("a", "F32", "[]", 0, 8) "}", 8, STATUS_INVALID, "takes 8 bytes"},
    {"{" T("a", "F16", "[1]", 0, 4) "}", 4, STATUS_INVALID, "takes 4 bytes"},
    {"{" T("a", "F32", "[1]", 4, 0) "}", 4, STATUS_INVALID, "outside the file"},
    {"{" T("a", "F32", "[2]", 0, 8) "}", 4, STATUS_INVALID, "outside the file"},
    {"{" T("a", "U8", "[1]", 18446744073709551615, 0) "}", 1, STATUS_INVALID, "outside the file"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, STATUS_INVALID,
        "too long"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4]}}", 4, STATUS_INVALID,
        "not [begin, end]"},
    {"{" A "," A "}", 24, STATUS_INVALID, "\"a\" occurs twice"},
    {"{" A ",\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[24,25]}}", 25,
        STATUS_INVALID, "\"a\" occurs twice"},
    {"{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[2]", 1, 3) "}", 3, STATUS_INVALID,
        "\"b\" overlaps"},
    {"{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[2]", 0, 2) "}", 2, STATUS_INVALID,
        "overlaps"},
    {"{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[2]", 3, 5) "}", 5, STATUS_INVALID,
        "\"b\" leaves a hole"},
    {"{" T("a", "U8", "[2]", 1, 3) "}", 3, STATUS_INVALID, "\"a\" leaves a hole"},
    {"{" A "}", 25, STATUS_INVALID, "end at byte 24 of the data, but the file has 25"},
    {"{}", 1, STATUS_INVALID, "end at byte 0 of the data, but the file has 1"},
    {"{\"__metadata__\":7," A "}", 24, STATUS_INVALID, "'{' of __metadata__"},
    {"{\"__metadata__\":{\"a\":1}," A "}", 24, STATUS_INVALID, "a string was expected"},
    {"{\"__metadata__\":{\"a\":\"b\" \"c\"}," A "}", 24, STATUS_INVALID, "',' or '}'"},
    {"{\"__metadata__\":{},\"__metadata__\":{}," A "}", 24, STATUS_INVALID, "only once"},
    {"{\"a\\x\":{}}", 0, STATUS_INVALID, "an escaped character"},
    {"{\"a\\u00g0\":{}}", 0, STATUS_INVALID, "a hexadecimal digit"},
    {"{\"a\\u0000\":{}}", 0, STATUS_INVALID, "neither zero"},
    {"{\"a\\ud800\":{}}", 0, STATUS_INVALID, "second half of a surrogate"},
    {"{\"a\\ud800\\u0041\":{}}", 0, STATUS_INVALID, "second half of a surrogate"},
    {"{\"a\\udc00\":{}}", 0, STATUS_INVALID, "half a surrogate"},
    {"{\"a\nb\":{}}", 0, STATUS_INVALID, "the end of a string"},
    {"{\"a\":\xc3\xa9", 0, STATUS_INVALID, "is 0xc3, but"},
    {"{\"a\xff\":{}}", 0, STATUS_INVALID, "not valid UTF-8"},
    {"{\"a", 0, STATUS_INVALID, "the end of a string"},
    {"{\"a\\", 0, STATUS_INVALID, "an escaped character"},
    {"{\"a\\u12", 0, STATUS_INVALID, "four hexadecimal digits"},
    {"{" T(N64 N64 N64 N64 "n", "U8", "[1]", 0, 1) "}", 1, STATUS_INVALID, "at most 256 bytes"},
    {"{'a':{}}", 0, STATUS_INVALID, "a string was expected"},
};

static void test_bad_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct safetensors *s = (void *)1;
        struct error err = {0};
        const char *path =
            scratch_dir_tensors("x.safetensors", bad[i].header, 1, bad[i].data_bytes);
        enum status got = safetensors_open_file(path, &s, &err);
        if (got != bad[i].status || !strstr(err.text, bad[i].sentence) ||
            !strstr(err.text, "x.safetensors"))
            fail_msg("%s: %s: %s", bad[i].header, status_name(got), err.text);
        assert_ptr_equal(s, (void *)1);
    }
}

// The name limit is 256 bytes, inclusive.
static void test_long_name(void **state)
{
    (void)state;
    struct safetensors *s = NULL;
    struct error err;
    const char *path =
        scratch_dir_tensors("x.safetensors", "{" T(N64 N64 N64 N64, "U8", "[1]", 0, 1) "}", 1, 1);
    assert_int_equal(safetensors_open_file(path, &s, &err), STATUS_OK);
    assert_int_equal(strlen(safetensors_at(s, 0)->name), 256);
    safetensors_close(s);
}

static void expect_bad_file(const void *data, size_t bytes, enum status want, const char *sentence)
{
    struct safetensors *s = NULL;
    struct error err = {0};
    const char *path = scratch_dir_write("x.safetensors", data, bytes);
    enum status got = safetensors_open_file(path, &s, &err);
    if (got != want || !strstr(err.text, sentence))
        fail_msg("%zu bytes: %s: %s", bytes, status_name(got), err.text);
}

static void test_bad_files(void **state)
{
    const char *dir = *state;
    struct safetensors *s = NULL;
    struct error err = {0};
    static const uint8_t huge[16] = {0, 0, 0, 0, 1, 0, 0, 0, '{', '}'};
    static const uint8_t top[16] = {255, 255, 255, 255, 255, 255, 255, 255, '{', '}'};
    static const uint8_t short_one[10] = {3, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    static const uint8_t zero[8] = {0};
    expect_bad_file("", 0, STATUS_INVALID, "at least 8 are needed");
    expect_bad_file("1234567", 7, STATUS_INVALID, "at least 8 are needed");
    expect_bad_file(huge, sizeof huge, STATUS_TOO_LARGE, "at most 100000000");
    expect_bad_file(top, sizeof top, STATUS_TOO_LARGE, "at most 100000000");
    expect_bad_file(short_one, sizeof short_one, STATUS_INVALID, "the file has only 2");
    expect_bad_file(zero, sizeof zero, STATUS_INVALID, "does not begin with '{'");
    assert_int_equal(safetensors_open_file(test_path(dir, "none"), &s, &err), STATUS_NOT_FOUND);
    assert_int_equal(safetensors_open_file(dir, &s, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "not a regular file"));
    const char *fifo = test_path(dir, "fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(safetensors_open_file(fifo, &s, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "not a regular file"));
}

static void test_too_many(void **state)
{
    (void)state;
    struct safetensors *s = NULL;
    struct error err = {0};
    for (int n = SAFETENSORS_TENSORS_MAX; n <= SAFETENSORS_TENSORS_MAX + 1; n++) {
        char *header = malloc((size_t)n * 80), *p = header;
        assert_non_null(header);
        for (int i = 0; i < n; i++)
            p += snprintf(p, 80, "%s\"%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                i ? "," : "{", i);
        memcpy(p, "}", 2);
        const char *path = scratch_dir_tensors("x.safetensors", header, 8, 0);
        enum status want = n > SAFETENSORS_TENSORS_MAX ? STATUS_TOO_LARGE : STATUS_OK;
        assert_int_equal(safetensors_open_file(path, &s, &err), want);
        free(header);
    }
    assert_non_null(safetensors_find(s, "77777"));
    safetensors_close(s);
}

static void test_recheck(void **state)
{
    (void)state;
    struct safetensors *s = NULL;
    struct error err = {0};
    const char *path = scratch_dir_tensors("x.safetensors", "{" A "}", 8, 24);
    assert_int_equal(safetensors_open_file(path, &s, &err), STATUS_OK);
    assert_int_equal(safetensors_recheck(s, &err), STATUS_OK);
    assert_int_equal(truncate(path, 20), 0);
    assert_int_equal(safetensors_recheck(s, &err), STATUS_IO);
    assert_non_null(strstr(err.text, "was changed"));
    safetensors_close(s);
}

// ---- directories -------------------------------------------------------------------------------

static enum status open_dir(const char *dir, struct safetensors **s, struct error *err)
{
    *s = NULL;
    *err = (struct error){0};
    return safetensors_open_dir(dir, s, err);
}

static void test_directory(void **state)
{
    const char *dir = *state;
    struct safetensors *s;
    struct error err;
    assert_int_equal(open_dir(dir, &s, &err), STATUS_NOT_FOUND);
    assert_non_null(strstr(err.text, "has neither model.safetensors nor"));
    assert_int_equal(open_dir("/nowhere", &s, &err), STATUS_NOT_FOUND);
    scratch_dir_write("pytorch_model.bin", "x", 1);
    assert_int_equal(open_dir(dir, &s, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "pytorch_model.bin"));
    assert_non_null(strstr(err.text, "convert them once"));
    // Hugging Face's caches are links to files elsewhere.
    scratch_dir_tensors("blob", "{" A "}", 8, 24);
    assert_int_equal(symlink("blob", test_path(dir, "model.safetensors")), 0);
    assert_int_equal(open_dir(dir, &s, &err), STATUS_OK);
    assert_non_null(safetensors_find(s, "a"));
    safetensors_close(s);
}

static void test_index(void **state)
{
    const char *dir = *state;
    struct safetensors *s;
    struct error err;
    scratch_dir_tensors("m1.safetensors", "{" A "}", 8, 24);
    scratch_dir_tensors(
        "m2.safetensors", "{" T("b", "U8", "[1]", 0, 1) "," T("c", "U8", "[1]", 1, 2) "}", 8, 2);
    static const char good[] = "{\"metadata\": {}, \"weight_map\": {\"a\": \"m1.safetensors\", "
                               "\"c\": \"m2.safetensors\", \"b\": \"m2.safetensors\"}}";
    scratch_dir_write("model.safetensors.index.json", good, sizeof good - 1);
    assert_int_equal(open_dir(dir, &s, &err), STATUS_OK);
    assert_int_equal(safetensors_count(s), 3);
    assert_int_equal(*(const uint8_t *)safetensors_find(s, "c")->data, 1);
    struct stat one, two;
    assert_int_equal(stat(test_path(dir, "m1.safetensors"), &one), 0);
    assert_int_equal(stat(test_path(dir, "m2.safetensors"), &two), 0);
    assert_int_equal(safetensors_file_bytes(s), one.st_size + two.st_size);
    safetensors_close(s);
}

static const struct {
    const char *index;
    enum status status;
    const char *sentence;
} bad_index[] = {
    {"", STATUS_INVALID, "not valid JSON"},
    {"{\"weight_map\": {\"a\": \"m1.safetensors\"}", STATUS_INVALID, "not valid JSON"},
    {"{\"weight_map\": {\"a\": \"m1.safetensors\", \"a\": \"m1.safetensors\"}}", STATUS_INVALID,
        "duplicate"},
    {"[]", STATUS_INVALID, "\"weight_map\" is not an object"},
    {"{}", STATUS_INVALID, "\"weight_map\" is not an object"},
    {"{\"weight_map\": {}}", STATUS_INVALID, "\"weight_map\" is not an object"},
    {"{\"weight_map\": [\"m1.safetensors\"]}", STATUS_INVALID, "\"weight_map\" is not an object"},
    {"{\"weight_map\": {\"a\": 1}}", STATUS_INVALID, "is not a string"},
    {"{\"weight_map\": {\"a\": \"../m1.safetensors\"}}", STATUS_DENIED, "a plain name"},
    {"{\"weight_map\": {\"a\": \"/etc/x.safetensors\"}}", STATUS_DENIED, "a plain name"},
    {"{\"weight_map\": {\"a\": \"d/m1.safetensors\"}}", STATUS_DENIED, "a plain name"},
    {"{\"weight_map\": {\"a\": \"..\"}}", STATUS_DENIED, "a plain name"},
    {"{\"weight_map\": {\"a\": \".safetensors\"}}", STATUS_DENIED, "a plain name"},
    {"{\"weight_map\": {\"a\": \"\"}}", STATUS_DENIED, "a plain name"},
    {"{\"weight_map\": {\"a\": \"m1.bin\"}}", STATUS_DENIED, "a plain name"},
    {"{\"weight_map\": {\"a\": \"m3.safetensors\"}}", STATUS_NOT_FOUND, "m3.safetensors"},
    {"{\"weight_map\": {\"x\": \"m1.safetensors\"}}", STATUS_INVALID, "has no tensor \"x\""},
    {"{\"weight_map\": {\"a\": \"m1.safetensors\", \"b\": \"m1.safetensors\", \"c\": "
     "\"m2.safetensors\"}}",
        STATUS_INVALID, "m1.safetensors has no tensor \"b\""},
    {"{\"weight_map\": {\"a\": \"m1.safetensors\", \"b\": \"m4.safetensors\"}}", STATUS_INVALID,
        "tensor \"a\" is in both"},
};

static void test_bad_indexes(void **state)
{
    const char *dir = *state;
    scratch_dir_tensors("m1.safetensors", "{" A "}", 8, 24);
    scratch_dir_tensors(
        "m2.safetensors", "{" T("b", "U8", "[1]", 0, 1) "," T("c", "U8", "[1]", 1, 2) "}", 8, 2);
    scratch_dir_tensors("m4.safetensors", "{" A "}", 8, 24);
    for (size_t i = 0; i < sizeof bad_index / sizeof *bad_index; i++) {
        struct safetensors *s;
        struct error err;
        scratch_dir_write(
            "model.safetensors.index.json", bad_index[i].index, strlen(bad_index[i].index));
        enum status got = open_dir(dir, &s, &err);
        if (got != bad_index[i].status || !strstr(err.text, bad_index[i].sentence))
            fail_msg("%s: %s: %s", bad_index[i].index, status_name(got), err.text);
        assert_null(s);
    }
}

// Descriptors and mappings of refused and of closed models are given back.
static void test_nothing_leaks(void **state)
{
    const char *dir = *state;
    struct safetensors *s;
    struct error err;
    scratch_dir_tensors("model.safetensors", "{" A "}", 8, 24);
    int before = open("/dev/null", O_RDONLY);
    close(before);
    assert_int_equal(open_dir(dir, &s, &err), STATUS_OK);
    safetensors_close(s);
    scratch_dir_tensors("model.safetensors", "{" A "}", 8, 25);
    assert_int_equal(open_dir(dir, &s, &err), STATUS_INVALID);
    int after = open("/dev/null", O_RDONLY);
    close(after);
    assert_int_equal(before, after);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_good),
        TEST(test_unaligned),
        TEST(test_bad_headers),
        TEST(test_long_name),
        TEST(test_bad_files),
        TEST(test_too_many),
        TEST(test_recheck),
        TEST(test_directory),
        TEST(test_index),
        TEST(test_bad_indexes),
        TEST(test_nothing_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
