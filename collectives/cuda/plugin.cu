// SPDX-License-Identifier: Apache-2.0
#include "collectives/cuda/plugin.h"

#include "collectives/cuda/share.cuh"
#include "kernels/cuda/port.cuh"

#include <stdlib.h>

namespace
{

// Behind the context that share.cu looks at.
struct plugin_context {
    share_context share;
    coll_peers peers;
};

enum status outcome(cudaError_t e, const char *what, struct error *err)
{
    return e == cudaSuccess ? STATUS_OK
                            : status_fail(err, STATUS_DEVICE_FAILED, "%s: error %d, %s", what,
                                  (int)e, cudaGetErrorString(e));
}

enum status take(void *, size_t bytes, void **out, struct error *err)
{
    void *p = nullptr;
    TRY(outcome(cudaMalloc(&p, bytes != 0 ? bytes : 1), "cudaMalloc", err));
    cudaError_t e = cudaMemset(p, 0, bytes);
    if (e == cudaSuccess)
        e = cudaDeviceSynchronize();
    if (e != cudaSuccess)
        (void)cudaFree(p);
    else
        *out = p;
    return outcome(e, "clearing memory", err);
}

void give(void *, void *p)
{
    (void)cudaFree(p);
}

enum status copy(void *, void *dst, const void *src, size_t bytes, void *stream)
{
    if (bytes == 0)
        return STATUS_OK;
    return outcome(
        cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, (cudaStream_t)stream), "copy", nullptr);
}

enum status reduce(void *, void *const *dst, uint32_t n_dst, const void *const *src, uint32_t n_src,
    size_t count, enum dtype dtype, enum coll_op op, void *stream)
{
    coll_device_sum_args a = {};
    a.dst = dst;
    a.src = src;
    a.n_dst = n_dst;
    a.n_src = n_src;
    a.count = count;
    a.dtype = dtype;
    a.max = op == COLL_MAX;
    a.stream = stream;
    return coll_device_sum(&a, nullptr);
}

enum status norm(void *, const struct coll_all_reduce_norm_args *n, void *stream)
{
    coll_device_norm_args a = {};
    a.x = n->x;
    a.residual = n->residual;
    a.bias = n->bias;
    a.weight = n->weight;
    a.dtype = n->dtype;
    a.weight_dtype = n->weight_dtype;
    a.out = n->out;
    a.rows = (uint32_t)n->n_rows;
    a.dim = (uint32_t)n->dim;
    a.scale = n->residual_scale;
    a.offset = n->weight_offset;
    a.eps = n->eps;
    a.stream = stream;
    if (n->n_rows > UINT32_MAX || n->dim > UINT32_MAX)
        return STATUS_TOO_LARGE;
    return coll_device_norm_alone(&a, nullptr);
}

enum status query(void *, void *stream)
{
    cudaError_t e = cudaStreamQuery((cudaStream_t)stream);
    return e == cudaSuccess         ? STATUS_OK
           : e == cudaErrorNotReady ? STATUS_AGAIN
                                    : STATUS_DEVICE_FAILED;
}

coll_peers peers_of(const coll_plugin_args *args)
{
    coll_peers p = {};
    p.blocks = args->blocks;
    p.threads = args->threads;
    p.take = share_take;
    p.export_memory = share_export;
    p.import_memory = share_import;
    p.give = share_give;
    p.multicast_probe = share_multicast_probe;
    p.multicast_make = share_multicast_make;
    p.multicast_join = share_multicast_join;
    p.multicast_enter = share_multicast_enter;
    p.multicast_bind = share_multicast_bind;
    p.multicast_give = share_multicast_give;
    p.pad_bytes = coll_device_pad_bytes;
    p.open = coll_device_open;
    p.close = coll_device_close;
    p.poll = coll_device_poll;
    p.waits = coll_device_waits;
    p.abort = coll_device_abort;
    p.all_reduce = coll_device_all_reduce;
    p.reduce_scatter = coll_device_reduce_scatter;
    p.all_gather = coll_device_all_gather;
    p.broadcast = coll_device_broadcast;
    p.barrier = coll_device_barrier;
    p.norm = coll_device_norm;
    p.exchange = coll_device_exchange;
    return p;
}

const char *arch_of(uint32_t capability)
{
#if PHX_EMU
    (void)capability;
    return "emu";
#else
    return capability >= 90 ? "sm90" : "sm80";
#endif
}

enum status open_device(
    const struct coll_plugin_args *args, struct coll_device *out, struct error *err)
{
    plugin_context *c = (plugin_context *)calloc(1, sizeof *c);
    if (c == nullptr)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for a device");
    c->share.device = args->device;
    c->peers = peers_of(args);
    coll_device d = {};
    d.context = c;
    d.arch = arch_of(args->capability);
    d.take = take;
    d.give = give;
    d.copy = copy;
    d.reduce = reduce;
    d.norm = norm;
    d.query = query;
    d.peers = &c->peers;
    *out = d;
    return STATUS_OK;
}

void close_device(struct coll_device *d)
{
    free(d->context);
    *d = {};
}

// ---- graphs ------------------------------------------------------------------------------------

// NCCL enqueues from a thread of its own, which this thread's mode leaves alone.
enum status graph_begin(void *stream, struct error *err)
{
    return outcome(cudaStreamBeginCapture((cudaStream_t)stream, cudaStreamCaptureModeThreadLocal),
        "recording", err);
}

enum status graph_end(void *stream, void **out, struct error *err)
{
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t x = nullptr;
    cudaError_t e = cudaStreamEndCapture((cudaStream_t)stream, &graph);
    if (e == cudaSuccess)
        e = cudaGraphInstantiate(&x, graph, 0);
    if (graph != nullptr)
        (void)cudaGraphDestroy(graph);
    if (e == cudaSuccess)
        *out = x;
    else
        (void)cudaGetLastError(); // or the next launch would report it
    return outcome(e, "making a graph", err);
}

enum status graph_launch(void *graph, void *stream, struct error *err)
{
    return outcome(
        cudaGraphLaunch((cudaGraphExec_t)graph, (cudaStream_t)stream), "launching a graph", err);
}

void graph_drop(void *graph)
{
    (void)cudaGraphExecDestroy((cudaGraphExec_t)graph);
}

} // namespace

const struct coll_plugin *coll_plugin_table(void)
{
    static const struct coll_plugin p = {COLL_PLUGIN_VERSION, open_device, close_device,
        graph_begin, graph_end, graph_launch, graph_drop};
    return &p;
}
