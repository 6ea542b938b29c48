// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda/support.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

static const struct kernels *table()
{
    const char *name = std::getenv("PHALANX_TEST_DEVICE");
    const struct kernels *found = nullptr;
    struct error err = {};
    if (name == nullptr)
        return phalanx_plugin()->kernels;
    if (kernels_find(name, &found, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return found;
}

sides::sides(enum dtype activation, enum determinism d)
    : cpu(kernels_cpu()), emu(table()), cpu_device(nullptr), emu_device(nullptr), type(activation)
{
    struct error err = {};
    struct device_args args = {};
    args.n_threads = 1;
    args.isa = "plain";
    assert_int_equal(cpu->device_open(&args, &cpu_device, &err), STATUS_OK);
    args.activation = activation;
    args.determinism = d;
    if (emu->device_open(&args, &emu_device, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

sides::~sides()
{
    cpu->device_close(cpu_device);
    emu->device_close(emu_device);
}

void sides::sync() const
{
    struct error err = {};
    if (emu->device_sync(emu_device, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

on_device::on_device(const sides &sides_, size_t n_bytes)
    : s(&sides_), p(s->emu->mem_take(s->emu_device, n_bytes)), bytes(n_bytes)
{
    assert_non_null(p);
    std::vector<uint8_t> ones(bytes, 0xff);
    s->emu->copy_in(s->emu_device, p, ones.data(), bytes);
}

static std::vector<uint8_t> narrowed(const floats &from, enum dtype t)
{
    std::vector<uint8_t> to(from.size() * dtype_bytes(t));
    for (size_t i = 0; i < from.size(); i++) {
        uint16_t h = t == DTYPE_BF16 ? dtype_bf16_from_f32(from[i]) : dtype_f16_from_f32(from[i]);
        if (t == DTYPE_F32)
            std::memcpy(&to[4 * i], &from[i], 4);
        else
            std::memcpy(&to[2 * i], &h, 2);
    }
    return to;
}

on_device::on_device(const sides &sides_, const floats &from, enum dtype t)
    : on_device(sides_, from.size() * dtype_bytes(t))
{
    std::vector<uint8_t> narrow = narrowed(from, t);
    s->emu->copy_in(s->emu_device, p, narrow.data(), bytes);
}

on_device::~on_device()
{
    s->emu->mem_give(s->emu_device, p, bytes);
}

std::vector<uint8_t> on_device::bytes_read() const
{
    std::vector<uint8_t> got(bytes);
    s->emu->copy_out(s->emu_device, got.data(), p, bytes);
    s->sync();
    return got;
}

floats on_device::read(enum dtype t) const
{
    std::vector<uint8_t> got = bytes_read();
    floats out(bytes / dtype_bytes(t));
    for (size_t i = 0; i < out.size(); i++)
        out[i] = static_cast<float>(ops_element(got.data(), t, i));
    return out;
}

floats rounded(const floats &x, enum dtype t)
{
    std::vector<uint8_t> narrow = narrowed(x, t);
    floats out(x.size());
    for (size_t i = 0; i < x.size(); i++)
        out[i] = static_cast<float>(ops_element(narrow.data(), t, i));
    return out;
}

floats draw(struct random *r, size_t n, float scale, enum dtype t)
{
    floats x(n);
    for (float &f : x)
        f = random_normal(r) * scale;
    return rounded(x, t);
}

both_weights::both_weights(
    const sides &sides_, const floats &from, uint32_t n, uint32_t k, enum dtype t, uint32_t n_parts)
    : s(&sides_), data(narrowed(from, t)), cpu(nullptr), emu(nullptr), type(t)
{
    struct weight_source source = {};
    source.dtype = t;
    source.n = n;
    source.k = k;
    source.n_parts = n_parts;
    uint64_t row = static_cast<uint64_t>(k) * dtype_bytes(t);
    for (uint32_t i = 0, begin = 0; i < n_parts; i++) {
        uint32_t rows = i + 1 == n_parts ? n - begin : n / n_parts;
        source.part[i] = {data.data() + begin * row, row, rows};
        begin += rows;
    }
    struct error err = {};
    assert_int_equal(s->cpu->weight_make(s->cpu_device, &source, &cpu, &err), STATUS_OK);
    if (s->emu->weight_make(s->emu_device, &source, &emu, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

both_weights::~both_weights()
{
    s->cpu->weight_free(s->cpu_device, cpu);
    s->emu->weight_free(s->emu_device, emu);
}

test_batch::test_batch(struct random *r, const shape &want) : b(), n_pages(0)
{
    uint32_t rows = 0;
    seq.resize(want.n_seqs);
    tables.resize(want.n_seqs * KERNELS_KV_GROUPS_MAX);
    for (uint32_t i = 0; i < want.n_seqs; i++) {
        uint32_t least = want.empty_ones && want.n_seqs > 1 ? 0 : 1;
        uint32_t n = least + random_below(r, want.rows_most);
        uint32_t first = random_below(r, want.position_most + 1);
        seq[i] = batch_seq();
        seq[i].first_row = rows;
        seq[i].n_rows = n;
        seq[i].first_position = first;
        uint32_t pages = (first + n + want.block_tokens - 1) / want.block_tokens;
        for (uint32_t g = 0; g < KERNELS_KV_GROUPS_MAX; g++) {
            tables[i * KERNELS_KV_GROUPS_MAX + g].resize(pages);
            seq[i].n_blocks[g] = pages;
        }
        n_pages += pages;
        for (uint32_t k = 0; k < n; k++) {
            positions.push_back(first + k);
            ids.push_back(random_below(r, want.vocab_size));
            if (random_below(r, 3) == 0)
                logit_rows.push_back(rows + k);
        }
        rows += n;
    }
    std::vector<uint32_t> order(n_pages);
    for (uint32_t g = 0; g < KERNELS_KV_GROUPS_MAX; g++) {
        for (uint32_t i = 0; i < n_pages; i++)
            order[i] = i;
        for (uint32_t i = n_pages; i > 1; i--)
            std::swap(order[i - 1], order[random_below(r, i)]);
        uint32_t next = 0;
        for (uint32_t i = 0; i < want.n_seqs; i++) {
            std::vector<uint32_t> &t = tables[i * KERNELS_KV_GROUPS_MAX + g];
            for (uint32_t &page : t)
                page = order[next++];
            seq[i].blocks[g] = t.data();
        }
    }
    b.n_rows = rows;
    b.n_seqs = want.n_seqs;
    b.n_logit_rows = static_cast<uint32_t>(logit_rows.size());
    b.token_ids = ids.data();
    b.positions = positions.data();
    b.seq = seq.data();
    b.logit_rows = logit_rows.data();
}

void assert_close(
    const char *what, const floats &expected, const floats &got, enum dtype t, double scale)
{
    double relative = t == DTYPE_F32 ? 1e-5 : t == DTYPE_F16 ? 2 * 0x1p-11 : 2 * 0x1p-8;
    assert_int_equal(expected.size(), got.size());
    for (size_t i = 0; i < got.size(); i++) {
        double e = static_cast<double>(expected[i]), g = static_cast<double>(got[i]);
        // In the smallest f16 numbers a unit is not relative.
        double most = relative * (std::fabs(e) + (t == DTYPE_F32 ? scale : scale * 0.01));
        if (t == DTYPE_F16)
            most += 0x1p-23;
        if (!(std::fabs(g - e) <= most))
            fail_msg("%s: element %zu of %zu is %.9g, expected %.9g", what, i, got.size(), g, e);
    }
}

void assert_equal(const char *what, const floats &expected, const floats &got)
{
    assert_int_equal(expected.size(), got.size());
    for (size_t i = 0; i < got.size(); i++)
        if (std::memcmp(&expected[i], &got[i], 4) != 0)
            fail_msg("%s: element %zu of %zu is %a, expected %a", what, i, got.size(),
                static_cast<double>(got[i]), static_cast<double>(expected[i]));
}
