// SPDX-License-Identifier: Apache-2.0
// Collective operations of the ranks of one group on CUDA devices that reach each other's memory.
//
// The host gives plain pointers: for every rank the *pad* (flags and buffers of this library) and
// the *heap* (the symmetric memory of the program), as mapped into this process. Both are device
// memory; pads are zero before the first rank uses them. Calls enqueue kernels into the caller's
// stream and return; they may be captured in graphs.
//
// Every member issues the same calls in the same order. A group runs one call at a time: a call in
// another stream than the one before begins when that has ended. Only what is captured has no order
// but the caller's: replays of graphs, and calls beside them, are in one stream or behind events.
// Ranks that disagree get STATUS_MISMATCH, a rank that does not come STATUS_TIMEOUT, by
// coll_device_poll; from then on all calls of the group do nothing, and what they should have
// written is unspecified. Nothing hangs, traps or prints.
//
// Sums run in rank order in f32 and are rounded once, so all algorithms and the host's collectives
// give the same bits. Launches are cooperative: they fail if not all of their blocks fit at once.
#ifndef PHALANX_COLLECTIVES_CUDA_DEVICE_H
#define PHALANX_COLLECTIVES_CUDA_DEVICE_H

#include "base/dtype.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { COLL_DEVICE_RANKS_MAX = 8, COLL_DEVICE_BLOCKS_MAX = 32, COLL_DEVICE_DIM_MAX = 40960 };

struct coll_device_group; // opaque; one per member and group

struct coll_device_args {
    uint32_t rank, size;
    uint32_t blocks, threads; // of the largest launch; equal on all ranks. 0: 32 and 512
    void *const *pads;        // [size], each coll_device_pad_bytes, aligned to 256
    void *const *heaps;       // [size], aligned to 256; NULL: no symmetric operations
    size_t heap_bytes;
    void *multicast_heap; // the heaps of all ranks as one address (sm_90, NVSwitch), or NULL
    uint32_t timeout_ms;  // from the start of a kernel; 0: 5,000
};

size_t coll_device_pad_bytes(uint32_t size, uint32_t blocks);
enum status coll_device_open(
    const struct coll_device_args *args, struct coll_device_group **out, struct error *err);
// After the last kernel of the group has ended.
void coll_device_close(struct coll_device_group *d);
// STATUS_OK, or why the group has ended. Looks at a word in host memory; any thread, any time.
enum status coll_device_poll(const struct coll_device_group *d, struct error *err);
// Changes, every millisecond or faster, while a kernel of the group waits for a peer, in whatever
// stream and whether it was enqueued or is replayed by a graph. Any thread, any time.
uint32_t coll_device_waits(const struct coll_device_group *d);
// Ends all waits of this rank's kernels, now and later, and so those of its peers.
void coll_device_abort(struct coll_device_group *d);

enum coll_device_algorithm {
    COLL_DEVICE_PACKETS = 1, // data and flag in one word, pushed to all: the smallest sizes
    COLL_DEVICE_ONE_SHOT,    // pushed to all, one meeting
    COLL_DEVICE_TWO_SHOT,  // each rank sums a slice and pushes the sum to all; in the heap in place
    COLL_DEVICE_MULTICAST, // summed by the switch, in its order: not the same bits
    COLL_DEVICE_ALGORITHM_COUNT
};

// buffer[i] = sum (or, `max`, maximum) over ranks, in place; f32, f16, bf16. `symmetric`: the
// buffer lies in the heap at the same offset on all ranks.
struct coll_device_reduce_args {
    const void *in;
    void *out; // all-reduce: may be equal to in
    size_t count;
    enum dtype dtype;
    bool max, symmetric;
    enum coll_device_algorithm algorithm;
    void *stream; // cudaStream_t
};
enum status coll_device_all_reduce(
    struct coll_device_group *d, const struct coll_device_reduce_args *a, struct error *err);
// out[this rank's part] of in[count], parts as coll_slice deals them. `algorithm` is ignored.
enum status coll_device_reduce_scatter(
    struct coll_device_group *d, const struct coll_device_reduce_args *a, struct error *err);

// out[size * bytes] = every rank's `bytes`.
enum status coll_device_all_gather(struct coll_device_group *d, const void *in, void *out,
    size_t bytes, void *stream, struct error *err);
enum status coll_device_broadcast(struct coll_device_group *d, void *buffer, size_t bytes,
    uint32_t root, void *stream, struct error *err);
enum status coll_device_barrier(struct coll_device_group *d, void *stream, struct error *err);

// residual = fma(sum over ranks of x + bias, scale, residual); out = RMSNorm(residual) * (offset +
// weight), in the order of kernels/cpu/canon.h; sum and out are rounded to dtype, the residual is
// of f32: the bits of all-reduce and norm in turn, and of coll_all_reduce_norm on the host.
struct coll_device_norm_args {
    const void *x;                  // [rows, dim]
    float *residual;                // [rows, dim], in and out; equal on all ranks
    const float *bias;              // [dim] or NULL
    const void *weight;             // [dim] of weight_dtype; NULL: ones
    enum dtype dtype, weight_dtype; // f32, f16 or bf16
    void *out;                      // [rows, dim]
    uint32_t rows, dim;
    float scale, offset, eps;
    void *stream;
};
enum status coll_device_norm(
    struct coll_device_group *d, const struct coll_device_norm_args *a, struct error *err);
// The same without a sum, for any number of rows: x holds it.
enum status coll_device_norm_alone(const struct coll_device_norm_args *a, struct error *err);

// Sums (or maxima) of memory that this device reaches: every dst[k][i] of all src[k][i] in order.
enum { COLL_DEVICE_SOURCES_MAX = 64 };
struct coll_device_sum_args {
    void *const *dst;
    const void *const *src;
    uint32_t n_dst, n_src; // up to COLL_DEVICE_SOURCES_MAX each
    size_t count;
    enum dtype dtype;
    bool max;
    void *stream;
};
enum status coll_device_sum(const struct coll_device_sum_args *a, struct error *err);

// Partial all-to-all, as coll_exchange of collectives/collectives.h: blocks are pushed into the
// slots of the receivers' heaps; pairs outside of `peers` cost nothing.
struct coll_device_exchange_args {
    uint64_t peers;
    const void *send[COLL_DEVICE_RANKS_MAX];  // device memory
    size_t send_bytes[COLL_DEVICE_RANKS_MAX]; // unless device_counts
    const uint32_t *device_counts;            // [size] in device memory, or NULL
    bool fixed;                               // receive_bytes must come
    size_t receive_bytes[COLL_DEVICE_RANKS_MAX];
    uint32_t *received; // [size] in device memory: what came, of peers only; or NULL
    void *receive;      // in the heap, size * slot_bytes
    size_t slot_bytes;
    void *stream;
};
enum status coll_device_exchange(
    struct coll_device_group *d, const struct coll_device_exchange_args *a, struct error *err);

// For tests: the words of an idle pad after which `epoch` comes next.
void coll_device_set_epoch(void *pad, uint32_t epoch);

#ifdef __cplusplus
}
#endif

#endif
