// SPDX-License-Identifier: Apache-2.0
// A directory of its own for a test's files, removed with all that is in it.
#ifndef PHALANX_TESTS_MODEL_SCRATCH_DIR_H
#define PHALANX_TESTS_MODEL_SCRATCH_DIR_H

#include <stddef.h>
#include <stdint.h>

// The directory's path; static storage, one at a time.
const char *scratch_dir_make(void);
void scratch_dir_remove(void);

// Writes a file there and returns its path (test_path's ring).
const char *scratch_dir_write(const char *name, const void *data, size_t bytes);

// Writes a safetensors file: the header's text, padded with spaces to a multiple of `align` bytes,
// and `data_bytes` of data that count up (0, 1, 2 ...).
const char *scratch_dir_tensors(
    const char *name, const char *header, size_t align, size_t data_bytes);

#endif
