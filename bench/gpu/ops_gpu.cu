// SPDX-License-Identifier: Apache-2.0
// ops_gpu [tiny]: the ops of the table that move numbers rather than multiply them, in bf16 with
// the widths of a decoder of 8B parameters, and a mixture of experts where the table has one. The
// ceiling is what they must read and write at the speed of a copy; what few rows take is the price
// of a launch. The emulated program (ops_gpu_emu tiny) only shows that this one works.
#include "bench/gpu/rows.cuh"

#include <vector>

extern "C" const struct plugin *phalanx_plugin(void);

namespace
{

struct widths {
    uint32_t hidden, ffn, heads, kv_heads, head_dim, vocab, expert_ffn, experts;
};

struct scene {
    bench *b;
    const struct kernels *k;
    widths w;
    uint32_t rows;
    phx_bf16 *x, *y, *wide, *qkv;
    float *logits, *residual;
};

struct weight *draw(bench *b, uint32_t n, uint32_t k, uint64_t key)
{
    struct weight_draw_part part = {};
    part.key = key;
    part.n_rows = n;
    part.center = n == 1 ? 1.0f : 0.0f;
    part.spread = n == 1 ? 0.1f : 1.7f / sqrtf((float)k);
    struct weight_draw_args a = {};
    a.dtype = DTYPE_BF16;
    a.n = n;
    a.k = k;
    a.n_parts = 1;
    a.part = &part;
    struct weight *w = NULL;
    struct error err;
    if (cuda_weight_draw(b->d, &a, &w, &err) != STATUS_OK)
        give_up("a weight", err.text);
    return w;
}

// A row of `bytes` that f() reads and writes.
template <class F>
void row(const scene &s, const char *op, uint32_t width, double bytes, const char *variant, F f)
{
    char shape[32];
    snprintf(shape, sizeof shape, "%u", width);
    timing t = measure(s.b, [&](unsigned) { f(); });
    print_row(op, shape, s.rows, variant, t, bytes, 0, bytes / s.b->copy_bytes_us);
}

// Sequences of one row each, or one of all rows, at positions up to `position` in pages of 64.
struct step {
    std::vector<struct batch_seq> seq;
    std::vector<uint32_t> table, positions, ids, logit_rows;
    struct batch b = {};

    step(uint32_t rows, uint32_t vocab, uint32_t n_seqs)
    {
        uint32_t each = rows / n_seqs, pages = (each + 63) / 64;
        for (uint32_t i = 0; i < n_seqs * pages; i++)
            table.push_back(i);
        for (uint32_t i = 0; i < n_seqs; i++) {
            struct batch_seq s = {};
            s.first_row = i * each;
            s.n_rows = each;
            s.blocks[0] = table.data() + (size_t)i * pages;
            s.n_blocks[0] = pages;
            seq.push_back(s);
        }
        for (uint32_t i = 0; i < rows; i++) {
            positions.push_back(i % each);
            ids.push_back(i * 2654435761u % vocab);
            logit_rows.push_back(i);
        }
        b.n_rows = b.n_logit_rows = rows;
        b.n_seqs = n_seqs;
        b.token_ids = ids.data();
        b.positions = positions.data();
        b.seq = seq.data();
        b.logit_rows = logit_rows.data();
    }
};

void run_norms(const scene &s)
{
    struct weight *w = draw(s.b, 1, s.w.hidden, 1), *bias = draw(s.b, 1, s.w.hidden, 2);
    double each = 2.0 * s.rows * s.w.hidden;
    struct norm_args a = {};
    a.n_rows = s.rows;
    a.dim = s.w.hidden;
    a.eps = 1e-5f;
    a.x = s.x;
    a.x_scale = 1;
    a.residual = s.residual;
    a.residual_type = DTYPE_F32;
    a.out_type = DTYPE_BF16;
    a.weight = w;
    a.out = s.wide;
    // x and out in 16 bits, the residual in 32, read and written.
    row(s, "norm", s.w.hidden, 6 * each, "rms,residual", [&] { s.k->norm(s.b->d, &a); });
    a.layer = true;
    a.bias = bias;
    row(s, "norm", s.w.hidden, 6 * each, "layer,residual", [&] { s.k->norm(s.b->d, &a); });
    a.x = NULL;
    a.layer = false;
    a.bias = NULL;
    row(s, "norm", s.w.hidden, 3 * each, "rms", [&] { s.k->norm(s.b->d, &a); });
    cuda_weight_free(s.b->d, w);
    cuda_weight_free(s.b->d, bias);
}

void run_act(const scene &s)
{
    struct act_args a = {};
    a.n_rows = s.rows;
    a.dim = s.w.ffn;
    a.kind = ACT_SILU;
    a.gated = true;
    a.x = s.wide;
    a.out = s.qkv;
    double each = 2.0 * s.rows * s.w.ffn;
    row(s, "act", s.w.ffn, 3 * each, "silu,gated", [&] { s.k->act(s.b->d, &a); });
    a.gated = false;
    a.kind = ACT_GELU_TANH;
    row(s, "act", s.w.ffn, 2 * each, "gelu_tanh", [&] { s.k->act(s.b->d, &a); });
}

struct kv_layer pages_of(const scene &s, const step &t, phx_bf16 **memory)
{
    struct kv_layer kv = {};
    kv.dtype = DTYPE_BF16;
    kv.n_kv_heads = s.w.kv_heads;
    kv.head_dim = s.w.head_dim;
    kv.block_tokens = 64;
    size_t each = t.table.size() * 64 * s.w.kv_heads * s.w.head_dim;
    *memory = take_filled<phx_bf16>(s.b, 2 * each, 5, 1);
    kv.k = *memory;
    kv.v = *memory + each;
    return kv;
}

void run_heads(const scene &s, const step &t)
{
    phx_bf16 *memory;
    struct rope_kv_args a = {};
    a.kv = pages_of(s, t, &memory);
    std::vector<float> host(s.w.head_dim / 2);
    for (size_t i = 0; i < host.size(); i++)
        host[i] = powf(500000.0f, -(float)i / (float)host.size());
    float *inv_freq = static_cast<float *>(cuda_mem_take(s.b->d, host.size() * sizeof(float)));
    cuda_copy_in(s.b->d, inv_freq, host.data(), host.size() * sizeof(float));
    struct weight *norm = draw(s.b, 1, s.w.head_dim, 3);
    a.batch = &t.b;
    a.qkv = s.qkv;
    a.n_heads = s.w.heads;
    a.inv_freq = inv_freq;
    a.attention_factor = 1;
    a.rotary_dim = s.w.head_dim;
    a.norm_eps = 1e-6f;
    double row_bytes = 2.0 * s.w.head_dim * (2 * s.w.heads + 4 * s.w.kv_heads);
    uint32_t width = (s.w.heads + 2 * s.w.kv_heads) * s.w.head_dim;
    row(s, "rope_kv", width, s.rows * row_bytes, "rope", [&] { s.k->rope_kv(s.b->d, &a); });
    a.q_norm = a.k_norm = norm;
    row(s, "rope_kv", width, s.rows * row_bytes, "rope,norms", [&] { s.k->rope_kv(s.b->d, &a); });
    struct qk_norm_args q = {};
    q.n_rows = s.rows;
    q.n_heads = s.w.heads;
    q.n_kv_heads = s.w.kv_heads;
    q.head_dim = s.w.head_dim;
    q.qkv = s.qkv;
    q.q_norm = q.k_norm = norm;
    q.eps = 1e-6f;
    row(s, "qk_norm", width, 4.0 * s.rows * (s.w.heads + s.w.kv_heads) * s.w.head_dim, "layer",
        [&] { s.k->qk_norm(s.b->d, &q); });
    if (t.table.size() >= 2) {
        struct block_copy_args c = {};
        uint32_t n = (uint32_t)t.table.size() / 2;
        std::vector<uint32_t> from(t.table.begin(), t.table.begin() + n),
            to(t.table.begin() + n, t.table.begin() + 2 * n);
        c.layers = &a.kv;
        c.n_layers = 1;
        c.n_pairs = n;
        c.src = from.data();
        c.dst = to.data();
        double page = 2.0 * 2 * 64 * s.w.kv_heads * s.w.head_dim;
        row(s, "block_copy", n, 2 * n * page, "pages", [&] { s.k->block_copy(s.b->d, &c); });
    }
    cuda_weight_free(s.b->d, norm);
    cuda_mem_give(s.b->d, inv_freq, 0);
    cuda_mem_give(s.b->d, memory, 0);
}

void run_rows(const scene &s, const step &t)
{
    struct weight *table = draw(s.b, s.w.vocab, s.w.hidden, 4);
    double each = 2.0 * s.rows * s.w.hidden;
    struct embed_args e = {};
    e.batch = &t.b;
    e.table = table;
    e.scale = 1;
    e.out_type = DTYPE_F32;
    e.out = s.residual;
    row(s, "embed", s.w.hidden, 3 * each, "-", [&] { s.k->embed(s.b->d, &e); });
    cuda_weight_free(s.b->d, table);
    struct gather_args g = {};
    g.batch = &t.b;
    g.n_rows = s.rows;
    g.dim = s.w.hidden;
    g.type = DTYPE_BF16;
    g.in = s.x;
    g.out = s.y;
    row(s, "gather", s.w.hidden, 2 * each, "-", [&] { s.k->gather(s.b->d, &g); });
    struct clip_args c = {};
    c.n_rows = s.rows;
    c.dim = s.w.hidden;
    c.limit = 3;
    c.x = s.x;
    row(s, "clip", s.w.hidden, 2 * each, "-", [&] { s.k->clip(s.b->d, &c); });
}

// Logits of at most 64 rows are there at once (worker/forward.h).
void run_logits(const scene &s)
{
    if (s.rows > 64)
        return;
    double each = 4.0 * s.rows * s.w.vocab;
    struct logit_scale_args l = {};
    l.n_rows = s.rows;
    l.n = s.w.vocab;
    l.scale = 1;
    l.softcap = 30;
    l.logits = s.logits;
    row(s, "logit_scale", s.w.vocab, 2 * each, "softcap", [&] { s.k->logit_scale(s.b->d, &l); });
    struct place_args p = {};
    p.n_rows = s.rows;
    p.n = s.w.vocab / 8;
    p.in = s.logits;
    p.out = s.logits + (size_t)64 * s.w.vocab / 2;
    p.out_stride = s.w.vocab / 4;
    row(s, "place", s.w.vocab / 8, each / 4, "-", [&] { s.k->place(s.b->d, &p); });
}

struct mixture {
    bench *b;
    struct weight *router;
    std::vector<struct weight *> in, down;

    mixture(bench *b_, const widths &w) : b(b_), router(draw(b_, w.experts, w.hidden, 5))
    {
        for (uint32_t i = 0; i < w.experts; i++) {
            in.push_back(draw(b, 2 * w.expert_ffn, w.hidden, 100 + i));
            down.push_back(draw(b, w.hidden, w.expert_ffn, 200 + i));
        }
    }
    ~mixture()
    {
        for (struct weight *w : in)
            cuda_weight_free(b->d, w);
        for (struct weight *w : down)
            cuda_weight_free(b->d, w);
        cuda_weight_free(b->d, router);
    }
    mixture(const mixture &) = delete;
};

// The ceiling is every expert's weights once, which holds from about 16 rows on.
void run_experts(const scene &s, const mixture &m)
{
    uint32_t used = s.w.experts < 2 ? s.w.experts : 2, ffn = s.w.expert_ffn;
    size_t rows = s.rows;
    uint8_t *memory = static_cast<uint8_t *>(
        cuda_mem_take(s.b->d, rows * (3 * (size_t)ffn + s.w.hidden) * 2 +
                                  kernels_experts_bytes(s.rows, s.w.experts, used)));
    if (memory == NULL)
        give_up("experts", "no memory");
    struct experts_args a = {};
    a.n_rows = s.rows;
    a.hidden_dim = s.w.hidden;
    a.x = s.x;
    a.router = m.router;
    a.n_experts = a.count = s.w.experts;
    a.n_used = used;
    a.renormalize = a.gated = true;
    a.kind = ACT_SILU;
    a.ffn = ffn;
    a.in = m.in.data();
    a.down = m.down.data();
    a.mlp_in = memory;
    a.mlp = memory + rows * 2 * ffn * 2;
    a.part = memory + rows * 3 * ffn * 2;
    a.routes = memory + rows * (3 * (size_t)ffn + s.w.hidden) * 2;
    a.out = s.y;
    double weights = 2.0 * 3 * s.w.experts * (double)ffn * s.w.hidden;
    row(s, "experts", ffn, weights, "top2", [&] { s.k->experts(s.b->d, &a); });
    cuda_mem_give(s.b->d, memory, 0);
}

void run_all(bench *b, const widths &w, const uint32_t *counts, unsigned n, const mixture *m)
{
    scene s = {b, phalanx_plugin()->kernels, w, 0, NULL, NULL, NULL, NULL, NULL, NULL};
    size_t most = counts[n - 1];
    s.x = take_filled<phx_bf16>(b, most * w.hidden, 1, 1);
    s.y = take_filled<phx_bf16>(b, most * w.hidden, 2, 1);
    s.wide = take_filled<phx_bf16>(b, most * 2 * w.ffn, 3, 1);
    size_t width = (size_t)(w.heads + 2 * w.kv_heads) * w.head_dim;
    s.qkv = take_filled<phx_bf16>(b, most * (width > w.ffn ? width : w.ffn), 4, 1);
    s.residual = take_filled<float>(b, most * w.hidden, 7, 1);
    s.logits = take_filled<float>(b, (size_t)64 * w.vocab, 6, 3);
    for (unsigned i = 0; i < n; i++) {
        s.rows = counts[i];
        step t(s.rows, w.vocab, s.rows <= 64 ? s.rows : 1);
        cuda_batch_begin(b->d, &t.b);
        run_norms(s);
        run_act(s);
        run_heads(s, t);
        run_rows(s, t);
        run_logits(s);
        if (m != NULL)
            run_experts(s, *m);
    }
    cudaFree(s.x);
    cudaFree(s.y);
    cudaFree(s.wide);
    cudaFree(s.qkv);
    cudaFree(s.logits);
    cudaFree(s.residual);
}

} // namespace

int main(int argc, char **argv)
{
    static const uint32_t few[] = {1, 16, 256, 4096}, little[] = {1, 3};
    bool tiny = argc > 1 && strcmp(argv[1], "tiny") == 0;
    widths w = {4096, 14336, 32, 8, 128, 128256, 14336, 8};
    if (tiny)
        w = {64, 96, 4, 2, 16, 200, 32, 4};
    bench b = {};
    bench_open(&b, DTYPE_BF16);
    measure_copy(&b, tiny ? 1 << 20 : (size_t)2 << 30);
    {
        mixture *m = NULL;
        if (phalanx_plugin()->kernels->experts != NULL)
            m = new mixture(&b, w);
        run_all(&b, w, tiny ? little : few, tiny ? 2 : 4, m);
        delete m;
    }
    bench_close(&b);
    return 0;
}
