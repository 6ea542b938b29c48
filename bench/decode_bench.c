// SPDX-License-Identifier: Apache-2.0
// decode_bench [--ranks R --threads T]: a whole forward pass of TinyLlama-1.1B's shape with random
// bf16 weights, through the same plans that a server executes. Each row is a ratio to what the
// machine could do just before and after it: decoding to the bandwidth of reading memory,
// prefill to the fp32 peak.
#include "base/buf.h"
#include "base/clock.h"
#include "base/config.h"
#include "bench/limits.h"
#include "worker/local.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    HIDDEN = 2048,
    FFN = 5632,
    LAYERS = 22,
    HEADS = 32,
    KV_HEADS = 4,
    HEAD_DIM = 64,
    VOCAB = 32000,
    BLOCK = 16,
    CONTEXT = 1024,
    BLOCKS_PER_SEQ = CONTEXT / BLOCK,
    BATCH_MAX = 16,
    ROUNDS = 3,
};

static const char config_json[] =
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"],"
    " \"hidden_size\": 2048, \"intermediate_size\": 5632, \"num_hidden_layers\": 22,"
    " \"num_attention_heads\": 32, \"num_key_value_heads\": 4, \"vocab_size\": 32000,"
    " \"max_position_embeddings\": 2048, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0,"
    " \"tie_word_embeddings\": false, \"hidden_act\": \"silu\", \"torch_dtype\": \"bfloat16\","
    " \"bos_token_id\": 1, \"eos_token_id\": 2}\n";

// Elements of the weights that every row is multiplied with, and of the head.
static const double layer_weights =
    (double)LAYERS * ((double)HIDDEN * (HEADS + 2 * KV_HEADS) * HEAD_DIM +
                         (double)HEADS * HEAD_DIM * HIDDEN + 3.0 * HIDDEN * FFN);
static const double head_weights = (double)VOCAB * HIDDEN;

struct run {
    struct local_group *group;
    struct rank *rank;
    struct buf plan;
    uint64_t step;
    uint32_t position[BATCH_MAX]; // ids known, all but the last one computed
    uint32_t generation;
    double collective_us, total_us; // of the steps since they were set to 0
};

static void die(const struct error *err)
{
    fprintf(stderr, "decode_bench: %s\n", err->text);
    exit(1);
}

static void execute(struct run *r)
{
    struct error err = {0};
    const struct buf *answer;
    plan_end(&r->plan);
    if (rank_execute(r->rank, r->plan.data, r->plan.size, NULL, &answer, &err) != STATUS_OK)
        die(&err);
    const struct answer_header *h = (const void *)answer->data;
    r->collective_us += h->collective_us;
    r->total_us += h->total_us;
    r->step++;
}

// Rows `begin` .. `begin + n - 1` of a new sequence whose pages are those of its slot.
static void add_first(struct run *r, uint32_t slot, uint32_t n, bool sample)
{
    static uint32_t ids[CONTEXT], blocks[BLOCKS_PER_SEQ];
    static const struct sampling_params greedy = {
        .top_p = 1, .typical_p = 1, .repetition_penalty = 1};
    for (uint32_t i = 0; i < n; i++)
        ids[i] = 3 + (i * 7919 + slot * 104729) % (VOCAB - 3);
    for (uint32_t i = 0; i < BLOCKS_PER_SEQ; i++)
        blocks[i] = slot * BLOCKS_PER_SEQ + i;
    struct plan_seq_parts p = {.head = {.flags = PLAN_SEQ_FIRST | (sample ? PLAN_SEQ_SAMPLE : 0u),
                                   .slot = slot,
                                   .generation = ++r->generation,
                                   .n_tokens = n,
                                   .n_ids = n,
                                   .n_blocks = {BLOCKS_PER_SEQ}},
        .ids = ids,
        .blocks = {blocks},
        .params = &greedy,
        .prompt_length = n};
    plan_add_seq(&r->plan, &p);
    r->position[slot] = n + 1;
}

static void prefill(struct run *r, uint32_t slot, uint32_t n)
{
    plan_begin(&r->plan, 1, r->step);
    add_first(r, slot, n, true);
    execute(r);
}

static void decode(struct run *r, uint32_t n_seqs)
{
    plan_begin(&r->plan, 1, r->step);
    for (uint32_t s = 0; s < n_seqs; s++) {
        struct plan_seq_parts p = {.head = {.flags = PLAN_SEQ_SAMPLE,
                                       .slot = s,
                                       .generation = r->generation - (n_seqs - 1 - s),
                                       .first_position = r->position[s] - 1,
                                       .n_tokens = 1}};
        plan_add_seq(&r->plan, &p);
        r->position[s]++;
    }
    execute(r);
}

static double since(uint64_t begin_us)
{
    return (double)(clock_now_us() - begin_us) * 1e-6;
}

// Steps per second of decoding `n_seqs` sequences behind prompts of 64 tokens.
static double decode_rate(struct run *r, uint32_t n_seqs, uint32_t n_steps)
{
    for (uint32_t s = 0; s < n_seqs; s++)
        prefill(r, s, 64);
    decode(r, n_seqs);
    r->collective_us = r->total_us = 0;
    uint64_t begin = clock_now_us();
    for (uint32_t i = 0; i < n_steps; i++)
        decode(r, n_seqs);
    return n_steps / since(begin);
}

static void bench_decode(struct run *r, struct limits *l, const char *name, uint32_t n_seqs)
{
    double rate[ROUNDS], ratio[ROUNDS], wait[ROUNDS];
    double bytes = 2 * (layer_weights + head_weights);
    for (int i = 0; i < ROUNDS; i++) {
        double before = limits_read_gbs(l);
        rate[i] = decode_rate(r, n_seqs, 24);
        wait[i] = r->collective_us / 24000;
        double after = limits_read_gbs(l);
        ratio[i] = rate[i] * bytes * 1e-9 / (0.5 * (before + after));
    }
    double steps = limits_median(rate, ROUNDS);
    printf("| %s | decode %u | %.2f tok/s | %.1f GB/s | %.2f of read | %.2f ms |\n", name, n_seqs,
        steps * n_seqs, steps * bytes * 1e-9, limits_median(ratio, ROUNDS),
        limits_median(wait, ROUNDS));
    fflush(stdout);
}

static void bench_prefill(struct run *r, struct limits *l, const char *name, uint32_t n_tokens)
{
    double rate[ROUNDS], ratio[ROUNDS], wait[ROUNDS];
    // Attention adds 4 n^2 / 2 heads head_dim in each layer; the head sees one row.
    double flop = 2 * (layer_weights * n_tokens + head_weights) +
                  2.0 * LAYERS * HEADS * HEAD_DIM * n_tokens * n_tokens;
    for (int i = 0; i < ROUNDS; i++) {
        double before = limits_fma_gflops(l);
        r->collective_us = 0;
        uint64_t begin = clock_now_us();
        prefill(r, 0, n_tokens);
        rate[i] = n_tokens / since(begin);
        wait[i] = r->collective_us / 1000;
        double after = limits_fma_gflops(l);
        ratio[i] = rate[i] / n_tokens * flop * 1e-9 / (0.5 * (before + after));
    }
    double tokens = limits_median(rate, ROUNDS);
    printf("| %s | prefill %u | %.1f tok/s | %.1f GFLOP/s | %.2f of fp32 | %.2f ms |\n", name,
        n_tokens, tokens, tokens / n_tokens * flop * 1e-9, limits_median(ratio, ROUNDS),
        limits_median(wait, ROUNDS));
    fflush(stdout);
}

static void bench(const char *dir, uint32_t n_ranks, uint32_t n_threads)
{
    struct error err = {0};
    struct rank_options o = {.model_dir = dir,
        .random_weights = true,
        .threads = n_threads,
        .max_num_seqs = BATCH_MAX,
        .max_model_len = CONTEXT,
        .block_tokens = BLOCK,
        .kv_cache_bytes = (uint64_t)BATCH_MAX * CONTEXT * LAYERS * 2 * KV_HEADS * HEAD_DIM * 4};
    struct run r = {.step = 1};
    struct limits *l;
    char name[32];
    buf_init(&r.plan, LIMIT_PLAN_BYTES);
    snprintf(name, sizeof name, "%u x %u", n_ranks, n_threads);
    if (limits_open(n_ranks * n_threads, cpuid_best(), 0, &l, &err) != STATUS_OK ||
        local_open(&o, n_ranks, &r.group, &err) != STATUS_OK)
        die(&err);
    r.rank = local_rank(r.group);
    prefill(&r, 0, 8);
    bench_decode(&r, l, name, 1);
    bench_decode(&r, l, name, 16);
    bench_prefill(&r, l, name, 512);
    if (local_close(r.group, &err) != STATUS_OK)
        die(&err);
    limits_close(l);
    buf_deinit(&r.plan);
}

struct settings {
    int64_t ranks, threads;
};

int main(int argc, char **argv)
{
    static const struct config_row rows[] = {
        {"ranks", CONFIG_INT, offsetof(struct settings, ranks), "0", 0, 8, NULL, "N",
            "Ranks of the group; 0: the usual three set-ups."},
        {"threads", CONFIG_INT, offsetof(struct settings, threads), "1", 1, 64, NULL, "N",
            "Threads of each rank."},
    };
    struct settings s = {0};
    struct error err = {0};
    bool help = false;
    if (config_parse(rows, 2, argc, argv, &s, NULL, &help, &err) != STATUS_OK)
        die(&err);
    if (help) {
        config_help(rows, 2, stdout);
        return 0;
    }
    char dir[] = "/tmp/phalanx-decode-bench-XXXXXX", path[64];
    FILE *f = mkdtemp(dir) ? NULL : stderr;
    snprintf(path, sizeof path, "%s/config.json", dir);
    f = f ? NULL : fopen(path, "w");
    if (!f || fputs(config_json, f) < 0 || fclose(f) != 0) {
        fprintf(stderr, "decode_bench: cannot write %s\n", path);
        return 1;
    }
    printf("| ranks x threads | what | rate | work | ratio | sums over ranks per step |\n"
           "| --- | --- | --- | --- | --- | --- |\n");
    if (s.ranks) {
        bench(dir, (uint32_t)s.ranks, (uint32_t)s.threads);
    } else {
        bench(dir, 1, 1);
        bench(dir, 1, 2);
        bench(dir, 2, 1);
    }
    unlink(path);
    rmdir(dir);
    return 0;
}
