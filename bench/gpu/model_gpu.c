// SPDX-License-Identifier: Apache-2.0
// model_gpu: steps of whole models with random weights on a device, through the plans that a server
// executes: decoding at several batch sizes and contexts, and prompts; recorded and op by op, with
// --determinism batch and run. Lines of tab-separated values, in the columns of rows.cuh:
//
//   ceiling  of decoding: the weights that are multiplied with, and the keys and values that are
//            read, at the speed of a copy; of prompts: the products at the speed of cuBLASLt. Both
//            are measured by linear_gpu in the same run and given here; 0: the fraction is "-".
//
// Every sequence begins with the same computed prompt, copied page by page: no page is zeros, and
// none is shared. What is not run (no memory, no time) is a line that says so.
#include "base/buf.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/config.h"
#include "model/arch.h"
#include "worker/local.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEQS_MAX = 256, SAMPLES_MAX = 64, STEPS = 24, WARM_UPS = 4, ROWS_OF_STEP = 4096 };

struct settings {
    const char *model, *name, *device;
    double copy_gbs, tflops, seconds;
    int64_t ranks;
    bool tiny;
};

struct variant {
    const char *name;
    enum determinism determinism;
    bool eager;
};

static const struct variant variants[] = {
    {"batch", DETERMINISM_BATCH, false},
    {"batch,eager", DETERMINISM_BATCH, true},
    {"run", DETERMINISM_RUN, false},
};

struct bench {
    const struct settings *s;
    const struct variant *variant;
    uint64_t deadline_us;
    struct model_config model;
    struct local_group *group;
    struct rank *rank;
    const struct rank_info *info;
    double read_bytes, kv_bytes; // of a step's weights; of one position
    double row_flops;            // of one row, attention and head aside
    double head_flops;
    struct buf plan;
    uint64_t step;
    uint32_t generation, context;
    uint32_t position[SEQS_MAX], generation_of[SEQS_MAX];
    uint32_t *ids, *blocks;
    uint32_t blocks_each;
};

static void die(const struct error *err)
{
    fprintf(stderr, "model_gpu: %s\n", err->text);
    exit(1);
}

static bool late(const struct bench *b)
{
    return clock_now_us() > b->deadline_us;
}

static void not_run(
    const struct bench *b, const char *op, uint32_t context, uint32_t m, const char *why)
{
    printf("%s\t%s,ctx%u\t%u\t%s\tnot run: %s\t-\t-\t-\t-\t-\n", op, b->s->name, context, m,
        b->variant->name, why);
    fflush(stdout);
}

// ---- plans --------------------------------------------------------------------------------------

static void execute(struct bench *b)
{
    struct error err = {0};
    const struct buf *answer;
    plan_end(&b->plan);
    if (rank_execute(b->rank, b->plan.data, b->plan.size, NULL, &answer, &err) != STATUS_OK)
        die(&err);
    b->step++;
}

static void begin(struct bench *b)
{
    plan_begin(&b->plan, 1, b->step);
}

// Pages of a slot are those from slot * blocks_each on, in every KV group.
static const uint32_t *blocks_of(struct bench *b, uint32_t slot)
{
    for (uint32_t i = 0; i < b->blocks_each; i++)
        b->blocks[i] = slot * b->blocks_each + i;
    return b->blocks;
}

// A sequence whose first `known` positions lie in its pages: `n` rows behind them.
static void add_first(struct bench *b, uint32_t slot, uint32_t known, uint32_t n, uint32_t n_ids)
{
    static const struct sampling_params greedy = {
        .top_p = 1, .typical_p = 1, .repetition_penalty = 1};
    const uint32_t *blocks = blocks_of(b, slot);
    uint32_t second = b->info->limits.n_blocks[1] ? b->blocks_each : 0;
    struct plan_seq_parts p = {.head = {.flags = PLAN_SEQ_FIRST,
                                   .slot = slot,
                                   .generation = ++b->generation,
                                   .first_position = known,
                                   .n_tokens = n,
                                   .n_ids = n_ids,
                                   .n_blocks = {b->blocks_each, second}},
        .ids = b->ids,
        .blocks = {blocks, blocks},
        .params = &greedy,
        .prompt_length = n_ids};
    if (known + n == n_ids)
        p.head.flags |= PLAN_SEQ_SAMPLE;
    plan_add_seq(&b->plan, &p);
    b->generation_of[slot] = b->generation;
    b->position[slot] = known + n + 1;
}

static void add_rows(struct bench *b, uint32_t slot, uint32_t first, uint32_t n, bool sample)
{
    struct plan_seq_parts p = {.head = {.flags = sample ? PLAN_SEQ_SAMPLE : 0u,
                                   .slot = slot,
                                   .generation = b->generation_of[slot],
                                   .first_position = first,
                                   .n_tokens = n}};
    plan_add_seq(&b->plan, &p);
}

// Computes a prompt in slot 0, in steps of at most `rows`.
static void prompt(struct bench *b, uint32_t n, uint32_t rows)
{
    uint32_t done = n < rows ? n : rows;
    begin(b);
    add_first(b, 0, 0, done, n);
    execute(b);
    while (done < n) {
        uint32_t more = n - done < rows ? n - done : rows;
        begin(b);
        add_rows(b, 0, done, more, done + more == n);
        execute(b);
        done += more;
    }
    b->position[0] = n + 1;
}

// Slot 0 has a prompt of `n`; the others get its pages and compute its last row.
static void copy_prompt(struct bench *b, uint32_t n, uint32_t n_seqs)
{
    uint32_t pages = (n + b->info->limits.block_tokens - 1) / b->info->limits.block_tokens;
    for (uint32_t slot = 1; slot < n_seqs; slot++) {
        begin(b);
        add_first(b, slot, n - 1, 1, n);
        for (uint32_t g = 0; g < b->info->limits.n_kv_groups; g++)
            for (uint32_t i = 0; i < pages; i++)
                plan_add_copy(&b->plan, g, i, slot * b->blocks_each + i);
        execute(b);
    }
}

static void decode(struct bench *b, uint32_t n_seqs)
{
    begin(b);
    for (uint32_t slot = 0; slot < n_seqs; slot++)
        add_rows(b, slot, b->position[slot]++ - 1, 1, true);
    execute(b);
}

// ---- rows ---------------------------------------------------------------------------------------

static int compare(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static void print_row(const struct bench *b, const char *op, uint32_t context, uint32_t m,
    double *v, uint32_t n, double bytes, double flops, double least_us)
{
    qsort(v, n, sizeof *v, compare);
    double us = v[n / 2], spread = (v[n * 3 / 4] - v[n / 4]) / us;
    printf("%s\t%s,ctx%u\t%u\t%s\t%.2f\t%.0f\t%.0f\t", op, b->s->name, context, m, b->variant->name,
        us, bytes, flops);
    if (least_us > 0)
        printf("%.3f\t-\t%.3f\n", least_us / us, spread);
    else
        printf("-\t-\t%.3f\n", spread);
    fflush(stdout);
}

static bool fits(const struct bench *b, uint32_t n_seqs)
{
    for (uint32_t g = 0; g < b->info->limits.n_kv_groups; g++)
        if ((uint64_t)n_seqs * b->blocks_each > b->info->limits.n_blocks[g])
            return false;
    return n_seqs <= b->info->limits.n_slots && b->context <= b->info->limits.context_tokens;
}

static void set_context(struct bench *b, uint32_t context)
{
    uint32_t block = b->info->limits.block_tokens;
    b->context = context;
    b->blocks_each = (context + block - 1) / block;
}

static void run_decode(struct bench *b, uint32_t context, uint32_t n_seqs)
{
    double v[SAMPLES_MAX];
    uint32_t steps = b->s->tiny ? 2 : STEPS, warm = b->s->tiny ? 1 : WARM_UPS;
    set_context(b, context + steps + warm + 1);
    if (!fits(b, n_seqs)) {
        not_run(b, "decode", context, n_seqs, "the KV cache is too small");
        return;
    }
    if (late(b)) {
        not_run(b, "decode", context, n_seqs, "no time was left");
        return;
    }
    prompt(b, context, b->info->limits.step_tokens);
    copy_prompt(b, context, n_seqs);
    for (uint32_t i = 0; i < warm; i++)
        decode(b, n_seqs);
    for (uint32_t i = 0; i < steps; i++) {
        uint64_t from = clock_now_us();
        decode(b, n_seqs);
        v[i] = (double)(clock_now_us() - from);
    }
    double bytes = b->read_bytes + (double)n_seqs * context * b->kv_bytes;
    print_row(b, "decode", context, n_seqs, v, steps, bytes, n_seqs * b->row_flops,
        b->s->copy_gbs > 0 ? bytes / (b->s->copy_gbs * 1e3) : 0);
}

static void run_prompt(struct bench *b, uint32_t n)
{
    double v[SAMPLES_MAX];
    uint32_t samples = b->s->tiny ? 2 : 5;
    set_context(b, n + 1);
    if (!fits(b, 1) || late(b)) {
        not_run(b, "prompt", n, n, late(b) ? "no time was left" : "the KV cache is too small");
        return;
    }
    prompt(b, n, b->info->limits.step_tokens);
    for (uint32_t i = 0; i < samples; i++) {
        uint64_t from = clock_now_us();
        prompt(b, n, b->info->limits.step_tokens);
        v[i] = (double)(clock_now_us() - from);
    }
    const struct model_config *m = &b->model;
    double attention = 2.0 * m->n_layers * m->n_heads * m->head_dim * (double)n * n;
    double flops = n * b->row_flops + b->head_flops + attention;
    print_row(b, "prompt", n, n, v, samples, b->read_bytes, flops,
        b->s->tflops > 0 ? flops / (b->s->tflops * 1e6) : 0);
}

// ---- a model ------------------------------------------------------------------------------------

// What a step reads and multiplies: all but the embedding, whose rows are looked up. Of experts a
// step of many rows reads all, and a row is multiplied with those that it uses.
static void count(struct bench *b)
{
    const struct model_config *m = &b->model;
    double size = dtype_bytes(m->weight_dtype), head = (double)m->vocab_size * m->hidden_dim;
    double all = (double)b->info->weight_bytes * (double)b->s->ranks / size;
    double matrices = all - (m->tied_head ? 0 : head), used = matrices - head;
    if (m->n_experts) {
        double expert = (double)(m->gated ? 3 : 2) * m->hidden_dim * m->expert_ffn_dim;
        used -= (double)m->n_layers * expert * (m->n_experts - m->n_experts_per_token);
    }
    b->read_bytes = matrices * size;
    b->row_flops = 2 * used;
    b->head_flops = 2 * head;
    b->kv_bytes = 2.0 * m->n_layers * m->n_kv_heads * m->head_dim * size;
}

static enum status open_model(struct bench *b, uint32_t longest, uint32_t n_seqs, struct error *err)
{
    const struct settings *s = b->s;
    struct rank_options o = {.model_dir = s->model,
        .device = s->device,
        .random_weights = true,
        .seed = 1,
        .threads = 1,
        .no_spin = s->tiny,
        .determinism = b->variant->determinism,
        .enforce_eager = b->variant->eager,
        .max_num_seqs = n_seqs,
        .max_model_len = longest,
        .max_num_batched_tokens = s->tiny ? 32 : ROWS_OF_STEP,
        .block_tokens = s->tiny ? 16 : 64,
        // Without this, a cache of n_seqs times `longest` would be wished for, or nothing.
        .kv_cache_percent = s->tiny ? 0 : 90,
        .kv_cache_bytes = s->tiny ? 1 << 20 : 0};
    TRY(local_open(&o, (uint32_t)s->ranks, &b->group, err));
    b->rank = local_rank(b->group);
    b->info = rank_info(b->rank);
    b->step = 1;
    b->generation = 0;
    count(b);
    fprintf(stderr, "%s (%s): %s\n", s->name, b->variant->name, b->info->memory);
    return STATUS_OK;
}

static void run_variant(struct bench *b)
{
    static const uint32_t seqs[] = {1, 4, 16, 64, 256}, contexts[] = {128, 1024, 4096};
    static const uint32_t prompts[] = {512, 2048, 8192};
    uint32_t longest = b->model.max_position < 8448 ? b->model.max_position : 8448;
    struct error err = {0};
    if (b->s->tiny)
        longest = 64;
    if (late(b)) {
        not_run(b, "decode", 0, 0, "no time was left");
        return;
    }
    if (open_model(b, longest, b->s->tiny ? 2 : SEQS_MAX, &err) != STATUS_OK) {
        not_run(b, "decode", 0, 0, err.text);
        return;
    }
    if (b->s->tiny) {
        run_decode(b, 20, 2);
        run_decode(b, 200, 2);
        run_prompt(b, 40);
    }
    for (uint32_t c = 0; c < COUNT_OF(contexts) && !b->s->tiny; c++)
        for (uint32_t i = 0; i < COUNT_OF(seqs); i++)
            run_decode(b, contexts[c], seqs[i]);
    for (uint32_t i = 0; i < COUNT_OF(prompts) && !b->s->tiny; i++)
        run_prompt(b, prompts[i]);
    if (local_close(b->group, &err) != STATUS_OK)
        die(&err);
}

#define AT(field) offsetof(struct settings, field)
static const struct config_row rows[] = {
    {"model", CONFIG_TEXT, AT(model), NULL, 0, 0, NULL, "DIR|FILE", "A shape: config.json."},
    {"name", CONFIG_TEXT, AT(name), "model", 0, 0, NULL, "NAME", "What its rows are called."},
    {"device", CONFIG_TEXT, AT(device), "cuda", 0, 0, NULL, "NAME", "cuda, emu or cpu."},
    {"ranks", CONFIG_INT, AT(ranks), "1", 1, 8, NULL, "N",
        "Ranks; those beyond the devices share."},
    {"copy-gbs", CONFIG_FLOAT, AT(copy_gbs), "0", 0, 1e6, NULL, "N",
        "Speed of a copy, reads and writes together, in GB/s."},
    {"tflops", CONFIG_FLOAT, AT(tflops), "0", 0, 1e6, NULL, "N", "Speed of products."},
    {"seconds", CONFIG_FLOAT, AT(seconds), "3600", 1, 1e6, NULL, "N",
        "No row begins later than this."},
    {"tiny", CONFIG_FLAG, AT(tiny), NULL, 0, 0, NULL, NULL, "A few tiny rows, for tests."},
};

int main(int argc, char **argv)
{
    static struct bench b;
    struct settings s = {0};
    struct error err = {0};
    bool help = false;
    if (config_parse(rows, COUNT_OF(rows), argc, argv, &s, NULL, &help, &err) != STATUS_OK)
        die(&err);
    if (help || !s.model) {
        printf("usage: model_gpu --model DIR|FILE [options]\n");
        config_help(rows, COUNT_OF(rows), stdout);
        return help ? 0 : 2;
    }
    b.s = &s;
    b.deadline_us = clock_now_us() + (uint64_t)(s.seconds * 1e6);
    if (arch_read(s.model, &b.model, NULL, &err) != STATUS_OK)
        die(&err);
    buf_init(&b.plan, LIMIT_PLAN_BYTES);
    b.ids = calloc(LIMIT_STEP_TOKENS, sizeof *b.ids);
    b.blocks = calloc(LIMIT_STEP_TOKENS, sizeof *b.blocks);
    if (!b.ids || !b.blocks)
        return 1;
    for (uint32_t i = 0; i < LIMIT_STEP_TOKENS; i++)
        b.ids[i] = (i * 7919u + i / 64 * 104729u + 3) % b.model.vocab_size;
    printf("op\tshape\tm\tvariant\tus\tbytes\tflops\tfrac_of_ceiling\tratio_vs_opponent\tspread\n");
    for (size_t i = 0; i < COUNT_OF(variants); i++) {
        b.variant = &variants[i];
        run_variant(&b);
    }
    buf_deinit(&b.plan);
    free(b.ids);
    free(b.blocks);
    return 0;
}
