// SPDX-License-Identifier: Apache-2.0
// linear_gpu [tiny]: products of a decoder of 8B parameters by our kernels and by cuBLASLt, as
// lines of tab-separated values. Weights are random and rotate through more memory than the second
// cache holds; the two sides take turns, so that clocks and neighbours meet both alike.
//
// op shape m variant us bytes flops frac_of_ceiling ratio_vs_opponent spread
//   us        median of the samples; spread: (third quartile - first) / median
//   ceiling   the longer of bytes at the speed of a copy and of flops at the speed of cuBLASLt's
//             8192^3; 1 is as fast as that
//   ratio     the opponent's time divided by ours
//
// The emulated program (linear_gpu_emu tiny) only shows that this one works.
#include "kernels/cuda/blas.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/linear.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace
{

constexpr unsigned fill_threads = 256, samples = 21, warm_ups = 3, copies_max = 16;
constexpr size_t cache_bytes = 128 << 20; // rotate through at least twice the second cache
constexpr enum dtype type = DTYPE_BF16;

struct shape {
    uint32_t n, k;
};

struct bench {
    struct device *d;
    struct blas *blas;
    void *blas_workspace;
    cudaEvent_t begun, ended;
    double copy_bytes_us, flops_us; // the ceilings; 0 where there is none
};

// A measured side: `call` enqueues the product with weights number i.
struct product {
    bench *b;
    struct weight w[copies_max];
    uint32_t n_copies, m;
    void *x, *out;
    bool gated;
};

[[noreturn]] void give_up(const char *what, const char *why)
{
    fprintf(stderr, "linear_gpu: %s: %s\n", what, why);
    exit(1);
}

void need(cudaError_t e, const char *what)
{
    if (e != cudaSuccess)
        give_up(what, cudaGetErrorString(e));
}

// Numbers in (-1, 1), the same for the same seed.
__global__ void __launch_bounds__(fill_threads) fill_kernel(phx_bf16 *p, uint64_t n, unsigned seed)
{
    for (uint64_t i = blockIdx.x * (uint64_t)fill_threads + threadIdx.x; i < n;
         i += (uint64_t)gridDim.x * fill_threads) {
        unsigned h = (unsigned)i * 2654435761u ^ (unsigned)(i >> 32) ^ seed;
        h = (h ^ h >> 16) * 2246822519u;
        h = (h ^ h >> 13) * 3266489917u;
        p[i] = phx_round<phx_bf16>((float)(int)(h ^ h >> 16) * 0x1.0p-31f);
    }
}

void *take_filled(bench *b, uint64_t elements, unsigned seed)
{
    void *p = device_take(b->d, elements * dtype_bytes(type));
    if (p == NULL)
        give_up("memory", b->d->error.text);
    unsigned blocks = device_grid(elements, fill_threads);
    need(phx_launch(device_launch(b->d, blocks < 4096 ? blocks : 4096u, fill_threads), fill_kernel,
             static_cast<phx_bf16 *>(p), elements, seed),
        "numbers");
    return p;
}

void call_own(product *p, unsigned i)
{
    struct linear_args a = {};
    a.n_rows = p->m;
    a.x = p->x;
    a.w = &p->w[i % p->n_copies];
    a.x_stride = p->w[0].k;
    a.out = p->out;
    a.out_stride = a.w->n;
    if (!p->gated) {
        cuda_linear(p->b->d, &a);
        return;
    }
    struct act_args act = {};
    act.n_rows = p->m;
    act.dim = a.w->n / 2;
    act.gated = true;
    act.kind = ACT_SILU;
    act.out = p->out;
    a.out = NULL;
    cuda_linear_act(p->b->d, &a, &act);
}

void clock_begin(void *context)
{
    bench *b = static_cast<bench *>(context);
    need(cudaEventRecord(b->begun, b->d->stream), "a clock");
}

float clock_end_ms(void *context)
{
    bench *b = static_cast<bench *>(context);
    float ms = 0;
    need(cudaEventRecord(b->ended, b->d->stream), "a clock");
    need(cudaEventSynchronize(b->ended), "a run");
    need(cudaEventElapsedTime(&ms, b->begun, b->ended), "a clock");
    return ms;
}

void call_blas(product *p, unsigned i)
{
    struct error err;
    struct blas_product q = {};
    const struct weight *w = &p->w[i % p->n_copies];
    q.type = q.out_type = type;
    q.m = p->m;
    q.out_stride = q.n = w->n;
    q.k = w->k;
    q.x_stride = w->k;
    q.w_stride = w->stride;
    q.x = p->x;
    q.w = w->data;
    q.out = p->out;
    q.workspace = p->b->blas_workspace;
    q.stream = p->b->d->stream;
    struct blas_clock clock = {clock_begin, clock_end_ms, p->b};
    if (blas_multiply(p->b->blas, &q, &clock, &err) != STATUS_OK)
        give_up("cuBLASLt", err.text);
}

// Microseconds of one of `calls` calls.
double sample(product *p, void (*call)(product *, unsigned), unsigned calls)
{
    clock_begin(p->b);
    for (unsigned i = 0; i < calls; i++)
        call(p, i);
    return (double)clock_end_ms(p->b) * 1e3 / calls;
}

int compare(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

struct result {
    double us, spread;
};

result result_of(double *v)
{
    qsort(v, samples, sizeof *v, compare);
    return {v[samples / 2], (v[samples * 3 / 4] - v[samples / 4]) / v[samples / 2]};
}

void print(const product *p, const char *variant, result r, double opponent_us)
{
    const struct weight *w = &p->w[0];
    uint32_t out = p->gated ? w->n / 2 : w->n;
    double bytes = 2.0 * ((double)w->n * w->k + (double)p->m * w->k + (double)p->m * out);
    double flops = 2.0 * p->m * w->n * w->k, least = bytes / p->b->copy_bytes_us;
    if (p->b->flops_us > 0 && flops / p->b->flops_us > least)
        least = flops / p->b->flops_us;
    printf("%s\t%ux%u\t%u\t%s\t%.2f\t%.0f\t%.0f\t%.3f\t", p->gated ? "linear_act" : "linear", w->n,
        w->k, p->m, variant, r.us, bytes, flops, least / r.us);
    if (opponent_us > 0)
        printf("%.3f\t%.3f\n", opponent_us / r.us, r.spread);
    else
        printf("-\t%.3f\n", r.spread);
    fflush(stdout);
}

// About 300 us of calls a sample, each with other weights.
void measure(product *p)
{
    double own[samples], theirs[samples];
    bool opponent = p->b->blas != NULL && !p->gated;
    for (unsigned i = 0; i < warm_ups; i++) {
        own[0] = sample(p, call_own, 1);
        if (opponent)
            (void)sample(p, call_blas, 1);
    }
    double wanted = 300.0 / (own[0] > 1 ? own[0] : 1);
    unsigned calls = wanted < 1 ? 1 : wanted > 64 ? 64 : (unsigned)wanted;
    for (unsigned i = 0; i < samples; i++) {
        own[i] = sample(p, call_own, calls);
        if (opponent)
            theirs[i] = sample(p, call_blas, calls);
    }
    result mine = result_of(own), blas = opponent ? result_of(theirs) : result{0, 0};
    struct linear_shape s = {
        p->m, p->w[0].n, p->w[0].k, true, p->gated && p->m <= 16, p->b->d->n_sms};
    print(p, linear_plan_name(linear_plan_make(&s).kernel), mine, blas.us);
    if (opponent)
        print(p, "cublaslt", blas, mine.us);
}

void run_shape(bench *b, shape s, const uint32_t *rows, unsigned n_rows, bool gated)
{
    product p = {};
    uint64_t bytes = (uint64_t)s.n * s.k * dtype_bytes(type);
    p.b = b;
    p.gated = gated;
    p.n_copies = bytes >= cache_bytes ? 1 : (uint32_t)(cache_bytes / bytes + 1);
    p.n_copies = p.n_copies < copies_max ? p.n_copies : copies_max;
    for (uint32_t i = 0; i < p.n_copies; i++)
        p.w[i] = {type, s.n, s.k, s.k, take_filled(b, (uint64_t)s.n * s.k, i + 1), bytes};
    uint32_t most = rows[n_rows - 1];
    p.x = take_filled(b, (uint64_t)most * s.k, 77);
    p.out = take_filled(b, (uint64_t)most * s.n, 78);
    for (unsigned i = 0; i < n_rows; i++) {
        p.m = rows[i];
        measure(&p);
    }
    for (uint32_t i = 0; i < p.n_copies; i++)
        cudaFree(p.w[i].data);
    cudaFree(p.x);
    cudaFree(p.out);
}

// Bytes that a copy of memory moves in a microsecond, reads and writes together.
void measure_copy(bench *b, size_t bytes)
{
    void *from = take_filled(b, bytes / dtype_bytes(type), 5);
    void *to = take_filled(b, bytes / dtype_bytes(type), 6);
    double best = 0;
    for (unsigned i = 0; i < 10; i++) {
        clock_begin(b);
        need(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, b->d->stream), "a copy");
        float ms = clock_end_ms(b);
        double rate = ms > 0 ? 2.0 * (double)bytes / ((double)ms * 1e3) : 0;
        best = rate > best ? rate : best;
    }
    b->copy_bytes_us = best;
    printf("copy\t%zu\t-\t-\t%.2f\t%.0f\t0\t1\t-\t-\n", bytes, 2.0 * (double)bytes / best,
        2.0 * (double)bytes);
    cudaFree(from);
    cudaFree(to);
}

void measure_flops(bench *b, uint32_t n)
{
    product p = {};
    double v[samples];
    p.b = b;
    p.n_copies = 1;
    p.m = n;
    p.w[0] = {type, n, n, n, take_filled(b, (uint64_t)n * n, 1), 0};
    p.x = take_filled(b, (uint64_t)n * n, 2);
    p.out = take_filled(b, (uint64_t)n * n, 3);
    for (unsigned i = 0; i < samples + warm_ups; i++)
        v[i < warm_ups ? 0 : i - warm_ups] = sample(&p, call_blas, 1);
    result r = result_of(v);
    b->flops_us = 2.0 * n * n * n / r.us;
    printf("product\t%ux%u\t%u\t-\t%.2f\t0\t%.0f\t1\t-\t%.3f\n", n, n, n, r.us, 2.0 * n * n * n,
        r.spread);
    cudaFree(p.w[0].data);
    cudaFree(p.x);
    cudaFree(p.out);
}

void open_bench(bench *b)
{
    struct error err;
    struct device_args a = {};
    a.activation = type;
    a.determinism = DETERMINISM_BATCH; // our kernels for any number of rows
    if (cuda_device_open(&a, &b->d, &err) != STATUS_OK)
        give_up("the device", err.text);
    need(cudaEventCreateWithFlags(&b->begun, 0), "a clock");
    need(cudaEventCreateWithFlags(&b->ended, 0), "a clock");
#if !PHX_EMU
    if (blas_open(NULL, &b->blas, &err) != STATUS_OK)
        fprintf(stderr, "linear_gpu: no opponent: %s\n", err.text);
    b->blas_workspace = device_take(b->d, BLAS_WORKSPACE_BYTES);
#endif
    char text[256];
    cuda_device_describe(b->d, text, sizeof text);
    printf("# %s\n", text);
    printf("op\tshape\tm\tvariant\tus\tbytes\tflops\tfrac_of_ceiling\tratio_vs_opponent\tspread\n");
}

} // namespace

int main(int argc, char **argv)
{
    static const shape large[] = {
        {6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096}};
    static const shape little[] = {{48, 64}};
    static const uint32_t rows[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096};
    bool tiny = argc > 1 && strcmp(argv[1], "tiny") == 0;
    unsigned n_rows = tiny ? 5 : (unsigned)(sizeof rows / sizeof *rows);
    bench b = {};
    open_bench(&b);
    measure_copy(&b, tiny ? 1 << 20 : (size_t)2 << 30);
    if (b.blas != NULL)
        measure_flops(&b, tiny ? 64 : 8192);
    const shape *shapes = tiny ? little : large;
    for (unsigned i = 0; i < (tiny ? 1 : 5); i++)
        run_shape(&b, shapes[i], rows, n_rows, false);
    run_shape(&b, tiny ? little[0] : large[2], rows, 5, true);
    struct error err;
    if (cuda_device_sync(b.d, &err) != STATUS_OK)
        give_up("the device", err.text);
    cudaEventDestroy(b.begun);
    cudaEventDestroy(b.ended);
    if (b.blas_workspace != NULL)
        cudaFree(b.blas_workspace);
    blas_close(b.blas);
    cuda_device_close(b.d);
    return 0;
}
