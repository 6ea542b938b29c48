// SPDX-License-Identifier: Apache-2.0
// limits_gpu [tiny]: what everything else is held against: copying and reading memory, within the
// second cache and far beyond it, and the price of a kernel's launch in a stream, recorded, and
// recorded where each kernel begins before the last one has ended. The emulated program
// (limits_gpu_emu tiny) only shows that this one works.
#include "bench/gpu/rows.cuh"
#include "kernels/cuda/ptx.cuh"

namespace
{

constexpr unsigned read_threads = 512, launches = PHX_EMU ? 4 : 200;

// Reads 16 bytes at a time, four loads under way in each thread; writes next to nothing.
__global__ void __launch_bounds__(read_threads) read_kernel(const uint4 *p, uint64_t n, uint4 *out)
{
    uint4 sum = {};
    uint64_t step = (uint64_t)gridDim.x * read_threads;
    for (uint64_t i = blockIdx.x * (uint64_t)read_threads + threadIdx.x; i < n; i += 4 * step) {
#pragma unroll
        for (unsigned k = 0; k < 4; k++) {
            uint64_t at = i + k * step;
            if (at < n) {
                uint4 v = p[at];
                sum.x ^= v.x;
                sum.y ^= v.y;
                sum.z ^= v.z;
                sum.w ^= v.w;
            }
        }
    }
    if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == 0x12345678)
        out[threadIdx.x] = sum;
}

__global__ void __launch_bounds__(32) nothing_kernel(unsigned *p)
{
    phx_grid_wait();
    if (p != NULL && threadIdx.x == 0)
        p[blockIdx.x] = blockIdx.x;
}

void measure_read(bench *b, size_t bytes, const char *where)
{
    uint4 *p = reinterpret_cast<uint4 *>(take_filled<float>(b, bytes / 4, 11, 1));
    uint4 *out = reinterpret_cast<uint4 *>(take_filled<float>(b, 4 * read_threads, 12, 1));
    char shape[32];
    snprintf(shape, sizeof shape, "%zu", bytes);
    timing t = measure(b, [&](unsigned) {
        phx_launch_config l = device_launch(b->d, b->d->n_sms * 4, read_threads);
        need(phx_launch(l, read_kernel, (const uint4 *)p, (uint64_t)(bytes / 16), out), "a read");
    });
    print_row("read", shape, 0, where, t, (double)bytes, 0, (double)bytes / b->copy_bytes_us);
    cudaFree(p);
    cudaFree(out);
}

void launch_all(bench *b, unsigned *p, bool overlaps)
{
    for (unsigned i = 0; i < launches; i++) {
        phx_launch_config l = device_launch(b->d, b->d->n_sms, 32);
        l.overlaps = overlaps && b->d->cc >= 90;
        need(phx_launch(l, nothing_kernel, p), "a launch");
    }
}

void print_launch(const char *how, timing t)
{
    t.us /= launches;
    print_row("launch", "-", 1, how, t, 0, 0, 0);
}

void measure_recorded(bench *b, unsigned *p, bool overlaps, const char *how)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t x = NULL;
    need(cudaStreamBeginCapture(b->d->stream, cudaStreamCaptureModeThreadLocal), "a graph");
    launch_all(b, p, overlaps);
    need(cudaStreamEndCapture(b->d->stream, &graph), "a graph");
    need(cudaGraphInstantiate(&x, graph, 0), "a graph");
    print_launch(
        how, measure(b, [&](unsigned) { need(cudaGraphLaunch(x, b->d->stream), "a graph"); }));
    cudaGraphExecDestroy(x);
    cudaGraphDestroy(graph);
}

} // namespace

int main(int argc, char **argv)
{
    bool tiny = argc > 1 && strcmp(argv[1], "tiny") == 0;
    bench b = {};
    bench_open(&b, DTYPE_BF16);
    measure_copy(&b, tiny ? 1 << 20 : (size_t)4 << 30);
    measure_read(&b, tiny ? 1 << 16 : (size_t)8 << 30, "memory");
    measure_read(&b, tiny ? 1 << 12 : (size_t)16 << 20, "second cache");
    unsigned *p = reinterpret_cast<unsigned *>(take_filled<float>(&b, 4096, 13, 1));
    print_launch("stream", measure(&b, [&](unsigned) { launch_all(&b, p, false); }));
    measure_recorded(&b, p, false, "recorded");
    if (b.d->cc >= 90)
        measure_recorded(&b, p, true, "recorded,overlapping");
    cudaFree(p);
    bench_close(&b);
    return 0;
}
