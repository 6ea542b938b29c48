// SPDX-License-Identifier: Apache-2.0
// Drafts that were read before. A cache file is named by a hash of the names and contents of all
// its source files, holds that hash and one of itself, and is read as if it came from an enemy:
// every size and offset is checked, and building the tokenizer checks every number again.
// Writers make a file of their own and rename it, so that any number of processes may share a
// folder.
#ifndef PHALANX_MODEL_TOKENIZER_CACHE_H
#define PHALANX_MODEL_TOKENIZER_CACHE_H

#include "model/tokenizer_draft.h"

// Fills in an empty draft; false (and the draft is empty) if there is no cache for these files, or
// none that is whole.
bool tokenizer_cache_read(struct tokenizer_draft *d, const char *cache_dir,
    const struct tokenizer_file *files, size_t n_files);
// Keeps the draft, if it can.
void tokenizer_cache_write(const struct tokenizer_draft *d, const char *cache_dir,
    const struct tokenizer_file *files, size_t n_files);

// What the two above do between the file and its hashes. False if the draft is too large to keep,
// or without memory; and unless the bytes hold a draft, which borrows from them.
bool tokenizer_cache_pack(const struct tokenizer_draft *d, struct hash128 source, struct buf *out);
bool tokenizer_cache_unpack(struct tokenizer_draft *d, const uint8_t *data, size_t n);

#endif
