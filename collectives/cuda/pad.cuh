// SPDX-License-Identifier: Apache-2.0
// The pad of a rank, and how blocks wait for each other.
//
//   pad: | head: counters, flags | packets[block][parity][source] |
//   parts[block][parity][stage][source] |
//
// Block b of a rank works only with block b of the others: it has its own counters, flags and
// buffers, so blocks need not wait for each other within a rank, and a launch with fewer blocks
// than another leaves the rest untouched.
//
// Two counters. `epoch` counts the pieces of all operations of a block, so it names a piece; flags
// are {epoch, signature of the operation}. A flag that is waited for stays until it was seen, so
// epochs are compared for equality: a word that was last used half a round of the counter ago is
// not taken for one of the future. `turn` counts the pieces in which every rank meets every other;
// its parity chooses the buffers. A rank may write buffers of turn t only when all have finished
// turn t - 2, and it knows that: it has seen a flag of turn t - 1 from each of them.
//
// Order of memory: data, __syncthreads, release of the flag; acquire of the flag, __syncthreads,
// data.
#ifndef PHALANX_COLLECTIVES_CUDA_PAD_CUH
#define PHALANX_COLLECTIVES_CUDA_PAD_CUH

#include "collectives/cuda/device.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/types.cuh"

constexpr unsigned PAD_RANKS = COLL_DEVICE_RANKS_MAX;
constexpr unsigned PAD_BLOCKS = COLL_DEVICE_BLOCKS_MAX;
constexpr unsigned PAD_PACKETS = 512;     // of 8 bytes of data each: 4 KiB in one piece
constexpr unsigned PAD_PART_BYTES = 8192; // of one source in one piece
constexpr unsigned PAD_LOOKS = 256;       // polls between two looks at the clock and at the peers

enum pad_phase { PAD_START, PAD_MIDDLE, PAD_END, PAD_CLEAR, PAD_PHASES };

// Codes of an error record: code << 56 | reporter << 48 | culprit << 40 | phase << 32 | epoch.
enum pad_code { PAD_FINE, PAD_TIMEOUT, PAD_MISMATCH, PAD_ABORTED, PAD_TOO_LARGE };

struct pad_counters {
    unsigned epoch, turn;
};

struct pad_head {
    // Written by this rank only.
    pad_counters counters[PAD_BLOCKS];
    phx_u64 now[PAD_BLOCKS]; // the piece that the block is at; peers look when they wait for long
    phx_u64 error;           // the first record of this rank
    // Written by the rank of the last index.
    phx_u64 flags[PAD_BLOCKS][PAD_PHASES][2][PAD_RANKS];
    phx_u64 ready[PAD_BLOCKS][PAD_RANKS], done[PAD_BLOCKS][PAD_RANKS], bytes[PAD_BLOCKS][PAD_RANKS];
    phx_u64 aborts[PAD_RANKS];
};

// In host memory, mapped for the device.
struct pad_status {
    phx_u64 record; // written by the device
    unsigned abort; // written by the host
    unsigned waits; // written by the device: changes while a kernel waits for long
};

// What every kernel gets.
struct pad_group {
    unsigned rank, size, blocks;
    unsigned signature; // of this operation
    phx_u64 timeout_ns;
    pad_status *status;
    pad_head *pads[PAD_RANKS];
    uint8_t *heaps[PAD_RANKS];
};

__host__ __device__ inline size_t pad_head_bytes()
{
    return (sizeof(pad_head) + 255) / 256 * 256;
}

__device__ __forceinline__ phx_pair *pad_packets(
    const pad_group &g, unsigned owner, unsigned parity, unsigned source)
{
    uint8_t *p = reinterpret_cast<uint8_t *>(g.pads[owner]) + pad_head_bytes();
    size_t index = (size_t)(blockIdx.x * 2 + parity) * g.size + source;
    return reinterpret_cast<phx_pair *>(p) + index * PAD_PACKETS;
}

__device__ __forceinline__ uint8_t *pad_part(
    const pad_group &g, unsigned owner, unsigned parity, unsigned stage, unsigned source)
{
    uint8_t *p = reinterpret_cast<uint8_t *>(g.pads[owner]) + pad_head_bytes();
    p += (size_t)g.blocks * 2 * g.size * PAD_PACKETS * sizeof(phx_pair);
    size_t index = ((size_t)(blockIdx.x * 2 + parity) * 2 + stage) * g.size + source;
    return p + index * PAD_PART_BYTES;
}

// Where a block is; every thread has the same.
struct pad_place {
    unsigned epoch, turn;
    phx_u64 deadline;

    __device__ unsigned parity() const
    {
        return turn & 1;
    }
};

__device__ __forceinline__ phx_u64 pad_word(const pad_group &g, const pad_place &p)
{
    return (phx_u64)g.signature << 32 | p.epoch;
}

// By signed distance, because epochs come round; for `now`, which is written at every piece.
__device__ __forceinline__ bool pad_passed(phx_u64 now, unsigned epoch)
{
    return (int)((unsigned)now - epoch) > 0;
}

// Ends the group: the first record of a rank stays, its host and all peers are told. Always false.
__device__ __forceinline__ bool pad_raise(
    const pad_group &g, const pad_place &p, pad_code code, unsigned culprit, unsigned phase)
{
    phx_u64 record = (phx_u64)code << 56 | (phx_u64)g.rank << 48 | (phx_u64)culprit << 40 |
                     (phx_u64)phase << 32 | p.epoch;
    if (atomicCAS(&g.pads[g.rank]->error, (phx_u64)0, record) != 0)
        return false;
    phx_store_release_sys(&g.status->record, record);
    for (unsigned r = 0; r < g.size; r++)
        if (r != g.rank)
            phx_store_release_sys(&g.pads[r]->aborts[g.rank], record);
    return false;
}

// Whether nobody has ended the group.
__device__ __forceinline__ bool pad_well(const pad_group &g, const pad_place &p)
{
    pad_head *own = g.pads[g.rank];
    if (phx_load_relaxed_sys(&own->error) != 0)
        return false;
    if (phx_load_relaxed_sys(&g.status->abort) != 0)
        return pad_raise(g, p, PAD_ABORTED, g.rank, 0);
    for (unsigned r = 0; r < g.size; r++) {
        phx_u64 record = phx_load_relaxed_sys(&own->aborts[r]);
        if (record != 0)
            return pad_raise(g, p, (pad_code)(record >> 56), (unsigned)(record >> 40) & 0xff,
                (unsigned)(record >> 32) & 0xff);
    }
    return true;
}

// A look around after many polls; false when waiting has no use any more.
__device__ __forceinline__ bool pad_look(
    const pad_group &g, const pad_place &p, const phx_u64 *word, unsigned peer, unsigned phase)
{
    if (!pad_well(g, p))
        return false;
    phx_u64 now = phx_load_acquire_sys(&g.pads[peer]->now[blockIdx.x]);
    if ((unsigned)now == p.epoch && now != pad_word(g, p))
        return pad_raise(g, p, PAD_MISMATCH, peer, phase);
    if (pad_passed(now, p.epoch) && (unsigned)phx_load_acquire_sys(word) != p.epoch)
        return pad_raise(g, p, PAD_MISMATCH, peer, phase);
    phx_u64 clock = phx_clock_ns();
    if (clock > p.deadline)
        return pad_raise(g, p, PAD_TIMEOUT, peer, phase);
    phx_store_relaxed_sys(&g.status->waits, (unsigned)(clock >> 10));
    return true;
}

// Waits until `peer` has raised its flag for this piece.
__device__ __forceinline__ bool pad_await(
    const pad_group &g, const pad_place &p, const phx_u64 *word, unsigned peer, unsigned phase)
{
    for (unsigned polls = 1;; polls++) {
        phx_u64 got = phx_load_acquire_sys(word);
        if ((unsigned)got == p.epoch)
            return got == pad_word(g, p) || pad_raise(g, p, PAD_MISMATCH, peer, phase);
        if (polls % PAD_LOOKS == 0 && !pad_look(g, p, word, peer, phase))
            return false;
    }
}

__device__ __forceinline__ phx_u64 *pad_flag(
    const pad_group &g, const pad_place &p, unsigned owner, unsigned phase, unsigned source)
{
    return &g.pads[owner]->flags[blockIdx.x][phase][p.parity()][source];
}

// Every kernel begins with it and ends with pad_end; false: the group has ended. The host's word is
// looked at only in long waits, because it lies across the bus.
__device__ __forceinline__ bool pad_begin(const pad_group &g, pad_place &p)
{
    const pad_counters &c = g.pads[g.rank]->counters[blockIdx.x];
    p.epoch = c.epoch;
    p.turn = c.turn;
    p.deadline = phx_clock_ns() + g.timeout_ns;
    bool well = threadIdx.x != 0 || phx_load_relaxed_sys(&g.pads[g.rank]->error) == 0;
    return __syncthreads_and(well) != 0;
}

__device__ __forceinline__ void pad_end(const pad_group &g, const pad_place &p)
{
    __syncthreads();
    if (threadIdx.x == 0) {
        pad_counters &c = g.pads[g.rank]->counters[blockIdx.x];
        c.epoch = p.epoch;
        c.turn = p.turn;
    }
}

// A round of the counters later a word that was left behind would be taken for a new one. So twice
// a round, whatever operation runs there, each block forgets what is older than a few pieces.
constexpr unsigned PAD_HALF = 0x80000000u;
constexpr int PAD_NEAR = 1 << 16;

// Flags: others may be raising new ones meanwhile, which stay.
__device__ inline void pad_forget_flags(phx_u64 *words, unsigned n, unsigned epoch)
{
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) {
        phx_u64 old = phx_load_relaxed_sys(words + i);
        int distance = (int)((unsigned)old - epoch);
        if (distance > PAD_NEAR || distance < -PAD_NEAR)
            atomicCAS_system(words + i, old, (phx_u64)0);
    }
}

// Packets of this turn's parity: all of them are of turns that have been taken. Others write there
// again when this rank has raised a flag of this turn: see packets_piece.
__device__ __forceinline__ bool pad_forgets_packets(const pad_place &p)
{
    return (p.turn & (PAD_HALF - 2)) == 0;
}

__device__ inline void pad_forget_packets(const pad_group &g, const pad_place &p)
{
    phx_u64 flag = (phx_u64)(p.turn ^ PAD_HALF) << 32;
    for (unsigned r = 0; r < g.size; r++)
        for (unsigned i = threadIdx.x; i < PAD_PACKETS; i += blockDim.x)
            phx_store_pair_sys(pad_packets(g, g.rank, p.parity(), r) + i, {flag, flag});
}

__device__ __forceinline__ void pad_forget(const pad_group &g, const pad_place &p, bool all_meet)
{
    pad_head *own = g.pads[g.rank];
    unsigned block = blockIdx.x;
    if ((p.epoch & (PAD_HALF - 1)) == 1) {
        pad_forget_flags(&own->flags[block][0][0][0], PAD_PHASES * 2 * PAD_RANKS, p.epoch);
        pad_forget_flags(own->ready[block], PAD_RANKS, p.epoch);
        pad_forget_flags(own->done[block], PAD_RANKS, p.epoch);
    }
    if (all_meet && pad_forgets_packets(p))
        pad_forget_packets(g, p);
}

// The next piece: of an exchange (only pairs meet), or of an operation in which all meet.
__device__ __forceinline__ void pad_next(const pad_group &g, pad_place &p, bool all_meet)
{
    p.epoch += p.epoch == 0xffffffffu ? 2 : 1; // 0 is what untouched flags hold
    p.turn += all_meet;
    if (threadIdx.x == 0)
        phx_store_release_sys(&g.pads[g.rank]->now[blockIdx.x], pad_word(g, p));
    pad_forget(g, p, all_meet);
}

// All ranks: what each block has written before, to its own or to others' memory, may be read
// after.
__device__ __forceinline__ bool pad_meet(const pad_group &g, const pad_place &p, unsigned phase)
{
    unsigned peer = threadIdx.x;
    bool fine = true;
    __syncthreads();
    if (peer < g.size && peer != g.rank) {
        phx_store_release_sys(pad_flag(g, p, peer, phase, g.rank), pad_word(g, p));
        fine = pad_await(g, p, pad_flag(g, p, g.rank, phase, peer), peer, phase);
    }
    return __syncthreads_and(fine) != 0;
}

#endif
