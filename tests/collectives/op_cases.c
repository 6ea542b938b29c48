// SPDX-License-Identifier: Apache-2.0
#include "tests/collectives/op_cases.h"

#include "tests/collectives/all_reduce_cases.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

static float get(const void *p, size_t i, enum dtype t)
{
    if (t == DTYPE_F32)
        return ((const float *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    return t == DTYPE_F16 ? dtype_f32_from_f16(h) : dtype_f32_from_bf16(h);
}

static void put(void *p, size_t i, enum dtype t, float f)
{
    if (t == DTYPE_F32)
        ((float *)p)[i] = f;
    else
        ((uint16_t *)p)[i] = t == DTYPE_F16 ? dtype_f16_from_f32(f) : dtype_bf16_from_f32(f);
}

// The definition in collectives.h and reduce.h, one element at a time.
static void norm_reference(
    const struct coll_all_reduce_norm_args *c, const void *sum, float *residual, void *out)
{
    for (size_t r = 0; r < c->n_rows; r++) {
        float lane[16] = {0};
        size_t at = r * c->dim;
        for (size_t i = 0; i < c->dim; i++) {
            float x = get(sum, at + i, c->dtype);
            if (c->bias != NULL)
                x = x + c->bias[i];
            float v = fmaf(x, c->residual_scale, residual[at + i]);
            residual[at + i] = v;
            lane[i % 16] = fmaf(v, v, lane[i % 16]);
        }
        for (size_t half = 8; half > 0; half /= 2)
            for (size_t i = 0; i < half; i++)
                lane[i] += lane[i + half];
        float s = 1.0f / sqrtf(lane[0] / (float)c->dim + c->eps);
        for (size_t i = 0; i < c->dim; i++) {
            float w =
                c->weight != NULL ? c->weight_offset + get(c->weight, i, c->weight_dtype) : 1.0f;
            put(out, at + i, c->dtype, residual[at + i] * s * w);
        }
    }
}

int op_cases_norm(struct coll_group *g, void *x, const struct norm_case *c)
{
    size_t n = c->n_rows * c->dim, bytes = n * dtype_bytes(c->dtype);
    float *residual = malloc(2 * n * sizeof(float) + 1), *want_residual = residual + n;
    char *out = malloc(3 * bytes + 1), *want_out = out + bytes, *sum = out + 2 * bytes;
    WANT(residual != NULL && out != NULL);
    enum dtype weight_dtype = types[c->seed % 3];
    float *weight = malloc((c->dim + 1) * sizeof(float)), *bias = malloc((c->dim + 1) * 4);
    WANT(weight != NULL && bias != NULL);
    ranks_fill(weight, c->dim, weight_dtype, c->seed + 1, 0, false);
    ranks_fill(bias, c->dim, DTYPE_F32, c->seed + 3, 0, false);
    ranks_fill(residual, n, DTYPE_F32, c->seed + 2, 0, false);
    memcpy(want_residual, residual, n * sizeof(float));
    ranks_fill(x, n, c->dtype, c->seed, coll_rank(g), false);
    ranks_expect(sum, n, c->dtype, COLL_SUM, c->seed, coll_size(g), false);
    struct coll_all_reduce_norm_args a = {.x = x,
        .n_rows = c->n_rows,
        .dim = c->dim,
        .dtype = c->dtype,
        .symmetric = c->symmetric,
        .residual = residual,
        .residual_scale = c->seed % 4 < 2 ? 1.0f : 0.22f,
        .bias = c->seed % 5 == 3 ? bias : NULL,
        .weight = c->weighted ? weight : NULL,
        .weight_dtype = weight_dtype,
        .weight_offset = c->seed % 2 == 0 ? 1.0f : 0.0f,
        .eps = 1e-5f,
        .out = out};
    enum status s = coll_all_reduce_norm(g, &a);
    norm_reference(&a, sum, want_residual, want_out);
    int same = s == STATUS_OK && memcmp(residual, want_residual, n * sizeof(float)) == 0 &&
               memcmp(out, want_out, bytes) == 0;
    free(weight);
    free(bias);
    free(residual);
    free(out);
    if (!same)
        fprintf(stderr, "norm of %zu rows of %zu %s, %s: %s\n", c->n_rows, c->dim,
            dtype_name(c->dtype), c->symmetric ? "symmetric" : "private", status_name(s));
    return !same;
}

static int reduces(struct coll_group *g, void *heap, void *mine)
{
    static const size_t counts[] = {0, 1, 7, 300, 4099, 20001, 65000};
    for (size_t k = 0; k < 7 * 6; k += RANKS_SLOWNESS) {
        struct all_reduce_case c = {.count = counts[k / 6],
            .offset = k % 5,
            .dtype = types[k % 3],
            .op = k % 2 == 0 ? COLL_SUM : COLL_MAX,
            .integers = k % 4 == 0,
            .seed = k,
            .symmetric = k % 6 < 3};
        WANT(all_reduce_case(g, c.symmetric ? heap : mine, &c) == 0);
    }
    for (size_t k = 0; k < 18; k += RANKS_SLOWNESS) {
        struct norm_case c = {.n_rows = k % 4,
            .dim = 1 + k * k * 37 % 5000,
            .dtype = types[k % 3],
            .symmetric = k % 2 == 0,
            .weighted = k % 5 != 0,
            .seed = k};
        WANT(op_cases_norm(g, c.symmetric ? heap : mine, &c) == 0);
    }
    return 0;
}

static int scatters(struct coll_group *g, float *in, float *out, float *want)
{
    for (size_t count = 0; count < 50000; count = count * 3 + 5) {
        size_t begin, n;
        enum dtype t = types[count % 3];
        coll_slice(count, coll_size(g), coll_rank(g), &begin, &n);
        ranks_fill(in, count, t, count, coll_rank(g), false);
        ranks_expect(want, count, t, COLL_SUM, count, coll_size(g), false);
        WANT_OK(coll_reduce_scatter(g, in, out, count, t, COLL_SUM, NULL));
        WANT(memcmp(out, (char *)want + begin * dtype_bytes(t), n * dtype_bytes(t)) == 0);
    }
    return 0;
}

static int moves(struct coll_group *g, uint8_t *in, uint8_t *out)
{
    uint32_t n = coll_size(g), me = coll_rank(g);
    for (size_t bytes = 0; bytes < 30000; bytes = bytes * 5 + 3) {
        memset(in, (int)(me * 3 + bytes), bytes);
        WANT_OK(coll_all_gather(g, in, out, bytes, NULL));
        for (size_t i = 0; i < n * bytes; i++)
            WANT(out[i] == (uint8_t)(i / bytes * 3 + bytes));
        for (uint32_t root = 0; root < n; root++) {
            memset(in, (int)(me * 3 + root), bytes);
            WANT_OK(coll_broadcast(g, in, bytes, root, NULL));
            for (size_t i = 0; i < bytes; i++)
                WANT(in[i] == (uint8_t)(root * 4));
        }
        WANT_OK(coll_barrier(g, NULL));
    }
    return 0;
}

enum { SLOT = 5000 };

static size_t block_bytes(uint32_t from, uint32_t to, uint64_t turn)
{
    uint64_t x = ranks_random(turn, from, to);
    return x % 4 == 0 ? 0 : (size_t)(x >> 8) % (SLOT + 1);
}

struct exchange_room {
    const void *send[8];
    size_t send_bytes[8], receive_bytes[8];
    uint32_t device_send[8], device_receive[8];
    uint8_t block[8][SLOT];
};

// Ranks of one half exchange with each other, with themselves in every second turn.
static int exchange(struct coll_group *g, uint8_t *receive, struct exchange_room *r, uint64_t turn)
{
    uint32_t n = coll_size(g), me = coll_rank(g);
    enum coll_counts counts = (enum coll_counts)(turn % 3);
    uint64_t peers = 0;
    for (uint32_t q = 0; q < n; q++) {
        if (turn % 4 != 0 && q % 2 != me % 2)
            continue;
        if (q != me || turn % 2 == 0)
            peers |= (uint64_t)1 << q;
        size_t bytes = block_bytes(me, q, turn);
        memset(r->block[q], (int)(me * 16 + q + turn), bytes);
        r->send[q] = r->block[q];
        r->send_bytes[q] = bytes;
        r->device_send[q] = (uint32_t)bytes;
        r->receive_bytes[q] = counts == COLL_COUNTS_FIXED ? block_bytes(q, me, turn) : 77;
        r->device_receive[q] = 77;
    }
    WANT_OK(coll_exchange(g, &(struct coll_exchange_args){.counts = counts,
                                 .peers = peers,
                                 .send = r->send,
                                 .send_bytes = r->send_bytes,
                                 .receive = receive,
                                 .slot_bytes = SLOT,
                                 .receive_bytes = r->receive_bytes,
                                 .device_send_bytes = r->device_send,
                                 .device_receive_bytes = r->device_receive}));
    for (uint32_t q = 0; q < n; q++) {
        if ((peers >> q & 1) == 0)
            continue;
        size_t bytes = block_bytes(q, me, turn);
        WANT(counts == COLL_COUNTS_DEVICE ? r->device_receive[q] == bytes
                                          : r->receive_bytes[q] == bytes);
        for (size_t i = 0; i < bytes; i++)
            WANT(receive[q * SLOT + i] == (uint8_t)(q * 16 + me + turn));
    }
    return 0;
}

int op_cases(struct coll_group *g)
{
    enum { ROOM = 1 << 19 };
    uint8_t *heap = coll_heap_take(g, ROOM), *slots = coll_heap_take(g, 8 * SLOT);
    uint8_t *a = malloc(ROOM), *b = malloc(ROOM), *c = malloc(ROOM);
    struct exchange_room *r = calloc(1, sizeof *r);
    WANT(heap != NULL && slots != NULL && a != NULL && b != NULL && c != NULL && r != NULL);
    WANT(reduces(g, heap, a) == 0);
    WANT(scatters(g, (float *)(void *)a, (float *)(void *)b, (float *)(void *)c) == 0);
    WANT(moves(g, a, b) == 0);
    for (uint64_t turn = 0; turn < 36; turn += RANKS_SLOWNESS) {
        WANT(exchange(g, slots, r, turn) == 0);
        // A receiver's slots are read before anybody may write them again.
        WANT_OK(coll_barrier(g, NULL));
    }
    WANT_OK(coll_poll(g));
    free(a);
    free(b);
    free(c);
    free(r);
    return 0;
}
