// SPDX-License-Identifier: Apache-2.0
// Jobs are numbered. `ticket` holds the job's number above the count of tasks that nobody has
// taken; a thread takes a task by compare-and-swap on both, so one that arrives late (it slept, or
// the machine took its core away) can never take a task of a job whose function it has not read.
// team_run waits for tasks, not for threads: sleepers that are too late to help delay nobody.
#include "kernels/cpu/team.h"

#include "base/clock.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    CACHE_LINE = 64,
    IDLE_SPIN_US = 1500, // idle for longer: sleep
    PAUSES_PER_LOOK = 64,
    PAUSES_BEFORE_YIELD = 4096,
};

struct member {
    struct team *team;
    uint32_t index;
    pthread_t thread;
};

struct team {
    uint32_t n_threads;
    bool spin;
    struct member *member;                        // [n_threads], the first is the caller
    _Alignas(CACHE_LINE) _Atomic uint64_t ticket; // job number << 32 | tasks left
    _Alignas(CACHE_LINE) _Atomic uint64_t n_done;
    // The job; written by the caller while no task is left.
    _Alignas(CACHE_LINE) _Atomic(team_fn *) fn;
    _Atomic(void *) arg;
    _Atomic uint32_t n_tasks;
    _Atomic uint32_t job; // the number again: what idle threads watch, and the futex
    _Atomic bool stop;
    _Alignas(CACHE_LINE) _Atomic uint32_t n_asleep;
};

static inline void pause_cpu(void)
{
    __builtin_ia32_pause();
}

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, TEAM_THREADS_MAX, NULL, NULL, 0);
}

// Takes tasks of the current job until none is left; returns how many it ran.
static uint64_t work(struct team *t, uint32_t thread)
{
    uint64_t n = 0;
    uint64_t now = atomic_load_explicit(&t->ticket, memory_order_acquire);
    for (;;) {
        team_fn *fn = atomic_load_explicit(&t->fn, memory_order_relaxed);
        void *arg = atomic_load_explicit(&t->arg, memory_order_relaxed);
        uint32_t n_tasks = atomic_load_explicit(&t->n_tasks, memory_order_relaxed);
        uint32_t left = (uint32_t)now;
        if (left == 0)
            return n;
        // Success proves that fn, arg and n_tasks above belong to this ticket's job: the caller
        // writes the next job's only when all tasks of this one have run.
        if (atomic_compare_exchange_weak_explicit(
                &t->ticket, &now, now - 1, memory_order_acq_rel, memory_order_acquire)) {
            fn(arg, n_tasks - left, thread);
            n++;
            now--;
        }
    }
}

// Waits until the job differs from `seen`; false: the team is closing.
static bool wait_for_job(struct team *t, uint32_t seen)
{
    uint64_t begin = clock_now_us();
    while (atomic_load_explicit(&t->job, memory_order_acquire) == seen) {
        for (int i = 0; t->spin && i < PAUSES_PER_LOOK; i++) {
            pause_cpu();
            if (atomic_load_explicit(&t->job, memory_order_relaxed) != seen)
                break;
        }
        if (!t->spin)
            sched_yield();
        if (clock_now_us() - begin < IDLE_SPIN_US)
            continue;
        atomic_fetch_add(&t->n_asleep, 1);
        // The caller changes `job` and then reads n_asleep, both in the one order of all such
        // operations: either it sees the sleeper or the futex sees the change.
        if (atomic_load(&t->job) == seen)
            futex_wait(&t->job, seen);
        atomic_fetch_sub(&t->n_asleep, 1);
    }
    return !atomic_load_explicit(&t->stop, memory_order_acquire);
}

static void *member_main(void *p)
{
    const struct member *m = p;
    struct team *t = m->team;
    uint32_t seen = 0;
    while (wait_for_job(t, seen)) {
        seen = atomic_load_explicit(&t->job, memory_order_acquire);
        uint64_t n = work(t, m->index);
        if (n > 0)
            atomic_fetch_add_explicit(&t->n_done, n, memory_order_release);
    }
    return NULL;
}

static void announce(struct team *t, uint32_t job)
{
    atomic_store(&t->job, job);
    if (atomic_load(&t->n_asleep) > 0)
        futex_wake_all(&t->job);
}

void team_close(struct team *t)
{
    if (t == NULL)
        return;
    atomic_store(&t->stop, true);
    announce(t, atomic_load(&t->job) + 1);
    for (uint32_t i = 1; i < t->n_threads; i++)
        pthread_join(t->member[i].thread, NULL);
    free(t->member);
    free(t);
}

// Signals are for the process's main thread: members start with all of them blocked.
static int member_start(struct member *m)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&m->thread, NULL, member_main, m);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc == 0)
        pthread_setname_np(m->thread, "phalanx-team");
    return rc;
}

enum status team_open(uint32_t n_threads, bool spin, struct team **out, struct error *err)
{
    if (n_threads < 1 || n_threads > TEAM_THREADS_MAX)
        return status_fail(err, STATUS_INVALID, "%u threads asked for; expected 1 to %d", n_threads,
            TEAM_THREADS_MAX);
    struct team *t = aligned_alloc(CACHE_LINE, sizeof *t);
    if (t == NULL)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for a team of threads");
    memset(t, 0, sizeof *t);
    t->spin = spin;
    t->n_threads = 1;
    t->member = calloc(n_threads, sizeof *t->member);
    if (t->member == NULL) {
        team_close(t);
        return status_fail(err, STATUS_NO_MEMORY, "no memory for a team of threads");
    }
    for (uint32_t i = 1; i < n_threads; i++) {
        t->member[i] = (struct member){.team = t, .index = i};
        int rc = member_start(&t->member[i]);
        if (rc != 0) {
            team_close(t);
            return status_fail(err, STATUS_NO_MEMORY, "thread %u of %u could not be started: %s",
                i + 1, n_threads, strerror(rc));
        }
        t->n_threads++;
    }
    *out = t;
    return STATUS_OK;
}

uint32_t team_size(const struct team *t)
{
    return t->n_threads;
}

static void wait_until_done(struct team *t, uint64_t n)
{
    uint32_t pauses = 0;
    while (atomic_load_explicit(&t->n_done, memory_order_acquire) != n) {
        pause_cpu();
        if (!t->spin || ++pauses > PAUSES_BEFORE_YIELD)
            sched_yield();
    }
}

void team_run(struct team *t, team_fn *fn, void *arg, uint32_t n_tasks)
{
    if (t->n_threads == 1 || n_tasks <= 1) {
        for (uint32_t i = 0; i < n_tasks; i++)
            fn(arg, i, 0);
        return;
    }
    uint32_t job = atomic_load_explicit(&t->job, memory_order_relaxed) + 1;
    atomic_store_explicit(&t->n_done, 0, memory_order_relaxed);
    atomic_store_explicit(&t->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&t->arg, arg, memory_order_relaxed);
    atomic_store_explicit(&t->n_tasks, n_tasks, memory_order_relaxed);
    atomic_store_explicit(&t->ticket, (uint64_t)job << 32 | n_tasks, memory_order_release);
    announce(t, job);
    uint64_t mine = work(t, 0);
    wait_until_done(t, n_tasks - mine);
}
