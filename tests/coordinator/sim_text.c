// SPDX-License-Identifier: Apache-2.0
// The toy detokenizer, the toy model, and the reference: what a request must give, computed the
// slow and simple way.
#include "tests/coordinator/sim.h"

#include <string.h>

// ---- text ---------------------------------------------------------------------------------------

// Ids below 4 are special. Some tokens are halves of a character, some several characters.
static const char *token_text(uint32_t id, bool skip_special)
{
    static const char *const table[] = {"a", "b", "c", "ab", "bc", "abc", "ba", "\xc3", "\xa9", "x",
        "xy", "ca", "aa", " ", "cab", "b\xc3"};
    if (id < 4)
        return skip_special ? "" : "<s>";
    return table[id % (sizeof table / sizeof table[0])];
}

// The state is one byte: 1 while the first half of a character is held.
static void toy_begin(const void *user, void *state, bool skip_special)
{
    (void)user;
    ((uint8_t *)state)[0] = 0;
    ((uint8_t *)state)[1] = skip_special;
}

static void toy_push(const void *user, void *state, uint32_t id, struct buf *out)
{
    (void)user;
    uint8_t *held = state;
    for (const char *p = token_text(id, held[1]); *p; p++) {
        bool second = *p == '\xa9';
        if (held[0])
            buf_append(out, second ? "\xc3\xa9" : "?", second ? 2 : 1);
        else if (second)
            buf_append(out, "?", 1);
        held[0] = *p == '\xc3';
        if (!held[0] && !second)
            buf_append(out, p, 1);
    }
}

static void toy_finish(const void *user, void *state, struct buf *out)
{
    (void)user;
    uint8_t *held = state;
    if (held[0])
        buf_append(out, "?", 1);
    held[0] = 0;
}

const struct text_decoder sim_decoder = {
    .begin = toy_begin, .push = toy_push, .finish = toy_finish};

// ---- model --------------------------------------------------------------------------------------

uint64_t sim_model_begin(const struct sim_job *job)
{
    // Tenant and salt are part of the state, so a block shared across them does not fit.
    return sim_mix(sim_mix(job->model + 1, job->tenant), job->salt);
}

uint64_t sim_model_next(uint64_t state, uint32_t id)
{
    return sim_mix(state, id + 0x100);
}

static bool contains(const uint32_t *list, uint32_t n, uint32_t id)
{
    for (uint32_t i = 0; i < n; i++)
        if (list[i] == id)
            return true;
    return false;
}

uint32_t sim_model_sample(uint64_t state, uint64_t seed, uint32_t sample, uint32_t position,
    const uint32_t *stop, uint32_t n_stop, bool masked)
{
    uint32_t id = (uint32_t)(sim_mix(sim_mix(state, seed), sample * 1000 + position) % SIM_VOCAB);
    while (masked && contains(stop, n_stop, id))
        id = (id + 1) % SIM_VOCAB;
    return id;
}

float sim_model_logprob(uint64_t state, uint32_t id)
{
    return -(float)(sim_mix(state, id + 0x10000) % 1000) / 64;
}

struct answer_top sim_model_top(uint64_t state, uint32_t i)
{
    return (struct answer_top){(uint32_t)(sim_mix(state, i + 0x20000) % SIM_VOCAB), -(float)i};
}

// ---- reference ----------------------------------------------------------------------------------

struct text {
    uint8_t data[SIM_TEXT_MAX];
    size_t n;
};

// The text of the first `n` tokens, without or with what finish adds.
static void decode(const uint32_t *ids, uint32_t n, bool skip, bool finish, struct text *out)
{
    uint8_t memory[SIM_TEXT_MAX];
    struct buf b = {.data = memory, .capacity = sizeof memory, .size_max = sizeof memory};
    uint64_t state[TEXT_DECODER_STATE_BYTES / 8];
    toy_begin(NULL, state, skip);
    for (uint32_t i = 0; i < n; i++)
        toy_push(NULL, state, ids[i], &b);
    if (finish)
        toy_finish(NULL, state, &b);
    memcpy(out->data, b.data, b.size);
    out->n = b.size;
}

// The first place after `from` where a stop string ends; the first such string of the list.
static int find_stop(
    const struct sim_job *job, const struct text *text, size_t from, size_t *end, size_t *size)
{
    for (size_t e = from + 1; e <= text->n; e++)
        for (uint32_t i = 0; i < job->n_stops; i++) {
            size_t len = strlen(job->stop[i]);
            if (len <= e && memcmp(text->data + e - len, job->stop[i], len) == 0) {
                *end = e;
                *size = len;
                return (int)i;
            }
        }
    return SIM_NONE;
}

size_t sim_text(const struct sim_job *job, const uint32_t *ids, uint32_t n, bool finish, char *out)
{
    struct text text;
    decode(ids, n, job->skip_special, finish, &text);
    memcpy(out, text.data, text.n);
    return text.n;
}

static void set_text(struct sim_expected *e, const struct text *text, size_t n)
{
    memcpy(e->text, text->data, n);
    e->n_text = (uint32_t)n;
}

static void expect_sample(struct sim *sim, struct sim_job *job, uint32_t sample)
{
    struct sim_expected *e = &job->expected[sample];
    uint32_t stop[8], n_stop = job->n_stop_ids;
    memcpy(stop, job->stop_ids, sizeof job->stop_ids);
    stop[n_stop++] = SIM_END_ID; // min_tokens masks it even where it ends nothing
    uint64_t state = sim_model_begin(job);
    for (uint32_t i = 0; i < job->n_prompt; i++)
        state = sim_model_next(state, job->prompt[i]);
    struct text text = {.n = 0};
    *e = (struct sim_expected){.reason = CORE_LENGTH};
    while (e->n < job->max_tokens && job->n_prompt + e->n < sim->context_tokens) {
        uint32_t id = sim_model_sample(
            state, job->seed, sample, job->n_prompt + e->n, stop, n_stop, e->n < job->min_tokens);
        state = sim_model_next(state, id);
        e->id[e->n++] = id;
        bool is_end = !job->ignore_eos && id == SIM_END_ID;
        if (is_end || contains(job->stop_ids, job->n_stop_ids, id)) {
            e->reason = CORE_STOP;
            e->stop = is_end ? CORE_STOP_END : CORE_STOP_ID;
            e->stop_value = is_end ? 0 : id;
            decode(e->id, job->include_stop ? e->n : e->n - 1, job->skip_special, true, &text);
            set_text(e, &text, text.n);
            return;
        }
        size_t before = text.n, end, size;
        decode(e->id, e->n, job->skip_special, false, &text);
        int found = e->n > job->min_tokens ? find_stop(job, &text, before, &end, &size) : SIM_NONE;
        if (found != SIM_NONE) {
            e->reason = CORE_STOP;
            e->stop = CORE_STOP_STRING;
            e->stop_value = (uint32_t)found;
            set_text(e, &text, job->include_stop ? end : end - size);
            return;
        }
    }
    decode(e->id, e->n, job->skip_special, true, &text);
    set_text(e, &text, text.n);
}

void sim_expect(struct sim *sim, struct sim_job *job)
{
    for (uint32_t i = 0; i < job->n; i++)
        expect_sample(sim, job, i);
}
