// SPDX-License-Identifier: Apache-2.0
#include "collectives/cuda/device.cuh"

#include <stdlib.h>
#include <string.h>

enum { DEVICE_THREADS = 512, DEVICE_TIMEOUT_MS = 5000 };

size_t coll_device_pad_bytes(uint32_t size, uint32_t blocks)
{
    size_t n = blocks == 0 ? PAD_BLOCKS : blocks;
    size_t packets = n * 2 * size * PAD_PACKETS * sizeof(phx_pair);
    return pad_head_bytes() + packets + n * 2 * 2 * size * PAD_PART_BYTES;
}

static enum status check_args(const struct coll_device_args *a, struct error *err)
{
    if (a->size < 1 || a->size > COLL_DEVICE_RANKS_MAX || a->rank >= a->size)
        return status_fail(err, STATUS_INVALID,
            "rank %u of %u: a group of devices has 1 to %d ranks", (unsigned)a->rank,
            (unsigned)a->size, (int)COLL_DEVICE_RANKS_MAX);
    if (a->blocks > COLL_DEVICE_BLOCKS_MAX || a->threads > DEVICE_THREADS || a->threads % 32 != 0)
        return status_fail(err, STATUS_INVALID,
            "%u blocks of %u threads: at most %d and %d are used, threads in whole warps",
            (unsigned)a->blocks, (unsigned)a->threads, (int)COLL_DEVICE_BLOCKS_MAX,
            (int)DEVICE_THREADS);
    for (uint32_t r = 0; r < a->size; r++)
        if (a->pads[r] == NULL || ((size_t)a->pads[r] & 255) != 0)
            return status_fail(
                err, STATUS_INVALID, "the pad of rank %u is not aligned to 256", (unsigned)r);
    return STATUS_OK;
}

enum status coll_device_open(
    const struct coll_device_args *args, struct coll_device_group **out, struct error *err)
{
    void *status = NULL, *mapped = NULL;
    TRY(check_args(args, err));
    coll_device_group *d = (coll_device_group *)calloc(1, sizeof *d);
    if (d == NULL)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for a group of devices");
    cudaError_t e =
        cudaHostAlloc(&status, sizeof(pad_status), cudaHostAllocMapped | cudaHostAllocPortable);
    if (e == cudaSuccess)
        e = cudaHostGetDevicePointer(&mapped, status, 0);
    // One address for both is what unified addressing gives; everything older is not served.
    if (e != cudaSuccess || mapped != status) {
        free(d);
        return status_fail(err, STATUS_DEVICE_FAILED, "no host memory that the device sees: %s",
            cudaGetErrorString(e));
    }
    memset(status, 0, sizeof(pad_status));
    d->group.rank = args->rank;
    d->group.size = args->size;
    d->group.blocks = args->blocks == 0 ? PAD_BLOCKS : args->blocks;
    d->group.timeout_ns =
        (args->timeout_ms == 0 ? (phx_u64)DEVICE_TIMEOUT_MS : (phx_u64)args->timeout_ms) * 1000000;
    d->group.status = (pad_status *)status;
    d->threads = args->threads == 0 ? (unsigned)DEVICE_THREADS : args->threads;
    d->multicast_heap = args->multicast_heap;
    for (uint32_t r = 0; r < args->size; r++) {
        d->group.pads[r] = (pad_head *)args->pads[r];
        if (args->heaps != NULL)
            d->group.heaps[r] = (uint8_t *)args->heaps[r];
    }
    d->heap_bytes = args->heaps == NULL ? 0 : args->heap_bytes;
    *out = d;
    return STATUS_OK;
}

void coll_device_close(struct coll_device_group *d)
{
    if (d == NULL)
        return;
    if (d->last != NULL)
        cudaEventDestroy(d->last);
    cudaFreeHost(d->group.status);
    free(d);
}

static enum status record_fail(phx_u64 record, struct error *err)
{
    static const char *const phases[] = {"the start", "the middle", "the end", "the clearing"};
    unsigned phase = (unsigned)(record >> 32) & 0xff, culprit = (unsigned)(record >> 40) & 0xff;
    const char *where = phases[phase % PAD_PHASES];
    switch (record >> 56) {
    case PAD_TIMEOUT:
        return status_fail(err, STATUS_TIMEOUT, "rank %u did not come to %s of piece %u in time",
            culprit, where, (unsigned)record);
    case PAD_MISMATCH:
        return status_fail(err, STATUS_MISMATCH,
            "rank %u called something else at piece %u: operation, count, type and order must be "
            "equal on all ranks",
            culprit, (unsigned)record);
    case PAD_TOO_LARGE:
        return status_fail(err, STATUS_TOO_LARGE,
            "rank %u sent a block that is larger than the slots of the exchange, or from NULL",
            culprit);
    default:
        return status_fail(err, STATUS_ABORTED, "the group was aborted by rank %u", culprit);
    }
}

enum status coll_device_poll(const struct coll_device_group *d, struct error *err)
{
    phx_u64 record = __atomic_load_n(&d->group.status->record, __ATOMIC_ACQUIRE);
    if (record != 0)
        return record_fail(record, err);
    if (__atomic_load_n(&d->group.status->abort, __ATOMIC_RELAXED) != 0)
        return status_fail(err, STATUS_ABORTED, "the group was aborted by this rank");
    return STATUS_OK;
}

uint32_t coll_device_waits(const struct coll_device_group *d)
{
    return __atomic_load_n(&d->group.status->waits, __ATOMIC_RELAXED);
}

void coll_device_abort(struct coll_device_group *d)
{
    __atomic_store_n(&d->group.status->abort, 1u, __ATOMIC_RELAXED);
}

void coll_device_set_epoch(void *pad, uint32_t epoch)
{
    pad_head *p = (pad_head *)pad;
    for (unsigned b = 0; b < PAD_BLOCKS; b++) {
        p->counters[b].epoch = p->counters[b].turn = epoch;
        p->now[b] = epoch;
    }
}

// FNV-1a over the words, folded.
pad_group device_call(
    const coll_device_group *d, device_operation op, uint64_t a, uint64_t b, uint64_t c, uint64_t e)
{
    const uint64_t words[] = {(uint64_t)op, a, b, c, e, d->group.size, d->group.blocks};
    uint64_t h = 0xcbf29ce484222325ull;
    for (uint64_t w : words)
        for (unsigned i = 0; i < 64; i += 8)
            h = (h ^ (w >> i & 0xff)) * 0x100000001b3ull;
    pad_group g = d->group;
    g.signature = (unsigned)(h ^ h >> 32);
    return g;
}

unsigned device_blocks(const coll_device_group *d, uint64_t pieces)
{
    if (pieces == 0)
        return 1;
    return pieces < d->group.blocks ? (unsigned)pieces : d->group.blocks;
}

phx_launch_config device_launch(
    const coll_device_group *d, unsigned blocks, size_t dynamic_bytes, void *stream)
{
    phx_launch_config l = {};
    l.grid = dim3(blocks);
    l.block = dim3(d->threads);
    l.dynamic_bytes = dynamic_bytes;
    l.stream = (cudaStream_t)stream;
    l.cooperative = true;
    return l;
}

enum status device_started(cudaError_t e, const char *what, struct error *err)
{
    if (e == cudaSuccess)
        return STATUS_OK;
    return status_fail(
        err, STATUS_DEVICE_FAILED, "%s did not start: %s", what, cudaGetErrorString(e));
}

static enum status in_order(cudaError_t e, struct error *err)
{
    return e == cudaSuccess
               ? STATUS_OK
               : status_fail(err, STATUS_DEVICE_FAILED,
                     "calls in several streams cannot be put in order: %s", cudaGetErrorString(e));
}

// What is captured runs when its graph is replayed, in any stream: that order is the caller's.
static cudaError_t captures(cudaStream_t stream, bool *does)
{
    cudaStreamCaptureStatus s = cudaStreamCaptureStatusNone;
    cudaError_t e = cudaStreamIsCapturing(stream, &s);
    *does = s != cudaStreamCaptureStatusNone;
    return e;
}

enum status device_begin(coll_device_group *d, void *stream, struct error *err)
{
    cudaStream_t s = (cudaStream_t)stream;
    unsigned long long id = 0;
    bool captured = false;
    TRY(coll_device_poll(d, err));
    if (d->last == NULL)
        return STATUS_OK;
    TRY(in_order(cudaStreamGetId(s, &id), err));
    if (id == d->last_stream)
        return STATUS_OK;
    TRY(in_order(captures(s, &captured), err));
    return captured ? STATUS_OK : in_order(cudaStreamWaitEvent(s, d->last, 0), err);
}

enum status device_end(
    coll_device_group *d, void *stream, cudaError_t e, const char *what, struct error *err)
{
    cudaStream_t s = (cudaStream_t)stream;
    bool captured = false;
    TRY(device_started(e, what, err));
    TRY(in_order(captures(s, &captured), err));
    if (captured)
        return STATUS_OK;
    if (d->last == NULL)
        TRY(in_order(cudaEventCreateWithFlags(&d->last, cudaEventDisableTiming), err));
    TRY(in_order(cudaStreamGetId(s, &d->last_stream), err));
    return in_order(cudaEventRecord(d->last, s), err);
}

size_t device_heap_offset(const coll_device_group *d, const void *p, size_t bytes)
{
    const uint8_t *heap = d->group.heaps[d->group.rank], *at = (const uint8_t *)p;
    if (heap == NULL || at < heap || bytes > d->heap_bytes ||
        (size_t)(at - heap) > d->heap_bytes - bytes)
        return SIZE_MAX;
    return (size_t)(at - heap);
}

unsigned device_type(enum dtype t)
{
    return t == DTYPE_F32 ? 0 : t == DTYPE_F16 ? 1 : t == DTYPE_BF16 ? 2 : 3;
}

enum status device_wrong_type(const char *what, enum dtype t, struct error *err)
{
    return status_fail(err, STATUS_UNSUPPORTED, "%s of %s is not offered; f32, f16 and bf16 are",
        what, dtype_name(t));
}
