// SPDX-License-Identifier: Apache-2.0
// Running ahead, emulated: tokens that stay on the device give the rows that tokens of the host
// give; a mark is reached when what stands before it has run; uploads outlast their ring.
#include "tests/cuda/support.hpp"

#include <cmath>
#include <cstddef>
#include <cstring>

namespace
{

enum { VOCAB = 40, DIM = 12, SLOTS = 4, STEPS = 4, TOPS = 3 };
constexpr uint32_t stride = offsetof(struct sample_result, top) + TOPS * sizeof(struct sample_top);

struct sampling_params drawn(uint64_t seed)
{
    struct sampling_params p = {};
    p.seed = seed;
    p.temperature = p.top_p = p.typical_p = 1;
    p.repetition_penalty = 1.3f;
    p.frequency_penalty = 0.4f;
    p.n_logprobs = TOPS + 2; // more than there is room for
    return p;
}

// A device with samplers, an embedding, and what the steps of a run need.
struct runner {
    sides s;
    both_weights table;
    on_device results, kept;
    std::vector<std::unique_ptr<on_device>> logits, rows;

    explicit runner(const std::vector<floats> &all, const floats &embedding)
        : s(DTYPE_F32), table(s, embedding, VOCAB, DIM, DTYPE_F32), results(s, SLOTS * stride),
          kept(s, 2 * SLOTS * sizeof(uint32_t))
    {
        struct error err = {};
        assert_int_equal(
            s.emu->sampler_open(s.emu_device, SLOTS, VOCAB, STEPS + 2, &err), STATUS_OK);
        static const uint32_t prompt[1] = {7};
        for (uint32_t i = 0; i < SLOTS; i++) {
            struct sampler_begin_args a = {};
            a.slot = i;
            a.params = drawn(i);
            a.ids = prompt;
            a.n_ids = a.prompt_length = 1;
            s.emu->sampler_begin(s.emu_device, &a);
        }
        for (const floats &one : all) {
            logits.push_back(std::make_unique<on_device>(s, one, DTYPE_F32));
            rows.push_back(std::make_unique<on_device>(s, SLOTS * DIM * sizeof(float)));
        }
    }

    void sample(uint32_t step, struct sample_result *out, uint32_t result_stride)
    {
        struct sample_row row[SLOTS] = {};
        for (uint32_t i = 0; i < SLOTS; i++) {
            row[i].slot = i;
            row[i].position = 1 + step;
        }
        struct sample_args a = {};
        a.n_rows = SLOTS;
        a.vocab_size = VOCAB;
        a.logits = static_cast<const float *>(logits[step]->p);
        a.row = row;
        a.result = out;
        a.result_stride = result_stride;
        s.emu->sample(s.emu_device, &a);
    }

    void embed(uint32_t step, const uint32_t *ids)
    {
        struct batch b = {};
        uint32_t positions[SLOTS] = {};
        b.n_rows = SLOTS;
        b.token_ids = ids;
        b.positions = positions;
        b.kept = static_cast<const uint32_t *>(kept.p);
        s.emu->batch_begin(s.emu_device, &b);
        struct embed_args a = {};
        a.batch = &b;
        a.table = table.emu;
        a.scale = 1;
        a.out = rows[step]->p;
        s.emu->embed(s.emu_device, &a);
    }
};

// Each step's tokens are the next one's rows, and nobody waits before the last step is enqueued.
void tokens_need_not_be_read(void **)
{
    struct random r = {311};
    std::vector<floats> logits;
    for (uint32_t i = 0; i < STEPS; i++)
        logits.push_back(draw(&r, SLOTS * VOCAB, 2, DTYPE_F32));
    logits[1][3 * VOCAB + 5] = NAN; // the row of slot 3 fails
    floats embedding = draw(&r, VOCAB * DIM, 1, DTYPE_F32);
    for (uint32_t seed = 0; seed < 2; seed++) {
        emu_seed(seed);
        runner ahead(logits, embedding), plain(logits, embedding);
        const uint32_t slot[SLOTS] = {7, 0, 6, 2}, from[SLOTS] = {0, 1, 2, 3};
        for (uint32_t step = 0; step < STEPS; step++) {
            struct sample_result got[SLOTS];
            uint32_t ids[SLOTS], named[SLOTS];
            plain.sample(step, got, 0);
            plain.s.sync();
            for (uint32_t i = 0; i < SLOTS; i++) {
                ids[i] = got[i].failed ? 0 : got[i].id;
                named[i] = KERNELS_TOKEN_KEPT | slot[i];
            }
            named[1] = ids[1]; // some are known
            assert_int_equal(got[3].failed, step == 1);
            plain.embed(step, ids);
            ahead.sample(step, static_cast<struct sample_result *>(ahead.results.p), stride);
            struct keep_args keep = {
                SLOTS, slot, from, ahead.results.p, stride, static_cast<uint32_t *>(ahead.kept.p)};
            ahead.s.emu->keep_tokens(ahead.s.emu_device, &keep);
            ahead.embed(step, named);
        }
        for (uint32_t step = 0; step < STEPS; step++)
            assert_equal(
                "rows", plain.rows[step]->read(DTYPE_F32), ahead.rows[step]->read(DTYPE_F32));
    }
}

void results_stay_within_their_stride(void **)
{
    struct random r = {313};
    std::vector<floats> logits = {draw(&r, SLOTS * VOCAB, 2, DTYPE_F32)};
    runner ahead(logits, draw(&r, VOCAB * DIM, 1, DTYPE_F32));
    struct sample_result got[SLOTS];
    runner plain(logits, draw(&r, VOCAB * DIM, 1, DTYPE_F32));
    plain.sample(0, got, 0);
    plain.s.sync();
    ahead.sample(0, static_cast<struct sample_result *>(ahead.results.p), stride);
    std::vector<uint8_t> bytes = ahead.results.bytes_read();
    for (uint32_t i = 0; i < SLOTS; i++) {
        const struct sample_result *one = (const struct sample_result *)(bytes.data() + i * stride);
        assert_int_equal(one->id, got[i].id);
        assert_int_equal(one->n_top, TOPS);
        assert_memory_equal(one->top, got[i].top, TOPS * sizeof one->top[0]);
    }
}

void a_mark_tells_what_has_run(void **)
{
    for (uint32_t seed = 0; seed < 8; seed++) {
        emu_seed(seed);
        sides s(DTYPE_F32);
        struct error err = {};
        on_device there(s, 256);
        uint32_t *host = static_cast<uint32_t *>(s.emu->host_take(s.emu_device, 512));
        std::memset(host, 0, 512);
        for (uint32_t i = 0; i < 2 * KERNELS_MARKS; i++) {
            uint32_t value = i + 1, mark = i % KERNELS_MARKS;
            if (i >= KERNELS_MARKS) {
                assert_int_equal(s.emu->mark_reached(s.emu_device, mark, true, &err), STATUS_OK);
                assert_int_equal(host[mark], value - KERNELS_MARKS);
            }
            s.emu->copy_in(s.emu_device, there.p, &value, sizeof value);
            s.emu->copy_out(s.emu_device, host + mark, there.p, sizeof value);
            s.emu->mark_set(s.emu_device, mark);
        }
        uint32_t last = KERNELS_MARKS - 1;
        enum status status;
        while ((status = s.emu->mark_reached(s.emu_device, last, false, &err)) == STATUS_AGAIN)
            ;
        assert_int_equal(status, STATUS_OK);
        for (uint32_t i = 0; i < KERNELS_MARKS; i++)
            assert_int_equal(host[i], i + 1 + KERNELS_MARKS);
        s.emu->host_give(s.emu_device, host);
    }
}

// More is uploaded than the ring holds while nothing has run yet.
void uploads_wait_for_their_place(void **)
{
    enum { CALLS = 68, EACH = 2048 };
    sides s(DTYPE_F32);
    std::vector<uint8_t> made(EACH * stride);
    std::vector<uint32_t> slot(EACH), from(EACH);
    for (uint32_t i = 0; i < EACH; i++) {
        struct sample_result one = {};
        one.id = i + 1;
        std::memcpy(made.data() + i * stride, &one, stride);
    }
    on_device results(s, made.size()), kept(s, CALLS * EACH * sizeof(uint32_t));
    s.emu->copy_in(s.emu_device, results.p, made.data(), made.size());
    for (uint32_t call = 0; call < CALLS; call++) {
        for (uint32_t i = 0; i < EACH; i++) {
            slot[i] = call * EACH + i;
            from[i] = (i * 5 + call) % EACH;
        }
        struct keep_args keep = {
            EACH, slot.data(), from.data(), results.p, stride, static_cast<uint32_t *>(kept.p)};
        s.emu->keep_tokens(s.emu_device, &keep);
    }
    std::vector<uint8_t> bytes = kept.bytes_read();
    const uint32_t *got = (const uint32_t *)bytes.data();
    for (uint32_t call = 0; call < CALLS; call++)
        for (uint32_t i = 0; i < EACH; i++)
            assert_int_equal(got[call * EACH + i], (i * 5 + call) % EACH + 1);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_need_not_be_read),
        cmocka_unit_test(results_stay_within_their_stride),
        cmocka_unit_test(a_mark_tells_what_has_run),
        cmocka_unit_test(uploads_wait_for_their_place),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
