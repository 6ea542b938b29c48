// SPDX-License-Identifier: Apache-2.0
#include "model/weights_plan.h"

#include "model/weights_plan_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct shard weights_plan_shard(const struct model_config *m, uint32_t tp_rank, uint32_t tp_size)
{
    return (struct shard){
        .tp_rank = tp_rank,
        .tp_size = tp_size,
        .layer_end = m->n_layers,
        .expert_end = m->n_experts,
    };
}

// Which pipeline stages have a weight of the model: the first one embeds, the last one has the
// head, and with it the embedding where they are tied.
static bool stage_has(const struct weights_plan_builder *b, enum model_slot slot)
{
    bool first = b->s->layer_begin == 0, last = b->s->layer_end == b->m->n_layers;
    switch (slot) {
    case MODEL_SLOT_EMBED:
        return first || (last && weights_plan_is_tied(b));
    case MODEL_SLOT_FINAL_NORM:
    case MODEL_SLOT_FINAL_NORM_BIAS:
    case MODEL_SLOT_PROJECT_OUT:
    case MODEL_SLOT_HEAD:
    case MODEL_SLOT_HEAD_BIAS:
        return last;
    default:
        return first;
    }
}

static bool row_applies(
    const struct weights_plan_builder *b, const struct tensor_row *row, uint32_t layer)
{
    return row->schemes >> b->m->tensor_scheme & 1 &&
           (tensor_map_present(b->m, row->when, layer) ||
               (row->when == TENSOR_WHEN_UNTIED && b->untied));
}

// Appends the tensor to its slice, or the tensors of each head; `slice` is NULL where another
// stage has it.
static enum status add(struct weights_plan_builder *b, const struct tensor_row *row, uint32_t layer,
    struct weight_slice *slice)
{
    struct weights_plan_tensor t = {.row = row};
    struct shard whole = weights_plan_shard(b->m, 0, 1);
    struct shard_range mine = tensor_map_heads(b->m, b->s, row);
    struct shard_range all = tensor_map_heads(b->m, &whole, row);
    for (uint32_t head = 0; head < all.count && !weights_plan_is_missing(b, &t, layer); head++) {
        TRY(weights_plan_find(b, &t, layer, head));
        if (slice && head >= mine.begin && head < mine.begin + mine.count)
            TRY(weights_plan_cut(b, &t, slice));
    }
    return STATUS_OK;
}

static enum status build_model(struct weights_plan_builder *b)
{
    struct weights_plan *p = b->plan;
    for (uint32_t i = 0; i < tensor_map_model_count; i++) {
        const struct tensor_row *row = &tensor_map_model[i];
        bool here = stage_has(b, (enum model_slot)row->slot);
        if (row_applies(b, row, 0))
            TRY(add(b, row, 0, here ? &p->slot[row->slot] : NULL));
    }
    if (weights_plan_is_tied(b) && stage_has(b, MODEL_SLOT_HEAD))
        p->slot[MODEL_SLOT_HEAD] = p->slot[MODEL_SLOT_EMBED];
    if (b->m->head_normalised && stage_has(b, MODEL_SLOT_HEAD))
        weights_plan_cut_unit_rows(b, &p->slot[MODEL_SLOT_HEAD]);
    return STATUS_OK;
}

// The experts of a layer; `expert` is NULL where another stage has them.
static enum status build_experts(
    struct weights_plan_builder *b, uint32_t layer, struct weights_plan_expert *expert)
{
    for (uint32_t i = 0; i < tensor_map_expert_count; i++) {
        struct weights_plan_tensor t = {.row = &tensor_map_expert[i]};
        if (!row_applies(b, t.row, layer))
            continue;
        for (uint32_t e = 0; e < b->m->n_experts; e++) {
            TRY(weights_plan_find(b, &t, layer, e));
            if (expert && e >= b->s->expert_begin && e < b->s->expert_end)
                TRY(weights_plan_cut(b, &t, &expert[e - b->s->expert_begin].slot[t.row->slot]));
        }
    }
    return STATUS_OK;
}

static enum status build_layer(struct weights_plan_builder *b, uint32_t layer)
{
    bool here = layer >= b->s->layer_begin && layer < b->s->layer_end;
    for (uint32_t i = 0; i < tensor_map_layer_count; i++) {
        const struct tensor_row *row = &tensor_map_layer[i];
        struct weight_slice *slot =
            here ? &b->plan->layer[layer - b->s->layer_begin].slot[row->slot] : NULL;
        if (row_applies(b, row, layer))
            TRY(add(b, row, layer, slot));
    }
    if (b->m->layer[layer].experts)
        return build_experts(
            b, layer, here ? b->plan->layer[layer - b->s->layer_begin].expert : NULL);
    return STATUS_OK;
}

static enum status build(struct weights_plan_builder *b)
{
    struct weights_plan *p = b->plan;
    b->offset = 0;
    b->n_draws = 0;
    memset(p->slot, 0, sizeof p->slot);
    memset(p->layer, 0, p->n_layers * sizeof *p->layer);
    if (p->n_local_experts)
        memset(p->experts, 0, (size_t)p->n_layers * p->n_local_experts * sizeof *p->experts);
    for (uint32_t i = 0; i < p->n_layers; i++)
        if (b->m->layer[p->shard.layer_begin + i].experts)
            p->layer[i].expert = p->experts + (size_t)i * p->n_local_experts;
    TRY(build_model(b));
    for (uint32_t i = 0; i < b->m->n_layers; i++)
        TRY(build_layer(b, i));
    return STATUS_OK;
}

static uint64_t slice_bytes(const struct weight_slice *w)
{
    return (uint64_t)w->n * w->k * dtype_bytes(w->dtype);
}

static uint64_t plan_bytes(const struct weights_plan_builder *b)
{
    uint64_t sum = 0;
    for (int i = 0; i < MODEL_SLOT_COUNT; i++)
        if (!(i == MODEL_SLOT_HEAD && weights_plan_is_tied(b)))
            sum += slice_bytes(&b->plan->slot[i]);
    for (uint32_t i = 0; i < b->plan->n_layers; i++) {
        const struct weights_plan_layer *layer = &b->plan->layer[i];
        for (int j = 0; j < LAYER_SLOT_COUNT; j++)
            sum += slice_bytes(&layer->slot[j]);
        for (uint32_t e = 0; layer->expert && e < b->plan->n_local_experts; e++)
            for (int j = 0; j < EXPERT_SLOT_COUNT; j++)
                sum += slice_bytes(&layer->expert[e].slot[j]);
    }
    return sum;
}

static enum status make_owned(struct weights_plan_builder *b)
{
    struct weights_plan *p = b->plan;
    if (b->offset == 0 || b->source == WEIGHTS_PLAN_SHAPES)
        return STATUS_OK;
    void *m = mmap(NULL, b->offset, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED)
        return status_fail(b->err, STATUS_NO_MEMORY, "no memory for %llu bytes of weights",
            (unsigned long long)b->offset);
    p->owned = m;
    p->owned_bytes = b->offset;
    if (!b->drawn)
        madvise(m, b->offset, MADV_HUGEPAGE);
    p->n_draws = b->n_draws;
    p->draw = calloc(p->n_draws + (size_t)1, sizeof *p->draw);
    if (!p->draw)
        return status_fail(b->err, STATUS_NO_MEMORY, "no memory to plan the weights");
    b->owned = m;
    return build(b);
}

static enum status check_stage(
    const struct model_config *m, const struct shard *s, struct error *err)
{
    TRY(shard_check(m, s->tp_size, err));
    if (s->expert_begin > s->expert_end || s->expert_end > m->n_experts ||
        (m->n_experts > 0 && s->expert_begin == s->expert_end))
        return status_fail(err, STATUS_INVALID,
            "rank %u of %u has experts %u to %u of a model of %u experts", s->tp_rank, s->tp_size,
            s->expert_begin, s->expert_end, m->n_experts);
    if (s->tp_rank < s->tp_size && s->layer_begin < s->layer_end && s->layer_end <= m->n_layers)
        return STATUS_OK;
    return status_fail(err, STATUS_INVALID,
        "rank %u of %u with layers %u to %u is no part of a model of %u layers", s->tp_rank,
        s->tp_size, s->layer_begin, s->layer_end, m->n_layers);
}

static enum status open_plan(struct weights_plan_builder *b, struct weights_plan *out)
{
    TRY(check_stage(b->m, b->s, b->err));
    struct weights_plan p = {.shard = *b->s, .n_layers = b->s->layer_end - b->s->layer_begin};
    uint32_t n_tensors = b->files ? safetensors_count(b->files) : 0;
    p.layer = calloc(p.n_layers, sizeof *p.layer);
    p.n_local_experts = b->s->expert_end - b->s->expert_begin;
    p.experts = calloc((size_t)p.n_layers * p.n_local_experts + 1, sizeof *p.experts);
    b->used = calloc(n_tensors + 1, sizeof *b->used);
    b->plan = &p;
    if (b->files) {
        weights_plan_find_prefix(b);
        weights_plan_find_untied(b);
    }
    enum status status = p.layer && p.experts && b->used ? STATUS_OK
                                                         : status_fail(b->err, STATUS_NO_MEMORY,
                                                               "no memory to plan the weights");
    if (status == STATUS_OK)
        status = build(b);
    if (status == STATUS_OK && b->files)
        status = weights_plan_refuse_unused(b);
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
    struct weights_plan_builder b = {
        .m = m, .s = s, .files = files, .source = WEIGHTS_PLAN_FILES, .err = err};
    return open_plan(&b, out);
}

enum status weights_plan_random(const struct model_config *m, const struct shard *s, uint64_t seed,
    struct weights_plan *out, struct error *err)
{
    struct weights_plan_builder b = {
        .m = m, .s = s, .source = WEIGHTS_PLAN_RANDOM, .seed = seed, .err = err};
    return open_plan(&b, out);
}

enum status weights_plan_drawn(const struct model_config *m, const struct shard *s, uint64_t seed,
    struct weights_plan *out, struct error *err)
{
    struct weights_plan_builder b = {
        .m = m, .s = s, .source = WEIGHTS_PLAN_RANDOM, .seed = seed, .drawn = true, .err = err};
    return open_plan(&b, out);
}

uint32_t weights_plan_first_draw(const struct weights_plan *p, const void *data)
{
    uint32_t low = 0, high = p->n_draws;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if ((uintptr_t)p->draw[middle].data < (uintptr_t)data)
            low = middle + 1;
        else
            high = middle;
    }
    return low < p->n_draws && p->draw[low].data == data ? low : p->n_draws;
}

enum status weights_plan_shapes(const struct model_config *m, const struct shard *s,
    struct weights_plan *out, struct error *err)
{
    struct weights_plan_builder b = {.m = m, .s = s, .source = WEIGHTS_PLAN_SHAPES, .err = err};
    return open_plan(&b, out);
}

void weights_plan_close(struct weights_plan *p)
{
    if (p->owned)
        munmap(p->owned, p->owned_bytes);
    free(p->layer);
    free(p->experts);
    free(p->draw);
    memset(p, 0, sizeof *p);
}
