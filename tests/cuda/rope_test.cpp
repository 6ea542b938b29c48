// SPDX-License-Identifier: Apache-2.0
// rope_kv, emulated, against the CPU's: q in place and every byte of the pages.
#include "tests/cuda/support.hpp"

#include <cmath>

namespace
{

const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

struct rope_case {
    struct rope_kv_args a;
    uint32_t row_dim;
    floats inv_freq, qkv;
};

rope_case make(struct random *r, unsigned round, const sides &s, const test_batch &t)
{
    static const uint32_t dims[] = {8, 64, 80, 96, 128, 256, 20, 48};
    rope_case c = {};
    uint32_t dim = dims[round % 8];
    c.a.batch = &t.b;
    c.a.n_heads = 1 + random_below(r, 5);
    c.a.kv.dtype = types[round / 3 % 3];
    c.a.kv.n_kv_heads = 1 + random_below(r, 3);
    c.a.kv.head_dim = dim;
    c.a.kv.block_tokens = 16;
    c.a.kv.group = round % 2;
    c.a.rotary_dim = round % 4 == 3 ? dim / 4 * 2 : dim;
    c.a.interleaved = round % 5 == 4;
    c.a.attention_factor = round % 6 == 5 ? 1.2079f : 1.0f;
    c.a.norm_eps = 1e-6f;
    c.a.norm_weight_offset = round % 8 == 7 ? 1.0f : 0.0f;
    c.row_dim = (c.a.n_heads + 2 * c.a.kv.n_kv_heads) * dim;
    for (uint32_t i = 0; i < c.a.rotary_dim / 2; i++)
        c.inv_freq.push_back(
            std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(c.a.rotary_dim)));
    c.qkv = draw(r, t.b.n_rows * c.row_dim, 2, s.type);
    return c;
}

void rope_matches(void **)
{
    struct random r = {81};
    for (unsigned round = 0; round < 48; round++) {
        emu_seed(round);
        sides s(types[round % 3]);
        test_batch t(&r, {1 + random_below(&r, 4), 5, 90, 16, 10, true});
        rope_case c = make(&r, round, s, t);
        uint32_t dim = c.a.kv.head_dim;
        bool normed = round % 3 == 1, rotates = round % 9 != 8;
        both_weights q(s, draw(&r, dim, 1, DTYPE_F32), 1, dim, types[round % 3]);
        both_weights k(s, draw(&r, dim, 1, DTYPE_F32), 1, dim, types[round / 3 % 3]);
        size_t page = static_cast<size_t>(c.a.kv.n_kv_heads) * 16 * dim;
        floats before(t.n_pages * page, 7.0f), qkv = c.qkv;
        enum dtype kv_type = c.a.kv.dtype;
        on_device there(s, c.qkv, s.type), kk(s, before, kv_type), vv(s, before, kv_type);
        on_device inv_freq(s, c.inv_freq, DTYPE_F32);
        floats cpu_k = before, cpu_v = before;
        struct rope_kv_args cpu = c.a;
        cpu.qkv = qkv.data();
        cpu.kv.dtype = DTYPE_F32;
        cpu.kv.k = cpu_k.data();
        cpu.kv.v = cpu_v.data();
        cpu.inv_freq = rotates ? c.inv_freq.data() : nullptr;
        cpu.q_norm = normed ? q.cpu : nullptr;
        cpu.k_norm = normed ? k.cpu : nullptr;
        s.cpu->rope_kv(s.cpu_device, &cpu);
        struct rope_kv_args emu = c.a;
        emu.qkv = there.p;
        emu.kv.k = kk.p;
        emu.kv.v = vv.p;
        emu.inv_freq = rotates ? static_cast<const float *>(inv_freq.p) : nullptr;
        emu.q_norm = normed ? q.emu : nullptr;
        emu.k_norm = normed ? k.emu : nullptr;
        s.emu->batch_begin(s.emu_device, &t.b);
        s.emu->rope_kv(s.emu_device, &emu);
        floats got = there.read(s.type);
        assert_close("qkv", qkv, got, s.type, 2);
        // k and v stay as they were in qkv; the CPU's are unchanged as well.
        for (size_t i = 0; i < got.size(); i++)
            if (i % c.row_dim >= c.a.n_heads * dim)
                assert_true(got[i] == c.qkv[i]);
        assert_close("pages of k", cpu_k, kk.read(kv_type), kv_type, 2);
        assert_close("pages of v", cpu_v, vv.read(kv_type), kv_type, 2);
    }
}

// Norms over heads one by one and over all of them, with their sums of squares between.
void qk_norm_matches(void **)
{
    struct random r = {82};
    for (unsigned round = 0; round < 24; round++) {
        emu_seed(round);
        sides s(types[round % 3]);
        uint32_t rows = random_below(&r, 4), dim = round % 2 ? 20 : 64;
        uint32_t heads = 1 + random_below(&r, 5), kv = 1 + random_below(&r, 3);
        bool all = round % 4 > 1, shared = !all && round % 8 < 4;
        uint32_t q_dim = shared ? dim : heads * dim, k_dim = shared ? dim : kv * dim;
        both_weights q(s, draw(&r, q_dim, 1, s.type), 1, q_dim, types[round / 3 % 3]);
        both_weights k(s, draw(&r, k_dim, 1, s.type), 1, k_dim, s.type);
        both_weights q_bias(s, draw(&r, q_dim, 1, s.type), 1, q_dim, s.type);
        floats cpu = draw(&r, rows * (heads + 2 * kv) * dim, 2, s.type), cpu_squares(2 * rows);
        on_device emu(s, cpu, s.type), squares(s, cpu_squares, DTYPE_F32);
        struct qk_norm_args a = {};
        a.n_rows = rows;
        a.n_heads = heads;
        a.n_kv_heads = kv;
        a.head_dim = dim;
        a.eps = 1e-5f;
        a.q_mean = 1.0f / static_cast<float>(heads * dim);
        a.k_mean = 1.0f / static_cast<float>(kv * dim);
        struct qk_norm_args b = a;
        a.qkv = cpu.data();
        b.qkv = emu.p;
        a.squares = all ? cpu_squares.data() : nullptr;
        b.squares = all ? static_cast<float *>(squares.p) : nullptr;
        if (all) {
            a.sum_only = b.sum_only = true;
            s.cpu->qk_norm(s.cpu_device, &a);
            s.emu->qk_norm(s.emu_device, &b);
            assert_close("squares", cpu_squares, squares.read(DTYPE_F32), DTYPE_F32);
            a.sum_only = b.sum_only = false;
        }
        a.q_norm = q.cpu;
        a.k_norm = k.cpu;
        b.q_norm = q.emu;
        b.k_norm = k.emu;
        a.q_bias = !all && round % 3 == 0 ? q_bias.cpu : nullptr;
        b.q_bias = !all && round % 3 == 0 ? q_bias.emu : nullptr;
        s.cpu->qk_norm(s.cpu_device, &a);
        s.emu->qk_norm(s.emu_device, &b);
        assert_close("norm of q and k", cpu, emu.read(s.type), s.type, 2);
        struct clip_args c = {rows, (heads + 2 * kv) * dim, 0.75f, cpu.data()};
        struct clip_args e = {rows, c.dim, c.limit, emu.p};
        s.cpu->clip(s.cpu_device, &c);
        s.emu->clip(s.emu_device, &e);
        assert_close("clip", cpu, emu.read(s.type), s.type, 2);
    }
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qk_norm_matches),
        cmocka_unit_test(rope_matches),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
