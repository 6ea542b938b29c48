// SPDX-License-Identifier: Apache-2.0
// The ids of a slot's sequence, and the changes that its parameters make to a row of logits. The
// row is changed where it lies and restored afterwards.
#ifndef PHALANX_KERNELS_CUDA_SAMPLE_SLOT_CUH
#define PHALANX_KERNELS_CUDA_SAMPLE_SLOT_CUH

#include "kernels/cuda/sample.cuh"

// A slot with its parts of the arrays.
struct sample_place {
    sample_slot *slot;
    sample_seen *table;
    unsigned *place;
    float *raw;
};

__device__ __forceinline__ sample_place sample_slot_of(const sample_slots &all, unsigned i)
{
    return {all.slot + i, all.table + (size_t)i * all.table_size,
        all.place + (size_t)i * all.capacity, all.raw + (size_t)i * all.capacity};
}

// Counts an id; any threads at once.
__device__ __forceinline__ void sample_count(
    const sample_slots &all, const sample_place &s, unsigned id, bool output)
{
    unsigned at = all.hash_shift == 0 ? id : id * 0x9E3779B1u >> all.hash_shift;
    for (;;) {
        unsigned old = atomicCAS(&s.table[at].id, 0u, id + 1);
        if (old == 0)
            s.place[atomicAdd(&s.slot->n_seen, 1u)] = at;
        if (old == 0 || old == id + 1)
            break;
        at = (at + 1) & (all.table_size - 1);
    }
    if (output)
        atomicAdd(&s.table[at].n_output, 1u);
}

__device__ __forceinline__ bool sample_masks(const sample_slot &s)
{
    return s.n_output < s.p.min_tokens && s.p.n_stop_ids > 0;
}

__device__ __forceinline__ bool sample_changes(const sample_slot &s)
{
    return sample_masks(s) || s.p.n_logit_bias > 0 || (s.counted && s.n_seen > 0);
}

// Each list names an id once, so its entries can be done by any threads; lists come one after the
// other. By all threads of the block.
__device__ __forceinline__ void sample_change(const sample_place &s, float *x)
{
    sample_slot &slot = *s.slot;
    const struct sampling_params &p = slot.p;
    unsigned stops = sample_masks(slot) ? p.n_stop_ids : 0, seen = slot.counted ? slot.n_seen : 0;
    for (unsigned i = threadIdx.x; i < stops; i += blockDim.x) {
        slot.raw_stop[i] = x[slot.stop_ids[i]];
        x[slot.stop_ids[i]] = -INFINITY;
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < p.n_logit_bias; i += blockDim.x) {
        slot.raw_bias[i] = x[slot.bias[i].id];
        x[slot.bias[i].id] += slot.bias[i].bias;
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < seen; i += blockDim.x) {
        const sample_seen &e = s.table[s.place[i]];
        float y = x[e.id - 1];
        s.raw[i] = y;
        y = y > 0 ? y / p.repetition_penalty : y * p.repetition_penalty;
        if (e.n_output > 0) {
            y -= p.frequency_penalty * (float)e.n_output;
            y -= p.presence_penalty;
        }
        x[e.id - 1] = y;
    }
    __syncthreads();
}

// The lists the other way round.
__device__ __forceinline__ void sample_restore(const sample_place &s, float *x)
{
    const sample_slot &slot = *s.slot;
    unsigned stops = sample_masks(slot) ? slot.p.n_stop_ids : 0;
    unsigned seen = slot.counted ? slot.n_seen : 0;
    __syncthreads();
    for (unsigned i = threadIdx.x; i < seen; i += blockDim.x)
        x[s.table[s.place[i]].id - 1] = s.raw[i];
    __syncthreads();
    for (unsigned i = threadIdx.x; i < slot.p.n_logit_bias; i += blockDim.x)
        x[slot.bias[i].id] = slot.raw_bias[i];
    __syncthreads();
    for (unsigned i = threadIdx.x; i < stops; i += blockDim.x)
        x[slot.stop_ids[i]] = slot.raw_stop[i];
    __syncthreads();
}

#endif
