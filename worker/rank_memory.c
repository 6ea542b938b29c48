// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"
#include "model/rope.h"
#include "worker/rank_internal.h"

enum { HOST_PERCENT = 50, DEVICE_PERCENT = 90 };

uint32_t rank_memory_sharers(const struct rank *r)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->info.size; i++)
        n += r->info.host[i].id == r->info.host[r->info.rank].id;
    return n;
}

// What a rank needs of its device beside the KV cache.
struct needs {
    uint64_t weights, work;
};

static enum status measure(const struct rank *r, struct needs *out, struct error *err)
{
    struct weights_plan shapes;
    TRY(weights_plan_shapes(&r->model, &r->shard, &shapes, err));
    out->weights = weights_bytes(r->kernels, &shapes, r->model.tied_head);
    weights_plan_close(&shapes);
    struct forward_args forward = {.kernels = r->kernels,
        .model = &r->model,
        .shard = &r->shard,
        .activation = r->activation,
        .rows_max = r->options.max_num_batched_tokens};
    out->work = forward_bytes(&forward) + sampler_bytes(&r->model, &r->shard);
    return STATUS_OK;
}

// Memory of the device for the KV cache. What does not fit is said in bytes, with what would.
static enum status device_room(const struct rank *r, uint64_t *room, struct error *err)
{
    struct needs n;
    uint64_t left, total, wish = r->options.kv_cache_bytes;
    char weights[32], work[32], have[32], kv[32];
    TRY(measure(r, &n, err));
    r->kernels->mem_info(r->device, &left, &total);
    TRY(r->kernels->device_sync(r->device, err));
    bill_text(n.weights, weights, sizeof weights);
    bill_text(n.work, work, sizeof work);
    bill_text(left, have, sizeof have);
    if (n.weights + n.work >= left)
        return status_fail(err, STATUS_NO_MEMORY,
            "weights (%s) and activations (%s) do not fit into the %s that are free on the device: "
            "%llu bytes are missing; give a larger --tensor-parallel-degree or a smaller "
            "--max-num-batched-tokens",
            weights, work, have, (unsigned long long)(n.weights + n.work - left + 1));
    *room = left - n.weights - n.work;
    if (wish > *room)
        return status_fail(err, STATUS_NO_MEMORY,
            "a KV cache of %s beside weights (%s) and activations (%s) does not fit into the %s "
            "that are free on the device: %llu bytes are missing; --kv-cache-memory %llu would fit",
            bill_text(wish, kv, sizeof kv), weights, work, have, (unsigned long long)(wish - *room),
            (unsigned long long)*room);
    log_info("device memory: %s free; weights %s, activations %s, %s left for the KV cache", have,
        weights, work, bill_text(*room, kv, sizeof kv));
    return STATUS_OK;
}

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
