// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda/attention_scene.hpp"

#include <cmath>
#include <cstring>

namespace
{

float element(const attention_scene &s, uint32_t what, uint32_t seq, uint32_t p, uint32_t i)
{
    struct random r = {
        s.seed * 7919ull + what * 104729ull + seq * 1299709ull + p * 15485863ull + i * 32452843ull};
    random_u32(&r);
    random_u32(&r);
    return random_float(&r, -2, 2);
}

void put(void *to, enum dtype t, size_t i, float x)
{
    if (t == DTYPE_F32)
        static_cast<float *>(to)[i] = x;
    else
        static_cast<uint16_t *>(to)[i] =
            t == DTYPE_F16 ? dtype_f16_from_f32(x) : dtype_bf16_from_f32(x);
}

float rounded(float x, enum dtype t)
{
    uint32_t room = 0;
    put(&room, t, 0, x);
    return static_cast<float>(ops_element(&room, t, 0));
}

std::vector<uint32_t> shuffled(uint32_t n, uint64_t order)
{
    std::vector<uint32_t> id(n);
    for (uint32_t i = 0; i < n; i++)
        id[i] = i;
    struct random r = {order};
    for (uint32_t i = n; i-- > 1;)
        std::swap(id[i], id[random_below(&r, i + 1)]);
    return id;
}

} // namespace

attention_pages::attention_pages(const attention_scene &s, attention_device device, uint64_t order)
    : kv(), on(device)
{
    uint32_t n = 1, next = 0;
    for (uint32_t length : s.length)
        n += (length + s.block_tokens - 1) / s.block_tokens;
    std::vector<uint32_t> id = shuffled(n, order);
    bytes = (uint64_t)n * s.n_kv_heads * s.block_tokens * s.head_dim * dtype_bytes(s.kv);
    std::vector<uint8_t> k(bytes, 0xff), v(bytes, 0xff);
    blocks.resize(s.length.size());
    for (uint32_t q = 0; q < s.length.size(); q++)
        for (uint32_t j = 0; j < s.length[q]; j++) {
            if (j % s.block_tokens == 0)
                blocks[q].push_back(id[next++]);
            for (uint32_t h = 0; h < s.n_kv_heads; h++) {
                size_t page = blocks[q].back();
                size_t at = (page * s.n_kv_heads + h) * s.block_tokens + j % s.block_tokens;
                for (uint32_t d = 0; d < s.head_dim; d++) {
                    uint32_t i = h * s.head_dim + d;
                    put(k.data(), s.kv, at * s.head_dim + d, element(s, 1, q, j, i));
                    put(v.data(), s.kv, at * s.head_dim + d, element(s, 2, q, j, i));
                }
            }
        }
    kv.k = on.k->mem_take(on.d, bytes);
    kv.v = on.k->mem_take(on.d, bytes);
    on.k->copy_in(on.d, kv.k, k.data(), bytes);
    on.k->copy_in(on.d, kv.v, v.data(), bytes);
    kv.dtype = s.kv;
    kv.n_kv_heads = s.n_kv_heads;
    kv.head_dim = s.head_dim;
    kv.block_tokens = s.block_tokens;
    kv.group = 1;
}

attention_pages::~attention_pages()
{
    on.k->mem_give(on.d, kv.k, bytes);
    on.k->mem_give(on.d, kv.v, bytes);
}

namespace
{

// The batch of a step: pages that the window has left behind belong to others.
struct step_batch {
    std::vector<struct batch_seq> seq;
    std::vector<std::vector<uint32_t>> tables;
    std::vector<uint32_t> positions;
    struct batch b = {};

    step_batch(const attention_scene &s, const attention_pages &pages,
        const std::vector<attention_span> &spans)
    {
        for (const attention_span &span : spans) {
            struct batch_seq q = {};
            q.first_row = b.n_rows;
            q.n_rows = span.to - span.from;
            q.first_position = span.from;
            tables.push_back(pages.blocks[span.seq]);
            tables.back().resize((span.to + s.block_tokens - 1) / s.block_tokens);
            for (uint32_t p = 0; s.window > 0 && p + s.window < span.from + 1; p++)
                if ((p + 1) % s.block_tokens == 0)
                    tables.back()[p / s.block_tokens] = UINT32_MAX;
            for (uint32_t p = span.from; p < span.to; p++)
                positions.push_back(p);
            q.n_blocks[1] = static_cast<uint32_t>(tables.back().size());
            b.n_rows += q.n_rows;
            seq.push_back(q);
        }
        for (size_t i = 0; i < seq.size(); i++)
            seq[i].blocks[1] = tables[i].data();
        b.n_seqs = static_cast<uint32_t>(seq.size());
        b.seq = seq.data();
        b.positions = positions.data();
    }
};

} // namespace

std::vector<float> attention_step(const attention_scene &s, const attention_pages &pages,
    attention_device on, const std::vector<attention_span> &spans)
{
    step_batch step(s, pages, spans);
    bool cpu = !on.k->device_memory;
    enum dtype t = cpu ? DTYPE_F32 : s.activation;
    uint64_t in_bytes = (uint64_t)step.b.n_rows * s.qkv_dim() * dtype_bytes(t);
    uint64_t out_bytes = (uint64_t)step.b.n_rows * s.out_dim() * dtype_bytes(t);
    std::vector<uint8_t> in(in_bytes, 0xff), raw(out_bytes);
    for (size_t i = 0; i < spans.size(); i++)
        for (uint32_t p = spans[i].from; p < spans[i].to; p++)
            for (uint32_t d = 0; d < s.out_dim(); d++)
                put(in.data(), t,
                    (size_t)(step.seq[i].first_row + p - spans[i].from) * s.qkv_dim() + d,
                    rounded(element(s, 0, spans[i].seq, p, d), s.activation));
    std::vector<float> slopes(s.n_heads), out((size_t)step.b.n_rows * s.out_dim());
    for (uint32_t h = 0; h < s.n_heads; h++)
        slopes[h] = exp2f(-8.0f * (float)(h + 1) / (float)s.n_heads);
    struct attention_args a = {};
    void *x = on.k->mem_take(on.d, in_bytes), *y = on.k->mem_take(on.d, out_bytes);
    void *z = on.k->mem_take(on.d, slopes.size() * sizeof(float));
    on.k->copy_in(on.d, x, in.data(), in_bytes);
    on.k->copy_in(on.d, z, slopes.data(), slopes.size() * sizeof(float));
    if (on.k->batch_begin != nullptr)
        on.k->batch_begin(on.d, &step.b);
    a.batch = &step.b;
    a.qkv = x;
    a.n_heads = s.n_heads;
    a.kv = pages.kv;
    a.scale = s.scale;
    a.softcap = s.softcap;
    a.window = s.window;
    a.alibi_slopes = s.alibi ? static_cast<const float *>(z) : nullptr;
    a.out = y;
    on.k->attention(on.d, &a);
    on.k->copy_out(on.d, raw.data(), y, out_bytes);
    struct error err;
    if (on.k->device_sync(on.d, &err) != STATUS_OK)
        fail_msg("attention: %s", err.text);
    for (size_t i = 0; i < out.size(); i++)
        out[i] = static_cast<float>(ops_element(raw.data(), t, i));
    on.k->mem_give(on.d, x, in_bytes);
    on.k->mem_give(on.d, y, out_bytes);
    on.k->mem_give(on.d, z, slopes.size() * sizeof(float));
    return out;
}
