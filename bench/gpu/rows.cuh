// SPDX-License-Identifier: Apache-2.0
// What attention_gpu and sample_gpu share: a device, random numbers on it, and lines of
// tab-separated values:
//
// op shape m variant us bytes flops frac_of_ceiling ratio_vs_opponent spread
//   us       median of the samples; spread: (third quartile - first) / median
//   ceiling  bytes at the speed of a copy in the same run, or flops at a speed that is given
#ifndef PHALANX_BENCH_GPU_ROWS_CUH
#define PHALANX_BENCH_GPU_ROWS_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/types.cuh"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace
{

constexpr unsigned fill_threads = 256, samples = PHX_EMU ? 3 : 21, warm_ups = PHX_EMU ? 1 : 3;

struct bench {
    struct device *d;
    cudaEvent_t begun, ended;
    double copy_bytes_us; // reads and writes of a copy
};

[[noreturn]] void give_up(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

void need(cudaError_t e, const char *what)
{
    if (e != cudaSuccess)
        give_up(what, cudaGetErrorString(e));
}

__device__ __forceinline__ float random_unit(uint64_t i, unsigned seed)
{
    unsigned h = (unsigned)i * 2654435761u ^ (unsigned)(i >> 32) ^ seed;
    h = (h ^ h >> 16) * 2246822519u;
    h = (h ^ h >> 13) * 3266489917u;
    return (float)(int)(h ^ h >> 16) * 0x1.0p-31f;
}

// Nearly normal numbers (a sum of four), the same for the same seed.
template <class T>
__global__ void __launch_bounds__(fill_threads)
    fill_kernel(T *p, uint64_t n, unsigned seed, float scale)
{
    for (uint64_t i = blockIdx.x * (uint64_t)fill_threads + threadIdx.x; i < n;
         i += (uint64_t)gridDim.x * fill_threads) {
        float sum = 0;
        for (unsigned k = 0; k < 4; k++)
            sum += random_unit(i, seed + 101 * k);
        p[i] = phx_round<T>(sum * 0.866f * scale);
    }
}

template <class T> T *take_filled(bench *b, uint64_t n, unsigned seed, float scale)
{
    T *p = static_cast<T *>(device_take(b->d, n * sizeof(T)));
    if (p == NULL)
        give_up("memory", b->d->error.text);
    unsigned blocks = device_grid(n, fill_threads);
    need(phx_launch(device_launch(b->d, blocks < 4096 ? blocks : 4096u, fill_threads),
             fill_kernel<T>, p, n, seed, scale),
        "numbers");
    return p;
}

double clock_us(bench *b)
{
    float ms = 0;
    need(cudaEventRecord(b->ended, b->d->stream), "a clock");
    need(cudaEventSynchronize(b->ended), "a run");
    need(cudaEventElapsedTime(&ms, b->begun, b->ended), "a clock");
    return (double)ms * 1e3;
}

int compare(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

struct timing {
    double us, spread;
};

// f(i) enqueues run number i. About 300 us of runs a sample.
template <class F> timing measure(bench *b, F f)
{
    double v[samples], once = 0;
    unsigned run = 0;
    for (unsigned i = 0; i < warm_ups; i++) {
        need(cudaEventRecord(b->begun, b->d->stream), "a clock");
        f(run++);
        once = clock_us(b);
    }
    double wanted = 300.0 / (once > 1 ? once : 1);
    unsigned runs = wanted < 1 ? 1 : wanted > 64 ? 64 : (unsigned)wanted;
    for (double &t : v) {
        need(cudaEventRecord(b->begun, b->d->stream), "a clock");
        for (unsigned i = 0; i < runs; i++)
            f(run++);
        t = clock_us(b) / runs;
    }
    qsort(v, samples, sizeof *v, compare);
    struct error err;
    if (cuda_device_sync(b->d, &err) != STATUS_OK)
        give_up("the device", err.text);
    return {v[samples / 2], (v[samples * 3 / 4] - v[samples / 4]) / v[samples / 2]};
}

// `least_us`: at the ceiling; 0 where there is none.
void print_row(const char *op, const char *shape, uint32_t m, const char *variant, timing t,
    double bytes, double flops, double least_us)
{
    printf("%s\t%s\t%u\t%s\t%.2f\t%.0f\t%.0f\t", op, shape, m, variant, t.us, bytes, flops);
    if (least_us > 0)
        printf("%.3f\t-\t%.3f\n", least_us / t.us, t.spread);
    else
        printf("-\t-\t%.3f\n", t.spread);
    fflush(stdout);
}

void measure_copy(bench *b, size_t bytes)
{
    uint8_t *from = reinterpret_cast<uint8_t *>(take_filled<float>(b, bytes / 4, 5, 1));
    uint8_t *to = reinterpret_cast<uint8_t *>(take_filled<float>(b, bytes / 4, 6, 1));
    timing t = measure(b, [&](unsigned) {
        need(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, b->d->stream), "a copy");
    });
    b->copy_bytes_us = 2.0 * (double)bytes / t.us;
    print_row("copy", "-", 0, "-", t, 2.0 * (double)bytes, 0, t.us);
    cudaFree(from);
    cudaFree(to);
}

void bench_open(bench *b, enum dtype activation)
{
    struct error err;
    struct device_args a = {};
    a.activation = activation;
    a.determinism = DETERMINISM_BATCH;
    if (cuda_device_open(&a, &b->d, &err) != STATUS_OK)
        give_up("the device", err.text);
    need(cudaEventCreateWithFlags(&b->begun, 0), "a clock");
    need(cudaEventCreateWithFlags(&b->ended, 0), "a clock");
    char text[256];
    cuda_device_describe(b->d, text, sizeof text);
    printf("# %s\n", text);
    printf("op\tshape\tm\tvariant\tus\tbytes\tflops\tfrac_of_ceiling\tratio_vs_opponent\tspread\n");
}

void bench_close(bench *b)
{
    cudaEventDestroy(b->begun);
    cudaEventDestroy(b->ended);
    cuda_device_close(b->d);
}

} // namespace

#endif
