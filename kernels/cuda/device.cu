// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/blas.h"
#include "kernels/cuda/device.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK_BYTES = 4 << 20,
    RING_BYTES = 512 << 10,
    EXPERTS_BYTES = 256 << 20,
    DEFAULT_SHARED_BYTES = 48 << 10,
};

// ---- failures ----------------------------------------------------------------------------------

void device_keep(struct device *d, cudaError_t e, const char *what)
{
    if (e == cudaSuccess || d->failed != STATUS_OK)
        return;
    d->failed = e == cudaErrorMemoryAllocation ? STATUS_NO_MEMORY : STATUS_DEVICE_FAILED;
    status_fail(&d->error, d->failed, "%s on device %d (%s): %s", what, d->index, d->name,
        cudaGetErrorString(e));
}

enum status cuda_device_sync(struct device *d, struct error *err)
{
    device_keep(d, cudaStreamSynchronize(d->stream), "the work enqueued");
    if (d->samplers_deliver != NULL && d->failed == STATUS_OK)
        d->samplers_deliver(d);
    return d->failed == STATUS_OK ? STATUS_OK : status_fail(err, d->failed, "%s", d->error.text);
}

// ---- memory ------------------------------------------------------------------------------------

void *device_take(struct device *d, size_t bytes)
{
    void *p = NULL;
    check(!d->recording);
    cudaError_t e = cudaMalloc(&p, bytes > 0 ? bytes : 256);
    if (e == cudaSuccess)
        return p;
    cudaGetLastError(); // or the next launch would report it
    char what[64];
    snprintf(what, sizeof what, "memory of %zu bytes", bytes);
    device_keep(d, e, what);
    return NULL;
}

void cuda_mem_info(struct device *d, uint64_t *free_bytes, uint64_t *total_bytes)
{
    size_t left = 0, all = 0;
    device_keep(d, cudaMemGetInfo(&left, &all), "the question for free memory");
    *free_bytes = left;
    *total_bytes = all;
}

void *cuda_mem_take(struct device *d, uint64_t bytes)
{
    void *p = NULL;
    check(!d->recording);
    if (cudaMalloc(&p, bytes > 0 ? bytes : 256) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    device_keep(d, cudaMemsetAsync(p, 0, bytes, d->stream), "clearing memory");
    return p;
}

void cuda_mem_give(struct device *d, void *p, uint64_t bytes)
{
    (void)bytes;
    if (p == NULL)
        return;
    device_keep(d, cudaStreamSynchronize(d->stream), "the work enqueued");
    device_keep(d, cudaFree(p), "giving memory back");
}

void *device_workspace(struct device *d, size_t bytes)
{
    if (bytes <= d->workspace_bytes)
        return d->workspace;
    if (d->recording) {
        d->recording_failed = true;
        d->workspace_wanted = bytes;
        return NULL;
    }
    size_t rounded = (bytes + ((size_t)1 << 20) - 1) >> 20 << 20;
    d->memory_turn++;
    cuda_mem_give(d, d->workspace, d->workspace_bytes);
    d->workspace = (uint8_t *)device_take(d, rounded);
    d->workspace_bytes = d->workspace != NULL ? rounded : 0;
    return d->workspace;
}

uint32_t *device_tickets(struct device *d)
{
    constexpr size_t bytes = DEVICE_TICKETS * sizeof *d->tickets;
    if (d->tickets == NULL) {
        d->tickets = (uint32_t *)device_take(d, bytes);
        if (d->tickets != NULL)
            device_keep(d, cudaMemsetAsync(d->tickets, 0, bytes, d->stream), "tickets");
    }
    return d->tickets;
}

// ---- copies ------------------------------------------------------------------------------------

enum status device_staging_open(
    struct device_staging *s, size_t bytes, bool twin, struct error *err)
{
    cudaError_t e = cudaHostAlloc((void **)&s->host, bytes, cudaHostAllocPortable);
    if (e == cudaSuccess && twin)
        e = cudaMalloc((void **)&s->device, bytes);
    if (e == cudaSuccess && s->read == NULL)
        e = cudaEventCreateWithFlags(&s->read, cudaEventDisableTiming);
    if (e != cudaSuccess)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for %zu bytes of staging: %s", bytes,
            cudaGetErrorString(e));
    s->bytes = bytes;
    return STATUS_OK;
}

void device_staging_close(struct device_staging *s)
{
    if (s->host != NULL)
        cudaFreeHost(s->host);
    if (s->device != NULL)
        cudaFree(s->device);
    if (s->read != NULL)
        cudaEventDestroy(s->read);
    *s = device_staging();
}

// Waits until the last copy out of it has been done.
void device_staging_wait(struct device *d, struct device_staging *s)
{
    if (s->used)
        device_keep(d, cudaEventSynchronize(s->read), "a copy to the device");
}

void device_staging_send(struct device *d, struct device_staging *s, void *to, size_t bytes)
{
    device_keep(d, cudaMemcpyAsync(to, s->host, bytes, cudaMemcpyHostToDevice, d->stream),
        "a copy to the device");
    device_keep(d, cudaEventRecord(s->read, d->stream), "an event");
    s->used = true;
}

void cuda_copy_in(struct device *d, void *to_device, const void *from_host, uint64_t bytes)
{
    check(!d->recording);
    for (uint64_t at = 0; at < bytes && d->failed == STATUS_OK; at += CHUNK_BYTES) {
        size_t n = bytes - at < CHUNK_BYTES ? (size_t)(bytes - at) : (size_t)CHUNK_BYTES;
        struct device_staging *s = &d->chunk[d->chunk_turn++ % DEVICE_STAGINGS];
        device_staging_wait(d, s);
        memcpy(s->host, (const uint8_t *)from_host + at, n);
        device_staging_send(d, s, (uint8_t *)to_device + at, n);
    }
}

void cuda_copy_out(struct device *d, void *to_host, const void *from_device, uint64_t bytes)
{
    check(!d->recording);
    if (bytes > 0)
        device_keep(d,
            cudaMemcpyAsync(to_host, from_device, bytes, cudaMemcpyDeviceToHost, d->stream),
            "a copy from the device");
}

// Goes on in the other half of the ring: what was copied out of it the last time has been read.
static void ring_turn(struct device *d, size_t bytes)
{
    struct device_staging *full = &d->ring[d->ring_turn % DEVICE_STAGINGS];
    device_keep(d, cudaEventRecord(full->read, d->stream), "an event");
    full->used = true;
    struct device_staging *r = &d->ring[++d->ring_turn % DEVICE_STAGINGS];
    device_staging_wait(d, r);
    d->ring_at = 0;
    if (bytes <= r->bytes || d->failed != STATUS_OK)
        return;
    device_staging_close(r);
    d->failed = device_staging_open(r, 2 * bytes, true, &d->error);
}

void *device_upload(struct device *d, const void *host, size_t bytes)
{
    check(!d->recording);
    size_t rounded = device_whole(bytes);
    if (d->ring_at + rounded > d->ring[d->ring_turn % DEVICE_STAGINGS].bytes)
        ring_turn(d, rounded);
    if (d->failed != STATUS_OK)
        return NULL;
    struct device_staging *r = &d->ring[d->ring_turn % DEVICE_STAGINGS];
    size_t at = d->ring_at;
    d->ring_at += rounded;
    if (bytes > 0)
        memcpy(r->host + at, host, bytes);
    device_keep(d,
        cudaMemcpyAsync(r->device + at, r->host + at, bytes, cudaMemcpyHostToDevice, d->stream),
        "a copy to the device");
    return r->device + at;
}

// ---- life cycle --------------------------------------------------------------------------------

static enum status choose(struct device *d, uint32_t index, struct error *err)
{
    struct plugin_device p;
    TRY(device_one(&index, &p, err));
    d->index = (int)index;
    d->n_sms = p.n_sms;
    d->cc = 10 * p.cc_major + p.cc_minor;
    memcpy(d->name, p.name, sizeof d->name);
    memcpy(d->uuid, p.uuid, sizeof d->uuid);
    if (d->cc < 80)
        return status_fail(err, STATUS_UNSUPPORTED,
            "device %u (%s) has compute capability %u.%u; expected 8.0 or more", index, d->name,
            p.cc_major, p.cc_minor);
    return STATUS_OK;
}

static enum status open_parts(struct device *d, struct error *err)
{
    int shared = 0;
    cudaError_t e = cudaSetDevice(d->index);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, d->index);
    d->block_shared_max = shared > 0 ? (size_t)shared : (size_t)DEFAULT_SHARED_BYTES;
    if (e == cudaSuccess)
        e = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    if (e != cudaSuccess)
        return status_fail(err, STATUS_DEVICE_FAILED, "device %d (%s) cannot be used: %s", d->index,
            d->name, cudaGetErrorString(e));
    for (int i = 0; i < DEVICE_STAGINGS; i++) {
        TRY(device_staging_open(&d->chunk[i], CHUNK_BYTES, false, err));
        TRY(device_staging_open(&d->ring[i], RING_BYTES, true, err));
    }
    return STATUS_OK;
}

enum status cuda_device_open(const struct device_args *args, struct device **out, struct error *err)
{
    check(args->activation == DTYPE_F32 || args->activation == DTYPE_F16 ||
          args->activation == DTYPE_BF16);
    struct device *d = (struct device *)calloc(1, sizeof *d);
    if (d == NULL)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for a device");
    d->activation = args->activation;
    d->determinism = args->determinism;
    d->experts_bytes = EXPERTS_BYTES;
    enum status s = choose(d, args->index, err);
    d->overlaps = !args->no_overlap && (PHX_EMU || d->cc >= 90);
    if (s == STATUS_OK)
        s = open_parts(d, err);
    if (s != STATUS_OK) {
        cuda_device_close(d);
        return s;
    }
    *out = d;
    return STATUS_OK;
}

void cuda_device_close(struct device *d)
{
    if (d == NULL)
        return;
    if (d->stream != NULL)
        cudaStreamSynchronize(d->stream);
    device_graphs_close(d);
    device_constants_close(d);
    if (d->samplers_close != NULL)
        d->samplers_close(d);
    for (int i = 0; i < DEVICE_STAGINGS; i++) {
        device_staging_close(&d->chunk[i]);
        device_staging_close(&d->batches[i]);
        device_staging_close(&d->ring[i]);
    }
    for (uint32_t i = 0; i < KERNELS_MARKS; i++)
        if (d->mark[i] != NULL)
            cudaEventDestroy(d->mark[i]);
    if (d->batch_memory != NULL)
        cudaFree(d->batch_memory);
    if (d->workspace != NULL)
        cudaFree(d->workspace);
    if (d->tickets != NULL)
        cudaFree(d->tickets);
    blas_close(d->blas);
    if (d->stream != NULL)
        cudaStreamDestroy(d->stream);
    free(d);
}

void cuda_device_describe(const struct device *d, char *text, size_t n)
{
    snprintf(text, n, "%s: device %d, %s, compute capability %u.%u, %u SMs, %s", DEVICE_TABLE_NAME,
        d->index, d->name, d->cc / 10, d->cc % 10, d->n_sms, dtype_name(d->activation));
}

void *cuda_device_stream(struct device *d)
{
    return d->stream;
}

void cuda_device_place(const struct device *d, int *index, uint32_t *capability)
{
    *index = d->index;
    *capability = d->cc;
}

void cuda_device_uuid(const struct device *d, uint8_t uuid[16])
{
    memcpy(uuid, d->uuid, sizeof d->uuid);
}

phx_launch_config device_launch(const struct device *d, dim3 grid, dim3 block, size_t dynamic_bytes)
{
    phx_launch_config l = {};
    l.grid = grid;
    l.block = block;
    l.dynamic_bytes = dynamic_bytes;
    l.stream = d->stream;
    d->launches++;
    return l;
}

phx_launch_config device_launch_waiting(
    const struct device *d, dim3 grid, dim3 block, size_t dynamic_bytes)
{
    phx_launch_config l = device_launch(d, grid, block, dynamic_bytes);
    l.overlaps = d->overlaps;
    return l;
}

uint64_t cuda_launches(const struct device *d)
{
    return d->launches;
}
