// SPDX-License-Identifier: Apache-2.0
// Inside of the forward pass, for the files worker/forward*.c only: what a step works on, and which
// file does what. forward.c opens, closes and answers; forward_memory.c has its buffers;
// forward_stream.c the residual stream, with norms and the sums over ranks; forward_layers.c what a
// decoder computes; forward_record.c the steps that a device keeps recorded.
#ifndef PHALANX_WORKER_FORWARD_INTERNAL_H
#define PHALANX_WORKER_FORWARD_INTERNAL_H

#include "worker/experts.h"
#include "worker/forward.h"

enum { FORWARD_BUFFERS_MAX = 16 };

struct forward {
    struct forward_args a;
    uint32_t n_heads, n_kv_heads, ffn; // of this rank
    struct shard_range vocab;
    uint32_t element; // bytes of a number of the activations
    // Activations, [rows_max, ...]. `residual` is the stream that blocks add to, always of f32; `x`
    // is a block's output before it is added. Both are summed over ranks and lie in the symmetric
    // heap, and each has room for the other: they change places.
    void *residual, *x;      // [hidden_dim]
    void *normed;            // [hidden_dim]
    void *qkv;               // [(n_heads + 2 n_kv_heads) head_dim]
    void *attended;          // [n_heads head_dim]
    void *mlp_in;            // [ffn, or 2 ffn where gated]; NULL where nobody needs it
    void *mlp;               // [ffn]
    void *part;              // [hidden_dim], one expert's; NULL where there are none
    void *routes;            // room for experts_args.routes
    struct experts *experts; // where experts are placed whole
    void *kept; // [hidden_dim], for gathered rows; NULL where activations are on the host
    float *inv_freq[MODEL_ROPES_MAX];
    float *alibi;    // [n_heads] or NULL
    float *squares;  // [2] of q and of k, in the heap; NULL where no norm is over all heads
    void *projected; // [FORWARD_LOGIT_ROWS, embed_dim]; NULL where the head reads the stream's norm
    struct {
        void *p;
        uint64_t bytes;
    } buffer[FORWARD_BUFFERS_MAX]; // what mem_take gave
    uint32_t n_buffers;

    // Of the step at hand.
    const struct batch *batch;
    uint32_t n_rows;           // of the activations: all rows, in the end the wanted ones only
    const uint32_t *row_ids;   // rows of `attended` and `normed` to take, NULL: all
    bool wanted_only;          // the activations hold the wanted rows only
    bool residual_swapped;     // with x, since the rows were gathered; until the step ends
    bool normed_swapped;       // with kept
    bool pending;              // x is yet to be added to the residual stream,
    const float *pending_bias; // with this bias (may be NULL)
    bool normed_ahead;         // `normed` holds what the next block reads
    bool norm_taken;           // the projection of q, k and v has made the norm for itself alone
    uint64_t collective_us;
    uint32_t looks; // at marks that were not reached
};

// ---- forward_memory.c --------------------------------------------------------------------------

// Takes every buffer; false: there is no memory. forward_close gives back what was taken.
bool forward_memory_take(struct forward *f);

// ---- forward_stream.c --------------------------------------------------------------------------

// Sums [n_rows, dim] numbers of the heap over the ranks.
enum status forward_stream_sum(
    struct forward *f, void *buffer, uint32_t dim, enum dtype type, struct error *err);
// Adds what is pending to the residual stream and, unless `out` is NULL, writes its norm there.
void forward_stream_add_and_norm(
    struct forward *f, const struct weight *weight, const struct weight *bias, void *out);
// out = norm(residual stream) and nothing else; in place where `out` is the stream.
void forward_stream_norm_into(
    struct forward *f, const struct weight *weight, const struct weight *bias, void *out);
// Adds what is pending. The stream as activations: itself, where it is of their type.
const void *forward_stream_plain(struct forward *f);
// What a block reads: the norm of the residual stream, or the stream itself where norms stand
// behind the blocks only, or where the stream is normed in place.
const void *forward_stream_input(
    struct forward *f, const struct weight *weight, const struct weight *bias);

// Whether neighbours in a layer are one op, for so many rows.
bool forward_stream_fuses(const struct forward *f, uint32_t n_rows);
// Whether the next block's first op may make the norm that it reads for itself, and that norm.
bool forward_stream_lends_norm(const struct forward *f);
struct norm_args forward_stream_norm(
    struct forward *f, const struct weight *weight, const struct weight *bias);

// A projection whose input columns are spread over the ranks, into x, and the sum over them. Its
// bias, which is whole on every rank, is added with x to the residual stream; but where a norm
// stands between, rank 0 alone adds it before the sum.
struct forward_output {
    const struct weight *weight, *bias, *norm, *norm_bias;
    const struct weight *next_norm; // of the block that reads the sum next, NULL: none reads it yet
    const float *bias_f32;
    const void *in;
    uint32_t in_dim;
    const uint32_t *row_ids;
    bool kept_apart; // x is not to be added to the stream yet: others still read that
    bool of_experts; // x is what `experts` has written
};
enum status forward_stream_output(
    struct forward *f, const struct forward_output *o, struct error *err);
// The same where the block's output is in x already, spread over the ranks.
enum status forward_stream_output_sum(
    struct forward *f, const struct forward_output *o, struct error *err);

// Rows batch->logit_rows of `in` to `out`, on a device; both [rows, dim] of `type`.
void forward_stream_gather(
    struct forward *f, uint32_t dim, enum dtype type, const void *in, void *out);
// Behind the last layer's attention only the wanted rows are needed.
void forward_stream_keep_wanted(struct forward *f);
// Undoes forward_stream_keep_wanted before the next step.
void forward_stream_swap_back(struct forward *f);

// ---- forward_layers.c --------------------------------------------------------------------------

// Embedding, all layers and the last norm.
enum status forward_layers_run(
    struct forward *f, const struct forward_pulse *pulse, struct error *err);

// ---- forward_record.c --------------------------------------------------------------------------

// Whether this step is one that is recorded, and the bounds that it shares with others.
bool forward_record_bounds(const struct forward *f, struct graph_bounds *out);
// forward_layers_run as the device has it recorded, or while it records.
enum status forward_record_step(struct forward *f, const struct graph_bounds *bounds,
    const struct forward_pulse *pulse, struct error *err);

#endif
