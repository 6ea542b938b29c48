// SPDX-License-Identifier: Apache-2.0
// A small text file of a model directory, whole in memory.
#ifndef PHALANX_MODEL_TEXT_FILE_H
#define PHALANX_MODEL_TEXT_FILE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

enum { TEXT_FILE_PATH_BYTES = 4096 };

// Joins directory and name with '/'; false if the result does not fit.
bool text_file_path(char path[TEXT_FILE_PATH_BYTES], const char *dir, const char *name);

// Opens for reading and makes sure that it is a regular file, whose size it returns. Links are
// followed, devices and pipes are never waited for. STATUS_NOT_FOUND if there is no such file.
enum status text_file_open(const char *path, int *fd, size_t *bytes, struct error *err);

// Reads exactly `n` bytes at `offset`.
enum status text_file_pread(
    int fd, const char *path, void *to, size_t n, size_t offset, struct error *err);

// Returns the content with a zero byte behind it; the caller frees *text. Files over `bytes_max`
// are STATUS_TOO_LARGE.
enum status text_file_read(
    const char *path, size_t bytes_max, char **text, size_t *bytes, struct error *err);

#endif
