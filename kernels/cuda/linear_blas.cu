// SPDX-License-Identifier: Apache-2.0
// Linear by cuBLASLt: for many rows of x, where a row's bits may depend on the others
// (DETERMINISM_RUN), and where its shape is one that cuBLASLt does well.
extern "C" {
#include "base/log.h"
}
#include "kernels/cuda/blas.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/linear.cuh"

namespace
{

constexpr unsigned rows_min =
    33; // below, reading the weights is the time, and ours reads them once

// Its events are made when they are first asked for.
struct stream_clock {
    struct device *d;
    cudaEvent_t begun, ended;
};

cudaError_t clock_mark(cudaEvent_t *e, cudaStream_t s)
{
    cudaError_t made = *e == nullptr ? cudaEventCreateWithFlags(e, 0) : cudaSuccess;
    return made == cudaSuccess ? cudaEventRecord(*e, s) : made;
}

void clock_begin(void *context)
{
    stream_clock *c = static_cast<stream_clock *>(context);
    device_keep(c->d, clock_mark(&c->begun, c->d->stream), "linear: a clock");
}

float clock_end(void *context)
{
    stream_clock *c = static_cast<stream_clock *>(context);
    float ms = -1.0f;
    cudaError_t e = clock_mark(&c->ended, c->d->stream);
    if (e == cudaSuccess)
        e = cudaEventSynchronize(c->ended);
    if (e == cudaSuccess)
        e = cudaEventElapsedTime(&ms, c->begun, c->ended);
    device_keep(c->d, e, "linear: a clock");
    return e == cudaSuccess ? ms : -1.0f;
}

void clock_close(stream_clock *c)
{
    if (c->begun != nullptr)
        cudaEventDestroy(c->begun);
    if (c->ended != nullptr)
        cudaEventDestroy(c->ended);
}

bool is_whole(const void *p, uint64_t stride, enum dtype t)
{
    return reinterpret_cast<uintptr_t>(p) % 16 == 0 && stride * dtype_bytes(t) % 16 == 0;
}

} // namespace

enum status linear_blas_open(struct device *d, const char *file, struct error *err)
{
    d->blas_tried = true;
    return blas_open(file, &d->blas, err);
}

bool linear_blas_wants(struct device *d, const linear_call &a)
{
    if (d->determinism != DETERMINISM_RUN || a.m < rows_min || a.x_type != a.w_type ||
        !is_whole(a.x, a.x_stride, a.x_type) || !is_whole(a.out, a.out_stride, a.out_type) ||
        a.k % 8 != 0 || (a.bias != NULL && a.bias_type != a.out_type))
        return false;
#if !PHX_EMU // the emulator has no library but the one that a test brings
    struct error err;
    if (!d->blas_tried && linear_blas_open(d, NULL, &err) != STATUS_OK)
        log_info("device %d multiplies by kernels of its own: %s", d->index, err.text);
#endif
    return d->blas != NULL;
}

bool linear_blas_run(struct device *d, const linear_call &a, void *workspace)
{
    struct blas_product p = {};
    p.type = a.x_type;
    p.out_type = a.out_type;
    p.m = a.m;
    p.n = a.n;
    p.k = a.k;
    p.x_stride = a.x_stride;
    p.w_stride = a.w_stride;
    p.out_stride = a.out_stride;
    p.x = a.x;
    p.w = a.w;
    p.bias = a.bias;
    p.out = a.out;
    p.workspace = workspace;
    p.stream = d->stream;
    stream_clock c = {d, nullptr, nullptr};
    struct blas_clock clock = {clock_begin, clock_end, &c};
    struct error err;
    enum status s = blas_multiply(d->blas, &p, d->recording ? NULL : &clock, &err);
    clock_close(&c);
    return s == STATUS_OK;
}
