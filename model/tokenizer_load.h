// SPDX-License-Identifier: Apache-2.0
// The files of a model directory that make a tokenizer: which of them count, and what the ones
// beside the vocabulary say.
#ifndef PHALANX_MODEL_TOKENIZER_LOAD_H
#define PHALANX_MODEL_TOKENIZER_LOAD_H

#include "model/tokenizer_draft.h"

// ---- the files beside the tokenizer's ------------------------------------------------------

enum status tokenizer_side_read(struct tokenizer_side *side, const struct tokenizer_file *files,
    size_t n_files, struct error *err);
void tokenizer_side_free(struct tokenizer_side *side);
// A field of tokenizer_config.json, or else of special_tokens_map.json; NULL if neither has it.
const json_t *tokenizer_side_field(const struct tokenizer_side *side, const char *field);
// The content of the token that `field` names, as a text or as {"content": text}; NULL: none.
const char *tokenizer_side_token(const struct tokenizer_side *side, const char *field);
bool tokenizer_side_bool(const struct tokenizer_side *side, const char *field, bool absent);
// The part of "tokenizer_class" before "Fast"; empty if there is none.
void tokenizer_side_class(const struct tokenizer_side *side, char out[64]);
// For sources without added tokens of their own: a list as in tokenizer.json, ordered by id, of
// added_tokens_decoder, added_tokens.json and the named special tokens. *out is owned.
enum status tokenizer_side_added(
    const struct tokenizer_side *side, json_t **out, struct error *err);
// BOS and EOS; whether they are put around a text, where tokenizer.json does not say so itself.
void tokenizer_side_apply(const struct tokenizer_side *side, struct tokenizer *t);

// ---- reading -------------------------------------------------------------------------------

// The draft that the files make. NOT_FOUND if no tokenizer is among them.
enum status tokenizer_load_draft(struct tokenizer_draft *d, const struct tokenizer_side *side,
    const struct tokenizer_file *files, size_t n_files, struct error *err);

#endif
