// SPDX-License-Identifier: Apache-2.0
#include "model/rope.h"
#include "worker/rank_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    HOST_PERCENT = 50,
    DEVICE_PERCENT = 90,
    GROUP_SLACK_BYTES = 4 << 20, // of a group on devices: pads, flags, whole pages of the driver
    SMALL_BYTES = 1 << 20,       // tables and numbers that nobody counts one by one
    OPS_PER_LAYER = 16,          // at most, and about as many around the layers
    ROWS_MIN = 16,               // of a step, in what is proposed
};

uint32_t rank_memory_sharers(const struct rank *r)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->info.size; i++)
        n += r->info.host[i].id == r->info.host[r->info.rank].id;
    return n;
}

// ---- what a rank needs --------------------------------------------------------------------------

// For steps of which the forward pass needs `forward` bytes of it.
static uint64_t heap_bytes(const struct rank *r, uint64_t forward)
{
    return forward + sampler_heap_bytes(&r->model, &r->shard) + RANK_HEAP_SLACK_BYTES;
}

uint64_t rank_memory_heap_bytes(const struct rank *r)
{
    return heap_bytes(
        r, forward_heap_bytes(&r->model, &r->shard, r->options.max_num_batched_tokens));
}

static uint32_t at_least(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

// The longest sequence there can be: what is asked for, or what the model declares.
static uint32_t length_bound(const struct rank *r)
{
    uint32_t longest = rope_length_max(&r->model), own = rope_length_default(&r->model);
    longest = longest < LIMIT_CONTEXT_TOKENS ? longest : LIMIT_CONTEXT_TOKENS;
    uint32_t wished = r->options.max_model_len ? r->options.max_model_len : own;
    return wished < longest ? wished : longest;
}

// Columns of the widest matrix that is multiplied with, and rows of the widest gate and up.
static void widths(const struct weights_plan *p, struct mem_needs_args *a)
{
    for (uint32_t i = 0; i < p->n_layers; i++) {
        const struct weights_plan_layer *layer = &p->layer[i];
        for (int s = 0; s < LAYER_SLOT_COUNT; s++)
            a->k_max = layer->slot[s].n > 1 ? at_least(a->k_max, layer->slot[s].k) : a->k_max;
        a->n_act = at_least(a->n_act, layer->slot[LAYER_SLOT_MLP_IN].n);
        for (uint32_t e = 0; layer->expert && e < p->n_local_experts; e++) {
            a->k_max = at_least(a->k_max, layer->expert[e].slot[EXPERT_SLOT_OUT].k);
            a->n_act = at_least(a->n_act, layer->expert[e].slot[EXPERT_SLOT_IN].n);
        }
    }
}

static void measure_ops(
    const struct rank *r, const struct weights_plan *shapes, uint32_t rows, struct rank_bill *bill)
{
    uint32_t length = length_bound(r), block = r->options.block_tokens;
    struct mem_needs_args a = {.n_rows = rows,
        .n_seqs = r->options.max_num_seqs,
        .n_tables = r->options.max_num_seqs * r->model.n_kv_groups * ((length + block - 1) / block),
        .n_slots = r->options.max_num_seqs,
        .vocab_size = r->model.vocab_size,
        .head_dim = r->model.head_dim,
        .n_used = r->model.n_experts ? r->model.n_experts_per_token : 0,
        .ids_max = length};
    struct mem_needs n = {0};
    if (!r->options.enforce_eager)
        a.n_ops = OPS_PER_LAYER * (shapes->n_layers + 1);
    widths(shapes, &a);
    if (r->kernels->mem_needs)
        r->kernels->mem_needs(r->device, &a, &n);
    bill->workspace = n.workspace + n.batch;
    bill->samplers = n.samplers + sampler_bytes(&r->model, &r->shard);
    bill->graphs = n.graphs;
}

// All but the weights, for steps of so many rows.
static void measure_rows(
    const struct rank *r, const struct weights_plan *shapes, uint32_t rows, struct rank_bill *bill)
{
    struct forward_args forward = {.kernels = r->kernels,
        .model = &r->model,
        .shard = &r->shard,
        .activation = r->activation,
        .rows_max = rows};
    uint64_t heap = forward_heap_bytes(&r->model, &r->shard, rows);
    bill->activations = forward_bytes(&forward) + SMALL_BYTES;
    bill->heap = 0;
    if (r->info.size > 1) {
        bill->activations -= heap;
        bill->heap = heap_bytes(r, heap) + GROUP_SLACK_BYTES;
    }
    measure_ops(r, shapes, rows, bill);
}

static uint64_t sum_of(const struct rank_bill *b)
{
    return b->weights + b->activations + b->samplers + b->workspace + b->heap + b->graphs;
}

// The most rows of a step with which this rank alone fits, halved again and again; 0: none.
static uint32_t rows_that_fit(const struct rank *r, const struct weights_plan *shapes)
{
    struct rank_bill b = r->bill_of_device;
    for (uint32_t rows = r->options.max_num_batched_tokens / 2; rows >= ROWS_MIN; rows /= 2) {
        measure_rows(r, shapes, rows, &b);
        if (sum_of(&b) < b.free)
            return rows;
    }
    return 0;
}

enum status rank_memory_measure(struct rank *r, struct error *err)
{
    struct weights_plan shapes;
    struct rank_bill b = {.host = r->info.host[r->info.rank].id};
    if (!r->kernels->device_memory)
        return STATUS_OK;
    TRY(weights_plan_shapes(&r->model, &r->shard, &shapes, err));
    b.weights = weights_bytes(r->kernels, &shapes, r->model.tied_head);
    r->kernels->device_uuid(r->device, b.uuid);
    r->kernels->mem_info(r->device, &b.free, &b.total);
    measure_rows(r, &shapes, r->options.max_num_batched_tokens, &b);
    r->bill_of_device = b;
    r->rows_that_fit = sum_of(&b) >= b.free ? rows_that_fit(r, &shapes) : 0;
    weights_plan_close(&shapes);
    return r->kernels->device_sync(r->device, err);
}

// ---- what ranks leave each other ----------------------------------------------------------------

enum status rank_memory_exchange(struct rank *r, struct error *err)
{
    struct bootstrap *b = r->bootstrap;
    const struct rank_bill *mine = &r->bill_of_device;
    r->share = (struct rank_share){.n_ranks = 1, .free = mine->free, .needs = sum_of(mine)};
    if (b->size == 1 || !r->kernels->device_memory)
        return STATUS_OK;
    struct rank_bill *all = calloc(b->size, sizeof *all);
    if (!all)
        return status_fail(err, STATUS_NO_MEMORY, "no memory to start a group");
    enum status s = b->all_gather(b, mine, sizeof *mine, all, err);
    for (uint32_t i = 0; s == STATUS_OK && i < b->size; i++) {
        bool same =
            all[i].host == mine->host && memcmp(all[i].uuid, mine->uuid, sizeof mine->uuid) == 0;
        if (i == r->info.rank || !same)
            continue;
        r->share.n_ranks++;
        r->share.needs += sum_of(&all[i]);
        r->share.free = all[i].free < r->share.free ? all[i].free : r->share.free;
    }
    free(all);
    return s;
}

// ---- what is said -------------------------------------------------------------------------------

// "weights 1.1 GiB, activations 2.0 MiB, ..."
static void describe(const struct rank *r, char *text, size_t n)
{
    const struct rank_bill *b = &r->bill_of_device;
    const struct {
        const char *name;
        uint64_t bytes;
    } lines[] = {{"weights", b->weights}, {"activations", b->activations},
        {"workspace", b->workspace}, {"samplers", b->samplers}, {"symmetric heap", b->heap},
        {"graphs", b->graphs}};
    size_t used = 0;
    char bytes[32];
    text[0] = '\0';
    for (size_t i = 0; i < sizeof lines / sizeof *lines && used < n; i++)
        if (lines[i].bytes > 0)
            used += (size_t)snprintf(text + used, n - used, "%s%s %s", used ? ", " : "",
                lines[i].name, bill_text(lines[i].bytes, bytes, sizeof bytes));
}

// "free on the device", with whom this rank shares it.
static void describe_room(const struct rank *r, char *text, size_t n)
{
    char have[32];
    bill_text(r->share.free, have, sizeof have);
    if (r->share.n_ranks > 1)
        snprintf(text, n, "%s that are free on the device, which %u ranks share", have,
            r->share.n_ranks);
    else
        snprintf(text, n, "%s that are free on the device", have);
}

static enum status refuse_model(const struct rank *r, struct error *err)
{
    char needs[256], room[96], advice[96];
    describe(r, needs, sizeof needs);
    describe_room(r, room, sizeof room);
    if (r->share.n_ranks > 1)
        snprintf(advice, sizeof advice, "give each rank a device of its own");
    else if (r->rows_that_fit)
        snprintf(advice, sizeof advice, "--max-num-batched-tokens %u would fit", r->rows_that_fit);
    else
        snprintf(advice, sizeof advice,
            "give a larger --tensor-parallel-degree or a smaller --max-num-seqs");
    return status_fail(err, STATUS_NO_MEMORY,
        "%s do not fit into the %s: %llu bytes are missing; %s", needs, room,
        (unsigned long long)(r->share.needs - r->share.free + 1), advice);
}

// Memory of the device for the KV cache of one rank. What does not fit is said in bytes, with what
// would.
static enum status device_room(const struct rank *r, uint64_t *room, struct error *err)
{
    uint64_t wish = r->options.kv_cache_bytes;
    char needs[256], have[96], kv[32];
    if (r->share.needs >= r->share.free)
        return refuse_model(r, err);
    *room = (r->share.free - r->share.needs) / r->share.n_ranks;
    if (wish <= *room)
        return STATUS_OK;
    describe(r, needs, sizeof needs);
    describe_room(r, have, sizeof have);
    return status_fail(err, STATUS_NO_MEMORY,
        "a KV cache of %s beside %s does not fit into the %s: %llu bytes are missing; "
        "--kv-cache-memory %llu would fit",
        bill_text(wish, kv, sizeof kv), needs, have, (unsigned long long)(wish - *room),
        (unsigned long long)*room);
}

void rank_memory_print(const struct rank *r, char *text, size_t n)
{
    const struct rank_bill *b = &r->bill_of_device;
    char needs[256], room[96], kv[32], total[32], left[32];
    text[0] = '\0';
    if (!r->kernels->device_memory)
        return;
    describe(r, needs, sizeof needs);
    describe_room(r, room, sizeof room);
    uint64_t all = r->share.needs + r->info.kv_bytes * r->share.n_ranks;
    snprintf(text, n, "memory: %s, KV cache %s (%u tokens); of the %s (%s in all) %s stay free",
        needs, bill_text(r->info.kv_bytes, kv, sizeof kv), r->n_blocks * r->options.block_tokens,
        room, bill_text(b->total, total, sizeof total),
        bill_text(r->share.free > all ? r->share.free - all : 0, left, sizeof left));
}

// ---- the KV cache -------------------------------------------------------------------------------

enum status rank_memory_size(struct rank *r, struct error *err)
{
    const struct rank_options *o = &r->options;
    uint32_t longest = rope_length_max(&r->model);
    if (longest > LIMIT_CONTEXT_TOKENS)
        longest = LIMIT_CONTEXT_TOKENS;
    if (o->max_model_len > longest)
        return status_fail(err, STATUS_TOO_LARGE,
            "--max-model-len %u: this model can be served with at most %u tokens", o->max_model_len,
            longest);
    uint32_t length = rope_length_default(&r->model);
    struct kv_cache_wish wish = {.budget_bytes = o->kv_cache_bytes,
        .percent = o->kv_cache_percent,
        .available_bytes = r->info.host[r->info.rank].available_bytes,
        .default_percent = HOST_PERCENT,
        .n_sharing = rank_memory_sharers(r),
        .max_num_seqs = o->max_num_seqs,
        .max_model_len = o->max_model_len,
        .default_model_len = length < longest ? length : longest};
    if (r->kernels->device_memory) {
        TRY(device_room(r, &wish.available_bytes, err));
        wish.default_percent = DEVICE_PERCENT;
        wish.n_sharing = 1;
    }
    r->bill = bill_kv(&r->model, &r->shard, r->info.kv_dtype, o->block_tokens);
    return kv_cache_size(&r->bill, &wish, &r->n_blocks, &r->info.limits.context_tokens, err);
}
