// SPDX-License-Identifier: Apache-2.0
// attention_gpu [tiny | TFLOPS]: paged attention in bf16 with heads of 128, decode and prefill.
// Decode is held against the speed of a copy, prefill against TFLOPS, the speed of a matrix product
// (linear_gpu measures it). Keys and values lie in pages of 64 in random order, and rotate through
// more memory than the second cache holds. The emulated program (attention_gpu_emu tiny) only shows
// that this one works.
#include "bench/gpu/rows.cuh"

#include <vector>

namespace
{

constexpr unsigned page = 64;
constexpr size_t cache_bytes = 256 << 20, memory_bytes_max = (size_t)48 << 30;

struct heads {
    uint32_t query, kv, dim;
};

// Sequences with `prefix` positions in the pages and `rows` rows each in this step.
struct workload {
    uint32_t n_seqs, prefix, rows;
};

struct step {
    std::vector<struct batch_seq> seq;
    std::vector<uint32_t> tables, positions;
    struct batch b = {};

    explicit step(const workload &w)
    {
        uint32_t pages = (w.prefix + w.rows + page - 1) / page, all = pages * w.n_seqs;
        for (uint32_t i = 0; i < all; i++)
            tables.push_back(i);
        for (uint32_t i = all; i-- > 1;) {
            uint32_t j = i * 2654435761u >> 3;
            uint32_t at = j % (i + 1), swap = tables[i];
            tables[i] = tables[at];
            tables[at] = swap;
        }
        for (uint32_t i = 0; i < w.n_seqs; i++) {
            struct batch_seq s = {};
            s.first_row = i * w.rows;
            s.n_rows = w.rows;
            s.first_position = w.prefix;
            s.blocks[0] = tables.data() + (size_t)i * pages;
            s.n_blocks[0] = pages;
            seq.push_back(s);
            for (uint32_t r = 0; r < w.rows; r++)
                positions.push_back(w.prefix + r);
        }
        b.n_seqs = w.n_seqs;
        b.n_rows = w.n_seqs * w.rows;
        b.seq = seq.data();
        b.positions = positions.data();
    }
};

void run(bench *b, const heads &h, const workload &w, double flops_us)
{
    step s(w);
    size_t elements = s.tables.size() * page * h.kv * h.dim, bytes = 2 * elements * 2;
    size_t copies = bytes >= cache_bytes ? 1 : cache_bytes / bytes + 1;
    copies = flops_us > 0 || w.rows > 1 ? 1 : copies < 64 ? copies : 64;
    if (bytes > memory_bytes_max)
        return;
    size_t width = (size_t)(h.query + 2 * h.kv) * h.dim;
    phx_bf16 *k = take_filled<phx_bf16>(b, elements * copies, 1, 1);
    phx_bf16 *v = take_filled<phx_bf16>(b, elements * copies, 2, 1);
    phx_bf16 *qkv = take_filled<phx_bf16>(b, s.b.n_rows * width, 3, 1);
    phx_bf16 *out = take_filled<phx_bf16>(b, (size_t)s.b.n_rows * h.query * h.dim, 4, 1);
    cuda_batch_begin(b->d, &s.b);
    timing t = measure(b, [&](unsigned i) {
        struct attention_args a = {};
        a.batch = &s.b;
        a.qkv = qkv;
        a.n_heads = h.query;
        a.kv.k = k + elements * (i % copies);
        a.kv.v = v + elements * (i % copies);
        a.kv.dtype = DTYPE_BF16;
        a.kv.n_kv_heads = h.kv;
        a.kv.head_dim = h.dim;
        a.kv.block_tokens = page;
        a.scale = 1.0f / sqrtf((float)h.dim);
        a.out = out;
        cuda_attention(b->d, &a);
    });
    double keys = (double)w.prefix + ((double)w.rows + 1) / 2;
    double flops = 4.0 * s.b.n_rows * keys * h.query * h.dim;
    double read = 4.0 * w.n_seqs * ((double)w.prefix + w.rows) * h.kv * h.dim;
    char shape[64];
    snprintf(shape, sizeof shape, "%u/%ux%u,ctx%u", h.query, h.kv, h.dim, w.prefix + w.rows);
    if (w.rows == 1)
        print_row(
            "attention_decode", shape, w.n_seqs, "own", t, read, flops, read / b->copy_bytes_us);
    else
        print_row("attention_prefill", shape, s.b.n_rows, "own", t, read, flops,
            flops_us > 0 ? flops / flops_us : 0);
    cudaFree(k);
    cudaFree(v);
    cudaFree(qkv);
    cudaFree(out);
}

} // namespace

int main(int argc, char **argv)
{
    bool tiny = argc > 1 && strcmp(argv[1], "tiny") == 0;
    double flops_us = argc > 1 && !tiny ? strtod(argv[1], NULL) * 1e6 : 0;
    static const heads all[] = {{32, 8, 128}, {64, 8, 128}, {32, 32, 128}};
    static const uint32_t seqs[] = {1, 16, 64, 256}, contexts[] = {1024, 4096, 16384};
    static const uint32_t prompts[] = {1024, 4096, 16384, 32768};
    bench b = {};
    bench_open(&b, DTYPE_BF16);
    measure_copy(&b, tiny ? 1 << 20 : (size_t)2 << 30);
    if (tiny) {
        run(&b, {4, 1, 64}, {2, 99, 1}, 0);
        run(&b, {4, 1, 64}, {1, 30, 40}, 0);
        bench_close(&b);
        return 0;
    }
    for (const heads &h : all)
        for (uint32_t n : seqs)
            for (uint32_t c : contexts)
                run(&b, h, {n, c - 1, 1}, 0);
    for (const heads &h : all) {
        for (uint32_t n : prompts)
            run(&b, h, {1, 0, n}, flops_us);
        run(&b, h, {1, 8192, 512}, flops_us);
    }
    bench_close(&b);
    return 0;
}
