// SPDX-License-Identifier: Apache-2.0
#include "base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ARENA_CHUNK_BYTES = 64 * 1024, ARENA_ALIGN = 16 };

struct arena_chunk {
    struct arena_chunk *next;
    size_t size;
    size_t used;
    size_t pad;
};
_Static_assert(sizeof(struct arena_chunk) % ARENA_ALIGN == 0, "data after the header is aligned");

void arena_init(struct arena *a, size_t limit_bytes)
{
    *a = (struct arena){.limit_bytes = limit_bytes};
}

void arena_reset(struct arena *a)
{
    struct arena_chunk *c = a->head;
    while (c) {
        struct arena_chunk *next = c->next;
        free(c);
        c = next;
    }
    a->head = NULL;
    a->used_bytes = 0;
}

static struct arena_chunk *chunk_add(struct arena *a, size_t bytes)
{
    size_t room = a->limit_bytes - a->used_bytes;
    size_t want = sizeof(struct arena_chunk) + bytes;
    if (want > room)
        return NULL;
    if (want < ARENA_CHUNK_BYTES)
        want = room < ARENA_CHUNK_BYTES ? room : ARENA_CHUNK_BYTES;
    struct arena_chunk *c = malloc(want);
    if (!c)
        return NULL;
    *c = (struct arena_chunk){.next = a->head, .size = want - sizeof *c};
    a->head = c;
    a->used_bytes += want;
    return c;
}

void *arena_take(struct arena *a, size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    size_t rounded = (bytes + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    if (rounded == 0)
        rounded = ARENA_ALIGN;
    struct arena_chunk *c = a->head;
    if (!c || c->size - c->used < rounded) {
        c = chunk_add(a, rounded);
        if (!c)
            return NULL;
    }
    unsigned char *p = (unsigned char *)(c + 1) + c->used;
    c->used += rounded;
    memset(p, 0, rounded);
    return p;
}

void *arena_array(struct arena *a, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        return NULL;
    return arena_take(a, bytes);
}

char *arena_text(struct arena *a, const char *text, size_t n)
{
    if (n == SIZE_MAX)
        return NULL;
    char *p = arena_take(a, n + 1);
    if (p && n)
        memcpy(p, text, n);
    return p;
}
