// SPDX-License-Identifier: Apache-2.0
// The op `experts`: its memory, its products, and the sum of a row's results.
#include "kernels/cuda/experts.cuh"

#include "kernels/cuda/pack.cuh"

namespace
{

constexpr unsigned combine_threads = 256, used_max = 512;
constexpr size_t choices_most = 1 << 18; // of a round: tiles have to fit into a grid

struct combine_call {
    const uint32_t *expert, *live;
    const float *probability;
    const unsigned *place;
    const float *shared_gate; // [n_rows] logits, or NULL: 1
    unsigned n_used, dim;
};

// A row's choices in ascending order of experts.
struct choices {
    unsigned place[used_max];
    float probability[used_max];
};

__device__ __forceinline__ void order_choices(const combine_call &c, choices &to, uint64_t first)
{
    for (unsigned i = threadIdx.x; i < c.n_used; i += blockDim.x) {
        unsigned e = c.expert[first + i], before = 0;
        for (unsigned j = 0; j < c.n_used; j++)
            before += c.expert[first + j] < e;
        to.place[before] = c.place[first + i];
        to.probability[before] = c.probability[first + i];
    }
}

// A block per row. `shared` is NULL where there is no shared expert.
template <class T, int V>
__global__ void __launch_bounds__(combine_threads)
    combine_kernel(const combine_call c, const T *part, const T *shared, T *out)
{
    PHX_SHARED(choices, mine);
    unsigned row = blockIdx.x;
    phx_grid_wait();
    phx_grid_release();
    if (c.live != nullptr && row >= *c.live)
        return;
    order_choices(c, mine, (uint64_t)row * c.n_used);
    float of_shared = 1.0f;
    if (c.shared_gate != nullptr)
        of_shared = 1.0f / (1.0f + canon_exp(-c.shared_gate[row]));
    __syncthreads();
    for (unsigned at = threadIdx.x * V; at < c.dim; at += blockDim.x * V) {
        float sum[V] = {}, v[V];
        for (unsigned i = 0; i < c.n_used; i++) {
            if (mine.place[i] == experts_nowhere)
                continue;
            phx_load<T, V>(part + (uint64_t)mine.place[i] * c.dim + at, v);
#pragma unroll
            for (int e = 0; e < V; e++)
                sum[e] += mine.probability[i] * v[e];
        }
        if (shared != nullptr) {
            phx_load<T, V>(shared + (uint64_t)row * c.dim + at, v);
#pragma unroll
            for (int e = 0; e < V; e++)
                sum[e] += of_shared * v[e];
        }
        phx_store<T, V>(out + (uint64_t)row * c.dim + at, sum);
    }
}

// ---- the op ------------------------------------------------------------------------------------

struct job {
    const struct experts_args *a;
    linear_call up, down;
    linear_groups up_groups, down_groups;
    experts_routes routes;
    float *shared_gate;
    bool half, packs, clears; // what lies behind a row of the MLP has to be zeroed
    uint32_t element, ffn_stride;
    unsigned n_rows; // of a round
};

// The weights as kernels see them: first all of `in`, then all of `down`. True where tensor cores
// can multiply all of them with the activations.
bool list_weights(const struct device *d, const struct experts_args *a, linear_group_weight *to)
{
    bool half = d->activation != DTYPE_F32;
    for (uint32_t i = 0; i < 2 * a->count; i++) {
        const struct weight *w = i < a->count ? a->in[i] : a->down[i - a->count];
        uint32_t n = i >= a->count ? a->hidden_dim : a->gated ? 2 * a->ffn : a->ffn;
        check(w->n == n && w->k == (i < a->count ? a->hidden_dim : a->ffn));
        to[i].data = w->data;
        to[i].stride = w->stride;
        to[i].type = w->dtype;
        half = half && w->dtype == d->activation;
    }
    return half;
}

const linear_group_weight *bring_weights(struct device *d, job &j)
{
    linear_group_weight list[2 * DEVICE_TICKETS] = {};
    check(j.a->count >= 1 && j.a->count < DEVICE_TICKETS);
    j.half = list_weights(d, j.a, list);
    return static_cast<const linear_group_weight *>(
        device_constants(d, j.a->in, list, 2 * j.a->count * sizeof *list));
}

linear_call product(const struct device *d, const job &j, uint32_t n, uint32_t k)
{
    linear_call c = {};
    c.n = n;
    c.k = j.half ? linear_packed_k(k) : k;
    c.x_type = c.out_type = c.act_type = d->activation;
    c.x_aligned = true;
    return c;
}

linear_plan plan_of(const struct device *d, const job &j, const linear_call &c, uint32_t k)
{
    linear_shape s = {};
    s.m = j.n_rows * j.a->n_used;
    s.n = c.n;
    s.k = k;
    s.half = j.half;
    s.gated = c.gated;
    s.n_sms = d->n_sms;
    return linear_plan_grouped(&s, j.a->n_experts);
}

void plan_products(const struct device *d, job &j)
{
    const struct experts_args *a = j.a;
    j.ffn_stride = j.half ? linear_packed_k(a->ffn) : a->ffn;
    j.packs = j.half && linear_must_pack(a->x, a->hidden_dim, a->hidden_dim);
    j.clears = j.ffn_stride != a->ffn;
    j.up = product(d, j, a->gated ? 2 * a->ffn : a->ffn, a->hidden_dim);
    j.up.has_act = true;
    j.up.gated = a->gated;
    j.up.act = a->kind;
    j.up.out_stride = j.ffn_stride;
    j.up.x_stride = j.packs ? j.up.k : a->hidden_dim;
    j.up.x_aligned = linear_aligned(a->x, a->hidden_dim * j.element) || j.packs;
    j.down = product(d, j, a->hidden_dim, a->ffn);
    j.down.x_stride = j.ffn_stride;
    j.down.x_aligned = j.ffn_stride * j.element % 16 == 0;
    j.down.out_stride = a->hidden_dim;
}

// Cuts the workspace of a round, or only counts where `base` is NULL.
size_t lay_out(job &j, uint8_t *base, unsigned n_rows)
{
    const struct experts_args *a = j.a;
    size_t at = 0, n = (size_t)n_rows * a->n_used;
    auto take = [&](size_t bytes) {
        uint8_t *p = base != NULL ? base + at : NULL;
        at += device_whole(bytes);
        return static_cast<void *>(p);
    };
    experts_routes &r = j.routes;
    r.rank = static_cast<unsigned *>(take(n * sizeof *r.rank));
    r.place = static_cast<unsigned *>(take(n * sizeof *r.place));
    r.rows = static_cast<unsigned *>(take(n * sizeof *r.rows));
    r.tile = static_cast<linear_group_tile *>(take(n * sizeof *r.tile));
    r.n_tiles = static_cast<unsigned *>(take(sizeof *r.n_tiles));
    void *packed = take(j.packs ? (size_t)n_rows * j.up.k * sizeof(uint16_t) : 0);
    j.up.x = j.packs ? packed : a->x;
    j.down.x = j.up.out = take(n * j.ffn_stride * j.element);
    j.down.out = take(n * a->hidden_dim * j.element);
    j.up_groups.tile = j.down_groups.tile = r.tile;
    j.up_groups.n_tiles = j.down_groups.n_tiles = r.n_tiles;
    j.up_groups.x_rows = r.rows;
    return at;
}

// What all rounds have in common lies in the caller's memory.
void lay_routes(struct device *d, job &j)
{
    const struct experts_args *a = j.a;
    size_t n = (size_t)a->n_rows * a->n_used;
    experts_routes &r = j.routes;
    r.expert = static_cast<uint32_t *>(a->routes);
    r.probability = reinterpret_cast<float *>(r.expert + n);
    r.logit = r.probability + n;
    j.shared_gate = r.probability + n + (size_t)a->n_rows * a->n_experts;
    r.live = device_live_rows(d);
    r.n_experts = a->n_experts;
    r.n_used = a->n_used;
    r.begin = a->begin;
    r.count = a->count;
    r.renormalize = a->renormalize;
    r.tickets = device_tickets(d);
}

void project(struct device *d, const struct experts_args *a, const struct weight *w, float *out)
{
    struct linear_args linear = {};
    linear.n_rows = a->n_rows;
    linear.x = a->x;
    linear.x_stride = a->hidden_dim;
    linear.w = w;
    linear.out = out;
    linear.out_stride = w->n;
    linear.out_f32 = true;
    cuda_linear(d, &linear);
}

// The shared expert of all rows, into a->part.
void compute_shared(struct device *d, const struct experts_args *a)
{
    struct linear_args up = {};
    up.n_rows = a->n_rows;
    up.x = a->x;
    up.x_stride = a->hidden_dim;
    up.w = a->shared_in;
    struct act_args act = {};
    act.n_rows = a->n_rows;
    act.dim = a->shared_ffn;
    act.gated = a->gated;
    act.kind = a->kind;
    act.out = a->mlp;
    struct linear_args down = {};
    down.n_rows = a->n_rows;
    down.x = a->mlp;
    down.x_stride = a->shared_ffn;
    down.w = a->shared_down;
    down.out = a->part;
    down.out_stride = a->hidden_dim;
    cuda_linear_act(d, &up, &act);
    cuda_linear(d, &down);
}

void multiply(struct device *d, linear_call &c, const linear_groups &g, const linear_plan &p)
{
    c.segment = p.segment;
    c.n_segments = p.n_segments;
    if (p.kernel >= LINEAR_FFMA_64x8)
        device_keep(d, linear_ffma_grouped(c, g, p, d), "experts");
    else if (p.kernel >= LINEAR_TILE_64x64)
        device_keep(d, linear_tile_grouped(c, g, p, d), "experts");
    else
        device_keep(d, linear_rows_grouped(c, g, p, d), "experts");
}

template <class T, int V> void combine(struct device *d, const job &j, unsigned first)
{
    const struct experts_args *a = j.a;
    const T *shared = a->shared_ffn > 0 ? static_cast<const T *>(a->part) : NULL;
    combine_call c = {};
    c.expert = j.routes.expert;
    c.probability = j.routes.probability;
    c.place = j.routes.place;
    c.live = j.routes.live;
    c.shared_gate = shared != NULL && a->shared_gate != NULL ? j.shared_gate + first : NULL;
    c.n_used = a->n_used;
    c.dim = a->hidden_dim;
    uint64_t begin = (uint64_t)first * a->hidden_dim;
    device_keep(d,
        phx_launch(device_launch_waiting(d, dim3(j.n_rows), dim3(combine_threads)),
            combine_kernel<T, V>, c, static_cast<const T *>(j.down.out),
            shared != NULL ? shared + begin : shared, static_cast<T *>(a->out) + begin),
        "experts: combine");
}

void combine_any(struct device *d, const job &j, unsigned first)
{
    phx_dispatch(d->activation, [&](auto type) {
        using T = decltype(type);
        constexpr int V = 16 / sizeof(T);
        if (phx_packs<T, V>(j.a->hidden_dim, j.a->out, j.a->part, j.down.out))
            combine<T, V>(d, j, first);
        else
            combine<T, 1>(d, j, first);
    });
}

// Rows first .. first + j.n_rows - 1.
void run_round(struct device *d, job j, unsigned first)
{
    const struct experts_args *a = j.a;
    experts_routes &r = j.routes;
    const uint8_t *x =
        static_cast<const uint8_t *>(a->x) + (size_t)first * a->hidden_dim * j.element;
    linear_plan up = plan_of(d, j, j.up, a->hidden_dim), down = plan_of(d, j, j.down, a->ffn);
    r.n_rows = j.n_rows;
    r.m_tile = linear_plan_m_tile(up.kernel);
    check(r.m_tile == linear_plan_m_tile(down.kernel));
    r.expert += (size_t)first * r.n_used;
    r.probability += (size_t)first * r.n_used;
    r.logit += (size_t)first * r.n_experts;
    device_keep(d, experts_route(r, d), "experts: route");
    if (j.packs)
        linear_pack(d, x, a->hidden_dim, j.n_rows, a->hidden_dim, const_cast<void *>(j.up.x));
    else
        j.up.x = x;
    if (j.clears)
        device_keep(d,
            cudaMemsetAsync(
                j.up.out, 0, (size_t)j.n_rows * a->n_used * j.ffn_stride * j.element, d->stream),
            "experts");
    multiply(d, j.up, j.up_groups, up);
    multiply(d, j.down, j.down_groups, down);
    combine_any(d, j, first);
}

// As many as the workspace is meant to hold, and at least one; all of them while a step is
// recorded.
unsigned rows_of_round(const struct device *d, job &j)
{
    if (j.routes.live != NULL)
        return j.a->n_rows;
    size_t each = lay_out(j, NULL, 64) / 64 + 1, n = d->experts_bytes / each;
    n = n < choices_most / j.a->n_used ? n : choices_most / j.a->n_used;
    return n < 1 ? 1 : n < j.a->n_rows ? (unsigned)n : j.a->n_rows;
}

} // namespace

// Rows of both products and the packed ones, of a round and of one row more.
uint64_t device_experts_bytes(const struct device *d, const struct mem_needs_args *a)
{
    uint64_t element = dtype_bytes(d->activation), columns = (uint64_t)a->k_max + 16;
    uint64_t each = a->n_used * (2 * columns * element + 64) + columns * sizeof(uint16_t);
    uint64_t all = a->n_rows * each;
    if (a->n_used == 0)
        return 0;
    return (all < d->experts_bytes ? all : d->experts_bytes) + each + 4096;
}

void cuda_experts(struct device *d, const struct experts_args *a)
{
    check(a->row_ids == NULL && a->n_used <= used_max);
    if (a->n_rows == 0)
        return;
    job j = {};
    j.a = a;
    j.element = dtype_bytes(d->activation);
    lay_routes(d, j);
    project(d, a, a->router, const_cast<float *>(j.routes.logit));
    if (a->shared_ffn > 0) {
        compute_shared(d, a);
        if (a->shared_gate != NULL)
            project(d, a, a->shared_gate, j.shared_gate);
    }
    const linear_group_weight *weights = bring_weights(d, j);
    plan_products(d, j);
    unsigned at_once = rows_of_round(d, j);
    uint8_t *memory = static_cast<uint8_t *>(device_workspace(d, lay_out(j, NULL, at_once)));
    if (weights == NULL || memory == NULL || j.routes.tickets == NULL)
        return;
    lay_out(j, memory, at_once);
    j.up_groups.weight = weights;
    j.down_groups.weight = weights + a->count;
    for (unsigned first = 0; first < a->n_rows; first += at_once) {
        j.n_rows = a->n_rows - first < at_once ? a->n_rows - first : at_once;
        run_round(d, j, first);
    }
}
