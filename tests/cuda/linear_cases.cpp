// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda/linear_cases.hpp"

#include <cmath>
#include <cstdlib>
#include <ctime>

extern "C" const struct plugin *phalanx_plugin(void);

static bool emulated()
{
    return std::getenv("PHALANX_TEST_DEVICE") == nullptr;
}

static const struct kernels *test_table()
{
    const struct kernels *found = nullptr;
    struct error err;
    if (emulated())
        return phalanx_plugin()->kernels;
    if (kernels_find(std::getenv("PHALANX_TEST_DEVICE"), &found, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return found;
}

std::uint32_t linear_random::next()
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::uint32_t>(state >> 33) ^ static_cast<std::uint32_t>(state >> 20);
}

std::uint32_t linear_random::below(std::uint32_t n)
{
    return next() % n;
}

float linear_random::value()
{
    return static_cast<float>(static_cast<std::int32_t>(next())) * 0x1.0p-31f;
}

std::uint64_t test_seed()
{
    std::uint64_t seed = static_cast<std::uint64_t>(time(nullptr));
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
    return seed;
}

linear_buffer::linear_buffer(enum dtype t, size_t n)
    : type(t), count(n), bytes(n * dtype_bytes(t) + 16)
{
    poison();
}

float linear_buffer::at(size_t i) const
{
    const std::uint8_t *p = bytes.data() + i * dtype_bytes(type);
    float f;
    std::uint16_t h;
    std::memcpy(&f, p, type == DTYPE_F32 ? 4 : 2);
    std::memcpy(&h, p, 2);
    return type == DTYPE_F32   ? f
           : type == DTYPE_F16 ? dtype_f32_from_f16(h)
                               : dtype_f32_from_bf16(h);
}

void linear_buffer::put(size_t i, float v)
{
    std::uint8_t *p = bytes.data() + i * dtype_bytes(type);
    std::uint16_t h = type == DTYPE_F16 ? dtype_f16_from_f32(v) : dtype_bf16_from_f32(v);
    if (type == DTYPE_F32)
        std::memcpy(p, &v, 4);
    else
        std::memcpy(p, &h, 2);
}

void linear_buffer::poison()
{
    std::memset(bytes.data(), 0xff, bytes.size());
}

bool linear_buffer::poisoned(size_t i) const
{
    for (size_t b = i * dtype_bytes(type); b < (i + 1) * dtype_bytes(type); b++)
        if (bytes[b] != 0xff)
            return false;
    return true;
}

linear_memory::linear_memory(const struct kernels *k, struct device *d, size_t n)
    : table(k), device(d), p(k->mem_take(d, n)), bytes(n)
{
    assert_non_null(p);
    std::vector<std::uint8_t> ones(n, 0xff);
    table->copy_in(device, p, ones.data(), n);
}

linear_memory::~linear_memory()
{
    table->mem_give(device, p, bytes);
}

linear_case::linear_case(enum dtype activation_type, enum dtype weight_type, uint32_t rows,
    uint32_t columns, uint32_t length, uint64_t seed)
    : activation(activation_type), weights(weight_type), m(rows), n(columns), k(length),
      x_stride(k + static_cast<uint32_t>(seed * 3 % 4) * (seed % 2 == 0 ? 8 : 3)),
      out_stride(n + static_cast<uint32_t>(seed % 5)), out_f32(seed % 3 == 0),
      has_bias(seed % 2 == 0), x(activation, static_cast<size_t>(m) * x_stride),
      w(weights, static_cast<size_t>(n) * k), bias(weights, n),
      out(out_f32 ? DTYPE_F32 : activation, static_cast<size_t>(m) * out_stride),
      table(test_table()), device(nullptr), w_handle(nullptr), bias_handle(nullptr),
      x_there(nullptr)
{
    linear_random r(seed);
    for (size_t i = 0; i < static_cast<size_t>(m) * x_stride; i++)
        if (i % x_stride < k) // the gaps stay NaNs
            x.put(i, r.value());
    for (size_t i = 0; i < static_cast<size_t>(n) * k; i++)
        w.put(i, r.value());
    for (size_t i = 0; i < n; i++)
        bias.put(i, r.value());
    struct device_args a = {};
    a.activation = activation;
    a.determinism = DETERMINISM_BATCH;
    struct error err;
    if (table->device_open(&a, &device, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    w_handle = make(w, n, k);
    bias_handle = make(bias, 1, n);
    x_there = table->mem_take(device, x.bytes.size());
    assert_non_null(x_there);
    table->copy_in(device, x_there, x.bytes.data(), x.bytes.size());
    set_sms(132);
}

linear_case::~linear_case()
{
    table->mem_give(device, x_there, x.bytes.size());
    table->weight_free(device, w_handle);
    table->weight_free(device, bias_handle);
    table->device_close(device);
}

void linear_case::set_out(bool f32, bool bias_too)
{
    out_f32 = f32;
    has_bias = bias_too;
    out = linear_buffer(out_f32 ? DTYPE_F32 : activation, static_cast<size_t>(m) * out_stride);
}

void linear_case::set_sms(uint32_t n_sms)
{
    if (emulated())
        device->n_sms = n_sms;
}

struct weight *linear_case::make(const linear_buffer &from, uint32_t rows, uint32_t columns) const
{
    struct weight_source s = {};
    s.format = WEIGHT_DENSE;
    s.dtype = from.type;
    s.n = rows;
    s.k = columns;
    s.n_parts = 1;
    s.part[0] = {from.bytes.data(), static_cast<uint64_t>(columns) * dtype_bytes(from.type), rows};
    struct weight *made = nullptr;
    struct error err;
    if (table->weight_make(device, &s, &made, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return made;
}

void linear_case::finish(linear_buffer *to, const linear_memory &from, uint64_t seed) const
{
    struct error err;
    emu_seed(seed);
    table->copy_out(device, to->bytes.data(), from.p, to->bytes.size());
    if (table->device_sync(device, &err) != STATUS_OK)
        fail_msg("%s x %s, M %u N %u K %u, seed %llu: %s", dtype_name(activation),
            dtype_name(weights), m, n, k, static_cast<unsigned long long>(seed), err.text);
}

struct linear_args linear_case::args(uint32_t first, uint32_t rows, void *to) const
{
    struct linear_args a = {};
    a.n_rows = rows;
    a.x = static_cast<const char *>(x_there) +
          static_cast<size_t>(first) * x_stride * dtype_bytes(activation);
    a.x_stride = x_stride;
    a.w = w_handle;
    a.bias = has_bias ? bias_handle : nullptr;
    a.out = to;
    a.out_stride = out_stride;
    a.out_f32 = out_f32;
    return a;
}

void linear_case::multiply(uint32_t first, uint32_t rows, linear_buffer &to, uint64_t seed) const
{
    linear_memory there(table, device, to.bytes.size());
    struct linear_args a = args(first, rows, there.p);
    table->linear(device, &a);
    finish(&to, there, seed);
}

void linear_case::run(uint64_t seed)
{
    multiply(0, m, out, seed);
    for (size_t i = 0; i < out.count; i++)
        if ((i % out_stride >= n) != out.poisoned(i))
            fail_msg("M %u N %u K %u: out[%zu, %zu] was %swritten", m, n, k, i / out_stride,
                i % out_stride, i % out_stride >= n ? "" : "not ");
}

// Rounded to `t`, a value is off by half of a unit of its last place.
static double half_unit(double v, enum dtype t)
{
    double least = t == DTYPE_F16 ? 0x1.0p-25 : 0x1.0p-140;
    double unit = fabs(v) * (t == DTYPE_F32 ? 0x1.0p-24 : t == DTYPE_F16 ? 0x1.0p-11 : 0x1.0p-8);
    return unit > least ? unit : least;
}

void linear_case::check_values() const
{
    std::vector<double> size(static_cast<size_t>(m) * n);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double b = has_bias ? static_cast<double>(bias.at(j)) : 0, sum = b, all = fabs(b);
            for (size_t e = 0; e < k; e++) {
                double v = static_cast<double>(x.at(i * x_stride + e)) *
                           static_cast<double>(w.at(j * k + e));
                sum += v;
                all += fabs(v);
            }
            size[i * n + j] = all;
            double got = static_cast<double>(out.at(i * out_stride + j));
            // The sum is right to 1e-6 of its terms here, since K is small; rounded once.
            if (!(fabs(got - sum) <= 1e-6 * all + half_unit(sum, out.type) * 1.001))
                fail_msg("%s x %s, M %u N %u K %u: out[%zu, %zu] is %a, fp64 has %a",
                    dtype_name(activation), dtype_name(weights), m, n, k, i, j, got, sum);
        }
    check_cpu(size);
}

// The CPU's op on the same numbers as floats.
void linear_case::check_cpu(const std::vector<double> &size) const
{
    const struct kernels *cpu = kernels_cpu();
    struct device_args da = {};
    da.n_threads = 1;
    da.activation = DTYPE_F32;
    da.isa = "auto";
    struct device *d = nullptr;
    struct weight *cpu_w = nullptr, *cpu_b = nullptr;
    struct error err;
    struct weight_source s = {}, sb = {};
    s.dtype = sb.dtype = weights;
    s.n = sb.k = n;
    s.k = k;
    s.n_parts = sb.n_parts = sb.n = 1;
    s.part[0] = {w.bytes.data(), static_cast<uint64_t>(k) * dtype_bytes(weights), n};
    sb.part[0] = {bias.bytes.data(), static_cast<uint64_t>(n) * dtype_bytes(weights), 1};
    if (cpu->device_open(&da, &d, &err) != STATUS_OK ||
        cpu->weight_make(d, &s, &cpu_w, &err) != STATUS_OK ||
        cpu->weight_make(d, &sb, &cpu_b, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    std::vector<float> in(static_cast<size_t>(m) * k), want(static_cast<size_t>(m) * n);
    for (size_t i = 0; i < in.size(); i++)
        in[i] = x.at(i / k * x_stride + i % k);
    struct linear_args a = {};
    a.n_rows = m;
    a.x = in.data();
    a.x_stride = k;
    a.w = cpu_w;
    a.bias = has_bias ? cpu_b : nullptr;
    a.out = want.data();
    a.out_stride = n;
    cpu->linear(d, &a);
    for (size_t i = 0; i < want.size(); i++) {
        double v = static_cast<double>(want[i]);
        double got = static_cast<double>(out.at(i / n * out_stride + i % n));
        if (!(fabs(got - v) <= 1e-6 * size[i] + half_unit(v, out.type) * 1.001))
            fail_msg("%s x %s, M %u N %u K %u: out[%zu] is %a, the CPU has %a",
                dtype_name(activation), dtype_name(weights), m, n, k, i, got, v);
    }
    cpu->weight_free(d, cpu_w);
    cpu->weight_free(d, cpu_b);
    cpu->device_close(d);
}

void linear_case::check_rows(uint32_t first, uint32_t rows, uint64_t seed)
{
    linear_buffer few(out.type, static_cast<size_t>(rows) * out_stride);
    multiply(first, rows, few, seed);
    size_t e = dtype_bytes(out.type);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < n; j++) {
            size_t here = i * out_stride + j, there = (first + i) * out_stride + j;
            if (std::memcmp(&few.bytes[here * e], &out.bytes[there * e], e) != 0)
                fail_msg("%s x %s, N %u K %u: row %zu of %u is %a in column %zu, and %a among %u",
                    dtype_name(activation), dtype_name(weights), n, k, first + i, rows,
                    static_cast<double>(few.at(here)), j, static_cast<double>(out.at(there)), m);
        }
}

void linear_case::check_act(bool gated, enum act_kind kind, uint64_t seed)
{
    uint32_t dim = gated ? n / 2 : n;
    size_t count = static_cast<size_t>(m) * dim;
    linear_buffer want(activation, count), got(activation, count);
    linear_memory between(table, device, static_cast<size_t>(m) * n * dtype_bytes(activation)),
        composed(table, device, want.bytes.size()), fused(table, device, got.bytes.size());
    struct linear_args a = args(0, m, between.p);
    a.out_stride = n;
    a.out_f32 = false;
    struct act_args act = {};
    act.n_rows = m;
    act.dim = dim;
    act.gated = gated;
    act.kind = kind;
    act.x = between.p;
    act.out = composed.p;
    table->linear(device, &a);
    table->act(device, &act);
    a.out = nullptr;
    act.x = nullptr;
    act.out = fused.p;
    table->linear_act(device, &a, &act);
    finish(&want, composed, seed);
    finish(&got, fused, seed + 1);
    for (size_t i = 0; i < count; i++)
        assert_false(got.poisoned(i));
    if (got.bytes != want.bytes)
        fail_msg("%s, M %u N %u K %u, %s activation %d: not the bits of linear and act",
            dtype_name(activation), m, n, k, gated ? "gated" : "plain", static_cast<int>(kind));
}
