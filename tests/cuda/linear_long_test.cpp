// SPDX-License-Identifier: Apache-2.0
// A row has the same bits among any number of rows from 1 to 70, for many shapes and each of the
// orders in which threads may run; and many more random shapes than the quick tier has.
#include "tests/cuda/linear_cases.hpp"

namespace
{

constexpr enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

void every_number_of_rows(void **)
{
    static const uint32_t shapes[][2] = {
        {1, 1}, {16, 32}, {40, 96}, {17, 75}, {24, 640}, {130, 64}, {33, 1100}};
    uint64_t seed = 1500;
    for (enum dtype t : types)
        for (const auto &s : shapes) {
            linear_case c(t, t, 70, s[0], s[1], ++seed);
            c.run(seed);
            c.check_values();
            for (uint32_t m = 1; m <= 70; m++) {
                c.set_sms(m % 3 == 0 ? 1 : m % 3 == 1 ? 8 : 132);
                c.check_rows(m * 7 % (71 - m), m, seed + m);
            }
        }
}

void many_random_shapes(void **)
{
    uint64_t first = test_seed();
    for (uint64_t seed = first; seed < first + 300; seed++) {
        linear_random r(seed);
        enum dtype activation = types[r.below(3)];
        enum dtype weights = r.below(2) == 0 ? activation : types[r.below(3)];
        uint32_t m = 1 + r.below(r.below(3) == 0 ? 200 : 40);
        linear_case c(activation, weights, m, 1 + r.below(300), 1 + r.below(700), seed);
        c.set_sms(r.below(2) == 0 ? 132 : 1 + r.below(8));
        c.run(seed);
        c.check_values();
        c.check_act(r.below(2) == 0 && c.n % 2 == 0, (enum act_kind)r.below(ACT_COUNT), seed);
    }
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_of_rows),
        cmocka_unit_test(many_random_shapes),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
