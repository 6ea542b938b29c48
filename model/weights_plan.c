// SPDX-License-Identifier: Apache-2.0
#include "model/weights_plan.h"

#include "base/check.h"
#include "model/random_weights.h"
#include "model/tensor_map.h"
#include "model/weights_copy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum source { SOURCE_FILES, SOURCE_RANDOM, SOURCE_SHAPES };
enum { OWNED_ALIGNMENT = 64 };

// The plan is built twice: the first pass counts the bytes that it will own (fused biases, what has
// to be rearranged, random weights), the second one has them and fills them.
struct builder {
    const struct model_config *m;
    const struct shard *s;
    const struct safetensors *files; // SOURCE_FILES
    enum source source;
    uint64_t seed;  // SOURCE_RANDOM
    bool *used;     // [tensors of files], SOURCE_FILES
    bool untied;    // the files have a head of their own, whatever the config says
    size_t skipped; // first bytes of names that begin with `prefix`, which the files leave out
    char prefix[TENSOR_MAP_NAME_BYTES];
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
    else if (t->row->turned)
        snprintf(text, n, "[%u, %u]", t->columns, t->rows);
    else
        snprintf(text, n, "[%u, %u]", t->rows, t->columns);
}

static bool shape_fits(const struct source_tensor *want, const struct tensor *t)
{
    if (want->row->rows == TENSOR_DIM_ONE)
        return t->n_dims == 1 && t->shape[0] == want->columns;
    bool turned = want->row->turned;
    return t->n_dims == 2 && t->shape[turned] == want->rows && t->shape[!turned] == want->columns;
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

static void name_it(const struct builder *b, struct source_tensor *t, uint32_t layer, uint32_t head)
{
    tensor_map_name(t->row, layer, head, t->name);
    if (b->skipped && strncmp(t->name, b->prefix, b->skipped) == 0)
        memmove(t->name, t->name + b->skipped, strlen(t->name + b->skipped) + 1);
}

// The scheme's tensor of a slot, on which nothing but the scheme decides.
static const struct tensor_row *row_of_slot(const struct builder *b, enum model_slot slot)
{
    for (uint32_t i = 0; i < tensor_map_model_count; i++)
        if (tensor_map_model[i].slot == slot &&
            tensor_map_model[i].schemes >> b->m->tensor_scheme & 1)
            return &tensor_map_model[i];
    return NULL;
}

// Checkpoints of base models, without their head, leave out the first word of every name.
static void find_prefix(struct builder *b)
{
    const struct tensor_row *row = row_of_slot(b, MODEL_SLOT_EMBED);
    if (!row)
        return;
    tensor_map_name(row, 0, 0, b->prefix);
    const char *dot = strchr(b->prefix, '.');
    if (dot && !safetensors_find(b->files, b->prefix) && safetensors_find(b->files, dot + 1))
        b->skipped = (size_t)(dot + 1 - b->prefix);
}

// A config that ties the head to the embedding is not believed where the files have both and they
// differ, as in transformers. Each rank looks at its own rows: equal ones serve either way.
static void find_untied(struct builder *b)
{
    const struct tensor_row *row[] = {
        row_of_slot(b, MODEL_SLOT_EMBED), row_of_slot(b, MODEL_SLOT_HEAD)};
    const struct tensor *t[2] = {0};
    struct shard_range mine = shard_vocab(b->m, b->s);
    for (int i = 0; i < 2 && row[i] && b->m->tied_head; i++) {
        struct source_tensor s = {.row = row[i]};
        name_it(b, &s, 0, 0);
        t[i] = safetensors_find(b->files, s.name);
    }
    if (!t[0] || !t[1] || t[0]->bytes != t[1]->bytes || t[0]->dtype != t[1]->dtype)
        return;
    size_t each = (size_t)(t[0]->bytes / b->m->vocab_size), from = mine.begin * each;
    b->untied = memcmp((const uint8_t *)t[0]->data + from, (const uint8_t *)t[1]->data + from,
                    mine.count * each) != 0;
}

static bool is_tied(const struct builder *b)
{
    return b->m->tied_head && !b->untied;
}

static enum status find(struct builder *b, struct source_tensor *t, uint32_t layer, uint32_t head)
{
    name_it(b, t, layer, head);
    t->rows = tensor_map_dim(b->m, t->row->rows);
    t->columns = tensor_map_dim(b->m, t->row->columns);
    if (b->source == SOURCE_FILES)
        return find_in_files(b, t);
    t->dtype = b->m->weight_dtype;
    return STATUS_OK;
}

// ---- cutting it --------------------------------------------------------------------------------

// A block of a tensor, in its logical order of rows and columns.
struct block {
    struct shard_range rows, columns;
};

static uint64_t block_bytes(const struct source_tensor *t, struct block x)
{
    return (uint64_t)x.rows.count * x.columns.count * dtype_bytes(t->dtype);
}

static void make_random(
    const struct builder *b, const struct source_tensor *t, struct block x, uint8_t *out)
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
    random_weights_fill(&a);
}

static void fill(
    const struct builder *b, const struct source_tensor *t, struct block x, uint8_t *out)
{
    if (!out || b->source == SOURCE_SHAPES)
        return;
    if (b->source == SOURCE_RANDOM)
        make_random(b, t, x, out);
    else
        weights_copy_block(
            &(struct weights_copy_source){t->data, t->dtype, t->rows, t->columns, t->row->turned},
            x.rows, x.columns, out);
}

static const uint8_t *in_place(
    const struct builder *b, const struct source_tensor *t, struct block x)
{
    if (b->source != SOURCE_FILES)
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
static void append_matrix(struct builder *b, const struct source_tensor *t,
    const struct shard_range *span, uint32_t n_spans, struct weight_slice *slice)
{
    bool by_columns = tensor_map_cuts_columns(t->row->cut);
    bool copied = b->source != SOURCE_FILES || t->row->turned ||
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
static void append_vector(struct builder *b, const struct source_tensor *t,
    const struct shard_range *span, uint32_t n_spans, struct weight_slice *slice)
{
    uint64_t size = dtype_bytes(t->dtype), before = slice->k * size;
    struct weight_slice_part *p = &slice->part[0];
    for (uint32_t i = 0; i < n_spans; i++)
        slice->k += span[i].count;
    if (n_spans == 1 && before == 0 && b->source == SOURCE_FILES) {
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
    if (t->row->rows == TENSOR_DIM_ONE)
        append_vector(b, t, span, n_spans, slice);
    else
        append_matrix(b, t, span, n_spans, slice);
    return STATUS_OK;
}

// The head with rows of length 1, in memory of ours.
static void normalise_head(struct builder *b, struct weight_slice *head)
{
    uint64_t size = dtype_bytes(head->dtype), row = head->k * size;
    uint8_t *out = take(b, head->n * row);
    check(head->n_parts == 1);
    for (uint32_t i = 0; out && b->source != SOURCE_SHAPES && i < head->n; i++) {
        const uint8_t *from = head->part[0].data;
        weights_copy_unit(
            head->dtype, from + i * head->part[0].row_stride_bytes, head->k, out + i * row);
    }
    head->part[0].data = out;
    head->part[0].row_stride_bytes = row;
}

// ---- the whole plan ----------------------------------------------------------------------------

// Which pipeline stages have a weight of the model: the first one embeds, the last one has the
// head, and with it the embedding where they are tied.
static bool stage_has(const struct builder *b, enum model_slot slot)
{
    bool first = b->s->layer_begin == 0, last = b->s->layer_end == b->m->n_layers;
    switch (slot) {
    case MODEL_SLOT_EMBED:
        return first || (last && is_tied(b));
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

static bool row_applies(const struct builder *b, const struct tensor_row *row, uint32_t layer)
{
    return row->schemes >> b->m->tensor_scheme & 1 &&
           (tensor_map_present(b->m, row->when, layer) ||
               (row->when == TENSOR_WHEN_UNTIED && b->untied));
}

// What a file may leave out.
static bool is_missing(const struct builder *b, struct source_tensor *t, uint32_t layer)
{
    if (t->row->when != TENSOR_WHEN_THERE)
        return false;
    name_it(b, t, layer, 0);
    return b->source != SOURCE_FILES || !safetensors_find(b->files, t->name);
}

// Appends the tensor to its slice, or the tensors of each head; `slice` is NULL where another
// stage has it.
static enum status add(
    struct builder *b, const struct tensor_row *row, uint32_t layer, struct weight_slice *slice)
{
    struct source_tensor t = {.row = row};
    struct shard whole = weights_plan_shard(b->m, 0, 1);
    struct shard_range mine = tensor_map_heads(b->m, b->s, row);
    struct shard_range all = tensor_map_heads(b->m, &whole, row);
    for (uint32_t head = 0; head < all.count && !is_missing(b, &t, layer); head++) {
        TRY(find(b, &t, layer, head));
        if (slice && head >= mine.begin && head < mine.begin + mine.count)
            TRY(append(b, &t, slice));
    }
    return STATUS_OK;
}

static enum status build_model(struct builder *b)
{
    struct weights_plan *p = b->plan;
    for (uint32_t i = 0; i < tensor_map_model_count; i++) {
        const struct tensor_row *row = &tensor_map_model[i];
        bool here = stage_has(b, (enum model_slot)row->slot);
        if (row_applies(b, row, 0))
            TRY(add(b, row, 0, here ? &p->slot[row->slot] : NULL));
    }
    if (is_tied(b) && stage_has(b, MODEL_SLOT_HEAD))
        p->slot[MODEL_SLOT_HEAD] = p->slot[MODEL_SLOT_EMBED];
    if (b->m->head_normalised && stage_has(b, MODEL_SLOT_HEAD))
        normalise_head(b, &p->slot[MODEL_SLOT_HEAD]);
    return STATUS_OK;
}

// The experts of a layer; `expert` is NULL where another stage has them.
static enum status build_experts(
    struct builder *b, uint32_t layer, struct weights_plan_expert *expert)
{
    for (uint32_t i = 0; i < tensor_map_expert_count; i++) {
        struct source_tensor t = {.row = &tensor_map_expert[i]};
        if (!row_applies(b, t.row, layer))
            continue;
        for (uint32_t e = 0; e < b->m->n_experts; e++) {
            TRY(find(b, &t, layer, e));
            if (expert && e >= b->s->expert_begin && e < b->s->expert_end)
                TRY(append(b, &t, &expert[e - b->s->expert_begin].slot[t.row->slot]));
        }
    }
    return STATUS_OK;
}

static enum status build_layer(struct builder *b, uint32_t layer)
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

static enum status build(struct builder *b)
{
    struct weights_plan *p = b->plan;
    b->offset = 0;
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
        if (!(i == MODEL_SLOT_HEAD && is_tied(b)))
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

static enum status open_plan(struct builder *b, struct weights_plan *out)
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
        find_prefix(b);
        find_untied(b);
    }
    enum status status = p.layer && p.experts && b->used ? STATUS_OK
                                                         : status_fail(b->err, STATUS_NO_MEMORY,
                                                               "no memory to plan the weights");
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
    free(p->experts);
    memset(p, 0, sizeof *p);
}
