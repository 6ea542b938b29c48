// SPDX-License-Identifier: Apache-2.0
#include "bench/limits.h"

#include "kernels/cpu/team.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum {
    READ_CHUNK = 2 << 20,
    PASSES = 5,
    FMA_ROUNDS = 20000,
    COMPUTE_TASKS = 24, // for each thread
};

static const int stream_counts[] = {1, 2, 4, 8};

struct limits {
    struct team *team;
    const struct limits_loops *loops;
    uint8_t *buffer;
    size_t bytes;
    int streams;
    _Atomic uint64_t sink; // keeps results alive
    _Atomic uint64_t ops;  // of one pass
    cpu_set_t caller;      // where the calling thread may run
    _Atomic uint32_t arrived;
};

double limits_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double limits_median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, compare);
    return n == 0 ? 0 : n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static void read_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    struct limits *l = arg;
    const uint8_t *p = l->buffer + (size_t)task * READ_CHUNK;
    atomic_fetch_xor(&l->sink, l->loops->read(p, READ_CHUNK, l->streams));
}

static void fma_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)task;
    (void)thread;
    struct limits *l = arg;
    atomic_fetch_add(&l->ops, (uint64_t)l->loops->fma(FMA_ROUNDS));
}

static void int8_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)task;
    (void)thread;
    struct limits *l = arg;
    atomic_fetch_add(&l->ops, (uint64_t)l->loops->int8(FMA_ROUNDS));
}

// ---- one core for each thread ------------------------------------------------------------------

static void pin_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)task;
    struct limits *l = arg;
    // Nobody leaves before all have come, so that every thread takes one of these tasks.
    atomic_fetch_add(&l->arrived, 1);
    while (atomic_load(&l->arrived) < team_size(l->team))
        sched_yield();
    uint32_t left = thread % (uint32_t)CPU_COUNT(&l->caller);
    size_t cpu = 0;
    while (!CPU_ISSET(cpu, &l->caller) || left-- > 0)
        cpu++;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
}

// While limits are measured each thread has a core of its own: two that share one for a moment
// would report half of what the machine can do.
static void pin(struct limits *l)
{
    CPU_ZERO(&l->caller);
    sched_getaffinity(0, sizeof l->caller, &l->caller);
    atomic_store(&l->arrived, 0);
    if (CPU_COUNT(&l->caller) > 0)
        team_run(l->team, pin_task, l, team_size(l->team));
}

static void unpin(const struct limits *l)
{
    if (CPU_COUNT(&l->caller) > 0)
        sched_setaffinity(0, sizeof l->caller, &l->caller);
}

// ---- measuring ---------------------------------------------------------------------------------

static double read_once(struct limits *l)
{
    double begin = limits_now_s();
    team_run(l->team, read_task, l, (uint32_t)(l->bytes / READ_CHUNK));
    return (double)l->bytes / (limits_now_s() - begin) * 1e-9;
}

static double compute(struct limits *l, team_fn *task)
{
    double best = 0;
    pin(l);
    for (int i = 0; i < PASSES; i++) {
        atomic_store(&l->ops, 0);
        double begin = limits_now_s();
        team_run(l->team, task, l, COMPUTE_TASKS * team_size(l->team));
        double v = (double)atomic_load(&l->ops) / (limits_now_s() - begin) * 1e-9;
        best = v > best ? v : best;
    }
    unpin(l);
    return best;
}

double limits_read_gbs(struct limits *l)
{
    double best = 0;
    pin(l);
    for (int i = 0; i < PASSES; i++) {
        double v = read_once(l);
        best = v > best ? v : best;
    }
    unpin(l);
    return best;
}

double limits_fma_gflops(struct limits *l)
{
    return compute(l, fma_task);
}

double limits_int8_gops(struct limits *l)
{
    return compute(l, int8_task);
}

// Keeps the number of streams that this machine reads fastest.
static void choose_streams(struct limits *l)
{
    double best = 0;
    int best_streams = 1;
    for (size_t i = 0; i < sizeof stream_counts / sizeof *stream_counts; i++) {
        l->streams = stream_counts[i];
        double gbs = limits_read_gbs(l);
        if (gbs > best) {
            best = gbs;
            best_streams = l->streams;
        }
    }
    l->streams = best_streams;
}

enum status limits_open(
    uint32_t n_threads, enum cpu_isa isa, size_t bytes, struct limits **out, struct error *err)
{
    struct limits *l = calloc(1, sizeof *l);
    if (l == NULL)
        return status_fail(err, STATUS_NO_MEMORY, "no memory to measure limits");
    l->bytes = (bytes > 0 ? bytes : (size_t)512 << 20) / READ_CHUNK * READ_CHUNK;
    l->loops = isa == CPU_ISA_AVX512 ? &limits_avx512 : &limits_avx2;
    l->buffer = mmap(NULL, l->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    enum status s = team_open(n_threads, true, &l->team, err);
    if (s != STATUS_OK || l->buffer == MAP_FAILED) {
        limits_close(l);
        return s != STATUS_OK ? s : status_fail(err, STATUS_NO_MEMORY, "no memory to read from");
    }
    memset(l->buffer, 1, l->bytes);
    choose_streams(l);
    *out = l;
    return STATUS_OK;
}

void limits_close(struct limits *l)
{
    team_close(l->team);
    if (l->buffer != MAP_FAILED)
        munmap(l->buffer, l->bytes);
    free(l);
}
