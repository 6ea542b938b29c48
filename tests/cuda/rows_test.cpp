// SPDX-License-Identifier: Apache-2.0
// Ops that work on rows one by one, emulated, against the CPU's: embed, norm, act, logit_scale.
#include "tests/cuda/support.hpp"

namespace
{

const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

void embed_matches(void **)
{
    struct random r = {71};
    for (unsigned round = 0; round < 24; round++) {
        emu_seed(round);
        sides s(types[round % 3]);
        enum dtype type = round % 5 > 2 ? s.type : DTYPE_F32; // of the result
        uint32_t dim = 1 + random_below(&r, round % 2 ? 300 : 20), vocab = 40;
        uint32_t begin = random_below(&r, 30), count = 1 + random_below(&r, 20);
        test_batch t(&r, {1 + random_below(&r, 4), 6, 40, 16, vocab, true});
        both_weights table(s, draw(&r, count * dim, 1, s.type), count, dim, s.type);
        both_weights learned(s, draw(&r, 100 * dim, 1, s.type), 100, dim, types[round / 3 % 3]);
        struct embed_args a = {};
        a.batch = &t.b;
        a.vocab_begin = begin;
        a.scale = round % 4 == 3 ? 5.5f : 1.0f;
        a.position_offset = 2;
        floats expected(t.b.n_rows * dim);
        a.table = table.cpu;
        a.positions = round % 2 ? learned.cpu : nullptr;
        a.out = expected.data();
        s.cpu->embed(s.cpu_device, &a);
        on_device out(s, expected.size() * dtype_bytes(type));
        a.out_type = type;
        a.table = table.emu;
        a.positions = round % 2 ? learned.emu : nullptr;
        a.out = out.p;
        s.emu->batch_begin(s.emu_device, &t.b);
        s.emu->embed(s.emu_device, &a);
        assert_close("embed", expected, out.read(type), type);
        // Positions alone, to what is there.
        a.batch = &t.b;
        a.table = nullptr;
        a.positions = learned.cpu;
        a.out_type = DTYPE_F32;
        expected = out.read(type);
        a.out = expected.data();
        s.cpu->embed(s.cpu_device, &a);
        a.positions = learned.emu;
        a.out_type = type;
        a.out = out.p;
        s.emu->embed(s.emu_device, &a);
        assert_close("positions", expected, out.read(type), type);
    }
}

struct norm_case {
    uint32_t rows, dim;
    floats x, x_bias, residual;
    bool adds, in_place;
};

// Runs both and compares the residual and the norm; `a` says of which types they are.
void norm_run(
    const sides &s, norm_case &c, struct norm_args a, const both_weights *w, const both_weights *b)
{
    floats residual = c.residual, out(c.residual.size());
    on_device x(s, c.x, s.type), bias(s, c.x_bias, DTYPE_F32),
        there(s, c.residual, a.residual_type);
    on_device written(s, c.residual.size() * dtype_bytes(a.out_type));
    struct norm_args cpu = a, emu = a;
    cpu.residual_type = cpu.out_type = DTYPE_F32;
    cpu.copy = false;
    cpu.residual = residual.data();
    cpu.out = out.data();
    emu.residual = there.p;
    emu.out = c.in_place ? there.p : written.p;
    if (c.adds) {
        cpu.x = c.x.data();
        emu.x = x.p;
        cpu.x_bias = a.x_bias != nullptr ? c.x_bias.data() : nullptr;
        emu.x_bias = a.x_bias != nullptr ? static_cast<const float *>(bias.p) : nullptr;
    } else {
        cpu.x_bias = emu.x_bias = nullptr;
    }
    cpu.weight = w != nullptr ? w->cpu : nullptr;
    emu.weight = w != nullptr ? w->emu : nullptr;
    cpu.bias = b != nullptr ? b->cpu : nullptr;
    emu.bias = b != nullptr ? b->emu : nullptr;
    // The norm is that of the residual as it is stored.
    cpu.out = nullptr;
    s.cpu->norm(s.cpu_device, &cpu);
    residual = rounded(residual, a.residual_type);
    cpu.x = nullptr;
    cpu.x_bias = nullptr;
    cpu.out = out.data();
    cpu.residual = residual.data();
    cpu.copy = a.copy;
    s.cpu->norm(s.cpu_device, &cpu);
    s.emu->norm(s.emu_device, &emu);
    floats kept = there.read(a.residual_type),
           got = (c.in_place ? there : written).read(a.out_type);
    if (!c.in_place)
        assert_close("residual", residual, kept, a.residual_type, 1);
    if (a.copy)
        assert_equal("copy", rounded(kept, a.out_type), got);
    else
        assert_close("norm", out, got, a.out_type, 2);
}

void norm_matches(void **)
{
    // 8192 and 5001 go beyond what threads keep in registers, in packs and one by one.
    static const uint32_t dims[] = {1, 7, 8, 33, 64, 130, 256, 2560, 5001, 20480};
    struct random r = {72};
    for (unsigned round = 0; round < 40; round++) {
        emu_seed(round);
        sides s(types[round % 3]);
        norm_case c = {};
        c.dim = dims[round % 10];
        c.rows = c.dim > 1000 ? 1 : random_below(&r, 4);
        c.adds = round % 4 != 1;
        c.in_place = !c.adds && round % 8 == 5;
        c.x = draw(&r, c.rows * c.dim, 1, s.type);
        c.x_bias = draw(&r, c.dim, 1, DTYPE_F32);
        struct norm_args a = {};
        a.residual_type = round % 4 == 2 ? s.type : DTYPE_F32;
        a.out_type =
            a.residual_type == DTYPE_F32 && (c.in_place || round % 7 == 1) ? DTYPE_F32 : s.type;
        a.copy = round % 8 == 3;
        c.residual = draw(&r, c.rows * c.dim, 1, a.residual_type);
        both_weights w(s, draw(&r, c.dim, 1, s.type), 1, c.dim, types[round / 3 % 3]);
        both_weights b(s, draw(&r, c.dim, 1, s.type), 1, c.dim, types[round / 2 % 3]);
        a.n_rows = c.rows;
        a.dim = c.dim;
        a.layer = round % 5 > 2 && c.dim > 1;
        a.eps = 1e-5f;
        a.weight_offset = round % 7 == 6 ? 1.0f : 0.0f;
        a.x_scale = round % 6 == 5 ? 0.25f : 1.0f;
        a.x_bias = round % 2 ? c.x_bias.data() : nullptr;
        norm_run(s, c, a, a.copy || round % 9 == 8 ? nullptr : &w,
            !a.copy && round % 3 == 2 ? &b : nullptr);
    }
}

void act_matches(void **)
{
    struct random r = {73};
    for (unsigned round = 0; round < 30; round++) {
        emu_seed(round);
        sides s(types[round % 3]);
        struct act_args a = {};
        a.n_rows = random_below(&r, 4);
        a.dim = round % 2 ? 8 * (1 + random_below(&r, 40)) : 1 + random_below(&r, 300);
        a.gated = round % 4 < 2;
        a.kind = static_cast<enum act_kind>(round % ACT_COUNT);
        floats x = draw(&r, a.n_rows * a.dim * (a.gated ? 2 : 1), 3, s.type);
        floats expected(a.n_rows * a.dim);
        on_device in(s, x, s.type), out(s, expected.size() * dtype_bytes(s.type));
        a.x = x.data();
        a.out = expected.data();
        s.cpu->act(s.cpu_device, &a);
        a.x = in.p;
        a.out = out.p;
        s.emu->act(s.emu_device, &a);
        if (s.type == DTYPE_F32)
            assert_equal("act", expected, out.read(s.type));
        else
            assert_close("act", expected, out.read(s.type), s.type);
    }
}

void logits_are_scaled(void **)
{
    struct random r = {74};
    for (unsigned round = 0; round < 8; round++) {
        sides s(DTYPE_BF16);
        struct logit_scale_args a = {};
        a.n_rows = random_below(&r, 3);
        a.n = 1 + random_below(&r, 700);
        a.scale = round % 2 ? 0.3f : 1.0f;
        a.softcap = round % 4 > 1 ? 30.0f : 0.0f;
        floats logits = draw(&r, a.n_rows * a.n, 20, DTYPE_F32);
        on_device there(s, logits, DTYPE_F32);
        a.logits = logits.data();
        s.cpu->logit_scale(s.cpu_device, &a);
        a.logits = static_cast<float *>(there.p);
        s.emu->logit_scale(s.emu_device, &a);
        assert_equal("logit_scale", logits, there.read(DTYPE_F32));
    }
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embed_matches),
        cmocka_unit_test(norm_matches),
        cmocka_unit_test(act_matches),
        cmocka_unit_test(logits_are_scaled),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
