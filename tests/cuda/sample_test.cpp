// SPDX-License-Identifier: Apache-2.0
// Sampling of the device back end, emulated, against kernels/cpu: the same ids for the same logits
// and parameters, log-probabilities within 1e-5, logits left as they were.
//
// Bugs planted in kernels/cuda/sample*, each alone, that fail here: the sign of each penalty;
// repetition of negative logits; ties at top_k cut, dropped; top_p one more, one less, at an exact
// sum, by descending id, of the whole weight behind top_k; min_p by the raw maximum, without
// temperature, without its border; typical_p before top_p, by surprise alone, by the entropy of
// all; the draw's position off by one; log-probabilities behind penalties; a bias behind
// temperature; a NaN unseen; infinity taken in a scored row.
#include "kernels/cpu/canon.h"
#include "tests/cuda/support.hpp"

#include <cmath>
#include <cstring>

namespace
{

enum { IDS_MAX = 96, SLOTS = 4 };

// SAMPLE_LONG: more of the same.
#if defined(SAMPLE_LONG)
constexpr uint32_t more = 6;
#else
constexpr uint32_t more = 1;
#endif

struct request {
    struct sampling_params p;
    uint32_t stop[8], ids[IDS_MAX], n_ids, prompt_length;
    struct sampling_bias bias[8];
};

// Both back ends with samplers over `vocab` ids.
struct samplers {
    sides of;
    uint32_t vocab;

    explicit samplers(uint32_t n) : of(DTYPE_F32), vocab(n)
    {
        struct error err = {};
        assert_int_equal(
            of.cpu->sampler_open(of.cpu_device, SLOTS, vocab, IDS_MAX, &err), STATUS_OK);
        assert_int_equal(
            of.emu->sampler_open(of.emu_device, SLOTS, vocab, IDS_MAX, &err), STATUS_OK);
    }
    void begin(uint32_t slot, const request &q)
    {
        struct sampler_begin_args a = {};
        a.slot = slot;
        a.params = q.p;
        a.stop_ids = q.stop;
        a.bias = q.bias;
        a.ids = q.ids;
        a.n_ids = q.n_ids;
        a.prompt_length = q.prompt_length;
        of.cpu->sampler_begin(of.cpu_device, &a);
        of.emu->sampler_begin(of.emu_device, &a);
    }
};

struct request neutral()
{
    struct request q = {};
    q.p.temperature = q.p.top_p = q.p.typical_p = q.p.repetition_penalty = 1;
    return q;
}

struct request random_request(struct random *r, uint32_t v)
{
    struct request q = neutral();
    q.p.seed = (uint64_t)random_u32(r) << 32 | random_u32(r);
    q.p.sample_index = random_below(r, 3);
    uint32_t kind = random_below(r, 6);
    q.p.temperature = kind == 0 ? 0.0f : kind < 3 ? 1.0f : random_float(r, 0.001f, 2.0f);
    if (random_below(r, 3) == 0)
        q.p.top_k = 1 + (int32_t)random_below(r, random_below(r, 2) ? 50 : v + v / 4);
    if (random_below(r, 3) == 0)
        q.p.top_p = random_float(r, 0.01f, 0.999f);
    if (random_below(r, 4) == 0)
        q.p.min_p = random_float(r, 0.0f, 0.3f);
    if (random_below(r, 4) == 0)
        q.p.typical_p = random_float(r, 0.05f, 0.99f);
    if (random_below(r, 3) == 0) {
        q.p.repetition_penalty = random_float(r, 0.7f, 1.6f);
        q.p.frequency_penalty = random_float(r, -1, 1);
        q.p.presence_penalty = random_float(r, -1, 1);
    }
    q.p.n_logprobs = random_below(r, 3) ? random_below(r, 6) : random_below(r, 140);
    q.p.min_tokens = random_below(r, 3) ? 0 : random_below(r, 40);
    q.p.n_stop_ids = v > 8 ? random_below(r, 8) : 0;
    for (uint32_t i = 0; i < q.p.n_stop_ids; i++)
        q.stop[i] = random_below(r, v + 3);
    q.p.n_logit_bias = random_below(r, 3) ? 0 : random_below(r, v > 8 ? 8 : v + 1);
    for (uint32_t i = 0; i < q.p.n_logit_bias; i++)
        q.bias[i] = {(random_below(r, v) / 8 * 8 + i) % v, random_float(r, -5, 5)};
    q.n_ids = random_below(r, 60);
    q.prompt_length = q.n_ids > 0 ? random_below(r, q.n_ids) : 0;
    for (uint32_t i = 0; i < q.n_ids; i++)
        q.ids[i] = random_below(r, random_below(r, 2) && v > 20 ? 20 : v);
    return q;
}

floats random_logits(struct random *r, uint32_t v, uint32_t round)
{
    floats x(v);
    float spread = random_float(r, 0.1f, round % 7 == 6 ? 60.0f : 4.0f);
    for (float &f : x) {
        f = random_normal(r) * spread;
        if (round % 3 == 1)
            f = rintf(f);
        if (round % 5 == 4 && random_below(r, 4) == 0)
            f = -INFINITY;
        if (round % 11 == 10)
            f = random_below(r, 2) ? 0.0f : -0.0f;
    }
    return x;
}

void expect_result(const struct sample_result &want, const struct sample_result &got,
    const char *what, uint32_t round)
{
    auto near = [](float a, float b) {
        return a == b || fabsf(a - b) <= 1e-5f * (1.0f + fabsf(a) * 0.01f);
    };
    if (want.failed != got.failed)
        fail_msg("%s, round %u: failed is %d, expected %d", what, round, got.failed, want.failed);
    if (want.failed)
        return;
    if (want.id != got.id || want.rank != got.rank || want.n_top != got.n_top)
        fail_msg("%s, round %u: id %u, rank %u, %u top ids; expected %u, %u, %u", what, round,
            got.id, got.rank, got.n_top, want.id, want.rank, want.n_top);
    if (!near(want.logprob, got.logprob))
        fail_msg("%s, round %u: logprob %.9g, expected %.9g", what, round, (double)got.logprob,
            (double)want.logprob);
    for (uint32_t i = 0; i < want.n_top; i++)
        if (want.top[i].id != got.top[i].id || !near(want.top[i].logprob, got.top[i].logprob))
            fail_msg("%s, round %u: top %u is %u with %.9g, expected %u with %.9g", what, round, i,
                got.top[i].id, (double)got.top[i].logprob, want.top[i].id,
                (double)want.top[i].logprob);
}

// Both back ends over the same rows. `lead` elements stand before the logits: where rows begin.
void compare(samplers &s, const char *what, uint32_t round, const floats &logits,
    const std::vector<struct sample_row> &rows, uint32_t lead = 0)
{
    std::vector<struct sample_result> want(rows.size()), got(rows.size());
    floats shifted(lead + logits.size());
    for (size_t i = 0; i < logits.size(); i++)
        shifted[lead + i] = logits[i];
    on_device there(s.of, shifted, DTYPE_F32);
    struct sample_args a = {};
    a.n_rows = static_cast<uint32_t>(rows.size());
    a.vocab_size = s.vocab;
    a.row = rows.data();
    a.logits = logits.data();
    a.result = want.data();
    s.of.cpu->sample(s.of.cpu_device, &a);
    emu_seed(round);
    a.logits = static_cast<const float *>(there.p) + lead;
    a.result = got.data();
    s.of.emu->sample(s.of.emu_device, &a);
    s.of.sync();
    for (size_t i = 0; i < rows.size(); i++)
        expect_result(want[i], got[i], what, round);
    floats after = there.read(DTYPE_F32);
    if (memcmp(after.data(), shifted.data(), shifted.size() * sizeof(float)) != 0)
        fail_msg("%s, round %u: logits are not what they were", what, round);
}

struct sample_row row_of(uint32_t slot, uint32_t position)
{
    struct sample_row row = {};
    row.slot = slot;
    row.position = position;
    return row;
}

void chooses_as_the_cpu(void **)
{
    static const uint32_t sizes[] = {1, 3, 17, 300, 5003};
    struct random r = {121};
    for (uint32_t v : sizes) {
        samplers s(v);
        for (uint32_t round = 0; round < more * (v > 1000 ? 12 : 15); round++) {
            request q = random_request(&r, v);
            floats logits = random_logits(&r, v, round);
            logits[v / 2] = 1;
            s.begin(0, q);
            compare(s, "a row", round, logits, {row_of(0, round)}, round % 4);
        }
    }
}

// A row with ties and sums that lie exactly on borders, drawn from often.
struct border_case {
    const char *what;
    void (*make)(request &q, floats &x);
};

const border_case borders[] = {
    {"top_p, the sum of equal ones", [](request &q, floats &) { q.p.top_p = 0.5f; }},
    {"top_p among few",
        [](request &q, floats &x) {
            x.assign(x.size(), -INFINITY);
            x[3] = x[8] = x[9] = x[30] = 1;
            q.p.top_p = 0.75f;
        }},
    {"top_p of what top_k left",
        [](request &q, floats &x) {
            for (size_t i = 0; i < x.size(); i++)
                x[i] = -0.1f * (float)i;
            q.p.top_k = 8;
            q.p.top_p = 0.5f;
        }},
    {"top_p of what min_p left",
        [](request &q, floats &x) {
            for (size_t i = 0; i < x.size(); i++)
                x[i] = -0.1f * (float)i;
            q.p.min_p = 0.5f;
            q.p.top_p = 0.6f;
        }},
    {"top_k, equal ones at its end",
        [](request &q, floats &x) {
            for (size_t i = 0; i < x.size(); i++)
                x[i] = i < 2 ? 1.0f : i < 12 ? 0.5f : 0.0f;
            q.p.top_k = 4;
        }},
    {"top_k of more than there are",
        [](request &q, floats &x) {
            for (size_t i = 0; i < x.size(); i++)
                x[i] = i % 5 != 0 ? -INFINITY : -(float)i * 0.05f;
            q.p.top_k = 12;
            q.p.n_logprobs = 12;
        }},
    {"min_p of 1", [](request &q, floats &x) { x[2] = x[5] = 1, q.p.min_p = 1; }},
    {"min_p, its border",
        [](request &q, floats &x) {
            for (size_t i = 0; i < x.size(); i++)
                x[i] = i % 4 != 1 ? -1.0f : -1.25f;
            x[20] = 0;
            q.p.min_p = canon_exp(-1.0f);
        }},
    {"min_p below a biased maximum",
        [](request &q, floats &x) {
            for (size_t i = 0; i < x.size(); i++)
                x[i] = -0.1f * (float)i;
            q.p.n_logit_bias = 1;
            q.bias[0] = {9, 2.5f};
            q.p.min_p = 0.15f;
        }},
    {"typical_p of what top_p left",
        [](request &q, floats &x) {
            for (size_t i = 0; i < x.size(); i++)
                x[i] = -0.2f * (float)i;
            q.p.top_p = 0.8f;
            q.p.typical_p = 0.6f;
        }},
    {"typical_p, equal distances", [](request &q, floats &) { q.p.typical_p = 0.3f; }},
    {"penalties of negative logits",
        [](request &q, floats &x) {
            for (size_t i = 0; i < x.size(); i++)
                x[i] = -1.0f - 0.02f * (float)i;
            q.p.repetition_penalty = 1.7f;
            q.p.frequency_penalty = 0.3f;
            q.p.presence_penalty = 0.2f;
            q.n_ids = 24;
            q.prompt_length = 12;
            for (uint32_t i = 0; i < q.n_ids; i++)
                q.ids[i] = i * i % 31;
        }},
    {"a bias in two pieces",
        [](request &q, floats &) {
            q.p.n_logit_bias = 3;
            q.bias[0] = {6, 2};
            q.bias[1] = {7, 1};
            q.bias[2] = {6, 1};
            q.p.temperature = 0.5f;
        }},
    {"the least temperature",
        [](request &q, floats &x) {
            for (size_t i = 0; i < x.size(); i++)
                x[i] = -0.003f * (float)i;
            q.p.temperature = 2e-5f;
        }},
    {"below it, greedy", [](request &q, floats &x) { x[4] = x[6] = 1, q.p.temperature = 9e-6f; }},
};

void decides_at_borders_as_the_cpu(void **)
{
    constexpr uint32_t v = 40, draws = 8 * more;
    samplers s(v);
    for (const border_case &c : borders) {
        request q = neutral();
        floats one(v, 0.0f), logits;
        q.p.seed = 7;
        q.p.n_logprobs = 2;
        c.make(q, one);
        std::vector<struct sample_row> rows;
        for (uint32_t i = 0; i < draws; i++) {
            logits.insert(logits.end(), one.begin(), one.end());
            rows.push_back(row_of(2, i));
        }
        s.begin(2, q);
        compare(s, c.what, 0, logits, rows);
    }
}

// Wide vocabularies: what can matter does not fit into shared memory, or only just does.
void chooses_among_many(void **)
{
    constexpr uint32_t v = 4400;
    struct random r = {131};
    samplers s(v);
    for (uint32_t round = 0; round < 7 * more; round++) {
        request q = neutral();
        q.p.seed = round;
        q.p.n_logprobs = round % 3 * 60;
        if (round % 7 == 0)
            q.p.top_k = 3900 + (int32_t)round * 10;
        if (round % 7 == 1 || round % 7 == 6)
            q.p.top_p = 0.97f;
        if (round % 7 == 2)
            q.p.min_p = 1e-4f;
        if (round % 7 == 3)
            q.p.typical_p = 0.9f;
        if (round % 7 == 4) {
            q.p.top_k = 4300;
            q.p.top_p = 0.8f;
            q.p.typical_p = 0.7f;
        }
        floats logits = random_logits(&r, v, round);
        if (round == 6)
            logits.assign(v, -2.5f);
        s.begin(1, q);
        compare(s, "many ids", round, logits, {row_of(1, round)});
    }
}

// Rows of several slots and scored rows in one call; rows of one slot beside one another see what
// the one before has put out; what was sampled counts from then on.
void keeps_the_history(void **)
{
    constexpr uint32_t v = 60;
    struct random r = {101};
    samplers s(v);
    for (uint32_t i = 0; i < SLOTS; i++) {
        request q = neutral();
        q.p.seed = i;
        q.p.temperature = i == 1 ? 0.0f : 1.0f;
        q.p.repetition_penalty = i % 2 ? 1.3f : 1.0f;
        q.p.frequency_penalty = 0.5f;
        q.p.presence_penalty = i == 2 ? 0.2f : 0.0f;
        q.p.min_tokens = 6;
        q.p.n_stop_ids = 2;
        q.stop[0] = 2;
        q.stop[1] = 7;
        q.n_ids = 10;
        q.prompt_length = 8;
        for (uint32_t j = 0; j < q.n_ids; j++)
            q.ids[j] = random_below(&r, 12);
        s.begin(i, q);
    }
    for (uint32_t step = 0; step < 7 * more; step++) {
        std::vector<struct sample_row> rows;
        for (uint32_t i = 0; i < SLOTS; i++) {
            rows.push_back(row_of(i, 10 + 2 * step));
            if (i == step % SLOTS)
                rows.push_back(row_of(i, 11 + 2 * step));
        }
        struct sample_row scored = {};
        scored.scored = true;
        scored.target = step;
        scored.n_logprobs = step;
        rows.push_back(scored);
        floats logits(v * rows.size());
        for (float &x : logits)
            x = random_normal(&r);
        for (size_t i = 0; i < logits.size(); i++)
            logits[i] += i % v < 12 ? 2.0f : 0.0f;
        compare(s, "a step", step, logits, rows);
    }
}

void reports_bad_rows(void **)
{
    constexpr uint32_t v = 83;
    samplers s(v);
    request q = neutral();
    q.p.temperature = 0;
    q.p.presence_penalty = 1;
    for (uint32_t i = 0; i < SLOTS; i++)
        s.begin(i, q);
    for (uint32_t i = 0; i < v; i += 17) {
        floats logits(4 * v, 0.0f);
        logits[i] = i % 2 ? NAN : -NAN;
        for (uint32_t j = 0; j < v; j++)
            logits[v + j] = -INFINITY;
        logits[2 * v + i] = INFINITY;
        logits[3 * v + i] = 1;
        compare(s, "bad rows", i, logits, {row_of(0, i), row_of(1, i), row_of(2, i), row_of(3, i)});
        struct sample_row scored = {};
        scored.scored = true;
        scored.target = (i + 1) % v;
        compare(s, "bad rows, scored", i, logits, {scored, scored, scored, scored});
    }
    // Everything masked by min_tokens.
    request masked = neutral();
    masked.p.min_tokens = 1;
    masked.p.n_stop_ids = 2;
    masked.stop[0] = 2;
    masked.stop[1] = 7;
    s.begin(0, masked);
    floats logits(v, -INFINITY);
    logits[2] = logits[7] = 0;
    compare(s, "all masked", 0, logits, {row_of(0, 0)});
}

// More rows than there is room for at once, in calls that nobody waits for.
void hands_over_many_results(void **)
{
    constexpr uint32_t v = 33, n = 70;
    struct random r = {5};
    samplers s(v);
    s.begin(0, neutral());
    floats logits(n * v);
    for (float &x : logits)
        x = random_normal(&r);
    on_device there(s.of, logits, DTYPE_F32);
    std::vector<struct sample_row> rows(n);
    for (uint32_t i = 0; i < n; i++)
        rows[i].scored = true;
    std::vector<std::vector<struct sample_result>> got(3);
    std::vector<struct sample_result> want(n);
    struct sample_args a = {};
    a.n_rows = n;
    a.vocab_size = v;
    a.row = rows.data();
    a.logits = static_cast<const float *>(there.p);
    for (auto &g : got) {
        g.resize(n);
        a.result = g.data();
        s.of.emu->sample(s.of.emu_device, &a);
    }
    s.of.sync();
    a.logits = logits.data();
    a.result = want.data();
    s.of.cpu->sample(s.of.cpu_device, &a);
    for (auto &g : got)
        for (uint32_t i = 0; i < n; i++)
            expect_result(want[i], g[i], "many rows", i);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chooses_as_the_cpu),
        cmocka_unit_test(decides_at_borders_as_the_cpu),
        cmocka_unit_test(chooses_among_many),
        cmocka_unit_test(keeps_the_history),
        cmocka_unit_test(reports_bad_rows),
        cmocka_unit_test(hands_over_many_results),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
