// SPDX-License-Identifier: Apache-2.0
// The host's side of attention: which form does which sequences, and how many blocks share a tile.
// Neither changes a bit of any row.
#include "kernels/cuda/attention.cuh"

namespace
{

constexpr unsigned blocks_per_sm = 4; // fewer tiles than that: blocks share them
constexpr size_t partial_bytes_max = (size_t)64 << 20;
constexpr float log2_e = 1.4426950408889634f;

// What a launch has at most. While a graph is recorded the batch gives upper bounds only, and its
// sequences are on the device: blocks that find no tile of theirs end at once.
struct shapes {
    unsigned tiles, tiles_each, pairs;
};

// For sequences with pairs in (above, up_to].
shapes count_tiles(const struct device_batch &b, unsigned heads, unsigned tile_pairs,
    unsigned above, unsigned up_to)
{
    uint64_t longest = (uint64_t)b.seq_rows * heads, all = (uint64_t)b.n_rows * heads;
    shapes s = {0, 0, (unsigned)(longest < up_to ? longest : up_to)};
    if (b.n_seqs == 0 || longest <= above)
        return s;
    if (s.pairs <= tile_pairs || b.n_seqs == 1) {
        s.tiles_each = (s.pairs + tile_pairs - 1) / tile_pairs;
        s.tiles = s.tiles_each * b.n_seqs;
        return s;
    }
    uint64_t seqs = all / (above + 1) < b.n_seqs ? all / (above + 1) : b.n_seqs;
    s.tiles = (unsigned)(all / tile_pairs + seqs);
    return s;
}

unsigned shift_of(unsigned n)
{
    unsigned shift = 0;
    while (shift < 32 && 1u << shift < n)
        shift++;
    return (n & (n - 1)) == 0 ? shift : 32;
}

attention_call make_call(const struct device *d, const struct attention_args *a)
{
    attention_call c = {};
    c.counts = d->batch.counts;
    c.seq = d->batch.seq;
    c.tables = d->batch.blocks;
    c.kv_group = a->kv.group;
    c.q = a->qkv;
    c.k = a->kv.k;
    c.v = a->kv.v;
    c.out = a->out;
    c.q_stride = (size_t)(a->n_heads + 2 * a->kv.n_kv_heads) * a->kv.head_dim;
    c.n_heads = a->n_heads;
    c.n_kv_heads = a->kv.n_kv_heads;
    c.heads = a->n_heads / a->kv.n_kv_heads;
    c.head_dim = a->kv.head_dim;
    c.block_tokens = a->kv.block_tokens;
    c.block_shift = shift_of(a->kv.block_tokens);
    c.window = a->window;
    c.scale = a->softcap > 0 ? a->scale / a->softcap : a->scale * log2_e;
    c.softcap = a->softcap > 0 ? a->softcap * log2_e : 0.0f;
    c.slopes = a->alibi_slopes;
    return c;
}

// Room for the chunks of shared tiles, if they are to be shared.
bool plan_splits(
    struct device *d, attention_call *c, attention_plan *p, const shapes &s, unsigned tile_pairs)
{
    unsigned units = s.tiles * c->n_kv_heads, wanted = blocks_per_sm * d->n_sms;
    unsigned keys =
        c->window > 0 ? min(d->batch.n_keys, c->window + s.pairs / c->heads) : d->batch.n_keys;
    unsigned chunks = keys / attention_chunk + 2;
    p->splits = 1;
    if (units >= wanted || units > DEVICE_TICKETS || d->batch.n_keys <= attention_chunk)
        return true;
    unsigned pairs = min(s.pairs, tile_pairs);
    size_t each = (size_t)pairs * (c->head_dim + 2) * sizeof(float);
    size_t bytes = (size_t)units * chunks * each;
    if (bytes > partial_bytes_max)
        return true;
    c->partial = static_cast<float *>(device_workspace(d, bytes));
    c->arrived = device_tickets(d);
    if (c->partial == nullptr || c->arrived == nullptr)
        return false;
    c->capacity = chunks;
    c->pairs_stride = pairs;
    unsigned splits = (wanted + units - 1) / units;
    p->splits = min(splits, chunks);
    return true;
}

enum form { FORM_PLAIN, FORM_DECODE, FORM_PREFILL };

void start(struct device *d, const struct attention_args *a, form f, unsigned above, unsigned up_to)
{
    attention_call c = make_call(d, a);
    unsigned tile = f == FORM_PLAIN    ? attention_plain_pairs
                    : f == FORM_DECODE ? attention_decode_pairs
                                       : attention_prefill_pairs;
    shapes s = count_tiles(d->batch, c.heads, tile, above, up_to);
    attention_plan p = {s.tiles, 1, d};
    if (s.tiles == 0 || !plan_splits(d, &c, &p, s, tile))
        return;
    c.pairs_above = above;
    c.pairs_up_to = up_to;
    c.tiles_each = s.tiles_each;
    cudaError_t e = f == FORM_PLAIN    ? attention_plain_start(p, c, d->activation, a->kv.dtype)
                    : f == FORM_DECODE ? attention_decode_start(p, c, d->activation)
                                       : attention_prefill_start(p, c, d->activation);
    device_keep(d, e, "attention");
}

} // namespace

// Of what plan_splits may ask for: units below `wanted`, chunks of the longest sequence.
uint64_t device_attention_bytes(const struct device *d, const struct mem_needs_args *a)
{
    unsigned pairs = max(attention_prefill_pairs, attention_decode_pairs);
    uint64_t chunks = a->ids_max / attention_chunk + 2;
    uint64_t units = min(blocks_per_sm * d->n_sms, (unsigned)DEVICE_TICKETS);
    uint64_t bytes = units * chunks * pairs * (a->head_dim + 2) * sizeof(float);
    return bytes < partial_bytes_max ? bytes : partial_bytes_max;
}

void cuda_attention(struct device *d, const struct attention_args *a)
{
    check(a->kv.n_kv_heads > 0 && a->n_heads % a->kv.n_kv_heads == 0 && a->kv.block_tokens > 0);
    check(a->kv.head_dim > 0 && a->kv.head_dim <= 512 && a->kv.group < KERNELS_KV_GROUPS_MAX);
    if (d->failed != STATUS_OK)
        return;
    if (!attention_decode_has(d, d->activation, a->kv.dtype, a->kv.head_dim)) {
        start(d, a, FORM_PLAIN, 0, UINT32_MAX);
        return;
    }
    // Few rows are one launch, whatever their sequences have: the form changes no bit.
    bool prefill = d->batch.n_rows > KERNELS_FUSED_ROWS && attention_prefill_has(d, a->kv.head_dim);
    uint64_t fewest = (uint64_t)d->batch.seq_rows_least * (a->n_heads / a->kv.n_kv_heads);
    if (!prefill || fewest <= attention_decode_pairs)
        start(d, a, FORM_DECODE, 0, prefill ? attention_decode_pairs : UINT32_MAX);
    if (prefill)
        start(d, a, FORM_PREFILL, attention_decode_pairs, UINT32_MAX);
}
