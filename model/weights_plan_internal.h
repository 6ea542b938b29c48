// SPDX-License-Identifier: Apache-2.0
// What the files of model/weights_plan share.
#ifndef PHALANX_MODEL_WEIGHTS_PLAN_INTERNAL_H
#define PHALANX_MODEL_WEIGHTS_PLAN_INTERNAL_H

#include "model/tensor_map.h"
#include "model/weights_plan.h"

enum weights_plan_source { WEIGHTS_PLAN_FILES, WEIGHTS_PLAN_RANDOM, WEIGHTS_PLAN_SHAPES };

// The plan is built twice: the first pass counts the bytes that it will own (fused biases, what has
// to be rearranged, random weights), the second one has them and fills them.
struct weights_plan_builder {
    const struct model_config *m;
    const struct shard *s;
    const struct safetensors *files; // WEIGHTS_PLAN_FILES
    enum weights_plan_source source;
    uint64_t seed;  // WEIGHTS_PLAN_RANDOM
    bool drawn;     // matrices are not made, but become draws of the plan
    bool *used;     // [tensors of files], WEIGHTS_PLAN_FILES
    bool untied;    // the files have a head of their own, whatever the config says
    size_t skipped; // first bytes of names that begin with `prefix`, which the files leave out
    char prefix[TENSOR_MAP_NAME_BYTES];
    uint8_t *owned;   // NULL while counting
    uint64_t offset;  // bytes taken of it so far
    uint32_t n_draws; // so far
    struct weights_plan *plan;
    struct error *err;
};

// One tensor on its way into a slice.
struct weights_plan_tensor {
    const struct tensor_row *row;
    char name[TENSOR_MAP_NAME_BYTES];
    enum dtype dtype;
    uint32_t rows, columns;
    const uint8_t *data; // NULL but in files
};

// ---- weights_plan_find.c -----------------------------------------------------------------------

// What has to be known of the files before anything is looked for in them.
void weights_plan_find_prefix(struct weights_plan_builder *b);
void weights_plan_find_untied(struct weights_plan_builder *b);
bool weights_plan_is_tied(const struct weights_plan_builder *b);
// Fills all of `t` for its row; one that is not there or not as the config says is an error.
enum status weights_plan_find(
    struct weights_plan_builder *b, struct weights_plan_tensor *t, uint32_t layer, uint32_t head);
// Whether the tensor of t->row is one that a file may leave out, and has been.
bool weights_plan_is_missing(
    const struct weights_plan_builder *b, struct weights_plan_tensor *t, uint32_t layer);
enum status weights_plan_refuse_unused(const struct weights_plan_builder *b);

// ---- weights_plan_cut.c ------------------------------------------------------------------------

// Appends this rank's part of the tensor to the slice.
enum status weights_plan_cut(struct weights_plan_builder *b, const struct weights_plan_tensor *t,
    struct weight_slice *slice);
// The head with rows of length 1, in memory of the plan's own.
void weights_plan_cut_unit_rows(struct weights_plan_builder *b, struct weight_slice *head);

#endif
