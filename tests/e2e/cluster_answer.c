// SPDX-License-Identifier: Apache-2.0
#include "tests/e2e/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void append_text(struct answer *out, const json_t *text)
{
    size_t n = json_string_length(text);
    assert_true(json_is_string(text));
    assert_true(out->n_text + n < sizeof out->text);
    memcpy(out->text + out->n_text, json_string_value(text), n);
    out->n_text += n;
    out->text[out->n_text] = '\0';
}

static int int_of(const json_t *o, const char *name)
{
    json_t *field = json_object_get(o, name);
    assert_true(json_is_integer(field));
    return (int)json_integer_value(field);
}

static void take_token(const json_t *o, struct answer *out)
{
    json_t *logprob = json_object_get(o, "logprob");
    assert_true(json_is_number(logprob));
    assert_true(out->n < ANSWER_TOKENS_MAX);
    assert_int_equal(int_of(o, "offset"), out->n);
    out->ids[out->n] = (uint32_t)int_of(o, "id");
    out->logprobs[out->n++] = (float)json_number_value(logprob);
    append_text(out, json_object_get(o, "text"));
}

static void take_finish(const json_t *o, struct answer *out)
{
    snprintf(out->reason, sizeof out->reason, "%s",
        json_string_value(json_object_get(o, "finish_reason")));
    char *stop = json_dumps(json_object_get(o, "stop_reason"), JSON_ENCODE_ANY);
    snprintf(out->stop, sizeof out->stop, "%s", stop ? stop : "missing");
    free(stop);
    out->prompt_tokens = int_of(o, "prompt_tokens");
    out->completion_tokens = int_of(o, "completion_tokens");
    out->cached_tokens = int_of(o, "cached_tokens");
    append_text(out, json_object_get(o, "text"));
}

void cluster_answer(const struct command *m, int index, struct answer *out)
{
    *out = (struct answer){0};
    if (m->code != 0)
        print_error("%s", m->err);
    assert_int_equal(m->code, 0);
    assert_non_null(m->lines);
    for (size_t i = 0; i < json_array_size(m->lines); i++) {
        const json_t *o = json_array_get(m->lines, i);
        if (json_object_get(o, "prompt_offset") || int_of(o, "index") != index)
            continue;
        assert_int_equal(out->reason[0], 0); // nothing follows the last line
        if (json_object_get(o, "id"))
            take_token(o, out);
        else
            take_finish(o, out);
    }
    assert_int_not_equal(out->reason[0], 0);
    assert_int_equal(out->completion_tokens, out->n);
}

bool cluster_answer_same(const struct answer *a, const struct answer *b)
{
    if (a->n != b->n || a->n_text != b->n_text || memcmp(a->text, b->text, a->n_text) != 0 ||
        strcmp(a->reason, b->reason) != 0) {
        print_error("%u tokens (%s) and %u tokens (%s)\n", a->n, a->reason, b->n, b->reason);
        return false;
    }
    for (uint32_t i = 0; i < a->n; i++)
        if (a->ids[i] != b->ids[i] || memcmp(&a->logprobs[i], &b->logprobs[i], sizeof(float))) {
            print_error("token %u is %u (%.9g) and %u (%.9g)\n", i, a->ids[i],
                (double)a->logprobs[i], b->ids[i], (double)b->logprobs[i]);
            return false;
        }
    return true;
}

const char *cluster_answer_ids(const uint32_t *ids, size_t n)
{
    enum { TEXTS = 16, TEXT_BYTES = 32768 };
    static char text[TEXTS][TEXT_BYTES];
    static unsigned next;
    char *out = text[next++ % TEXTS];
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        assert_true(at + 12 < TEXT_BYTES);
        at += (size_t)snprintf(out + at, TEXT_BYTES - at, i ? ",%u" : "%u", ids[i]);
    }
    return out;
}
