// SPDX-License-Identifier: Apache-2.0
#include "base/buf.h"

#include "base/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_init(struct buf *b, size_t size_max)
{
    *b = (struct buf){.size_max = size_max};
}

void buf_deinit(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.size_max = b->size_max};
}

void buf_clear(struct buf *b)
{
    b->size = 0;
    b->failed = false;
}

static bool reserve(struct buf *b, size_t n)
{
    if (b->failed || n > b->size_max - b->size)
        return false;
    size_t need = b->size + n;
    if (need <= b->capacity)
        return true;
    size_t capacity = b->capacity ? b->capacity : 256;
    while (capacity < need)
        capacity = capacity > b->size_max / 2 ? b->size_max : capacity * 2;
    uint8_t *data = realloc(b->data, capacity);
    if (!data)
        return false;
    b->data = data;
    b->capacity = capacity;
    return true;
}

void *buf_extend(struct buf *b, size_t n)
{
    if (!reserve(b, n ? n : 1)) {
        b->failed = true;
        return NULL;
    }
    uint8_t *p = b->data + b->size;
    memset(p, 0, n);
    b->size += n;
    return p;
}

bool buf_append(struct buf *b, const void *data, size_t n)
{
    if (n == 0)
        return !b->failed;
    void *p = buf_extend(b, n);
    if (p)
        memcpy(p, data, n);
    return p != NULL;
}

bool buf_printf(struct buf *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    bool ok = n >= 0 && reserve(b, (size_t)n + 1);
    if (ok) {
        vsnprintf((char *)b->data + b->size, (size_t)n + 1, format, again);
        b->size += (size_t)n;
    } else {
        b->failed = true;
    }
    va_end(again);
    return ok;
}

void buf_drop(struct buf *b, size_t n)
{
    check(n <= b->size);
    if (n == 0)
        return;
    memmove(b->data, b->data + n, b->size - n);
    b->size -= n;
}
