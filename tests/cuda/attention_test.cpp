// SPDX-License-Identifier: Apache-2.0
// Attention of the device back end, emulated, against kernels/cpu over the same numbers; and the
// promise that a row's bits depend neither on the batch, nor on how its prompt was cut, nor on
// pages, nor on which form computed it.
#include "tests/cuda/attention_scene.hpp"

#include <cmath>
#include <cstring>
#include <memory>

namespace
{

struct shape {
    uint32_t head_dim, heads, n_kv_heads;
    enum dtype activation, kv;
};

// Every head dimension of the tensor-core forms in both types, and others in all pairs of types.
const shape shapes[] = {
    {64, 4, 2, DTYPE_BF16, DTYPE_BF16},
    {80, 1, 3, DTYPE_F16, DTYPE_F16},
    {96, 2, 1, DTYPE_BF16, DTYPE_BF16},
    {128, 4, 1, DTYPE_F16, DTYPE_F16},
    {128, 7, 1, DTYPE_BF16, DTYPE_BF16},
    {256, 2, 1, DTYPE_BF16, DTYPE_BF16},
    {64, 20, 1, DTYPE_F16, DTYPE_F16},
    {16, 3, 2, DTYPE_F32, DTYPE_F32},
    {8, 1, 2, DTYPE_F32, DTYPE_BF16},
    {64, 5, 1, DTYPE_F32, DTYPE_F16},
    {40, 2, 1, DTYPE_BF16, DTYPE_F32},
    {20, 19, 1, DTYPE_F16, DTYPE_BF16},
    {264, 1, 1, DTYPE_F32, DTYPE_F32},
    {24, 2, 2, DTYPE_BF16, DTYPE_BF16},
    {256, 3, 1, DTYPE_F16, DTYPE_F16},
};
constexpr uint32_t n_shapes = sizeof shapes / sizeof *shapes;

attention_scene random_scene(struct random *r, uint32_t round)
{
    static const uint32_t pages[] = {16, 32, 64, 24, 1, 128};
    const shape &p = shapes[round % n_shapes];
    attention_scene s = {};
    s.seed = random_u32(r);
    s.head_dim = p.head_dim;
    s.n_kv_heads = p.n_kv_heads;
    s.n_heads = p.heads * p.n_kv_heads;
    s.activation = p.activation;
    s.kv = p.kv;
    s.block_tokens = pages[random_below(r, 6)];
    s.scale = 1.0f / sqrtf((float)s.head_dim);
    uint32_t kind = random_u32(r) % 6;
    s.window = kind == 1 ? 1 + random_below(r, 20) : kind == 2 ? 200 + random_below(r, 200) : 0;
    s.softcap = kind == 3 ? 3.0f : 0.0f;
    s.alibi = kind == 4;
    return s;
}

// Devices of both back ends for each type of activations, opened when first asked for.
struct devices {
    std::unique_ptr<sides> of[DTYPE_COUNT];

    const sides &get(enum dtype t)
    {
        if (of[t] == nullptr)
            of[t] = std::make_unique<sides>(t);
        return *of[t];
    }
};

void expect_near(const attention_scene &s, const std::vector<float> &want,
    const std::vector<float> &got, uint64_t seed)
{
    // The output of 16-bit types is rounded, and so are the weights of the values.
    float bound = s.activation == DTYPE_F32 ? 1e-5f : s.activation == DTYPE_F16 ? 3e-3f : 2e-2f;
    for (size_t i = 0; i < want.size(); i++)
        if (!(fabsf(got[i] - want[i]) <= bound * (1.0f + fabsf(want[i]))))
            fail_msg("seed %llu, head_dim %u: element %zu is %.9g, expected %.9g",
                (unsigned long long)seed, s.head_dim, i, (double)got[i], (double)want[i]);
}

void expect_same(
    const attention_scene &s, const char *what, const float *want, const float *got, size_t n)
{
    if (memcmp(want, got, n * sizeof *want) == 0)
        return;
    for (size_t i = 0; i < n; i++)
        if (memcmp(&want[i], &got[i], sizeof *want) != 0)
            fail_msg("%s, head_dim %u of %s: element %zu is %a, expected %a", what, s.head_dim,
                dtype_name(s.activation), i, (double)got[i], (double)want[i]);
}

void agrees_with_the_cpu(void **state)
{
    devices *all = static_cast<devices *>(*state);
    struct random r = {7};
    for (uint32_t round = 0; round < 2 * n_shapes; round++) {
        attention_scene s = random_scene(&r, round);
        const sides &of = all->get(s.activation);
        attention_device on = {of.emu, of.emu_device}, cpu = {of.cpu, of.cpu_device};
        std::vector<attention_span> spans;
        for (uint32_t i = 0; i < 1 + random_below(&r, 3); i++) {
            uint32_t length = 1 + random_below(&r, round % 3 == 0 ? 600 : 70);
            uint32_t rows = random_below(&r, 2) ? 1 : 1 + random_below(&r, 40);
            s.length.push_back(length);
            spans.push_back({i, length > rows ? length - rows : 0, length});
        }
        emu_seed(round);
        attention_pages there(s, on, round), here(s, cpu, 99);
        expect_near(
            s, attention_step(s, here, cpu, spans), attention_step(s, there, on, spans), round);
    }
}

// The whole prompt, the same in pieces of random sizes in random company, and rows alone.
void bits_do_not_depend_on_the_batch(void **state)
{
    devices *all = static_cast<devices *>(*state);
    struct random r = {17};
    for (uint32_t round = 0; round < n_shapes; round++) {
        attention_scene s = random_scene(&r, round);
        const sides &of = all->get(s.activation);
        attention_device on = {of.emu, of.emu_device};
        s.length = {round % 2 ? 300 + random_below(&r, 240) : 70 + random_below(&r, 100),
            1 + random_below(&r, 40)};
        attention_pages first(s, on, 1), second(s, on, 2);
        emu_seed(round);
        uint32_t from = s.length[0] > 120 ? s.length[0] - 120 : 0;
        std::vector<attention_span> both = {{0, from, s.length[0]}, {1, 0, s.length[1]}};
        std::vector<float> whole = attention_step(s, first, on, both);
        const float *base[2] = {
            whole.data(), whole.data() + (size_t)(s.length[0] - from) * s.out_dim()};
        uint32_t done[2] = {from, 0};
        while (done[0] < s.length[0] || done[1] < s.length[1]) {
            std::vector<attention_span> spans;
            for (uint32_t q = 0; q < 2; q++) {
                uint32_t rows = random_below(&r, 2) ? 1 : random_below(&r, 70);
                rows = rows < s.length[q] - done[q] ? rows : s.length[q] - done[q];
                if (rows > 0)
                    spans.push_back({q, done[q], done[q] + rows});
                done[q] += rows;
            }
            if (spans.empty())
                continue;
            std::vector<float> part = attention_step(s, second, on, spans);
            size_t at = 0;
            for (const attention_span &span : spans) {
                size_t n = (size_t)(span.to - span.from) * s.out_dim();
                uint32_t skip = span.from - (span.seq == 0 ? from : 0);
                expect_same(s, "in pieces", base[span.seq] + (size_t)skip * s.out_dim(),
                    part.data() + at, n);
                at += n;
            }
        }
        std::vector<attention_span> alone;
        // Many of f16: its rounding hides most differences in the last bit of a sum.
        uint32_t n = s.activation == DTYPE_F16 && s.kv == DTYPE_F16 ? 69 : 23;
        for (uint32_t i = 0; i < 69; i += 69 / n)
            alone.push_back({0, s.length[0] - 1 - i, s.length[0] - i});
        std::vector<float> rows = attention_step(s, second, on, alone);
        for (uint32_t i = 0; i < alone.size(); i++)
            expect_same(s, "alone", base[0] + (size_t)(alone[i].from - from) * s.out_dim(),
                rows.data() + (size_t)i * s.out_dim(), s.out_dim());
    }
}

} // namespace

int main()
{
    devices t;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(agrees_with_the_cpu, &t),
        cmocka_unit_test_prestate(bits_do_not_depend_on_the_batch, &t),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
