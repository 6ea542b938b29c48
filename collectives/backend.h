// SPDX-License-Identifier: Apache-2.0
// What a back end gives to a group, and what a device gives to a back end.
//
//   collectives.h   checks of arguments, order, signatures, sticky errors   (ops.c, group.c)
//        |
//   coll_backend    shm, cuda (built in) | nccl (built in, loaded at run time) |
//        |          mpi (phalanx_bootstrap_mpi)
//   coll_device     memory and sums of a device, for nccl and cuda; of the CUDA plugin
//                   (collectives/cuda/plugin.h)
//
// Choice. With "auto" the candidates are, on a device: cuda, nccl, mpi; on the host: shm, mpi.
// Every rank probes every candidate, the verdicts are joined, and the first that all ranks can use
// serves the group: a pure function of what all ranks have told each other. A name instead of
// "auto" demands that one, or creation fails with the first rank's reason.
//
// Exactness. Back ends move bytes; sums are reduce_table's, or the device's with the same
// definition (reduce.h). A native reduction sums in an order of its own: it runs only with
// coll_args.native, and coll_explain then says "inexact".
#ifndef PHALANX_COLLECTIVES_BACKEND_H
#define PHALANX_COLLECTIVES_BACKEND_H

#include "collectives/collectives.h"

// Arguments that have been checked: element types can be reduced, buffers that were called
// symmetric lie in the heap, blocks fit their slots, byte counts do not overflow.
struct coll_reduce_scatter_args {
    const void *in;
    void *out;
    size_t count;
    enum dtype dtype;
    enum coll_op op;
    void *stream;
};
struct coll_all_gather_args {
    const void *in;
    void *out;
    size_t bytes;
    void *stream;
};
struct coll_broadcast_args {
    void *buffer;
    size_t bytes;
    uint32_t root;
    void *stream;
};

struct coll_backend {
    const char *name;
    bool on_device; // buffers and heap are memory of args->device
    bool recorded;  // operations may be captured in a graph: nothing of a call is kept on the host
    // Whether this rank could take part; otherwise the reason. Not collective, changes nothing.
    enum status (*probe)(const struct coll_args *args, struct error *err);
    // Bytes of the group's shared control segment that it needs per group (shm: everything).
    size_t (*segment_bytes)(uint32_t size, uint32_t channels, size_t heap_bytes);
    // Collective, also when this rank cannot go on: whoever fails returns an error, and the group
    // is made only if nobody does (the caller joins the verdicts). Rank, size, heap_bytes and the
    // control segment of `g` are ready. Sets the heap and the back end's state.
    enum status (*open)(
        struct coll_group *g, struct bootstrap *b, const struct coll_args *args, struct error *err);
    void (*close)(struct coll_group *g); // not collective; also after a failed open

    // Operations, called between group_begin and group_end. A group of one comes here too, except
    // where there is nothing to do.
    enum status (*all_reduce)(struct coll_group *g, const struct coll_all_reduce_args *a);
    enum status (*all_reduce_norm)(struct coll_group *g, const struct coll_all_reduce_norm_args *a);
    enum status (*reduce_scatter)(struct coll_group *g, const struct coll_reduce_scatter_args *a);
    enum status (*all_gather)(struct coll_group *g, const struct coll_all_gather_args *a);
    enum status (*broadcast)(struct coll_group *g, const struct coll_broadcast_args *a);
    enum status (*barrier)(struct coll_group *g, void *stream);
    enum status (*exchange)(struct coll_group *g, const struct coll_exchange_args *a);

    // (optional) Wakes what the back end itself waits for; any thread. The segment is poisoned.
    void (*abort)(struct coll_group *g);
    // (optional) The failure of an operation that was enqueued earlier.
    enum status (*poll)(struct coll_group *g, struct error *err);
    // "one_shot", "push", "native (inexact)", ...
    const char *(*algorithm)(
        const struct coll_group *g, const char *operation, size_t bytes, bool symmetric);
    // (optional) How members reach each other's memory.
    const char *(*reach)(const struct coll_group *g);
};

extern const struct coll_backend backend_shm, backend_cuda, backend_nccl;
// In phalanx_bootstrap_mpi, the only library that links MPI. The bootstrap may be any, but
// MPI_Init must have been called in every member, and members are processes.
extern const struct coll_backend backend_mpi;

// Memory and sums of one device, in the order of a stream (a cudaStream_t as void *). Given by the
// CUDA plugin; tests give one whose memory is the host's. All functions return STATUS_DEVICE_FAILED
// for what the device reports.
struct coll_device {
    void *context;
    const char *arch; // "sm80", "sm90", ...: the first column of the tuning table
    enum status (*take)(void *context, size_t bytes, void **out, struct error *err); // zeroed
    void (*give)(void *context, void *p);
    enum status (*copy)(void *context, void *dst, const void *src, size_t bytes, void *stream);
    // As reduce_fn, on device memory; the tables of pointers are host memory, read during the call.
    enum status (*reduce)(void *context, void *const *dst, uint32_t n_dst, const void *const *src,
        uint32_t n_src, size_t count, enum dtype dtype, enum coll_op op, void *stream);
    // The second half of coll_all_reduce_norm, after the sum.
    enum status (*norm)(void *context, const struct coll_all_reduce_norm_args *a, void *stream);
    // Whether everything enqueued on the stream has run: STATUS_OK, STATUS_AGAIN or the failure.
    enum status (*query)(void *context, void *stream);
    // (optional) Memory that members map and kernels that use it: what the back end "cuda" needs.
    const struct coll_peers *peers; // collectives/cuda/peers.h
};

#endif
