// SPDX-License-Identifier: Apache-2.0
// Collective operations among the ranks of one group.
//
// A group is any ordered subset of the processes (or threads) that meet through a bootstrap. It
// owns a symmetric heap: every member has one of the same size, and an object taken from it lies at
// the same offset on every rank, so peers read and write it in place without registration. Several
// groups live side by side; each has its own heap, flags and epochs, nothing is shared or static.
//
// Order. All members call the same operations in the same order with the same counts, dtype and
// operation. That is checked: each flag carries the epoch and a signature of the call, and members
// that disagree get STATUS_MISMATCH, never a hang. One operation of a group is in flight at a time;
// a second one at once is STATUS_BUSY. A group may have several channels: each has flags, epochs
// and staging of its own, so that operations of different channels may run side by side.
//
// Time. Every wait has the group's deadline and looks at the abort word and at the peers' process
// handles: STATUS_TIMEOUT, STATUS_ABORTED or STATUS_PEER_GONE. Such an error is sticky: all later
// calls return it; the group can only be destroyed, and a new one made. Nothing exits or prints.
//
// Sums run in rank order with f32 accumulation and one rounding at the end: every rank gets the
// same bits, whatever the algorithm, size, back end or placement of buffers. The only exception is
// a back end's own reduction, which is used where coll_args.native allows it and nowhere else.
//
// Back ends. Which one serves a group is decided once, on all ranks alike, when it is made; which
// algorithm serves a call is a pure function of the arguments that all ranks have in common and of
// the tuning table, which is equal on all ranks. coll_explain tells both. See backend.h.
//
// Threads. A member's calls come from one thread at a time; coll_abort may come from any. Different
// channels may be used by different threads.
#ifndef PHALANX_COLLECTIVES_COLLECTIVES_H
#define PHALANX_COLLECTIVES_COLLECTIVES_H

#include "base/dtype.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { COLL_RANKS_MAX = 64, COLL_CHANNELS_MAX = 8 };

struct coll_group;   // opaque, one per member and group
struct coll_backend; // collectives/backend.h
struct coll_device;  // collectives/backend.h

// How members meet and exchange bytes and handles before a group exists. Implementations:
// bootstrap_threads (fork or threads in one process), bootstrap_mpi (a communicator),
// bootstrap_files (a directory). All calls are collective over the bootstrap's own ranks.
struct bootstrap {
    uint32_t rank, size;
    void *state;
    // out[size * bytes] receives every rank's `bytes` in rank order.
    enum status (*all_gather)(
        struct bootstrap *b, const void *mine, size_t bytes, void *out, struct error *err);
    enum status (*barrier)(struct bootstrap *b, struct error *err);
    // Passes an open file descriptor from `root` to all others (SCM_RIGHTS, or dup within one
    // process); `fd` is read on root and written elsewhere. The receiver owns it.
    enum status (*share_fd)(struct bootstrap *b, uint32_t root, int *fd, struct error *err);
    // A handle of the peer's process for poll (pidfd), or -1 where peers are threads. Borrowed.
    int (*peer_pidfd)(struct bootstrap *b, uint32_t peer);
    // A bootstrap over the ranks that give the same colour, ordered by rank; freed by close.
    enum status (*split)(
        struct bootstrap *b, uint32_t colour, struct bootstrap **out, struct error *err);
    void (*close)(struct bootstrap *b);
};

struct coll_args {
    const char *backend; // "auto" or NULL: the first that all ranks can use; or a name
    // Back ends of other libraries (backend_mpi, the CUDA plugin's), ended by NULL; NULL: none.
    const struct coll_backend *const *more;
    const struct coll_device *device; // NULL: buffers and heap are host memory
    uint64_t heap_bytes;              // symmetric heap of each rank
    uint32_t timeout_ms;              // of each wait; 0: 60,000
    uint32_t channels;                // 0: one
    bool spin;                        // ranks have a core each: spin before yielding
    bool native;              // a back end's own reductions may be used: faster perhaps, other bits
    const char *tuning_file;  // NULL: built-in table; its hash must agree on all ranks
    const char *nccl_library; // NULL: libnccl.so.2
};

enum coll_op { COLL_SUM, COLL_MAX };

enum status coll_create(
    struct bootstrap *b, const struct coll_args *args, struct coll_group **out, struct error *err);
// Not collective: a member may leave alone; the others notice at their next wait. Graphs that hold
// calls of the group must be gone by then.
void coll_destroy(struct coll_group *g);
uint32_t coll_rank(const struct coll_group *g);
uint32_t coll_size(const struct coll_group *g);
// Wakes every waiting member with STATUS_ABORTED.
void coll_abort(struct coll_group *g);
// Channel `index` of the group that coll_create returned, which is channel 0 itself. Borrowed: it
// lives as long as that group; NULL where there are fewer. Heap and membership are common to all
// channels, and so is the end: an error of one channel ends all.
struct coll_group *coll_channel(struct coll_group *g, uint32_t index);
// STATUS_OK, or the group's sticky error. On devices this is how the failure of an operation that
// was enqueued earlier comes to light, and what watches its deadline and the peers: call it while
// waiting for a stream.
enum status coll_poll(struct coll_group *g);
// The sentence of the last call that failed; of a sticky error, the first. Lives with the group.
const struct error *coll_error(const struct coll_group *g);
// Whether a stream may be captured while operations are enqueued into it, and what was captured be
// launched as often as one likes: by all members alike, with the same calls in between.
bool coll_can_be_recorded(const struct coll_group *g);
// "shm", "cuda", "nccl" or "mpi".
const char *coll_backend_name(const struct coll_group *g);
// One line for people: which back end and algorithm serve this operation at this size, and why.
// `operation` is a name as in coll_all_reduce without the prefix.
void coll_explain(const struct coll_group *g, const char *operation, size_t bytes, bool symmetric,
    char *text, size_t n);

// Memory of the symmetric heap, aligned to 128 bytes, zeroed; the same sequence of calls on every
// rank gives the same offsets. NULL when the heap is used up. Given back with the group.
void *coll_heap_take(struct coll_group *g, size_t bytes);
// Whether [p, p + bytes) lies in the heap.
bool coll_heap_holds(const struct coll_group *g, const void *p, size_t bytes);

// In place: buffer[i] = sum (or max) over ranks. f32, f16 or bf16. Buffers in the heap
// ("symmetric": the same offset on all ranks) are reduced without a copy; others are staged.
// `symmetric` says which on all ranks alike.
struct coll_all_reduce_args {
    void *buffer;
    size_t count;
    enum dtype dtype;
    enum coll_op op;
    bool symmetric;
    void *stream; // NULL on CPUs; on devices calls run in the order of the calls, in any streams
};
enum status coll_all_reduce(struct coll_group *g, const struct coll_all_reduce_args *a);

// All-reduce, residual add and RMSNorm in one: in this order, for each row,
//   x = sum over ranks of x;  residual = fma(x + bias, residual_scale, residual);
//   out = residual * (1 / sqrt(mean(residual^2) + eps)) * (weight_offset + weight),
// in f32, x and out rounded to the type where they are stored (x + bias is not stored). The
// residual stream is of f32 whatever the type: its roundings would add up over all layers, and it
// does not travel. What travels is x, of the type of the activations: of f32 it would be twice as
// long. Bits are those of coll_all_reduce followed by the back end's norm: on the host by
// reduce_norm of collectives/reduce.h, which for f32 computes what the CPU kernels' norm does.
struct coll_all_reduce_norm_args {
    void *x; // [n_rows, dim]; holds anything afterwards
    size_t n_rows, dim;
    enum dtype dtype; // of x and out: f32, f16 or bf16
    bool symmetric;   // x lies in the heap
    float *residual;  // [n_rows, dim], equal on all ranks, in place
    float residual_scale;
    const float *bias;       // [dim], equal on all ranks; NULL: none
    const void *weight;      // [dim] of weight_dtype, equal on all ranks; NULL: ones
    enum dtype weight_dtype; // f32, f16 or bf16
    float weight_offset, eps;
    void *out; // [n_rows, dim], other memory than x and residual
    void *stream;
};
enum status coll_all_reduce_norm(struct coll_group *g, const struct coll_all_reduce_norm_args *a);

// out[count of this rank] = sum over ranks of in[its slice]; slices as coll_slice deals them.
enum status coll_reduce_scatter(struct coll_group *g, const void *in, void *out, size_t count,
    enum dtype dtype, enum coll_op op, void *stream);
// out[size * bytes] = every rank's `bytes`, in rank order; in may be out + rank * bytes.
enum status coll_all_gather(
    struct coll_group *g, const void *in, void *out, size_t bytes, void *stream);
enum status coll_broadcast(
    struct coll_group *g, void *buffer, size_t bytes, uint32_t root, void *stream);
enum status coll_barrier(struct coll_group *g, void *stream);

// Elements [*begin, *begin + *count) of `total` that rank `rank` of `size` reduces.
void coll_slice(size_t total, uint32_t size, uint32_t rank, size_t *begin, size_t *count);

// Partial all-to-all. Each rank r exchanges with a declared set of peers P(r), symmetric (q in P(r)
// iff r in P(q)); pairs outside cost neither traffic nor flags. Blocks go into the
// receiver's heap: slot q of the receive region belongs to source q. All ranks of the group call
// it, also those without peers: operations are counted.
enum coll_counts {
    COLL_COUNTS_FIXED,   // both sides know every size (checked by the signature)
    COLL_COUNTS_BOUNDED, // up to slot_bytes; the size travels with the block
    COLL_COUNTS_DEVICE,  // bounded, but read where the group's buffers are, when the call runs
};
struct coll_exchange_args {
    enum coll_counts counts;
    uint64_t peers;           // bit q: rank q is in P(r); own bit: a block to oneself
    const void *const *send;  // [size] block for each peer, or NULL
    const size_t *send_bytes; // [size]
    void *receive;            // in the heap, size * slot_bytes; block of q at q * slot_bytes
    size_t slot_bytes;
    size_t *receive_bytes; // [size]; bounded: out, what came from each peer; fixed: in, what has to
    // COLL_COUNTS_DEVICE only, in place of the two above: [size] each, in the group's kind of
    // memory; read and written in the order of the stream. Entries of ranks that are no peers are
    // left alone.
    const uint32_t *device_send_bytes;
    uint32_t *device_receive_bytes;
    void *stream;
};
enum status coll_exchange(struct coll_group *g, const struct coll_exchange_args *a);

#endif
