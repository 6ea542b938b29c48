// SPDX-License-Identifier: Apache-2.0
// Which bytes of which tensors one rank computes with: the names of a family's checkpoint, matched
// with a model directory and cut by a shard. The slices point into the mapped files. Copied are
// only biases that are stacked, matrices that are stored with inputs as rows, fused projections
// that keep each head's query, key and value together, and a head whose rows are to be normalised.
//
//   q_proj  [heads head_dim, hidden]  --rows of my heads----+
//   k_proj  [kv_heads head_dim, hidden] --rows of my kv heads--> QKV, three parts
//   v_proj  ...                       --------------------+
//   o_proj  [hidden, heads head_dim]  --columns of my heads--> O, rows `row_stride_bytes` apart
//
// Biases behind a sum over ranks (O_BIAS, MLP_OUT_BIAS) are whole on every rank: they are added
// once, after the all-reduce, where the sum is the same everywhere (norm_args.x_bias).
//
// Single-threaded; the plan does not change after weights_plan_open.
#ifndef PHALANX_MODEL_WEIGHTS_PLAN_H
#define PHALANX_MODEL_WEIGHTS_PLAN_H

#include "model/safetensors.h"
#include "model/shard.h"

enum model_slot {
#define MODEL_SLOT(NAME, name) MODEL_SLOT_##NAME,
#include "model/weight_slots.def"
    MODEL_SLOT_COUNT
};

enum layer_slot {
#define LAYER_SLOT(NAME, name) LAYER_SLOT_##NAME,
#include "model/weight_slots.def"
    LAYER_SLOT_COUNT
};

enum expert_slot {
#define EXPERT_SLOT(NAME, name) EXPERT_SLOT_##NAME,
#include "model/weight_slots.def"
    EXPERT_SLOT_COUNT
};

enum { WEIGHT_SLICE_PARTS_MAX = 4 };

struct weight_slice_part {
    const void *data; // aligned to the element; NULL in a plan without files
    uint64_t row_stride_bytes;
    uint32_t n_rows;
};

// A matrix [n, k] as parts stacked along its rows. Vectors are [1, k] and have one part.
struct weight_slice {
    enum dtype dtype; // f32, f16 or bf16
    uint32_t n, k;
    uint32_t n_parts; // 0: the model has no such weight
    struct weight_slice_part part[WEIGHT_SLICE_PARTS_MAX];
};

struct weights_plan_expert {
    struct weight_slice slot[EXPERT_SLOT_COUNT];
};

struct weights_plan_layer {
    struct weight_slice slot[LAYER_SLOT_COUNT];
    // [n_local_experts], of expert shard.expert_begin + i; NULL where the layer has none
    struct weights_plan_expert *expert;
};

// Rows of a matrix that nobody has made yet: what random_weights_fill would put at `data`.
struct weights_plan_draw {
    const void *data;
    uint64_t key; // random_weights_key of the tensor
    uint32_t row_begin, n_rows;
    uint32_t column_begin, n_columns;
    float center, spread;
};

struct weights_plan {
    struct shard shard;
    struct weight_slice slot[MODEL_SLOT_COUNT]; // empty where another pipeline stage has it
    uint32_t n_layers;                          // shard.layer_end - shard.layer_begin
    struct weights_plan_layer *layer;           // [n_layers], of layer shard.layer_begin + i
    uint32_t n_local_experts;                   // shard.expert_end - shard.expert_begin
    struct weights_plan_expert *experts;        // [n_layers][n_local_experts], of all layers
    uint64_t bytes;                             // of all slices; a tied head counts once
    void *owned;                                // what was copied, random weights
    uint64_t owned_bytes;
    // Of weights_plan_drawn, in the order of `data`, which is a place without bytes.
    struct weights_plan_draw *draw; // [n_draws]
    uint32_t n_draws;
};

// Plans from an open directory, which must outlive the plan. Every tensor of the model is checked,
// also those of other ranks: a missing one, a wrong shape or type, or one that the family does not
// have (but for a list of harmless buffers) is an error that names it.
enum status weights_plan_open(const struct model_config *m, const struct shard *s,
    const struct safetensors *files, struct weights_plan *out, struct error *err);

// Plans weights of the model's dtype made from `seed`, each rank its own part; the value of an
// element depends on its tensor's name and its place in the whole tensor only, so the model is the
// same at every degree.
enum status weights_plan_random(const struct model_config *m, const struct shard *s, uint64_t seed,
    struct weights_plan *out, struct error *err);

// The same, but matrices are left to whoever computes with them: each part of their slices is the
// rows of one or more draws, from weights_plan_first_draw on. Vectors are made. Takes hardly any
// memory, so that a device can draw what would not fit into the host's.
enum status weights_plan_drawn(const struct model_config *m, const struct shard *s, uint64_t seed,
    struct weights_plan *out, struct error *err);
// The draw whose rows begin at `data`; n_draws where that has been made.
uint32_t weights_plan_first_draw(const struct weights_plan *p, const void *data);

// Plans shapes only (data is NULL), from the config alone.
enum status weights_plan_shapes(const struct model_config *m, const struct shard *s,
    struct weights_plan *out, struct error *err);

void weights_plan_close(struct weights_plan *p);

// The whole model on one rank, or rank `tp_rank` of `tp_size` with all layers and experts.
struct shard weights_plan_shard(const struct model_config *m, uint32_t tp_rank, uint32_t tp_size);

#endif
