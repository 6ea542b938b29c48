// SPDX-License-Identifier: Apache-2.0
#include "tests/test_support.h"

#include "base/buf.h"
#include "proto/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct plan_limits limits = {.n_slots = 8,
    .step_tokens = 64,
    .context_tokens = 100,
    .vocab_size = 50,
    .n_kv_groups = 1,
    .block_tokens = 8,
    .n_blocks = {20}};

static const struct sampling_params params = {.seed = 7,
    .temperature = 1,
    .top_p = 1,
    .typical_p = 1,
    .repetition_penalty = 1,
    .n_stop_ids = 3,
    .n_logit_bias = 2};

// The parts that a test changes before it is packed.
struct sample {
    struct plan_seq_parts first, next;
    uint32_t ids[5], blocks[3], stop_ids[3];
    struct sampling_bias bias[2];
    struct sampling_params params;
    struct plan_copy copy;
    struct plan_release release;
};

static void sample_init(struct sample *s)
{
    *s = (struct sample){.ids = {1, 2, 3, 4, 49},
        .blocks = {19, 0, 5},
        .stop_ids = {2, 3, 4},
        .bias = {{1, -100}, {49, 100}},
        .params = params,
        .copy = {.src = 1, .dst = 2},
        .release = {.slot = 3, .generation = 9}};
    s->first =
        (struct plan_seq_parts){.head = {.flags = PLAN_SEQ_FIRST | PLAN_SEQ_SAMPLE | PLAN_SEQ_SCORE,
                                    .slot = 3,
                                    .generation = 10,
                                    .attempt = 1,
                                    .n_tokens = 5,
                                    .n_ids = 5,
                                    .score_begin = 1,
                                    .score_count = 3,
                                    .score_logprobs = 2,
                                    .n_blocks = {1}},
            .ids = s->ids,
            .blocks = {s->blocks},
            .params = &s->params,
            .prompt_length = 4,
            .stop_ids = s->stop_ids,
            .bias = s->bias};
    s->next = (struct plan_seq_parts){.head = {.flags = PLAN_SEQ_SAMPLE,
                                          .slot = 0,
                                          .generation = 2,
                                          .first_position = 24,
                                          .n_tokens = 1,
                                          .block_begin = {3},
                                          .n_blocks = {3}},
        .blocks = {s->blocks}};
}

static void pack(struct buf *b, const struct sample *s)
{
    plan_begin(b, 77, 1234);
    plan_add_seq(b, &s->first);
    plan_add_seq(b, &s->next);
    plan_add_release(b, s->release.slot, s->release.generation);
    plan_add_copy(b, s->copy.group, s->copy.src, s->copy.dst);
    plan_end(b);
    assert_false(buf_failed(b));
}

static void test_round_trip(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, LIMIT_PLAN_BYTES);
    struct sample s;
    sample_init(&s);
    pack(&b, &s);
    struct error err = {0};
    assert_int_equal(plan_check(b.data, b.size, &limits, &err), STATUS_OK);
    const struct plan_header *h = (const void *)b.data;
    assert_int_equal(h->epoch, 77);
    assert_int_equal(h->step_id, 1234);
    assert_int_equal(h->n_rows, 6);
    // Sizes by hand: header, record + ids + blocks + first + stop ids + biases, record + blocks.
    assert_int_equal(h->bytes, 56 + (72 + 24 + 8 + 72 + 16 + 16) + (72 + 16) + 8 + 16);
    struct plan_cursor c = plan_seqs(h);
    struct plan_seq_view v;
    assert_true(plan_next_seq(&c, &v));
    assert_int_equal(v.head->slot, 3);
    assert_memory_equal(v.ids, s.ids, sizeof s.ids);
    assert_int_equal(v.blocks[0][0], 19);
    assert_int_equal(v.first->prompt_length, 4);
    assert_memory_equal(&v.first->params, &s.params, sizeof s.params);
    assert_memory_equal(v.stop_ids, s.stop_ids, sizeof s.stop_ids);
    assert_memory_equal(v.bias, s.bias, sizeof s.bias);
    assert_true(plan_next_seq(&c, &v));
    assert_null(v.first);
    assert_memory_equal(v.blocks[0], s.blocks, sizeof s.blocks);
    assert_false(plan_next_seq(&c, &v));
    assert_int_equal(plan_releases(h)->generation, 9);
    assert_int_equal(plan_copies(h)->dst, 2);
    buf_deinit(&b);
}

// Each case spoils one field; the reasons differ, so a lost check lets exactly one case through.
enum { N_SPOILED = 44 };
static void spoil(struct sample *s, int which)
{
    struct plan_seq *f = &s->first.head, *n = &s->next.head;
    uint32_t *const u32[] = {&f->slot, &n->slot, &f->flags, &f->n_tokens, &f->first_position,
        &n->n_drafts, &n->adapter, &n->grammar, &f->score_begin, &f->score_count,
        &f->score_logprobs, &n->score_begin, &n->score_logprobs, &f->block_begin[0],
        &n->block_begin[0], &n->block_begin[1], &s->ids[4], &s->blocks[2], &s->stop_ids[1],
        &s->bias[1].id, &s->params.n_logprobs, &s->params.pad, &s->first.prompt_length,
        &s->copy.group, &s->copy.src, &s->copy.dst, &s->release.slot, &n->n_tokens};
    const uint32_t value[] = {8, 3, 15, 6, 1, 1, 1, 1, 3, 0, 21, 1, 1, 1, 11, 1, 50, 20, 50, 50, 21,
        1, 6, 1, 20, 1, 8, 77};
    _Static_assert(sizeof u32 / sizeof u32[0] == sizeof value / sizeof value[0], "pairs");
    const int n_u32 = sizeof value / sizeof value[0];
    float *const f32[] = {&s->params.temperature, &s->params.top_p, &s->params.min_p,
        &s->params.typical_p, &s->params.repetition_penalty, &s->params.presence_penalty,
        &s->params.frequency_penalty, &s->bias[0].bias};
    const float over[] = {NAN, 0, 1.01f, 1.5f, 0, -2.1f, 2.1f, -101};
    if (which < n_u32)
        *u32[which] = value[which];
    else if (which < n_u32 + 8)
        *f32[which - n_u32] = over[which - n_u32];
    else
        *f32[which - n_u32 - 8] = which % 2 ? INFINITY : NAN;
}

static void test_spoiled(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, LIMIT_PLAN_BYTES);
    for (int i = 0; i < N_SPOILED; i++) {
        struct sample s;
        sample_init(&s);
        spoil(&s, i);
        pack(&b, &s);
        struct error err = {0};
        if (plan_check(b.data, b.size, &limits, &err) == STATUS_OK)
            fail_msg("spoiled field %d was let through", i);
        assert_true(strlen(err.text) > 20);
    }
    struct sample s;
    sample_init(&s);
    s.next.head.slot = s.first.head.slot;
    pack(&b, &s);
    assert_int_equal(plan_check(b.data, b.size, &limits, NULL), STATUS_INVALID);
    sample_init(&s);
    s.params.top_k = -2;
    pack(&b, &s);
    assert_int_equal(plan_check(b.data, b.size, &limits, NULL), STATUS_INVALID);
    buf_deinit(&b);
}

// Every truncation and every flipped bit is refused: the hash covers the whole plan.
static void test_hash_covers_all(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, LIMIT_PLAN_BYTES);
    struct sample s;
    sample_init(&s);
    pack(&b, &s);
    for (size_t n = 0; n < b.size; n++)
        assert_int_not_equal(plan_check(b.data, n, &limits, NULL), STATUS_OK);
    for (size_t bit = 0; bit < b.size * 8; bit++) {
        b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(plan_check(b.data, b.size, &limits, NULL), STATUS_OK);
        b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(plan_check(b.data, b.size, &limits, NULL), STATUS_OK);
    buf_deinit(&b);
}

// Random damage under a valid hash: what passes must be walkable within the message. The copy ends
// where its allocation ends, so that a sanitizer sees any step outside.
static void test_damage(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, LIMIT_PLAN_BYTES);
    struct sample s;
    sample_init(&s);
    pack(&b, &s);
    srand(5);
    for (int i = 0; i < 200000; i++) {
        uint8_t *p = malloc(b.size);
        memcpy(p, b.data, b.size);
        struct plan_header *h = (void *)p;
        for (int k = 0; k <= rand() % 3; k++)
            ((uint32_t *)(void *)p)[rand() % (int)(b.size / 4)] = (uint32_t)rand() % 100;
        h->magic = PLAN_MAGIC;
        h->version = PLAN_VERSION;
        h->bytes = b.size;
        h->hash = plan_hash(h);
        if (plan_check(p, b.size, &limits, NULL) == STATUS_OK) {
            struct plan_cursor c = plan_seqs(h);
            struct plan_seq_view v;
            while (plan_next_seq(&c, &v))
                assert_true(v.head->slot < 8);
            assert_true((const uint8_t *)(plan_copies(h) + h->n_copies) == p + b.size);
        }
        free(p);
    }
    buf_deinit(&b);
}

static void pack_answer(struct buf *b)
{
    struct plan_header plan = {.epoch = 77, .step_id = 5, .hash = 99};
    struct plan_seq seq = {.slot = 3, .generation = 10, .attempt = 1}, other = {.slot = 1};
    struct answer_top top[2] = {{4, -0.5f}, {49, -INFINITY}};
    struct answer_result r = {.kind = ANSWER_SAMPLED, .position = 5, .id = 4, .logprob = -0.5f};
    r.rank = 1;
    r.n_top = 2;
    answer_begin(b, &plan);
    answer_add_seq(b, &seq, ANSWER_SEQ_OK);
    answer_add_result(b, &r, top);
    r.n_top = 0;
    r.kind = ANSWER_SCORED;
    answer_add_result(b, &r, NULL);
    answer_add_seq(b, &other, ANSWER_SEQ_BAD_LOGITS);
    answer_end(b, 1, 2, 3, 4);
    assert_false(buf_failed(b));
}

static void test_answer(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, LIMIT_WORKER_MESSAGE_BYTES);
    pack_answer(&b);
    struct error err = {0};
    assert_int_equal(answer_check(b.data, b.size, &limits, &err), STATUS_OK);
    const struct answer_header *h = (const void *)b.data;
    assert_int_equal(h->plan_hash, 99);
    assert_int_equal(h->total_us, 4);
    assert_int_equal(h->bytes, 64 + (24 + 24 + 16 + 24) + 24);
    struct plan_cursor c = answer_seqs(h), results;
    const struct answer_seq *seq;
    const struct answer_result *r;
    const struct answer_top *top;
    assert_true(answer_next_seq(&c, &seq, &results));
    assert_int_equal(seq->slot, 3);
    assert_true(answer_next_result(&results, &r, &top));
    assert_int_equal(top[1].id, 49);
    assert_true(answer_next_result(&results, &r, &top));
    assert_int_equal(r->kind, ANSWER_SCORED);
    assert_false(answer_next_result(&results, &r, &top));
    assert_true(answer_next_seq(&c, &seq, &results));
    assert_int_equal(seq->status, ANSWER_SEQ_BAD_LOGITS);
    assert_false(answer_next_seq(&c, &seq, &results));
    for (size_t n = 0; n < b.size; n++)
        assert_int_not_equal(answer_check(b.data, n, &limits, NULL), STATUS_OK);
    buf_deinit(&b);
}

static void test_answer_damage(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, LIMIT_WORKER_MESSAGE_BYTES);
    // Offsets of: a slot, a status, a result's kind, position, id, log-probability, rank, a top's
    // id, n_results; with values that must be refused.
    const size_t at[] = {68, 80, 88, 92, 96, 100, 104, 112, 84};
    const uint32_t value[] = {8, 2, 2, 101, 50, 0x7fc00000, 51, 50, 3};
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        pack_answer(&b);
        memcpy(b.data + at[i], &value[i], 4);
        if (answer_check(b.data, b.size, &limits, NULL) == STATUS_OK)
            fail_msg("damage %zu was let through", i);
    }
    buf_deinit(&b);
}

// A writer that runs out of room says so and never writes outside.
static void test_full(void **state)
{
    (void)state;
    for (size_t n = 0; n < 400; n += 8) {
        struct buf b;
        buf_init(&b, n);
        struct sample s;
        sample_init(&s);
        plan_begin(&b, 1, 1);
        plan_add_seq(&b, &s.first);
        plan_add_seq(&b, &s.next);
        plan_add_release(&b, 1, 1);
        plan_add_copy(&b, 0, 1, 2);
        plan_end(&b);
        assert_int_equal(buf_failed(&b), n < 376);
        buf_deinit(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_spoiled),
        cmocka_unit_test(test_hash_covers_all),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_answer),
        cmocka_unit_test(test_answer_damage),
        cmocka_unit_test(test_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
