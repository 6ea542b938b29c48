// SPDX-License-Identifier: Apache-2.0
// The parts of tokenizer.json that are lists of steps: each function reads one top-level value
// (NULL and null mean none) into `t`.
#ifndef PHALANX_MODEL_TOKENIZER_PARSE_H
#define PHALANX_MODEL_TOKENIZER_PARSE_H

#include "model/tokenizer_internal.h"

#include <jansson.h>

typedef enum status (*tokenizer_parse_one)(
    struct tokenizer *t, const json_t *value, unsigned depth, struct error *err);
// Runs `one` over the list of a Sequence.
enum status tokenizer_parse_sequence(struct tokenizer *t, const json_t *value, const char *field,
    const char *where, unsigned depth, tokenizer_parse_one one, struct error *err);
// The sentence about a type that Phalanx does not know; UNSUPPORTED.
enum status tokenizer_parse_unknown(const char *where, const char *type, struct error *err);

// How a tokenizer.model normalizes, instead of a normalizer of tokenizer.json.
enum status tokenizer_parse_sentencepiece(
    struct tokenizer *t, const struct tokenizer_sentencepiece *how, struct error *err);
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
enum status tokenizer_parse_decoder_sentencepiece(
    struct tokenizer *t, const struct tokenizer_sentencepiece *how, struct error *err);

#endif
