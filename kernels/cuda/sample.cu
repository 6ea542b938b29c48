// SPDX-License-Identifier: Apache-2.0
// The kernels of sampling, and their host's side. A block does one row; rows of one slot that stand
// beside one another depend on each other and are done by one block. Passes over a row: one for its
// maximum and total, one more where parameters change logits, one or two to choose, and one for
// the rank of what was chosen.
#include "kernels/cuda/sample_filter.cuh"
#include "kernels/cuda/sample_slot.cuh"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

// Rows whose results are to be handed over when the stream has run.
struct sample_delivery {
    struct sample_result *to;
    uint32_t first, n;
};

struct device_samplers {
    sample_slots all;
    uint32_t n_slots, ids_max;
    struct sample_result *result; // pinned, [result_rows]
    uint32_t result_rows, n_results;
    struct sample_delivery *delivery;
    uint32_t n_deliveries, deliveries_max;
    uint8_t *scratch; // of the host, for what a slot begins with
    size_t scratch_bytes;
};

namespace
{

// ---- random numbers: base/philox.c -------------------------------------------------------------

__device__ double draw_uniform(unsigned long long seed, unsigned sample_index, unsigned position)
{
    unsigned c[4] = {sample_index, position, 0, 0}; // 0: PHILOX_SAMPLE
    unsigned k[2] = {(unsigned)seed, (unsigned)(seed >> 32)};
    for (int r = 0; r < 10; r++) {
        phx_u64 p0 = (phx_u64)0xD2511F53u * c[0], p1 = (phx_u64)0xCD9E8D57u * c[2];
        unsigned next[4] = {(unsigned)(p1 >> 32) ^ c[1] ^ k[0], (unsigned)p1,
            (unsigned)(p0 >> 32) ^ c[3] ^ k[1], (unsigned)p0};
        for (int i = 0; i < 4; i++)
            c[i] = next[i];
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
    return (double)(((phx_u64)c[0] << 32 | c[1]) >> 11) * 1.1102230246251565e-16; // 2^-53
}

// ---- rows --------------------------------------------------------------------------------------

constexpr float temperature_greedy = 1e-5f, temperature_min = 1e-2f;

// A row in progress.
struct row_work {
    const sample_call &c;
    sample_shared &s;
    sample_source row;
    sample_most raw;
    unsigned n_top;
    sample_candidates candidates;
    bool collected; // candidates are of the raw row and hold the n_top largest
};

__device__ __forceinline__ unsigned choose(
    row_work &w, const sample_slot &slot, unsigned position, bool changed, bool &failed)
{
    const struct sampling_params &p = slot.p;
    sample_most most = changed ? sample_scan(w.s, w.row) : w.raw;
    failed = !(fabsf(most.max) < INFINITY);
    if (failed || p.temperature < temperature_greedy)
        return most.id;
    double u = draw_uniform(p.seed, p.sample_index, position);
    sample_filter f = sample_filter_of(most.max, fmaxf(p.temperature, temperature_min), w.c.shift);
    bool top_k = p.top_k > 0 && (unsigned)p.top_k < w.row.n;
    if (!top_k && !(p.min_p > 0) && p.top_p >= 1 && p.typical_p >= 1)
        return sample_draw_all(w.s, w.row, f, u);
    sample_need need = {top_k ? (unsigned)p.top_k : 0, p.min_p, p.top_p, changed ? 0 : w.n_top};
    w.candidates = sample_collect(w.s, w.row, f, need);
    w.collected = !changed && w.candidates.fits;
    return sample_choose_from(
        w.s, w.candidates.fits ? w.candidates.list : w.row, f, p, w.candidates.total, w.row.n, u);
}

__device__ __forceinline__ float logprob(const sample_most &raw, double log_total, float x)
{
    return (float)((double)x - (double)raw.max - log_total);
}

__device__ __forceinline__ unsigned count_greater(const row_work &w, float than)
{
    phx_u64 n = 0;
    if (w.collected)
        w.candidates.list.each([&](unsigned, float x) { n += x > than; });
    else
        w.row.each_four([&](unsigned, float4 v) {
            n += (unsigned)((v.x > than) + (v.y > than) + (v.z > than) + (v.w > than));
        });
    return (unsigned)sample_sum(w.s, n);
}

// The n largest logits of the source, equal ones by ascending id, in this order.
__device__ __forceinline__ unsigned write_top(row_work &w, const sample_source &source,
    double log_total, unsigned n, struct sample_result *out)
{
    phx_u64 finite = sample_count_finite(w.s, source);
    n = finite < n ? (unsigned)finite : n;
    sample_filter f = sample_filter_of(w.raw.max, 1, w.c.shift);
    sample_border b = sample_select(w.s, source, f, SAMPLE_BY_LOGIT, n);
    unsigned last = 0xffffffffu;
    f.top_p = b.key;
    if (b.before + b.at > n)
        last = sample_select(w.s, source, f, SAMPLE_BY_ID, n - b.before).key;
    if (threadIdx.x == 0)
        w.s.count = 0;
    __syncthreads();
    source.each([&](unsigned id, float x) {
        unsigned key = sample_key(x);
        if (x > -INFINITY && (key < b.key || (key == b.key && id <= last)))
            w.s.bucket[atomicAdd(&w.s.count, 1u)] = (phx_u64)key << 32 | id;
    });
    __syncthreads();
    if (threadIdx.x < n) {
        phx_u64 mine = w.s.bucket[threadIdx.x];
        unsigned rank = 0, id = (unsigned)mine;
        for (unsigned i = 0; i < n; i++)
            rank += w.s.bucket[i] < mine;
        out->top[rank].id = id;
        out->top[rank].logprob = logprob(w.raw, log_total, w.row.x[id]);
    }
    __syncthreads();
    return n;
}

__device__ __forceinline__ unsigned find_top(
    row_work &w, double log_total, struct sample_result *out)
{
    if (w.n_top == 0)
        return 0;
    if (!w.collected) {
        sample_filter f = sample_filter_of(w.raw.max, 1, w.c.shift);
        w.candidates = sample_collect(w.s, w.row, f, {w.n_top, 0, 1, w.n_top});
    }
    return write_top(w, w.candidates.fits ? w.candidates.list : w.row, log_total, w.n_top, out);
}

__device__ __forceinline__ void write_result(row_work &w, unsigned id, struct sample_result *out)
{
    double log_total = log(w.raw.total);
    float x = w.row.x[id];
    unsigned rank = 1;
    if (x != w.raw.max)
        rank += count_greater(w, x);
    unsigned n_top = find_top(w, log_total, out);
    if (threadIdx.x == 0) {
        out->logprob = logprob(w.raw, log_total, x);
        out->rank = rank;
        out->n_top = n_top;
    }
}

__device__ __forceinline__ void run_row(const sample_call &c, sample_shared &s, unsigned r)
{
    const struct sample_row row = c.row[r];
    struct sample_result *out =
        reinterpret_cast<struct sample_result *>(c.result + (size_t)r * c.result_stride);
    float *x = c.logits + (size_t)r * c.all.vocab_size;
    row_work w = {c, s, {nullptr, x, c.all.vocab_size}, {}, row.n_logprobs, {}, false};
    w.raw = sample_scan(s, w.row);
    unsigned id = row.scored ? row.target : 0;
    bool failed = !(fabsf(w.raw.max) < INFINITY);
    sample_place place = sample_slot_of(c.all, row.scored ? 0 : row.slot);
    if (!row.scored && !failed) {
        bool changed = sample_changes(*place.slot);
        w.n_top = place.slot->p.n_logprobs;
        if (changed)
            sample_change(place, x);
        id = choose(w, *place.slot, row.position, changed, failed);
        if (changed)
            sample_restore(place, x);
    }
    w.n_top = min(min(w.n_top, c.top_max), w.row.n);
    if (threadIdx.x == 0) {
        out->id = failed && !row.scored ? 0 : id;
        out->failed = failed;
        out->n_top = 0;
    }
    if (failed)
        return;
    write_result(w, id, out);
    __syncthreads();
    if (threadIdx.x == 0 && !row.scored) {
        place.slot->n_output++;
        if (place.slot->counted)
            sample_count(c.all, place, id, true);
    }
}

__device__ __forceinline__ bool same_slot(const struct sample_row &a, const struct sample_row &b)
{
    return !a.scored && !b.scored && a.slot == b.slot;
}

__global__ void __launch_bounds__(sample_threads) sample_kernel(const sample_call c)
{
    PHX_SHARED_DYNAMIC(sample_shared, s);
    unsigned r = blockIdx.x;
    phx_grid_wait();
    if (r > 0 && same_slot(c.row[r - 1], c.row[r]))
        return;
    for (;;) {
        run_row(c, *s, r);
        __syncthreads();
        r++;
        if (r >= c.n_rows || !same_slot(c.row[r - 1], c.row[r]))
            break;
    }
}

__global__ void __launch_bounds__(sample_threads)
    begin_kernel(const sample_slots all, const sample_begin_head *head)
{
    phx_grid_wait();
    const struct sampling_bias *bias = reinterpret_cast<const struct sampling_bias *>(head + 1);
    const unsigned *stop_ids = reinterpret_cast<const unsigned *>(bias + head->p.n_logit_bias);
    const unsigned *ids = stop_ids + head->p.n_stop_ids;
    sample_place s = sample_slot_of(all, head->slot);
    unsigned n = head->counted ? head->n_ids : 0, i = threadIdx.x;
    if (i == 0) {
        s.slot->p = head->p;
        s.slot->n_output = head->n_ids - head->prompt_length;
        s.slot->counted = head->counted;
        s.slot->n_seen = 0;
    }
    for (unsigned j = i; j < head->p.n_stop_ids; j += blockDim.x)
        s.slot->stop_ids[j] = stop_ids[j];
    for (unsigned j = i; j < head->p.n_logit_bias; j += blockDim.x)
        s.slot->bias[j] = bias[j];
    for (unsigned j = i; j < all.table_size && head->counted; j += blockDim.x)
        s.table[j] = {0, 0};
    __syncthreads();
    for (unsigned j = i; j < n; j += blockDim.x)
        sample_count(all, s, ids[j], j >= head->prompt_length);
}

// ---- the host ----------------------------------------------------------------------------------

void deliver(struct device *d)
{
    struct device_samplers *s = d->samplers;
    for (uint32_t i = 0; s != NULL && i < s->n_deliveries; i++)
        for (uint32_t r = 0; r < s->delivery[i].n; r++) {
            const struct sample_result *from = &s->result[s->delivery[i].first + r];
            memcpy(&s->delivery[i].to[r], from,
                offsetof(struct sample_result, top) + from->n_top * sizeof from->top[0]);
        }
    if (s != NULL)
        s->n_deliveries = s->n_results = 0;
}

void close_samplers(struct device *d)
{
    struct device_samplers *s = d->samplers;
    d->samplers = NULL;
    if (s == NULL)
        return;
    cudaStreamSynchronize(d->stream);
    void *memory[] = {s->all.slot, s->all.table, s->all.place, s->all.raw};
    for (void *p : memory)
        if (p != NULL)
            cudaFree(p);
    if (s->result != NULL)
        cudaFreeHost(s->result);
    free(s->delivery);
    free(s->scratch);
    free(s);
}

// Makes room for `n` more rows and one more delivery. All that is under way may have to end first.
bool reserve_results(struct device *d, uint32_t n)
{
    struct device_samplers *s = d->samplers;
    if (s->n_results + n <= s->result_rows && s->n_deliveries < s->deliveries_max)
        return true;
    check(!d->recording);
    device_keep(d, cudaStreamSynchronize(d->stream), "the work enqueued");
    if (d->failed != STATUS_OK)
        return false;
    deliver(d);
    if (n <= s->result_rows)
        return true;
    struct sample_result *larger = NULL;
    cudaError_t e =
        cudaHostAlloc((void **)&larger, 2 * (size_t)n * sizeof *larger, cudaHostAllocPortable);
    device_keep(d, e, "memory for results");
    if (e != cudaSuccess)
        return false;
    cudaFreeHost(s->result);
    s->result = larger;
    s->result_rows = 2 * n;
    return true;
}

void size_tables(sample_slots *all, uint32_t vocab_size, uint32_t ids_max)
{
    uint32_t bits = 4;
    all->vocab_size = vocab_size;
    all->capacity = ids_max < vocab_size ? ids_max : vocab_size;
    while (bits < 31 && (uint64_t)1 << bits < 2 * (uint64_t)all->capacity)
        bits++;
    bool direct = (uint64_t)1 << bits >= vocab_size;
    all->table_size = direct ? vocab_size : 1u << bits;
    all->hash_shift = direct ? 0 : 32 - bits;
}

} // namespace

uint64_t device_samplers_bytes(uint32_t n_slots, uint32_t vocab_size, uint32_t ids_max)
{
    sample_slots all = {};
    size_tables(&all, vocab_size, ids_max);
    uint64_t each = sizeof *all.slot + (uint64_t)all.table_size * sizeof *all.table +
                    (uint64_t)all.capacity * (sizeof *all.place + sizeof *all.raw);
    return n_slots * each;
}

namespace
{

enum status take_samplers(struct device *d, struct device_samplers *s)
{
    sample_slots *all = &s->all;
    size_t n = s->n_slots;
    cudaError_t e = cudaMalloc((void **)&all->slot, n * sizeof *all->slot);
    if (e == cudaSuccess)
        e = cudaMalloc((void **)&all->table, n * all->table_size * sizeof *all->table);
    if (e == cudaSuccess)
        e = cudaMalloc((void **)&all->place, n * all->capacity * sizeof *all->place);
    if (e == cudaSuccess)
        e = cudaMalloc((void **)&all->raw, n * all->capacity * sizeof *all->raw);
    if (e == cudaSuccess)
        e = cudaHostAlloc(
            (void **)&s->result, s->result_rows * sizeof *s->result, cudaHostAllocPortable);
    if (e == cudaSuccess)
        e = cudaMemsetAsync(all->slot, 0, n * sizeof *all->slot, d->stream);
    if (e == cudaSuccess)
        e = cudaFuncSetAttribute(
            sample_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)sizeof(sample_shared));
    s->scratch_bytes = sizeof(sample_begin_head) + SAMPLING_LOGIT_BIAS_MAX * sizeof(sampling_bias) +
                       (SAMPLING_STOP_IDS_MAX + (size_t)s->ids_max) * sizeof(uint32_t);
    s->scratch = (uint8_t *)malloc(s->scratch_bytes);
    s->delivery = (struct sample_delivery *)malloc(s->deliveries_max * sizeof *s->delivery);
    cudaGetLastError();
    return e == cudaSuccess && s->scratch != NULL && s->delivery != NULL ? STATUS_OK
                                                                         : STATUS_NO_MEMORY;
}

// Lists without an id that occurs twice: each entry may then be done by a thread of its own.
uint32_t put_bias(struct sampling_bias *to, const struct sampling_bias *from, uint32_t n)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = 0;
        while (at < count && to[at].id != from[i].id)
            at++;
        if (at < count)
            to[at].bias += from[i].bias;
        else
            to[count++] = from[i];
    }
    return count;
}

uint32_t put_stop_ids(uint32_t *to, const uint32_t *from, uint32_t n, uint32_t vocab_size)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = 0;
        while (at < count && to[at] != from[i])
            at++;
        if (at == count && from[i] < vocab_size)
            to[count++] = from[i];
    }
    return count;
}

} // namespace

enum status cuda_sampler_open(
    struct device *d, uint32_t n_slots, uint32_t vocab_size, uint32_t ids_max, struct error *err)
{
    check(d->samplers == NULL && n_slots > 0 && vocab_size > 0 && ids_max > 0);
    check(vocab_size <= (uint32_t)1 << 30);
    struct device_samplers *s = (struct device_samplers *)calloc(1, sizeof *s);
    if (s == NULL)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for samplers");
    d->samplers = s;
    d->samplers_close = close_samplers;
    d->samplers_deliver = deliver;
    s->n_slots = n_slots;
    s->ids_max = ids_max;
    s->result_rows = 4 * n_slots > 64 ? 4 * n_slots : 64; // of calls that nobody waited for yet
    s->deliveries_max = 64;
    size_tables(&s->all, vocab_size, ids_max);
    if (take_samplers(d, s) == STATUS_OK)
        return STATUS_OK;
    close_samplers(d);
    return status_fail(err, STATUS_NO_MEMORY,
        "no memory on device %d for %u samplers over %u ids and up to %u tokens each", d->index,
        n_slots, vocab_size, ids_max);
}

void cuda_sampler_begin(struct device *d, const struct sampler_begin_args *a)
{
    const struct sampling_params *p = &a->params;
    struct device_samplers *s = d->samplers;
    check(s != NULL && a->slot < s->n_slots);
    check(p->n_stop_ids <= SAMPLING_STOP_IDS_MAX && p->n_logit_bias <= SAMPLING_LOGIT_BIAS_MAX);
    check(a->prompt_length <= a->n_ids && a->n_ids <= s->ids_max);
    if (d->failed != STATUS_OK)
        return;
    sample_begin_head *head = (sample_begin_head *)s->scratch;
    head->p = *p;
    head->slot = a->slot;
    head->n_ids = a->n_ids;
    head->prompt_length = a->prompt_length;
    head->counted = p->repetition_penalty != 1.0f || p->presence_penalty != 0.0f ||
                    p->frequency_penalty != 0.0f;
    struct sampling_bias *bias = (struct sampling_bias *)(head + 1);
    for (uint32_t i = 0; i < p->n_logit_bias; i++)
        check(a->bias[i].id < s->all.vocab_size);
    head->p.n_logit_bias = put_bias(bias, a->bias, p->n_logit_bias);
    uint32_t *stop_ids = (uint32_t *)(bias + head->p.n_logit_bias);
    head->p.n_stop_ids = put_stop_ids(stop_ids, a->stop_ids, p->n_stop_ids, s->all.vocab_size);
    uint32_t *ids = stop_ids + head->p.n_stop_ids, n = head->counted ? a->n_ids : 0;
    for (uint32_t i = 0; i < n; i++) {
        check(a->ids[i] < s->all.vocab_size);
        ids[i] = a->ids[i];
    }
    const void *there = device_upload(d, head, (size_t)((uint8_t *)(ids + n) - s->scratch));
    if (there == NULL)
        return;
    device_keep(d,
        phx_launch(device_launch_waiting(d, dim3(1), dim3(sample_threads)), begin_kernel, s->all,
            (const sample_begin_head *)there),
        "a sampler");
}

void cuda_sample(struct device *d, const struct sample_args *a)
{
    constexpr uint32_t head = offsetof(struct sample_result, top);
    struct device_samplers *s = d->samplers;
    bool stays = a->result_stride != 0;
    check(s != NULL && a->vocab_size == s->all.vocab_size);
    check(!stays || (a->result_stride >= head && a->result_stride % alignof(sample_result) == 0));
    for (uint32_t r = 0; r < a->n_rows; r++)
        check(a->row[r].scored ? a->row[r].target < a->vocab_size : a->row[r].slot < s->n_slots);
    if (d->failed != STATUS_OK || a->n_rows == 0 || (!stays && !reserve_results(d, a->n_rows)))
        return;
    const void *rows = device_upload(d, a->row, a->n_rows * sizeof *a->row);
    if (rows == NULL)
        return;
    uint32_t bits = 0; // of the vocabulary's size: the sum of all weights fits into 63
    while ((uint64_t)1 << bits < a->vocab_size)
        bits++;
    sample_call c = {};
    c.all = s->all;
    c.logits = const_cast<float *>(a->logits);
    c.row = (const struct sample_row *)rows;
    c.result = (uint8_t *)(stays ? a->result : s->result + s->n_results);
    c.result_stride = stays ? a->result_stride : (uint32_t)sizeof(struct sample_result);
    uint32_t room = (c.result_stride - head) / (uint32_t)sizeof(struct sample_top);
    c.top_max = room < SAMPLING_LOGPROBS_MAX ? room : (uint32_t)SAMPLING_LOGPROBS_MAX;
    c.n_rows = a->n_rows;
    c.shift = 62 - bits;
    device_keep(d,
        phx_launch(
            device_launch_waiting(d, dim3(a->n_rows), dim3(sample_threads), sizeof(sample_shared)),
            sample_kernel, c),
        "sampling");
    if (stays)
        return;
    s->delivery[s->n_deliveries++] = {a->result, s->n_results, a->n_rows};
    s->n_results += a->n_rows;
}
