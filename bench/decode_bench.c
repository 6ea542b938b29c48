// SPDX-License-Identifier: Apache-2.0
// decode_bench: a whole forward pass of TinyLlama-1.1B's shape with random bf16 weights, through
// the same plans that a server executes, in three set-ups (ranks x threads): 1 x 1, 1 x 2, 2 x 1.
//
// All set-ups are open at once and take turns, round after round, so that what the machine does
// meanwhile meets all of them; its limits are measured just before and just after each sample, and
// a row is the median over the rounds of the ratios to them. Ratios between set-ups compare samples
// of the same round.
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
    PROMPT = 64, // tokens before those that are decoded
    SETUPS = 3,
    ROUNDS_MAX = 99,
    LIMITS_BYTES = 256 << 20,
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

// ---- samples -----------------------------------------------------------------------------------

enum what { DECODE_1, DECODE_16, PREFILL, WHAT_COUNT };
static const char *const what_names[WHAT_COUNT] = {"decode 1", "decode 16", "prefill"};

// One measurement, and what the machine could do around it.
struct sample {
    double tokens_s, step_s, wait_s; // wait: in sums over ranks, per step
    double read_gbs, fma_gflops;     // means of before and after
};

struct settings {
    int64_t ranks, threads, rounds, steps, prompt;
    const char *isa, *samples;
    bool norms;
};

struct setup {
    uint32_t n_ranks, n_threads;
    char name[32];
    struct run run;
    struct limits *limits;
    struct sample sample[WHAT_COUNT][ROUNDS_MAX];
};

struct bench {
    const struct settings *s;
    struct setup setup[SETUPS];
    uint32_t n_setups, n_rounds;
};

static double flop_of(const struct bench *b, enum what what)
{
    double n = (double)b->s->prompt;
    if (what != PREFILL)
        return 2 * (layer_weights + head_weights) * (what == DECODE_1 ? 1 : BATCH_MAX);
    // Attention adds 4 n^2 / 2 heads head_dim in each layer; the head sees one row.
    return 2 * (layer_weights * n + head_weights) + 2.0 * LAYERS * HEADS * HEAD_DIM * n * n;
}

// Seconds of a step at the limits: reading every weight once, or the products.
static double roof_s(const struct bench *b, enum what what, const struct sample *s)
{
    double read = 2 * (layer_weights + head_weights) * 1e-9 / s->read_gbs;
    double fma = flop_of(b, what) * 1e-9 / s->fma_gflops;
    return read > fma ? read : fma;
}

static void run_decode(struct run *r, uint32_t n_seqs, uint32_t n_steps, struct sample *s)
{
    for (uint32_t i = 0; i < n_seqs; i++)
        prefill(r, i, PROMPT);
    decode(r, n_seqs);
    r->collective_us = 0;
    uint64_t begin = clock_now_us();
    for (uint32_t i = 0; i < n_steps; i++)
        decode(r, n_seqs);
    s->step_s = since(begin) / n_steps;
    s->tokens_s = n_seqs / s->step_s;
    s->wait_s = r->collective_us * 1e-6 / n_steps;
}

static void run_prefill(struct run *r, uint32_t n_tokens, struct sample *s)
{
    r->collective_us = 0;
    uint64_t begin = clock_now_us();
    prefill(r, 0, n_tokens);
    s->step_s = since(begin);
    s->tokens_s = n_tokens / s->step_s;
    s->wait_s = r->collective_us * 1e-6;
}

static void take_sample(struct bench *b, struct setup *u, enum what what, struct sample *s)
{
    double read = limits_read_gbs(u->limits), fma = limits_fma_gflops(u->limits);
    if (what == PREFILL)
        run_prefill(&u->run, (uint32_t)b->s->prompt, s);
    else
        run_decode(&u->run, what == DECODE_1 ? 1 : BATCH_MAX, (uint32_t)b->s->steps, s);
    s->fma_gflops = (fma + limits_fma_gflops(u->limits)) / 2;
    s->read_gbs = (read + limits_read_gbs(u->limits)) / 2;
}

static void write_sample(
    FILE *f, const struct setup *u, enum what what, uint32_t round, const struct sample *s)
{
    fprintf(f,
        "{\"round\": %u, \"ranks\": %u, \"threads\": %u, \"what\": \"%s\", \"tokens_s\": %.3f, "
        "\"step_ms\": %.3f, \"sums_ms\": %.3f, \"read_gbs\": %.2f, \"fma_gflops\": %.1f}\n",
        round, u->n_ranks, u->n_threads, what_names[what], s->tokens_s, s->step_s * 1e3,
        s->wait_s * 1e3, s->read_gbs, s->fma_gflops);
    fflush(f);
}

static void run_rounds(struct bench *b, FILE *samples)
{
    for (uint32_t round = 0; round < b->s->rounds; round++, b->n_rounds++)
        for (enum what what = 0; what < WHAT_COUNT; what++)
            for (uint32_t i = 0; i < b->n_setups; i++) {
                struct setup *u = &b->setup[i];
                struct sample *s = &u->sample[what][round];
                take_sample(b, u, what, s);
                if (samples)
                    write_sample(samples, u, what, round, s);
            }
}

// ---- the tables --------------------------------------------------------------------------------

typedef double number_fn(const struct bench *b, enum what what, const struct sample *s);

static double tokens_s(const struct bench *b, enum what what, const struct sample *s)
{
    (void)b;
    (void)what;
    return s->tokens_s;
}

static double wait_ms(const struct bench *b, enum what what, const struct sample *s)
{
    (void)b;
    (void)what;
    return s->wait_s * 1e3;
}

static double of_read(const struct bench *b, enum what what, const struct sample *s)
{
    (void)b;
    (void)what;
    return 2 * (layer_weights + head_weights) * 1e-9 / s->step_s / s->read_gbs;
}

static double of_fma(const struct bench *b, enum what what, const struct sample *s)
{
    return flop_of(b, what) * 1e-9 / s->step_s / s->fma_gflops;
}

static double of_roof(const struct bench *b, enum what what, const struct sample *s)
{
    return roof_s(b, what, s) / s->step_s;
}

static double roof_tokens_s(const struct bench *b, enum what what, const struct sample *s)
{
    double tokens = what == PREFILL ? (double)b->s->prompt : what == DECODE_1 ? 1 : BATCH_MAX;
    return tokens / roof_s(b, what, s);
}

static double median_of(
    const struct bench *b, const struct setup *u, enum what what, number_fn *number)
{
    double v[ROUNDS_MAX];
    for (uint32_t i = 0; i < b->n_rounds; i++)
        v[i] = number(b, what, &u->sample[what][i]);
    return limits_median(v, b->n_rounds);
}

static void print_rows(const struct bench *b)
{
    printf("| ranks x threads | what | tok/s | of read | of fp32 | roof, tok/s | of the roof "
           "| sums over ranks, ms per step |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (enum what what = 0; what < WHAT_COUNT; what++)
        for (uint32_t i = 0; i < b->n_setups; i++) {
            const struct setup *u = &b->setup[i];
            printf("| %s | %s | %.1f | %.2f | %.2f | %.1f | %.2f | %.2f |\n", u->name,
                what_names[what], median_of(b, u, what, tokens_s), median_of(b, u, what, of_read),
                median_of(b, u, what, of_fma), median_of(b, u, what, roof_tokens_s),
                median_of(b, u, what, of_roof), median_of(b, u, what, wait_ms));
        }
}

static void print_ratio(
    const struct bench *b, const struct setup *u, const struct setup *to, enum what what)
{
    double v[ROUNDS_MAX];
    for (uint32_t i = 0; i < b->n_rounds; i++)
        v[i] = u->sample[what][i].tokens_s / to->sample[what][i].tokens_s;
    double median = limits_median(v, b->n_rounds); // sorts
    printf("| %s, %s to %s | %.2f | %.2f to %.2f |\n", what_names[what], u->name, to->name, median,
        v[0], v[b->n_rounds - 1]);
}

static void print_ratios(const struct bench *b)
{
    const struct setup *one = &b->setup[0], *threads = &b->setup[1], *ranks = &b->setup[2];
    printf("\n| ratio in the same round | median | range |\n| --- | --- | --- |\n");
    for (enum what what = 0; what < WHAT_COUNT; what++) {
        print_ratio(b, ranks, threads, what);
        print_ratio(b, ranks, one, what);
        print_ratio(b, threads, one, what);
    }
}

// ---- set-ups -----------------------------------------------------------------------------------

static void open_setup(
    struct bench *b, const char *dir, uint32_t n_ranks, uint32_t n_threads, bool separate_norms)
{
    struct setup *u = &b->setup[b->n_setups++];
    struct error err = {0};
    struct rank_options o = {.model_dir = dir,
        .random_weights = true,
        .isa = b->s->isa,
        .threads = n_threads,
        .separate_norms = separate_norms,
        .max_num_seqs = BATCH_MAX,
        .max_model_len = CONTEXT,
        .max_num_batched_tokens = CONTEXT,
        .block_tokens = BLOCK,
        .kv_cache_bytes = (uint64_t)BATCH_MAX * CONTEXT * LAYERS * 2 * KV_HEADS * HEAD_DIM * 4};
    enum cpu_isa isa;
    u->n_ranks = n_ranks;
    u->n_threads = n_threads;
    u->run.step = 1;
    snprintf(u->name, sizeof u->name, "%u x %u%s", n_ranks, n_threads,
        separate_norms ? ", norms apart" : "");
    buf_init(&u->run.plan, LIMIT_PLAN_BYTES);
    if (cpuid_choose(b->s->isa, &isa, &err) != STATUS_OK ||
        limits_open(n_ranks * n_threads, isa, LIMITS_BYTES, &u->limits, &err) != STATUS_OK ||
        local_open(&o, n_ranks, &u->run.group, &err) != STATUS_OK)
        die(&err);
    u->run.rank = local_rank(u->run.group);
    prefill(&u->run, 0, 8);
}

static void close_setup(struct setup *u)
{
    struct error err = {0};
    if (local_close(u->run.group, &err) != STATUS_OK)
        die(&err);
    limits_close(u->limits);
    buf_deinit(&u->run.plan);
}

// The folder of a model that is a config.json alone; `dir` is a template of mkdtemp.
static void write_model(char *dir, char *path, size_t n)
{
    FILE *f = NULL;
    if (mkdtemp(dir)) {
        snprintf(path, n, "%s/config.json", dir);
        f = fopen(path, "w");
    }
    if (!f || fputs(config_json, f) < 0 || fclose(f) != 0) {
        fprintf(stderr, "decode_bench: cannot write %s/config.json\n", dir);
        exit(1);
    }
}

static void bench(const struct settings *s, const char *dir, FILE *samples)
{
    static struct bench b;
    b.s = s;
    if (s->ranks) {
        open_setup(&b, dir, (uint32_t)s->ranks, (uint32_t)s->threads, false);
        if (s->norms)
            open_setup(&b, dir, (uint32_t)s->ranks, (uint32_t)s->threads, true);
    } else {
        open_setup(&b, dir, 1, 1, false);
        open_setup(&b, dir, 1, 2, false);
        open_setup(&b, dir, 2, 1, false);
    }
    run_rounds(&b, samples);
    print_rows(&b);
    if (b.n_setups == SETUPS)
        print_ratios(&b);
    for (uint32_t i = 0; i < b.n_setups; i++)
        close_setup(&b.setup[i]);
}

#define AT(field) offsetof(struct settings, field)
static const struct config_row rows[] = {
    {"ranks", CONFIG_INT, AT(ranks), "0", 0, 8, NULL, "N",
        "Ranks of the only set-up; 0: the three usual ones in turn."},
    {"threads", CONFIG_INT, AT(threads), "1", 1, 64, NULL, "N", "Threads of each of its ranks."},
    {"rounds", CONFIG_INT, AT(rounds), "5", 1, ROUNDS_MAX, NULL, "N", "Samples of each row."},
    {"steps", CONFIG_INT, AT(steps), "16", 1, 512, NULL, "N", "Steps that a sample decodes."},
    {"prompt", CONFIG_INT, AT(prompt), "512", 1, CONTEXT - 1, NULL, "N",
        "Tokens of the prompt that is computed."},
    {"norms", CONFIG_FLAG, AT(norms), "false", 0, 0, NULL, NULL,
        "With --ranks: also with the sums over ranks and the norms in separate operations."},
    {"isa", CONFIG_TEXT, AT(isa), "auto", 0, 0, NULL, "auto|plain|avx2|avx512",
        "Instruction set of the kernels and of the limits."},
    {"samples", CONFIG_TEXT, AT(samples), NULL, 0, 0, NULL, "FILE",
        "Writes each sample there, a JSON object a line."},
};

int main(int argc, char **argv)
{
    struct settings s = {0};
    struct error err = {0};
    bool help = false;
    size_t n_rows = sizeof rows / sizeof *rows;
    if (config_parse(rows, n_rows, argc, argv, &s, NULL, &help, &err) != STATUS_OK)
        die(&err);
    if (help) {
        config_help(rows, n_rows, stdout);
        return 0;
    }
    FILE *samples = s.samples ? fopen(s.samples, "w") : NULL;
    if (s.samples && !samples) {
        fprintf(stderr, "decode_bench: cannot write %s\n", s.samples);
        return 1;
    }
    char dir[] = "/tmp/phalanx-decode-bench-XXXXXX", path[64];
    write_model(dir, path, sizeof path);
    bench(&s, dir, samples);
    if (samples)
        fclose(samples);
    unlink(path);
    rmdir(dir);
    return 0;
}
