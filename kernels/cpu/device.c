// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "kernels/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096 };

// Anonymous pages: zeroed, page aligned, and resident only where they are touched.
static void *pages_take(uint64_t bytes)
{
    void *p = mmap(
        NULL, bytes > 0 ? bytes : PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void pages_give(void *p, uint64_t bytes)
{
    if (p != NULL)
        check(munmap(p, bytes > 0 ? bytes : PAGE) == 0);
}

static void device_close(struct device *d)
{
    if (d == NULL)
        return;
    cpu_sampler_close(d);
    team_close(d->team);
    pages_give(d->shared, CPU_SHARED_BYTES);
    pages_give(d->scratch, (uint64_t)d->n_threads * CPU_SCRATCH_BYTES);
    free(d);
}

static enum status device_open(
    const struct device_args *args, struct device **out, struct error *err)
{
    enum cpu_isa isa;
    check(args->activation == DTYPE_F32);
    TRY(cpuid_choose(args->isa, &isa, err));
    struct device *d = calloc(1, sizeof *d);
    if (d == NULL)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for a CPU device");
    d->isa = isa;
    enum status s = team_open(args->n_threads, args->spin, &d->team, err);
    if (s != STATUS_OK) {
        device_close(d);
        return s;
    }
    d->n_threads = args->n_threads;
    d->shared = pages_take(CPU_SHARED_BYTES);
    d->scratch = pages_take((uint64_t)d->n_threads * CPU_SCRATCH_BYTES);
    if (d->shared == NULL || d->scratch == NULL) {
        device_close(d);
        return status_fail(err, STATUS_NO_MEMORY, "no memory for the scratch of a CPU device");
    }
    *out = d;
    return STATUS_OK;
}

static void device_describe(const struct device *d, char *text, size_t n)
{
    snprintf(text, n, "cpu: %u thread%s, %s", d->n_threads, d->n_threads == 1 ? "" : "s",
        cpuid_name(d->isa));
}

static enum dtype activation_for(enum dtype weights)
{
    (void)weights;
    return DTYPE_F32;
}

// Ops have run when their calls return, and cannot fail.
static enum status device_sync(struct device *d, struct error *err)
{
    (void)d;
    (void)err;
    return STATUS_OK;
}

static void *mem_take(struct device *d, uint64_t bytes)
{
    (void)d;
    return pages_take(bytes);
}

static void mem_give(struct device *d, void *p, uint64_t bytes)
{
    (void)d;
    pages_give(p, bytes);
}

static void copy(struct device *d, void *to, const void *from, uint64_t bytes)
{
    (void)d;
    if (bytes > 0)
        memcpy(to, from, bytes);
}

static const struct kernels table = {
    .name = "cpu",
    .device_memory = false,
    .activation_for = activation_for,
    .device_open = device_open,
    .device_close = device_close,
    .device_describe = device_describe,
    .device_sync = device_sync,
    .mem_take = mem_take,
    .mem_give = mem_give,
    .copy_in = copy,
    .copy_out = copy,
    .weight_make = weight_make,
    .weight_free = weight_free,
    .weight_bytes = weight_bytes,
    .weight_data = weight_data,
    .embed = cpu_embed,
    .norm = cpu_norm,
    .linear = cpu_linear,
    .clip = cpu_clip,
    .qk_norm = cpu_qk_norm,
    .experts = cpu_experts,
    .rope_kv = cpu_rope_kv,
    .attention = cpu_attention,
    .act = cpu_act,
    .logit_scale = cpu_logit_scale,
    .block_copy = cpu_block_copy,
    .sampler_open = cpu_sampler_open,
    .sampler_begin = cpu_sampler_begin,
    .sample = cpu_sample,
};

const struct kernels *kernels_cpu(void)
{
    return &table;
}
