// SPDX-License-Identifier: Apache-2.0
// Mixtures of experts, emulated, against the CPU's: random shapes, expert without rows, one row,
// all rows to one expert, many rows, odd dimensions, weights of other types, parts of the experts
// on each rank; the choices of equal logits; a row's bits alone and among others.
#include "tests/cuda/support.hpp"

#include "kernels/cuda/device.cuh"

#include <cmath>
#include <cstring>

namespace
{

const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

struct shape {
    uint32_t hidden, ffn, shared_ffn, n_experts, n_used;
    bool gated, renormalize, shared_gate;
    enum act_kind kind;
    enum dtype other; // type of every third expert's weights; that of the activations: of all
};

// A mixture with the same weights on both sides.
struct mixture {
    const sides &s;
    shape p;
    std::vector<std::unique_ptr<both_weights>> in, down;
    std::unique_ptr<both_weights> router, shared_in, shared_down, shared_gate;

    mixture(const sides &sides_, struct random *r, const shape &want) : s(sides_), p(want)
    {
        uint32_t up = p.gated ? 2 : 1;
        router = make(r, p.n_experts, p.hidden, s.type, 1);
        for (uint32_t e = 0; e < p.n_experts; e++) {
            enum dtype t = e % 3 == 2 ? p.other : s.type;
            in.push_back(make(r, up * p.ffn, p.hidden, t, up));
            down.push_back(make(r, p.hidden, p.ffn, t, 1));
        }
        if (p.shared_ffn > 0) {
            shared_in = make(r, up * p.shared_ffn, p.hidden, s.type, up);
            shared_down = make(r, p.hidden, p.shared_ffn, s.type, 1);
        }
        if (p.shared_gate)
            shared_gate = make(r, 1, p.hidden, s.type, 1);
    }

    std::unique_ptr<both_weights> make(
        struct random *r, uint32_t n, uint32_t k, enum dtype t, uint32_t parts)
    {
        floats w = draw(r, n * k, 1.5f / std::sqrt(static_cast<float>(k)), t);
        return std::make_unique<both_weights>(s, w, n, k, t, parts);
    }

    struct experts_args args(uint32_t n_rows, uint32_t begin, uint32_t count) const
    {
        struct experts_args a = {};
        a.n_rows = n_rows;
        a.hidden_dim = p.hidden;
        a.n_experts = p.n_experts;
        a.n_used = p.n_used;
        a.renormalize = p.renormalize;
        a.gated = p.gated;
        a.kind = p.kind;
        a.begin = begin;
        a.count = count;
        a.ffn = p.ffn;
        a.shared_ffn = p.shared_ffn;
        return a;
    }

    uint32_t widest() const
    {
        return p.ffn > p.shared_ffn ? p.ffn : p.shared_ffn;
    }
};

struct outcome {
    floats out;
    std::vector<uint32_t> chosen;
};

outcome on_cpu(const mixture &m, const floats &x, uint32_t n_rows, uint32_t begin, uint32_t count)
{
    struct experts_args a = m.args(n_rows, begin, count);
    std::vector<struct weight *> in, down;
    for (uint32_t e = begin; e < begin + count; e++) {
        in.push_back(m.in[e]->cpu);
        down.push_back(m.down[e]->cpu);
    }
    floats mlp_in(n_rows * 2 * m.widest()), mlp(n_rows * m.widest()), part(n_rows * m.p.hidden);
    floats routes(kernels_experts_bytes(n_rows, m.p.n_experts, m.p.n_used) / sizeof(float));
    outcome o = {floats(n_rows * m.p.hidden), {}};
    a.x = x.data();
    a.router = m.router->cpu;
    a.in = in.data();
    a.down = down.data();
    a.shared_in = m.shared_in ? m.shared_in->cpu : nullptr;
    a.shared_down = m.shared_down ? m.shared_down->cpu : nullptr;
    a.shared_gate = m.shared_gate ? m.shared_gate->cpu : nullptr;
    a.mlp_in = mlp_in.data();
    a.mlp = mlp.data();
    a.part = part.data();
    a.routes = routes.data();
    a.out = o.out.data();
    m.s.cpu->experts(m.s.cpu_device, &a);
    o.chosen.resize(n_rows * m.p.n_used);
    std::memcpy(o.chosen.data(), routes.data(), 4 * o.chosen.size());
    return o;
}

outcome on_emu(const mixture &m, const floats &x, uint32_t n_rows, uint32_t begin, uint32_t count)
{
    const sides &s = m.s;
    size_t each = dtype_bytes(s.type);
    struct experts_args a = m.args(n_rows, begin, count);
    std::vector<struct weight *> in, down;
    for (uint32_t e = begin; e < begin + count; e++) {
        in.push_back(m.in[e]->emu);
        down.push_back(m.down[e]->emu);
    }
    on_device from(s, x, s.type), mlp_in(s, n_rows * 2 * m.widest() * each);
    on_device mlp(s, n_rows * m.widest() * each), part(s, n_rows * m.p.hidden * each);
    on_device out(s, n_rows * m.p.hidden * each);
    on_device routes(s, kernels_experts_bytes(n_rows, m.p.n_experts, m.p.n_used));
    a.x = from.p;
    a.router = m.router->emu;
    a.in = in.data();
    a.down = down.data();
    a.shared_in = m.shared_in ? m.shared_in->emu : nullptr;
    a.shared_down = m.shared_down ? m.shared_down->emu : nullptr;
    a.shared_gate = m.shared_gate ? m.shared_gate->emu : nullptr;
    a.mlp_in = mlp_in.p;
    a.mlp = mlp.p;
    a.part = part.p;
    a.routes = routes.p;
    a.out = out.p;
    s.emu->experts(s.emu_device, &a);
    outcome o = {out.read(s.type), std::vector<uint32_t>(n_rows * m.p.n_used)};
    std::memcpy(o.chosen.data(), routes.bytes_read().data(), 4 * o.chosen.size());
    return o;
}

// Sums of 16-bit numbers round where they are stored: the MLP's middle, and each expert's result.
void assert_near(const sides &s, const floats &expected, const floats &got)
{
    double unit = s.type == DTYPE_F32 ? 2e-6 : s.type == DTYPE_F16 ? 0x1p-10 : 0x1p-7, size = 0;
    for (float f : expected)
        size += static_cast<double>(f) * static_cast<double>(f);
    size = std::sqrt(size / static_cast<double>(expected.size() + 1));
    assert_int_equal(expected.size(), got.size());
    for (size_t i = 0; i < got.size(); i++) {
        double e = static_cast<double>(expected[i]), g = static_cast<double>(got[i]);
        if (!(std::fabs(g - e) <= 3 * unit * (std::fabs(e) + size + 1e-3)))
            fail_msg("experts: element %zu of %zu is %.9g, expected %.9g", i, got.size(), g, e);
    }
}

shape draw_shape(struct random *r, unsigned round, enum dtype type)
{
    shape p = {};
    uint32_t unit = random_below(r, 3) == 0 ? 1 : 8; // of dimensions
    p.hidden = unit * (1 + random_below(r, round % 5 == 0 ? 100 : 12));
    p.ffn = unit * (1 + random_below(r, round % 7 == 0 ? 60 : 9));
    p.shared_ffn = round % 2 ? unit * (1 + random_below(r, 9)) : 0;
    p.shared_gate = p.shared_ffn > 0 && round % 4 == 1;
    p.n_experts = 1 + random_below(r, round % 4 == 3 ? 70 : 9);
    p.n_used = 1 + random_below(r, p.n_experts < 6 ? p.n_experts : 6);
    p.gated = round % 8 != 6;
    p.renormalize = random_below(r, 2) == 1;
    p.kind = static_cast<enum act_kind>(round % ACT_COUNT);
    p.other = round % 6 == 5 ? types[round / 6 % 3] : type;
    return p;
}

// Rows that choose alike, since a choice between nearly equal logits is nobody's fault: a row is
// drawn again until the logits of the last choice and of the next one are apart.
floats draw_rows(struct random *r, const mixture &m, uint32_t n_rows)
{
    floats x;
    for (uint32_t row = 0; row < n_rows; row++) {
        floats one;
        for (unsigned tries = 0; tries < 50; tries++) {
            one = draw(r, m.p.hidden, 1, m.s.type);
            // Choices that a small change of the row leaves as they are.
            floats moved = one;
            for (float &f : moved)
                f *= 1.01f;
            moved[row % m.p.hidden] += 0.002f;
            if (on_cpu(m, one, 1, 0, m.p.n_experts).chosen ==
                on_cpu(m, moved, 1, 0, m.p.n_experts).chosen)
                break;
        }
        x.insert(x.end(), one.begin(), one.end());
    }
    return x;
}

void assert_chosen(const outcome &expected, const outcome &got)
{
    assert_int_equal(expected.chosen.size(), got.chosen.size());
    for (size_t i = 0; i < got.chosen.size(); i++)
        if (expected.chosen[i] != got.chosen[i])
            fail_msg("choice %zu is %u, expected %u", i, got.chosen[i], expected.chosen[i]);
}

void experts_match(void **)
{
    struct random r = {81};
    for (unsigned round = 0; round < 36; round++) {
        emu_seed(round);
        sides s(types[round % 3]);
        mixture m(s, &r, draw_shape(&r, round, s.type));
        uint32_t n_rows = round % 4 == 0 ? 1 : 1 + random_below(&r, 24);
        floats x = draw_rows(&r, m, n_rows);
        uint32_t n = m.p.n_experts, begin = random_below(&r, 3) == 0 ? random_below(&r, n) : 0;
        uint32_t count = begin > 0 ? 1 + random_below(&r, n - begin) : n;
        outcome cpu = on_cpu(m, x, n_rows, begin, count);
        outcome emu = on_emu(m, x, n_rows, begin, count);
        assert_chosen(cpu, emu);
        assert_near(s, cpu.out, emu.out);
    }
}

// Tiles of every height, full and with one row, and all rows to the same experts.
void many_rows_match(void **)
{
    static const uint32_t rows[] = {33, 65, 129, 150};
    struct random r = {82};
    for (unsigned round = 0; round < 12; round++) {
        emu_seed(round);
        sides s(types[round % 3]);
        shape p = {};
        p.hidden = 24;
        p.ffn = round % 2 ? 40 : 16;
        p.n_experts = round % 4 < 2 ? 2 : 5;
        p.n_used = 1 + round % 2;
        p.gated = round % 3 != 1;
        p.other = s.type;
        mixture m(s, &r, p);
        floats one = draw_rows(&r, m, 1), x;
        uint32_t n_rows = rows[round / 3];
        if (round % 4 == 0)
            for (uint32_t i = 0; i < n_rows; i++)
                x.insert(x.end(), one.begin(), one.end());
        else
            x = draw_rows(&r, m, n_rows);
        outcome cpu = on_cpu(m, x, n_rows, 0, p.n_experts);
        outcome emu = on_emu(m, x, n_rows, 0, p.n_experts);
        assert_chosen(cpu, emu);
        assert_near(s, cpu.out, emu.out);
    }
}

// A row's bits, whoever else is there; and whatever order blocks come in.
void rows_are_alone(void **)
{
    static const uint32_t prefix[] = {1, 2, 9, 20, 60};
    struct random r = {83};
    for (unsigned round = 0; round < 6; round++) {
        sides s(types[round % 3]);
        shape p = draw_shape(&r, 8 + round, s.type);
        p.hidden = round % 2 ? 600 : 72; // more than one segment of K
        p.n_experts = 1 + round / 2;     // one: tiles of 128 rows
        p.n_used = round < 2 ? 1 : 1 + round % 2;
        mixture m(s, &r, p);
        floats x = draw(&r, 140 * p.hidden, 1, s.type);
        outcome all = on_emu(m, x, 140, 0, p.n_experts);
        for (uint32_t n : prefix) {
            emu_seed(100 * round + n);
            uint32_t first = random_below(&r, 140 - n);
            floats some(x.begin() + first * p.hidden, x.begin() + (first + n) * p.hidden);
            outcome part = on_emu(m, some, n, 0, p.n_experts);
            floats expected(
                all.out.begin() + first * p.hidden, all.out.begin() + (first + n) * p.hidden);
            assert_equal("a row among others", expected, part.out);
        }
    }
}

// Where the workspace holds a few rows only, they come in rounds: the same bits.
void rounds_change_nothing(void **)
{
    struct random r = {88};
    for (unsigned round = 0; round < 9; round++) {
        sides s(types[round % 3]);
        if (std::strcmp(s.emu->name, "emu") != 0)
            return; // its limit is not ours to set
        mixture m(s, &r, draw_shape(&r, round, s.type));
        uint32_t n_rows = 10 + random_below(&r, 30);
        floats x = draw(&r, n_rows * m.p.hidden, 1, s.type);
        outcome whole = on_emu(m, x, n_rows, 0, m.p.n_experts);
        s.emu_device->experts_bytes = round % 2 ? 1 : 6000;
        outcome rounds = on_emu(m, x, n_rows, 0, m.p.n_experts);
        assert_chosen(whole, rounds);
        assert_equal("rounds", whole.out, rounds.out);
    }
}

// Equal logits: the smaller experts, in their order. Both zeros are equal, too.
void ties_take_the_smaller(void **)
{
    struct random r = {84};
    for (unsigned round = 0; round < 9; round++) {
        emu_seed(round);
        sides s(types[round % 3]);
        shape p = {8, 8, 0, 40, 5, true, true, false, ACT_SILU, s.type};
        mixture m(s, &r, p);
        // Logits of 1, 0, -0 and -1 from a router of one column.
        floats w(p.n_experts * p.hidden, 0.0f);
        for (uint32_t e = 0; e < p.n_experts; e++) {
            float v[] = {0.0f, -0.0f, 1.0f, -1.0f};
            uint32_t which = random_below(&r, 8);
            w[e * p.hidden] = which < 4 ? v[which] : 0.0f;
        }
        m.router = std::make_unique<both_weights>(s, w, p.n_experts, p.hidden, s.type);
        floats x = draw(&r, 6 * p.hidden, 1, s.type);
        outcome cpu = on_cpu(m, x, 6, 0, p.n_experts), emu = on_emu(m, x, 6, 0, p.n_experts);
        assert_chosen(cpu, emu);
        assert_near(s, cpu.out, emu.out);
    }
}

// Results of 1e8, -1e8 and 1 sum to 1 in one order only.
void experts_are_added_in_order(void **)
{
    sides s(DTYPE_F32);
    struct random r = {86};
    shape p = {8, 8, 0, 3, 3, false, false, false, ACT_RELU, s.type};
    mixture m(s, &r, p);
    const float made[] = {1e8f, -1e8f, 1};
    floats w(p.hidden * p.hidden, 0.0f), x(p.hidden, 0.0f);
    m.router = std::make_unique<both_weights>(
        s, floats(p.n_experts * p.hidden, 0.0f), p.n_experts, p.hidden, s.type);
    x[0] = w[0] = 1;
    for (uint32_t e = 0; e < 3; e++) {
        floats down(p.hidden * p.ffn, 0.0f);
        for (uint32_t k = 0; k < p.hidden; k++)
            down[k * p.ffn] = made[e];
        m.in[e] = std::make_unique<both_weights>(s, w, p.ffn, p.hidden, s.type);
        m.down[e] = std::make_unique<both_weights>(s, down, p.hidden, p.ffn, s.type);
    }
    outcome cpu = on_cpu(m, x, 1, 0, 3), emu = on_emu(m, x, 1, 0, 3);
    assert_true(cpu.out[0] > 0.3f);
    assert_near(s, cpu.out, emu.out);
}

// ---- ranks with whole experts ------------------------------------------------------------------

struct ranks {
    uint32_t n, n_rows, dim, n_used, n_experts, share;
    bool all;
    std::vector<uint32_t> bound, chosen;
    std::vector<floats> x; // of each rank

    bool has(uint32_t rank, uint32_t row) const
    {
        for (uint32_t i = 0; i < n_used; i++) {
            uint32_t e = chosen[row * n_used + i];
            if (e >= bound[rank] && e < bound[rank + 1])
                return true;
        }
        return all;
    }
};

ranks draw_ranks(struct random *r, unsigned round, enum dtype t)
{
    ranks g = {};
    g.n = 1 + random_below(r, 5);
    g.n_rows = 1 + random_below(r, round % 3 ? 20 : 3);
    g.dim = round % 2 ? 8 * (1 + random_below(r, 9)) : 1 + random_below(r, 70);
    g.n_experts = g.n + random_below(r, 9);
    g.n_used = 1 + random_below(r, g.n_experts < 3 ? g.n_experts : 3);
    g.share = (g.n_rows + g.n - 1) / g.n;
    g.all = round % 5 == 4;
    for (uint32_t q = 0; q <= g.n; q++)
        g.bound.push_back(q * g.n_experts / g.n);
    for (uint32_t row = 0; row < g.n_rows; row++)
        for (uint32_t i = 0, e = random_below(r, g.n_experts); i < g.n_used; i++)
            g.chosen.push_back((e + i) % g.n_experts);
    for (uint32_t q = 0; q < g.n; q++)
        g.x.push_back(draw(r, g.n_rows * g.dim, 1, t));
    return g;
}

// One rank after the other on one device: what they send goes by way of the host.
struct exchange {
    const sides &s;
    const ranks &g;
    size_t row, slot;
    std::vector<std::vector<uint8_t>> receive; // of each rank, [n] slots

    exchange(const sides &sides_, const ranks &ranks_)
        : s(sides_), g(ranks_), row(g.dim * dtype_bytes(s.type)),
          slot((g.share * row + 127) / 128 * 128), receive(g.n)
    {
        for (std::vector<uint8_t> &v : receive)
            v.resize(g.n * slot, 0xff);
    }

    struct experts_parts_args args(uint32_t rank) const
    {
        struct experts_parts_args a = {};
        a.n_rows = g.n_rows;
        a.dim = g.dim;
        a.n_used = g.n_used;
        a.n_ranks = g.n;
        a.rank = rank;
        a.share = g.share;
        a.bound = g.bound.data();
        a.all = g.all;
        a.slot_bytes = slot;
        return a;
    }

    void send(uint32_t rank, const on_device &chosen)
    {
        struct experts_parts_args a = args(rank);
        on_device x(s, g.x[rank], s.type), slots(s, g.n * slot), bytes(s, g.n * 4);
        a.chosen = static_cast<const uint32_t *>(chosen.p);
        a.x = x.p;
        a.slots = slots.p;
        a.bytes = static_cast<uint32_t *>(bytes.p);
        s.emu->experts_pack(s.emu_device, &a);
        std::vector<uint8_t> data = slots.bytes_read(), counts = bytes.bytes_read();
        for (uint32_t q = 0; q < g.n; q++) {
            uint32_t n = 0, expected = 0;
            std::memcpy(&n, &counts[4 * q], 4);
            for (uint32_t i = q * g.share; i < (q + 1) * g.share && i < g.n_rows; i++)
                expected += q != rank && g.has(rank, i) ? (uint32_t)row : 0;
            assert_int_equal(n, expected);
            std::memcpy(&receive[q][rank * slot], &data[q * slot], n);
        }
    }

    floats add(uint32_t rank, const on_device &chosen)
    {
        struct experts_parts_args a = args(rank);
        on_device x(s, g.x[rank], s.type), slots(s, g.n * slot);
        s.emu->copy_in(s.emu_device, slots.p, receive[rank].data(), g.n * slot);
        a.chosen = static_cast<const uint32_t *>(chosen.p);
        a.x = x.p;
        a.slots = slots.p;
        s.emu->experts_add(s.emu_device, &a);
        return x.read(s.type);
    }
};

void parts_are_exchanged(void **)
{
    struct random r = {87};
    for (unsigned round = 0; round < 24; round++) {
        emu_seed(round);
        sides s(types[round % 3]);
        ranks g = draw_ranks(&r, round, s.type);
        exchange e(s, g);
        on_device chosen(s, g.chosen.size() * 4);
        s.emu->copy_in(s.emu_device, chosen.p, g.chosen.data(), g.chosen.size() * 4);
        for (uint32_t q = 0; q < g.n; q++)
            e.send(q, chosen);
        for (uint32_t q = 0; q < g.n; q++) {
            floats expected = g.x[q];
            for (uint32_t i = q * g.share; i < (q + 1) * g.share && i < g.n_rows; i++)
                for (uint32_t k = i * g.dim; k < (i + 1) * g.dim; k++) {
                    expected[k] = 0;
                    for (uint32_t from = 0; from < g.n; from++)
                        expected[k] += g.has(from, i) ? g.x[from][k] : 0.0f;
                }
            assert_equal("sums over ranks", rounded(expected, s.type), e.add(q, chosen));
        }
    }
}

// What cannot be: whatever comes out, nothing beyond the arrays is touched, and other rows stay.
void a_bad_row_harms_nobody(void **)
{
    struct random r = {85};
    emu_seed(1);
    sides s(DTYPE_F32);
    shape p = {16, 8, 0, 33, 3, true, false, false, ACT_SILU, s.type};
    mixture m(s, &r, p);
    floats x = draw(&r, 3 * p.hidden, 1, s.type);
    outcome good = on_emu(m, x, 3, 0, p.n_experts);
    x[p.hidden + 5] = NAN;
    outcome bad = on_emu(m, x, 3, 0, p.n_experts);
    for (uint32_t i = 0; i < p.n_used; i++)
        assert_true(bad.chosen[p.n_used + i] < p.n_experts);
    for (uint32_t i = 0; i < p.hidden; i++) {
        assert_memory_equal(&good.out[i], &bad.out[i], 4);
        assert_memory_equal(&good.out[2 * p.hidden + i], &bad.out[2 * p.hidden + i], 4);
    }
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_match),
        cmocka_unit_test(many_rows_match),
        cmocka_unit_test(rows_are_alone),
        cmocka_unit_test(rounds_change_nothing),
        cmocka_unit_test(ties_take_the_smaller),
        cmocka_unit_test(experts_are_added_in_order),
        cmocka_unit_test(parts_are_exchanged),
        cmocka_unit_test(a_bad_row_harms_nobody),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
