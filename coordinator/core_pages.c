// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core_pages.h"

#include "base/check.h"

#include <string.h>

uint32_t core_pages_for(uint64_t count, uint32_t item_bytes)
{
    uint32_t per_page = CORE_PAGE_BYTES / item_bytes;
    return (uint32_t)((count + per_page - 1) / per_page);
}

bool core_pages_reserve(struct core_pages *pages, uint64_t n)
{
    if (n > pages->n - pages->n_reserved)
        return false;
    pages->n_reserved += (uint32_t)n;
    return true;
}

void core_pages_unreserve(struct core_pages *pages, uint64_t n)
{
    check(n <= pages->n_reserved);
    pages->n_reserved -= (uint32_t)n;
}

static uint32_t page_take(struct core_pages *pages)
{
    uint32_t p = pages->first_free;
    if (p != CORE_PAGE_NONE) {
        pages->first_free = pages->next[p];
    } else {
        check(pages->n_touched < pages->n);
        p = pages->n_touched++;
    }
    pages->n_used++;
    check(pages->n_used <= pages->n_reserved);
    return p;
}

void core_log_init(struct core_log *log, uint32_t item_bytes)
{
    *log = (struct core_log){.head = CORE_PAGE_NONE,
        .tail = CORE_PAGE_NONE,
        .item_bytes = item_bytes,
        .per_page = CORE_PAGE_BYTES / item_bytes};
}

static uint8_t *page_data(const struct core_pages *pages, uint32_t p)
{
    return pages->data + (size_t)p * CORE_PAGE_BYTES;
}

void *core_log_append(struct core_pages *pages, struct core_log *log)
{
    uint32_t at = log->count % log->per_page;
    if (at == 0) {
        uint32_t p = page_take(pages);
        pages->next[p] = CORE_PAGE_NONE;
        pages->prev[p] = log->tail;
        if (log->tail == CORE_PAGE_NONE)
            log->head = p;
        else
            pages->next[log->tail] = p;
        log->tail = p;
    }
    log->count++;
    return page_data(pages, log->tail) + (size_t)at * log->item_bytes;
}

void core_log_append_array(
    struct core_pages *pages, struct core_log *log, const void *items, uint32_t n)
{
    const uint8_t *from = items;
    while (n > 0) {
        uint32_t run = log->per_page - log->count % log->per_page;
        if (run > n)
            run = n;
        void *to = core_log_append(pages, log);
        memcpy(to, from, (size_t)run * log->item_bytes);
        log->count += run - 1;
        from += (size_t)run * log->item_bytes;
        n -= run;
    }
}

// The page with item `index`, walked to from the nearer end.
static uint32_t find_page(
    const struct core_pages *pages, const struct core_log *log, uint32_t index)
{
    uint32_t want = index / log->per_page;
    uint32_t last = (log->count - 1) / log->per_page;
    uint32_t p = log->head;
    if (want <= last / 2) {
        for (uint32_t i = 0; i < want; i++)
            p = pages->next[p];
        return p;
    }
    p = log->tail;
    for (uint32_t i = last; i > want; i--)
        p = pages->prev[p];
    return p;
}

void *core_log_at(const struct core_pages *pages, const struct core_log *log, uint32_t index)
{
    check(index < log->count);
    uint32_t p = find_page(pages, log, index);
    return page_data(pages, p) + (size_t)(index % log->per_page) * log->item_bytes;
}

void core_log_copy(const struct core_pages *pages, const struct core_log *log, uint32_t begin,
    uint32_t n, void *out)
{
    check(begin <= log->count && n <= log->count - begin);
    if (n == 0)
        return;
    uint8_t *to = out;
    uint32_t p = find_page(pages, log, begin);
    uint32_t at = begin % log->per_page;
    while (n > 0) {
        uint32_t run = log->per_page - at;
        if (run > n)
            run = n;
        memcpy(
            to, page_data(pages, p) + (size_t)at * log->item_bytes, (size_t)run * log->item_bytes);
        to += (size_t)run * log->item_bytes;
        n -= run;
        at = 0;
        p = pages->next[p];
    }
}

void core_log_clear(struct core_pages *pages, struct core_log *log)
{
    uint32_t n = log->count ? (log->count - 1) / log->per_page + 1 : 0;
    if (n) {
        pages->next[log->tail] = pages->first_free;
        pages->first_free = log->head;
        pages->n_used -= n;
    }
    log->count = 0;
    log->head = log->tail = CORE_PAGE_NONE;
}
