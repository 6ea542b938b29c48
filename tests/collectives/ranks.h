// SPDX-License-Identifier: Apache-2.0
// Runs a function on n ranks, as threads or as forked processes, and numbers to test with.
#ifndef PHALANX_TESTS_COLLECTIVES_RANKS_H
#define PHALANX_TESTS_COLLECTIVES_RANKS_H

#include "collectives/bootstrap.h"
#include "collectives/collectives.h"

#include <stdio.h>
#include <sys/types.h>

// Returns from a rank's function (which returns int) with 1 and a line unless `x` holds. cmocka's
// own assertions must not be used there: they jump within the main thread.
#define WANT(x)                                                                                    \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: wanted %s\n", __FILE__, __LINE__, #x);                         \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)
#define WANT_OK(call)                                                                              \
    do {                                                                                           \
        enum status want_s_ = (call);                                                              \
        if (want_s_ != STATUS_OK) {                                                                \
            fprintf(                                                                               \
                stderr, "%s:%d: %s gave %s\n", __FILE__, __LINE__, #call, status_name(want_s_));   \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

// Under the thread sanitizer ranks take many times as long from one handover to the next: sweeps
// take every fifth case there, and deadlines are as many times as long.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RANKS_SLOWNESS 5
#endif
#endif
#if !defined(RANKS_SLOWNESS)
#if defined(__SANITIZE_THREAD__)
#define RANKS_SLOWNESS 5
#else
#define RANKS_SLOWNESS 1
#endif
#endif

typedef int ranks_fn(struct bootstrap *b, void *context);

// Both close the bootstrap and return how many ranks did not return 0. A forked rank that was
// killed counts unless its bit is set in `may_die`.
int ranks_threads(uint32_t n, ranks_fn *fn, void *context);
int ranks_fork(uint32_t n, ranks_fn *fn, void *context, uint64_t may_die);

// A whole group with a heap, for tests that need nothing else. Spins never: ranks exceed cores.
int ranks_group(
    struct bootstrap *b, uint64_t heap_bytes, uint32_t timeout_ms, struct coll_group **out);

// Reproducible bits: a function of three numbers.
uint64_t ranks_random(uint64_t a, uint64_t b, uint64_t c);
// Fills `count` elements: random finite values of mixed signs and sizes (`integers` false), or
// integers from -8 to 8, which every type sums exactly.
void ranks_fill(void *to, size_t count, enum dtype t, uint64_t seed, uint32_t rank, bool integers);
// What the reduction over `size` ranks of ranks_fill's elements has to be, computed on its own: one
// element at a time in rank order in f32, rounded once.
void ranks_expect(void *to, size_t count, enum dtype t, enum coll_op op, uint64_t seed,
    uint32_t size, bool integers);

#endif
