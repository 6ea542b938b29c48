// SPDX-License-Identifier: Apache-2.0
// What runs in the next step of each group. A step has a budget of rows: running sequences come
// first, in order of admission (one row each, or a chunk of their prompt), then waiting ones with
// what is left. Where KV blocks run out, the least important running sequence is preempted: its
// blocks are freed and it waits again, to be computed anew from its ids. While that happens nobody
// new is admitted.
#ifndef PHALANX_COORDINATOR_SCHED_H
#define PHALANX_COORDINATOR_SCHED_H

#include "coordinator/core_internal.h"

// Sends plans to all groups that can take one and have something to run.
void sched_run(struct core *core);

// ---- sched_slots.c: slots and their block tables ------------------------------------------------

// Row `position` is the lowest that may still be computed: first entry of the table it needs.
uint32_t sched_slots_window_begin(const struct core_group *g, uint32_t kv_group, uint32_t position);
// Gives the sample a slot; there must be a free one.
struct core_slot *sched_slots_take(struct core *core, uint32_t group, struct core_sample *s);
// The running sample lets go of its slot, which is freed now or when its last plan is answered.
void sched_slots_detach(struct core *core, struct core_sample *s);
// Frees an orphan that no plan in flight names.
void sched_slots_free(struct core_group *g, struct core_slot *slot);
// Takes back sched_slots_take for a sample that is still in its queue.
void sched_slots_undo(struct core *core, struct core_sample *s);
// Promises the slot all blocks for rows below `rows`; false if others may need them.
bool sched_slots_promise(struct core_group *g, struct core_slot *slot, uint32_t rows);
// Blocks for all rows below `rows`; the caller made sure that they are there.
void sched_slots_grow(struct core_group *g, struct core_slot *slot, uint32_t rows);
// How many of `n` rows after n_planned the free blocks allow.
uint32_t sched_slots_rows_fit(
    const struct core *core, const struct core_group *g, const struct core_slot *slot, uint32_t n);
// Frees blocks that fell out of the windows.
void sched_slots_trim(struct core_group *g, struct core_slot *slot);

// ---- sched_prefix.c ----------------------------------------------------------------------------

// Takes references to the longest cached prefix of the sample's ids (core->ids holds all of them)
// that leaves at least one row to compute; sets n_done, n_planned and the tables.
void sched_prefix_attach(struct core *core, struct core_group *g, struct core_slot *slot);
// Enters blocks that were filled by answered rows.
void sched_prefix_enter(struct core *core, struct core_group *g, struct core_slot *slot);

// ---- sched_plan.c ------------------------------------------------------------------------------

// Copies ids [begin, begin + n) of the sample, prompt and output, to `out`.
void sched_plan_ids(const struct core *core, const struct core_sample *s, uint32_t begin,
    uint32_t n, uint32_t *out);
// Most bytes of a plan without sequences shown for the first time, and of one such sequence.
size_t sched_plan_base_bytes(const struct core_group *g);
size_t sched_plan_first_bytes(
    const struct core *core, const struct core_group *g, const struct core_sample *s);
// Writes and emits the plan of g->pick.
void sched_plan_send(struct core *core, struct core_group *g, bool alone);

#endif
