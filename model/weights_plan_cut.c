// SPDX-License-Identifier: Apache-2.0
// What a rank takes of a tensor: where it lies, or put together in the plan's own memory.
#include "base/check.h"
#include "model/random_weights.h"
#include "model/weights_copy.h"
#include "model/weights_plan_internal.h"

#include <math.h>
#include <string.h>

enum { OWNED_ALIGNMENT = 64 };

// Bytes of the plan's own memory; NULL while counting.
static uint8_t *take(struct weights_plan_builder *b, uint64_t bytes)
{
    uint8_t *p = b->owned ? b->owned + b->offset : NULL;
    b->offset += (bytes + OWNED_ALIGNMENT - 1) / OWNED_ALIGNMENT * OWNED_ALIGNMENT;
    return p;
}
// A block of a tensor, in its logical order of rows and columns.
struct block {
    struct shard_range rows, columns;
};

static uint64_t block_bytes(const struct weights_plan_tensor *t, struct block x)
{
    return (uint64_t)x.rows.count * x.columns.count * dtype_bytes(t->dtype);
}

static struct random_weights_args random_block(const struct weights_plan_builder *b,
    const struct weights_plan_tensor *t, struct block x, uint8_t *out)
{
    struct random_weights_args a = {
        .seed = b->seed,
        .name = t->name,
        .dtype = t->dtype,
        .row_begin = x.rows.begin,
        .n_rows = x.rows.count,
        .column_begin = x.columns.begin,
        .n_columns = x.columns.count,
        .spread = sqrtf(3.0f / (float)t->columns), // standard deviation 1/sqrt(K)
        .out = out,
    };
    if (t->row->rows == TENSOR_DIM_ONE) {
        bool bias = strstr(t->row->name, ".bias") != NULL;
        a.center = bias ? 0.0f : 1.0f - b->m->norm_weight_offset;
        a.spread = bias ? 0.02f : 0.1f;
    }
    return a;
}

// Vectors are small and looked at by the host; so is a head that has to be normalised.
static bool is_left_to_draw(
    const struct weights_plan_builder *b, const struct weights_plan_tensor *t)
{
    bool of_model =
        t->row >= tensor_map_model && t->row < tensor_map_model + tensor_map_model_count;
    return b->drawn && t->row->rows != TENSOR_DIM_ONE && !(b->m->head_normalised && of_model);
}

static void keep_draw(struct weights_plan_builder *b, const struct random_weights_args *a)
{
    if (b->plan->draw)
        b->plan->draw[b->n_draws] = (struct weights_plan_draw){.data = a->out,
            .key = random_weights_key(a->seed, a->name),
            .row_begin = a->row_begin,
            .n_rows = a->n_rows,
            .column_begin = a->column_begin,
            .n_columns = a->n_columns,
            .center = a->center,
            .spread = a->spread};
    b->n_draws++;
}

static void fill(struct weights_plan_builder *b, const struct weights_plan_tensor *t,
    struct block x, uint8_t *out)
{
    struct random_weights_args random = random_block(b, t, x, out);
    if (is_left_to_draw(b, t))
        keep_draw(b, &random);
    else if (out && b->source == WEIGHTS_PLAN_RANDOM)
        random_weights_fill(&random);
    else if (out && b->source == WEIGHTS_PLAN_FILES)
        weights_copy_block(
            &(struct weights_copy_source){t->data, t->dtype, t->rows, t->columns, t->row->turned},
            x.rows, x.columns, out);
}

static const uint8_t *in_place(
    const struct weights_plan_builder *b, const struct weights_plan_tensor *t, struct block x)
{
    if (b->source != WEIGHTS_PLAN_FILES)
        return NULL;
    return t->data +
           ((uint64_t)x.rows.begin * t->columns + x.columns.begin) * dtype_bytes(t->dtype);
}

static void append_part(struct weight_slice *slice, struct weight_slice_part part, uint32_t k)
{
    check(slice->n_parts < WEIGHT_SLICE_PARTS_MAX && (slice->n_parts == 0 || slice->k == k));
    slice->part[slice->n_parts++] = part;
    slice->n += part.n_rows;
    slice->k = k;
}

// A matrix is used where it lies; but one that is stored otherwise than it is computed with is
// put together in memory of ours.
static void append_matrix(struct weights_plan_builder *b, const struct weights_plan_tensor *t,
    const struct shard_range *span, uint32_t n_spans, struct weight_slice *slice)
{
    bool by_columns = tensor_map_cuts_columns(t->row->cut);
    bool copied = b->source != WEIGHTS_PLAN_FILES || t->row->turned ||
                  slice->n_parts + n_spans > WEIGHT_SLICE_PARTS_MAX;
    struct block x = {{0, t->rows}, {0, t->columns}};
    uint64_t size = dtype_bytes(t->dtype), total = 0;
    struct weight_slice_part one = {0};
    uint8_t *out = NULL;
    for (uint32_t i = 0; i < n_spans; i++)
        total += span[i].count;
    if (copied)
        one.data = out = take(b, total * (by_columns ? t->rows : t->columns) * size);
    for (uint32_t i = 0; i < n_spans; i++) {
        *(by_columns ? &x.columns : &x.rows) = span[i];
        one.n_rows += x.rows.count;
        if (!copied)
            append_part(slice,
                (struct weight_slice_part){in_place(b, t, x), t->columns * size, x.rows.count},
                x.columns.count);
        fill(b, t, x, out);
        out = out ? out + block_bytes(t, x) : NULL;
    }
    one.row_stride_bytes = x.columns.count * size;
    if (copied)
        append_part(slice, one, x.columns.count);
}

// A vector of several pieces is put together: it is small.
static void append_vector(struct weights_plan_builder *b, const struct weights_plan_tensor *t,
    const struct shard_range *span, uint32_t n_spans, struct weight_slice *slice)
{
    uint64_t size = dtype_bytes(t->dtype), before = slice->k * size;
    struct weight_slice_part *p = &slice->part[0];
    for (uint32_t i = 0; i < n_spans; i++)
        slice->k += span[i].count;
    if (n_spans == 1 && before == 0 && b->source == WEIGHTS_PLAN_FILES) {
        p->data = in_place(b, t, (struct block){{0, 1}, span[0]});
    } else {
        uint8_t *out = take(b, slice->k * size);
        if (out && before > 0)
            memcpy(out, p->data, before);
        p->data = out;
        out = out ? out + before : NULL;
        for (uint32_t i = 0; i < n_spans; i++) {
            struct block x = {{0, 1}, span[i]};
            fill(b, t, x, out);
            out = out ? out + block_bytes(t, x) : NULL;
        }
    }
    slice->n_parts = 1;
    slice->n = 1;
    p->n_rows = 1;
    p->row_stride_bytes = slice->k * size;
}

enum status weights_plan_cut(
    struct weights_plan_builder *b, const struct weights_plan_tensor *t, struct weight_slice *slice)
{
    struct shard_range span[TENSOR_MAP_SPANS_MAX];
    uint32_t n_spans = tensor_map_spans(b->m, b->s, t->row, span);
    if (slice->n_parts && slice->dtype != t->dtype)
        return status_fail(b->err, STATUS_UNSUPPORTED,
            "tensor \"%s\" is %s, but the ones that it is computed with are %s", t->name,
            dtype_name(t->dtype), dtype_name(slice->dtype));
    slice->dtype = t->dtype;
    if (t->row->rows == TENSOR_DIM_ONE)
        append_vector(b, t, span, n_spans, slice);
    else
        append_matrix(b, t, span, n_spans, slice);
    return STATUS_OK;
}

void weights_plan_cut_unit_rows(struct weights_plan_builder *b, struct weight_slice *head)
{
    uint64_t size = dtype_bytes(head->dtype), row = head->k * size;
    uint8_t *out = take(b, head->n * row);
    check(head->n_parts == 1);
    for (uint32_t i = 0; out && b->source != WEIGHTS_PLAN_SHAPES && i < head->n; i++) {
        const uint8_t *from = head->part[0].data;
        weights_copy_unit(
            head->dtype, from + i * head->part[0].row_stride_bytes, head->k, out + i * row);
    }
    head->part[0].data = out;
    head->part[0].row_stride_bytes = row;
}
