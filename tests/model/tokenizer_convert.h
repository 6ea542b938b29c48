// SPDX-License-Identifier: Apache-2.0
// A byte-level tokenizer.json turned into the older kinds of files that say the same.
#ifndef PHALANX_TESTS_MODEL_TOKENIZER_CONVERT_H
#define PHALANX_TESTS_MODEL_TOKENIZER_CONVERT_H

#include "base/buf.h"

#include <jansson.h>

// vocab.json and merges.txt.
void tokenizer_convert_bpe(const json_t *tokenizer, struct buf *vocab, struct buf *merges);
// Lines of base64 and rank.
void tokenizer_convert_tiktoken(const json_t *tokenizer, struct buf *ranks);
// A tokenizer_config.json with all added tokens, and with what `more` has.
void tokenizer_convert_config(const json_t *tokenizer, const json_t *more, struct buf *config);

#endif
