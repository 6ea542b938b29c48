// SPDX-License-Identifier: Apache-2.0
// A plan whose matrices are left to a device, against the one that makes them.
#include "tests/test_support.h"

#include "base/draw.h"
#include "model/arch.h"
#include "model/weights_plan.h"
#include "tests/model/families.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The bits of a number in its type.
static uint32_t rounded(float f, enum dtype t)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if (t == DTYPE_F32)
        return u;
    return t == DTYPE_BF16 ? dtype_bf16_from_f32(f) : dtype_f16_from_f32(f);
}

static uint32_t at(const struct weight_slice *w, uint32_t row, uint32_t column)
{
    uint32_t p = 0, size = dtype_bytes(w->dtype), u = 0;
    while (p < w->n_parts && row >= w->part[p].n_rows)
        row -= w->part[p++].n_rows;
    assert_true(p < w->n_parts && column < w->k);
    const uint8_t *data = w->part[p].data;
    memcpy(&u, data + row * w->part[p].row_stride_bytes + (uint64_t)column * size, size);
    return u;
}

// What a device draws for a part of a slice, against what has been made of it.
static void assert_draws(const struct weights_plan *drawn, const struct weight_slice_part *part,
    const struct weight_slice *made, uint32_t first_row)
{
    uint32_t at_draw = weights_plan_first_draw(drawn, part->data), row = 0;
    while (row < part->n_rows) {
        const struct weights_plan_draw *d = &drawn->draw[at_draw++];
        assert_true(at_draw <= drawn->n_draws && d->n_columns == made->k);
        for (uint32_t r = 0; r < d->n_rows; r++, row++)
            for (uint32_t c = 0; c < d->n_columns; c++) {
                float f = draw_element(draw_row(d->key, d->row_begin + r), d->column_begin + c,
                    d->center, d->spread * 0x1p-31f);
                assert_int_equal(rounded(f, made->dtype), at(made, first_row + row, c));
            }
    }
    assert_int_equal(row, part->n_rows);
}

// True where the slice has draws.
static bool assert_drawn(
    const struct weights_plan *drawn, const struct weight_slice *w, const struct weight_slice *made)
{
    bool any = false;
    uint32_t row = 0;
    assert_int_equal(w->n, made->n);
    assert_int_equal(w->k, made->k);
    assert_int_equal(w->dtype, made->dtype);
    for (uint32_t i = 0; i < w->n_parts; i++) {
        if (weights_plan_first_draw(drawn, w->part[i].data) < drawn->n_draws) {
            assert_draws(drawn, &w->part[i], made, row);
            any = true;
        }
        row += w->part[i].n_rows;
    }
    for (uint32_t r = 0; !any && r < w->n; r++)
        for (uint32_t c = 0; c < w->k; c++)
            assert_true(at(w, r, c) == at(made, r, c));
    return any;
}

static void assert_plan_drawn(const struct model_config *m, uint32_t rank, uint32_t degree)
{
    struct weights_plan made, drawn;
    struct error err = {0};
    struct shard s = weights_plan_shard(m, rank, degree);
    if (weights_plan_random(m, &s, 7, &made, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    if (weights_plan_drawn(m, &s, 7, &drawn, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    bool embed = assert_drawn(&drawn, &drawn.slot[MODEL_SLOT_EMBED], &made.slot[MODEL_SLOT_EMBED]);
    assert_true(embed == !m->head_normalised && made.n_draws == 0);
    for (int i = 0; i < MODEL_SLOT_COUNT; i++)
        assert_drawn(&drawn, &drawn.slot[i], &made.slot[i]);
    for (uint32_t k = 0; k < made.n_layers; k++) {
        for (int i = 0; i < LAYER_SLOT_COUNT; i++)
            assert_drawn(&drawn, &drawn.layer[k].slot[i], &made.layer[k].slot[i]);
        assert_true(assert_drawn(
            &drawn, &drawn.layer[k].slot[LAYER_SLOT_O], &made.layer[k].slot[LAYER_SLOT_O]));
        for (uint32_t e = 0; made.layer[k].expert && e < made.n_local_experts; e++)
            for (int i = 0; i < EXPERT_SLOT_COUNT; i++)
                assert_drawn(
                    &drawn, &drawn.layer[k].expert[e].slot[i], &made.layer[k].expert[e].slot[i]);
    }
    assert_int_equal(drawn.bytes, made.bytes);
    weights_plan_close(&made);
    weights_plan_close(&drawn);
}

static void check_drawn(const struct model_config *m)
{
    for (uint32_t degree = 1; degree <= 3; degree++)
        for (uint32_t rank = 0; rank < degree; rank++)
            if (shard_check(m, degree, NULL) == STATUS_OK)
                assert_plan_drawn(m, rank, degree);
}

// What is left to a device is the same model, of every family and at every degree.
static void test_drawn_families(void **state)
{
    (void)state;
    families_each(check_drawn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_drawn_families)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
