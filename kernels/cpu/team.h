// SPDX-License-Identifier: Apache-2.0
// A team of threads that runs one op at a time. Work is split into tasks that threads take one by
// one from an atomic counter, so that a thread that the machine disturbs does fewer of them; which
// thread runs a task may never change what the task computes.
#ifndef PHALANX_KERNELS_CPU_TEAM_H
#define PHALANX_KERNELS_CPU_TEAM_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum { TEAM_THREADS_MAX = 256 };

struct team;

// `thread` is 0 (the caller of team_run) .. n_threads - 1: an index for per-thread scratch.
typedef void team_fn(void *arg, uint32_t task, uint32_t thread);

// Starts n_threads - 1 threads. `spin`: idle threads poll for a while before they sleep; false
// where threads share cores.
enum status team_open(uint32_t n_threads, bool spin, struct team **out, struct error *err);
void team_close(struct team *t);
uint32_t team_size(const struct team *t);

// Runs fn(arg, 0 .. n_tasks - 1, thread), each task once, and returns when all have run; writes of
// every task are then visible to the caller. One caller at a time; not from inside a task. A single
// task runs in the caller without waking anybody. A task should take at least a few microseconds.
void team_run(struct team *t, team_fn *fn, void *arg, uint32_t n_tasks);

#endif
