// SPDX-License-Identifier: Apache-2.0
// What the operations share on the host: the handle, signatures and launches.
#ifndef PHALANX_COLLECTIVES_CUDA_DEVICE_CUH
#define PHALANX_COLLECTIVES_CUDA_DEVICE_CUH

#include "collectives/cuda/pieces.cuh"

struct coll_device_group {
    pad_group group;
    cudaEvent_t last; // behind the last call that was not captured; NULL: there was none
    unsigned long long last_stream; // its cudaStreamGetId: pointers come again
    unsigned threads;
    size_t heap_bytes;
    void *multicast_heap;
};

enum device_operation {
    DEVICE_BARRIER = 1,
    DEVICE_ALL_REDUCE,
    DEVICE_REDUCE_SCATTER,
    DEVICE_ALL_GATHER,
    DEVICE_BROADCAST,
    DEVICE_NORM,
    DEVICE_EXCHANGE,
};

// The group as the kernels of one call see it: with a signature of what all ranks must agree about.
pad_group device_call(const coll_device_group *d, device_operation op, uint64_t a, uint64_t b = 0,
    uint64_t c = 0, uint64_t e = 0);
// As many blocks as have a piece to do, at most the group's.
unsigned device_blocks(const coll_device_group *d, uint64_t pieces);
phx_launch_config device_launch(
    const coll_device_group *d, unsigned blocks, size_t dynamic_bytes, void *stream);
// Around every launch. Two kernels of a group at once would wait for each other's ranks for ever,
// so a call in another stream than the last one's begins behind that.
enum status device_begin(coll_device_group *d, void *stream, struct error *err);
enum status device_end(
    coll_device_group *d, void *stream, cudaError_t e, const char *what, struct error *err);
// Of a kernel that waits for nobody.
enum status device_started(cudaError_t e, const char *what, struct error *err);
// Offset of [p, p + bytes) in the heap, or SIZE_MAX.
size_t device_heap_offset(const coll_device_group *d, const void *p, size_t bytes);
// 0 to 2 for f32, f16, bf16; 3 for others.
unsigned device_type(enum dtype t);
enum status device_wrong_type(const char *what, enum dtype t, struct error *err);

#endif
