// SPDX-License-Identifier: Apache-2.0
// Requests whose values are out of range.
#include "tests/client/malformed.h"

#include "proto/limits.h"
#include "proto/validate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- every scalar of proto/params.def ----------------------------------------------------------

enum scalar {
#define INT(name, type, min, max, value, help) SCALAR_##name,
#define REAL(name, open, min, max, value, help) SCALAR_##name,
#define FLAG(name, value, help)
#include "proto/params.def"
#undef INT
#undef REAL
#undef FLAG
    SCALAR_COUNT
};

enum { TYPE_uint32_t = false, TYPE_int32_t = true }; // whether it has a sign

static const struct {
    const char *name;
    bool real, open, is_signed;
    double min, max;
} scalars[] = {
#define INT(name, type, min, max, value, help) {#name, false, false, TYPE_##type, min, max},
#define REAL(name, open, min, max, value, help)                                                    \
    {#name, true, open, true, (double)(min), (double)(max)},
#define FLAG(name, value, help)
#include "proto/params.def"
#undef INT
#undef REAL
#undef FLAG
};

static void scalar_set(Phalanx__Submit *m, int which, double to)
{
    switch (which) {
#define INT(field, type, min, max, value, help)                                                    \
    case SCALAR_##field:                                                                           \
        m->has_##field = 1;                                                                        \
        m->field = (type)to;                                                                       \
        break;
#define REAL(field, open, min, max, value, help)                                                   \
    case SCALAR_##field:                                                                           \
        m->has_##field = 1;                                                                        \
        m->field = (float)to;                                                                      \
        break;
#define FLAG(field, value, help)
#include "proto/params.def"
#undef INT
#undef REAL
#undef FLAG
    default:
        fail();
    }
}

static void try_scalar(struct wire *w, int which, double to)
{
    struct wire_request g;
    char row[96], part[64];
    wire_good(&g);
    scalar_set(&g.submit, which, to);
    snprintf(row, sizeof row, "%s of %g", scalars[which].name, to);
    snprintf(part, sizeof part, "%s is ", scalars[which].name);
    wire_submit(w, &g.submit);
    wire_expect_refused(w, row, "invalid", part);
    assert_int_equal(w->m->refused->request_id.len, 16);
}

void malformed_scalars(void **state)
{
    (void)state;
    struct wire w;
    wire_open(&w, NULL);
    for (int i = 0; i < SCALAR_COUNT; i++) {
        double min = scalars[i].min, max = scalars[i].max;
        if (!scalars[i].real) {
            try_scalar(&w, i, max + 1);
            try_scalar(&w, i, scalars[i].is_signed ? INT32_MAX : UINT32_MAX);
            if (scalars[i].is_signed || min > 0)
                try_scalar(&w, i, min - 1);
            if (scalars[i].is_signed)
                try_scalar(&w, i, INT32_MIN);
            continue;
        }
        try_scalar(&w, i, scalars[i].open ? min : (double)nextafterf((float)min, -1e9f));
        try_scalar(&w, i, min - 1);
        try_scalar(&w, i, (double)nextafterf((float)max, 1e9f));
        try_scalar(&w, i, (double)NAN);
        try_scalar(&w, i, (double)INFINITY);
        try_scalar(&w, i, -(double)INFINITY);
    }
    wire_expect_service(&w);
    wire_close(&w);
}

// ---- names, texts and lists --------------------------------------------------------------------

static uint8_t filler[LIMIT_PROMPT_BYTES + 2];
static uint32_t many_ids[LIMIT_CONTEXT_TOKENS + 1];
static uint32_t vocab_size, context_length;
static ProtobufCBinaryData texts[LIMIT_STOP_STRINGS + 1];
static Phalanx__LogitBias biases[LIMIT_LOGIT_BIAS + 1], *bias_list[LIMIT_LOGIT_BIAS + 1];

static ProtobufCBinaryData bytes_of(const char *text)
{
    return (ProtobufCBinaryData){strlen(text), (uint8_t *)(uintptr_t)text};
}

static void id_of(struct wire_request *g, size_t n)
{
    g->submit.request_id = (ProtobufCBinaryData){n, filler};
}

static void model_of(struct wire_request *g, const char *name)
{
    g->submit.model = (char *)(uintptr_t)name;
}

static void text_prompt(struct wire_request *g, const char *text)
{
    g->submit.n_prompt_ids = 0;
    g->submit.has_prompt = 1;
    g->submit.prompt = bytes_of(text);
}

static void ids_prompt(struct wire_request *g, uint32_t n)
{
    g->submit.prompt_ids = many_ids;
    g->submit.n_prompt_ids = n;
}

static void stops(struct wire_request *g, size_t n, ProtobufCBinaryData each)
{
    for (size_t i = 0; i < n; i++)
        texts[i] = each;
    g->submit.stop = texts;
    g->submit.n_stop = n;
}

static void stop_ids(struct wire_request *g, size_t n)
{
    g->submit.stop_token_ids = many_ids;
    g->submit.n_stop_token_ids = n;
}

static void bias(struct wire_request *g, size_t n, uint32_t id, float amount)
{
    for (size_t i = 0; i < n; i++) {
        phalanx__logit_bias__init(&biases[i]);
        biases[i].has_id = biases[i].has_bias = 1;
        biases[i].id = id;
        biases[i].bias = amount;
        bias_list[i] = &biases[i];
    }
    g->submit.logit_bias = bias_list;
    g->submit.n_logit_bias = n;
}

// One row: a good request, `change` made to it, and what the server says.
#define TRY_ROW(status, part, change)                                                              \
    do {                                                                                           \
        struct wire_request g;                                                                     \
        wire_good(&g);                                                                             \
        change;                                                                                    \
        wire_submit(w, &g.submit);                                                                 \
        wire_expect_refused(w, #change, status, part);                                             \
    } while (0)

static void names(struct wire *w)
{
    TRY_ROW("invalid", "request_id has 0 bytes, expected 16", g.submit.has_request_id = 0);
    TRY_ROW("invalid", "request_id has 0 bytes, expected 16", id_of(&g, 0));
    TRY_ROW("invalid", "request_id has 15 bytes, expected 16", id_of(&g, 15));
    TRY_ROW("invalid", "request_id has 17 bytes, expected 16", id_of(&g, 17));
    TRY_ROW("invalid", "request_id has 1048576 bytes", id_of(&g, 1 << 20));
    TRY_ROW("invalid", "model is missing", model_of(&g, NULL));
    TRY_ROW("invalid", "model is missing", model_of(&g, ""));
    TRY_ROW("invalid", "longer than 128 bytes", model_of(&g, (const char *)filler));
    TRY_ROW("invalid", "model is not valid UTF-8",
        model_of(&g, "gol\xff"
                     "den"));
    TRY_ROW("not_found", "\"Golden\" is not served", model_of(&g, "Golden"));
    TRY_ROW("not_found", "is not served", model_of(&g, "../../etc/passwd"));
    TRY_ROW("not_found", "is not served", model_of(&g, "golden\x1b[2J\n"));
    TRY_ROW(
        "invalid", "tenant is longer than 64 bytes", g.submit.tenant = (char *)(uintptr_t)filler);
    TRY_ROW("invalid", "tenant is not valid UTF-8", g.submit.tenant = (char *)(uintptr_t) "\xc0");
    TRY_ROW("invalid", "cache_salt has 65 bytes, expected at most 64", g.submit.has_cache_salt = 1;
            g.submit.cache_salt = ((ProtobufCBinaryData){65, filler}));
}

static void lists(struct wire *w)
{
    ProtobufCBinaryData none = {0, NULL}, longer = {LIMIT_STOP_STRING_BYTES + 1, filler};
    TRY_ROW("too_large", "stop has 17 strings, expected at most 16", stops(&g, 17, bytes_of("x")));
    TRY_ROW("invalid", "stop string 0 has 0 bytes", stops(&g, 1, none));
    TRY_ROW("invalid", "stop string 0 has 257 bytes", stops(&g, 1, longer));
    TRY_ROW("invalid", "stop string 0 is not valid UTF-8", stops(&g, 2, bytes_of("\xe2\x82")));
    TRY_ROW("too_large", "stop_token_ids has 33 ids, expected at most 32", stop_ids(&g, 33));
    TRY_ROW("invalid", "stop_token_ids names token", many_ids[0] = vocab_size; stop_ids(&g, 1));
    many_ids[0] = 1;
    TRY_ROW("too_large", "logit_bias has 1025 entries, expected at most 1024",
        bias(&g, LIMIT_LOGIT_BIAS + 1, 1, 1));
    TRY_ROW("invalid", "logit_bias is nan", bias(&g, 1, 1, NAN));
    TRY_ROW("invalid", "logit_bias is inf", bias(&g, 1, 1, INFINITY));
    TRY_ROW("invalid", "logit_bias is -inf", bias(&g, 1, 1, -INFINITY));
    TRY_ROW("invalid", "logit_bias is 100", bias(&g, 1, 1, nextafterf(100, 200)));
    TRY_ROW("invalid", "logit_bias is -100", bias(&g, 1, 1, nextafterf(-100, -200)));
    TRY_ROW("invalid", "logit_bias names token", bias(&g, 1, vocab_size, 1));
    TRY_ROW("invalid", "logit_bias names token 4294967295", bias(&g, 1, UINT32_MAX, 1));
    TRY_ROW(
        "invalid", "min_tokens is 3, expected at most max_tokens (2)", g.submit.has_min_tokens = 1;
        g.submit.min_tokens = 3);
    TRY_ROW("invalid", "max_tokens is 0, expected at least 1", g.submit.max_tokens = 0);
    TRY_ROW("invalid", "prompt_logprobs is 21, expected 0 to 20", g.submit.has_prompt_logprobs = 1;
            g.submit.prompt_logprobs = 21);
    TRY_ROW("invalid", "prompt_logprobs is 4294967295", g.submit.has_prompt_logprobs = 1;
            g.submit.prompt_logprobs = UINT32_MAX);
}

void malformed_fields(void **state)
{
    (void)state;
    struct wire wire, *w = &wire;
    memset(filler, 'x', sizeof filler - 1);
    vocab_size = (uint32_t)cluster_stat(malformed_cluster, "vocab_size");
    context_length = (uint32_t)cluster_stat(malformed_cluster, "context_length");
    wire_open(w, NULL);
    names(w);
    wire_expect_service(w);
    lists(w);
    wire_expect_service(w);
    wire_close(w);
}

// ---- prompts -----------------------------------------------------------------------------------

static void bad_utf8(struct wire *w)
{
    static const char *const bad[] = {"\x80", "a\xbf", "\xc3", "\xc0\xaf", "\xe0\x80\xaf",
        "\xed\xa0\x80", "\xf0\x9f\x98", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xfe", "\xff",
        "caf\xe9"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        TRY_ROW("invalid", "prompt is not valid UTF-8", text_prompt(&g, bad[i]));
}

static void messages_of(struct wire_request *g, const char *text)
{
    g->submit.n_prompt_ids = 0;
    g->submit.has_messages = 1;
    g->submit.messages = bytes_of(text);
}

// What is wrong with a conversation before its template is asked; this model has none.
static void conversations(struct wire *w)
{
    TRY_ROW("unsupported", "no chat template", messages_of(&g, "[]"));
    TRY_ROW("invalid", "both prompt and messages", messages_of(&g, "[]"); g.submit.has_prompt = 1;
            g.submit.prompt = bytes_of("x"));
    TRY_ROW("invalid", "both prompt_ids and messages", g.submit.has_messages = 1;
            g.submit.messages = bytes_of("[]"));
    TRY_ROW("invalid", "messages is empty", messages_of(&g, ""));
    TRY_ROW("invalid", "messages is not valid UTF-8", messages_of(&g, "[\xff]"));
    TRY_ROW("too_large", "messages has", messages_of(&g, (const char *)filler));
    TRY_ROW("invalid", "messages is missing", g.submit.has_tools = 1;
            g.submit.tools = bytes_of("[]"));
    TRY_ROW("invalid", "messages is missing", g.submit.has_chat_template_kwargs = 1;
            g.submit.chat_template_kwargs = bytes_of("{}"));
    TRY_ROW(
        "invalid", "messages is missing", g.submit.chat_template = (char *)(uintptr_t) "default");
    TRY_ROW("too_large", "tools has", messages_of(&g, "[]"); g.submit.has_tools = 1;
            g.submit.tools = bytes_of((const char *)filler));
    TRY_ROW("too_large", "chat_template_kwargs has", messages_of(&g, "[]");
            g.submit.has_chat_template_kwargs = 1;
            g.submit.chat_template_kwargs = bytes_of((const char *)filler));
    TRY_ROW("invalid", "chat_template is", messages_of(&g, "[]");
            g.submit.chat_template = (char *)filler + LIMIT_PROMPT_BYTES - 100);
    TRY_ROW(
        "invalid", "both add_generation_prompt and continue_final_message", messages_of(&g, "[]");
        g.submit.has_add_generation_prompt = g.submit.add_generation_prompt = 1;
        g.submit.has_continue_final_message = g.submit.continue_final_message = 1);
}

// A text is known to be too long, or empty, only after it has been tokenized.
static void expect_error(struct wire *w, struct wire_request *g, const char *row, const char *part)
{
    const char *sentence;
    wire_submit(w, &g->submit);
    const char *reason = wire_expect_finish(w, row, &sentence);
    if (strcmp(reason, "error") != 0 || !strstr(sentence, part))
        print_error("%s: %s, %s\n", row, reason, sentence);
    assert_string_equal(reason, "error");
    assert_non_null(strstr(sentence, part));
    malformed_rows++;
}

void malformed_prompts(void **state)
{
    (void)state;
    struct wire wire, *w = &wire;
    struct wire_request g0;
    wire_open(w, NULL);
    for (size_t i = 0; i <= LIMIT_CONTEXT_TOKENS; i++)
        many_ids[i] = 1;
    bad_utf8(w);
    conversations(w);
    TRY_ROW("invalid", "prompt is missing", g.submit.n_prompt_ids = 0);
    TRY_ROW("invalid", "both prompt and prompt_ids", g.submit.has_prompt = 1;
            g.submit.prompt = bytes_of("x"));
    TRY_ROW("too_large", "expected at most 3145728", text_prompt(&g, (const char *)filler));
    TRY_ROW("invalid", "prompt_ids names token", g.prompt[1] = vocab_size);
    TRY_ROW("invalid", "prompt_ids names token 4294967295", g.prompt[0] = UINT32_MAX);
    TRY_ROW("too_large", "tokens, expected at most", ids_prompt(&g, context_length));
    TRY_ROW("too_large", "tokens, expected at most", ids_prompt(&g, context_length + 1));
    TRY_ROW("too_large", "tokens, expected at most", ids_prompt(&g, LIMIT_CONTEXT_TOKENS));
    TRY_ROW("too_large", "prompt_ids has 1048577 ids", ids_prompt(&g, LIMIT_CONTEXT_TOKENS + 1));
    wire_good(&g0);
    text_prompt(&g0, "");
    g0.submit.has_add_special_tokens = 1;
    expect_error(w, &g0, "a prompt without tokens", "no tokens");
    wire_good(&g0);
    text_prompt(&g0, (const char *)filler + LIMIT_PROMPT_BYTES - 100000);
    expect_error(w, &g0, "a text longer than the context", "context");
    wire_expect_service(w);
    wire_close(w);
}

// More tenants than there are places; the last group that uses tenants.
void malformed_tenants(void **state)
{
    (void)state;
    struct wire wire, *w = &wire;
    const char *sentence;
    char name[32];
    wire_open(w, NULL);
    for (int i = 0; i < LIMIT_TENANTS - 1; i++) {
        struct wire_request g;
        wire_good(&g);
        snprintf(name, sizeof name, "tenant %d", i);
        g.submit.tenant = name;
        wire_submit(w, &g.submit);
        assert_string_equal(wire_expect_finish(w, name, &sentence), "length");
    }
    TRY_ROW("too_large", "256 already", g.submit.tenant = (char *)(uintptr_t) "one more");
    wire_expect_service(w);
    wire_close(w);
}
