// SPDX-License-Identifier: Apache-2.0
// The table of docs/models.md: one line per row of model/arch.def, with what the golden test has
// just seen of it.
#ifndef PHALANX_TESTS_WORKER_MODELS_PAGE_H
#define PHALANX_TESTS_WORKER_MODELS_PAGE_H

#include "base/buf.h"

#include <stdint.h>

struct models_page;

struct models_page *models_page_open(void);
void models_page_close(struct models_page *p);

// A model directory was checked at a degree; `error` is the worst of its log-probabilities.
void models_page_add(struct models_page *p, const char *dir, uint32_t degree, double error);

// Appends the table.
void models_page_print(const struct models_page *p, struct buf *out);

// The part of a page between its two marks, where the table stands; NULL without them.
const char *models_page_find(const char *page, size_t *n);

#endif
