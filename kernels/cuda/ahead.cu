// SPDX-License-Identifier: Apache-2.0
// Running ahead: tokens that stay on the device for the next step, marks in the stream, and memory
// of the host that copies need not wait for.
#include "kernels/cuda/device.cuh"

namespace
{

struct keep_call {
    unsigned n, result_stride;
    const uint32_t *slot, *from; // [n]
    const uint8_t *results;
    uint32_t *kept;
};

__global__ void __launch_bounds__(256) keep_kernel(keep_call c)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= c.n)
        return;
    const struct sample_result *r = reinterpret_cast<const struct sample_result *>(
        c.results + (size_t)c.from[i] * c.result_stride);
    c.kept[c.slot[i]] = r->failed ? 0 : r->id;
}

} // namespace

void cuda_keep_tokens(struct device *d, const struct keep_args *a)
{
    check(a->result_stride % alignof(struct sample_result) == 0);
    if (a->n == 0 || d->failed != STATUS_OK)
        return;
    const void *slot = device_upload(d, a->slot, a->n * sizeof *a->slot);
    const void *from = device_upload(d, a->from, a->n * sizeof *a->from);
    if (slot == NULL || from == NULL)
        return;
    keep_call c = {a->n, a->result_stride, (const uint32_t *)slot, (const uint32_t *)from,
        (const uint8_t *)a->results, a->kept};
    device_keep(d,
        phx_launch(device_launch(d, dim3(device_grid(a->n, 256)), dim3(256)), keep_kernel, c),
        "keeping tokens");
}

void cuda_mark_set(struct device *d, uint32_t mark)
{
    check(mark < KERNELS_MARKS && !d->recording);
    if (d->mark[mark] == NULL)
        device_keep(d, cudaEventCreateWithFlags(&d->mark[mark], cudaEventDisableTiming), "a mark");
    if (d->failed == STATUS_OK)
        device_keep(d, cudaEventRecord(d->mark[mark], d->stream), "a mark");
}

enum status cuda_mark_reached(struct device *d, uint32_t mark, bool wait, struct error *err)
{
    check(mark < KERNELS_MARKS && !d->recording);
    if (d->failed == STATUS_OK) {
        cudaError_t e = wait ? cudaEventSynchronize(d->mark[mark]) : cudaEventQuery(d->mark[mark]);
        if (e == cudaErrorNotReady) {
            cudaGetLastError(); // it is no error
            return STATUS_AGAIN;
        }
        device_keep(d, e, "the work enqueued");
    }
    return d->failed == STATUS_OK ? STATUS_OK : status_fail(err, d->failed, "%s", d->error.text);
}

void *cuda_host_take(struct device *d, uint64_t bytes)
{
    void *p = NULL;
    check(!d->recording);
    if (cudaHostAlloc(&p, bytes > 0 ? bytes : 256, cudaHostAllocPortable) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    return p;
}

void cuda_host_give(struct device *d, void *p)
{
    if (p == NULL)
        return;
    device_keep(d, cudaStreamSynchronize(d->stream), "the work enqueued");
    device_keep(d, cudaFreeHost(p), "giving memory back");
}
