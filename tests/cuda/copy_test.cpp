// SPDX-License-Identifier: Apache-2.0
// Memory, copies, weights, gathered rows and copied pages on the emulated device.
#include "tests/cuda/support.hpp"

#include <cstring>

namespace
{

void memory_begins_as_zeros(void **)
{
    sides s(DTYPE_F32);
    void *p = s.emu->mem_take(s.emu_device, 1000);
    std::vector<uint8_t> got(1000, 1);
    s.emu->copy_out(s.emu_device, got.data(), p, 1000);
    s.sync();
    for (uint8_t b : got)
        assert_int_equal(b, 0);
    assert_int_equal(reinterpret_cast<uintptr_t>(p) % 256, 0);
    s.emu->mem_give(s.emu_device, p, 1000);
}

// The source may be changed at once, and copies larger than a piece of staging arrive whole.
void a_copy_has_read_its_source(void **)
{
    sides s(DTYPE_F32);
    struct random r = {91};
    std::vector<uint8_t> from(9 << 20);
    for (uint8_t &b : from)
        b = static_cast<uint8_t>(random_u32(&r));
    std::vector<uint8_t> expected = from;
    on_device to(s, from.size());
    s.emu->copy_in(s.emu_device, to.p, from.data(), from.size());
    std::memset(from.data(), 0, from.size());
    assert_true(to.bytes_read() == expected);
}

// A weight as embed sees it: row by row.
void weights_are_packed(void **)
{
    struct random r = {92};
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (unsigned round = 0; round < 12; round++) {
        sides s(types[round % 3]);
        uint32_t n = 4 + random_below(&r, 30), k = round == 0 ? 400000 : 1 + random_below(&r, 70);
        floats from = draw(&r, static_cast<size_t>(n) * k, 1, s.type);
        both_weights w(s, from, n, k, s.type, 1 + round % 4);
        std::vector<uint32_t> ids(n);
        for (uint32_t i = 0; i < n; i++)
            ids[i] = i;
        struct batch b = {};
        b.n_rows = n;
        b.token_ids = ids.data();
        struct embed_args a = {};
        on_device out(s, from.size() * dtype_bytes(s.type));
        a.batch = &b;
        a.table = w.emu;
        a.scale = 1;
        a.out_type = s.type;
        a.out = out.p;
        s.emu->batch_begin(s.emu_device, &b);
        s.emu->embed(s.emu_device, &a);
        assert_equal("weight", from, out.read(s.type));
    }
}

void bad_weights_are_refused(void **)
{
    sides s(DTYPE_F32);
    float x[4] = {};
    struct weight_source source = {};
    source.dtype = DTYPE_F32;
    source.n = 2;
    source.k = 2;
    source.n_parts = 1;
    source.part[0] = {x, 8, 1};
    struct weight *w = nullptr;
    struct error err = {};
    assert_int_equal(s.emu->weight_make(s.emu_device, &source, &w, &err), STATUS_INVALID);
    source.part[0] = {x, 4, 2};
    assert_int_equal(s.emu->weight_make(s.emu_device, &source, &w, &err), STATUS_INVALID);
    source.part[0] = {x, 8, 2};
    source.dtype = DTYPE_I32;
    assert_int_equal(s.emu->weight_make(s.emu_device, &source, &w, &err), STATUS_UNSUPPORTED);
    assert_null(w);
}

void rows_are_gathered(void **)
{
    struct random r = {93};
    for (unsigned round = 0; round < 20; round++) {
        emu_seed(round);
        sides s(round % 2 ? DTYPE_BF16 : DTYPE_F32);
        test_batch t(&r, {3, 6, 20, 16, 10, false});
        uint32_t dim = round % 3 ? 1 + random_below(&r, 50) : 8 * (1 + random_below(&r, 90));
        enum dtype type = round % 5 > 2 ? DTYPE_F32 : s.type;
        floats x = draw(&r, t.b.n_rows * dim, 1, type), expected;
        std::vector<uint32_t> rows = t.logit_rows;
        if (round % 4 > 1) {
            rows.clear();
            for (unsigned i = 0; i < 1 + round; i++)
                rows.push_back(random_below(&r, t.b.n_rows));
        }
        for (uint32_t row : rows)
            expected.insert(expected.end(), x.begin() + row * dim, x.begin() + (row + 1) * dim);
        on_device in(s, x, type), out(s, expected.size() * dtype_bytes(type));
        struct gather_args a = {};
        a.batch = &t.b;
        a.n_rows = static_cast<uint32_t>(rows.size());
        a.dim = dim;
        a.type = type;
        a.row_ids = round % 4 > 1 ? rows.data() : nullptr;
        a.in = in.p;
        a.out = out.p;
        s.emu->batch_begin(s.emu_device, &t.b);
        s.emu->gather(s.emu_device, &a);
        std::fill(rows.begin(), rows.end(), 0); // has been read
        assert_equal("gather", expected, out.read(type));
    }
}

// Columns of a rank go beside those of the others, which stay.
void columns_are_placed(void **)
{
    struct random r = {96};
    sides s(DTYPE_BF16);
    for (unsigned round = 0; round < 8; round++) {
        emu_seed(round);
        uint32_t n_rows = random_below(&r, 5), stride = 1 + random_below(&r, 90);
        uint32_t n = random_below(&r, stride + 1), first = random_below(&r, stride - n + 1);
        floats part = draw(&r, n_rows * n, 1, DTYPE_F32);
        floats expected = draw(&r, n_rows * stride, 1, DTYPE_F32);
        on_device in(s, part, DTYPE_F32), out(s, expected, DTYPE_F32);
        for (uint32_t row = 0; row < n_rows; row++)
            for (uint32_t i = 0; i < n; i++)
                expected[row * stride + first + i] = part[row * n + i];
        struct place_args a = {n_rows, n, static_cast<const float *>(in.p),
            static_cast<float *>(out.p) + first, stride};
        s.emu->place(s.emu_device, &a);
        assert_equal("place", expected, out.read(DTYPE_F32));
    }
}

// Pairs may form chains, repeat a target and name the same page twice; layers may differ in shape.
void pages_are_copied_in_order(void **)
{
    enum { LAYERS = 3, PAGES = 9 };
    struct random r = {94};
    for (unsigned round = 0; round < 30; round++) {
        emu_seed(round);
        sides s(DTYPE_F32);
        struct kv_layer cpu[LAYERS] = {}, emu[LAYERS] = {};
        std::vector<floats> on_cpu;
        std::vector<std::unique_ptr<on_device>> there;
        for (unsigned i = 0; i < LAYERS; i++) {
            cpu[i].dtype = DTYPE_F32;
            cpu[i].n_kv_heads = round % 3 == 0 ? 1 + i : 2;
            cpu[i].head_dim = round % 2 ? 4 : 3;
            cpu[i].block_tokens = 8;
            cpu[i].group = round % 4 == 3 ? i % 2 : 0;
            size_t n = PAGES * cpu[i].n_kv_heads * cpu[i].head_dim * 8;
            for (unsigned kv = 0; kv < 2; kv++) {
                on_cpu.push_back(draw(&r, n, 1, DTYPE_F32));
                there.emplace_back(new on_device(s, on_cpu.back(), DTYPE_F32));
            }
            emu[i] = cpu[i];
            emu[i].k = there[2 * i]->p;
            emu[i].v = there[2 * i + 1]->p;
        }
        for (unsigned i = 0; i < LAYERS; i++) {
            cpu[i].k = on_cpu[2 * i].data();
            cpu[i].v = on_cpu[2 * i + 1].data();
        }
        uint32_t src[12], dst[12];
        for (unsigned i = 0; i < 12; i++) {
            src[i] = random_below(&r, PAGES);
            dst[i] = random_below(&r, PAGES);
        }
        struct block_copy_args a = {};
        a.n_layers = LAYERS;
        a.n_pairs = round % 5 == 4 ? 0 : 12;
        a.src = src;
        a.dst = dst;
        a.layers = cpu;
        s.cpu->block_copy(s.cpu_device, &a);
        a.layers = emu;
        s.emu->block_copy(s.emu_device, &a);
        for (unsigned i = 0; i < 2 * LAYERS; i++)
            assert_equal("pages", on_cpu[i], there[i]->read(DTYPE_F32));
    }
}

// A step's numbers follow one another: what an op of the last step still reads is not overwritten.
void batches_follow_one_another(void **)
{
    struct random r = {95};
    sides s(DTYPE_F32);
    uint32_t dim = 4, vocab = 300;
    floats table = draw(&r, vocab * dim, 1, DTYPE_F32);
    both_weights w(s, table, vocab, dim, DTYPE_F32);
    std::vector<std::unique_ptr<on_device>> outs;
    std::vector<floats> expected;
    for (unsigned step = 0; step < 12; step++) {
        emu_seed(step);
        test_batch t(&r, {1 + step, 20, 600, 8, vocab, true});
        outs.emplace_back(new on_device(s, t.b.n_rows * dim * 4));
        struct embed_args a = {};
        a.batch = &t.b;
        a.table = w.emu;
        a.scale = 1;
        a.out = outs.back()->p;
        s.emu->batch_begin(s.emu_device, &t.b);
        s.emu->embed(s.emu_device, &a);
        expected.emplace_back();
        for (uint32_t id : t.ids)
            expected.back().insert(
                expected.back().end(), table.begin() + id * dim, table.begin() + (id + 1) * dim);
    }
    for (unsigned step = 0; step < 12; step++)
        assert_equal("step", expected[step], outs[step]->read(DTYPE_F32));
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_begins_as_zeros),
        cmocka_unit_test(a_copy_has_read_its_source),
        cmocka_unit_test(weights_are_packed),
        cmocka_unit_test(bad_weights_are_refused),
        cmocka_unit_test(rows_are_gathered),
        cmocka_unit_test(columns_are_placed),
        cmocka_unit_test(pages_are_copied_in_order),
        cmocka_unit_test(batches_follow_one_another),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
