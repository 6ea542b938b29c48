// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/sample.h"

#include "base/check.h"
#include "base/philox.h"

#include <math.h>
#include <stdlib.h>

// ---- slots -------------------------------------------------------------------------------------

static const struct sample_isa *isa_of(const struct device *d)
{
    return d->isa == CPU_ISA_AVX512 ? &sample_avx512_isa
           : d->isa == CPU_ISA_AVX2 ? &sample_avx2_isa
                                    : &sample_plain_isa;
}

void cpu_sampler_close(struct device *d)
{
    struct cpu_samplers *s = d->samplers;
    d->samplers = NULL;
    if (s == NULL)
        return;
    free(s->work_memory);
    free(s->counts_memory);
    free(s->work);
    free(s->slot);
    free(s);
}

// Arrays of a thread, in elements of four bytes; each begins on a cache line of its own.
static uint64_t array_elements(uint32_t vocab_size)
{
    return ((uint64_t)vocab_size + 15) / 16 * 16;
}

enum { WORK_ARRAYS = 7 };

static void work_init(struct sample_work *w, const struct sample_isa *isa, float *p, uint64_t n)
{
    w->isa = isa;
    w->x = p;
    w->w = p + n;
    w->sums = p + 2 * n;
    w->key = (uint32_t *)(void *)(p + 3 * n);
    w->list_id = (uint32_t *)(void *)(p + 4 * n);
    w->list_x = p + 5 * n;
    w->list_w = p + 6 * n;
}

static bool samplers_take(struct cpu_samplers *s, const struct sample_isa *isa)
{
    uint64_t n = array_elements(s->vocab_size);
    uint32_t capacity = s->ids_max < s->vocab_size ? s->ids_max : s->vocab_size;
    uint64_t counts_bytes = sample_counts_bytes(capacity);
    s->slot = calloc(s->n_slots, sizeof *s->slot);
    s->work = calloc(s->n_threads, sizeof *s->work);
    s->counts_memory = calloc(s->n_slots, counts_bytes);
    s->work_memory = aligned_alloc(64, n * WORK_ARRAYS * sizeof(float) * s->n_threads);
    if (s->slot == NULL || s->work == NULL || s->counts_memory == NULL || s->work_memory == NULL)
        return false;
    for (uint32_t i = 0; i < s->n_slots; i++)
        sample_counts_init(
            &s->slot[i].counts, (char *)s->counts_memory + i * counts_bytes, capacity);
    for (uint32_t i = 0; i < s->n_threads; i++)
        work_init(&s->work[i], isa, (float *)s->work_memory + i * n * WORK_ARRAYS, n);
    return true;
}

enum status cpu_sampler_open(
    struct device *d, uint32_t n_slots, uint32_t vocab_size, uint32_t ids_max, struct error *err)
{
    check(d->samplers == NULL && n_slots > 0 && vocab_size > 0 && ids_max > 0);
    d->samplers = calloc(1, sizeof *d->samplers);
    if (d->samplers != NULL) {
        *d->samplers = (struct cpu_samplers){.n_slots = n_slots,
            .vocab_size = vocab_size,
            .ids_max = ids_max,
            .n_threads = d->n_threads};
        if (samplers_take(d->samplers, isa_of(d)))
            return STATUS_OK;
    }
    cpu_sampler_close(d);
    return status_fail(err, STATUS_NO_MEMORY,
        "no memory for %u samplers over %u ids and up to %u tokens each", n_slots, vocab_size,
        ids_max);
}

void cpu_sampler_begin(struct device *d, const struct sampler_begin_args *a)
{
    const struct sampling_params *p = &a->params;
    struct cpu_samplers *all = d->samplers;
    check(all != NULL && a->slot < all->n_slots);
    check(p->n_stop_ids <= SAMPLING_STOP_IDS_MAX && p->n_logit_bias <= SAMPLING_LOGIT_BIAS_MAX);
    check(a->prompt_length <= a->n_ids && a->n_ids <= all->ids_max);
    struct sample_slot *s = &all->slot[a->slot];
    sample_counts_clear(&s->counts);
    s->params = *p;
    s->n_output = a->n_ids - a->prompt_length;
    s->counted = p->repetition_penalty != 1.0f || p->presence_penalty != 0.0f ||
                 p->frequency_penalty != 0.0f;
    for (uint32_t i = 0; i < p->n_stop_ids; i++)
        s->stop_ids[i] = a->stop_ids[i];
    for (uint32_t i = 0; i < p->n_logit_bias; i++) {
        check(a->bias[i].id < all->vocab_size);
        s->bias[i] = a->bias[i];
    }
    for (uint32_t i = 0; s->counted && i < a->n_ids; i++) {
        check(a->ids[i] < all->vocab_size);
        sample_counts_add(&s->counts, a->ids[i], i >= a->prompt_length);
    }
}

// ---- rows --------------------------------------------------------------------------------------

// What the raw logits say, before any parameter.
struct raw {
    const float *x;
    uint32_t n;
    float max;
    double log_total; // of exp(x - max)
};

static float raw_logprob(const struct raw *raw, uint32_t id)
{
    return (float)((double)raw->x[id] - (double)raw->max - raw->log_total);
}

static bool better(const struct raw *raw, uint32_t a, uint32_t b)
{
    return raw->x[a] != raw->x[b] ? raw->x[a] > raw->x[b] : a < b;
}

// The best n ids, by insertion into a sorted list; those equal to the last one go by smaller id.
static void fill_top(
    struct sample_work *w, const struct raw *raw, uint32_t n, struct sample_result *out)
{
    n = n < SAMPLING_LOGPROBS_MAX ? n : SAMPLING_LOGPROBS_MAX;
    n = n < raw->n ? n : raw->n;
    if (n == 0)
        return;
    uint32_t border = sample_kth_key(w, raw->x, raw->n, n), count = 0;
    uint32_t id[SAMPLING_LOGPROBS_MAX];
    for (uint32_t i = 0; i < raw->n; i++) {
        if (sample_key(raw->x[i]) > border || raw->x[i] == -INFINITY)
            continue;
        if (count == n && !better(raw, i, id[n - 1]))
            continue;
        uint32_t at = count < n ? count++ : n - 1;
        for (; at > 0 && better(raw, i, id[at - 1]); at--)
            id[at] = id[at - 1];
        id[at] = i;
    }
    out->n_top = count;
    for (uint32_t i = 0; i < count; i++)
        out->top[i] = (struct sample_top){.id = id[i], .logprob = raw_logprob(raw, id[i])};
}

static bool choose(struct sample_slot *s, struct sample_work *w, const struct raw *raw,
    uint32_t position, uint32_t *id)
{
    if (!sample_filter(s, w, raw->x, raw->n, raw->max))
        return false;
    const struct sampling_params *p = &s->params;
    *id = sample_draw(w, philox_uniform(p->seed, p->sample_index, position, PHILOX_SAMPLE));
    return true;
}

static void run_row(
    struct cpu_samplers *all, struct sample_work *w, const struct sample_args *a, uint32_t r)
{
    const struct sample_row *row = &a->row[r];
    struct sample_result *out = &a->result[r];
    struct raw raw = {.x = a->logits + (uint64_t)r * a->vocab_size, .n = a->vocab_size};
    struct sample_slot *s = row->scored ? NULL : &all->slot[row->slot];
    out->n_top = 0;
    out->id = row->scored ? row->target : 0;
    raw.max = w->isa->max(raw.x, raw.n);
    out->failed = !isfinite(raw.max);
    if (!out->failed && !row->scored)
        out->failed = !choose(s, w, &raw, row->position, &out->id);
    if (out->failed)
        return;
    w->isa->weights(raw.x, NULL, w->sums, raw.n, raw.max, 1.0f);
    raw.log_total = log(sample_total(w->sums, raw.n));
    float chosen = raw.x[out->id];
    out->logprob = raw_logprob(&raw, out->id);
    out->rank = chosen == raw.max ? 1 : 1 + w->isa->count_greater(raw.x, raw.n, chosen);
    fill_top(w, &raw, row->scored ? row->n_logprobs : s->params.n_logprobs, out);
    if (row->scored)
        return;
    s->n_output++;
    if (s->counted)
        sample_counts_add(&s->counts, out->id, true);
}

struct sample_job {
    struct cpu_samplers *all;
    const struct sample_args *a;
};

static bool same_slot(const struct sample_row *a, const struct sample_row *b)
{
    return !a->scored && !b->scored && a->slot == b->slot;
}

// Rows of one slot that stand beside one another depend on each other and run in one task.
static void sample_task(void *arg, uint32_t task, uint32_t thread)
{
    const struct sample_job *j = arg;
    const struct sample_row *row = j->a->row;
    if (task > 0 && same_slot(&row[task - 1], &row[task]))
        return;
    uint32_t r = task;
    do
        run_row(j->all, &j->all->work[thread], j->a, r++);
    while (r < j->a->n_rows && same_slot(&row[task], &row[r]));
}

void cpu_sample(struct device *d, const struct sample_args *a)
{
    struct cpu_samplers *all = d->samplers;
    check(all != NULL && a->vocab_size == all->vocab_size);
    for (uint32_t r = 0; r < a->n_rows; r++)
        check(a->row[r].scored ? a->row[r].target < a->vocab_size : a->row[r].slot < all->n_slots);
    struct sample_job j = {.all = all, .a = a};
    team_run(d->team, sample_task, &j, a->n_rows);
}

bool sample_distribution(
    struct device *d, uint32_t slot, const float *logits, double *probabilities)
{
    struct cpu_samplers *all = d->samplers;
    struct sample_work *w = &all->work[0];
    float max = w->isa->max(logits, all->vocab_size);
    if (!isfinite(max) || !sample_filter(&all->slot[slot], w, logits, all->vocab_size, max))
        return false;
    double total = 0;
    for (uint32_t i = 0; i < w->n_list; i++)
        total += (double)w->list_w[i];
    memset(probabilities, 0, sizeof *probabilities * all->vocab_size);
    for (uint32_t i = 0; i < w->n_list; i++)
        probabilities[w->list_id[i]] = (double)w->list_w[i] / total;
    return true;
}
