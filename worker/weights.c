// SPDX-License-Identifier: Apache-2.0
#include "worker/weights.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

_Static_assert((int)WEIGHT_SLICE_PARTS_MAX == (int)KERNELS_WEIGHT_PARTS_MAX, "a slice is a source");

enum {
    PREFETCH_BYTES = 32 << 20, // between two looks at the clock
    REPORT_EVERY_US = 200000,
};

struct loading {
    struct weights *weights;
    const struct weights_plan *plan;
    const struct weights_progress *progress;
    uint64_t done, total, reported_us;
    uint32_t n_local_experts;
};

static void report(struct loading *l, bool last)
{
    uint64_t now = clock_now_us();
    if (!l->progress || (!last && now - l->reported_us < REPORT_EVERY_US))
        return;
    l->reported_us = now;
    l->progress->report(l->progress->user, last ? l->total : l->done, l->total);
}

// ---- into memory -------------------------------------------------------------------------------

// Maps [p, p + n) with its pages present. Kernels before 5.14 lack the advice: there one byte of
// each page is read.
static void populate(const uint8_t *p, size_t n)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)p & ~(page - 1), end = (uintptr_t)p + n;
#ifdef MADV_POPULATE_READ
    if (madvise((void *)begin, end - begin, MADV_POPULATE_READ) == 0)
        return;
#endif
    for (uintptr_t at = (uintptr_t)p; at < end; at = (at & ~(page - 1)) + page)
        (void)*(const volatile uint8_t *)at;
}

// Rows that lie far apart are fetched one by one, so that a rank reads its columns only.
static void prefetch_part(
    struct loading *l, const struct weight_slice_part *part, uint64_t row_bytes)
{
    const uint8_t *data = part->data;
    bool sparse = part->row_stride_bytes > row_bytes + 16384;
    uint64_t rows_each = sparse ? 1 : PREFETCH_BYTES / (part->row_stride_bytes + 1) + 1;
    for (uint64_t row = 0; row < part->n_rows; row += rows_each) {
        uint64_t n = part->n_rows - row < rows_each ? part->n_rows - row : rows_each;
        populate(data + row * part->row_stride_bytes,
            (size_t)((n - 1) * part->row_stride_bytes + row_bytes));
        l->done += n * row_bytes;
        report(l, false);
    }
}

// ---- handles -----------------------------------------------------------------------------------

static struct weight_source source_of(const struct weight_slice *slice)
{
    struct weight_source s = {.format = WEIGHT_DENSE,
        .dtype = slice->dtype,
        .n = slice->n,
        .k = slice->k,
        .n_parts = slice->n_parts};
    for (uint32_t i = 0; i < slice->n_parts; i++)
        s.part[i] = (struct weight_part){
            slice->part[i].data, slice->part[i].row_stride_bytes, slice->part[i].n_rows};
    return s;
}

// The draws of a slice, whose parts are all drawn or all there; `part` may be NULL, to count them.
static uint32_t collect_draws(const struct weights_plan *plan, const struct weight_slice *slice,
    struct weight_draw_part *part)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < slice->n_parts; i++) {
        uint32_t at = weights_plan_first_draw(plan, slice->part[i].data);
        for (uint32_t rows = 0; at < plan->n_draws && rows < slice->part[i].n_rows; at++, n++) {
            const struct weights_plan_draw *d = &plan->draw[at];
            check(d->n_columns == slice->k);
            if (part)
                part[n] = (struct weight_draw_part){
                    d->key, d->row_begin, d->column_begin, d->n_rows, d->center, d->spread};
            rows += d->n_rows;
        }
    }
    return n;
}

static enum status bind_drawn(struct loading *l, const struct weight_slice *slice, uint32_t n_draws,
    struct weight **out, struct error *err)
{
    const struct kernels *k = l->weights->kernels;
    struct weight_draw_part *part = calloc(n_draws, sizeof *part);
    if (!part)
        return status_fail(err, STATUS_NO_MEMORY, "no memory to draw a weight");
    collect_draws(l->plan, slice, part);
    struct weight_draw_args a = {
        .dtype = slice->dtype, .n = slice->n, .k = slice->k, .n_parts = n_draws, .part = part};
    enum status s = k->weight_draw(l->weights->device, &a, out, err);
    free(part);
    l->done += (uint64_t)slice->n * slice->k * dtype_bytes(slice->dtype);
    report(l, false);
    return s;
}

static enum status bind(
    struct loading *l, const struct weight_slice *slice, struct weight **out, struct error *err)
{
    if (slice->n_parts == 0)
        return STATUS_OK;
    uint32_t n_draws = collect_draws(l->plan, slice, NULL);
    if (n_draws)
        return bind_drawn(l, slice, n_draws, out, err);
    struct weight_source source = source_of(slice);
    for (uint32_t i = 0; i < slice->n_parts; i++)
        prefetch_part(l, &slice->part[i], (uint64_t)slice->k * dtype_bytes(slice->dtype));
    return l->weights->kernels->weight_make(l->weights->device, &source, out, err);
}

static float element(const void *data, enum dtype t, uint32_t i)
{
    if (t == DTYPE_F32)
        return ((const float *)data)[i];
    uint16_t h = ((const uint16_t *)data)[i];
    return t == DTYPE_BF16 ? dtype_f32_from_bf16(h) : dtype_f32_from_f16(h);
}

// A vector as f32 in device memory.
static enum status bind_f32(
    struct weights *w, const struct weight_slice *slice, float **out, struct error *err)
{
    if (slice->n_parts == 0)
        return STATUS_OK;
    check(slice->n == 1 && slice->k == w->hidden_dim);
    uint64_t bytes = (uint64_t)slice->k * sizeof(float);
    float *host = malloc(bytes);
    *out = w->kernels->mem_take(w->device, bytes);
    if (!host || !*out) {
        free(host);
        return status_fail(err, STATUS_NO_MEMORY, "no memory for a bias of %u", slice->k);
    }
    for (uint32_t i = 0; i < slice->k; i++)
        host[i] = element(slice->part[0].data, slice->dtype, i);
    w->kernels->copy_in(w->device, *out, host, bytes);
    enum status s = w->kernels->device_sync(w->device, err);
    free(host);
    return s;
}

static enum status bind_experts(struct loading *l, const struct weights_plan_layer *plan,
    struct layer_weights *out, struct error *err)
{
    if (!plan->expert)
        return STATUS_OK;
    uint32_t n = l->n_local_experts;
    out->expert_in = calloc(n, sizeof *out->expert_in);
    out->expert_out = calloc(n, sizeof *out->expert_out);
    if (!out->expert_in || !out->expert_out)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for %u experts", n);
    out->n_experts = n;
    for (uint32_t i = 0; i < n; i++) {
        TRY(bind(l, &plan->expert[i].slot[EXPERT_SLOT_IN], &out->expert_in[i], err));
        TRY(bind(l, &plan->expert[i].slot[EXPERT_SLOT_OUT], &out->expert_out[i], err));
    }
    return STATUS_OK;
}

static enum status bind_layer(struct loading *l, const struct weights_plan_layer *plan,
    struct layer_weights *out, struct error *err)
{
    for (int i = 0; i < LAYER_SLOT_COUNT; i++)
        TRY(bind(l, &plan->slot[i], &out->slot[i], err));
    TRY(bind_experts(l, plan, out, err));
    TRY(bind_f32(l->weights, &plan->slot[LAYER_SLOT_O_BIAS], &out->o_bias_f32, err));
    return bind_f32(l->weights, &plan->slot[LAYER_SLOT_MLP_OUT_BIAS], &out->mlp_out_bias_f32, err);
}

// The handle of an earlier slot that has the same bytes: the embedding, where the head is tied.
static struct weight *bound_already(
    const struct weights *w, const struct weights_plan *plan, int slot)
{
    const struct weight_slice *mine = &plan->slot[slot];
    for (int i = 0; i < slot && mine->n_parts; i++) {
        const struct weight_slice *s = &plan->slot[i];
        if (s->n_parts == 1 && mine->n_parts == 1 && s->part[0].data == mine->part[0].data &&
            s->n == mine->n && s->k == mine->k && s->dtype == mine->dtype)
            return w->slot[i];
    }
    return NULL;
}

static enum status bind_all(struct loading *l, const struct weights_plan *plan, struct error *err)
{
    for (int i = 0; i < MODEL_SLOT_COUNT; i++) {
        struct weight **slot = &l->weights->slot[i];
        *slot = bound_already(l->weights, plan, i);
        if (!*slot)
            TRY(bind(l, &plan->slot[i], slot, err));
    }
    for (uint32_t i = 0; i < plan->n_layers; i++)
        TRY(bind_layer(l, &plan->layer[i], &l->weights->layer[i], err));
    return STATUS_OK;
}

static uint64_t slice_device_bytes(const struct kernels *kernels, const struct weight_slice *slice)
{
    struct weight_source s = source_of(slice);
    return s.n_parts ? kernels->weight_bytes(&s) : 0;
}

uint64_t weights_bytes(
    const struct kernels *kernels, const struct weights_plan *plan, bool tied_head)
{
    uint64_t n = 0;
    for (int i = 0; i < MODEL_SLOT_COUNT; i++)
        if (!(i == MODEL_SLOT_HEAD && tied_head))
            n += slice_device_bytes(kernels, &plan->slot[i]);
    for (uint32_t k = 0; k < plan->n_layers; k++) {
        const struct weights_plan_layer *layer = &plan->layer[k];
        for (int i = 0; i < LAYER_SLOT_COUNT; i++)
            n += slice_device_bytes(kernels, &layer->slot[i]);
        // What bind_f32 makes of them.
        n += layer->slot[LAYER_SLOT_O_BIAS].k * sizeof(float);
        n += layer->slot[LAYER_SLOT_MLP_OUT_BIAS].k * sizeof(float);
        for (uint32_t e = 0; layer->expert && e < plan->n_local_experts; e++)
            for (int i = 0; i < EXPERT_SLOT_COUNT; i++)
                n += slice_device_bytes(kernels, &layer->expert[e].slot[i]);
    }
    return n;
}

enum status weights_open(const struct kernels *kernels, struct device *device,
    const struct weights_plan *plan, uint32_t hidden_dim, const struct weights_progress *progress,
    struct weights *out, struct error *err)
{
    struct weights w = {
        .n_layers = plan->n_layers, .kernels = kernels, .device = device, .hidden_dim = hidden_dim};
    w.layer = calloc(plan->n_layers ? plan->n_layers : 1, sizeof *w.layer);
    if (!w.layer)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for %u layers", plan->n_layers);
    uint64_t begin_us = clock_now_us();
    struct loading l = {.weights = &w,
        .plan = plan,
        .progress = progress,
        .total = plan->bytes,
        .n_local_experts = plan->n_local_experts};
    enum status s = bind_all(&l, plan, err);
    if (s == STATUS_OK && plan->n_draws)
        s = kernels->device_sync(device, err);
    if (s != STATUS_OK) {
        weights_close(&w);
        return s;
    }
    report(&l, true);
    log_info("weights: %.1f MiB in memory after %.0f ms", (double)plan->bytes / (1 << 20),
        (double)(clock_now_us() - begin_us) / 1e3);
    *out = w;
    return STATUS_OK;
}

void weights_close(struct weights *w)
{
    if (!w->layer)
        return;
    for (int i = 0; i < MODEL_SLOT_COUNT; i++) {
        bool shared = false;
        for (int k = 0; k < i; k++)
            shared |= w->slot[k] == w->slot[i];
        if (!shared)
            w->kernels->weight_free(w->device, w->slot[i]);
    }
    for (uint32_t k = 0; k < w->n_layers; k++) {
        struct layer_weights *layer = &w->layer[k];
        for (int i = 0; i < LAYER_SLOT_COUNT; i++)
            w->kernels->weight_free(w->device, layer->slot[i]);
        for (uint32_t i = 0; i < layer->n_experts; i++) {
            w->kernels->weight_free(w->device, layer->expert_in[i]);
            w->kernels->weight_free(w->device, layer->expert_out[i]);
        }
        free(layer->expert_in);
        free(layer->expert_out);
        w->kernels->mem_give(w->device, layer->o_bias_f32, (uint64_t)w->hidden_dim * sizeof(float));
        w->kernels->mem_give(
            w->device, layer->mlp_out_bias_f32, (uint64_t)w->hidden_dim * sizeof(float));
    }
    free(w->layer);
    *w = (struct weights){0};
}
