// SPDX-License-Identifier: Apache-2.0
// The sampler's parts. docs/sampling.md says what each parameter means and in which order they are
// applied; kernels.h says what a slot is.
//
//   sample.c         slots, rows, log-probabilities; runs rows over the team
//   sample_filter.c  one row: logits to the ids that are kept and their weights, and the draw
//   sample_counts.c  which ids a sequence holds and how often it put them out
//   sample_scan.c    passes over a whole row, with SIMD versions
#ifndef PHALANX_KERNELS_CPU_SAMPLE_H
#define PHALANX_KERNELS_CPU_SAMPLE_H

#include "kernels/cpu/cpu.h"

enum {
    SAMPLE_CHUNK = 256,    // weights are summed in pieces of so many, and pieces in double
    SAMPLE_BUCKETS = 2048, // of the radix selection
};

// ---- passes over a row (sample_scan.c) ---------------------------------------------------------

struct sample_isa {
    // Maximum of x[0 .. n - 1], -infinity for n = 0; NaN if there is one.
    float (*max)(const float *x, uint32_t n);
    // w[i] = canon_exp((x[i] - max) / temperature), sums[c] = canonical sum of the c-th chunk of
    // SAMPLE_CHUNK; `w` may be NULL.
    void (*weights)(
        const float *x, float *w, float *sums, uint32_t n, float max, float temperature);
    uint32_t (*count_greater)(const float *x, uint32_t n, float than);
};

extern const struct sample_isa sample_plain_isa, sample_avx2_isa, sample_avx512_isa;

// Sum of the chunks' sums, ascending, in double.
double sample_total(const float *sums, uint32_t n);

// ---- ids of a sequence (sample_counts.c) -------------------------------------------------------

struct sample_count {
    uint32_t id;
    uint32_t n_output; // times put out; 0: only in the prompt
    uint32_t place;    // in `index`
};

// An open-addressing table over a dense list: `index` holds places in `list`, plus one.
struct sample_counts {
    struct sample_count *list; // [capacity]
    uint32_t *index;           // [1 << index_bits], at least twice the capacity
    uint32_t n, capacity, index_bits;
};

uint64_t sample_counts_bytes(uint32_t capacity);
// `memory` is zeroed, sample_counts_bytes(capacity) long and outlives the counts.
void sample_counts_init(struct sample_counts *c, void *memory, uint32_t capacity);
void sample_counts_clear(struct sample_counts *c);
void sample_counts_add(struct sample_counts *c, uint32_t id, bool output);

// ---- slots and rows ----------------------------------------------------------------------------

struct sample_slot {
    struct sampling_params params;
    uint32_t n_output;
    bool counted; // penalties are on: `counts` is kept
    uint32_t stop_ids[SAMPLING_STOP_IDS_MAX];
    struct sampling_bias bias[SAMPLING_LOGIT_BIAS_MAX];
    struct sample_counts counts;
};

// One thread's memory: arrays of vocab_size elements.
struct sample_work {
    const struct sample_isa *isa;
    float *x;      // logits after penalties
    float *w;      // weights over the whole row
    float *sums;   // [chunks]
    uint32_t *key; // sort keys
    // The ids that are kept, ascending; after sample_filter.
    uint32_t *list_id;
    float *list_x, *list_w; // processed logit, weight (probability times a common factor)
    uint32_t n_list;
    double bucket[SAMPLE_BUCKETS];
};

struct cpu_samplers {
    uint32_t n_slots, vocab_size, ids_max, n_threads;
    struct sample_slot *slot; // [n_slots]
    void *counts_memory;
    struct sample_work *work; // [n_threads]
    void *work_memory;
};

// Maps floats to integers so that a larger float has a smaller key, -0 and +0 the same.
uint32_t sample_key(float x);
// The key of the k-th largest of x, 1 <= k <= n.
uint32_t sample_kth_key(struct sample_work *w, const float *x, uint32_t n, uint32_t k);

// Applies all parameters to one row. false: nothing can be chosen (no finite logit is left).
// Fills w->list_*; where nothing is filtered the list is all ids whose weight is not 0.
// `max` is that of the raw logits.
bool sample_filter(const struct sample_slot *s, struct sample_work *w, const float *logits,
    uint32_t vocab_size, float max);
// Chooses from the list: the first id, in ascending order, at which the sum of weights exceeds
// u * total. 0 <= u < 1.
uint32_t sample_draw(const struct sample_work *w, double u);

// For tests: the distribution that `slot` would draw from, probabilities[vocab_size], 0 for what is
// masked. false as sample_filter.
bool sample_distribution(
    struct device *d, uint32_t slot, const float *logits, double *probabilities);

#endif
