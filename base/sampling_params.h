// SPDX-License-Identifier: Apache-2.0
// How the next token of one sequence is chosen: plain data that travels from the client through
// the step plan to the sampler. Names and meanings are vLLM's (vllm/sampling_params.py); the order
// of operations stands in docs/sampling.md. Ranges are enforced by proto/validate.
#ifndef PHALANX_BASE_SAMPLING_PARAMS_H
#define PHALANX_BASE_SAMPLING_PARAMS_H

#include <stdint.h>

enum {
    SAMPLING_LOGIT_BIAS_MAX = 1024,
    SAMPLING_STOP_IDS_MAX = 64,
    SAMPLING_LOGPROBS_MAX = 128, // top log-probabilities per token
};

struct sampling_params {
    uint64_t seed;            // key of every draw; the coordinator draws one where none is given
    uint32_t sample_index;    // 0..n-1 among the n samples of a request
    float temperature;        // below 1e-5: greedy; (0, 1e-2) is raised to 1e-2
    float top_p;              // (0, 1]; 1 is off
    float min_p;              // [0, 1]; 0 is off
    float typical_p;          // (0, 1]; 1 is off; applied after top_p, as TGI does
    float repetition_penalty; // (0, 2]; 1 is off; over prompt and output
    float presence_penalty;   // [-2, 2]; over output only
    float frequency_penalty;  // [-2, 2]; over output only
    int32_t top_k;            // 0 or -1 is off
    uint32_t min_tokens;      // end-of-sequence and stop ids are masked until so many are out
    uint32_t n_logprobs;      // top log-probabilities returned besides the sampled token's
    uint32_t n_stop_ids;      // masked by min_tokens; includes the model's end ids unless ignored
    uint32_t n_logit_bias;
    uint32_t pad; // zero
};

struct sampling_bias {
    uint32_t id;
    float bias; // [-100, 100]
};

#endif
