// SPDX-License-Identifier: Apache-2.0
// linear_bench: rows of linear on the CPU as ratios to the roof, which is the larger of the times
// that reading the weights and computing the products take at the limits measured around the row.
// Weights cycle through a large buffer, so that none is in a cache when its turn comes.
#include "bench/limits.h"
#include "kernels/kernels.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    BUFFER_BYTES = 512 << 20,
    ROUNDS_MAX = 51,
    LIST_MAX = 16,
    ROW_MS = 60, // time for one round of a row
};

struct list {
    uint32_t v[LIST_MAX];
    uint32_t n;
};

struct options {
    struct list m, n, k, threads;
    const char *isa, *dtypes;
    int rounds;
};

struct bench {
    const struct kernels *kernels;
    struct device *device;
    struct limits *limits;
    void *buffer; // weights
};

struct row {
    enum dtype dtype;
    uint32_t m, n, k;
};

static _Noreturn void die(const char *text)
{
    fprintf(stderr, "linear_bench: %s\n", text);
    exit(1);
}

static struct list parse_list(const char *text)
{
    struct list l = {0};
    char *end;
    for (; l.n < LIST_MAX; text = end + 1) {
        l.v[l.n++] = (uint32_t)strtoul(text, &end, 10);
        if (*end != ',')
            break;
    }
    return l;
}

// Whether `name` stands in a list of names with commas.
static bool listed(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = list; at != NULL; at = strchr(at, ','), at = at != NULL ? at + 1 : NULL)
        if (strncmp(at, name, n) == 0 && (at[n] == ',' || at[n] == '\0'))
            return true;
    return false;
}

// Seconds of one call, the mean over enough calls to fill ROW_MS; different weights each time.
static double time_calls(struct bench *b, const struct row *r, struct weight **w, size_t n_weights,
    const float *x, float *out)
{
    static size_t next;
    struct linear_args a = {
        .n_rows = r->m, .x = x, .x_stride = r->k, .out = out, .out_stride = r->n};
    double begin = limits_now_s(), spent;
    int calls = 0;
    do {
        a.w = w[next++ % n_weights];
        b->kernels->linear(b->device, &a);
        calls++;
        spent = limits_now_s() - begin;
    } while (spent < ROW_MS * 1e-3);
    return spent / calls;
}

// What the rounds of a row gave.
struct samples {
    double seconds[ROUNDS_MAX], roof[ROUNDS_MAX], ratio[ROUNDS_MAX];
    size_t n;
    bool memory_bound; // in the last round
};

static void print_row(const struct bench *b, const struct row *r, struct samples *v)
{
    char device[64];
    b->kernels->device_describe(b->device, device, sizeof device);
    double s = limits_median(v->seconds, v->n), roof = limits_median(v->roof, v->n);
    double bytes = (double)r->n * r->k * dtype_bytes(r->dtype), flops = 2.0 * r->m * r->n * r->k;
    printf("| %s | %s | %u | %u | %u | %.1f | %.0f | %.1f us | %s %.1f us | %.2f |\n", device,
        dtype_name(r->dtype), r->m, r->k, r->n, bytes / s * 1e-9, flops / s * 1e-9, s * 1e6,
        v->memory_bound ? "memory" : "fp32", roof * 1e6, limits_median(v->ratio, v->n));
    fflush(stdout);
}

static void measure(struct bench *b, const struct row *r, struct weight **w, size_t n_weights,
    const float *x, float *out, struct samples *v)
{
    double bytes = (double)r->n * r->k * dtype_bytes(r->dtype), flops = 2.0 * r->m * r->n * r->k;
    double gbs = limits_read_gbs(b->limits), gflops = limits_fma_gflops(b->limits);
    for (size_t i = 0; i < v->n; i++) {
        v->seconds[i] = time_calls(b, r, w, n_weights, x, out);
        double gbs_after = limits_read_gbs(b->limits);
        double gflops_after = limits_fma_gflops(b->limits);
        double read_s = bytes / ((gbs + gbs_after) / 2 * 1e9);
        double fma_s = flops / ((gflops + gflops_after) / 2 * 1e9);
        v->memory_bound = read_s > fma_s;
        v->roof[i] = v->memory_bound ? read_s : fma_s;
        v->ratio[i] = v->roof[i] / v->seconds[i];
        gbs = gbs_after;
        gflops = gflops_after;
    }
}

static void run_row(struct bench *b, const struct row *r, int rounds)
{
    uint64_t bytes = (uint64_t)r->n * r->k * dtype_bytes(r->dtype);
    size_t n_weights = BUFFER_BYTES / bytes;
    struct weight **w = calloc(n_weights, sizeof *w);
    float *x = b->kernels->mem_take(b->device, sizeof *x * r->m * r->k);
    float *out = b->kernels->mem_take(b->device, sizeof *out * r->m * r->n);
    if (n_weights == 0 || w == NULL || x == NULL || out == NULL)
        die("no memory for a row, or its weight is larger than the buffer");
    for (size_t i = 0; i < (size_t)r->m * r->k; i++)
        x[i] = (float)(i % 17) - 8;
    struct error err;
    for (size_t i = 0; i < n_weights; i++) {
        struct weight_source source = {.format = WEIGHT_DENSE,
            .dtype = r->dtype,
            .n = r->n,
            .k = r->k,
            .n_parts = 1,
            .part = {{(char *)b->buffer + i * bytes, bytes / r->n, r->n}}};
        if (b->kernels->weight_make(b->device, &source, &w[i], &err) != STATUS_OK)
            die(err.text);
    }
    struct samples v = {.n = (size_t)rounds};
    measure(b, r, w, n_weights, x, out, &v);
    print_row(b, r, &v);
    for (size_t i = 0; i < n_weights; i++)
        b->kernels->weight_free(b->device, w[i]);
    free(w);
    b->kernels->mem_give(b->device, x, sizeof *x * r->m * r->k);
    b->kernels->mem_give(b->device, out, sizeof *out * r->m * r->n);
}

static void run_isa(struct bench *b, const struct options *o, const char *isa, uint32_t threads)
{
    struct device_args args = {.n_threads = threads, .spin = true, .isa = isa};
    struct error err;
    enum cpu_isa chosen;
    if (cpuid_choose(isa, &chosen, &err) != STATUS_OK ||
        b->kernels->device_open(&args, &b->device, &err) != STATUS_OK ||
        limits_open(threads, chosen, 0, &b->limits, &err) != STATUS_OK)
        die(err.text);
    for (int t = 0; t < DTYPE_COUNT; t++) {
        if (!listed(o->dtypes, dtype_name((enum dtype)t)))
            continue;
        for (uint32_t m = 0; m < o->m.n; m++)
            for (uint32_t k = 0; k < o->k.n; k++)
                for (uint32_t n = 0; n < o->n.n; n++) {
                    struct row r = {(enum dtype)t, o->m.v[m], o->n.v[n], o->k.v[k]};
                    run_row(b, &r, o->rounds);
                }
    }
    limits_close(b->limits);
    b->kernels->device_close(b->device);
}

int main(int argc, char **argv)
{
    struct options o = {.m = {{1, 4, 8, 16, 32, 128, 512}, 7},
        .n = {{2048, 5632}, 2},
        .k = {{2048}, 1},
        .threads = {{1, 2}, 2},
        .dtypes = "bf16",
        .rounds = 7};
    for (int c; (c = getopt(argc, argv, "m:n:k:t:i:d:r:")) != -1;)
        switch (c) {
        case 'm':
            o.m = parse_list(optarg);
            break;
        case 'n':
            o.n = parse_list(optarg);
            break;
        case 'k':
            o.k = parse_list(optarg);
            break;
        case 't':
            o.threads = parse_list(optarg);
            break;
        case 'i':
            o.isa = optarg;
            break;
        case 'd':
            o.dtypes = optarg;
            break;
        case 'r':
            o.rounds = (int)strtol(optarg, NULL, 10);
            break;
        default:
            fprintf(stderr, "usage: linear_bench [-m ROWS,..] [-n N,..] [-k K,..] [-t THREADS,..]"
                            " [-i plain|avx2|avx512] [-d f32,f16,bf16] [-r ROUNDS]\n");
            return 2;
        }
    if (o.rounds < 1 || o.rounds > ROUNDS_MAX)
        die("expected 1 to 51 rounds");
    struct bench b = {.kernels = kernels_cpu()};
    b.buffer = mmap(NULL, BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b.buffer == MAP_FAILED)
        die("no memory for weights");
    for (size_t i = 0; i < BUFFER_BYTES / 2; i++) // small numbers in each of the types
        ((uint16_t *)b.buffer)[i] = (uint16_t)(0x3000 + (i * 37 & 0x8fff));
    printf("| device | dtype | M | K | N | GB/s | GFLOP/s | time | roof | ratio |\n");
    printf("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (uint32_t t = 0; t < o.threads.n; t++)
        for (int isa = CPU_ISA_AVX2; isa <= (int)cpuid_best(); isa++)
            if (o.isa == NULL || strcmp(o.isa, cpuid_name((enum cpu_isa)isa)) == 0)
                run_isa(&b, &o, cpuid_name((enum cpu_isa)isa), o.threads.v[t]);
    return 0;
}
