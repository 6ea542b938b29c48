// SPDX-License-Identifier: Apache-2.0
#include "worker/rank.h"

#include "base/check.h"
#include "base/hash.h"
#include "base/log.h"
#include "model/arch.h"
#include "model/rope.h"
#include "model/text_file.h"
#include "worker/rank_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_SEQS = 256,
    DEFAULT_BATCHED_TOKENS = 512,
    DEFAULT_BLOCK_TOKENS = 16,
    RING_BYTES = 2 * LIMIT_PLAN_BYTES,
};
_Static_assert((RING_BYTES & (RING_BYTES - 1)) == 0, "a power of two");

// ---- agreement ---------------------------------------------------------------------------------

struct verdict {
    int32_t status;
    char text[ERROR_TEXT_BYTES];
};

// Ends a phase: every rank learns whether all of them got through it, and why not.
static enum status agree(struct rank *r, enum status mine, struct error *err)
{
    struct bootstrap *b = r->bootstrap;
    if (b->size == 1)
        return mine;
    struct verdict v = {.status = (int32_t)mine};
    struct verdict *all = calloc(b->size, sizeof *all);
    if (!all)
        return status_fail(err, STATUS_NO_MEMORY, "no memory to start a group");
    if (mine != STATUS_OK)
        memcpy(v.text, err->text, sizeof v.text);
    enum status s = b->all_gather(b, &v, sizeof v, all, err);
    for (uint32_t i = 0; s == STATUS_OK && i < b->size; i++)
        if (all[i].status != STATUS_OK) {
            all[i].text[ERROR_TEXT_BYTES - 1] = '\0';
            s = status_fail(err, (enum status)all[i].status, "%s", all[i].text);
        }
    free(all);
    return s;
}

// ---- phase 1: what is to be served -------------------------------------------------------------

static void set_defaults(struct rank_options *o)
{
    o->device = o->device ? o->device : "cpu";
    o->isa = o->isa ? o->isa : "auto";
    o->kv_cache_dtype = o->kv_cache_dtype ? o->kv_cache_dtype : "auto";
    o->dtype = o->dtype ? o->dtype : "auto";
    o->max_num_seqs = o->max_num_seqs ? o->max_num_seqs : DEFAULT_SEQS;
    o->block_tokens = o->block_tokens ? o->block_tokens : DEFAULT_BLOCK_TOKENS;
    if (!o->max_num_batched_tokens)
        o->max_num_batched_tokens = DEFAULT_BATCHED_TOKENS;
}

static enum status check_options(const struct rank_options *o, struct error *err)
{
    uint32_t block = o->block_tokens;
    if (o->max_num_seqs > LIMIT_SLOTS || o->max_num_batched_tokens > LIMIT_STEP_TOKENS)
        return status_fail(err, STATUS_TOO_LARGE,
            "--max-num-seqs %u and --max-num-batched-tokens %u: expected at most %d and %d",
            o->max_num_seqs, o->max_num_batched_tokens, LIMIT_SLOTS, LIMIT_STEP_TOKENS);
    if (block < 8 || block > LIMIT_BLOCK_TOKENS || (block & (block - 1)))
        return status_fail(err, STATUS_INVALID,
            "--block-size %u: expected a power of two from 8 to %d", block, LIMIT_BLOCK_TOKENS);
    return STATUS_OK;
}

// "f32", "f16", "bf16"; `automatic` for "auto".
static enum status dtype_option(
    const char *option, const char *text, enum dtype automatic, enum dtype *out, struct error *err)
{
    static const enum dtype choices[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    if (strcmp(text, "auto") == 0) {
        *out = automatic;
        return STATUS_OK;
    }
    for (size_t i = 0; i < COUNT_OF(choices); i++)
        if (strcmp(text, dtype_name(choices[i])) == 0) {
            *out = choices[i];
            return STATUS_OK;
        }
    return status_fail(
        err, STATUS_INVALID, "--%s %s: expected auto, f32, f16 or bf16", option, text);
}

// "auto" is a GPU where one can be used.
static enum status find_kernels(struct rank *r, struct error *err)
{
    if (strcmp(r->options.device, "auto") != 0)
        return kernels_find(r->options.device, &r->kernels, err);
    if (kernels_find("cuda", &r->kernels, err) == STATUS_OK)
        return STATUS_OK;
    log_info("computing on the CPU: %s", err->text);
    return kernels_find("cpu", &r->kernels, err);
}

static enum status read_model(struct rank *r, struct error *err)
{
    set_defaults(&r->options);
    TRY(check_options(&r->options, err));
    TRY(arch_read(r->options.model_dir, &r->model, NULL, err));
    TRY(shard_check(&r->model, r->bootstrap->size, err));
    r->shard = weights_plan_shard(&r->model, r->bootstrap->rank, r->bootstrap->size);
    if (r->options.expert_parallel)
        TRY(shard_place_experts(&r->model, &r->shard, err));
    TRY(forward_supports(&r->model, &r->shard, err));
    enum dtype dtype = DTYPE_COUNT;
    TRY(dtype_option("dtype", r->options.dtype, r->model.weight_dtype, &dtype, err));
    if (r->options.random_weights)
        r->model.weight_dtype = dtype;
    else if (dtype != r->model.weight_dtype)
        return status_fail(err, STATUS_UNSUPPORTED,
            "--dtype %s: weights are used as they are stored, and config.json says %s; expected "
            "auto",
            r->options.dtype, dtype_name(r->model.weight_dtype));
    TRY(find_kernels(r, err));
    r->activation = r->kernels->activation_for(r->model.weight_dtype);
    TRY(dtype_option(
        "kv-cache-dtype", r->options.kv_cache_dtype, r->activation, &r->info.kv_dtype, err));
    if (r->options.random_weights)
        return STATUS_OK;
    return safetensors_open_dir(r->options.model_dir, &r->files, err);
}

// Names, types and shapes of all tensors, behind the text of config.json.
static enum status hash_model(struct rank *r, struct error *err)
{
    char path[TEXT_FILE_PATH_BYTES];
    char *text = NULL;
    size_t n = 0;
    if (!arch_config_path(path, r->options.model_dir))
        return status_fail(err, STATUS_INVALID, "the path of the model directory is too long");
    TRY(text_file_read(path, ARCH_JSON_BYTES_MAX, &text, &n, err));
    struct hash128 h = hash_128((struct hash_key){r->options.seed, 0}, text, n);
    free(text);
    for (uint32_t i = 0; r->files && i < safetensors_count(r->files); i++) {
        const struct tensor *t = safetensors_at(r->files, i);
        uint64_t words[SAFETENSORS_DIMS_MAX + 2] = {t->dtype, t->n_dims};
        memcpy(words + 2, t->shape, sizeof t->shape);
        h = hash_128((struct hash_key){h.lo, h.hi}, t->name, strlen(t->name));
        h = hash_128((struct hash_key){h.lo, h.hi}, words, sizeof words);
    }
    memcpy(r->info.config_hash, &h, sizeof r->info.config_hash);
    return STATUS_OK;
}

// What must be equal on all ranks, and what each says of its host.
struct hello {
    struct host_info host;
    uint8_t config_hash[16];
    uint32_t settings[10];
};

static enum status exchange_hello(struct rank *r, struct error *err)
{
    struct bootstrap *b = r->bootstrap;
    const struct rank_options *o = &r->options;
    struct hello mine = {.host = host_info_read(),
        .settings = {o->max_model_len, o->max_num_seqs, o->max_num_batched_tokens, o->block_tokens,
            r->info.kv_dtype, o->random_weights, o->expert_parallel, (uint32_t)r->kernels->name[1],
            o->enforce_eager, o->determinism}};
    memcpy(mine.config_hash, r->info.config_hash, sizeof mine.config_hash);
    struct hello *all = calloc(b->size, sizeof *all);
    if (!all)
        return status_fail(err, STATUS_NO_MEMORY, "no memory to start a group");
    enum status s = b->all_gather(b, &mine, sizeof mine, all, err);
    for (uint32_t i = 0; s == STATUS_OK && i < b->size; i++) {
        r->info.host[i] = all[i].host;
        r->info.host[i].name[HOST_NAME_BYTES - 1] = '\0';
        if (memcmp(all[i].config_hash, all[0].config_hash, sizeof all[0].config_hash) != 0 ||
            memcmp(all[i].settings, all[0].settings, sizeof all[0].settings) != 0)
            s = status_fail(err, STATUS_MISMATCH,
                "ranks 0 and %u read different models or settings from %s", i, o->model_dir);
    }
    free(all);
    return s;
}

// ---- phase 2: the device, and how much of it ----------------------------------------------------

// How many ranks with smaller numbers this host has.
static uint32_t place_on_host(const struct rank *r)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->info.rank; i++)
        n += r->info.host[i].id == r->info.host[r->info.rank].id;
    return n;
}

static enum status open_device(struct rank *r, struct error *err)
{
    uint32_t cores = r->info.host[r->info.rank].n_cores, ranks = rank_memory_sharers(r);
    struct device_args args = {.n_threads = r->options.threads,
        .index = place_on_host(r),
        .isa = r->options.isa,
        .activation = r->activation,
        .determinism = r->options.determinism,
        .no_overlap = r->options.no_kernel_overlap};
    if (!args.n_threads)
        args.n_threads = cores / ranks ? cores / ranks : 1;
    args.spin = !r->options.no_spin && (uint64_t)args.n_threads * ranks <= cores;
    r->info.spin = args.spin;
    TRY(r->kernels->device_open(&args, &r->device, err));
    r->kernels->device_describe(r->device, r->info.device, sizeof r->info.device);
    return STATUS_OK;
}

// The KV cache has the same number of blocks on every rank, and the context length with it.
static enum status share_size(struct rank *r, struct error *err)
{
    struct bootstrap *b = r->bootstrap;
    uint32_t mine[2] = {r->n_blocks, r->info.limits.context_tokens};
    uint32_t all[COLL_RANKS_MAX][2];
    TRY(b->all_gather(b, mine, sizeof mine, all, err));
    for (uint32_t i = 0; i < b->size; i++) {
        r->n_blocks = all[i][0] < r->n_blocks ? all[i][0] : r->n_blocks;
        if (all[i][1] < r->info.limits.context_tokens)
            r->info.limits.context_tokens = all[i][1];
    }
    return STATUS_OK;
}

// ---- phase 3: weights ---------------------------------------------------------------------------

static enum status load(struct rank *r, const struct weights_progress *progress, struct error *err)
{
    TRY(rope_prepare(&r->model, r->info.limits.context_tokens, err));
    if (r->files)
        TRY(weights_plan_open(&r->model, &r->shard, r->files, &r->plan, err));
    else if (r->kernels->weight_draw)
        TRY(weights_plan_drawn(&r->model, &r->shard, r->options.seed, &r->plan, err));
    else
        TRY(weights_plan_random(&r->model, &r->shard, r->options.seed, &r->plan, err));
    r->info.weight_bytes = r->plan.bytes;
    TRY(weights_open(
        r->kernels, r->device, &r->plan, r->model.hidden_dim, progress, &r->weights, err));
    return r->files ? safetensors_recheck(r->files, err) : STATUS_OK;
}

// ---- phase 4: the group, phase 5: pages and buffers --------------------------------------------

// Where the plugin has collectives of its own, the group is on the device.
static enum status open_coll_device(struct rank *r, struct error *err)
{
    const struct coll_plugin *p = r->kernels->collectives;
    if (!p)
        return STATUS_OK;
    if (p->version != COLL_PLUGIN_VERSION)
        return status_fail(err, STATUS_UNSUPPORTED,
            "the plugin of %s has collectives of another version", r->kernels->name);
    struct coll_plugin_args args = {0};
    r->kernels->device_place(r->device, &args.device, &args.capability);
    TRY(p->open(&args, &r->coll_device, err));
    r->group_on_device = true;
    return STATUS_OK;
}

static enum status open_group(struct rank *r, struct error *err)
{
    if (r->info.size == 1)
        return STATUS_OK;
    TRY(agree(r, open_coll_device(r, err), err));
    struct coll_args args = {.backend = "auto",
        .heap_bytes = rank_memory_heap_bytes(r),
        .device = r->group_on_device ? &r->coll_device : NULL,
        .timeout_ms = r->options.collective_timeout_ms,
        .spin = r->info.spin};
    TRY(coll_create(r->bootstrap, &args, &r->group, err));
    return ring_create(r->bootstrap, RING_BYTES, r->info.spin, &r->ring, err);
}

static void set_limits(struct rank *r)
{
    struct plan_limits *l = &r->info.limits;
    l->n_slots = r->options.max_num_seqs;
    l->step_tokens = r->options.max_num_batched_tokens;
    l->vocab_size = r->model.vocab_size;
    l->n_kv_groups = r->model.n_kv_groups;
    l->block_tokens = r->options.block_tokens;
    for (uint32_t g = 0; g < l->n_kv_groups; g++)
        l->n_blocks[g] = r->n_blocks;
    // A group's layers have one window.
    for (uint32_t i = 0; i < r->model.n_layers; i++)
        r->info.window[r->model.layer[i].kv_group] = r->model.layer[i].window;
}

static enum status open_work(struct rank *r, struct error *err)
{
    void *stream = r->group_on_device ? r->kernels->device_stream(r->device) : NULL;
    set_limits(r);
    TRY(kv_cache_open(
        r->kernels, r->device, &r->model, &r->shard, &r->bill, r->n_blocks, &r->kv, err));
    r->info.kv_bytes = r->kv.bytes;
    rank_memory_print(r, r->info.memory, sizeof r->info.memory);
    struct forward_args forward = {.kernels = r->kernels,
        .device = r->device,
        .group = r->group,
        .model = &r->model,
        .shard = &r->shard,
        .weights = &r->weights,
        .kv = &r->kv,
        .activation = r->activation,
        .stream = stream,
        .rows_max = r->info.limits.step_tokens,
        .eager = r->options.enforce_eager,
        .separate_norms = r->options.separate_norms,
        .separate_ops = r->options.separate_ops};
    TRY(forward_open(&forward, &r->forward, err));
    struct sampler_args sampler = {.kernels = r->kernels,
        .device = r->device,
        .group = r->group,
        .stream = stream,
        .model = &r->model,
        .shard = &r->shard,
        .n_slots = r->info.limits.n_slots,
        .context_tokens = r->info.limits.context_tokens};
    TRY(sampler_open(&sampler, &r->sampler, err));
    struct session_args session = {.limits = r->info.limits,
        .forward = r->forward,
        .sampler = r->sampler,
        .answers = r->info.rank == 0};
    memcpy(session.window, r->info.window, sizeof session.window);
    TRY(session_open(&session, &r->session, err));
    r->info.plans_in_flight = session_depth(r->session);
    return STATUS_OK;
}

// ---- all of it ---------------------------------------------------------------------------------

static enum status bring_up(
    struct rank *r, const struct weights_progress *progress, struct error *err)
{
    enum status s = read_model(r, err);
    if (s == STATUS_OK)
        s = hash_model(r, err);
    TRY(agree(r, s, err));
    TRY(exchange_hello(r, err));
    TRY(agree(r, open_device(r, err), err));
    TRY(agree(r, rank_memory_measure(r, err), err));
    TRY(rank_memory_exchange(r, err));
    TRY(agree(r, rank_memory_size(r, err), err));
    TRY(share_size(r, err));
    TRY(agree(r, load(r, progress, err), err));
    TRY(open_group(r, err));
    return agree(r, open_work(r, err), err);
}

enum status rank_open(const struct rank_options *options, struct bootstrap *b,
    const struct weights_progress *progress, struct rank **out, struct error *err)
{
    check(b->size >= 1 && b->size <= COLL_RANKS_MAX && b->rank < b->size);
    struct error own;
    struct rank *r = calloc(1, sizeof *r);
    if (!r)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for a rank");
    r->options = *options;
    r->bootstrap = b;
    r->info.rank = b->rank;
    r->info.size = b->size;
    buf_init(&r->copy, RING_BYTES);
    enum status s = bring_up(r, progress, err ? err : &own);
    if (s != STATUS_OK) {
        rank_close(r);
        return s;
    }
    *out = r;
    return STATUS_OK;
}

void rank_close(struct rank *r)
{
    if (!r)
        return;
    session_close(r->session);
    sampler_close(r->sampler);
    forward_close(r->forward);
    kv_cache_close(&r->kv);
    weights_close(&r->weights);
    weights_plan_close(&r->plan);
    safetensors_close(r->files);
    if (r->ring)
        ring_destroy(r->ring);
    if (r->group)
        coll_destroy(r->group);
    if (r->group_on_device)
        ((const struct coll_plugin *)r->kernels->collectives)->close(&r->coll_device);
    if (r->device)
        r->kernels->device_close(r->device);
    buf_deinit(&r->copy);
    free(r);
}

const struct rank_info *rank_info(const struct rank *r)
{
    return &r->info;
}

uint64_t rank_launches(const struct rank *r)
{
    return r->kernels->launches ? r->kernels->launches(r->device) : 0;
}
