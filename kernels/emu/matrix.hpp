// SPDX-License-Identifier: Apache-2.0
// ldmatrix and mma.sync: what a warp does with fragments of matrices. Which lane holds which
// element is as in the manual of PTX (ISA 8.x, "Matrix Fragments for mma.m16n8k16" and "ldmatrix");
// with g = lane / 4 and t = lane % 4, each register holding two elements of 16 bits:
//
//   A [16, K]  register 2j + i: row g + 8 i, columns 8 j + 2 t and the next
//   B [K, 8]   register j: rows 8 j + 2 t and the next, column g
//   C [16, 8]  register 2i + j: row g + 8 i, column 2 t + j
//
// A product of two 16-bit floats is exact in a float; the sum takes the columns of A one by one, so
// whatever changes their order or how they are grouped changes bits here, as it may on a device.
// Included by emu.hpp.
#ifndef PHALANX_KERNELS_EMU_MATRIX_HPP
#define PHALANX_KERNELS_EMU_MATRIX_HPP

namespace emu
{

constexpr unsigned lanes_all = 0xffffffffu;

inline unsigned lane_of_self()
{
    const uint3 &i = self->thread_index;
    const dim3 &n = self->block_size;
    return (i.x + n.x * (i.y + n.y * i.z)) % 32;
}

struct matrix_lane {
    std::uint32_t row[4]; // 16 bytes, those that the lane's address points to
    std::uint32_t out[4];
};

// Lane 8 i + r has brought row r of matrix i; two elements of each row go to each lane.
template <unsigned count, bool transposed>
__attribute__((no_sanitize("thread"))) void matrix_load_all(void *const *lane, std::uint32_t)
{
    for (unsigned l = 0; l < 32; l++)
        for (unsigned i = 0; i < count; i++) {
            std::uint16_t pair[2];
            for (unsigned e = 0; e < 2; e++) {
                unsigned row = transposed ? l % 4 * 2 + e : l / 4;
                unsigned column = transposed ? l / 4 : l % 4 * 2 + e;
                const auto *from = static_cast<const matrix_lane *>(lane[8 * i + row]);
                std::memcpy(&pair[e], reinterpret_cast<const char *>(from->row) + 2 * column, 2);
            }
            std::memcpy(&static_cast<matrix_lane *>(lane[l])->out[i], pair, 4);
        }
}

template <unsigned count, bool transposed>
inline void matrix_load(std::uint32_t *out, const void *row, site where)
{
    matrix_lane mine = {};
    if (lane_of_self() < 8 * count) { // the addresses of other lanes are not used
        if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0)
            complain("%s:%d: %s from an address that is no multiple of 16", where.file, where.line,
                where.what);
        std::memcpy(mine.row, row, sizeof mine.row);
    }
    warp_call(matrix_load_all<count, transposed>, lanes_all, &mine, where);
    std::memcpy(out, mine.out, count * sizeof *out);
}

struct multiply_lane {
    std::uint32_t a[4], b[2];
    float c[4];
};

// `widen` makes a float of 16 bits; K is 8 or 16.
template <float (*widen)(std::uint16_t), unsigned K>
__attribute__((no_sanitize("thread"))) void multiply_all(void *const *lane, std::uint32_t)
{
    float a[K][16], b[K][8], c[16][8];
    for (unsigned l = 0; l < 32; l++) {
        const auto *mine = static_cast<const multiply_lane *>(lane[l]);
        for (unsigned e = 0; e < K / 2; e++) { // two of each register
            unsigned r = e / 2, shift = e % 2 * 16;
            a[r / 2 * 8 + l % 4 * 2 + e % 2][l / 4 + r % 2 * 8] =
                widen(static_cast<std::uint16_t>(mine->a[r] >> shift));
        }
        for (unsigned e = 0; e < K / 4; e++)
            b[e / 2 * 8 + l % 4 * 2 + e % 2][l / 4] =
                widen(static_cast<std::uint16_t>(mine->b[e / 2] >> (e % 2 * 16)));
        for (unsigned e = 0; e < 4; e++)
            c[l / 4 + e / 2 * 8][l % 4 * 2 + e % 2] = mine->c[e];
    }
    for (unsigned k = 0; k < K; k++)
        for (unsigned i = 0; i < 16; i++)
            for (unsigned j = 0; j < 8; j++)
                c[i][j] += a[k][i] * b[k][j];
    for (unsigned l = 0; l < 32; l++)
        for (unsigned e = 0; e < 4; e++)
            static_cast<multiply_lane *>(lane[l])->c[e] = c[l / 4 + e / 2 * 8][l % 4 * 2 + e % 2];
}

template <float (*widen)(std::uint16_t), unsigned K>
inline void multiply(float *c, const std::uint32_t *a, const std::uint32_t *b, site where)
{
    multiply_lane mine = {};
    std::memcpy(mine.a, a, K / 4 * sizeof *a);
    std::memcpy(mine.b, b, K / 8 * sizeof *b);
    std::memcpy(mine.c, c, sizeof mine.c);
    warp_call(multiply_all<widen, K>, lanes_all, &mine, where);
    std::memcpy(c, mine.c, sizeof mine.c);
}

} // namespace emu

#endif
