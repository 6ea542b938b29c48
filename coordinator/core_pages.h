// SPDX-License-Identifier: Apache-2.0
// Where prompts and token logs live: pages of one size from one pool, chained into logs of items
// of one size. Whoever may append reserves the pages before, so appending never fails.
#ifndef PHALANX_COORDINATOR_CORE_PAGES_H
#define PHALANX_COORDINATOR_CORE_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CORE_PAGE_BYTES = 1024 };
#define CORE_PAGE_NONE UINT32_MAX

// Plain data; the arrays belong to the caller's memory.
struct core_pages {
    uint8_t *data;         // [n][CORE_PAGE_BYTES], 8-byte aligned
    uint32_t *next, *prev; // [n]
    uint32_t n;
    uint32_t n_touched;  // pages beyond have never been used
    uint32_t first_free; // chained by next
    uint32_t n_used, n_reserved;
};

struct core_log {
    uint32_t head, tail, count;
    uint32_t item_bytes, per_page;
};

// Pages that `count` items need.
uint32_t core_pages_for(uint64_t count, uint32_t item_bytes);
// False if fewer pages are left; then nothing is reserved.
bool core_pages_reserve(struct core_pages *pages, uint64_t n);
void core_pages_unreserve(struct core_pages *pages, uint64_t n);

void core_log_init(struct core_log *log, uint32_t item_bytes);
// Room for one more item, 4-byte aligned; its bytes are undefined.
void *core_log_append(struct core_pages *pages, struct core_log *log);
// Appends `n` items; item_bytes divides CORE_PAGE_BYTES.
void core_log_append_array(
    struct core_pages *pages, struct core_log *log, const void *items, uint32_t n);
void *core_log_at(const struct core_pages *pages, const struct core_log *log, uint32_t index);
// Copies items [begin, begin + n) of item_bytes each to `out`.
void core_log_copy(const struct core_pages *pages, const struct core_log *log, uint32_t begin,
    uint32_t n, void *out);
// Gives all pages back (their reservation stays).
void core_log_clear(struct core_pages *pages, struct core_log *log);

#endif
