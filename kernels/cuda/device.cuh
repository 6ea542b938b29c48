// SPDX-License-Identifier: Apache-2.0
// What the files of the CUDA back end share on the host: the device, the step's batch on it, and
// how an op starts a kernel.
//
// An op is one file: NAME.cu with its kernels and `void cuda_NAME(struct device *, const struct
// NAME_args *)`, declared below and entered in table.cu. The same files are compiled for devices
// and for the emulator.
//
// Everything runs in one stream, so what one op writes the next one reads, and the workspace may
// be used by one op after the other. The first failure is kept and told by device_sync.
#ifndef PHALANX_KERNELS_CUDA_DEVICE_CUH
#define PHALANX_KERNELS_CUDA_DEVICE_CUH

#include "base/check.h"
#include "kernels/cuda/port.cuh"
#include "kernels/kernels.h"
#include "kernels/plugin.h"

#if PHX_EMU
#define DEVICE_TABLE_NAME "emu"
#else
#define DEVICE_TABLE_NAME "cuda"
#endif

// A dense weight: rows of `k` elements, `stride` apart. Rows begin at multiples of 16 bytes; what
// lies between k and stride is zero.
struct weight {
    enum dtype dtype; // f32, f16 or bf16
    uint32_t n, k, stride;
    void *data;
    uint64_t bytes;
};

struct device_seq {
    uint32_t first_row, n_rows, first_position;
    uint32_t table[KERNELS_KV_GROUPS_MAX]; // where in device_batch.blocks its tables begin
};

enum device_count {
    DEVICE_COUNT_ROWS,
    DEVICE_COUNT_SEQS,
    DEVICE_COUNT_LOGIT_ROWS,
    DEVICE_COUNT_KEYS, // of the longest sequence: its last position + 1
    DEVICE_COUNTS = 8,
};

// The batch of the step. Addresses stay the same from step to step until a larger one comes
// (device.memory_turn then changes), so that a recorded graph can be replayed; a kernel that is
// recorded takes its numbers from `counts`, and the fields of the host only bound its grid.
struct device_batch {
    uint32_t n_rows, n_seqs, n_logit_rows, n_keys; // while a graph is recorded: upper bounds
    uint32_t seq_rows, seq_rows_least; // of the sequence with the most, with the fewest; likewise
    // Device memory.
    const uint32_t *counts;     // [DEVICE_COUNTS]
    const device_seq *seq;      // [n_seqs]
    const uint32_t *token_ids;  // [n_rows]
    const uint32_t *positions;  // [n_rows]
    const uint32_t *row_seq;    // [n_rows] the sequence of a row
    const uint32_t *logit_rows; // [n_logit_rows]
    const uint32_t *blocks;     // all tables, one after the other
    const uint32_t *kept;       // as batch.kept
};

// Memory of the host that copies read from, and its twin on the device.
struct device_staging {
    uint8_t *host, *device; // device is NULL where copies go elsewhere
    size_t bytes;
    cudaEvent_t read; // the last copy out of `host`
    bool used;
};

enum { DEVICE_STAGINGS = 2, DEVICE_TICKETS = 1024, DEVICE_KERNELS = 64 };

struct device_samplers; // sample.cu
struct device_graphs;   // graph.cu
struct device_constant; // constants.cu
struct blas;            // blas.h

struct device {
    cudaStream_t stream;
    int index;
    uint32_t n_sms, cc; // cc: 10 * major + minor; 80 where it is emulated
    char name[128];
    uint8_t uuid[16];
    enum dtype activation;
    enum determinism determinism;
    bool overlaps;           // kernels that wait may begin before the one before them has ended
    size_t block_shared_max; // dynamic bytes that a block may have (cudaFuncSetAttribute)
    // What kernels may have already: [n_allowed], in the order in which they asked.
    struct {
        const void *kernel;
        size_t bytes;
    } allowed[DEVICE_KERNELS];
    uint32_t n_allowed;

    struct device_batch batch;
    const struct batch *host_batch; // of the last batch_begin; a handle to compare, not to read
    struct device_staging batches[DEVICE_STAGINGS]; // taken in turn
    uint8_t *batch_memory;
    uint32_t rows_max, seqs_max, blocks_max, batch_turn;

    struct device_staging chunk[DEVICE_STAGINGS]; // of copy_in and weights
    uint32_t chunk_turn;
    struct device_staging ring[DEVICE_STAGINGS]; // of device_upload, filled in turn
    size_t ring_at;
    uint32_t ring_turn;
    cudaEvent_t mark[KERNELS_MARKS]; // NULL until it is set for the first time
    uint8_t *workspace;
    size_t workspace_bytes;
    size_t experts_bytes; // most workspace of the op experts, else rows come in several rounds
    struct device_constant *constants; // constants.cu
    struct device_graphs *graphs;      // graph.cu; NULL until one is wanted
    bool recording;                    // a graph: no copy from the host, no new memory
    bool recording_failed;             // more workspace was wanted than there is,
    size_t workspace_wanted;           // namely so much
    uint32_t memory_turn;              // changes with the addresses of batch and workspace

    mutable uint64_t launches; // of kernels so far, see cuda_launches

    uint32_t *tickets; // [DEVICE_TICKETS], see device_tickets
    struct blas *blas; // cuBLASLt, NULL where there is none or it was not wanted yet
    bool blas_tried;

    struct device_samplers *samplers;           // NULL until cuda_sampler_open, which also says
    void (*samplers_close)(struct device *d);   // who frees them
    void (*samplers_deliver)(struct device *d); // and hands results over, after a device_sync

    enum status failed; // the first failure, and its sentence
    struct error error;
};

// ---- for ops -----------------------------------------------------------------------------------

// What phx_launch takes.
phx_launch_config device_launch(
    const struct device *d, dim3 grid, dim3 block, size_t dynamic_bytes = 0);
// The same for kernels all of whose blocks call phx_grid_wait before they touch anything but
// weights.
phx_launch_config device_launch_waiting(
    const struct device *d, dim3 grid, dim3 block, size_t dynamic_bytes = 0);
// Before a kernel is started with `bytes` of dynamic shared memory, which may be more than 48 KiB:
// tells the run-time library, once for each kernel unless it asks for more.
template <class... P>
inline cudaError_t device_allow_shared(struct device *d, void (*kernel)(P...), size_t bytes)
{
    const void *key = reinterpret_cast<const void *>(kernel);
    uint32_t i = 0;
    while (i < d->n_allowed && d->allowed[i].kernel != key)
        i++;
    if (i < d->n_allowed && d->allowed[i].bytes >= bytes)
        return cudaSuccess;
    cudaError_t e =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    check(i < DEVICE_KERNELS);
    if (e != cudaSuccess)
        return e;
    d->allowed[i].kernel = key;
    d->allowed[i].bytes = bytes;
    d->n_allowed = i < d->n_allowed ? d->n_allowed : i + 1;
    return cudaSuccess;
}
// Keeps the failure of a launch or of a call of the run-time library, if it is the first one.
void device_keep(struct device *d, cudaError_t e, const char *what);
// Scratch of the op at hand, aligned to 256 bytes; NULL after a failure (which is kept). Grows when
// asked for more, which waits for the stream; while a graph is recorded it cannot, NULL comes back
// and the recording is given up.
void *device_workspace(struct device *d, size_t bytes);
// Brings a few numbers of the host's to the device, in the order of the stream; read when it
// returns. They stay until the stream has run what is enqueued before half a ring of further
// uploads. NULL after a failure. Not while a graph is recorded.
void *device_upload(struct device *d, const void *host, size_t bytes);
// Numbers of the host's that are the same in every step, say addresses of weights: brought once and
// again where they are others than those of the last call with this key. They stay until the device
// is closed. NULL after a failure, and while a graph is recorded, which is given up, where they are
// not there yet.
const void *device_constants(struct device *d, const void *key, const void *host, size_t bytes);
// Where blocks that share a sum say that they are done: DEVICE_TICKETS zeros, and each op leaves
// zeros. NULL after a failure.
uint32_t *device_tickets(struct device *d);
// As mem_take, not zeroed, and a failure is kept.
void *device_take(struct device *d, size_t bytes);

// ---- what ops take by themselves: bounds for cuda_mem_needs -------------------------------------

uint64_t device_batch_bytes(uint32_t n_rows, uint32_t n_seqs, uint32_t n_tables); // batch.cu
uint64_t device_samplers_bytes(uint32_t n_slots, uint32_t vocab_size, uint32_t ids_max);
uint64_t device_experts_bytes(const struct device *d, const struct mem_needs_args *a);
uint64_t device_attention_bytes(const struct device *d, const struct mem_needs_args *a);

// How many rows of a step there really are, where it is recorded for as many as the bounds; NULL
// elsewhere.
inline const uint32_t *device_live_rows(const struct device *d)
{
    return d->recording ? d->batch.counts + DEVICE_COUNT_ROWS : NULL;
}

// Bytes that a part of the workspace or of an upload takes, so that the next one is aligned.
inline size_t device_whole(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

// Blocks for `n` threads, at least 1 and at most what a grid's x may be.
inline unsigned device_grid(uint64_t n, unsigned block)
{
    uint64_t blocks = (n + block - 1) / block;
    return blocks < 1 ? 1u : blocks < 0x7fffffff ? (unsigned)blocks : 0x7fffffffu;
}

// The numbers of the host for a batch that has been brought: what grids are made of.
void device_bound_batch(struct device *d, const struct batch *b);
void device_graphs_close(struct device *d);
void device_constants_close(struct device *d);
uint32_t device_graphs_max(); // that are kept

// ---- for the files of the device itself ---------------------------------------------------------

// The device of this number, modulo how many there are, but for its free memory: nothing of it is
// taken by the question.
enum status device_one(uint32_t *index, struct plugin_device *out, struct error *err);
// struct plugin.devices.
enum status device_list(
    struct plugin_device out[PLUGIN_DEVICES_MAX], uint32_t *n, struct error *err);
enum status device_staging_open(
    struct device_staging *s, size_t bytes, bool twin, struct error *err);
void device_staging_close(struct device_staging *s);
// Waits until the last copy out of it has been done.
void device_staging_wait(struct device *d, struct device_staging *s);
// Copies its first bytes to `to`.
void device_staging_send(struct device *d, struct device_staging *s, void *to, size_t bytes);

// ---- the ops -----------------------------------------------------------------------------------

extern "C" {
enum status cuda_device_open(
    const struct device_args *args, struct device **out, struct error *err);
void cuda_device_close(struct device *d);
void cuda_device_describe(const struct device *d, char *text, size_t n);
enum status cuda_device_sync(struct device *d, struct error *err);
void *cuda_device_stream(struct device *d);
void cuda_device_place(const struct device *d, int *index, uint32_t *capability);
void cuda_device_uuid(const struct device *d, uint8_t uuid[16]);
void cuda_mem_needs(struct device *d, const struct mem_needs_args *a, struct mem_needs *out);
void cuda_mem_info(struct device *d, uint64_t *free_bytes, uint64_t *total_bytes);
void *cuda_mem_take(struct device *d, uint64_t bytes);
void cuda_mem_give(struct device *d, void *p, uint64_t bytes);
void cuda_copy_in(struct device *d, void *to_device, const void *from_host, uint64_t bytes);
void cuda_copy_out(struct device *d, void *to_host, const void *from_device, uint64_t bytes);
enum status cuda_weight_make(
    struct device *d, const struct weight_source *source, struct weight **out, struct error *err);
enum status cuda_weight_draw(
    struct device *d, const struct weight_draw_args *a, struct weight **out, struct error *err);
void cuda_weight_free(struct device *d, struct weight *w);
uint64_t cuda_weight_bytes(const struct weight_source *source);
const void *cuda_weight_data(const struct weight *w, enum dtype *dtype);
void cuda_batch_begin(struct device *d, const struct batch *b);

enum graph_state cuda_graph_begin(struct device *d, const struct graph_bounds *b);
bool cuda_graph_end(struct device *d, const struct batch *b);

void cuda_embed(struct device *d, const struct embed_args *a);
void cuda_norm(struct device *d, const struct norm_args *a);
void cuda_linear(struct device *d, const struct linear_args *a);
void cuda_linear_act(struct device *d, const struct linear_args *a, const struct act_args *act);
void cuda_norm_linear_rope(struct device *d, const struct norm_args *n, const struct linear_args *a,
    const struct rope_kv_args *r);
void cuda_norm_linear_act(struct device *d, const struct norm_args *n, const struct linear_args *a,
    const struct act_args *act);
void cuda_linear_add(struct device *d, const struct linear_args *a, const struct norm_args *n);
uint64_t cuda_launches(const struct device *d);
void cuda_clip(struct device *d, const struct clip_args *a);
void cuda_qk_norm(struct device *d, const struct qk_norm_args *a);
void cuda_experts(struct device *d, const struct experts_args *a);
void cuda_experts_pack(struct device *d, const struct experts_parts_args *a);
void cuda_experts_add(struct device *d, const struct experts_parts_args *a);
void cuda_rope_kv(struct device *d, const struct rope_kv_args *a);
void cuda_attention(struct device *d, const struct attention_args *a);
void cuda_act(struct device *d, const struct act_args *a);
void cuda_gather(struct device *d, const struct gather_args *a);
void cuda_place(struct device *d, const struct place_args *a);
void cuda_logit_scale(struct device *d, const struct logit_scale_args *a);
void cuda_block_copy(struct device *d, const struct block_copy_args *a);
enum status cuda_sampler_open(
    struct device *d, uint32_t n_slots, uint32_t vocab_size, uint32_t ids_max, struct error *err);
void cuda_sampler_begin(struct device *d, const struct sampler_begin_args *a);
void cuda_sample(struct device *d, const struct sample_args *a);
void cuda_keep_tokens(struct device *d, const struct keep_args *a);
void cuda_mark_set(struct device *d, uint32_t mark);
enum status cuda_mark_reached(struct device *d, uint32_t mark, bool wait, struct error *err);
void *cuda_host_take(struct device *d, uint64_t bytes);
void cuda_host_give(struct device *d, void *p);
}

#endif
