// SPDX-License-Identifier: Apache-2.0
// attention_bench: attention on the CPU as ratios to the roof, which is the larger of the times
// that reading the visible keys and values once and computing the products (4 * head_dim operations
// for each visible position and head) take at the limits measured around the row. Calls cycle
// through layers of a large buffer, so that decoding finds nothing in a cache.
#include "bench/limits.h"
#include "kernels/kernels.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BUFFER_BYTES = 256 << 20,
    BLOCK_TOKENS = 16,
    SEQS_MAX = 64,
    ROUNDS = 5,
    ROW_MS = 60, // time for one round of a row
};

// n_seqs sequences that each have `context` positions in the cache and `rows` new ones after them.
struct shape {
    const char *name;
    uint32_t n_seqs, rows, context, n_heads, n_kv_heads, head_dim;
};

static const struct shape shapes[] = {
    {"prefill 512", 1, 512, 0, 32, 4, 64},
    {"prefill 128 at 2048", 1, 128, 2048, 32, 4, 64},
    {"prefill 512", 1, 512, 0, 32, 8, 128},
    {"prefill 512, MHA", 1, 512, 0, 12, 12, 64},
    {"decode 1 at 128", 1, 1, 128, 32, 4, 64},
    {"decode 1 at 4096", 1, 1, 4096, 32, 4, 64},
    {"decode 1 at 4096", 1, 1, 4096, 32, 8, 128},
    {"decode 1 at 4096, 1 KV head", 1, 1, 4096, 16, 1, 64},
    {"decode 16 at 512", 16, 1, 512, 32, 4, 64},
    {"decode 16 at 2048, MHA", 16, 1, 2048, 12, 12, 64},
};

struct bench {
    const struct kernels *kernels;
    struct device *device;
    struct limits *limits;
    char name[64];
};

static _Noreturn void die(const char *text)
{
    fprintf(stderr, "attention_bench: %s\n", text);
    exit(1);
}

static void *take(size_t bytes)
{
    void *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (p == NULL)
        die("out of memory");
    memset(p, 0x3c, bytes); // a small number in every type
    return p;
}

// One shape's pages: `n_layers` layers over one block table, pages of a sequence scattered.
struct row {
    const struct shape *s;
    enum dtype dtype;
    struct batch batch;
    struct batch_seq seq[SEQS_MAX];
    uint32_t *blocks;
    uint32_t n_layers;
    uint64_t layer_bytes; // of K, and again of V
    char *pages;
    float *qkv, *out;
    double bytes, flops; // of one call
};

static void row_open(struct row *r, const struct shape *s, enum dtype t)
{
    *r = (struct row){.s = s, .dtype = t};
    uint32_t per_seq = (s->context + s->rows + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    uint32_t n_blocks = per_seq * s->n_seqs, n_rows = s->rows * s->n_seqs;
    r->blocks = take(sizeof *r->blocks * n_blocks);
    for (uint32_t i = 0; i < n_blocks; i++)
        r->blocks[i] = i % s->n_seqs * per_seq + i / s->n_seqs;
    for (uint32_t i = 0; i < s->n_seqs; i++)
        r->seq[i] = (struct batch_seq){.first_row = i * s->rows,
            .n_rows = s->rows,
            .first_position = s->context,
            .blocks = {r->blocks + i * per_seq}};
    r->batch = (struct batch){.n_rows = n_rows, .n_seqs = s->n_seqs, .seq = r->seq};
    uint64_t token = (uint64_t)s->n_kv_heads * s->head_dim * dtype_bytes(t);
    r->layer_bytes = token * n_blocks * BLOCK_TOKENS;
    r->n_layers = (uint32_t)(BUFFER_BYTES / (2 * r->layer_bytes)) + 1;
    r->pages = take(2 * r->layer_bytes * r->n_layers);
    uint32_t dim = (s->n_heads + 2 * s->n_kv_heads) * s->head_dim;
    r->qkv = take(sizeof *r->qkv * n_rows * dim);
    r->out = take(sizeof *r->out * n_rows * dim);
    double visible = (double)s->rows * s->context + (double)s->rows * (s->rows + 1) / 2;
    r->bytes = 2.0 * (double)token * (s->context + s->rows) * s->n_seqs;
    r->flops = 4.0 * s->head_dim * s->n_heads * visible * s->n_seqs;
}

static void row_close(struct row *r)
{
    free(r->blocks);
    free(r->pages);
    free(r->qkv);
    free(r->out);
}

static double time_calls(const struct bench *b, struct row *r)
{
    static uint32_t next;
    const struct shape *s = r->s;
    struct attention_args a = {.batch = &r->batch,
        .qkv = r->qkv,
        .n_heads = s->n_heads,
        .kv = {.dtype = r->dtype,
            .n_kv_heads = s->n_kv_heads,
            .head_dim = s->head_dim,
            .block_tokens = BLOCK_TOKENS},
        .scale = 0.125f,
        .out = r->out};
    double begin = limits_now_s(), spent;
    int calls = 0;
    do {
        char *layer = r->pages + 2 * r->layer_bytes * (next++ % r->n_layers);
        a.kv.k = layer;
        a.kv.v = layer + r->layer_bytes;
        b->kernels->attention(b->device, &a);
        calls++;
        spent = limits_now_s() - begin;
    } while (spent < ROW_MS * 1e-3);
    return spent / calls;
}

static void run_row(const struct bench *b, const struct shape *s, enum dtype t)
{
    struct row r;
    row_open(&r, s, t);
    double seconds[ROUNDS], ratio[ROUNDS];
    const char *bound = "";
    for (int i = 0; i < ROUNDS; i++) {
        double gbs = limits_read_gbs(b->limits), gflops = limits_fma_gflops(b->limits);
        seconds[i] = time_calls(b, &r);
        gbs = (gbs + limits_read_gbs(b->limits)) / 2;
        gflops = (gflops + limits_fma_gflops(b->limits)) / 2;
        double read_s = r.bytes / (gbs * 1e9), fma_s = r.flops / (gflops * 1e9);
        bound = read_s > fma_s ? "memory" : "fp32";
        ratio[i] = (read_s > fma_s ? read_s : fma_s) / seconds[i];
    }
    double sec = limits_median(seconds, ROUNDS);
    printf("| %s | %s | %u/%u x %u | %s | %.1f | %.0f | %.1f us | %s | %.2f |\n", b->name, s->name,
        s->n_heads, s->n_kv_heads, s->head_dim, dtype_name(t), r.bytes / sec * 1e-9,
        r.flops / sec * 1e-9, sec * 1e6, bound, limits_median(ratio, ROUNDS));
    fflush(stdout);
    row_close(&r);
}

static void run(const char *isa, uint32_t threads, const char *only)
{
    struct bench b = {.kernels = kernels_cpu()};
    struct device_args args = {.n_threads = threads, .spin = true, .isa = isa};
    struct error err;
    enum cpu_isa chosen;
    if (cpuid_choose(isa, &chosen, &err) != STATUS_OK ||
        b.kernels->device_open(&args, &b.device, &err) != STATUS_OK ||
        limits_open(threads, chosen, 0, &b.limits, &err) != STATUS_OK)
        die(err.text);
    b.kernels->device_describe(b.device, b.name, sizeof b.name);
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int t = 0; t < 3; t++)
            if (only == NULL || strcmp(only, dtype_name(dtypes[t])) == 0)
                run_row(&b, &shapes[i], dtypes[t]);
    limits_close(b.limits);
    b.kernels->device_close(b.device);
}

int main(int argc, char **argv)
{
    const char *isa = "auto", *dtype = NULL;
    uint32_t threads = 0;
    for (int c; (c = getopt(argc, argv, "t:i:d:")) != -1;)
        switch (c) {
        case 't':
            threads = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'i':
            isa = optarg;
            break;
        case 'd':
            dtype = optarg;
            break;
        default:
            die("usage: attention_bench [-t THREADS] [-i avx2|avx512] [-d f32|bf16|f16]");
        }
    printf("| device | case | heads | pages | GB/s | GFLOP/s | time | roof | ratio |\n"
           "|---|---|---|---|---|---|---|---|---|\n");
    if (threads > 0) {
        run(isa, threads, dtype);
    } else {
        run(isa, 1, dtype);
        run(isa, 2, dtype);
    }
    return 0;
}
