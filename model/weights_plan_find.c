// SPDX-License-Identifier: Apache-2.0
// The tensors of a model directory by their names, and whether they are what the config asks for.
#include "model/weights_plan_internal.h"

#include <stdio.h>
#include <string.h>

static void shape_text(const struct tensor *t, char *text, size_t n)
{
    size_t used = (size_t)snprintf(text, n, "[");
    for (uint32_t i = 0; i < t->n_dims && used < n; i++)
        used += (size_t)snprintf(
            text + used, n - used, i ? ", %llu" : "%llu", (unsigned long long)t->shape[i]);
    if (used < n)
        snprintf(text + used, n - used, "]");
}

static void wanted_text(const struct weights_plan_tensor *t, char *text, size_t n)
{
    if (t->row->rows == TENSOR_DIM_ONE)
        snprintf(text, n, "[%u]", t->columns);
    else if (t->row->turned)
        snprintf(text, n, "[%u, %u]", t->columns, t->rows);
    else
        snprintf(text, n, "[%u, %u]", t->rows, t->columns);
}

static bool shape_fits(const struct weights_plan_tensor *want, const struct tensor *t)
{
    if (want->row->rows == TENSOR_DIM_ONE)
        return t->n_dims == 1 && t->shape[0] == want->columns;
    bool turned = want->row->turned;
    return t->n_dims == 2 && t->shape[turned] == want->rows && t->shape[!turned] == want->columns;
}

static enum status find_in_files(struct weights_plan_builder *b, struct weights_plan_tensor *t)
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

static void name_it(const struct weights_plan_builder *b, struct weights_plan_tensor *t,
    uint32_t layer, uint32_t head)
{
    tensor_map_name(t->row, layer, head, t->name);
    if (b->skipped && strncmp(t->name, b->prefix, b->skipped) == 0)
        memmove(t->name, t->name + b->skipped, strlen(t->name + b->skipped) + 1);
}

// The scheme's tensor of a slot, on which nothing but the scheme decides.
static const struct tensor_row *row_of_slot(
    const struct weights_plan_builder *b, enum model_slot slot)
{
    for (uint32_t i = 0; i < tensor_map_model_count; i++)
        if (tensor_map_model[i].slot == slot &&
            tensor_map_model[i].schemes >> b->m->tensor_scheme & 1)
            return &tensor_map_model[i];
    return NULL;
}

// Checkpoints of base models, without their head, leave out the first word of every name.
void weights_plan_find_prefix(struct weights_plan_builder *b)
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
void weights_plan_find_untied(struct weights_plan_builder *b)
{
    const struct tensor_row *row[] = {
        row_of_slot(b, MODEL_SLOT_EMBED), row_of_slot(b, MODEL_SLOT_HEAD)};
    const struct tensor *t[2] = {0};
    struct shard_range mine = shard_vocab(b->m, b->s);
    for (int i = 0; i < 2 && row[i] && b->m->tied_head; i++) {
        struct weights_plan_tensor s = {.row = row[i]};
        name_it(b, &s, 0, 0);
        t[i] = safetensors_find(b->files, s.name);
    }
    if (!t[0] || !t[1] || t[0]->bytes != t[1]->bytes || t[0]->dtype != t[1]->dtype)
        return;
    size_t each = (size_t)(t[0]->bytes / b->m->vocab_size), from = mine.begin * each;
    b->untied = memcmp((const uint8_t *)t[0]->data + from, (const uint8_t *)t[1]->data + from,
                    mine.count * each) != 0;
}

bool weights_plan_is_tied(const struct weights_plan_builder *b)
{
    return b->m->tied_head && !b->untied;
}

enum status weights_plan_find(
    struct weights_plan_builder *b, struct weights_plan_tensor *t, uint32_t layer, uint32_t head)
{
    name_it(b, t, layer, head);
    t->rows = tensor_map_dim(b->m, t->row->rows);
    t->columns = tensor_map_dim(b->m, t->row->columns);
    if (b->source == WEIGHTS_PLAN_FILES)
        return find_in_files(b, t);
    t->dtype = b->m->weight_dtype;
    return STATUS_OK;
}
// What a file may leave out.
bool weights_plan_is_missing(
    const struct weights_plan_builder *b, struct weights_plan_tensor *t, uint32_t layer)
{
    if (t->row->when != TENSOR_WHEN_THERE)
        return false;
    name_it(b, t, layer, 0);
    return b->source != WEIGHTS_PLAN_FILES || !safetensors_find(b->files, t->name);
}
// A weight that nobody computes with means that we would compute something else than its authors.
enum status weights_plan_refuse_unused(const struct weights_plan_builder *b)
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
