// SPDX-License-Identifier: Apache-2.0
// A bump allocator with a fixed limit: many small things with one lifetime, freed together.
// One thread uses an arena at a time.
#ifndef PHALANX_BASE_ARENA_H
#define PHALANX_BASE_ARENA_H

#include <stddef.h>

// Plain data; owned by whoever embeds it. Memory comes in chunks of at least `chunk_bytes`, never
// more than `limit_bytes` in all.
struct arena_chunk;
struct arena {
    struct arena_chunk *head;
    size_t limit_bytes;
    size_t used_bytes; // taken from the system, headers included
};

// Prepares an empty arena; nothing is allocated yet.
void arena_init(struct arena *a, size_t limit_bytes);
// Frees everything; the arena is empty and usable again.
void arena_reset(struct arena *a);
// Zeroed memory aligned to 16 bytes, until the next reset; NULL when the limit or the system's
// memory is reached. `bytes` may be 0.
void *arena_take(struct arena *a, size_t bytes);
// The same for `count` elements of `size` bytes, with checked multiplication.
void *arena_array(struct arena *a, size_t count, size_t size);
// A zero-terminated copy of `n` bytes; NULL as above.
char *arena_text(struct arena *a, const char *text, size_t n);

#endif
