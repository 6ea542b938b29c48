// SPDX-License-Identifier: Apache-2.0
// linear and linear_act of the CUDA back end, emulated: values against fp64 and the CPU's op, and
// the rule that a row has the same bits among any number of others, in every kernel.
#include "tests/cuda/linear_cases.hpp"

namespace
{

constexpr enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

// Shapes that meet every edge: one of everything, chunks of 8 and 32 elements and segments of K
// that end early, tiles that are not full, K that is not a multiple of anything.
void values_are_right(void **)
{
    static const uint32_t shapes[][3] = {{1, 1, 1}, {1, 16, 8}, {2, 17, 33}, {3, 40, 72},
        {7, 5, 520}, {8, 33, 64}, {9, 20, 136}, {16, 31, 100}, {17, 64, 96}, {31, 12, 40},
        {33, 70, 65}, {65, 66, 130}};
    uint64_t seed = 1;
    for (enum dtype activation : types)
        for (enum dtype weights : types)
            for (const auto &s : shapes) {
                linear_case c(activation, weights, s[0], s[1], s[2], ++seed);
                c.run(seed);
                c.check_values();
            }
}

void random_shapes(void **)
{
    uint64_t first = test_seed();
    for (uint64_t seed = first; seed < first + 30; seed++) {
        linear_random r(seed);
        enum dtype activation = types[r.below(3)], weights = types[r.below(3)];
        uint32_t m = 1 + r.below(r.below(3) == 0 ? 140 : 20);
        linear_case c(activation, weights, m, 1 + r.below(150), 1 + r.below(300), seed);
        c.set_sms(r.below(2) == 0 ? 132 : 1);
        c.run(seed);
        c.check_values();
    }
}

// Few outputs and a long K: several blocks share K.
void blocks_share_k(void **)
{
    uint64_t seed = 300;
    for (enum dtype activation : types)
        for (uint32_t m : {1u, 12u, 40u})
            for (uint32_t k : {600u, 1100u}) {
                linear_case c(activation, activation, m, 24, k, ++seed);
                c.run(seed);
                c.check_values();
            }
}

// Rows alone, among the first m and in tiles of any size: the same bits. All m up to 70 are in
// linear_long_test.
void a_row_has_the_same_bits_in_any_batch(void **)
{
    static const uint32_t shapes[][2] = {{40, 96}, {17, 75}, {24, 640}};
    uint64_t seed = 500;
    for (enum dtype t : types)
        for (const auto &s : shapes) {
            linear_case c(t, t, 70, s[0], s[1], ++seed);
            c.run(seed);
            c.check_values();
            for (uint32_t m : {1u, 2u, 8u, 9u, 16u, 17u, 32u, 33u, 64u, 65u, 70u}) {
                c.set_sms(m % 3 == 0 ? 1 : m % 3 == 1 ? 8 : 132);
                c.check_rows(m * 7 % (71 - m), m, seed + m);
            }
        }
}

// The type of the weights may differ from that of the activations, logits are floats, and K may be
// odd: the same rule.
void other_kinds_have_the_same_bits_as_well(void **)
{
    uint64_t seed = 700;
    for (enum dtype activation : types)
        for (enum dtype weights : types) {
            linear_case c(activation, weights, 70, 19, 141, ++seed);
            c.run(seed);
            for (uint32_t m : {1u, 8u, 9u, 17u, 33u, 69u})
                c.check_rows(m * 5 % (71 - m), m, seed + m);
        }
}

void activations_join(void **)
{
    uint64_t seed = 900;
    for (enum dtype t : types)
        for (uint32_t m : {1u, 8u, 16u, 20u, 70u})
            for (bool gated : {false, true})
                for (uint32_t k : {77u, 520u}) {
                    linear_case c(t, t, m, gated ? 42 : 21, k, ++seed);
                    c.check_act(gated, (enum act_kind)(seed % ACT_COUNT), seed);
                }
    linear_case large(DTYPE_BF16, DTYPE_BF16, 130, 2 * 131, 72, ++seed); // tiles of 128 x 128
    large.check_act(true, ACT_SILU, seed);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_right),
        cmocka_unit_test(random_shapes),
        cmocka_unit_test(blocks_share_k),
        cmocka_unit_test(a_row_has_the_same_bits_in_any_batch),
        cmocka_unit_test(other_kinds_have_the_same_bits_as_well),
        cmocka_unit_test(activations_join),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
