// SPDX-License-Identifier: Apache-2.0
// What one rank knows of the coordinator's sequences, and the execution of step plans. Without
// sockets: rank 0 feeds it from the uplink, the others from the control ring, tests by hand.
//
//   plan -> check (format, step, every slot) -> releases -> copies -> rows through the forward pass
//        -> sampling -> ids appended to the slots -> answer
//
// Every rank executes the same plans in the same order and so holds the same slots; each checks
// them for itself. A plan that is refused has changed nothing: all ranks refuse the same ones.
//
// A plan is begun and finished. On a device that can (sampler_kept) beginning only enqueues: what
// was sampled stays there until the plan is finished, and the next one may be begun before, for its
// rows name tokens that the host has not read. Elsewhere everything is done when a plan has been
// begun. Finishing reads the outcomes, in the order of the plans, and makes the answer. The same
// plans give the same answers, however many are under way.
//
// One thread. Nothing is allocated after session_open but by the answer's buffer as it grows.
#ifndef PHALANX_WORKER_SESSION_H
#define PHALANX_WORKER_SESSION_H

#include "base/buf.h"
#include "proto/plan.h"
#include "worker/forward.h"
#include "worker/sample.h"

enum { SESSION_STEPS_MAX = 2 }; // begun and not finished

struct session_args {
    struct plan_limits limits;
    uint32_t window[LIMIT_KV_GROUPS]; // positions kept; 0: all
    struct forward *forward;          // borrowed
    struct sampler *sampler;          // borrowed
    bool answers;                     // this rank builds answers (rank 0)
};

struct session;

enum status session_open(const struct session_args *args, struct session **out, struct error *err);
void session_close(struct session *s); // NULL is allowed

// Forgets all sequences and the last answer: the next plan has this epoch and step id. Called when
// a coordinator welcomes the group.
void session_reset(struct session *s, uint64_t epoch, uint64_t next_step_id);

// Whether this is the last plan once more: nothing is to be done, and where it is finished,
// session_answer() is what to send.
bool session_repeats(const struct session *s, const struct plan_header *plan);

// What session_begin would refuse, before anything is done.
enum status session_accepts(struct session *s, const void *data, size_t n, struct error *err);

// Begins a plan of `n` bytes (8-byte aligned, any content; not needed afterwards); there must be
// room for it. INVALID, UNSUPPORTED or MISMATCH: the plan is refused and nothing has changed;
// CONFLICT: it is of an older epoch and is to be dropped; anything else is final for the rank.
// `pulse` may be NULL.
enum status session_begin(struct session *s, const void *data, size_t n,
    const struct forward_pulse *pulse, struct error *err);
// How many plans are begun and not finished: up to SESSION_STEPS_MAX.
uint32_t session_unfinished(const struct session *s);
// Finishes the oldest of them. AGAIN: it is still under way, and `wait` is false. Other failures
// are final for the rank.
enum status session_finish(struct session *s, bool wait, struct error *err);

// The answer to the plan that was finished last; size 0 before the first. Borrowed until the next
// is finished.
const struct buf *session_answer(const struct session *s);

// How many plans the coordinator should have in flight.
uint32_t session_depth(const struct session *s);
uint64_t session_epoch(const struct session *s);
uint64_t session_last_step(const struct session *s); // finished

#endif
