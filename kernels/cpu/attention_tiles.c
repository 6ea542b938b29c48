// SPDX-License-Identifier: Apache-2.0
// The blocked form of attention. A unit is up to ATTENTION_QUERIES (row, head) pairs of one
// sequence that read the same KV head; one pass over its chunks serves them all:
//
//   unit = rows [row, row + n_rows) x heads [head, head + n_heads) of one KV head
//   chunk by chunk: widen or point at 64 keys -> scores -> softmax -> 64 values -> o -> merge
//
// Where there are fewer units than threads could use, a task is one chunk of a unit: its (m, l, o)
// go to shared memory and a second pass merges them in the same order, hence to the same bits.
#include "kernels/cpu/attention.h"

#include "base/check.h"
#include "kernels/cpu/canon.h"
#include "kernels/cpu/cpu.h"

enum {
    CHUNK = KERNELS_ATTENTION_CHUNK,
    QUERIES = ATTENTION_QUERIES,
    KEYS = ATTENTION_KEYS,
    TASKS_PER_THREAD = 4, // fewer units than this: split them by chunk
};

struct unit {
    const struct batch_seq *seq;
    uint32_t kv_head;
    uint32_t row, n_rows;   // within the sequence
    uint32_t head, n_heads; // query heads
    uint32_t n_q;           // n_rows * n_heads, rows outermost
    uint32_t chunk, n_chunks;
};

struct job {
    const struct attention_args *a;
    const struct attention_isa *isa;
    struct device *d;
    uint32_t dim;           // head_dim up to a multiple of 16
    uint32_t rows_per_unit; // so that n_q <= QUERIES
    uint32_t heads_per_unit;
    uint32_t head_blocks; // units that the heads of one KV head make
    uint32_t *first_unit; // [n_seqs + 1]
    uint32_t *first_task; // [n_units + 1], when split by chunk
    uint32_t n_q_max;     // of any unit
    float *partial;       // [tasks][n_q_max][dim + 2]: o, m, l
};

// A thread's scratch.
struct work {
    const float *q[QUERIES];
    const float *row[KEYS];
    uint32_t begin[QUERIES], end[QUERIES]; // visible part of the chunk
    float m[QUERIES], l[QUERIES];
    float *padded;  // [QUERIES][dim] queries, when head_dim is no multiple of 16
    float *scores;  // [QUERIES][CHUNK]
    float *widened; // [KEYS][dim]
    float *o;       // [QUERIES][dim] of one chunk
    float *total;   // [QUERIES][dim] of the chunks so far
};

_Static_assert(sizeof(struct work) + 64 +
                       sizeof(float) * ((3 * QUERIES + KEYS) * ATTENTION_HEAD_DIM_MAX) +
                       sizeof(float) * QUERIES * CHUNK <=
                   CPU_SCRATCH_BYTES,
    "a thread's scratch holds the largest unit");

static struct work *work_begin(const struct job *j, uint32_t thread)
{
    struct work *w = cpu_scratch(j->d, thread);
    float *p = (float *)(void *)((char *)w + (sizeof *w + 63) / 64 * 64);
    w->padded = p;
    w->scores = w->padded + QUERIES * j->dim;
    w->widened = w->scores + QUERIES * CHUNK;
    w->o = w->widened + KEYS * j->dim;
    w->total = w->o + QUERIES * j->dim;
    return w;
}

static uint32_t units_of(const struct job *j, const struct batch_seq *seq)
{
    uint32_t row_blocks = (seq->n_rows + j->rows_per_unit - 1) / j->rows_per_unit;
    return row_blocks * j->a->kv.n_kv_heads * j->head_blocks;
}

// Index of the last entry of first[0 .. n] that is at most x.
static uint32_t find(const uint32_t *first, uint32_t n, uint32_t x)
{
    uint32_t low = 0, high = n;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (first[middle] <= x)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

// Units of one sequence: KV heads and their head blocks vary fastest, rows slowest.
static struct unit unit_at(const struct job *j, uint32_t index)
{
    const struct attention_args *a = j->a;
    uint32_t s = find(j->first_unit, a->batch->n_seqs, index);
    uint32_t i = index - j->first_unit[s], group = a->n_heads / a->kv.n_kv_heads;
    struct unit u = {.seq = &a->batch->seq[s]};
    uint32_t block = i % j->head_blocks;
    i /= j->head_blocks;
    u.kv_head = i % a->kv.n_kv_heads;
    u.row = i / a->kv.n_kv_heads * j->rows_per_unit;
    u.n_rows = min_u32(j->rows_per_unit, u.seq->n_rows - u.row);
    u.head = u.kv_head * group + block * j->heads_per_unit;
    u.n_heads = min_u32(j->heads_per_unit, (u.kv_head + 1) * group - u.head);
    u.n_q = u.n_rows * u.n_heads;
    uint32_t p = u.seq->first_position + u.row;
    u.chunk = attention_first(a->window, p) / CHUNK;
    u.n_chunks = (p + u.n_rows - 1) / CHUNK + 1 - u.chunk;
    return u;
}

static uint32_t position_of(const struct unit *u, uint32_t q)
{
    return u->seq->first_position + u->row + q / u->n_heads;
}

static void point_at_queries(const struct job *j, const struct unit *u, struct work *w)
{
    const struct attention_args *a = j->a;
    uint32_t dim = a->kv.head_dim;
    for (uint32_t i = 0; i < u->n_q; i++) {
        uint64_t r = u->seq->first_row + u->row + i / u->n_heads, h = u->head + i % u->n_heads;
        w->q[i] = (const float *)a->qkv + (r * (a->n_heads + 2 * a->kv.n_kv_heads) + h) * dim;
    }
    if (dim != j->dim)
        j->isa->widen(w->padded, w->q, u->n_q, DTYPE_F32, dim);
}

// The part of chunk `c` that each query sees, as offsets into it; empty: begin = end.
static void find_ranges(const struct job *j, const struct unit *u, uint32_t c, struct work *w,
    uint32_t *low, uint32_t *high)
{
    *low = CHUNK;
    *high = 0;
    for (uint32_t i = 0; i < u->n_q; i++) {
        uint32_t p = position_of(u, i), first = attention_first(j->a->window, p);
        uint32_t base = c * CHUNK;
        w->begin[i] = first > base ? min_u32(first - base, CHUNK) : 0;
        w->end[i] = p + 1 > base ? min_u32(p + 1 - base, CHUNK) : 0;
        if (w->begin[i] >= w->end[i]) {
            w->begin[i] = w->end[i] = first > base ? CHUNK : 0; // keeps both borders ascending
            continue;
        }
        *low = min_u32(*low, w->begin[i]);
        *high = w->end[i] > *high ? w->end[i] : *high;
    }
}

// Asks for the rows of positions [p, end) ahead of their use: pages lie anywhere, so the processor
// does not guess them by itself.
static void prefetch_rows(
    const struct job *j, const struct unit *u, const void *pages, uint32_t p, uint32_t end)
{
    const struct kv_layer *kv = &j->a->kv;
    uint64_t row_bytes = (uint64_t)kv->head_dim * dtype_bytes(kv->dtype);
    for (uint32_t n; p < end; p += n) {
        n = min_u32(kv->block_tokens - p % kv->block_tokens, end - p);
        const char *row = attention_row(kv, pages, u->seq->blocks[kv->group], u->kv_head, p);
        for (uint64_t i = 0; i < n * row_bytes; i += 64)
            __builtin_prefetch(row + i, 0, 3);
    }
}

// What follows the keys or values of [at, at + KEYS): more of them, or values after keys, or the
// next chunk's keys.
static void prefetch_next(const struct job *j, const struct unit *u, bool keys, uint32_t at,
    uint32_t low, uint32_t high, uint32_t base)
{
    const struct kv_layer *kv = &j->a->kv;
    uint32_t last = u->seq->first_position + u->row + u->n_rows;
    uint32_t next = at + KEYS;
    if (next < high)
        prefetch_rows(j, u, keys ? kv->k : kv->v, base + next, base + min_u32(next + KEYS, high));
    else if (keys)
        prefetch_rows(j, u, kv->v, base + low, base + min_u32(low / KEYS * KEYS + KEYS, high));
    else if (base + CHUNK < last)
        prefetch_rows(j, u, kv->k, base + CHUNK, min_u32(base + CHUNK + KEYS, last));
}

// Points w->row[0 .. KEYS - 1] at the keys or values of [at, at + KEYS) of the chunk, widened where
// need be. Outside [low, high) there may be no page: those point at a neighbour and are not used.
static void point_at_rows(const struct job *j, const struct unit *u, bool keys, uint32_t at,
    uint32_t low, uint32_t high, uint32_t base, struct work *w)
{
    const struct kv_layer *kv = &j->a->kv;
    const uint32_t *blocks = u->seq->blocks[kv->group];
    uint32_t from = low > at ? low - at : 0, to = min_u32(high - at, KEYS);
    uint64_t row_bytes = (uint64_t)kv->head_dim * dtype_bytes(kv->dtype);
    for (uint32_t i = from, n; i < to; i += n) {
        uint32_t p = base + at + i;
        const char *row = attention_row(kv, keys ? kv->k : kv->v, blocks, u->kv_head, p);
        n = min_u32(kv->block_tokens - p % kv->block_tokens, to - i);
        for (uint32_t r = 0; r < n; r++)
            w->row[i + r] = (const float *)(const void *)(row + r * row_bytes);
    }
    prefetch_next(j, u, keys, at, low, high, base);
    if (kv->dtype != DTYPE_F32 || kv->head_dim != j->dim)
        j->isa->widen(w->widened, w->row + from, to - from, kv->dtype, kv->head_dim);
    for (uint32_t i = 0; i < from; i++)
        w->row[i] = w->row[from];
    for (uint32_t i = to; i < KEYS; i++)
        w->row[i] = w->row[to - 1];
}

// Queries [first, first + n) see part of [at, at + KEYS) of the chunk; rows ascend, so both
// borders do.
static uint32_t visible(const struct unit *u, const struct work *w, uint32_t at, uint32_t *first)
{
    uint32_t i = 0, n = u->n_q;
    while (i < n && w->end[i] <= at)
        i++;
    while (n > i && w->begin[n - 1] >= at + KEYS)
        n--;
    *first = i;
    return n - i;
}

static void compute_scores(const struct job *j, const struct unit *u, uint32_t base, uint32_t low,
    uint32_t high, struct work *w)
{
    for (uint32_t at = low / KEYS * KEYS; at < high; at += KEYS) {
        uint32_t first, n = visible(u, w, at, &first);
        if (n == 0)
            continue;
        point_at_rows(j, u, true, at, low, high, base, w);
        uint32_t from = low > at ? (low - at) / 16 * 16 : 0;
        uint32_t to = min_u32((high - at + 15) / 16 * 16, KEYS);
        struct attention_scores s = {.q = w->q + first,
            .k = w->row + from,
            .n_q = n,
            .n_k = to - from,
            .dim = j->dim,
            .out = w->scores + (uint64_t)first * CHUNK + at + from};
        j->isa->scores(&s);
    }
}

static void compute_softmax(
    const struct job *j, const struct unit *u, uint32_t base, struct work *w)
{
    const struct attention_args *a = j->a;
    for (uint32_t i = 0; i < u->n_q; i++) {
        if (w->begin[i] == w->end[i])
            continue;
        struct attention_softmax s = {.s = w->scores + (uint64_t)i * CHUNK,
            .begin = w->begin[i],
            .end = w->end[i],
            .scale = a->scale,
            .softcap = a->softcap,
            .alibi = a->alibi_slopes != NULL,
            .distance = (int32_t)base - (int32_t)position_of(u, i)};
        if (s.alibi)
            s.slope = a->alibi_slopes[u->head + i % u->n_heads];
        j->isa->softmax(&s);
        w->m[i] = s.m;
        w->l[i] = s.l;
    }
}

static void compute_values(const struct job *j, const struct unit *u, uint32_t base, uint32_t low,
    uint32_t high, struct work *w, float *o)
{
    uint32_t begin[QUERIES], end[QUERIES];
    memset(o, 0, sizeof *o * u->n_q * j->dim);
    for (uint32_t at = low / KEYS * KEYS; at < high; at += KEYS) {
        uint32_t first, n = visible(u, w, at, &first);
        if (n == 0)
            continue;
        point_at_rows(j, u, false, at, low, high, base, w);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t b = w->begin[first + i], e = w->end[first + i];
            begin[i] = b > at ? min_u32(b - at, KEYS) : 0;
            end[i] = e > at ? min_u32(e - at, KEYS) : 0;
        }
        struct attention_values v = {.e = w->scores + (uint64_t)first * CHUNK + at,
            .v = w->row,
            .begin = begin,
            .end = end,
            .n_q = n,
            .dim = j->dim,
            .o = o + (uint64_t)first * j->dim};
        j->isa->values(&v);
    }
}

// Fills w->m, w->l (for queries that see the chunk) and o.
static void attend_chunk(
    const struct job *j, const struct unit *u, uint32_t c, struct work *w, float *o)
{
    uint32_t low, high, base = c * CHUNK;
    find_ranges(j, u, c, w, &low, &high);
    compute_scores(j, u, base, low, high, w);
    compute_softmax(j, u, base, w);
    compute_values(j, u, base, low, high, w, o);
}

// Merges one query's chunk (m, l, o) into (*big_m, *big_l, total).
static void merge(
    const struct job *j, float *big_m, float *big_l, float *total, float m, float l, const float *o)
{
    float n = *big_m > m ? *big_m : m;
    float x = canon_exp(*big_m - n), y = canon_exp(m - n);
    *big_l = fmaf(*big_l, x, l * y);
    *big_m = n;
    j->isa->merge(total, x, o, y, j->dim);
}

static float *out_of(const struct job *j, const struct unit *u, uint32_t q)
{
    uint64_t r = u->seq->first_row + u->row + q / u->n_heads, h = u->head + q % u->n_heads;
    return (float *)j->a->out + (r * j->a->n_heads + h) * j->a->kv.head_dim;
}

static void whole_task(void *arg, uint32_t task, uint32_t thread)
{
    const struct job *j = arg;
    uint32_t n_units = j->first_unit[j->a->batch->n_seqs];
    // Later rows of a prompt see more: the longest units go first.
    struct unit u = unit_at(j, n_units - 1 - task);
    struct work *w = work_begin(j, thread);
    float m[QUERIES], l[QUERIES];
    bool begun[QUERIES] = {false};
    point_at_queries(j, &u, w);
    for (uint32_t c = u.chunk; c < u.chunk + u.n_chunks; c++) {
        // The first chunk goes straight to `total`, unless some query begins later (a window).
        bool straight = c == u.chunk;
        attend_chunk(j, &u, c, w, straight ? w->total : w->o);
        for (uint32_t i = 0; i < u.n_q; i++) {
            float *total = w->total + i * j->dim, *o = w->o + i * j->dim;
            if (w->begin[i] == w->end[i])
                continue;
            if (begun[i]) {
                merge(j, &m[i], &l[i], total, w->m[i], w->l[i], o);
                continue;
            }
            begun[i] = true;
            m[i] = w->m[i];
            l[i] = w->l[i];
            if (!straight)
                memcpy(total, o, sizeof *o * j->dim);
        }
    }
    for (uint32_t i = 0; i < u.n_q; i++)
        j->isa->scale(out_of(j, &u, i), w->total + i * j->dim, 1.0f / l[i], j->a->kv.head_dim);
}

// ---- split by chunk ----------------------------------------------------------------------------

static float *partial_of(const struct job *j, uint32_t task)
{
    return j->partial + (uint64_t)task * j->n_q_max * (j->dim + 2);
}

static void chunk_task(void *arg, uint32_t task, uint32_t thread)
{
    const struct job *j = arg;
    uint32_t n_units = j->first_unit[j->a->batch->n_seqs];
    uint32_t index = find(j->first_task, n_units, task);
    struct unit u = unit_at(j, index);
    struct work *w = work_begin(j, thread);
    float *o = partial_of(j, task), *m = o + j->n_q_max * j->dim, *l = m + j->n_q_max;
    point_at_queries(j, &u, w);
    attend_chunk(j, &u, u.chunk + task - j->first_task[index], w, o);
    for (uint32_t i = 0; i < u.n_q; i++) {
        m[i] = w->m[i];
        l[i] = w->begin[i] == w->end[i] ? 0.0f : w->l[i]; // at least 1 where something is seen
    }
}

static void merge_task(void *arg, uint32_t index, uint32_t thread)
{
    (void)thread;
    const struct job *j = arg;
    struct unit u = unit_at(j, index);
    for (uint32_t i = 0; i < u.n_q; i++) {
        float *total = NULL, m = 0, l = 0;
        for (uint32_t t = j->first_task[index]; t < j->first_task[index + 1]; t++) {
            float *o = partial_of(j, t), *ms = o + j->n_q_max * j->dim, *ls = ms + j->n_q_max;
            if (ls[i] == 0.0f)
                continue;
            if (total != NULL) {
                merge(j, &m, &l, total, ms[i], ls[i], o + i * j->dim);
                continue;
            }
            total = o + i * j->dim;
            m = ms[i];
            l = ls[i];
        }
        j->isa->scale(out_of(j, &u, i), total, 1.0f / l, j->a->kv.head_dim);
    }
}

// Lists the tasks of a split by chunk; 0 where a split is of no use or its results have no room.
static uint32_t plan_chunks(struct job *j, uint32_t n_units, uint8_t *room, uint64_t room_bytes)
{
    uint32_t threads = j->d->n_threads;
    uint64_t list_bytes = (sizeof(uint32_t) * (n_units + 1) + 63) / 64 * 64;
    if (threads == 1 || n_units >= TASKS_PER_THREAD * threads || list_bytes > room_bytes)
        return 0;
    j->first_task = (uint32_t *)(void *)room;
    j->partial = (float *)(void *)(room + list_bytes);
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_units; i++) {
        j->first_task[i] = n;
        struct unit u = unit_at(j, i);
        n += u.n_chunks;
        j->n_q_max = u.n_q > j->n_q_max ? u.n_q : j->n_q_max;
    }
    j->first_task[n_units] = n;
    uint64_t bytes = sizeof(float) * n * j->n_q_max * (j->dim + 2);
    return n > n_units && bytes <= room_bytes - list_bytes ? n : 0;
}

void attention_tiles_run(
    struct device *d, const struct attention_args *a, const struct attention_isa *isa)
{
    uint32_t group = a->n_heads / a->kv.n_kv_heads, n_seqs = a->batch->n_seqs;
    struct job j = {.a = a, .isa = isa, .d = d, .dim = (a->kv.head_dim + 15) / 16 * 16};
    j.heads_per_unit = min_u32(group, QUERIES);
    j.head_blocks = (group + j.heads_per_unit - 1) / j.heads_per_unit;
    j.rows_per_unit = QUERIES / j.heads_per_unit;
    uint64_t list_bytes = (sizeof(uint32_t) * ((uint64_t)n_seqs + 1) + 63) / 64 * 64;
    check(list_bytes <= CPU_SHARED_BYTES);
    j.first_unit = (uint32_t *)(void *)d->shared;
    uint32_t n_units = 0;
    for (uint32_t i = 0; i < n_seqs; i++) {
        j.first_unit[i] = n_units;
        n_units += units_of(&j, &a->batch->seq[i]);
    }
    j.first_unit[n_seqs] = n_units;
    uint32_t n_tasks =
        plan_chunks(&j, n_units, d->shared + list_bytes, CPU_SHARED_BYTES - list_bytes);
    if (n_tasks == 0) {
        team_run(d->team, whole_task, &j, n_units);
        return;
    }
    team_run(d->team, chunk_task, &j, n_tasks);
    team_run(d->team, merge_task, &j, n_units);
}
