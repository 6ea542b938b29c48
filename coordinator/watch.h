// SPDX-License-Identifier: Apache-2.0
// Tells a group that hangs from one that is slow. Rank 0 speaks once a second, also between the
// layers of a step; a rank that waits for another one is silent. When a group is silent, the
// processor time of its ranks is its progress counter: ranks that compute or wait for each other
// use some, one that is stopped, blocked or deadlocked uses none.
//
//   heard ---- silent_us ----> look ---- stall_us ----> a rank has not run: it hangs
//                               ^                       all have run: look again
//                               '------------------------------'   at most slow_us after the first
//
// Pure but for watch_read; one thread.
#ifndef PHALANX_COORDINATOR_WATCH_H
#define PHALANX_COORDINATOR_WATCH_H

#include <stdbool.h>
#include <stdint.h>

enum {
    WATCH_RANKS_MAX = 64,
    WATCH_SILENT_US = 2000000, // two signs of life are missing
    WATCH_STALL_US = 5000000,
    WATCH_SLOW_US = 120000000, // whatever it computes: no layer takes so long
    WATCH_RUN_US = 1000,       // a rank that ran less than this in WATCH_STALL_US did not run
};

struct watch {
    uint32_t n_ranks;
    uint32_t n_plans; // out and not answered; without one only rank 0 has anything to do
    uint32_t pid[WATCH_RANKS_MAX];
    uint64_t heard_us;
    uint64_t first_look_us, looked_us; // since it was heard; 0: none
    uint64_t cpu_us[WATCH_RANKS_MAX];
};

// A plan goes out to the group, and is answered.
void watch_planned(struct watch *w);
void watch_answered(struct watch *w);
// The group has said something.
void watch_heard(struct watch *w, uint64_t now_us);
// Whether watch_judge wants to know the ranks' processor times now.
bool watch_due(const struct watch *w, uint64_t now_us);
// True when the group hangs; *rank is then the one that has not run, or n_ranks when all have that
// had to, but for too long. cpu_us [n_ranks].
bool watch_judge(struct watch *w, const uint64_t *cpu_us, uint64_t now_us, uint32_t *rank);
// Processor time of all ranks, which live on this machine; 0 for one that does not.
void watch_read(const struct watch *w, uint64_t *cpu_us);

#endif
