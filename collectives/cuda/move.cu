// SPDX-License-Identifier: Apache-2.0
// All-gather, broadcast and barrier: pieces that are pushed to all and copied out.
#include "collectives/cuda/device.cuh"

namespace
{

__global__ void __launch_bounds__(512, 1) gather_kernel(
    const __grid_constant__ pad_group g, const uint8_t *in, uint8_t *out, size_t bytes)
{
    pad_place p;
    bool fine = pad_begin(g, p);
    for (size_t at = (size_t)blockIdx.x * PAD_PART_BYTES; fine && at < bytes;
         at += (size_t)gridDim.x * PAD_PART_BYTES) {
        size_t n = bytes - at < PAD_PART_BYTES ? bytes - at : PAD_PART_BYTES;
        pad_next(g, p, true);
        for (unsigned s = 1; s < g.size; s++)
            piece_copy(pad_part(g, piece_peer(g, s), p.parity(), 0, g.rank), in + at, n);
        if (in != out + g.rank * bytes)
            piece_copy(out + g.rank * bytes + at, in + at, n);
        fine = pad_meet(g, p, PAD_START);
        for (unsigned s = 1; fine && s < g.size; s++) {
            unsigned r = piece_peer(g, s);
            piece_copy(out + r * bytes + at, pad_part(g, g.rank, p.parity(), 0, r), n);
        }
    }
    pad_end(g, p);
}

__global__ void __launch_bounds__(512, 1) broadcast_kernel(
    const __grid_constant__ pad_group g, uint8_t *buffer, size_t bytes, unsigned root)
{
    pad_place p;
    bool fine = pad_begin(g, p);
    for (size_t at = (size_t)blockIdx.x * PAD_PART_BYTES; fine && at < bytes;
         at += (size_t)gridDim.x * PAD_PART_BYTES) {
        size_t n = bytes - at < PAD_PART_BYTES ? bytes - at : PAD_PART_BYTES;
        pad_next(g, p, true);
        for (unsigned s = 1; g.rank == root && s < g.size; s++)
            piece_copy(pad_part(g, piece_peer(g, s), p.parity(), 0, root), buffer + at, n);
        fine = pad_meet(g, p, PAD_START);
        if (fine && g.rank != root)
            piece_copy(buffer + at, pad_part(g, g.rank, p.parity(), 0, root), n);
    }
    pad_end(g, p);
}

__global__ void barrier_kernel(const __grid_constant__ pad_group g)
{
    pad_place p;
    if (pad_begin(g, p)) {
        pad_next(g, p, true);
        pad_meet(g, p, PAD_START);
    }
    pad_end(g, p);
}

size_t pieces(size_t bytes)
{
    return (bytes + PAD_PART_BYTES - 1) / PAD_PART_BYTES;
}

} // namespace

enum status coll_device_all_gather(struct coll_device_group *d, const void *in, void *out,
    size_t bytes, void *stream, struct error *err)
{
    TRY(device_begin(d, stream, err));
    phx_launch_config l = device_launch(d, device_blocks(d, pieces(bytes)), 0, stream);
    return device_end(d, stream,
        phx_launch(l, gather_kernel, device_call(d, DEVICE_ALL_GATHER, bytes),
            static_cast<const uint8_t *>(in), static_cast<uint8_t *>(out), bytes),
        "all_gather", err);
}

enum status coll_device_broadcast(struct coll_device_group *d, void *buffer, size_t bytes,
    uint32_t root, void *stream, struct error *err)
{
    if (root >= d->group.size)
        return status_fail(
            err, STATUS_INVALID, "broadcast from rank %u of %u", (unsigned)root, d->group.size);
    TRY(device_begin(d, stream, err));
    phx_launch_config l = device_launch(d, device_blocks(d, pieces(bytes)), 0, stream);
    return device_end(d, stream,
        phx_launch(l, broadcast_kernel, device_call(d, DEVICE_BROADCAST, bytes, root),
            static_cast<uint8_t *>(buffer), bytes, (unsigned)root),
        "broadcast", err);
}

enum status coll_device_barrier(struct coll_device_group *d, void *stream, struct error *err)
{
    TRY(device_begin(d, stream, err));
    phx_launch_config l = device_launch(d, 1, 0, stream);
    l.block = dim3(32);
    return device_end(d, stream, phx_launch(l, barrier_kernel, device_call(d, DEVICE_BARRIER, 0)),
        "barrier", err);
}
