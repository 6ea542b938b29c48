// SPDX-License-Identifier: Apache-2.0
// Every parameter of proto/params.def at its borders and beyond, and what the validator must
// refuse.
#include "tests/test_support.h"

#include "proto/client.pb-c.h"
#include "proto/message.h"
#include "proto/validate.h"

#include <math.h>
#include <string.h>

static struct request request;

static Phalanx__Submit good(void)
{
    static uint8_t id[REQUEST_ID_BYTES];
    static uint8_t text[] = "hello";
    Phalanx__Submit m = PHALANX__SUBMIT__INIT;
    m.has_request_id = 1;
    m.request_id = (ProtobufCBinaryData){sizeof id, id};
    m.model = (char *)(uintptr_t) "demo";
    m.has_prompt = 1;
    m.prompt = (ProtobufCBinaryData){5, text};
    m.has_max_tokens = 1;
    m.max_tokens = LIMIT_CONTEXT_TOKENS;
    m.has_prompt_logprobs = 1;
    return m;
}

static enum status judge(const Phalanx__Submit *m)
{
    struct error err = {0};
    enum status s = request_from_submit(m, &request, &err);
    assert_true(s == STATUS_OK || err.text[0]); // a refusal always has its sentence
    return s;
}

static void test_borders(void **state)
{
    (void)state;
    Phalanx__Submit m = good();
    assert_int_equal(judge(&m), STATUS_OK);
#define TRY_VALUE(name, value_, expected)                                                          \
    m = good();                                                                                    \
    m.has_##name = 1;                                                                              \
    m.name = value_;                                                                               \
    assert_int_equal(judge(&m), expected);
#define INT(name, type, min, max, value, help)                                                     \
    TRY_VALUE(name, (type)(min), STATUS_OK)                                                        \
    TRY_VALUE(name, (type)(max), STATUS_OK)                                                        \
    TRY_VALUE(name, (type)((min)-1), STATUS_INVALID)                                               \
    TRY_VALUE(name, (type)((max) + 1), STATUS_INVALID)                                             \
    TRY_VALUE(name, (type)0x80000000u, STATUS_INVALID)
#define REAL(name, open, min, max, value, help)                                                    \
    TRY_VALUE(name, min, (open) ? STATUS_INVALID : STATUS_OK)                                      \
    TRY_VALUE(name, max, STATUS_OK)                                                                \
    TRY_VALUE(name, nextafterf(max, INFINITY), STATUS_INVALID)                                     \
    TRY_VALUE(name, nextafterf(min, -INFINITY), STATUS_INVALID)                                    \
    TRY_VALUE(name, NAN, STATUS_INVALID)                                                           \
    TRY_VALUE(name, INFINITY, STATUS_INVALID)                                                      \
    TRY_VALUE(name, -INFINITY, STATUS_INVALID)
#define FLAG(name, value, help) TRY_VALUE(name, 1, STATUS_OK)
#include "proto/params.def"
#undef INT
#undef REAL
#undef FLAG
}

static void test_refusals(void **state)
{
    (void)state;
    static uint8_t bad[] = "\xc0\x80";
    static uint32_t ids[] = {1, 2};
    Phalanx__Submit m = good();
    m.request_id.len = 15;
    assert_int_equal(judge(&m), STATUS_INVALID);
    m = good();
    m.model = NULL;
    assert_int_equal(judge(&m), STATUS_INVALID);
    m = good();
    m.prompt = (ProtobufCBinaryData){2, bad};
    assert_int_equal(judge(&m), STATUS_INVALID);
    m = good();
    m.prompt_ids = ids;
    m.n_prompt_ids = 2;
    assert_int_equal(judge(&m), STATUS_INVALID);
    m.has_prompt = 0;
    assert_int_equal(judge(&m), STATUS_OK);
    assert_int_equal(request_check_ids(&request, 3, 100, NULL), STATUS_OK);
    assert_int_equal(request_check_ids(&request, 2, 100, NULL), STATUS_INVALID);
    assert_int_equal(request_check_ids(&request, 3, 2, NULL), STATUS_TOO_LARGE);
    m = good();
    m.has_prompt_logprobs = 0;
    m.max_tokens = 0;
    assert_int_equal(judge(&m), STATUS_INVALID);
    m = good();
    m.max_tokens = 4;
    m.has_min_tokens = 1;
    m.min_tokens = 5;
    assert_int_equal(judge(&m), STATUS_INVALID);
    m = good();
    m.prompt_logprobs = LIMIT_LOGPROBS + 1;
    assert_int_equal(judge(&m), STATUS_INVALID);
}

// The body hash ignores flow control and sees everything else.
static void test_body_hash(void **state)
{
    (void)state;
    Phalanx__Submit m = good();
    assert_int_equal(judge(&m), STATUS_OK);
    struct hash128 first = request.body;
    m.has_window = 1;
    m.window = 7;
    assert_int_equal(judge(&m), STATUS_OK);
    assert_memory_equal(&first, &request.body, sizeof first);
    m.has_seed = 1;
    m.seed = 1;
    assert_int_equal(judge(&m), STATUS_OK);
    assert_memory_not_equal(&first, &request.body, sizeof first);
}

static void test_unpack_is_bounded(void **state)
{
    (void)state;
    struct arena arena;
    struct error err = {0};
    ProtobufCMessage *out;
    static uint8_t hostile[8192]; // empty submessages: many times their size when unpacked
    for (size_t i = 0; i + 1 < sizeof hostile; i += 2) {
        hostile[i] = 0x1a;
        hostile[i + 1] = 0;
    }
    arena_init(&arena, 32768);
    assert_int_equal(
        message_unpack(&phalanx__client_message__descriptor, "\xff\xff", 2, &arena, &out, &err),
        STATUS_INVALID);
    arena_reset(&arena);
    assert_int_equal(message_unpack(&phalanx__tokens__descriptor, "\x2a", 1, &arena, &out, &err),
        STATUS_INVALID);
    arena_reset(&arena);
    assert_int_equal(message_unpack(&phalanx__prompt_tokens__descriptor, hostile, sizeof hostile,
                         &arena, &out, &err),
        STATUS_INVALID);
    assert_non_null(strstr(err.text, "memory"));
    arena_reset(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_borders),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_body_hash),
        cmocka_unit_test(test_unpack_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
