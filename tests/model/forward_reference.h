// SPDX-License-Identifier: Apache-2.0
// A plain forward pass in double precision over the slices of weights plans: every rank computes
// its part, the parts are summed or joined as the ranks of a group would. Slow and simple: it is
// there to prove that config, names, shards and rope mean what Hugging Face means.
#ifndef PHALANX_TESTS_MODEL_FORWARD_REFERENCE_H
#define PHALANX_TESTS_MODEL_FORWARD_REFERENCE_H

#include "model/weights_plan.h"

// Logits [n_tokens, vocab_size] of a prompt; plan[r] is rank r's. rope_prepare() has been called.
void forward_reference(const struct model_config *m, const struct weights_plan *plan,
    uint32_t n_ranks, const uint32_t *ids, uint32_t n_tokens, double *logits);

#endif
