// SPDX-License-Identifier: Apache-2.0
// From the logits of a row to the id that is drawn. A filter is a few borders: whether an id is
// kept can be said of it alone, so what is left is never written down.
#ifndef PHALANX_KERNELS_CUDA_SAMPLE_FILTER_CUH
#define PHALANX_KERNELS_CUDA_SAMPLE_FILTER_CUH

#include "kernels/cuda/sample_block.cuh"

constexpr float sample_bins_per_unit = 32; // of (max - x) / temperature

struct sample_filter {
    float max, temperature;
    double scale;      // 2^shift: units of a weight of 1
    unsigned top_k;    // the largest key that is kept
    float min_p;       // the least weight
    unsigned top_p;    // the largest key,
    unsigned top_p_id; // and the largest id among those that have it
    bool is_typical;
    unsigned typical; // the largest distance, as bits
    double entropy, log_total;

    // Of an id and of what lies at `place`, which is never positive.
    __device__ __forceinline__ float place(float x) const
    {
        return (x - max) / temperature;
    }
    __device__ __forceinline__ float weight(float x) const
    {
        return canon_exp(place(x));
    }
    __device__ __forceinline__ phx_u64 units(float w) const
    {
        return (phx_u64)((double)w * scale);
    }
    __device__ __forceinline__ double surprise(float x) const
    {
        return log_total - ((double)x - (double)max) / (double)temperature;
    }
    __device__ __forceinline__ unsigned distance(float x) const
    {
        return __float_as_uint((float)fabs(surprise(x) - entropy));
    }
    // Ids with a weight that the filter keeps so far.
    __device__ __forceinline__ bool keeps(unsigned id, float x, float &w) const
    {
        unsigned key = sample_key(x);
        if (!(x > -INFINITY) || key > top_k || key > top_p || (key == top_p && id > top_p_id))
            return false;
        w = weight(x);
        return w > 0 && w >= min_p && !(is_typical && distance(x) > typical);
    }
};

// Which bin a place falls into: 0 has the largest logits. The last has all that are far below.
__device__ __forceinline__ unsigned sample_bin(float place)
{
    float f = -place * sample_bins_per_unit;
    return f < (float)(sample_buckets - 1) ? (unsigned)f : sample_buckets - 1;
}

__device__ __forceinline__ sample_filter sample_filter_of(
    float max, float temperature, unsigned shift)
{
    sample_filter f = {};
    f.max = max;
    f.temperature = temperature;
    f.scale = (double)((phx_u64)1 << shift);
    f.top_k = f.top_p = f.top_p_id = 0xffffffffu;
    return f;
}

// ---- the ids that can matter -------------------------------------------------------------------

struct sample_need {
    unsigned top_k; // this many of the largest logits; 0: not asked
    float min_p;    // all of at least this weight; 0: not asked
    float top_p;    // those that together have this share of the weight; 1: not asked
    unsigned n_top; // and in any case so many
};

struct sample_candidates {
    sample_source list;
    bool fits;     // they are all in the list
    phx_u64 total; // weight of the whole row
};

// The first bins at which counts and weights reach what is asked, into s.border.
__device__ __forceinline__ void sample_find_bins(
    sample_shared &s, const sample_filter &f, const sample_need &need, phx_u64 total)
{
    constexpr unsigned mine = sample_buckets / sample_threads;
    phx_u64 count = 0, weight = 0, least[mine];
    for (unsigned i = 0; i < mine; i++) {
        unsigned b = threadIdx.x * mine + i;
        least[i] = f.units(canon_exp(-(float)(b + 1) / sample_bins_per_unit)) * s.bin[b];
        if (b == sample_buckets - 1)
            least[i] = 0;
        count += s.bin[b];
        weight += least[i];
    }
    count = sample_sum_before(s, count);
    weight = sample_sum_before(s, weight);
    // A margin for rounding in the bins' borders.
    phx_u64 share = (phx_u64)((double)need.top_p * (double)total * (1 + 1e-5)) + 1;
    for (unsigned i = 0; i < mine; i++) {
        unsigned b = threadIdx.x * mine + i;
        count += s.bin[b];
        weight += least[i];
        if (count >= need.top_k)
            atomicMin(&s.border[0], b);
        if (weight >= share)
            atomicMin(&s.border[1], b);
        if (count >= need.n_top)
            atomicMin(&s.border[2], b);
    }
    __syncthreads();
}

__device__ __forceinline__ unsigned sample_last_bin(const sample_shared &s, const sample_need &need)
{
    unsigned last = sample_buckets - 1;
    if (need.top_k > 0)
        last = s.border[0];
    if (need.min_p > 0) {
        float f = -logf(need.min_p) * sample_bins_per_unit + 2;
        last = f < (float)last ? (unsigned)f : last;
    }
    if (need.top_k == 0 && !(need.min_p > 0) && need.top_p < 1)
        last = s.border[1];
    if (need.n_top > 0)
        last = max(last, s.border[2]);
    return last;
}

// Two passes: a histogram of the logits, then those that can matter into shared memory.
PHX_NOINLINE inline __device__ sample_candidates sample_collect(
    sample_shared &s, const sample_source &row, const sample_filter &f, const sample_need &need)
{
    for (unsigned i = threadIdx.x; i < sample_buckets; i += sample_threads)
        s.bin[i] = 0;
    if (threadIdx.x < 3)
        s.border[threadIdx.x] = sample_buckets - 1;
    __syncthreads();
    phx_u64 total = 0;
    row.each_four([&](unsigned, float4 v) {
        float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            if (x[i] > -INFINITY) {
                float place = f.place(x[i]);
                atomicAdd(&s.bin[sample_bin(place)], 1u);
                total += f.units(canon_exp(place));
            }
    });
    total = sample_sum(s, total);
    sample_find_bins(s, f, need, total);
    unsigned last = sample_last_bin(s, need), count = 0;
    for (unsigned i = threadIdx.x; i <= last; i += sample_threads)
        count += s.bin[i];
    if (threadIdx.x == 0)
        s.count = 0;
    count = (unsigned)sample_sum(s, count);
    sample_candidates c = {{s.list_id, s.list_x, count}, count <= sample_list_max, total};
    if (c.fits)
        row.each_four([&](unsigned id, float4 v) {
            float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (unsigned i = 0; i < 4; i++)
                if (x[i] > -INFINITY && sample_bin(f.place(x[i])) <= last) {
                    unsigned at = atomicAdd(&s.count, 1u);
                    s.list_id[at] = id + i;
                    s.list_x[at] = x[i];
                }
        });
    __syncthreads();
    return c;
}

// ---- selection ---------------------------------------------------------------------------------

// What is selected by which key; smaller keys come first.
enum sample_by {
    SAMPLE_BY_LOGIT,           // finite logits, each counts 1
    SAMPLE_BY_LOGIT_WEIGHT,    // what the filter keeps, by its weight
    SAMPLE_BY_DISTANCE_WEIGHT, // likewise; |surprise - entropy|
    SAMPLE_BY_ID_WEIGHT,       // likewise
    SAMPLE_BY_ID,              // ids whose logit has the filter's key top_p, each counts 1
};

// Keys below `key` weigh `before` together, less than was asked for; those equal to it weigh `at`,
// and with them the sum reaches it.
struct sample_border {
    unsigned key;
    phx_u64 before, at;
};

__device__ __forceinline__ bool sample_asks(
    const sample_filter &f, sample_by by, unsigned id, float x, unsigned &key, phx_u64 &weight)
{
    weight = 1;
    key = by == SAMPLE_BY_ID || by == SAMPLE_BY_ID_WEIGHT ? id : sample_key(x);
    if (by == SAMPLE_BY_LOGIT)
        return x > -INFINITY;
    if (by == SAMPLE_BY_ID)
        return sample_key(x) == f.top_p;
    float w;
    if (!f.keeps(id, x, w))
        return false;
    weight = f.units(w);
    if (by == SAMPLE_BY_DISTANCE_WEIGHT)
        key = f.distance(x);
    return true;
}

// The border at which the sum reaches `target`, which is at least 1, or the whole sum.
PHX_NOINLINE inline __device__ sample_border sample_select(sample_shared &s,
    const sample_source &source, const sample_filter &f, sample_by by, phx_u64 target)
{
    sample_border b = {0, 0, 0};
    for (unsigned done = 0; done < 32;) {
        unsigned width = done < 22 ? 11 : 10, shift = 32 - done - width;
        sample_clear_buckets(s);
        source.each([&](unsigned id, float x) {
            unsigned key;
            phx_u64 weight;
            if (sample_asks(f, by, id, x, key, weight) &&
                (done == 0 || (key ^ b.key) >> (shift + width) == 0))
                atomicAdd(&s.bucket[key >> shift & ((1u << width) - 1)], weight);
        });
        __syncthreads();
        sample_find(s, target - b.before);
        b.key |= (unsigned)s.found[0] << shift;
        b.before += s.found[1];
        b.at = s.found[2];
        done += width;
        __syncthreads();
    }
    return b;
}

// Weight of what the filter keeps.
PHX_NOINLINE inline __device__ phx_u64 sample_kept(
    sample_shared &s, const sample_source &source, const sample_filter &f)
{
    phx_u64 sum = 0;
    source.each([&](unsigned id, float x) {
        float w;
        if (f.keeps(id, x, w))
            sum += f.units(w);
    });
    return sample_sum(s, sum);
}

__device__ __forceinline__ phx_u64 sample_count_finite(
    sample_shared &s, const sample_source &source)
{
    phx_u64 n = 0;
    source.each([&](unsigned, float x) { n += x > -INFINITY; });
    return sample_sum(s, n);
}

// ---- the steps of docs/sampling.md, in their order ---------------------------------------------

__device__ __forceinline__ void sample_top_k(
    sample_shared &s, const sample_source &source, sample_filter &f, unsigned k)
{
    if (sample_count_finite(s, source) > k)
        f.top_k = sample_select(s, source, f, SAMPLE_BY_LOGIT, k).key;
}

__device__ __forceinline__ void sample_top_p(
    sample_shared &s, const sample_source &source, sample_filter &f, float top_p, phx_u64 total)
{
    phx_u64 target = (phx_u64)ceil((double)top_p * (double)total);
    sample_border b = sample_select(s, source, f, SAMPLE_BY_LOGIT_WEIGHT, target);
    // Equal ones, by ascending id, stay while the sum before them is below the target.
    float x = __uint_as_float(b.key & 0x80000000u ? b.key : ~b.key & 0x7fffffffu);
    phx_u64 each = f.units(f.weight(x)), n = 0;
    f.top_p = b.key;
    if (each > 0 && target > b.before)
        n = (target - b.before + each - 1) / each;
    if (n > 0 && n * each < b.at)
        f.top_p_id = sample_select(s, source, f, SAMPLE_BY_ID, n).key;
}

__device__ __forceinline__ void sample_typical(
    sample_shared &s, const sample_source &source, sample_filter &f, float typical_p)
{
    constexpr double units_of_entropy = 288230376151711744.0; // 2^58
    phx_u64 total = sample_kept(s, source, f), sum = 0;
    double weight = (double)total / f.scale;
    f.log_total = log(weight);
    source.each([&](unsigned id, float x) {
        float w;
        if (f.keeps(id, x, w))
            sum += (phx_u64)(long long)((double)w / weight * f.surprise(x) * units_of_entropy);
    });
    f.entropy = (double)(long long)sample_sum(s, sum) / units_of_entropy;
    phx_u64 target = (phx_u64)ceil((double)typical_p * (double)total);
    f.typical = sample_select(s, source, f, SAMPLE_BY_DISTANCE_WEIGHT, target).key;
    f.is_typical = true;
}

// The first id, ascending, at which the running sum exceeds u times the total.
__device__ __forceinline__ phx_u64 sample_target(double u, phx_u64 total)
{
    phx_u64 t = (phx_u64)(u * (double)total);
    return t < total ? t + 1 : total;
}

// By the filter that max and temperature make, from a source that has all it can keep.
__device__ __forceinline__ unsigned sample_choose_from(sample_shared &s,
    const sample_source &source, sample_filter f, const struct sampling_params &p, phx_u64 total,
    unsigned n, double u)
{
    bool top_k = p.top_k > 0 && (unsigned)p.top_k < n;
    if (top_k)
        sample_top_k(s, source, f, (unsigned)p.top_k);
    if (p.min_p > 0)
        f.min_p = p.min_p;
    if (p.top_p < 1) {
        if (top_k || p.min_p > 0)
            total = sample_kept(s, source, f);
        sample_top_p(s, source, f, p.top_p, total);
    }
    if (p.typical_p < 1)
        sample_typical(s, source, f, p.typical_p);
    phx_u64 target = sample_target(u, sample_kept(s, source, f));
    return sample_select(s, source, f, SAMPLE_BY_ID_WEIGHT, target).key;
}

// ---- drawing from a whole row ------------------------------------------------------------------

// Nothing is dropped: one pass for the weights of segments of the row, and a look at the segment in
// which the draw falls.
PHX_NOINLINE inline __device__ unsigned sample_draw_all(
    sample_shared &s, const sample_source &row, const sample_filter &f, double u)
{
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned length = ((row.n + sample_buckets - 1) / sample_buckets + 127) / 128 * 128;
    sample_clear_buckets(s);
    for (unsigned i = warp; i * length < row.n; i += sample_warps) {
        phx_u64 sum = 0;
        unsigned end = min((i + 1) * length, row.n);
#pragma unroll 4
        for (unsigned id = i * length + lane; id < end; id += 32)
            sum += f.units(f.weight(row.x[id]));
        for (int d = 16; d > 0; d /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, d);
        if (lane == 0)
            s.bucket[i] = sum;
    }
    __syncthreads();
    phx_u64 total = 0;
    for (unsigned i = threadIdx.x; i < sample_buckets; i += sample_threads)
        total += s.bucket[i];
    phx_u64 target = sample_target(u, sample_sum(s, total));
    sample_find(s, target);
    if (warp == 0) {
        phx_u64 before = s.found[1];
        unsigned first = (unsigned)s.found[0] * length, end = min(first + length, row.n);
        for (unsigned base = first; base < end; base += 32) {
            unsigned id = base + lane;
            phx_u64 w = id < end ? f.units(f.weight(row.x[id])) : 0, sum = w;
            for (unsigned d = 1; d < 32; d *= 2) {
                phx_u64 up = __shfl_up_sync(0xffffffffu, sum, d);
                sum += lane >= d ? up : 0;
            }
            unsigned reached = __ballot_sync(0xffffffffu, before + sum >= target);
            if (reached != 0) {
                if (lane == 0)
                    s.count = base + (unsigned)__ffs((int)reached) - 1;
                break;
            }
            before += __shfl_sync(0xffffffffu, sum, 31);
        }
    }
    __syncthreads();
    return s.count;
}

#endif
