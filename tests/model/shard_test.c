// SPDX-License-Identifier: Apache-2.0
#include "tests/test_support.h"

#include "model/bill.h"
#include "model/shard.h"
#include "model/weights_plan.h"

#include <stdlib.h>
#include <string.h>

// Parts cover all of it, in order, larger ones first, cut at units.
static void test_split_exhaustive(void **state)
{
    (void)state;
    for (uint32_t unit = 1; unit <= 5; unit++)
        for (uint32_t total = 0; total <= 70; total++)
            for (uint32_t size = 1; size <= 17; size++) {
                uint32_t at = 0, before = UINT32_MAX;
                for (uint32_t rank = 0; rank < size; rank++) {
                    struct shard_range r = shard_split(total, unit, size, rank);
                    uint32_t units = (r.count + unit - 1) / unit;
                    assert_int_equal(r.begin, at);
                    assert_true(r.begin % unit == 0 || r.begin == total);
                    assert_true(units <= before);
                    assert_true(before == UINT32_MAX || before - units <= 1);
                    before = units;
                    at += r.count;
                }
                assert_int_equal(at, total);
            }
    struct shard_range r = shard_split(UINT32_MAX, 1, 3, 2);
    assert_int_equal((uint64_t)r.begin + r.count, UINT32_MAX);
}

static bool reads_only_own(const struct model_config *m, const struct shard *s)
{
    struct shard_range q = shard_heads(m, s), kv = shard_kv_heads(m, s);
    uint32_t global = m->n_heads / m->n_kv_heads;
    if (kv.count == 0 || q.count % kv.count != 0)
        return false;
    for (uint32_t h = 0; h < q.count; h++)
        // What a kernel reads, counted from the rank's first head, is what the model means.
        if (kv.begin + h / (q.count / kv.count) != (q.begin + h) / global)
            return false;
    return kv.begin + kv.count <= m->n_kv_heads;
}

static void test_heads_exhaustive(void **state)
{
    (void)state;
    struct model_config *m = calloc(1, sizeof *m);
    struct error err = {0};
    int accepted = 0, refused = 0;
    m->ffn_dim = 100;
    m->vocab_size = 100;
    for (m->n_kv_heads = 1; m->n_kv_heads <= 16; m->n_kv_heads++)
        for (m->n_heads = m->n_kv_heads; m->n_heads <= 64; m->n_heads += m->n_kv_heads)
            for (uint32_t size = 1; size <= 64; size++) {
                bool good = shard_check(m, size, &err) == STATUS_OK;
                accepted += good;
                refused += !good;
                if (m->n_heads % size != 0)
                    assert_false(good);
                if (size == 1 || size == m->n_heads || size == m->n_kv_heads)
                    assert_true(good);
                uint32_t heads = 0;
                for (uint32_t rank = 0; good && rank < size; rank++) {
                    const struct shard s = {.tp_rank = rank, .tp_size = size};
                    assert_true(reads_only_own(m, &s));
                    heads += shard_heads(m, &s).count;
                }
                if (good)
                    assert_int_equal(heads, m->n_heads);
            }
    assert_true(accepted > 500 && refused > 500);
    free(m);
}

static void test_sentence(void **state)
{
    (void)state;
    struct model_config *m = calloc(1, sizeof *m);
    struct error err = {0};
    m->n_heads = 6;
    m->n_kv_heads = 6;
    m->ffn_dim = 768;
    m->vocab_size = 32000;
    assert_int_equal(shard_check(m, 4, &err), STATUS_INVALID);
    assert_string_equal(err.text, "a model of 6 attention heads and 6 KV heads cannot be cut into "
                                  "4 parts; degrees that work: 1, 2, 3, 6");
    assert_int_equal(shard_check(m, 0, &err), STATUS_INVALID);
    m->n_heads = 24;
    m->n_kv_heads = 8;
    assert_int_equal(shard_check(m, 12, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "work: 1, 2, 4, 8, 24"));
    m->ffn_dim = 3;
    assert_int_equal(shard_check(m, 4, &err), STATUS_INVALID);
    m->n_heads = m->n_kv_heads = 512;
    m->ffn_dim = 4096;
    assert_int_equal(shard_check(m, 3, &err), STATUS_INVALID);
    free(m);
}

// TinyLlama 1.1B, whose published size is 1,100,048,384 parameters.
static struct model_config *tinyllama(void)
{
    struct model_config *m = calloc(1, sizeof *m);
    m->n_layers = 22;
    m->hidden_dim = 2048;
    m->ffn_dim = 5632;
    m->n_heads = 32;
    m->n_kv_heads = 4;
    m->head_dim = 64;
    m->vocab_size = 32000;
    m->n_kv_groups = 1;
    m->gated = true;
    m->weight_dtype = DTYPE_BF16;
    return m;
}

static void test_bill(void **state)
{
    (void)state;
    struct model_config *m = tinyllama();
    struct error err;
    uint64_t bytes = 0, sum = 0;
    struct shard s = weights_plan_shard(m, 0, 1);
    assert_int_equal(bill_weights(m, &s, &bytes, &err), STATUS_OK);
    assert_int_equal(bytes, 2 * UINT64_C(1100048384));
    for (uint32_t rank = 0; rank < 2; rank++) {
        s = weights_plan_shard(m, rank, 2);
        assert_int_equal(bill_weights(m, &s, &bytes, &err), STATUS_OK);
        sum += bytes;
    }
    // Cut in two, only the norms are there twice.
    assert_int_equal(sum, 2 * (UINT64_C(1100048384) + 2048 * 45));
    m->tied_head = true;
    s = weights_plan_shard(m, 0, 1);
    assert_int_equal(bill_weights(m, &s, &bytes, &err), STATUS_OK);
    assert_int_equal(bytes, 2 * (UINT64_C(1100048384) - 32000 * 2048));
    s.tp_size = 3;
    assert_int_equal(bill_weights(m, &s, &bytes, &err), STATUS_INVALID);
    free(m);
}

static void test_bill_kv(void **state)
{
    (void)state;
    struct model_config *m = tinyllama();
    struct shard s = weights_plan_shard(m, 0, 1);
    struct bill_kv kv = bill_kv(m, &s, DTYPE_F32, 16);
    assert_int_equal(kv.block_bytes[0], 2 * 22 * 4 * 16 * 64 * 4);
    assert_int_equal(kv.block_bytes_all, kv.block_bytes[0]);
    assert_int_equal(bill_blocks(&kv, kv.block_bytes_all * 7 + kv.block_bytes_all - 1), 7);
    assert_int_equal(bill_blocks(&kv, 0), 0);
    assert_int_equal(bill_kv_sequence(&kv, 17), 2 * kv.block_bytes_all);
    s = weights_plan_shard(m, 5, 8); // KV heads are replicated: one each
    assert_int_equal(bill_kv(m, &s, DTYPE_BF16, 32).block_bytes_all, 2 * 22 * 32 * 64 * 2);
    m->n_kv_groups = 2;
    for (uint32_t i = 1; i < m->n_layers; i += 2)
        m->layer[i].kv_group = 1;
    s = weights_plan_shard(m, 0, 4);
    s.layer_begin = 1;
    s.layer_end = 4;
    kv = bill_kv(m, &s, DTYPE_F32, 16);
    assert_int_equal(kv.block_bytes[0], 2 * 16 * 64 * 4);
    assert_int_equal(kv.block_bytes[1], 2 * 2 * 16 * 64 * 4);
    assert_int_equal(kv.block_bytes_all, kv.block_bytes[0] + kv.block_bytes[1]);
    free(m);
}

static void test_bill_text(void **state)
{
    (void)state;
    char text[32];
    assert_string_equal(bill_text(1023, text, sizeof text), "1023 bytes");
    assert_string_equal(bill_text(1536, text, sizeof text), "1.5 KiB");
    assert_string_equal(bill_text(UINT64_C(5) << 30, text, sizeof text), "5.0 GiB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split_exhaustive),
        cmocka_unit_test(test_heads_exhaustive),
        cmocka_unit_test(test_sentence),
        cmocka_unit_test(test_bill),
        cmocka_unit_test(test_bill_kv),
        cmocka_unit_test(test_bill_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
