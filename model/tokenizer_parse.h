// SPDX-License-Identifier: Apache-2.0
// The parts of tokenizer.json that are lists of steps: each function reads one top-level value
// (NULL and null mean none) into `t`.
#ifndef PHALANX_MODEL_TOKENIZER_PARSE_H
#define PHALANX_MODEL_TOKENIZER_PARSE_H

#include "model/tokenizer_internal.h"

#include <jansson.h>

enum status tokenizer_parse_normalizer(struct tokenizer *t, const json_t *value, struct error *err);
enum status tokenizer_parse_pre_tokenizer(
    struct tokenizer *t, const json_t *value, struct error *err);
// Metaspace's prefix, of the pre-tokenizer and of the decoder.
enum status tokenizer_parse_prepend_scheme(
    const json_t *value, const char *where, enum tokenizer_prepend *out, struct error *err);
// Added tokens must be known.
enum status tokenizer_parse_post_processor(
    struct tokenizer *t, const json_t *value, struct error *err);
// Decoding is ready afterwards.
enum status tokenizer_parse_decoder(struct tokenizer *t, const json_t *value, struct error *err);

#endif
