// SPDX-License-Identifier: Apache-2.0
// Partial all-to-all by pushing. A flag tells each peer that its slot may be written, each block
// pushes its share of all outgoing blocks, and a flag with the size tells that it has come.
#include "collectives/cuda/device.cuh"

namespace
{

struct exchange_call {
    const uint8_t *send[PAD_RANKS];
    phx_u64 send_bytes[PAD_RANKS], expected[PAD_RANKS];
    const uint32_t *device_counts;
    uint32_t *received;
    phx_u64 slot_bytes, offset;
    unsigned peers;
    bool fixed;
};

__device__ __forceinline__ phx_u64 size_of(const exchange_call &c, unsigned to)
{
    return c.device_counts != nullptr ? (phx_u64)c.device_counts[to] : c.send_bytes[to];
}

// This block's share of one outgoing block: every gridDim-th stretch of 16 bytes a thread.
__device__ inline void push(const pad_group &g, const exchange_call &c, unsigned to)
{
    uint8_t *slot = g.heaps[to] + c.offset + g.rank * c.slot_bytes;
    phx_u64 n = size_of(c, to), stretch = (phx_u64)blockDim.x * 16;
    for (phx_u64 at = blockIdx.x * stretch; at < n; at += gridDim.x * stretch)
        piece_copy(slot + at, c.send[to] + at, n - at < stretch ? n - at : stretch);
}

// Thread r speaks with rank r.
__device__ inline bool ask(const pad_group &g, const pad_place &p, const exchange_call &c)
{
    unsigned peer = threadIdx.x, block = blockIdx.x;
    if (peer >= g.size || (c.peers >> peer & 1) == 0)
        return true;
    if (size_of(c, peer) > (c.send[peer] != nullptr ? c.slot_bytes : 0))
        return pad_raise(g, p, PAD_TOO_LARGE, g.rank, PAD_START);
    if (peer == g.rank)
        return true;
    phx_store_release_sys(&g.pads[peer]->ready[block][g.rank], pad_word(g, p));
    return pad_await(g, p, &g.pads[g.rank]->ready[block][peer], peer, PAD_START);
}

__device__ inline bool conclude(const pad_group &g, const pad_place &p, const exchange_call &c)
{
    unsigned peer = threadIdx.x, block = blockIdx.x;
    if (peer >= g.size || (c.peers >> peer & 1) == 0)
        return true;
    phx_u64 n = size_of(c, peer);
    if (peer != g.rank) {
        phx_store_relaxed_sys(&g.pads[peer]->bytes[block][g.rank], n);
        phx_store_release_sys(&g.pads[peer]->done[block][g.rank], pad_word(g, p));
        if (!pad_await(g, p, &g.pads[g.rank]->done[block][peer], peer, PAD_END))
            return false;
        n = phx_load_relaxed_sys(&g.pads[g.rank]->bytes[block][peer]);
    }
    if (n > c.slot_bytes || (c.fixed && n != c.expected[peer]))
        return pad_raise(g, p, PAD_MISMATCH, peer, PAD_END);
    if (block == 0 && c.received != nullptr)
        c.received[peer] = (uint32_t)n;
    return true;
}

__global__ void __launch_bounds__(512, 1)
    exchange_kernel(const __grid_constant__ pad_group g, const __grid_constant__ exchange_call c)
{
    pad_place p;
    if (pad_begin(g, p)) {
        pad_next(g, p, false);
        if (__syncthreads_and(ask(g, p, c))) {
            for (unsigned s = 1; s <= g.size; s++) {
                unsigned to = s < g.size ? piece_peer(g, s) : g.rank;
                if ((c.peers >> to & 1) != 0)
                    push(g, c, to);
            }
            __syncthreads();
            conclude(g, p, c);
        }
    }
    pad_end(g, p);
}

enum status check_args(const coll_device_group *d, const coll_device_exchange_args *a,
    size_t *offset, struct error *err)
{
    unsigned size = d->group.size;
    size_t all;
    if (a->peers >> size != 0)
        return status_fail(err, STATUS_INVALID,
            "exchange: peers 0x%llx name ranks beyond the group of %u",
            (unsigned long long)a->peers, size);
    if (__builtin_mul_overflow(a->slot_bytes, (size_t)size, &all) ||
        (*offset = device_heap_offset(d, a->receive, all)) == SIZE_MAX)
        return status_fail(err, STATUS_INVALID,
            "exchange: %u slots of %zu bytes to receive into do not lie in the heap", size,
            a->slot_bytes);
    if (a->slot_bytes > UINT32_MAX)
        return status_fail(err, STATUS_TOO_LARGE,
            "exchange: slots of %zu bytes, at most 4 GiB on devices", a->slot_bytes);
    for (unsigned r = 0; r < size; r++)
        if ((a->peers >> r & 1) != 0 && a->device_counts == NULL &&
            a->send_bytes[r] > a->slot_bytes)
            return status_fail(err, STATUS_TOO_LARGE,
                "exchange: a block for rank %u is larger than the slot of %zu bytes", r,
                a->slot_bytes);
    return STATUS_OK;
}

} // namespace

enum status coll_device_exchange(
    struct coll_device_group *d, const struct coll_device_exchange_args *a, struct error *err)
{
    exchange_call c = {};
    size_t offset = 0;
    TRY(check_args(d, a, &offset, err));
    TRY(device_begin(d, a->stream, err));
    for (unsigned r = 0; r < d->group.size; r++) {
        c.send[r] = static_cast<const uint8_t *>(a->send[r]);
        c.send_bytes[r] = a->send_bytes[r];
        c.expected[r] = a->receive_bytes[r];
    }
    c.device_counts = a->device_counts;
    c.received = a->received;
    c.slot_bytes = a->slot_bytes;
    c.offset = offset;
    c.peers = (unsigned)a->peers;
    c.fixed = a->fixed;
    // Both sides of a pair must use as many blocks, so only what all have in common counts.
    size_t stretch = (size_t)d->threads * 16;
    unsigned blocks = device_blocks(d, (a->slot_bytes + stretch - 1) / stretch);
    pad_group g = device_call(d, DEVICE_EXCHANGE, a->slot_bytes, offset, a->fixed);
    return device_end(d, a->stream,
        phx_launch(device_launch(d, blocks, 0, a->stream), exchange_kernel, g, c), "exchange", err);
}
