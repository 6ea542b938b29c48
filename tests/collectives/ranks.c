// SPDX-License-Identifier: Apache-2.0
#include "tests/collectives/ranks.h"

#include "base/check.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

struct thread {
    pthread_t id;
    struct bootstrap *b;
    ranks_fn *fn;
    void *context;
    int rc;
};

static void *thread_main(void *arg)
{
    struct thread *t = arg;
    t->rc = t->fn(t->b, t->context);
    t->b->close(t->b);
    return NULL;
}

int ranks_threads(uint32_t n, ranks_fn *fn, void *context)
{
    struct bootstrap *b[COLL_RANKS_MAX];
    struct thread t[COLL_RANKS_MAX];
    check(bootstrap_threads(n, b, NULL) == STATUS_OK);
    for (uint32_t r = 0; r < n; r++) {
        t[r] = (struct thread){.b = b[r], .fn = fn, .context = context};
        check(pthread_create(&t[r].id, NULL, thread_main, &t[r]) == 0);
    }
    int bad = 0;
    for (uint32_t r = 0; r < n; r++) {
        pthread_join(t[r].id, NULL);
        bad += t[r].rc != 0;
    }
    return bad;
}

int ranks_fork(uint32_t n, ranks_fn *fn, void *context, uint64_t may_die)
{
    struct bootstrap *b[COLL_RANKS_MAX];
    pid_t pid[COLL_RANKS_MAX];
    check(bootstrap_threads(n, b, NULL) == STATUS_OK);
    fflush(NULL);
    for (uint32_t r = 0; r < n; r++) {
        pid[r] = fork();
        check(pid[r] >= 0);
        if (pid[r] == 0) {
            int rc = fn(b[r], context);
            b[r]->close(b[r]);
            fflush(NULL);
            _exit(rc);
        }
    }
    for (uint32_t r = 0; r < n; r++)
        b[r]->close(b[r]);
    int bad = 0;
    for (uint32_t r = 0; r < n; r++) {
        int st = 0;
        check(waitpid(pid[r], &st, 0) == pid[r]);
        bool died = WIFSIGNALED(st);
        if (died ? (may_die >> r & 1) == 0 : WEXITSTATUS(st) != 0)
            bad++;
    }
    return bad;
}

int ranks_group(
    struct bootstrap *b, uint64_t heap_bytes, uint32_t timeout_ms, struct coll_group **out)
{
    struct error err = {0};
    struct coll_args args = {.heap_bytes = heap_bytes, .timeout_ms = timeout_ms};
    enum status s = coll_create(b, &args, out, &err);
    if (s != STATUS_OK)
        fprintf(stderr, "rank %u: %s\n", (unsigned)b->rank, err.text);
    return s != STATUS_OK;
}

uint64_t ranks_random(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t x = a * 0x9e3779b97f4a7c15u ^ b * 0xc2b2ae3d27d4eb4fu ^ c * 0x165667b19e3779f9u;
    for (int i = 0; i < 3; i++) {
        x ^= x >> 29;
        x *= 0xbf58476d1ce4e5b9u;
        x ^= x >> 32;
    }
    return x;
}

static float value(size_t i, uint64_t seed, uint32_t rank, bool integers)
{
    uint64_t r = ranks_random(seed, rank, i);
    if (integers)
        return (float)((int)(r % 17) - 8);
    // Magnitudes from 2^-6 to 2^6, so that the order of the additions matters.
    float m = (float)(r >> 40) * 0x1p-24f + 0.5f;
    float scale = (float)(1u << (r & 15) % 13) * 0x1p-6f;
    return (r >> 8 & 1) != 0 ? -m * scale : m * scale;
}

static void put(void *to, size_t i, enum dtype t, float f)
{
    if (t == DTYPE_F32)
        ((float *)to)[i] = f;
    else
        ((uint16_t *)to)[i] = t == DTYPE_F16 ? dtype_f16_from_f32(f) : dtype_bf16_from_f32(f);
}

static float rounded(float f, enum dtype t)
{
    if (t == DTYPE_F16)
        return dtype_f32_from_f16(dtype_f16_from_f32(f));
    return t == DTYPE_BF16 ? dtype_f32_from_bf16(dtype_bf16_from_f32(f)) : f;
}

void ranks_fill(void *to, size_t count, enum dtype t, uint64_t seed, uint32_t rank, bool integers)
{
    for (size_t i = 0; i < count; i++)
        put(to, i, t, value(i, seed, rank, integers));
}

void ranks_expect(void *to, size_t count, enum dtype t, enum coll_op op, uint64_t seed,
    uint32_t size, bool integers)
{
    for (size_t i = 0; i < count; i++) {
        float a = rounded(value(i, seed, 0, integers), t);
        for (uint32_t r = 1; r < size; r++) {
            float b = rounded(value(i, seed, r, integers), t);
            a = op == COLL_SUM ? a + b : (a > b ? a : b);
        }
        put(to, i, t, a);
    }
}
