// SPDX-License-Identifier: Apache-2.0
// Recorded steps: what a graph computes for a batch is what its ops compute one by one, bit for
// bit.
#include "tests/cuda/support.hpp"

#include <algorithm>

namespace
{

enum : unsigned {
    ROWS = 8,
    DIM = 32,
    VOCAB = 50,
    HEADS = 2,
    HEAD_DIM = 16,
    TOKENS = 8,
    PAGES = 64
};

// A step of a few ops, with memory of its own.
struct step {
    const sides &s;
    both_weights table, square;
    on_device x, y, z, k, v;

    explicit step(const sides &sides_, struct random *r)
        : s(sides_), table(s, draw(r, VOCAB * DIM, 1, s.type), VOCAB, DIM, s.type),
          square(s, draw(r, 3 * DIM * DIM, 0.2f, s.type), 3 * DIM, DIM, s.type),
          x(s, floats(ROWS * DIM), s.type), y(s, floats(ROWS * 3 * DIM), s.type),
          z(s, floats(ROWS * DIM), s.type), k(s, floats(PAGES * HEADS * TOKENS * HEAD_DIM), s.type),
          v(s, floats(PAGES * HEADS * TOKENS * HEAD_DIM), s.type)
    {
    }

    void enqueue(const struct batch *b, uint32_t n_rows) const
    {
        struct embed_args e = {};
        e.batch = b;
        e.table = table.emu;
        e.scale = 1;
        e.out_type = s.type;
        e.out = x.p;
        s.emu->embed(s.emu_device, &e);
        struct linear_args l = {};
        l.n_rows = n_rows;
        l.x = x.p;
        l.x_stride = DIM;
        l.w = square.emu;
        l.out = y.p;
        l.out_stride = 3 * DIM;
        s.emu->linear(s.emu_device, &l);
        struct rope_kv_args q = {};
        q.batch = b;
        q.qkv = y.p;
        q.n_heads = HEADS;
        q.kv = {k.p, v.p, s.type, HEADS, HEAD_DIM, TOKENS, 0};
        s.emu->rope_kv(s.emu_device, &q);
        struct attention_args a = {};
        a.batch = b;
        a.qkv = y.p;
        a.n_heads = HEADS;
        a.kv = q.kv;
        a.scale = 0.25f;
        a.out = z.p;
        s.emu->attention(s.emu_device, &a);
        struct norm_args n = {};
        n.n_rows = n_rows;
        n.dim = DIM;
        n.eps = 1e-5f;
        n.residual_type = n.out_type = s.type;
        n.residual = z.p;
        n.out = x.p;
        s.emu->norm(s.emu_device, &n);
    }

    // Of the rows that the batch has.
    floats result(const struct batch *b) const
    {
        floats all = x.read(s.type);
        all.resize(b->n_rows * DIM);
        return all;
    }
};

// One row for each of n sequences, somewhere in up to most keys.
struct decode_batch {
    struct batch b;
    std::vector<batch_seq> seq;
    std::vector<uint32_t> ids, positions, rows, pages;

    decode_batch(struct random *r, uint32_t n, uint32_t most) : b(), pages(PAGES)
    {
        for (uint32_t i = 0; i < PAGES; i++)
            pages[i] = i;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t position = random_below(r, most);
            batch_seq one = {};
            one.first_row = i;
            one.n_rows = 1;
            one.first_position = position;
            one.blocks[0] = pages.data() + i * (PAGES / ROWS);
            one.n_blocks[0] = position / TOKENS + 1;
            seq.push_back(one);
            ids.push_back(random_below(r, VOCAB));
            positions.push_back(position);
            rows.push_back(i);
        }
        b.n_rows = b.n_seqs = b.n_logit_rows = n;
        b.token_ids = ids.data();
        b.positions = positions.data();
        b.seq = seq.data();
        b.logit_rows = rows.data();
    }
    decode_batch(const decode_batch &) = delete;
};

enum graph_state run(const step &t, const struct batch *b, const struct graph_bounds *bounds)
{
    t.s.emu->batch_begin(t.s.emu_device, b);
    enum graph_state state = t.s.emu->graph_begin(t.s.emu_device, bounds);
    if (state != GRAPH_DONE)
        t.enqueue(b, state == GRAPH_RECORDING ? bounds->n_rows : b->n_rows);
    if (state == GRAPH_RECORDING && !t.s.emu->graph_end(t.s.emu_device, b))
        t.enqueue(b, b->n_rows);
    return state;
}

void replayed_steps_are_the_same(void **)
{
    for (enum dtype type : {DTYPE_F32, DTYPE_BF16}) {
        struct random r = {101}, again = {101};
        sides graphs(type), plain(type);
        step with(graphs, &r), without(plain, &again);
        unsigned done = 0;
        for (unsigned i = 0; i < 14; i++) {
            emu_seed(i);
            // Once there is a prefill between: it takes more memory, and graphs are made anew.
            decode_batch b(&r, i == 9 ? 8u : 1 + random_below(&r, 4), i < 7 ? 20 : 60);
            struct graph_bounds bounds = {i == 9 ? 8u : 4u, 64};
            done += run(with, &b.b, &bounds) == GRAPH_DONE;
            plain.emu->batch_begin(plain.emu_device, &b.b);
            without.enqueue(&b.b, b.b.n_rows);
            assert_equal("step", without.result(&b.b), with.result(&b.b));
            assert_equal("pages", without.k.read(type), with.k.read(type));
        }
        assert_true(done >= 8);
    }
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replayed_steps_are_the_same),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
