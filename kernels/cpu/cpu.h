// SPDX-License-Identifier: Apache-2.0
// What the files of the CPU back end share: the device and the ops that kernels_cpu() points to.
//
// An op is one file: NAME.c holds the plain C version and the dispatch on d->isa; NAME_avx2.c and
// NAME_avx512.c hold the SIMD versions, compiled with their flags (kernels/CMakeLists.txt) and
// reached only through d->isa. All versions give the same bits (canon.h).
#ifndef PHALANX_KERNELS_CPU_CPU_H
#define PHALANX_KERNELS_CPU_CPU_H

#include "kernels/cpu/cpuid.h"
#include "kernels/cpu/team.h"
#include "kernels/cpu/weight.h"
#include "kernels/kernels.h"

enum {
    CPU_SCRATCH_BYTES = 1 << 20, // private to a thread while a task runs
    CPU_SHARED_BYTES = 8 << 20,  // for one op at a time, shared by its tasks
};

struct cpu_samplers; // sample.c

struct device {
    enum cpu_isa isa;
    uint32_t n_threads;
    struct team *team;
    uint8_t *scratch;              // [n_threads][CPU_SCRATCH_BYTES], page aligned
    uint8_t *shared;               // [CPU_SHARED_BYTES], page aligned
    struct cpu_samplers *samplers; // NULL until cpu_sampler_open
};

// Scratch of the thread that runs a task; its contents do not survive the task.
static inline void *cpu_scratch(const struct device *d, uint32_t thread)
{
    return d->scratch + (uint64_t)thread * CPU_SCRATCH_BYTES;
}

void cpu_embed(struct device *d, const struct embed_args *a);
void cpu_norm(struct device *d, const struct norm_args *a);
void cpu_linear(struct device *d, const struct linear_args *a);
void cpu_linear_act(struct device *d, const struct linear_args *a, const struct act_args *act);
void cpu_clip(struct device *d, const struct clip_args *a);
void cpu_qk_norm(struct device *d, const struct qk_norm_args *a);
void cpu_experts(struct device *d, const struct experts_args *a);
void cpu_rope_kv(struct device *d, const struct rope_kv_args *a);
void cpu_attention(struct device *d, const struct attention_args *a);
void cpu_act(struct device *d, const struct act_args *a);
void cpu_logit_scale(struct device *d, const struct logit_scale_args *a);
void cpu_block_copy(struct device *d, const struct block_copy_args *a);
enum status cpu_sampler_open(
    struct device *d, uint32_t n_slots, uint32_t vocab_size, uint32_t ids_max, struct error *err);
void cpu_sampler_close(struct device *d); // by device_close; nothing open is fine
void cpu_sampler_begin(struct device *d, const struct sampler_begin_args *a);
void cpu_sample(struct device *d, const struct sample_args *a);

#endif
