// SPDX-License-Identifier: Apache-2.0
// The weights of one rank as handles of the op table, bound through the model's weights plan. On a
// back end that computes where the weights lie, nothing is copied: loading means that the rank's
// part of the files is in the page cache and mapped, so that the first request does not wait for
// the disk.
//
// Single-threaded; handles may then be used by the thread that runs the forward pass.
#ifndef PHALANX_WORKER_WEIGHTS_H
#define PHALANX_WORKER_WEIGHTS_H

#include "kernels/kernels.h"
#include "model/weights_plan.h"

// A slot that the model does not have is NULL. The names are those of model/weight_slots.def.
struct layer_weights {
    uint32_t n_experts;                      // of the rank; 0: one MLP
    struct weight **expert_in, **expert_out; // [n_experts]
    union {
        struct {
#define LAYER_SLOT(NAME, name) struct weight *name;
#include "model/weight_slots.def"
        };
        struct weight *slot[LAYER_SLOT_COUNT];
    };
    // The biases behind a sum over ranks, as numbers in device memory (norm_args.x_bias).
    float *o_bias_f32, *mlp_out_bias_f32; // [hidden_dim] or NULL
};

struct weights {
    union {
        struct {
#define MODEL_SLOT(NAME, name) struct weight *name;
#include "model/weight_slots.def"
        };
        struct weight *slot[MODEL_SLOT_COUNT];
    };
    uint32_t n_layers;
    struct layer_weights *layer; // [n_layers]
    const struct kernels *kernels;
    struct device *device;
    uint32_t hidden_dim;
};

// Called a few times a second while loading; `done` reaches `total`.
struct weights_progress {
    void (*report)(void *user, uint64_t done, uint64_t total);
    void *user;
};

// Bytes of device memory that they take; 0 where they stay in the files.
uint64_t weights_bytes(
    const struct kernels *kernels, const struct weights_plan *plan, bool tied_head);

// Makes the handles of every slice of `plan`, which must outlive `out`, and brings its bytes into
// memory. `progress` may be NULL.
enum status weights_open(const struct kernels *kernels, struct device *device,
    const struct weights_plan *plan, uint32_t hidden_dim, const struct weights_progress *progress,
    struct weights *out, struct error *err);
void weights_close(struct weights *w); // a zeroed one is allowed

#endif
