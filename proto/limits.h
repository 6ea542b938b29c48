// SPDX-License-Identifier: Apache-2.0
// Every bound of the system, with its unit, and what must hold between them. A queue, message,
// table or wait without a limit here does not exist.
#ifndef PHALANX_PROTO_LIMITS_H
#define PHALANX_PROTO_LIMITS_H

#include "base/sampling_params.h"

enum {
    // Messages.
    LIMIT_MESSAGE_BYTES = 4 << 20,         // one message from or to a client
    LIMIT_MESSAGE_UNPACK_BYTES = 32 << 20, // memory that unpacking one may take
    LIMIT_WORKER_MESSAGE_BYTES = 16 << 20, // one message between coordinator and rank 0
    LIMIT_MODEL_NAME_BYTES = 128,
    LIMIT_TENANT_BYTES = 64,

    // One request.
    LIMIT_PROMPT_BYTES = 3 << 20,
    LIMIT_TOOLS_BYTES = 1 << 20,    // of a conversation
    LIMIT_KWARGS_BYTES = 256 << 10, // for its template
    LIMIT_TEMPLATE_NAME_BYTES = 64,
    LIMIT_CONTEXT_TOKENS = 1 << 20, // of any model
    LIMIT_SAMPLES = 64,             // n
    LIMIT_STOP_STRINGS = 16,
    LIMIT_STOP_STRING_BYTES = 256,
    LIMIT_STOP_IDS = 32, // given by the client; the model's end ids come on top
    LIMIT_LOGIT_BIAS = SAMPLING_LOGIT_BIAS_MAX,
    LIMIT_LOGPROBS = 20,
    LIMIT_PRIORITY = 1000, // -1000 .. 1000

    // The coordinator.
    LIMIT_MODELS = 32,
    LIMIT_GROUPS = 64,      // copies of all models
    LIMIT_REQUESTS = 16384, // live or kept until CLOSE
    LIMIT_SEQUENCES = 4096, // running at once, all models
    LIMIT_TENANTS = 256,
    LIMIT_PLANS_IN_FLIGHT = 2, // per group

    // One group.
    LIMIT_SLOTS = 1024,        // sequences in one batch
    LIMIT_STEP_TOKENS = 65536, // rows of one step
    LIMIT_KV_GROUPS = 2,
    LIMIT_BLOCK_TOKENS = 256, // a power of two from 8 on
    LIMIT_BLOCKS = 1 << 24,
    LIMIT_DRAFTS = 16,
    LIMIT_PLAN_BYTES = 8 << 20,

    // Waits, in milliseconds.
    LIMIT_RETRY_AFTER_MS = 30000,
    LIMIT_RESULT_KEPT_MS = 600000,  // a finished request waits so long for its CLOSE
    LIMIT_CLIENT_SILENT_MS = 30000, // an interactive client without a sign is gone
};

_Static_assert(LIMIT_PROMPT_BYTES < LIMIT_MESSAGE_BYTES, "a prompt fits into a message");
_Static_assert(LIMIT_PLAN_BYTES <= LIMIT_WORKER_MESSAGE_BYTES / 2, "a plan fits into a message");
_Static_assert((int)LIMIT_LOGPROBS <= (int)SAMPLING_LOGPROBS_MAX, "the sampler can return them");
_Static_assert(
    (int)LIMIT_STOP_IDS < (int)SAMPLING_STOP_IDS_MAX, "end ids come on top of the client's");

#endif
