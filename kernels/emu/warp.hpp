// SPDX-License-Identifier: Apache-2.0
// Shuffles, votes, matches and reductions of a warp. Included by emu.hpp.
#ifndef PHALANX_KERNELS_EMU_WARP_HPP
#define PHALANX_KERNELS_EMU_WARP_HPP

namespace emu
{

enum class shuffle { index, up, down, exclusive_or };

template <class T> struct shuffle_lane {
    T value, result;
    int argument, width;
    site where;
};

// The lane that `lane` reads from; its own where there is none in its part of the warp.
inline unsigned shuffle_source(shuffle kind, unsigned lane, int argument, int width)
{
    int w = width, first = static_cast<int>(lane) / w * w, from = static_cast<int>(lane);
    switch (kind) {
    case shuffle::index:
        from = first + (argument & (w - 1));
        break;
    case shuffle::up:
        from -= argument;
        break;
    case shuffle::down:
        from += argument;
        break;
    case shuffle::exclusive_or:
        from ^= argument;
        break;
    }
    bool inside = from >= first && from < first + w;
    return static_cast<unsigned>(inside ? from : static_cast<int>(lane));
}

template <class T, shuffle kind>
__attribute__((no_sanitize("thread"))) void shuffle_all(void *const *lane, std::uint32_t mask)
{
    for (unsigned i = 0; i < 32; i++) {
        if ((mask >> i & 1) == 0)
            continue;
        auto *mine = static_cast<shuffle_lane<T> *>(lane[i]);
        unsigned from = shuffle_source(kind, i, mine->argument, mine->width);
        if (lane[from] == nullptr)
            complain("%s at %s:%d: lane %u reads lane %u, which is not in the mask 0x%08x",
                mine->where.what, mine->where.file, mine->where.line, i, from, mask);
        mine->result = static_cast<shuffle_lane<T> *>(lane[from])->value;
    }
}

template <class T, shuffle kind>
inline T shuffle_sync(std::uint32_t mask, T value, int argument, int width, site where)
{
    shuffle_lane<T> mine = {value, value, argument, width, where};
    if (width < 1 || width > 32 || (width & (width - 1)) != 0)
        complain("%s:%d: %s with the width %d", where.file, where.line, where.what, width);
    warp_call(shuffle_all<T, kind>, mask, &mine, where);
    return mine.result;
}

template <class T> struct reduce_lane {
    T value, result;
};

template <class T, class F>
__attribute__((no_sanitize("thread"))) void reduce_all(void *const *lane, std::uint32_t mask)
{
    bool first = true;
    T total{};
    for (unsigned i = 0; i < 32; i++)
        if ((mask >> i & 1) != 0) {
            T v = static_cast<reduce_lane<T> *>(lane[i])->value;
            total = first ? v : F::of(total, v);
            first = false;
        }
    for (unsigned i = 0; i < 32; i++)
        if ((mask >> i & 1) != 0)
            static_cast<reduce_lane<T> *>(lane[i])->result = total;
}

template <class T, class F> inline T reduce_sync(std::uint32_t mask, T value, site where)
{
    reduce_lane<T> mine = {value, value};
    warp_call(reduce_all<T, F>, mask, &mine, where);
    return mine.result;
}

struct vote_lane {
    unsigned long long value; // compared by match
    unsigned result;
};

__attribute__((no_sanitize("thread"))) inline void ballot_all(void *const *lane, std::uint32_t mask)
{
    unsigned all = 0;
    for (unsigned i = 0; i < 32; i++)
        if ((mask >> i & 1) != 0 && static_cast<vote_lane *>(lane[i])->value != 0)
            all |= 1u << i;
    for (unsigned i = 0; i < 32; i++)
        if ((mask >> i & 1) != 0)
            static_cast<vote_lane *>(lane[i])->result = all;
}

__attribute__((no_sanitize("thread"))) inline void match_all(void *const *lane, std::uint32_t mask)
{
    for (unsigned i = 0; i < 32; i++)
        for (unsigned j = 0; j < 32; j++)
            if ((mask >> i & 1) != 0 && (mask >> j & 1) != 0 &&
                static_cast<vote_lane *>(lane[i])->value ==
                    static_cast<vote_lane *>(lane[j])->value)
                static_cast<vote_lane *>(lane[i])->result |= 1u << j;
}

inline unsigned vote(warp_function *fn, std::uint32_t mask, unsigned long long value, site where)
{
    vote_lane mine = {value, 0};
    warp_call(fn, mask, &mine, where);
    return mine.result;
}

struct sum_of {
    template <class T> static T of(T a, T b)
    {
        return static_cast<T>(a + b);
    }
};
struct min_of {
    template <class T> static T of(T a, T b)
    {
        return b < a ? b : a;
    }
};
struct max_of {
    template <class T> static T of(T a, T b)
    {
        return a < b ? b : a;
    }
};
struct and_of {
    template <class T> static T of(T a, T b)
    {
        return a & b;
    }
};
struct or_of {
    template <class T> static T of(T a, T b)
    {
        return a | b;
    }
};

} // namespace emu

template <class T> inline T __shfl_sync(unsigned mask, T v, int lane, int width = 32, EMU_HERE)
{
    return emu::shuffle_sync<T, emu::shuffle::index>(mask, v, lane, width, EMU_SITE("__shfl_sync"));
}

template <class T>
inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_HERE)
{
    return emu::shuffle_sync<T, emu::shuffle::up>(
        mask, v, static_cast<int>(delta), width, EMU_SITE("__shfl_up_sync"));
}

template <class T>
inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_HERE)
{
    return emu::shuffle_sync<T, emu::shuffle::down>(
        mask, v, static_cast<int>(delta), width, EMU_SITE("__shfl_down_sync"));
}

template <class T> inline T __shfl_xor_sync(unsigned mask, T v, int lanes, int width = 32, EMU_HERE)
{
    return emu::shuffle_sync<T, emu::shuffle::exclusive_or>(
        mask, v, lanes, width, EMU_SITE("__shfl_xor_sync"));
}

inline unsigned __ballot_sync(unsigned mask, int p, EMU_HERE)
{
    return emu::vote(emu::ballot_all, mask, p != 0, EMU_SITE("__ballot_sync"));
}

inline int __any_sync(unsigned mask, int p, EMU_HERE)
{
    return emu::vote(emu::ballot_all, mask, p != 0, EMU_SITE("__any_sync")) != 0;
}

inline int __all_sync(unsigned mask, int p, EMU_HERE)
{
    return emu::vote(emu::ballot_all, mask, p != 0, EMU_SITE("__all_sync")) == mask;
}

template <class T> inline unsigned __match_any_sync(unsigned mask, T v, EMU_HERE)
{
    unsigned long long wide = 0;
    static_assert(sizeof(T) <= sizeof wide, "32 or 64 bits are matched");
    __builtin_memcpy(&wide, &v, sizeof v);
    return emu::vote(emu::match_all, mask, wide, EMU_SITE("__match_any_sync"));
}

#define EMU_REDUCE(name, F)                                                                        \
    template <class T> inline T name(unsigned mask, T v, EMU_HERE)                                 \
    {                                                                                              \
        return emu::reduce_sync<T, emu::F>(mask, v, EMU_SITE(#name));                              \
    }

EMU_REDUCE(__reduce_add_sync, sum_of)
EMU_REDUCE(__reduce_min_sync, min_of)
EMU_REDUCE(__reduce_max_sync, max_of)
EMU_REDUCE(__reduce_and_sync, and_of)
EMU_REDUCE(__reduce_or_sync, or_of)
#undef EMU_REDUCE

inline unsigned __activemask()
{
    emu::complain("__activemask tells nothing that a kernel may rely on; pass the mask along");
}

#endif
