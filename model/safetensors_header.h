// SPDX-License-Identifier: Apache-2.0
// The header of one safetensors file, parsed and proved: a strict reader of the one shape of JSON
// that the format has. It is our own because a general JSON tree of a hostile 100 MB header would
// take gigabytes; this reader's memory is bounded by the number of tensors.
#ifndef PHALANX_MODEL_SAFETENSORS_HEADER_H
#define PHALANX_MODEL_SAFETENSORS_HEADER_H

#include "base/arena.h"
#include "model/safetensors.h"

struct safetensors_entry {
    struct tensor tensor; // first; `data` is not set
    uint64_t begin;       // offset in the data behind the header
    uint32_t file;        // index of its file, set by the caller
};

struct safetensors_header_args {
    const char *path; // for sentences
    const uint8_t *header;
    size_t header_bytes;
    uint64_t data_bytes; // what follows the header in the file
    struct arena *names; // takes the tensors' names
};

// Appends the tensors to *entries (grown by realloc, owned by the caller, also on failure), which
// has *count of them. The new ones are in the order of their place in the file.
enum status safetensors_header_parse(const struct safetensors_header_args *a,
    struct safetensors_entry **entries, uint32_t *count, struct error *err);

#endif
