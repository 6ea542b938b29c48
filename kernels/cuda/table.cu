// SPDX-License-Identifier: Apache-2.0
// The op table of the back end, and the one function that its library exports. An op that is not
// here yet is NULL, and kernels_find says so.
#include "kernels/cuda/device.cuh"

#include <stdio.h>
#include <string.h>
#if PHX_EMU
#define BUILT_FOR "the emulator"
#else
#define BUILT_FOR_TEXT(version) BUILT_FOR_WORD(version)
#define BUILT_FOR_WORD(version) "CUDA " #version
#define BUILT_FOR BUILT_FOR_TEXT(CUDART_VERSION)
#endif

// Of the collectives' device half, where it is linked in.
extern "C" __attribute__((weak)) const void *coll_plugin_table(void);

namespace
{

enum dtype activation_for(enum dtype weights)
{
    return weights == DTYPE_F16 || weights == DTYPE_BF16 ? weights : DTYPE_F32;
}

struct kernels fill()
{
    struct kernels k = {};
    k.name = DEVICE_TABLE_NAME;
    k.device_memory = true;
    k.activation_for = activation_for;
    k.device_open = cuda_device_open;
    k.device_close = cuda_device_close;
    k.device_describe = cuda_device_describe;
    k.device_sync = cuda_device_sync;
    k.device_stream = cuda_device_stream;
    k.device_place = cuda_device_place;
    k.collectives = coll_plugin_table != NULL ? coll_plugin_table() : NULL;
    k.device_uuid = cuda_device_uuid;
    k.mem_info = cuda_mem_info;
    k.mem_needs = cuda_mem_needs;
    k.mem_take = cuda_mem_take;
    k.mem_give = cuda_mem_give;
    k.copy_in = cuda_copy_in;
    k.copy_out = cuda_copy_out;
    k.weight_make = cuda_weight_make;
    k.weight_draw = cuda_weight_draw;
    k.weight_free = cuda_weight_free;
    k.weight_bytes = cuda_weight_bytes;
    k.weight_data = cuda_weight_data;
    k.batch_begin = cuda_batch_begin;
    k.graph_begin = cuda_graph_begin;
    k.graph_end = cuda_graph_end;
    k.embed = cuda_embed;
    k.norm = cuda_norm;
    k.linear = cuda_linear;
    k.linear_act = cuda_linear_act;
    k.norm_linear_rope = cuda_norm_linear_rope;
    k.norm_linear_act = cuda_norm_linear_act;
    k.linear_add = cuda_linear_add;
    k.launches = cuda_launches;
    k.clip = cuda_clip;
    k.qk_norm = cuda_qk_norm;
    k.experts = cuda_experts;
    k.experts_pack = cuda_experts_pack;
    k.experts_add = cuda_experts_add;
    k.rope_kv = cuda_rope_kv;
    k.attention = cuda_attention;
    k.act = cuda_act;
    k.gather = cuda_gather;
    k.place = cuda_place;
    k.logit_scale = cuda_logit_scale;
    k.block_copy = cuda_block_copy;
    k.sampler_open = cuda_sampler_open;
    k.sampler_begin = cuda_sampler_begin;
    k.sample = cuda_sample;
    k.keep_tokens = cuda_keep_tokens;
    k.mark_set = cuda_mark_set;
    k.mark_reached = cuda_mark_reached;
    k.host_take = cuda_host_take;
    k.host_give = cuda_host_give;
    return k;
}

// Errors that mean that there is no device: a stub library, a driver that is missing or too old,
// no device (cudaErrorStubLibrary, cudaErrorInsufficientDriver, cudaErrorNoDevice).
bool means_none(int e)
{
    return e == 34 || e == 35 || e == 100;
}

} // namespace

// Without touching the device, which would take memory of it.
static cudaError_t read_properties(int i, struct plugin_device *out)
{
    struct cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, i);
    if (e != cudaSuccess)
        return e;
    *out = plugin_device();
    snprintf(out->name, sizeof out->name, "%.127s", p.name);
    memcpy(out->uuid, p.uuid.bytes, sizeof out->uuid);
    out->cc_major = (uint32_t)p.major;
    out->cc_minor = (uint32_t)p.minor;
    out->n_sms = (uint32_t)p.multiProcessorCount;
    out->memory_bytes = p.totalGlobalMem;
    return cudaSuccess;
}

static cudaError_t read_memory(int i, struct plugin_device *out)
{
    size_t free_bytes = 0, total_bytes = 0;
    cudaError_t e = cudaSetDevice(i);
    if (e == cudaSuccess)
        e = cudaMemGetInfo(&free_bytes, &total_bytes);
    out->memory_bytes = total_bytes;
    out->free_bytes = free_bytes;
    return e;
}

static enum status count_devices(int *count, struct error *err)
{
    cudaError_t e = cudaGetDeviceCount(count);
    if (means_none(e) || (e == cudaSuccess && *count == 0))
        return status_fail(err, STATUS_UNSUPPORTED, "no GPU can be used: %s",
            e == cudaSuccess ? "none is there" : cudaGetErrorString(e));
    *count = *count < PLUGIN_DEVICES_MAX ? *count : (int)PLUGIN_DEVICES_MAX;
    return e == cudaSuccess ? STATUS_OK
                            : status_fail(err, STATUS_DEVICE_FAILED,
                                  "the GPUs cannot be counted: %s", cudaGetErrorString(e));
}

enum status device_one(uint32_t *index, struct plugin_device *out, struct error *err)
{
    int count = 0;
    TRY(count_devices(&count, err));
    *index %= (uint32_t)count;
    cudaError_t e = read_properties((int)*index, out);
    return e == cudaSuccess ? STATUS_OK
                            : status_fail(err, STATUS_DEVICE_FAILED,
                                  "GPU %u cannot be looked at: %s", *index, cudaGetErrorString(e));
}

enum status device_list(
    struct plugin_device out[PLUGIN_DEVICES_MAX], uint32_t *n, struct error *err)
{
    int count = 0;
    cudaError_t e = cudaSuccess;
    TRY(count_devices(&count, err));
    for (int i = 0; e == cudaSuccess && out != NULL && i < count; i++) {
        e = read_properties(i, &out[i]);
        if (e == cudaSuccess)
            e = read_memory(i, &out[i]);
    }
    if (e != cudaSuccess)
        return status_fail(
            err, STATUS_DEVICE_FAILED, "the GPUs cannot be listed: %s", cudaGetErrorString(e));
    *n = (uint32_t)count;
    return STATUS_OK;
}

extern "C" const struct plugin *phalanx_plugin(void);

const struct plugin *phalanx_plugin(void)
{
    static const struct kernels table = fill();
    static const struct plugin plugin = {
        PLUGIN_VERSION, sizeof(struct kernels), BUILT_FOR, &table, device_list};
    return &plugin;
}
