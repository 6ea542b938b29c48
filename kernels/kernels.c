// SPDX-License-Identifier: Apache-2.0
#include "kernels/kernels.h"

#include "kernels/plugin.h"

#include <string.h>

// A table is offered whole or not at all.
static enum status check_whole(const char *name, const struct kernels *k, struct error *err)
{
    const struct {
        const char *name;
        bool there;
    } ops[] = {
#define OP(op) {#op, k->op != NULL},
        OP(device_open) OP(device_close) OP(device_describe) OP(device_sync) OP(activation_for)
            OP(mem_take) OP(mem_give) OP(copy_in) OP(copy_out) OP(weight_make) OP(weight_free)
                OP(weight_bytes) OP(embed) OP(norm) OP(linear) OP(rope_kv) OP(attention) OP(act)
                    OP(logit_scale) OP(block_copy) OP(sampler_open) OP(sampler_begin) OP(sample)
#undef OP
    };
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        if (!ops[i].there)
            return status_fail(err, STATUS_UNSUPPORTED,
                "device '%s' is not complete in this build: %s is missing", name, ops[i].name);
    return STATUS_OK;
}

enum status kernels_find(const char *name, const struct kernels **out, struct error *err)
{
    if (strcmp(name, "cpu") == 0) {
        *out = kernels_cpu();
        return STATUS_OK;
    }
    if (strcmp(name, "cuda") != 0 && strcmp(name, "emu") != 0)
        return status_fail(
            err, STATUS_UNSUPPORTED, "device '%s' is unknown; expected cpu, cuda or emu", name);
    const struct plugin *p;
    uint32_t n_devices;
    TRY(plugin_load(name, &p, err));
    TRY(p->devices(NULL, &n_devices, err));
    TRY(check_whole(name, p->kernels, err));
    *out = p->kernels;
    return STATUS_OK;
}
