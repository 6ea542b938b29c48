// SPDX-License-Identifier: Apache-2.0
#include "model/weights_plan.h"

#include "base/check.h"
#include "model/random_weights.h"
#include "model/tensor_map.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum source { SOURCE_FILES, SOURCE_RANDOM, SOURCE_SHAPES };
enum { OWNED_ALIGNMENT = 64 };

// The plan is built twice: the first pass counts the bytes that it will own (fused biases, random
// weights), the second one has them and fills them.
struct builder {
    const struct model_config *m;
    const struct shard *s;
    const struct safetensors *files; // SOURCE_FILES
    enum source source;
    uint64_t seed;   // SOURCE_RANDOM
    bool *used;      // [tensors of files], SOURCE_FILES
    uint8_t *owned;  // NULL while counting
    uint64_t offset; // bytes taken of it so far
    struct weights_plan *plan;
    struct error *err;
};

// One tensor on its way into a slice.
struct source_tensor {
    const struct tensor_row *row;
    char name[TENSOR_MAP_NAME_BYTES];
    enum dtype dtype;
    uint32_t rows, columns;
    const uint8_t *data; // NULL but in files
};

struct shard weights_plan_shard(const struct model_config *m, uint32_t tp_rank, uint32_t tp_size)
{
    return (struct shard){
        .tp_rank = tp_rank,
        .tp_size = tp_size,
        .layer_end = m->n_layers,
        .expert_end = m->n_experts,
    };
}

// Bytes of the plan's own memory; NULL while counting.
static uint8_t *take(struct builder *b, uint64_t bytes)
{
    uint8_t *p = b->owned ? b->owned + b->offset : NULL;
    b->offset += (bytes + OWNED_ALIGNMENT - 1) / OWNED_ALIGNMENT * OWNED_ALIGNMENT;
    return p;
}

// ---- finding a tensor --------------------------------------------------------------------------

static void shape_text(const struct tensor *t, char *text, size_t n)
{
    size_t used = (size_t)snprintf(text, n, "[");
    for (uint32_t i = 0; i < t->n_dims && used < n; i++)
        used += (size_t)snprintf(
            text + used, n - used, i ? ", %llu" : "%llu", (unsigned long long)t->shape[i]);
    if (used < n)
        snprintf(text + used, n - used, "]");
}

static void wanted_text(const struct source_tensor *t, char *text, size_t n)
{
    if (t->row->rows == TENSOR_DIM_ONE)
        snprintf(text, n, "[%u]", t->columns);
    else
        snprintf(text, n, "[%u, %u]", t->rows, t->columns);
}

static bool shape_fits(const struct source_tensor *want, const struct tensor *t)
{
    if (want->row->rows == TENSOR_DIM_ONE)
        return t->n_dims == 1 && t->shape[0] == want->columns;
    return t->n_dims == 2 && t->shape[0] == want->rows && t->shape[1] == want->columns;
}

static enum status find_in_files(struct builder *b, struct source_tensor *t)
{
    char wanted[64], found[200];
    const struct tensor *f = safetensors_find(b->files, t->name);
    wanted_text(t, wanted, sizeof wanted);
    if (!f)
        return status_fail(b->err, STATUS_NOT_FOUND,
            "tensor \"%s\" %s, which a %s model with this config.json needs, is missing", t->name,
            wanted, b->m->family);
    shape_text(f, found, sizeof found);
    if (!shape_fits(t, f))
        return status_fail(b->err, STATUS_INVALID,
            "tensor \"%s\" has the shape %s, but config.json asks for %s", t->name, found, wanted);
    if (f->dtype != DTYPE_F32 && f->dtype != DTYPE_F16 && f->dtype != DTYPE_BF16)
        return status_fail(b->err, STATUS_UNSUPPORTED,
            "tensor \"%s\" is %s, but f32, f16 or bf16 was expected", t->name,
            dtype_name(f->dtype));
    b->used[safetensors_index(b->files, f)] = true;
    t->dtype = f->dtype;
    t->data = f->data;
    return STATUS_OK;
}

static enum status find(struct builder *b, struct source_tensor *t, uint32_t layer)
{
    tensor_map_name(t->row, layer, t->name);
    t->rows = tensor_map_dim(b->m, t->row->rows);
    t->columns = tensor_map_dim(b->m, t->row->columns);
    if (b->source == SOURCE_FILES)
        return find_in_files(b, t);
    t->dtype = b->m->weight_dtype;
    return STATUS_OK;
}

// ---- cutting it --------------------------------------------------------------------------------

// Where the part begins and how far its rows are apart. Random weights are made here.
static const void *part_data(struct builder *b, const struct source_tensor *t,
    struct shard_range rows, struct shard_range columns, uint64_t *stride)
{
    uint64_t size = dtype_bytes(t->dtype);
    *stride = t->columns * size;
    if (b->source == SOURCE_FILES)
        return t->data + rows.begin * *stride + columns.begin * size;
    *stride = columns.count * size;
    if (b->source == SOURCE_SHAPES)
        return NULL;
    struct random_weights_args a = {
        .seed = b->seed,
        .name = t->name,
        .dtype = t->dtype,
        .row_begin = rows.begin,
        .n_rows = rows.count,
        .column_begin = columns.begin,
        .n_columns = columns.count,
        .spread = sqrtf(3.0f / (float)t->columns), // standard deviation 1/sqrt(K)
        .out = take(b, rows.count * *stride),
    };
    if (t->row->rows == TENSOR_DIM_ONE) {
        bool bias = strstr(t->row->name, ".bias") != NULL;
        a.center = bias ? 0.0f : 1.0f - b->m->norm_weight_offset;
        a.spread = bias ? 0.02f : 0.1f;
    }
    if (a.out)
        random_weights_fill(&a);
    return a.out;
}

static void append_rows(struct builder *b, const struct source_tensor *t, struct shard_range rows,
    struct shard_range columns, struct weight_slice *slice)
{
    check(slice->n_parts < WEIGHT_SLICE_PARTS_MAX);
    struct weight_slice_part *p = &slice->part[slice->n_parts++];
    p->data = part_data(b, t, rows, columns, &p->row_stride_bytes);
    p->n_rows = rows.count;
    slice->n += rows.count;
    slice->k = columns.count;
}

// A vector of several pieces is put together in memory of ours: it is small.
static void append_vector(struct builder *b, const struct source_tensor *t,
    struct shard_range columns, struct weight_slice *slice)
{
    uint64_t size = dtype_bytes(t->dtype), stride;
    struct weight_slice_part *p = &slice->part[0];
    const void *piece = part_data(b, t, (struct shard_range){0, 1}, columns, &stride);
    if (slice->n_parts == 0) {
        p->data = piece;
    } else {
        uint8_t *whole = take(b, (slice->k + columns.count) * size);
        if (whole && b->source != SOURCE_SHAPES) {
            memcpy(whole, p->data, slice->k * size);
            memcpy(whole + slice->k * size, piece, columns.count * size);
        }
        p->data = whole;
    }
    slice->n_parts = 1;
    slice->n = 1;
    slice->k += columns.count;
    p->n_rows = 1;
    p->row_stride_bytes = slice->k * size;
}

static enum status append(
    struct builder *b, const struct source_tensor *t, struct weight_slice *slice)
{
    struct shard_range span[TENSOR_MAP_SPANS_MAX];
    uint32_t n_spans = tensor_map_spans(b->m, b->s, t->row, span);
    if (slice->n_parts && slice->dtype != t->dtype)
        return status_fail(b->err, STATUS_UNSUPPORTED,
            "tensor \"%s\" is %s, but the ones that it is computed with are %s", t->name,
            dtype_name(t->dtype), dtype_name(slice->dtype));
    slice->dtype = t->dtype;
    for (uint32_t i = 0; i < n_spans; i++)
        if (t->row->rows == TENSOR_DIM_ONE)
            append_vector(b, t, span[i], slice);
        else if (tensor_map_cuts_columns(t->row->cut))
            append_rows(b, t, (struct shard_range){0, t->rows}, span[i], slice);
        else
            append_rows(b, t, span[i], (struct shard_range){0, t->columns}, slice);
    return STATUS_OK;
}

// ---- the whole plan ----------------------------------------------------------------------------

// Which pipeline stages have a weight of the model: the first one embeds, the last one has the
// head, and with it the embedding where they are tied.
static bool stage_has(const struct builder *b, enum model_slot slot)
{
    bool first = b->s->layer_begin == 0, last = b->s->layer_end == b->m->n_layers;
    switch (slot) {
    case MODEL_SLOT_EMBED:
        return first || (last && b->m->tied_head);
    case MODEL_SLOT_FINAL_NORM:
    case MODEL_SLOT_FINAL_NORM_BIAS:
    case MODEL_SLOT_HEAD:
    case MODEL_SLOT_HEAD_BIAS:
        return last;
    default:
        return first;
    }
}

static bool row_applies(const struct builder *b, const struct tensor_row *row)
{
    return (uint32_t)row->scheme == b->m->tensor_scheme && tensor_map_present(b->m, row->when);
}

static enum status build_model(struct builder *b)
{
    struct weights_plan *p = b->plan;
    for (uint32_t i = 0; i < tensor_map_model_count; i++) {
        struct source_tensor t = {.row = &tensor_map_model[i]};
        if (!row_applies(b, t.row))
            continue;
        TRY(find(b, &t, 0));
        if (stage_has(b, (enum model_slot)t.row->slot))
            TRY(append(b, &t, &p->slot[t.row->slot]));
    }
    if (b->m->tied_head && stage_has(b, MODEL_SLOT_HEAD))
        p->slot[MODEL_SLOT_HEAD] = p->slot[MODEL_SLOT_EMBED];
    return STATUS_OK;
}

static enum status build_layer(struct builder *b, uint32_t layer)
{
    bool here = layer >= b->s->layer_begin && layer < b->s->layer_end;
    for (uint32_t i = 0; i < tensor_map_layer_count; i++) {
        struct source_tensor t = {.row = &tensor_map_layer[i]};
        if (!row_applies(b, t.row))
            continue;
        TRY(find(b, &t, layer));
        if (here)
            TRY(append(b, &t, &b->plan->layer[layer - b->s->layer_begin].slot[t.row->slot]));
    }
    return STATUS_OK;
}

static enum status build(struct builder *b)
{
    struct weights_plan *p = b->plan;
    b->offset = 0;
    memset(p->slot, 0, sizeof p->slot);
    memset(p->layer, 0, p->n_layers * sizeof *p->layer);
    TRY(build_model(b));
    for (uint32_t i = 0; i < b->m->n_layers; i++)
        TRY(build_layer(b, i));
    return STATUS_OK;
}

// A weight that nobody computes with means that we would compute something else than its authors.
static enum status refuse_unused(const struct builder *b)
{
    for (uint32_t i = 0; i < safetensors_count(b->files); i++) {
        const struct tensor *t = safetensors_at(b->files, i);
        if (!b->used[i] && !tensor_map_ignored(b->m, t->name))
            return status_fail(b->err, STATUS_UNSUPPORTED,
                "tensor \"%s\" is not part of a %s model with this config.json", t->name,
                b->m->family);
    }
    return STATUS_OK;
}

static uint64_t slice_bytes(const struct weight_slice *w)
{
    return (uint64_t)w->n * w->k * dtype_bytes(w->dtype);
}

static uint64_t plan_bytes(const struct builder *b)
{
    uint64_t sum = 0;
    for (int i = 0; i < MODEL_SLOT_COUNT; i++)
        if (!(i == MODEL_SLOT_HEAD && b->m->tied_head))
            sum += slice_bytes(&b->plan->slot[i]);
    for (uint32_t i = 0; i < b->plan->n_layers; i++)
        for (int j = 0; j < LAYER_SLOT_COUNT; j++)
            sum += slice_bytes(&b->plan->layer[i].slot[j]);
    return sum;
}

static enum status make_owned(struct builder *b)
{
    struct weights_plan *p = b->plan;
    if (b->offset == 0 || b->source == SOURCE_SHAPES)
        return STATUS_OK;
    void *m = mmap(NULL, b->offset, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED)
        return status_fail(b->err, STATUS_NO_MEMORY, "no memory for %llu bytes of weights",
            (unsigned long long)b->offset);
    madvise(m, b->offset, MADV_HUGEPAGE);
    p->owned = m;
    p->owned_bytes = b->offset;
    b->owned = m;
    return build(b);
}

static enum status check_stage(
    const struct model_config *m, const struct shard *s, struct error *err)
{
    TRY(shard_check(m, s->tp_size, err));
    if (s->tp_rank < s->tp_size && s->layer_begin < s->layer_end && s->layer_end <= m->n_layers)
        return STATUS_OK;
    return status_fail(err, STATUS_INVALID,
        "rank %u of %u with layers %u to %u is no part of a model of %u layers", s->tp_rank,
        s->tp_size, s->layer_begin, s->layer_end, m->n_layers);
}

static enum status open_plan(struct builder *b, struct weights_plan *out)
{
    TRY(check_stage(b->m, b->s, b->err));
    struct weights_plan p = {.shard = *b->s, .n_layers = b->s->layer_end - b->s->layer_begin};
    uint32_t n_tensors = b->files ? safetensors_count(b->files) : 0;
    p.layer = calloc(p.n_layers, sizeof *p.layer);
    b->used = calloc(n_tensors + 1, sizeof *b->used);
    b->plan = &p;
    enum status status =
        p.layer && b->used ? STATUS_OK
                           : status_fail(b->err, STATUS_NO_MEMORY, "no memory to plan the weights");
    if (status == STATUS_OK)
        status = build(b);
    if (status == STATUS_OK && b->files)
        status = refuse_unused(b);
    if (status == STATUS_OK)
        status = make_owned(b);
    free(b->used);
    if (status != STATUS_OK) {
        weights_plan_close(&p);
        return status;
    }
    p.bytes = plan_bytes(b);
    *out = p;
    return STATUS_OK;
}

enum status weights_plan_open(const struct model_config *m, const struct shard *s,
    const struct safetensors *files, struct weights_plan *out, struct error *err)
{
    struct builder b = {.m = m, .s = s, .files = files, .source = SOURCE_FILES, .err = err};
    return open_plan(&b, out);
}

enum status weights_plan_random(const struct model_config *m, const struct shard *s, uint64_t seed,
    struct weights_plan *out, struct error *err)
{
    struct builder b = {.m = m, .s = s, .source = SOURCE_RANDOM, .seed = seed, .err = err};
    return open_plan(&b, out);
}

enum status weights_plan_shapes(const struct model_config *m, const struct shard *s,
    struct weights_plan *out, struct error *err)
{
    struct builder b = {.m = m, .s = s, .source = SOURCE_SHAPES, .err = err};
    return open_plan(&b, out);
}

void weights_plan_close(struct weights_plan *p)
{
    if (p->owned)
        munmap(p->owned, p->owned_bytes);
    free(p->layer);
    memset(p, 0, sizeof *p);
}
