// SPDX-License-Identifier: Apache-2.0
// Sampling on a device: what its files share. docs/sampling.md says what each parameter means;
// kernels/cpu/sample*.c chooses the same ids for the same logits.
//
//   sample.cu         slots, the host's side, and the kernel: one block for a row
//   sample_block.cuh  what a block does together: passes over a row, sums, selection
//   sample_filter.cuh from logits to the id that is drawn
//   sample_slot.cuh   the ids of a sequence, and how a slot changes logits
//
// Nothing is sorted. A weight, exp((x - max) / temperature), is the same f32 as on the CPU; sums of
// weights are integers of 64 bits, in units of 2^-shift, so they depend on no order. A border (the
// k-th largest logit, where the sum of the likeliest reaches top_p, the id at which the running sum
// exceeds the draw) is found by radix selection over those ids that can matter, which are brought
// into shared memory; where they are too many, over the whole row.
#ifndef PHALANX_KERNELS_CUDA_SAMPLE_CUH
#define PHALANX_KERNELS_CUDA_SAMPLE_CUH

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ptx.cuh"

constexpr unsigned sample_threads = 512, sample_warps = sample_threads / 32;
constexpr unsigned sample_buckets = 2048; // of a selection and of the histogram of logits
constexpr unsigned sample_list_max = 4096;

// An id that occurs in a sequence.
struct sample_seen {
    unsigned id;       // plus one; 0: free
    unsigned n_output; // times put out; 0: only in the prompt
};

struct sample_slot {
    struct sampling_params p;
    unsigned n_output, counted, n_seen;
    unsigned stop_ids[SAMPLING_STOP_IDS_MAX];
    struct sampling_bias bias[SAMPLING_LOGIT_BIAS_MAX];
    // The raw logits while a row is changed.
    float raw_stop[SAMPLING_STOP_IDS_MAX], raw_bias[SAMPLING_LOGIT_BIAS_MAX];
};

// All slots, as a kernel sees them. A slot's ids are an open-addressing table, or one indexed by
// the id where that is not larger.
struct sample_slots {
    sample_slot *slot;  // [n_slots]
    sample_seen *table; // [n_slots][table_size]
    unsigned *place;    // [n_slots][capacity] places in the table, in order of arrival
    float *raw;         // [n_slots][capacity]
    unsigned table_size, capacity, vocab_size;
    unsigned hash_shift; // 32 less the bits of table_size; 0: the id is the place
};

// What a slot begins with; followed by bias [n_logit_bias], stop ids [n_stop_ids] and ids [n_ids].
struct sample_begin_head {
    struct sampling_params p;
    unsigned slot, n_ids, prompt_length, counted;
};

struct sample_call {
    sample_slots all;
    float *logits; // [n_rows, vocab_size]; changed while a row is done, and restored
    const struct sample_row *row;
    uint8_t *result; // struct sample_result, result_stride bytes apart, with top_max ids each
    unsigned result_stride, top_max;
    unsigned n_rows, shift;
};

#endif
