// SPDX-License-Identifier: Apache-2.0
// experts: routing, and then each expert in turn over the rows that chose it, through linear and
// act. A row meets its experts in ascending order whatever the other rows chose, so its bits do not
// depend on them; all versions give the same bits, since linear and act do.
#include "kernels/cpu/canon.h"
#include "kernels/cpu/cpu.h"

#include <string.h>

enum { ROWS_PER_TASK = 4, ROUTES_PER_TASK = 64 };

// The caller's room for routes.
struct routes {
    float *logit;       // [n_rows, n_experts]
    float *probability; // [n_rows, n_used]
    uint32_t *expert;   // [n_rows, n_used]
    // Choices (places in `expert`) by expert, then row, and where those of an expert end.
    uint32_t *choice; // [n_rows * n_used]
    uint32_t *end;    // [n_experts]
    // The rows of one expert: which, where they lie in x, and their factors.
    uint32_t *row, *x_row; // [n_rows]
    float *factor;         // [n_rows]
};

static struct routes routes_of(const struct experts_args *a)
{
    struct routes r;
    uint64_t n = a->n_rows, choices = n * a->n_used;
    r.expert = a->routes;
    r.row = r.expert + choices;
    r.x_row = r.row + n;
    r.factor = (float *)(void *)(r.x_row + n);
    r.probability = r.factor + n;
    r.logit = r.probability + choices;
    r.choice = (uint32_t *)(void *)(r.logit + n * a->n_experts);
    r.end = r.choice + choices;
    return r;
}

struct job {
    const struct experts_args *a;
    struct routes r;
    uint32_t n; // rows of the expert at hand
};

// ---- routing -----------------------------------------------------------------------------------

static bool is_chosen(const uint32_t *chosen, uint32_t n, uint32_t expert)
{
    for (uint32_t i = 0; i < n; i++)
        if (chosen[i] == expert)
            return true;
    return false;
}

// The largest that is not chosen yet. A NaN is never larger, so that one is found in any case.
static uint32_t largest(const float *logit, uint32_t n, const uint32_t *chosen, uint32_t n_chosen)
{
    uint32_t best = n;
    for (uint32_t e = 0; e < n; e++)
        if ((best == n || logit[e] > logit[best]) && !is_chosen(chosen, n_chosen, e))
            best = e;
    return best;
}

static void route_row(const struct job *j, uint32_t row)
{
    const struct experts_args *a = j->a;
    const float *logit = j->r.logit + (uint64_t)row * a->n_experts;
    float *probability = j->r.probability + (uint64_t)row * a->n_used, sum = 0, kept = 0;
    uint32_t *expert = j->r.expert + (uint64_t)row * a->n_used;
    for (uint32_t i = 0; i < a->n_used; i++)
        expert[i] = largest(logit, a->n_experts, expert, i);
    float top = logit[expert[0]];
    for (uint32_t e = 0; e < a->n_experts; e++)
        sum += canon_exp(logit[e] - top);
    for (uint32_t i = 0; i < a->n_used; i++) {
        probability[i] = canon_exp(logit[expert[i]] - top) / sum;
        kept += probability[i];
    }
    for (uint32_t i = 0; a->renormalize && i < a->n_used; i++)
        probability[i] /= kept;
}

static void route_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct job *j = arg;
    uint32_t end = (task + 1) * ROUTES_PER_TASK;
    for (uint32_t row = task * ROUTES_PER_TASK; row < j->a->n_rows && row < end; row++)
        route_row(j, row);
}

static uint32_t x_row_of(const struct experts_args *a, uint32_t row)
{
    return a->row_ids ? a->row_ids[row] : row;
}

// A counting sort.
static void sort_choices(const struct job *j)
{
    const struct experts_args *a = j->a;
    const uint32_t *expert = j->r.expert;
    uint32_t n = a->n_rows * a->n_used, *end = j->r.end;
    memset(end, 0, a->n_experts * sizeof *end);
    for (uint32_t i = 0; i < n; i++)
        end[expert[i]]++;
    for (uint32_t e = 0, sum = 0; e < a->n_experts; e++) {
        uint32_t here = end[e];
        end[e] = sum; // where they begin; what is placed moves it to the end
        sum += here;
    }
    for (uint32_t i = 0; i < n; i++)
        j->r.choice[end[expert[i]]++] = i;
}

static void take_rows(struct job *j, uint32_t expert)
{
    const struct experts_args *a = j->a;
    uint32_t begin = expert > 0 ? j->r.end[expert - 1] : 0;
    j->n = j->r.end[expert] - begin;
    for (uint32_t i = 0; i < j->n; i++) {
        uint32_t choice = j->r.choice[begin + i], row = choice / a->n_used;
        j->r.row[i] = row;
        j->r.x_row[i] = x_row_of(a, row);
        j->r.factor[i] = j->r.probability[choice];
    }
}

// ---- experts -----------------------------------------------------------------------------------

static void zero_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct experts_args *a = ((const struct job *)arg)->a;
    uint64_t bytes = (uint64_t)a->hidden_dim * sizeof(float), first = task * ROWS_PER_TASK;
    uint64_t n = a->n_rows - first < ROWS_PER_TASK ? a->n_rows - first : ROWS_PER_TASK;
    memset((char *)a->out + first * bytes, 0, n * bytes);
}

// out[row] += factor * part
static void add_task(void *arg, uint32_t task, uint32_t thread)
{
    (void)thread;
    const struct job *j = arg;
    uint32_t dim = j->a->hidden_dim, end = (task + 1) * ROWS_PER_TASK;
    for (uint32_t i = task * ROWS_PER_TASK; i < j->n && i < end; i++) {
        const float *part = (const float *)j->a->part + (uint64_t)i * dim;
        float *out = (float *)j->a->out + (uint64_t)j->r.row[i] * dim, factor = j->r.factor[i];
        for (uint32_t k = 0; k < dim; k++)
            out[k] += factor * part[k];
    }
}

static uint32_t tasks(uint32_t n, uint32_t each)
{
    return (n + each - 1) / each;
}

// Adds one expert's part of the rows at hand.
static void add_expert(struct device *d, struct job *j, const struct weight *in,
    const struct weight *down, uint32_t ffn)
{
    const struct experts_args *a = j->a;
    struct linear_args up = {.n_rows = j->n,
        .x = a->x,
        .x_stride = a->hidden_dim,
        .w = in,
        .out = a->mlp_in,
        .out_stride = ffn * (a->gated ? 2 : 1),
        .row_ids = j->r.x_row};
    struct act_args act = {.n_rows = j->n,
        .dim = ffn,
        .gated = a->gated,
        .kind = a->kind,
        .x = a->mlp_in,
        .out = a->mlp};
    struct linear_args out = {.n_rows = j->n,
        .x = a->mlp,
        .x_stride = ffn,
        .w = down,
        .out = a->part,
        .out_stride = a->hidden_dim};
    if (j->n == 0)
        return;
    cpu_linear(d, &up);
    cpu_act(d, &act);
    cpu_linear(d, &out);
    team_run(d->team, add_task, j, tasks(j->n, ROWS_PER_TASK));
}

static void add_shared(struct device *d, struct job *j)
{
    const struct experts_args *a = j->a;
    struct linear_args gate = {.n_rows = a->n_rows,
        .x = a->x,
        .x_stride = a->hidden_dim,
        .w = a->shared_gate,
        .out = j->r.logit,
        .out_stride = 1,
        .row_ids = a->row_ids};
    if (a->shared_gate)
        cpu_linear(d, &gate);
    j->n = a->n_rows;
    for (uint32_t i = 0; i < a->n_rows; i++) {
        j->r.row[i] = i;
        j->r.x_row[i] = x_row_of(a, i);
        j->r.factor[i] = a->shared_gate ? 1 / (1 + canon_exp(-j->r.logit[i])) : 1;
    }
    add_expert(d, j, a->shared_in, a->shared_down, a->shared_ffn);
}

void cpu_experts(struct device *d, const struct experts_args *a)
{
    struct job j = {.a = a, .r = routes_of(a)};
    struct linear_args router = {.n_rows = a->n_rows,
        .x = a->x,
        .x_stride = a->hidden_dim,
        .w = a->router,
        .out = j.r.logit,
        .out_stride = a->n_experts,
        .row_ids = a->row_ids};
    cpu_linear(d, &router);
    team_run(d->team, route_task, &j, tasks(a->n_rows, ROUTES_PER_TASK));
    team_run(d->team, zero_task, &j, tasks(a->n_rows, ROWS_PER_TASK));
    sort_choices(&j);
    for (uint32_t i = 0; i < a->count; i++) {
        take_rows(&j, a->begin + i);
        add_expert(d, &j, a->in[i], a->down[i], a->ffn);
    }
    if (a->shared_ffn > 0)
        add_shared(d, &j);
}
