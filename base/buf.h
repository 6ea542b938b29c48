// SPDX-License-Identifier: Apache-2.0
// A growable byte buffer that must be given its maximum when it is made. Errors are sticky: after
// a failed append the buffer stays as it was and buf_failed() is true, so a writer may append many
// times and ask once.
#ifndef PHALANX_BASE_BUF_H
#define PHALANX_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    uint8_t *data; // owned
    size_t size;
    size_t capacity;
    size_t size_max;
    bool failed;
};

void buf_init(struct buf *b, size_t size_max);
void buf_deinit(struct buf *b);
// Empties the buffer, keeps its memory and clears the error.
void buf_clear(struct buf *b);
bool buf_append(struct buf *b, const void *data, size_t n);
// Appends `n` zero bytes and returns where they begin, or NULL. Valid until the next append.
void *buf_extend(struct buf *b, size_t n);
bool buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
// Removes the first `n` bytes (n at most the size).
void buf_drop(struct buf *b, size_t n);
static inline bool buf_failed(const struct buf *b)
{
    return b->failed;
}

#endif
