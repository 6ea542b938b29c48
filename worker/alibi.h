// SPDX-License-Identifier: Apache-2.0
// Slopes of ALiBi (Press, Smith, Lewis: "Train Short, Test Long", 2022) as a model's config has
// them.
#ifndef PHALANX_WORKER_ALIBI_H
#define PHALANX_WORKER_ALIBI_H

#include "model/model_config.h"

// The slope of query head `head` of the whole model: what attention_args.alibi_slopes takes.
float alibi_slope(const struct model_config *m, uint32_t head);

#endif
