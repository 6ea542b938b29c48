// SPDX-License-Identifier: Apache-2.0
// Weights as they lie on disk: the safetensors format (https://huggingface.co/docs/safetensors),
// one file or a model directory of one or many shards.
//
//   u64 header bytes | header: JSON object | data
//   header: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
//            "__metadata__": {"key": "text"}}
//
// A file is refused, with a sentence, unless every byte of it is accounted for: the header is at
// most 100 MB and starts with '{', no name occurs twice, dtype and shape give exactly the range,
// and the ranges cover the data without holes or overlaps up to the file's end. So a tensor that
// safetensors_find returns can be read without further checks.
//
// Files are mapped read-only and shared, so that the ranks of one host hold one copy in the page
// cache. Who truncates a file under the mapping kills its readers (SIGBUS); no program can prevent
// that, so safetensors_recheck() asks again whether size and time of change are still the same:
// call it when loading is done. Replacing a file by renaming another over it is harmless.
//
// Tensors whose place in the file is not a multiple of their element size (old or hand-made files)
// are copied into memory once, at open.
//
// Not thread-safe while opening or closing; lookups may run on any thread.
#ifndef PHALANX_MODEL_SAFETENSORS_H
#define PHALANX_MODEL_SAFETENSORS_H

#include "base/dtype.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum {
    SAFETENSORS_DIMS_MAX = 8,
    SAFETENSORS_NAME_BYTES_MAX = 256,
    SAFETENSORS_HEADER_BYTES_MAX = 100 * 1000 * 1000,
    SAFETENSORS_TENSORS_MAX = 100 * 1000, // in one file
    SAFETENSORS_FILES_MAX = 512,          // in one directory
};

struct safetensors; // a file or directory that is open

// Plain data, owned by the struct safetensors that it came from.
struct tensor {
    const char *name;
    enum dtype dtype;
    uint32_t n_dims;
    uint64_t shape[SAFETENSORS_DIMS_MAX];
    uint64_t bytes;
    const void *data; // [bytes], aligned to the element
};

// Opens one file. A link is followed (Hugging Face's caches are made of them), but what it leads to
// must be a regular file.
enum status safetensors_open_file(const char *path, struct safetensors **out, struct error *err);

// Opens model.safetensors of a directory, or else the shards that model.safetensors.index.json
// names (plain file names inside the directory). Where there are only other formats, the sentence
// says how to convert them.
enum status safetensors_open_dir(const char *dir, struct safetensors **out, struct error *err);

void safetensors_close(struct safetensors *s); // NULL is allowed

// NULL if there is none.
const struct tensor *safetensors_find(const struct safetensors *s, const char *name);

// All tensors, in the order of their names.
uint32_t safetensors_count(const struct safetensors *s);
const struct tensor *safetensors_at(const struct safetensors *s, uint32_t index);
// The index of a tensor that safetensors_find returned.
uint32_t safetensors_index(const struct safetensors *s, const struct tensor *t);

// Bytes of all files, for progress.
uint64_t safetensors_file_bytes(const struct safetensors *s);

// STATUS_IO if a file has changed since it was opened.
enum status safetensors_recheck(const struct safetensors *s, struct error *err);

#endif
