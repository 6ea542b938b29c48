// SPDX-License-Identifier: Apache-2.0
// The exchanges that the system is made of, beside what MPI has for them.
#include "bench/coll_bench.h"

#include "base/check.h"

#include <string.h>

static void exchange(struct bench *s, enum coll_counts counts, uint64_t peers,
    const void *const *send, const size_t *send_bytes, float *receive, size_t slot, size_t *got)
{
    coll_bench_must(s, coll_exchange(s->g, &(struct coll_exchange_args){.counts = counts,
                                               .peers = peers,
                                               .send = send,
                                               .send_bytes = send_bytes,
                                               .receive = receive,
                                               .slot_bytes = slot,
                                               .receive_bytes = got}));
}

// Vocabulary-parallel logits to row-parallel sampling: block q of the input to rank q.
void coll_uses_logits(struct bench *s, enum variant v, float *in, float *out)
{
    size_t part = s->bytes / s->size, bytes[COLL_RANKS_MAX];
    const void *send[COLL_RANKS_MAX];
    if (v >= VARIANT_MPI) {
        MPI_Alltoall(in, (int)part, MPI_BYTE, out, (int)part, MPI_BYTE, MPI_COMM_WORLD);
        return;
    }
    for (uint32_t r = 0; r < s->size; r++) {
        send[r] = (const char *)in + r * part;
        bytes[r] = part;
    }
    exchange(s, COLL_COUNTS_FIXED, ~(uint64_t)0 >> (64 - s->size), send, bytes, out, part, bytes);
}

float coll_uses_logits_expected(const struct bench *s, size_t i)
{
    size_t part = s->n / s->size;
    return value((uint32_t)(i / part), s->rank * part + i % part, s->turn);
}

// KV heads held twice: each pair of ranks divides the sequence, so halves go to the other and to
// oneself; all other pairs have nothing to do with each other.
void coll_uses_kv_heads(struct bench *s, enum variant v, float *in, float *out)
{
    size_t half = s->bytes / 2, bytes[COLL_RANKS_MAX] = {0};
    const void *send[COLL_RANKS_MAX] = {0};
    uint32_t first = s->rank & ~1u, other = s->rank ^ 1u;
    if (v >= VARIANT_MPI) {
        MPI_Alltoall(in, (int)half, MPI_BYTE, out, (int)half, MPI_BYTE, s->pair_comm);
        return;
    }
    bytes[first] = bytes[first + 1] = half;
    send[first] = in;
    send[first + 1] = (const char *)in + half;
    uint64_t peers = (uint64_t)1 << s->rank | (uint64_t)1 << other;
    // The slots of the pair lie together; those of other ranks are never touched.
    exchange(s, COLL_COUNTS_FIXED, peers, send, bytes, s->heap, half, bytes);
    memcpy(out, (char *)s->heap + first * half, 2 * half);
}

float coll_uses_kv_heads_expected(const struct bench *s, size_t i)
{
    size_t half = s->n / 2;
    return value((s->rank & ~1u) + (uint32_t)(i / half), (s->rank & 1) * half + i % half, s->turn);
}

// Top 2 of 8 experts: which, for a token of a rank; the second is never the first.
static void experts_of(uint32_t rank, size_t token, uint64_t turn, uint32_t expert[2])
{
    uint64_t x = (token * 8 + rank + turn * 64 + 1) * 0x9e3779b97f4a7c15u;
    expert[0] = (uint32_t)(x >> 40) % EXPERTS;
    expert[1] = (expert[0] + 1 + (uint32_t)(x >> 50) % (EXPERTS - 1)) % EXPERTS;
}

// Bit q: rank q has an expert of this token. A token goes to each rank once.
static uint64_t ranks_of(const struct bench *s, uint32_t rank, size_t token)
{
    uint32_t expert[2];
    experts_of(rank, token, s->turn, expert);
    uint32_t per_rank = (EXPERTS + s->size - 1) / s->size;
    return (uint64_t)1 << expert[0] / per_rank | (uint64_t)1 << expert[1] / per_rank;
}

struct routes {
    int bytes[COLL_RANKS_MAX], at[COLL_RANKS_MAX], back[COLL_RANKS_MAX], back_at[COLL_RANKS_MAX];
    size_t slot; // floats
};

// Puts the tokens side by side in the order of the ranks they go to.
static void pack(const struct bench *s, const float *in, float *packed, struct routes *r)
{
    size_t tokens = s->n / TOKEN_FLOATS;
    for (uint32_t q = 0; q < s->size; q++) {
        size_t n = 0;
        for (size_t t = 0; t < tokens; t++)
            if (ranks_of(s, s->rank, t) >> q & 1)
                memcpy(packed + q * r->slot + n++ * TOKEN_FLOATS, in + t * TOKEN_FLOATS,
                    TOKEN_FLOATS * sizeof(float));
        r->bytes[q] = (int)(n * TOKEN_FLOATS * sizeof(float));
        r->at[q] = (int)(q * r->slot * sizeof(float));
    }
}

static void combine(const struct bench *s, float *out, const float *returned, size_t slot)
{
    size_t tokens = s->n / TOKEN_FLOATS;
    memset(out, 0, s->n * sizeof(float));
    for (uint32_t q = 0; q < s->size; q++) {
        const float *from = returned + q * slot;
        for (size_t t = 0; t < tokens; t++)
            if (ranks_of(s, s->rank, t) >> q & 1) {
                for (size_t i = 0; i < TOKEN_FLOATS; i++)
                    out[t * TOKEN_FLOATS + i] += from[i];
                from += TOKEN_FLOATS;
            }
    }
}

static void experts_mpi(struct bench *s, float *out, float *packed, float *there, struct routes *r)
{
    MPI_Alltoall(r->bytes, 1, MPI_INT, r->back, 1, MPI_INT, MPI_COMM_WORLD);
    MPI_Alltoallv(
        packed, r->bytes, r->at, MPI_BYTE, there, r->back, r->at, MPI_BYTE, MPI_COMM_WORLD);
    MPI_Alltoallv(
        there, r->back, r->at, MPI_BYTE, packed, r->bytes, r->at, MPI_BYTE, MPI_COMM_WORLD);
    combine(s, out, packed, r->slot);
}

// Dispatch and combine: the experts hand every token back as it is.
void coll_uses_experts(struct bench *s, enum variant v, float *in, float *out)
{
    struct routes r = {.slot = s->n};
    float *packed = s->extra, *there = s->heap, *returned = s->heap + s->size * s->n;
    pack(s, in, packed, &r);
    if (v >= VARIANT_MPI) {
        experts_mpi(s, out, packed, s->extra + s->size * s->n, &r);
        return;
    }
    const void *send[COLL_RANKS_MAX];
    size_t bytes[COLL_RANKS_MAX], got[COLL_RANKS_MAX], back[COLL_RANKS_MAX];
    uint64_t peers = ~(uint64_t)0 >> (64 - s->size);
    size_t slot = r.slot * sizeof(float);
    for (uint32_t q = 0; q < s->size; q++) {
        send[q] = packed + q * r.slot;
        bytes[q] = (size_t)r.bytes[q];
    }
    exchange(s, COLL_COUNTS_BOUNDED, peers, send, bytes, there, slot, got);
    for (uint32_t q = 0; q < s->size; q++)
        send[q] = there + q * r.slot;
    exchange(s, COLL_COUNTS_BOUNDED, peers, send, got, returned, slot, back);
    combine(s, out, returned, r.slot);
}

float coll_uses_experts_expected(const struct bench *s, size_t i)
{
    size_t token = i / TOKEN_FLOATS;
    uint64_t ranks = ranks_of(s, s->rank, token);
    return (float)__builtin_popcountll(ranks) * value(s->rank, i, s->turn);
}

// Two groups of half the ranks reduce at the same time, as two models of degree 4 do on 8 devices.
void coll_uses_halves(struct bench *s, enum variant v, float *in, float *out)
{
    if (v >= VARIANT_MPI)
        MPI_Allreduce(in, out, (int)s->n, MPI_FLOAT, MPI_SUM, s->half_comm);
    else
        coll_bench_must(s, coll_all_reduce(s->half,
                               &(struct coll_all_reduce_args){
                                   .buffer = out, .count = s->n, .symmetric = v == SYMMETRIC}));
}

float coll_uses_halves_expected(const struct bench *s, size_t i)
{
    uint32_t half = s->size / 2, first = s->rank < half ? 0 : half;
    float sum = 0;
    for (uint32_t r = first; r < (first == 0 ? half : s->size); r++)
        sum += value(r, i, s->turn);
    return sum;
}
