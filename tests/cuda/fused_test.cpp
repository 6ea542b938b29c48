// SPDX-License-Identifier: Apache-2.0
// Ops that stand for several: the bits of those one after the other, in the number of launches that
// is promised.
#include "tests/cuda/support.hpp"

#include <cmath>

unsigned long long emu_launches();

namespace
{

const enum dtype types[] = {DTYPE_BF16, DTYPE_F16, DTYPE_F32};

// The residual stream is f32, but ops take it in the activations' type as well.
enum dtype stream_type(unsigned round, enum dtype activation)
{
    return round % 5 == 2 ? activation : DTYPE_F32;
}

// A residual stream and its norm.
struct stream {
    const sides &s;
    uint32_t rows, dim;
    both_weights weight, bias;
    on_device residual, normed;
    struct norm_args norm;

    stream(const sides &sides_, struct random *r, uint32_t n_rows, uint32_t n, unsigned round)
        : s(sides_), rows(n_rows), dim(n),
          weight(s, draw(r, n, 1, DTYPE_F32), 1, n, types[round / 2 % 3]),
          bias(s, draw(r, n, 1, DTYPE_F32), 1, n, types[round / 3 % 3]),
          residual(s, draw(r, n_rows * n, 2, s.type), stream_type(round, s.type)),
          normed(s, n_rows * n * dtype_bytes(s.type)), norm()
    {
        norm.n_rows = rows;
        norm.dim = dim;
        norm.layer = round % 3 == 1;
        norm.eps = 1e-5f;
        norm.weight_offset = round % 4 == 3 ? 1.0f : 0.0f;
        norm.residual = residual.p;
        norm.residual_type = stream_type(round, s.type);
        norm.out_type = s.type;
        norm.weight = round % 7 != 6 ? weight.emu : nullptr;
        norm.bias = norm.layer && norm.weight != nullptr ? bias.emu : nullptr;
        norm.out = normed.p;
    }
};

// Kernels since the last call, which the emulator has counted, too.
struct counter {
    const sides &s;
    uint64_t at;
    unsigned long long run;

    explicit counter(const sides &sides_) : s(sides_), at(0), run(0)
    {
        s.sync();
        at = s.emu->launches(s.emu_device);
        run = emu_launches();
    }
    uint64_t since()
    {
        uint64_t before = at;
        unsigned long long begun = run;
        s.sync();
        at = s.emu->launches(s.emu_device);
        run = emu_launches();
        assert_int_equal(at - before, run - begun);
        return at - before;
    }
};

void assert_launches(uint64_t expected, uint64_t got, bool one)
{
    if (got != (one ? 1 : expected))
        fail_msg("%u launches", (unsigned)got);
}

uint32_t some_k(struct random *r, unsigned round)
{
    uint32_t most = round % 6 == 5 ? 150 : 30; // of eight; blocks share K from 65 on
    return 8 * (1 + random_below(r, most));
}

// Pages of k and v, and q, k, v of the rows.
struct heads_out {
    on_device qkv, k, v;

    heads_out(const sides &s, uint32_t rows, uint32_t row_dim, size_t pages, enum dtype kv)
        : qkv(s, rows * row_dim * dtype_bytes(s.type)), k(s, pages * dtype_bytes(kv)),
          v(s, pages * dtype_bytes(kv))
    {
    }
    void into(struct linear_args *l, struct rope_kv_args *a) const
    {
        l->out = a->qkv = qkv.p;
        a->kv.k = k.p;
        a->kv.v = v.p;
    }
};

// q of each row.
floats only_q(const sides &s, const heads_out &o, const struct rope_kv_args &a)
{
    floats all = o.qkv.read(s.type), q;
    size_t row = (a.n_heads + 2 * a.kv.n_kv_heads) * a.kv.head_dim, n = a.n_heads * a.kv.head_dim;
    for (size_t i = 0; i < all.size(); i++)
        if (i % row < n)
            q.push_back(all[i]);
    return q;
}

struct rope_kv_args heads_of(struct random *r, unsigned round, const sides &s, const test_batch &t)
{
    static const uint32_t dims[] = {64, 16, 80, 24, 40, 128, 8, 20};
    struct rope_kv_args a = {};
    a.batch = &t.b;
    a.n_heads = 1 + random_below(r, 4);
    a.kv.dtype = round % 5 == 4 ? DTYPE_F32 : s.type;
    a.kv.n_kv_heads = 1 + random_below(r, 2);
    a.kv.head_dim = dims[round % 8];
    a.kv.block_tokens = 8;
    a.kv.group = round % 2;
    a.rotary_dim = round % 4 == 3 ? a.kv.head_dim / 4 * 2 : a.kv.head_dim;
    a.interleaved = round % 5 == 3;
    a.attention_factor = 1.0f;
    a.norm_eps = 1e-6f;
    return a;
}

void norm_linear_rope_is_the_three(void **)
{
    struct random r = {301};
    for (unsigned round = 0; round < 48; round++) {
        emu_seed(round);
        sides s(types[round % 8 == 7 ? 2 : round % 2]);
        test_batch t(&r, {1 + random_below(&r, 3), round % 3 ? 2u : 5u, 40, 8, 10, false});
        struct rope_kv_args a = heads_of(&r, round, s, t);
        uint32_t k = some_k(&r, round), dim = a.kv.head_dim;
        uint32_t n = (a.n_heads + 2 * a.kv.n_kv_heads) * dim, rows = t.b.n_rows;
        size_t pages = static_cast<size_t>(t.n_pages) * a.kv.n_kv_heads * 8 * dim;
        stream x(s, &r, rows, k, round);
        both_weights w(s, draw(&r, n * k, 0.2f, s.type), n, k, s.type);
        both_weights bias(s, draw(&r, n, 1, s.type), 1, n, s.type);
        both_weights head(s, draw(&r, dim, 1, DTYPE_F32), 1, dim, s.type);
        floats turns;
        for (uint32_t i = 0; i < a.rotary_dim / 2; i++)
            turns.push_back(
                std::pow(100.0f, -static_cast<float>(i) / static_cast<float>(a.rotary_dim)));
        on_device inv_freq(s, turns, DTYPE_F32);
        a.inv_freq = round % 9 != 8 ? static_cast<const float *>(inv_freq.p) : nullptr;
        a.q_norm = a.k_norm = round % 4 == 1 ? head.emu : nullptr;
        struct linear_args l = {};
        l.n_rows = rows;
        l.x = x.normed.p;
        l.x_stride = k;
        l.w = w.emu;
        l.bias = round % 3 == 2 ? bias.emu : nullptr;
        l.out_stride = n;
        heads_out apart(s, rows, n, pages, a.kv.dtype), fused(s, rows, n, pages, a.kv.dtype);
        s.emu->batch_begin(s.emu_device, &t.b);
        counter count(s);
        s.emu->norm(s.emu_device, &x.norm);
        apart.into(&l, &a);
        s.emu->linear(s.emu_device, &l);
        s.emu->rope_kv(s.emu_device, &a);
        count.since();
        bool given = round % 6 == 2; // the norm is there already
        fused.into(&l, &a);
        s.emu->norm_linear_rope(s.emu_device, given ? nullptr : &x.norm, &l, &a);
        assert_launches(given ? 2 : 3, count.since(), s.type != DTYPE_F32);
        assert_equal("q", only_q(s, apart, a), only_q(s, fused, a));
        assert_equal("pages of k", apart.k.read(a.kv.dtype), fused.k.read(a.kv.dtype));
        assert_equal("pages of v", apart.v.read(a.kv.dtype), fused.v.read(a.kv.dtype));
    }
}

void norm_linear_act_is_the_three(void **)
{
    struct random r = {302};
    for (unsigned round = 0; round < 36; round++) {
        emu_seed(round);
        sides s(types[round % 8 == 7 ? 2 : round % 2]);
        bool gated = round % 3 != 2;
        uint32_t rows = 1 + random_below(&r, 16), k = some_k(&r, round);
        uint32_t dim = 1 + random_below(&r, 70), n = gated ? 2 * dim : dim;
        stream x(s, &r, rows, k, round);
        both_weights w(s, draw(&r, n * k, 0.2f, s.type), n, k, s.type);
        both_weights bias(s, draw(&r, n, 1, s.type), 1, n, s.type);
        on_device between(s, rows * n * dtype_bytes(s.type));
        on_device apart(s, rows * dim * dtype_bytes(s.type));
        on_device fused(s, rows * dim * dtype_bytes(s.type));
        struct linear_args l = {};
        l.n_rows = rows;
        l.x = x.normed.p;
        l.x_stride = k;
        l.w = w.emu;
        l.bias = round % 4 == 2 ? bias.emu : nullptr;
        l.out = between.p;
        l.out_stride = n;
        struct act_args act = {
            rows, dim, gated, static_cast<enum act_kind>(round % ACT_COUNT), between.p, apart.p};
        s.emu->norm(s.emu_device, &x.norm);
        s.emu->linear(s.emu_device, &l);
        s.emu->act(s.emu_device, &act);
        counter count(s);
        act.out = fused.p;
        s.emu->norm_linear_act(s.emu_device, &x.norm, &l, &act);
        assert_launches(gated ? 3 : 2, count.since(), s.type != DTYPE_F32);
        assert_equal("mlp", apart.read(s.type), fused.read(s.type));
    }
}

// In every kernel of linear.
void linear_add_is_the_two(void **)
{
    struct random r = {303};
    for (unsigned round = 0; round < 36; round++) {
        emu_seed(round);
        sides s(types[round % 3]);
        uint32_t rows = round % 6 == 5 ? 70 : 1 + random_below(&r, round % 3 ? 40 : 16);
        uint32_t k = round % 5 == 4 ? 1 + random_below(&r, 90) : some_k(&r, round);
        uint32_t n = 1 + random_below(&r, 80);
        both_weights w(s, draw(&r, n * k, 0.2f, s.type), n, k, s.type);
        both_weights bias(s, draw(&r, n, 1, s.type), 1, n, s.type);
        on_device x(s, draw(&r, rows * k, 1, s.type), s.type);
        on_device out(s, rows * n * dtype_bytes(s.type));
        floats before = draw(&r, rows * n, 2, s.type);
        enum dtype type = stream_type(round, s.type);
        on_device apart(s, before, type), fused(s, before, type);
        on_device add_bias(s, draw(&r, n, 1, DTYPE_F32), DTYPE_F32);
        struct linear_args l = {};
        l.n_rows = rows;
        l.x = x.p;
        l.x_stride = k;
        l.w = w.emu;
        l.bias = round % 4 == 2 ? bias.emu : nullptr;
        l.out = out.p;
        l.out_stride = n;
        struct norm_args a = {};
        a.n_rows = rows;
        a.dim = n;
        a.x = out.p;
        a.x_scale = round % 4 == 3 ? 0.22f : 1.0f;
        a.x_bias = round % 3 == 1 ? static_cast<const float *>(add_bias.p) : nullptr;
        a.residual_type = type;
        a.out_type = s.type;
        a.residual = apart.p;
        s.emu->linear(s.emu_device, &l);
        s.emu->norm(s.emu_device, &a);
        counter count(s);
        a.residual = fused.p;
        s.emu->linear_add(s.emu_device, &l, &a);
        assert_launches(2, count.since(), s.type == DTYPE_F32 || k % 8 == 0); // else x is packed
        assert_equal("residual", apart.read(type), fused.read(type));
    }
}

// Each reads at once what the one before it writes at last: here they may overlap, there not.
void neighbours_may_overlap(void **)
{
    struct random r = {304};
    for (unsigned round = 0; round < 12; round++) {
        emu_seed(round);
        sides s(types[round % 2]);
        uint32_t rows = 1 + random_below(&r, 16), k = 8 * (1 + random_below(&r, 20));
        uint32_t dim = 8 * (1 + random_below(&r, 12));
        stream x(s, &r, rows, k, round);
        both_weights in(s, draw(&r, 2 * dim * k, 0.2f, s.type), 2 * dim, k, s.type);
        both_weights down(s, draw(&r, k * dim, 0.2f, s.type), k, dim, s.type);
        on_device mlp(s, rows * dim * dtype_bytes(s.type)), out(s, rows * k * dtype_bytes(s.type));
        struct linear_args l = {}, back = {};
        l.n_rows = back.n_rows = rows;
        l.x = x.normed.p;
        l.x_stride = back.out_stride = k;
        l.w = in.emu;
        l.out_stride = 2 * dim;
        back.x = mlp.p;
        back.x_stride = dim;
        back.w = down.emu;
        back.out = out.p;
        struct act_args act = {rows, dim, true, ACT_SILU, nullptr, mlp.p};
        struct norm_args add = x.norm;
        add.x = out.p;
        add.x_scale = 1;
        add.out = nullptr;
        floats before = x.residual.read(x.norm.residual_type), result[2];
        for (floats &f : result) {
            on_device stream_of(s, before, x.norm.residual_type);
            x.norm.residual = add.residual = stream_of.p;
            for (unsigned i = 0; i < 3; i++) {
                s.emu->norm_linear_act(s.emu_device, &x.norm, &l, &act);
                if (&f == result)
                    s.sync();
                s.emu->linear_add(s.emu_device, &back, &add);
                if (&f == result)
                    s.sync();
            }
            f = stream_of.read(x.norm.residual_type);
        }
        assert_equal("residual", result[0], result[1]);
    }
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_linear_rope_is_the_three),
        cmocka_unit_test(norm_linear_act_is_the_three),
        cmocka_unit_test(linear_add_is_the_two),
        cmocka_unit_test(neighbours_may_overlap),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
