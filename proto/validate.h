// SPDX-License-Identifier: Apache-2.0
// The one validator of requests: whatever dialect a client speaks, its parameters pass through here
// before anything else looks at them. Ranges stand in proto/params.def.
#ifndef PHALANX_PROTO_VALIDATE_H
#define PHALANX_PROTO_VALIDATE_H

#include "base/hash.h"
#include "base/sampling_params.h"
#include "base/status.h"
#include "proto/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MODEL_VOCAB_LIMIT = 1 << 20, REQUEST_ID_BYTES = 16, CACHE_SALT_BYTES = 64 };

struct request_text {
    const uint8_t *data; // borrowed from the message
    size_t size;
};

// A conversation for the model's chat template: JSON texts of UTF-8, which nobody has parsed yet.
struct request_chat {
    struct request_text messages; // data NULL: the request is none
    struct request_text tools;    // data NULL: none
    struct request_text kwargs;   // data NULL: none
    const char *template_name;    // "" for the usual one
};

// A request whose every field is in range. Arrays borrow from the message it was made from.
struct request {
    uint8_t id[REQUEST_ID_BYTES];
    struct hash128 body; // of everything that makes two requests the same
    const char *model;
    const char *tenant;         // "" where none is given
    struct request_text prompt; // data may be NULL where there is a chat
    struct request_chat chat;
    const uint32_t *prompt_ids; // NULL where the prompt is text or a chat
    uint32_t n_prompt_ids;

#define INT(name, type, min, max, value, help) type name;
#define REAL(name, open, min, max, value, help) float name;
#define FLAG(name, value, help) bool name;
#include "proto/params.def"
#undef INT
#undef REAL
#undef FLAG
    bool has_seed;
    uint64_t seed;
    int32_t prompt_logprobs; // -1: none
    uint32_t n_stop, n_stop_ids, n_bias;
    struct request_text stop[LIMIT_STOP_STRINGS];
    const uint32_t *stop_ids;
    struct sampling_bias bias[LIMIT_LOGIT_BIAS];
    struct request_text cache_salt;
};

struct Phalanx__Submit; // of the generated client.pb-c.h

// Fills `out` (large: not on a small stack) from an unpacked message, or says which field is wrong.
// Token ids are checked against the vocabulary later, by request_check_ids, when the model is
// known.
enum status request_from_submit(
    const struct Phalanx__Submit *message, struct request *out, struct error *err);

// Every id that the client named is below `vocab_size`, and the prompt fits into the context.
enum status request_check_ids(
    const struct request *r, uint32_t vocab_size, uint32_t context_tokens, struct error *err);

// Sampling parameters of sample 0 (the seed as given, stop ids and biases counted).
void request_sampling(const struct request *r, struct sampling_params *out);

#endif
