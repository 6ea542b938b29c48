// SPDX-License-Identifier: Apache-2.0
// The samples that wait for one model. Order: lower priority number first; at equal priority the
// tenant that was served least; within a tenant first come, first served, where a preempted sample
// keeps its old place. One pairing heap per tenant (Fredman, Sedgewick, Sleator, Tarjan, 1986);
// suspects have a heap of their own.
#ifndef PHALANX_COORDINATOR_SCHED_QUEUE_H
#define PHALANX_COORDINATOR_SCHED_QUEUE_H

#include "coordinator/core_internal.h"

void sched_queue_put(struct core *core, struct core_sample *s);
void sched_queue_remove(struct core *core, struct core_sample *s);
// The next one; NULL when nobody waits.
struct core_sample *sched_queue_peek(struct core *core, uint32_t model);
struct core_sample *sched_queue_peek_suspect(struct core *core, uint32_t model);
// A tenant's sample came alive (waits or runs) or ended.
void sched_queue_tenant_begin(struct core *core, const struct core_request *r);
void sched_queue_tenant_end(struct core *core, const struct core_request *r);
// Waiting samples and their heaps agree; returns their number or NONE.
uint32_t sched_queue_check(const struct core *core, uint32_t model);

#endif
