// SPDX-License-Identifier: Apache-2.0
#include "bench/coll_bench.h"

#include "base/check.h"
#include "collectives/reduce.h"

#include <string.h>

static void all_reduce(struct bench *s, enum variant v, float *in, float *out)
{
    if (v >= VARIANT_MPI)
        MPI_Allreduce(in, out, (int)s->n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    else
        coll_bench_must(s,
            coll_all_reduce(s->g, &(struct coll_all_reduce_args){
                                      .buffer = out, .count = s->n, .symmetric = v == SYMMETRIC}));
}

static float sum_of(const struct bench *s, size_t i)
{
    float sum = 0;
    for (uint32_t r = 0; r < s->size; r++)
        sum += value(r, i, s->turn);
    return sum;
}

// With weights of 1 and a residual of 0 the norm is checked by its square's mean: see
// expected_norm.
static void all_reduce_norm(struct bench *s, enum variant v, float *in, float *out)
{
    size_t dim = s->n < NORM_DIM ? s->n : NORM_DIM;
    struct coll_all_reduce_norm_args a = {.x = v == SYMMETRIC ? s->heap : in,
        .n_rows = s->n / dim,
        .dim = dim,
        .symmetric = v == SYMMETRIC,
        .residual = s->extra,
        .residual_scale = 1.0f,
        .eps = 1e-5f,
        .out = out};
    memset(s->extra, 0, s->n * sizeof(float)); // keeps the result checkable; the same for all
    if (v < VARIANT_MPI) {
        coll_bench_must(s, coll_all_reduce_norm(s->g, &a));
        return;
    }
    MPI_Allreduce(MPI_IN_PLACE, in, (int)s->n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    reduce_norm_rows(reduce_best(), &a, 0, a.n_rows);
}

// The sums are exact, so the norm of a row made here has the same bits.
static float norm_expected(const struct bench *s, size_t i)
{
    static _Thread_local float row[NORM_DIM], residual[NORM_DIM], normed[NORM_DIM];
    static _Thread_local size_t begin = SIZE_MAX;
    static _Thread_local uint64_t turn;
    size_t dim = s->n < NORM_DIM ? s->n : NORM_DIM;
    if (begin != i / dim * dim || turn != s->turn) {
        begin = i / dim * dim;
        turn = s->turn;
        for (size_t k = 0; k < dim; k++)
            row[k] = sum_of(s, begin + k);
        memset(residual, 0, sizeof residual);
        struct coll_all_reduce_norm_args a = {.x = row,
            .n_rows = 1,
            .dim = dim,
            .residual = residual,
            .residual_scale = 1.0f,
            .eps = 1e-5f,
            .out = normed};
        reduce_norm_rows(reduce_named("plain"), &a, 0, 1);
    }
    return normed[i - begin];
}

static void reduce_scatter(struct bench *s, enum variant v, float *in, float *out)
{
    if (v >= VARIANT_MPI)
        MPI_Reduce_scatter_block(
            in, out, (int)(s->n / s->size), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    else
        coll_bench_must(s, coll_reduce_scatter(s->g, in, out, s->n, DTYPE_F32, COLL_SUM, NULL));
}

static float scatter_expected(const struct bench *s, size_t i)
{
    return sum_of(s, s->n / s->size * s->rank + i);
}

static void all_gather(struct bench *s, enum variant v, float *in, float *out)
{
    int part = (int)(s->bytes / s->size);
    if (v >= VARIANT_MPI)
        MPI_Allgather(in, part, MPI_BYTE, out, part, MPI_BYTE, MPI_COMM_WORLD);
    else
        coll_bench_must(s, coll_all_gather(s->g, in, out, (size_t)part, NULL));
}

static float gather_expected(const struct bench *s, size_t i)
{
    size_t part = s->n / s->size;
    return value((uint32_t)(i / part), i % part, s->turn);
}

static void broadcast(struct bench *s, enum variant v, float *in, float *out)
{
    (void)in;
    if (v >= VARIANT_MPI)
        MPI_Bcast(out, (int)s->bytes, MPI_BYTE, 0, MPI_COMM_WORLD);
    else
        coll_bench_must(s, coll_broadcast(s->g, out, s->bytes, 0, NULL));
}

static float broadcast_expected(const struct bench *s, size_t i)
{
    return value(0, i, s->turn);
}

static void barrier(struct bench *s, enum variant v, float *in, float *out)
{
    (void)in;
    (void)out;
    if (v >= VARIANT_MPI)
        MPI_Barrier(MPI_COMM_WORLD);
    else
        coll_bench_must(s, coll_barrier(s->g, NULL));
}

// What a sample costs without any operation: rewriting, one meeting and reading.
static void touch(struct bench *s, enum variant v, float *in, float *out)
{
    (void)v;
    barrier(s, PRIVATE, in, out);
}

static double twice(uint32_t size)
{
    return 2.0 * (size - 1) / size;
}

static double once(uint32_t size)
{
    return (double)(size - 1) / size;
}

static double one(uint32_t size)
{
    (void)size;
    return 1;
}

static const struct op ops[] = {
    {"all_reduce", 1, ANY, WHOLE, WHOLE, true, false, OUT, 0, twice, all_reduce, sum_of,
        {true, true}},
    {"all_reduce_norm", 1, ROWS, WHOLE, WHOLE, false, false, IN, 0, twice, all_reduce_norm,
        norm_expected, {true, true}},
    {"reduce_scatter", 1, RANKS, WHOLE, PART, false, false, NOWHERE, 0, once, reduce_scatter,
        scatter_expected, {true, false}},
    {"all_gather", 1, RANKS, PART, WHOLE, false, false, NOWHERE, 0, once, all_gather,
        gather_expected, {true, false}},
    {"broadcast", 1, ANY, WHOLE, WHOLE, true, true, NOWHERE, 0, one, broadcast, broadcast_expected,
        {true, false}},
    {"barrier", 1, ANY, NONE, NONE, false, false, NOWHERE, 0, one, barrier, NULL, {true, false}},
    {"touch", 1, ANY, WHOLE, WHOLE, true, true, OUT, 0, one, touch, NULL, {true, true}},
    {"logits", 1, RANKS, WHOLE, WHOLE, false, false, OUT, 0, once, coll_uses_logits,
        coll_uses_logits_expected, {false, true}},
    {"kv_heads", 2, HALVES, WHOLE, WHOLE, false, false, NOWHERE, USES_BYTES_MAX, one,
        coll_uses_kv_heads, coll_uses_kv_heads_expected, {false, true}},
    {"experts", 2, TOKENS, WHOLE, WHOLE, false, false, NOWHERE, USES_BYTES_MAX, one,
        coll_uses_experts, coll_uses_experts_expected, {false, true}},
    {"two_groups", 4, ANY, WHOLE, WHOLE, true, false, OUT_HALF, 0, one, coll_uses_halves,
        coll_uses_halves_expected, {true, true}},
};

const struct op *coll_ops_find(const char *text, size_t used)
{
    for (size_t i = 0; i < COUNT_OF(ops); i++)
        if (strlen(ops[i].name) == used && strncmp(ops[i].name, text, used) == 0)
            return &ops[i];
    return NULL;
}

bool coll_ops_valid(const char *list)
{
    for (const char *p = list;; p++) {
        size_t used = strcspn(p, ",");
        if (coll_ops_find(p, used) == NULL)
            return false;
        p += used;
        if (*p == '\0')
            return true;
    }
}
