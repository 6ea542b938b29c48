// SPDX-License-Identifier: Apache-2.0
// The exchanges that the system is made of: tensor parallelism of degree 4 in a world of 8,
// resharding of KV heads, dispatch to experts and back. (Logits are in exchange_test.) And that a
// two-shot all-reduce is an exchange, a sum and an exchange.
#include "tests/test_support.h"

#include "tests/collectives/all_reduce_cases.h"

#include "collectives/reduce.h"

#include <stdlib.h>
#include <string.h>

// Two models of degree 4 side by side, each with its own number of layers and its own hidden size;
// neither waits for the other, and nobody calls anything on the world.
static int two_models(struct bootstrap *b, void *context)
{
    (void)context;
    struct bootstrap *part;
    struct coll_group *g;
    uint32_t model = b->rank / 4;
    size_t hidden = model == 0 ? 2048 : 1536;
    WANT_OK(b->split(b, model, &part, NULL));
    WANT(ranks_group(part, 1 << 19, 20000, &g) == 0 && coll_size(g) == 4);
    void *heap = coll_heap_take(g, 1 << 19);
    for (uint64_t step = 0; step < (model == 0 ? 40 : 90); step++) {
        struct all_reduce_case c = {.count = (1 + step % 7) * hidden,
            .dtype = step % 2 == 0 ? DTYPE_BF16 : DTYPE_F32,
            .symmetric = true,
            .seed = step * 2 + model};
        WANT(all_reduce_case(g, heap, &c) == 0);
    }
    coll_destroy(g);
    part->close(part);
    return 0;
}

static void test_two_models(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(8, two_models, NULL, 0), 0);
}

// Degree 8 on 4 KV heads: ranks 2k and 2k + 1 hold the same head. Each attends over half of the
// positions for the queries of both, then they exchange partial results; no other pair meets.
static int kv_heads(struct bootstrap *b, void *context)
{
    (void)context;
    enum { HEAD_DIM = 64, ROWS = 6, BLOCK = ROWS * (HEAD_DIM + 1) };
    struct coll_group *g;
    uint32_t n = b->size, me = b->rank, other = me ^ 1;
    WANT(ranks_group(b, 1 << 16, 20000, &g) == 0);
    float *receive = coll_heap_take(g, n * BLOCK * sizeof(float)), mine[2][BLOCK];
    for (uint32_t step = 0; step < 50; step++) {
        const void *send[8] = {0};
        size_t bytes[8] = {0}, got[8];
        for (uint32_t q = 0; q < 2; q++)
            ranks_fill(mine[q], BLOCK, DTYPE_F32, step * 16 + q, me, false);
        send[me & ~1u] = mine[0];
        send[me | 1u] = mine[1];
        bytes[me] = bytes[other] = sizeof mine[0];
        memcpy(got, bytes, sizeof got);
        WANT_OK(coll_exchange(g, &(struct coll_exchange_args){.counts = COLL_COUNTS_FIXED,
                                     .peers = (uint64_t)3 << (me & ~1u),
                                     .send = send,
                                     .send_bytes = bytes,
                                     .receive = receive,
                                     .slot_bytes = sizeof mine[0],
                                     .receive_bytes = got}));
        for (uint32_t q = me & ~1u; q <= (me | 1u); q++) {
            float want[BLOCK];
            ranks_fill(want, BLOCK, DTYPE_F32, step * 16 + (me & 1), q, false);
            WANT(memcmp(receive + q * BLOCK, want, sizeof want) == 0);
        }
    }
    WANT_OK(coll_barrier(g, NULL));
    coll_destroy(g);
    return 0;
}

static void test_kv_heads(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(8, kv_heads, NULL, 0), 0);
    assert_int_equal(ranks_fork(2, kv_heads, NULL, 0), 0);
}

enum { EXPERTS = 8, TOKENS = 40, DIM = 24 };

// The two experts of a token; some get none, some many.
static void experts_of(uint32_t rank, uint32_t token, uint64_t step, uint32_t expert[2])
{
    uint64_t x = ranks_random(step, rank, token);
    expert[0] = (uint32_t)(x % 3 == 0 ? 5 : (x >> 8) % EXPERTS);
    expert[1] = (uint32_t)((expert[0] + 1 + (x >> 16) % (EXPERTS - 1)) % EXPERTS);
}

static bool goes_to(uint32_t rank, uint32_t token, uint64_t step, uint32_t n, uint32_t q)
{
    uint32_t e[2];
    experts_of(rank, token, step, e);
    return e[0] % n == q || e[1] % n == q;
}

static float token_value(uint32_t rank, uint32_t token, uint32_t i)
{
    return (float)((rank * 7 + token * 3 + i) % 64);
}

// What expert e makes of a value: all exact.
static float expert_value(uint32_t e, float x)
{
    return x * (float)(e + 1);
}

struct moe {
    uint8_t *slots, *back;
    float packed[8][TOKENS][DIM], answer[8][TOKENS][DIM];
    const void *send[8];
    size_t bytes[8], got[8];
    uint32_t bytes32[8], got32[8];
};

// Sends the first `rows[q]` rows of blocks[q] to rank q; m->got is what came.
static int swap(struct coll_group *g, struct moe *m, float (*blocks)[TOKENS][DIM],
    const size_t *rows, void *receive, bool on_device)
{
    uint32_t n = coll_size(g);
    for (uint32_t q = 0; q < n; q++) {
        m->send[q] = blocks[q];
        m->bytes[q] = rows[q] * DIM * sizeof(float);
        m->bytes32[q] = (uint32_t)m->bytes[q];
    }
    WANT_OK(coll_exchange(g,
        &(struct coll_exchange_args){.counts = on_device ? COLL_COUNTS_DEVICE : COLL_COUNTS_BOUNDED,
            .peers = ((uint64_t)1 << n) - 1,
            .send = m->send,
            .send_bytes = m->bytes,
            .receive = receive,
            .slot_bytes = sizeof m->packed[0],
            .receive_bytes = m->got,
            .device_send_bytes = m->bytes32,
            .device_receive_bytes = m->got32}));
    for (uint32_t q = 0; q < n && on_device; q++)
        m->got[q] = m->got32[q];
    return 0;
}

// The tokens of rank q that came here, in order: what this rank's experts make of each.
static int run_experts(struct moe *m, uint32_t n, uint32_t me, uint64_t step, size_t *rows)
{
    for (uint32_t q = 0; q < n; q++) {
        const float *from = (const void *)(m->slots + q * sizeof m->packed[0]);
        size_t row = 0;
        for (uint32_t t = 0; t < TOKENS; t++) {
            uint32_t e[2];
            if (!goes_to(q, t, step, n, me))
                continue;
            experts_of(q, t, step, e);
            for (uint32_t i = 0; i < DIM; i++) {
                float x = from[row * DIM + i], y = 0;
                WANT(x == token_value(q, t, i));
                for (int k = 0; k < 2; k++)
                    y += e[k] % n == me ? expert_value(e[k], x) : 0;
                m->answer[q][row][i] = y;
            }
            row++;
        }
        WANT(m->got[q] == row * DIM * sizeof(float));
        rows[q] = row;
    }
    return 0;
}

static int one_step(struct coll_group *g, struct moe *m, uint64_t step)
{
    uint32_t n = coll_size(g), me = coll_rank(g);
    size_t rows[8] = {0}, theirs[8];
    for (uint32_t q = 0; q < n; q++)
        for (uint32_t t = 0; t < TOKENS; t++) {
            if (!goes_to(me, t, step, n, q))
                continue;
            for (uint32_t i = 0; i < DIM; i++)
                m->packed[q][rows[q]][i] = token_value(me, t, i);
            rows[q]++;
        }
    WANT(swap(g, m, m->packed, rows, m->slots, step % 2 == 0) == 0);
    WANT(run_experts(m, n, me, step, theirs) == 0);
    WANT(swap(g, m, m->answer, theirs, m->back, step % 2 == 0) == 0);
    size_t next[8] = {0};
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t i = 0; i < DIM; i++) {
            uint32_t e[2];
            float sum = 0;
            for (uint32_t q = 0; q < n; q++) {
                const float *from = (const void *)(m->back + q * sizeof m->packed[0]);
                if (goes_to(me, t, step, n, q))
                    sum += from[next[q] * DIM + i];
                next[q] += i == DIM - 1 && goes_to(me, t, step, n, q);
            }
            experts_of(me, t, step, e);
            float x = token_value(me, t, i);
            WANT(sum == expert_value(e[0], x) + expert_value(e[1], x));
        }
    return 0;
}

static int experts(struct bootstrap *b, void *context)
{
    (void)context;
    struct coll_group *g;
    struct moe *m = calloc(1, sizeof *m);
    WANT(m != NULL && ranks_group(b, 1 << 17, 20000, &g) == 0);
    m->slots = coll_heap_take(g, sizeof m->packed);
    m->back = coll_heap_take(g, sizeof m->packed);
    WANT(m->slots != NULL && m->back != NULL);
    for (uint64_t step = 0; step < 20; step++)
        WANT(one_step(g, m, step) == 0);
    coll_destroy(g);
    free(m);
    return 0;
}

static void test_experts(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= 8; n *= 2)
        assert_int_equal(ranks_fork(n, experts, NULL, 0), 0);
}

// Slices to their owners, who sum in rank order; sums to everybody: the bits of coll_all_reduce.
static int by_exchange(struct bootstrap *b, void *context)
{
    (void)context;
    enum { COUNT = 4000, PART = COUNT / 4 };
    struct coll_group *g;
    uint32_t n = b->size, me = b->rank;
    WANT(n == 4 && ranks_group(b, 1 << 17, 20000, &g) == 0);
    float *slots = coll_heap_take(g, COUNT * sizeof(float));
    float *whole = coll_heap_take(g, COUNT * sizeof(float)), x[COUNT], sum[PART], want[COUNT];
    const void *send[4], *src[4];
    size_t bytes[4];
    struct coll_exchange_args a = {.counts = COLL_COUNTS_FIXED,
        .peers = 15,
        .send = send,
        .send_bytes = bytes,
        .receive = slots,
        .slot_bytes = sizeof sum,
        .receive_bytes = bytes};
    ranks_fill(x, COUNT, DTYPE_F32, 9, me, false);
    for (uint32_t q = 0; q < n; q++) {
        send[q] = x + q * PART;
        bytes[q] = sizeof sum;
        src[q] = slots + q * PART;
    }
    WANT_OK(coll_exchange(g, &a));
    void *dst = sum;
    reduce_find(reduce_best(), COLL_SUM, DTYPE_F32)(&dst, 1, src, n, PART);
    for (uint32_t q = 0; q < n; q++)
        send[q] = sum;
    a.receive = whole;
    WANT_OK(coll_exchange(g, &a));
    WANT_OK(coll_all_reduce(g, &(struct coll_all_reduce_args){.buffer = x, .count = COUNT}));
    ranks_expect(want, COUNT, DTYPE_F32, COLL_SUM, 9, n, false);
    WANT(memcmp(whole, x, sizeof x) == 0 && memcmp(x, want, sizeof x) == 0);
    coll_destroy(g);
    return 0;
}

static void test_by_exchange(void **state)
{
    (void)state;
    assert_int_equal(ranks_fork(4, by_exchange, NULL, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_models),
        cmocka_unit_test(test_kv_heads),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_by_exchange),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
