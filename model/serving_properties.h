// SPDX-License-Identifier: Apache-2.0
// serving.properties of a model directory: "key = value" lines with the names of LMI (Large Model
// Inference containers), '#' or '!' before comments. An unknown key or a bad value is an error with
// its line. option.trust_remote_code may only be false: no code comes with a model.
#ifndef PHALANX_MODEL_SERVING_PROPERTIES_H
#define PHALANX_MODEL_SERVING_PROPERTIES_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SERVING_PROPERTIES_TEXT_BYTES = 1024, SERVING_PROPERTIES_BYTES_MAX = 64 << 10 };

enum serving_dtype {
    SERVING_DTYPE_AUTO,
    SERVING_DTYPE_FP32,
    SERVING_DTYPE_FP16,
    SERVING_DTYPE_BF16,
};

enum serving_quantize { SERVING_QUANTIZE_NONE }; // others by their place in the .def

enum serving_rolling_batch {
    SERVING_ROLLING_BATCH_AUTO,
    SERVING_ROLLING_BATCH_DISABLE = 6, // those between mean continuous batching, which is ours
};

enum serving_policy { SERVING_POLICY_MAX_UTILIZATION, SERVING_POLICY_GUARANTEED_NO_EVICT };

// Plain data; 0 or "" where the file says nothing.
struct serving_properties {
    char model_id[SERVING_PROPERTIES_TEXT_BYTES];     // a directory
    char rope_scaling[SERVING_PROPERTIES_TEXT_BYTES]; // a JSON object
    uint32_t tensor_parallel_degree;
    bool tensor_parallel_max; // all devices
    uint32_t max_rolling_batch_size, max_prefill_tokens, max_model_len, job_queue_size;
    uint32_t model_loading_timeout_s;
    uint32_t dtype;                  // enum serving_dtype
    uint32_t quantize;               // 0: none
    uint32_t rolling_batch;          // enum serving_rolling_batch
    uint32_t batch_scheduler_policy; // enum serving_policy
};

// Parses a text; `where` names it in sentences.
enum status serving_properties_parse(const char *text, size_t bytes, const char *where,
    struct serving_properties *out, struct error *err);

// Reads serving.properties of a directory; without the file, `out` is all zero.
enum status serving_properties_read(
    const char *dir, struct serving_properties *out, struct error *err);

#endif
