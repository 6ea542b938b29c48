// SPDX-License-Identifier: Apache-2.0
// Fragments of ldmatrix and mma.sync: products of matrices in plain memory, put into fragments by
// the layout that the manual of PTX draws, have the values of the plain product; what goes in small
// whole numbers comes out exactly.
extern "C" {
#include "tests/test_support.h"
}
#include "kernels/cuda/ptx.cuh"

#include <string>

namespace
{

phx_launch_config config(dim3 block)
{
    phx_launch_config c = {1, block, 0, nullptr, false, false};
    return c;
}

std::string run(std::uint64_t seed)
{
    emu_seed(seed);
    (void)cudaDeviceSynchronize();
    std::string s = emu_sentence();
    emu_reset();
    return s;
}

int number(int i)
{
    return i * 37 % 23 - 11;
}

// c = a b through the layout as it is drawn, element by element.
template <class T, int K> __global__ void by_element(const T *a, const T *b, float *c)
{
    int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
    T fa[K / 2], fb[K / 4];
    for (int i = 0; i < K / 2; i++) {
        int row = i % 4 < 2 ? g : g + 8, column = t * 2 + (i & 1) + (i >= 4 ? 8 : 0);
        fa[i] = a[row * K + column];
    }
    for (int i = 0; i < K / 4; i++)
        fb[i] = b[(t * 2 + (i & 1) + (i >= 2 ? 8 : 0)) * 8 + g];
    unsigned ra[K / 4], rb[K / 8];
    std::memcpy(ra, fa, sizeof ra);
    std::memcpy(rb, fb, sizeof rb);
    float d[4];
    for (int i = 0; i < 4; i++)
        d[i] = c[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)];
    if (K == 16)
        phx_multiply_16x8x16<T>(d, ra, rb);
    else
        phx_multiply_16x8x8<T>(d, ra, rb);
    for (int i = 0; i < 4; i++)
        c[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)] = d[i];
}

template <class T, int K> void check_product()
{
    T a[16 * K], b[K * 8];
    float c[16 * 8], want[16 * 8];
    for (int i = 0; i < 16 * K; i++)
        a[i] = phx_round<T>(static_cast<float>(number(i)));
    for (int i = 0; i < 8 * K; i++)
        b[i] = phx_round<T>(static_cast<float>(number(5 * i + 3)));
    for (int i = 0; i < 16 * 8; i++) {
        c[i] = static_cast<float>(number(i + 9));
        int sum = number(i + 9);
        for (int k = 0; k < K; k++)
            sum += number(i / 8 * K + k) * number(5 * (k * 8 + i % 8) + 3);
        want[i] = static_cast<float>(sum);
    }
    phx_launch(config(32), by_element<T, K>, a, b, c);
    assert_string_equal(run(K).c_str(), "");
    assert_memory_equal(c, want, sizeof want);
}

void products_have_their_values(void **)
{
    check_product<phx_f16, 16>();
    check_product<phx_bf16, 16>();
    check_product<phx_f16, 8>();
    check_product<phx_bf16, 8>();
}

// Four matrices of numbers that name their place; lane l gets elements 2t and 2t + 1 of row g.
__global__ void load(unsigned *four, unsigned *two, bool transposed)
{
    PHX_SHARED(uint16_t[32 * 8], tile);
    unsigned lane = threadIdx.x + threadIdx.y * blockDim.x;
    for (unsigned i = 0; i < 8; i++)
        tile[lane * 8 + i] = static_cast<uint16_t>(lane * 8 + i);
    __syncwarp();
    const void *odd = reinterpret_cast<const char *>(tile) + 1; // of lanes that are not asked
    if (transposed) {
        phx_matrix_load<4, true>(four + 4 * lane, tile + lane * 8);
        phx_matrix_load<2, true>(two + 2 * lane, lane < 16 ? tile + lane * 8 : odd);
    } else {
        phx_matrix_load<4>(four + 4 * lane, tile + lane * 8);
        phx_matrix_load<2>(two + 2 * lane, lane < 16 ? tile + lane * 8 : odd);
    }
}

void matrices_load(void **)
{
    for (bool transposed : {false, true}) {
        unsigned four[32 * 4], two[32 * 2];
        phx_launch(config(dim3(8, 4)), load, four, two, transposed);
        assert_string_equal(run(3).c_str(), "");
        for (unsigned lane = 0; lane < 32; lane++)
            for (unsigned i = 0; i < 4; i++) {
                unsigned g = lane / 4, t = lane % 4;
                unsigned low = i * 64 + (transposed ? 16 * t + g : 8 * g + 2 * t);
                unsigned high = low + (transposed ? 8 : 1);
                assert_int_equal(four[lane * 4 + i], low | high << 16);
                if (i < 2)
                    assert_int_equal(two[lane * 2 + i], low | high << 16);
            }
    }
}

// What ldmatrix loads is what mma.sync takes: A by rows, B from rows of its transpose and from its
// own rows transposed.
__global__ void loaded_product(const phx_bf16 *a, const phx_bf16 *b, float *c, bool transposed)
{
    PHX_SHARED(phx_bf16[16 * 16], sa);
    PHX_SHARED(phx_bf16[16 * 8], sb);
    unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4;
    for (unsigned i = lane; i < 16 * 16; i += 32)
        sa[i] = a[i];
    for (unsigned i = lane; i < 16 * 8; i += 32)
        sb[transposed ? i : i % 8 * 16 + i / 8] = b[i];
    __syncwarp();
    unsigned fa[4], fb[2];
    phx_matrix_load<4>(fa, sa + lane % 16 * 16 + lane / 16 * 8);
    if (transposed)
        phx_matrix_load<2, true>(fb, sb + lane % 16 * 8);
    else
        phx_matrix_load<2>(fb, sb + lane % 8 * 16 + lane / 8 % 2 * 8);
    float d[4] = {};
    phx_multiply_16x8x16<phx_bf16>(d, fa, fb);
    for (unsigned i = 0; i < 4; i++)
        c[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = d[i];
}

void loads_feed_products(void **)
{
    phx_bf16 a[16 * 16], b[16 * 8];
    float c[16 * 8];
    for (int i = 0; i < 16 * 16; i++)
        a[i] = phx_round<phx_bf16>(static_cast<float>(number(i)));
    for (int i = 0; i < 16 * 8; i++)
        b[i] = phx_round<phx_bf16>(static_cast<float>(number(7 * i)));
    for (bool transposed : {false, true}) {
        phx_launch(config(32), loaded_product, a, b, c, transposed);
        assert_string_equal(run(5).c_str(), "");
        for (int i = 0; i < 16 * 8; i++) {
            int sum = 0;
            for (int k = 0; k < 16; k++)
                sum += number(i / 8 * 16 + k) * number(7 * (k * 8 + i % 8));
            assert_true(c[i] == static_cast<float>(sum));
        }
    }
}

// Half a warp cannot multiply, and rows of matrices are aligned, as are copies.
__global__ void wrong(int what, const unsigned char *from)
{
    PHX_SHARED(unsigned char[512], tile);
    unsigned a[4] = {}, b[2] = {};
    float c[4] = {};
    if (what == 0 && threadIdx.x < 16)
        phx_multiply_16x8x16<phx_f16>(c, a, b);
    if (what == 1)
        phx_matrix_load<4>(a, tile + 8);
    if (what == 2)
        phx_copy_async_16_if(tile, from + 4, true);
}

void wrong_uses_are_reported(void **)
{
    static const char *const says[] = {"mma.sync", "no multiple of 16", "4 above a multiple"};
    alignas(16) unsigned char from[64] = {};
    for (int what = 0; what < 3; what++) {
        phx_launch(config(32), wrong, what, from);
        std::string s = run(7);
        if (s.find(says[what]) == std::string::npos)
            fail_msg("wanted \"%s\" in \"%s\"", says[what], s.c_str());
    }
}

// Copies that are not there are zeros, and nothing is read for them; all land at the wait.
__global__ void copies(const unsigned *from, unsigned *out)
{
    PHX_SHARED(uint4[32], tile);
    unsigned i = threadIdx.x;
    bool there = i % 3 != 0;
    phx_copy_async_16_if(&tile[i], there ? from + 4 * i : nullptr, there);
    phx_copy_commit();
    phx_copy_wait<0>();
    uint4 v = phx_load_stream_16(&tile[i]);
    out[i] = v.x + v.y + v.z + v.w;
}

void copies_fill_with_zeros(void **)
{
    alignas(16) unsigned from[128];
    unsigned out[32];
    for (unsigned i = 0; i < 128; i++)
        from[i] = i + 1;
    phx_launch(config(32), copies, from, out);
    assert_string_equal(run(9).c_str(), "");
    for (unsigned i = 0; i < 32; i++)
        assert_int_equal(out[i], i % 3 != 0 ? 16 * i + 10 : 0);
}

} // namespace

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_have_their_values),
        cmocka_unit_test(matrices_load),
        cmocka_unit_test(loads_feed_products),
        cmocka_unit_test(wrong_uses_are_reported),
        cmocka_unit_test(copies_fill_with_zeros),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
