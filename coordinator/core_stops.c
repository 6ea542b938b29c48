// SPDX-License-Identifier: Apache-2.0
// Stop strings in pages: records of {u16 size, text [size], fail table [size]}, none across a
// page's end; a size of 0, or no room for another, ends a page.
#include "coordinator/core_internal.h"

#include <string.h>

static uint32_t record_bytes(uint32_t size)
{
    return 2 + 2 * size;
}

uint32_t core_stops_pages(const struct request *request)
{
    uint32_t pages = 0, left = 0;
    for (uint32_t i = 0; i < request->n_stop; i++) {
        uint32_t bytes = record_bytes((uint32_t)request->stop[i].size);
        if (bytes > left) {
            pages++;
            left = CORE_PAGE_BYTES;
        }
        left -= bytes;
    }
    return pages;
}

void core_stops_store(struct core *core, struct core_request *r, const struct request *request)
{
    uint8_t *at = NULL;
    uint32_t left = 0;
    for (uint32_t i = 0; i < request->n_stop; i++) {
        uint16_t size = (uint16_t)request->stop[i].size;
        if (record_bytes(size) > left) {
            at = core_log_append(&core->pages, &r->stops);
            memset(at, 0, CORE_PAGE_BYTES);
            left = CORE_PAGE_BYTES;
        }
        memcpy(at, &size, 2);
        memcpy(at + 2, request->stop[i].data, size);
        text_stream_prepare(at + 2, size, at + 2 + size);
        at += record_bytes(size);
        left -= record_bytes(size);
    }
    r->n_stops = request->n_stop;
}

void core_stops_load(const struct core *core, const struct core_request *r, struct text_stops *out)
{
    out->n = 0;
    for (uint32_t p = 0; p < r->stops.count; p++) {
        const uint8_t *at = core_log_at(&core->pages, &r->stops, p);
        const uint8_t *end = at + CORE_PAGE_BYTES;
        while (end - at >= 2 && out->n < r->n_stops) {
            uint16_t size;
            memcpy(&size, at, 2);
            if (size == 0)
                break;
            out->stop[out->n++] =
                (struct text_stop){.text = at + 2, .fail = at + 2 + size, .size = size};
            at += record_bytes(size);
        }
    }
}
