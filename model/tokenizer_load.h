// SPDX-License-Identifier: Apache-2.0
// Filling in a zeroed `struct tokenizer` whose arena and key are ready. On failure it holds what
// was read so far, for tokenizer_free.
#ifndef PHALANX_MODEL_TOKENIZER_LOAD_H
#define PHALANX_MODEL_TOKENIZER_LOAD_H

#include "model/tokenizer_internal.h"

// From the text of a tokenizer.json.
enum status tokenizer_load_json(struct tokenizer *t, const void *json, size_t n, struct error *err);
// The whole of `dir`/`name`; the caller frees *text. NOT_FOUND, IO, INVALID or TOO_LARGE.
enum status tokenizer_load_file(
    const char *dir, const char *name, char **text, size_t *n, struct error *err);
// Behind the former: BOS and EOS from tokenizer_config.json and special_tokens_map.json of `dir`,
// as far as those exist.
enum status tokenizer_load_config(struct tokenizer *t, const char *dir, struct error *err);

#endif
