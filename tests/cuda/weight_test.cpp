// SPDX-License-Identifier: Apache-2.0
// Weights that are drawn on the device have the bits of those that the CPU draws.
#include "tests/cuda/support.hpp"

extern "C" {
#include "model/random_weights.h"
}

#include <algorithm>
#include <string>

namespace
{

struct drawn_part {
    std::string name;
    struct random_weights_args args; // without name and out
};

// Rows of a weight of the device, which an embedding copies out.
floats rows_of(const sides &s, const struct weight *w, uint32_t n, uint32_t k)
{
    std::vector<uint32_t> ids(n), positions(n), table(1);
    for (uint32_t i = 0; i < n; i++)
        ids[i] = i;
    struct batch_seq seq = {};
    seq.n_rows = n;
    seq.blocks[0] = seq.blocks[1] = table.data();
    struct batch b = {};
    b.n_rows = n;
    b.n_seqs = 1;
    b.token_ids = ids.data();
    b.positions = positions.data();
    b.seq = &seq;
    on_device out(s, static_cast<size_t>(n) * k * dtype_bytes(s.type));
    struct embed_args a = {};
    a.batch = &b;
    a.table = w;
    a.scale = 1;
    a.out_type = s.type;
    a.out = out.p;
    s.emu->batch_begin(s.emu_device, &b);
    s.emu->embed(s.emu_device, &a);
    return out.read(s.type);
}

std::vector<drawn_part> draw_parts(struct random *r, enum dtype t, uint32_t k)
{
    std::vector<drawn_part> parts(1 + random_below(r, 5));
    uint32_t column = random_below(r, 1000);
    for (drawn_part &p : parts) {
        p.name = "model.layers." + std::to_string(random_below(r, 100)) + ".weight";
        p.args = {};
        p.args.seed = random_below(r, 3);
        p.args.dtype = t;
        p.args.row_begin = random_below(r, 2) ? random_below(r, 100000) : 0;
        p.args.n_rows = 1 + random_below(r, 20);
        p.args.column_begin = column;
        p.args.n_columns = k;
        p.args.center = random_below(r, 2) ? 0.0f : 1.0f;
        p.args.spread = 0.01f + static_cast<float>(random_below(r, 100)) / 50;
    }
    return parts;
}

void draws_are_those_of_the_cpu(void **)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    struct random r = {171};
    for (unsigned round = 0; round < 45; round++) {
        emu_seed(round);
        enum dtype t = types[round % 3];
        sides s(t);
        uint32_t k = 1 + random_below(&r, round % 5 ? 70 : 600), n = 0;
        std::vector<drawn_part> parts = draw_parts(&r, t, k);
        std::vector<struct weight_draw_part> asked;
        std::vector<uint8_t> expected;
        for (drawn_part &p : parts) {
            size_t before = expected.size();
            expected.resize(before + static_cast<size_t>(p.args.n_rows) * k * dtype_bytes(t));
            p.args.name = p.name.c_str();
            p.args.out = expected.data() + before;
            random_weights_fill(&p.args);
            asked.push_back({random_weights_key(p.args.seed, p.args.name), p.args.row_begin,
                p.args.column_begin, p.args.n_rows, p.args.center, p.args.spread});
            n += p.args.n_rows;
        }
        struct weight_draw_args a = {};
        a.dtype = t;
        a.n = n;
        a.k = k;
        a.n_parts = static_cast<uint32_t>(asked.size());
        a.part = asked.data();
        struct weight *w = nullptr;
        struct error err = {};
        assert_int_equal(s.emu->weight_draw(s.emu_device, &a, &w, &err), STATUS_OK);
        std::fill(asked.begin(), asked.end(), weight_draw_part()); // has been read
        floats got = rows_of(s, w, n, k), want(got.size());
        for (size_t i = 0; i < want.size(); i++)
            want[i] = static_cast<float>(ops_element(expected.data(), t, i));
        assert_equal("drawn weight", want, got);
        s.emu->weight_free(s.emu_device, w);
    }
}

// Products read rows to the next multiple of 16 bytes: what lies behind K has to be zeros.
void nothing_lies_behind_the_columns(void **)
{
    sides s(DTYPE_BF16);
    struct weight_draw_part part = {7, 0, 0, 16, 0, 1};
    struct weight_draw_args a = {};
    a.dtype = DTYPE_BF16;
    a.n = 16;
    a.k = 13;
    a.n_parts = 1;
    a.part = &part;
    struct weight *w = nullptr;
    struct error err = {};
    assert_int_equal(s.emu->weight_draw(s.emu_device, &a, &w, &err), STATUS_OK);
    floats x(3 * 16, 1.0f), from = rows_of(s, w, 16, 13);
    on_device there(s, x, DTYPE_BF16), out(s, 3 * 16 * 4);
    struct linear_args l = {};
    l.n_rows = 3;
    l.x = there.p; // rows of 16 ones: the last three must meet zeros
    l.x_stride = 16;
    l.w = w;
    l.out = out.p;
    l.out_stride = 16;
    l.out_f32 = true;
    s.emu->linear(s.emu_device, &l);
    floats got = out.read(DTYPE_F32), want(got.size());
    for (size_t i = 0; i < want.size(); i++)
        for (size_t c = 0; c < 13; c++)
            want[i] += from[i % 16 * 13 + c];
    assert_close("product", want, got, DTYPE_F32, 13);
    s.emu->weight_free(s.emu_device, w);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_are_those_of_the_cpu),
        cmocka_unit_test(nothing_lies_behind_the_columns),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
