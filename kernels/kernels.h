// SPDX-License-Identifier: Apache-2.0
// The op table: everything a forward pass asks of a device, as about 25 coarse operations chosen
// once at start. worker/forward is written against this table alone.
//
// Vocabulary
//   device  one CPU team of threads or one GPU, with its memory; opened once per rank.
//   stream  the order in which operations run. Ops are enqueued by one thread; on the CPU they have
//           run when the call returns. device_sync() waits for all of them.
//   batch   the rows of one step: n_tokens rows, grouped into sequences (struct batch).
//
// Rules for every op
//   * Arguments are one const struct with shapes in comments, row-major, last index fastest.
//     Activations (x, qkv, attended, mlp; `void *` below) are of device_args.activation, which the
//     table's activation_for() names: always f32 on the CPU, elsewhere the type of the weights. The
//     residual stream and logits are always f32. Where an op serves both, a field says which one.
//   * Pointers are device pointers from mem_take or weight handles from weight_make. Inputs and
//     outputs do not overlap unless the op says "in place".
//   * Each output element is summed in an order that depends on the op, N, K and dtype only, never
//     on the number of rows, on threads or on time: a row's result is the same bits in any batch.
//     (On devices DETERMINISM_RUN allows orders that depend on the number of rows as well.)
//     On the CPU every version (plain C, AVX2, AVX-512) gives the same bits; kernels/cpu/canon.h
//     defines them.
//   * Ops do not fail for wrong arguments (those are bugs: check()); a device failure is reported
//     by device_sync and is final for the rank.
//   * A step begins with batch_begin (where the table has it); ops that take a batch are given that
//     one. Numbers of the batch are then on the device, and so is nothing else of the host's: where
//     an argument says "host memory", it is read before the op returns.
//   * Slots marked (optional) may be NULL; callers then compose them from the others, and tests
//     compare both bit for bit.
#ifndef PHALANX_KERNELS_KERNELS_H
#define PHALANX_KERNELS_KERNELS_H

#include "base/dtype.h"
#include "base/sampling_params.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct device; // opaque; one per rank
struct weight; // opaque; see weight_make

enum {
    KERNELS_KV_GROUPS_MAX = 2,
    KERNELS_ATTENTION_CHUNK = 256, // KV positions per partial softmax, absolute multiples
    KERNELS_WEIGHT_PARTS_MAX = 4,
    KERNELS_MARKS = 4,
    KERNELS_FUSED_ROWS = 16, // most rows for which several ops of a layer are one
};
#define KERNELS_TOKEN_KEPT 0x80000000u

// What equal sums on a device depend on: `BATCH` (a row's bits are the same in any batch) or `RUN`
// (the same plans give the same bits). The CPU gives BATCH always.
enum determinism { DETERMINISM_BATCH, DETERMINISM_RUN };

struct device_args {
    uint32_t n_threads;    // CPU: team size, at least 1 (the calling thread is one of them)
    uint32_t index;        // GPU number; more ranks than GPUs share them in turn
    enum dtype activation; // as activation_for() says
    enum determinism determinism;
    bool no_overlap; // GPU: no kernel begins before the one before it has ended
    bool spin;       // threads may spin between ops: true where cores >= runnable threads
    const char *isa; // CPU: "auto", "plain", "avx2", "avx512"; for tests and benches
};

// ---- weights -----------------------------------------------------------------------------------

enum weight_format {
    WEIGHT_DENSE, // f32, f16 or bf16, as `dtype` says
    // GPTQ, AWQ, int8, NF4, FP8 follow here, each with its own fields in weight_source.
    WEIGHT_FORMAT_COUNT
};

// A slice of a matrix as it lies in a mapped file: rows [n_rows] of K elements, `row_stride_bytes`
// apart. The mapping outlives the weight.
struct weight_part {
    const void *data;
    uint64_t row_stride_bytes;
    uint32_t n_rows;
};

// A weight [N, K] is one or more parts stacked along N (q, k and v; gate and up), all of one dtype.
struct weight_source {
    enum weight_format format;
    enum dtype dtype;
    uint32_t n, k; // N output rows in all, K inputs
    uint32_t n_parts;
    struct weight_part part[KERNELS_WEIGHT_PARTS_MAX];
};

// Rows of a tensor whose numbers are drawn (base/draw.h), and where in it they begin.
struct weight_draw_part {
    uint64_t key; // of the tensor
    uint32_t row_begin, column_begin, n_rows;
    float center, spread;
};

// A weight [N, K] of drawn numbers: parts stacked along N.
struct weight_draw_args {
    enum dtype dtype;
    uint32_t n, k;
    uint32_t n_parts;
    const struct weight_draw_part *part; // [n_parts], host memory
};

// ---- one step's rows ---------------------------------------------------------------------------

// Rows of one sequence in this step. Rows are consecutive: first_row .. first_row + n_rows - 1 at
// positions first_position ... ; keys 0 .. first_position + i are visible to row i (causal).
struct batch_seq {
    uint32_t first_row, n_rows;
    uint32_t first_position;
    // Block table of each KV group: page of position p is blocks[group][p / block_tokens].
    const uint32_t *blocks[KERNELS_KV_GROUPS_MAX];
    uint32_t n_blocks[KERNELS_KV_GROUPS_MAX]; // entries up to this step's last position; the CPU
                                              // does not look at it
};

// Host memory, owned by the caller, unchanged until the step's last op has run (on a device: until
// batch_begin returns).
struct batch {
    uint32_t n_rows, n_seqs, n_logit_rows;
    const uint32_t *token_ids;   // [n_rows]; an id, or KERNELS_TOKEN_KEPT | i: what kept[i] is when
                                 // the step runs
    const uint32_t *positions;   // [n_rows]
    const struct batch_seq *seq; // [n_seqs]
    const uint32_t *logit_rows;  // [n_logit_rows] rows whose logits are wanted, ascending
    const uint32_t *kept;        // (where there is keep_tokens) device memory, see there; or NULL
};

// ---- KV cache ----------------------------------------------------------------------------------

// One layer's pages: K and V each [n_blocks][n_kv_heads][block_tokens][head_dim] of `dtype`.
struct kv_layer {
    void *k, *v;
    enum dtype dtype;
    uint32_t n_kv_heads, head_dim, block_tokens;
    uint32_t group; // which block table of batch_seq
};

// ---- ops ---------------------------------------------------------------------------------------

// out[r] = table[token_ids[r] - vocab_begin] * scale, or zeros where the id is not in
// [vocab_begin, vocab_begin + table rows): summed over ranks this gives the embedding. Without a
// table, positions alone are added to what `out` holds.
struct embed_args {
    const struct batch *batch;
    const struct weight *table; // [vocab_count, hidden_dim], or NULL
    uint32_t vocab_begin;
    float scale;
    const struct weight *positions; // (optional) learned [max_position, hidden_dim], added to rows
                                    // whose id is in the table
    uint32_t position_offset;
    enum dtype out_type; // f32 (the residual stream) or that of the activations
    void *out;           // [n_rows, hidden_dim]
};

// residual += x (where x is given; scaled by x_scale), then out = norm(residual), or the residual
// itself where `copy`. Both are rounded where they are stored, and norms are of what is stored.
// RMS: r * rsqrt(mean(r^2) + eps) * (offset + w).  LAYER: (r - mean) * rsqrt(var + eps) * w + b.
struct norm_args {
    uint32_t n_rows, dim;
    bool layer; // LayerNorm instead of RMSNorm
    bool copy;  // no norm at all
    float eps, weight_offset;
    enum dtype residual_type, out_type; // f32 or that of the activations; where the residual is of
                                        // another type than f32, so is `out`
    const void *x;                      // activations [n_rows, dim] or NULL
    float x_scale;
    const float *x_bias;                // [dim] or NULL: added to each row of x before scaling
    void *residual;                     // [n_rows, dim], in place; only read when x is NULL
    const struct weight *weight, *bias; // [1, dim]; bias may be NULL; weight NULL: all ones
    void *out; // [n_rows, dim]; may equal residual only when x is NULL; NULL: only add
};

// out[m, n] = sum_k x[m, k] * w[n, k] + bias[n]; the canonical dot product of kernels/cpu/canon.h.
struct linear_args {
    uint32_t n_rows;
    const void *x; // [n_rows, K], rows x_stride apart (elements)
    uint32_t x_stride;
    const struct weight *w;    // [N, K]
    const struct weight *bias; // [1, N] or NULL
    void *out;                 // [n_rows, N], rows out_stride apart
    uint32_t out_stride;
    bool out_f32;            // logits: `out` is f32, whatever the activations are
    const uint32_t *row_ids; // (optional) [n_rows] rows of x to take; host memory, and only where
                             // device_memory is false: elsewhere `gather` takes them
};

// Cuts each number of x [n_rows, dim] to [-limit, limit], in place; a NaN stays.
struct clip_args {
    uint32_t n_rows, dim;
    float limit;
    void *x;
};

// Norms of q and k between projection and rope_kv, in place: those that rope_kv does not do.
// Without squares: LayerNorm over each head, with weights [1, head_dim] for all heads or
// [1, heads * head_dim], and biases alike (or NULL).
// With squares: RMS over all heads of all ranks, in two calls. sum_only writes the sums of squares
// of this rank's q and k, nothing else; with their sums over ranks, times q_mean and k_mean, the
// second call norms: x * (1 / sqrt(mean + eps)) * (offset + w).
struct qk_norm_args {
    uint32_t n_rows, n_heads, n_kv_heads, head_dim;
    void *qkv; // [n_rows, (n_heads + 2 * n_kv_heads) * head_dim]
    const struct weight *q_norm, *k_norm;
    const struct weight *q_bias, *k_bias;
    float eps, weight_offset;
    float *squares; // [n_rows, 2] or NULL
    bool sum_only;
    float q_mean, k_mean;
};

// Takes fused projections, rotates q and k, appends k and v to the pages.
struct rope_kv_args {
    const struct batch *batch;
    void *qkv; // [n_rows, (n_heads + 2 * n_kv_heads) * head_dim]; q is rotated in place
    uint32_t n_heads;
    struct kv_layer kv;
    const float *inv_freq; // [rotary_dim / 2], device memory, or NULL: nothing is rotated
    float attention_factor;
    uint32_t rotary_dim;
    bool interleaved;
    const struct weight *q_norm, *k_norm; // RMS per head before rotation [1, head_dim], or NULL
    float norm_eps, norm_weight_offset;
};

// Paged causal attention. For row r of a sequence at position p:
// out[r, h] = softmax_j(softcap(scale * q[r, h] . k_j) + alibi[h] * (j - p)) v_j
// over j in [max(0, p - window + 1), p]. Partial softmaxes cover absolute chunks of
// KERNELS_ATTENTION_CHUNK positions and are combined in ascending order.
struct attention_args {
    const struct batch *batch;
    const void *qkv; // [n_rows, (n_heads + 2 * n_kv_heads) * head_dim], q part read
    uint32_t n_heads;
    struct kv_layer kv; // query head h reads KV head h / (n_heads / n_kv_heads)
    float scale, softcap;
    uint32_t window;           // 0: all
    const float *alibi_slopes; // [n_heads] or NULL
    void *out;                 // [n_rows, n_heads * head_dim]
};

// Gated: out[r, i] = act(x[r, i]) * x[r, dim + i]; otherwise out[r, i] = act(x[r, i]).
// `kind` is an enum activation of model/model_config.h, repeated here as ACT_*.
enum act_kind { ACT_SILU, ACT_GELU_ERF, ACT_GELU_TANH, ACT_RELU, ACT_RELU2, ACT_COUNT };
struct act_args {
    uint32_t n_rows, dim;
    bool gated;
    enum act_kind kind;
    const void *x; // [n_rows, dim or 2 * dim]
    void *out;     // [n_rows, dim]
};

// A mixture of experts. Probabilities of a row are the softmax of its router logits; the n_used
// largest are taken (of equal ones the smaller expert) and, where `renormalize`, divided by their
// sum. out = sum over the rank's experts among them, in ascending order, of
// probability * down(act(gate(x)) * up(x)), and behind it the shared expert times
// sigmoid(shared_gate . x). Where ranks have parts of experts, or some of them, the sum over ranks
// is the block's output.
struct experts_args {
    uint32_t n_rows, hidden_dim;
    const void *x;               // [any, hidden_dim]
    const uint32_t *row_ids;     // (optional) [n_rows] rows of x to take, host memory
    const struct weight *router; // [n_experts, hidden_dim]
    uint32_t n_experts, n_used;
    bool renormalize, gated;
    enum act_kind kind;
    uint32_t begin, count;    // experts of this rank
    uint32_t ffn, shared_ffn; // columns of this rank; shared_ffn 0: no shared expert
    struct weight *const *in,
        *const *down; // [count] each [ffn or 2 ffn, hidden_dim], [hidden_dim, ffn]
    const struct weight *shared_in, *shared_down; // the same of the shared expert
    const struct weight *shared_gate;             // [1, hidden_dim] or NULL: 1
    // Room of the caller's in device memory; mlp_in may be NULL where device_memory.
    void *mlp_in, *mlp; // [n_rows, 2 max(ffn, shared_ffn)] and [n_rows, max(ffn, shared_ffn)]
    void *part;         // [n_rows, hidden_dim]
    void *routes;       // kernels_experts_bytes(); out: it begins with the experts of each row,
                        // uint32_t [n_rows, n_used]
    void *out;          // [n_rows, hidden_dim]
};

// Bytes of experts_args.routes: the choices, their probabilities and order, logits, three numbers
// of a row, one of an expert.
static inline uint64_t kernels_experts_bytes(uint32_t n_rows, uint32_t n_experts, uint32_t n_used)
{
    uint64_t of_row = n_experts + 3 * (uint64_t)n_used + 3;
    return (n_rows * of_row + n_experts) * sizeof(float);
}

// What ranks that have whole experts give each other (worker/experts.h). Rows are dealt out: rank q
// owns rows q * share .. (q + 1) * share - 1. A rank has a part of a row if one of its experts was
// chosen. `experts_pack` copies the parts of x that this rank has of the rows of each other rank to
// that one's slot, in the order of rows and one behind the other. `experts_add` sums the parts of
// this rank's own rows in the order of ranks, in f32: its own from x, the others' from their slots.
struct experts_parts_args {
    uint32_t n_rows, dim, n_used;
    uint32_t n_ranks, rank, share;
    const uint32_t *chosen; // [n_rows, n_used], device memory: where experts_args.routes begins
    const uint32_t *bound;  // [n_ranks + 1], host memory: rank q has experts bound[q] ..
                            // bound[q + 1] - 1
    bool all;               // every rank has a part of every row: of a shared expert
    void *x;                // [n_rows, dim]
    void *slots;            // [n_ranks], slot_bytes apart
    uint64_t slot_bytes;
    uint32_t *bytes; // (experts_pack) [n_ranks], device memory: of what lies in each slot
};
enum { KERNELS_EXPERT_RANKS_MAX = 64 };

// out[i] = in[row_ids[i]], or in[batch->logit_rows[i]] where row_ids is NULL. Not in place.
struct gather_args {
    const struct batch *batch;
    uint32_t n_rows, dim;
    enum dtype type;         // of `in` and `out`
    const uint32_t *row_ids; // [n_rows], host memory, or NULL
    const void *in;          // [any, dim]
    void *out;               // [n_rows, dim]
};

// Puts a rank's columns beside the others': out[r, c] = in[r, c] for the n columns, numbers of f32.
struct place_args {
    uint32_t n_rows, n;
    const float *in;     // [n_rows, n]
    float *out;          // rows out_stride apart; begins at the first of these columns
    uint32_t out_stride; // elements
};

// logits = softcap(x * scale), in place, [n_rows, n].
struct logit_scale_args {
    uint32_t n_rows, n;
    float scale, softcap;
    float *logits;
};

// Copies whole blocks of every layer given: dst[i] = src[i], pairs in order, pages of `group`.
struct block_copy_args {
    const struct kv_layer *layers;
    uint32_t n_layers, n_pairs, group;
    const uint32_t *src, *dst;
};

// ---- recorded steps ----------------------------------------------------------------------------
// The ops of a step with one row for each sequence, all of them wanted, can be recorded once and
// enqueued as one from then on: for every batch with at most so many rows and keys (of the longest
// sequence). Ops are called with n_rows of the bounds then; rows that the batch does not have hold
// anything and are written nowhere that is read.

struct graph_bounds {
    uint32_t n_rows, n_keys;
};

enum graph_state {
    GRAPH_NONE,      // the step is enqueued op by op
    GRAPH_RECORDING, // so it is, but nothing runs before graph_end, and nothing is copied or taken
    GRAPH_DONE,      // it has been enqueued
};

// ---- sampling ----------------------------------------------------------------------------------
// A sampler lives in a slot: the parameters, the ids so far and what penalties need. The order of
// operations is vLLM's, see docs/sampling.md.

struct sampler_begin_args {
    uint32_t slot;
    struct sampling_params params;
    const uint32_t *stop_ids;         // [params.n_stop_ids]
    const struct sampling_bias *bias; // [params.n_logit_bias]
    const uint32_t *ids;              // [n_ids] prompt, then what has been generated so far
    uint32_t n_ids, prompt_length;
};

struct sample_top {
    uint32_t id;
    float logprob;
};

// What is known of one row after sampling. Log-probabilities are raw: log-softmax of the logits
// before any parameter is applied.
struct sample_result {
    uint32_t id;    // chosen, or the target of a scored row
    float logprob;  // of id
    uint32_t rank;  // 1 + number of ids with a larger logit
    uint32_t n_top; // top n_logprobs ids by logit, ties by smaller id
    bool failed;    // the row had a NaN, or no finite logit: id is meaningless
    struct sample_top top[SAMPLING_LOGPROBS_MAX];
};

struct sample_row {
    uint32_t slot;       // sampler, ignored for a scored row
    uint32_t position;   // of the token chosen: the draw's counter
    bool scored;         // only report `target`'s log-probability; choose nothing
    uint32_t target;     // scored rows
    uint32_t n_logprobs; // scored rows
};

struct sample_args {
    uint32_t n_rows, vocab_size;
    const float *logits;          // [n_rows, vocab_size], not changed
    const struct sample_row *row; // [n_rows], host memory
    struct sample_result *result; // [n_rows], host memory, valid after device_sync;
    uint32_t result_stride; // or, not 0 and where there is keep_tokens: device memory, results
                            // so many bytes apart, which bounds n_top
};

// ---- running ahead -----------------------------------------------------------------------------
// A step may be enqueued before the host has read what the one before it has sampled. Its tokens
// stay on the device: keep_tokens stores them, and ids of the next batch name them.

// kept[slot[i]] = id of result from[i], 0 where that has failed.
struct keep_args {
    uint32_t n;
    const uint32_t *slot, *from; // [n], host memory
    const void *results;         // device memory: struct sample_result, result_stride bytes apart
    uint32_t result_stride;
    uint32_t *kept; // device memory
};

// ---- memory that ops take by themselves --------------------------------------------------------

// The largest step, and what it computes with.
struct mem_needs_args {
    uint32_t n_rows, n_seqs, n_tables; // table entries of all sequences
    uint32_t head_dim;
    uint32_t k_max;                        // of all products
    uint32_t n_act;                        // rows of the widest weight of linear_act, 0: none
    uint32_t n_used;                       // experts of a row; 0: there are none
    uint32_t n_slots, vocab_size, ids_max; // of sampler_open
    uint32_t n_ops;                        // of a step that is recorded; 0: none is
};

// Upper bounds, in bytes of device memory.
struct mem_needs {
    uint64_t workspace, batch, samplers, graphs;
};

// ---- the table ---------------------------------------------------------------------------------

struct kernels {
    const char *name;   // "cpu", "cuda", "emu"
    bool device_memory; // false: device pointers are host pointers
    // The type of activations for weights of this type.
    enum dtype (*activation_for)(enum dtype weights);

    enum status (*device_open)(
        const struct device_args *args, struct device **out, struct error *err);
    void (*device_close)(struct device *d);
    // One line for people: "cpu: 2 threads, avx512".
    void (*device_describe)(const struct device *d, char *text, size_t n);
    enum status (*device_sync)(struct device *d, struct error *err);

    // (where device_memory) What of the device's own memory is free, and all of it.
    void (*mem_info)(struct device *d, uint64_t *free_bytes, uint64_t *total_bytes);
    // (optional) What ops will take of it beside what callers take: not before they run.
    void (*mem_needs)(struct device *d, const struct mem_needs_args *a, struct mem_needs *out);
    // Zeroed device memory, aligned to 256 bytes; NULL when there is none. Freed by mem_give.
    // copy_in has read its source when it returns; what copy_out writes is valid after device_sync.
    void *(*mem_take)(struct device *d, uint64_t bytes);
    void (*mem_give)(struct device *d, void *p, uint64_t bytes);
    void (*copy_in)(struct device *d, void *to_device, const void *from_host, uint64_t bytes);
    void (*copy_out)(struct device *d, void *to_host, const void *from_device, uint64_t bytes);

    // Makes a handle from a slice of a mapped file. On the CPU a dense weight is used where it
    // lies. STATUS_UNSUPPORTED for a format or dtype that the table does not have.
    enum status (*weight_make)(struct device *d, const struct weight_source *source,
        struct weight **out, struct error *err);
    void (*weight_free)(struct device *d, struct weight *w);
    // (optional) The same for numbers that are drawn where they will lie: weight_make would give
    // the same bits from memory that random_weights_fill (model/) has filled.
    enum status (*weight_draw)(
        struct device *d, const struct weight_draw_args *a, struct weight **out, struct error *err);
    // Bytes of device memory that weight_make would take for it; 0 where it lies in the mapping.
    uint64_t (*weight_bytes)(const struct weight_source *source);
    // (optional) Where the elements of a dense weight [1, K] lie, in device memory, one behind the
    // other, and their type: for operations that are no part of this table. NULL where they do not.
    const void *(*weight_data)(const struct weight *w, enum dtype *dtype);

    // (optional) Brings the numbers of a batch to the device, once a step and before its first op.
    void (*batch_begin)(struct device *d, const struct batch *b);

    void (*embed)(struct device *d, const struct embed_args *a);
    void (*norm)(struct device *d, const struct norm_args *a);
    void (*linear)(struct device *d, const struct linear_args *a);
    void (*rope_kv)(struct device *d, const struct rope_kv_args *a);
    void (*attention)(struct device *d, const struct attention_args *a);
    void (*act)(struct device *d, const struct act_args *a);
    // (where device_memory; the caller does it itself elsewhere)
    void (*gather)(struct device *d, const struct gather_args *a);
    void (*place)(struct device *d, const struct place_args *a);
    void (*logit_scale)(struct device *d, const struct logit_scale_args *a);
    void (*block_copy)(struct device *d, const struct block_copy_args *a);

    // Room for `n_slots` samplers over `vocab_size` ids and up to `ids_max` tokens each.
    enum status (*sampler_open)(struct device *d, uint32_t n_slots, uint32_t vocab_size,
        uint32_t ids_max, struct error *err);
    void (*sampler_begin)(struct device *d, const struct sampler_begin_args *a);
    // Chooses a token for each row that is not scored and appends it to the slot's ids.
    void (*sample)(struct device *d, const struct sample_args *a);

    // (optional) Between batch_begin and the step's first op, and behind its last one. graph_end
    // says whether the recording has been enqueued; otherwise the step is enqueued op by op.
    enum graph_state (*graph_begin)(struct device *d, const struct graph_bounds *b);
    bool (*graph_end)(struct device *d, const struct batch *b);

    // (optional, all or none) Running ahead. A mark stands behind everything that has been
    // enqueued; one of KERNELS_MARKS that was reached may be set anew. mark_reached says
    // STATUS_AGAIN where the device is not there yet and the caller would not wait, or what
    // device_sync would say. Memory of host_take is the host's: copy_out to it does not wait.
    void (*keep_tokens)(struct device *d, const struct keep_args *a);
    void (*mark_set)(struct device *d, uint32_t mark);
    enum status (*mark_reached)(struct device *d, uint32_t mark, bool wait, struct error *err);
    void *(*host_take)(struct device *d, uint64_t bytes);
    void (*host_give)(struct device *d, void *p);

    // (optional) act(linear(x)) in one pass over the weights: gate and up rows of one output stay
    // together; w has 2 * dim rows where act is gated.
    void (*linear_act)(struct device *d, const struct linear_args *a, const struct act_args *act);
    // (optional) Neighbours in a layer in one launch, for up to KERNELS_FUSED_ROWS rows and where
    // the table can; elsewhere as several. The same bits as the ops one after the other with the
    // same arguments, but what lies between them (out of norm and of linear_add's linear; k and v
    // of qkv) holds anything.
    //   norm_linear_rope: norm (x NULL), linear of its out, rope_kv of that. norm may be NULL.
    //   norm_linear_act: norm (x NULL), linear_act of its out.
    //   linear_add: linear, then norm with that as x and without an out: the residual grows.
    void (*norm_linear_rope)(struct device *d, const struct norm_args *n,
        const struct linear_args *a, const struct rope_kv_args *r);
    void (*norm_linear_act)(struct device *d, const struct norm_args *n,
        const struct linear_args *a, const struct act_args *act);
    void (*linear_add)(struct device *d, const struct linear_args *a, const struct norm_args *n);
    // (optional) Kernels of the ops enqueued so far, also those of recorded steps.
    uint64_t (*launches)(const struct device *d);
    // (optional) Models that need them are refused where they are not.
    void (*clip)(struct device *d, const struct clip_args *a);
    void (*qk_norm)(struct device *d, const struct qk_norm_args *a);
    void (*experts)(struct device *d, const struct experts_args *a);
    // (where device_memory; the caller does it itself elsewhere)
    void (*experts_pack)(struct device *d, const struct experts_parts_args *a);
    void (*experts_add)(struct device *d, const struct experts_parts_args *a);
    // (optional) For collectives on the device: the stream of the ops (a cudaStream_t), where the
    // device is, and the plugin's struct coll_plugin (collectives/cuda/plugin.h).
    void *(*device_stream)(struct device *d);
    void (*device_place)(const struct device *d, int *index, uint32_t *capability);
    // (where device_memory) Equal for ranks that share one device and its memory.
    void (*device_uuid)(const struct device *d, uint8_t uuid[16]);
    const void *collectives;
};

// The CPU table. Never fails; device_open picks the widest version that the CPU has.
const struct kernels *kernels_cpu(void);

// Finds a table by name: "cpu"; "cuda" and "emu" are plugins (kernels/plugin.h), loaded on the
// first call and kept. The sentence says why one is not to be had.
enum status kernels_find(const char *name, const struct kernels **out, struct error *err);

#ifdef __cplusplus
}
#endif

#endif
