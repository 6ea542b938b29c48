// SPDX-License-Identifier: Apache-2.0
// --device: sums on devices, our back end beside NCCL's own all-reduce. Nothing is read or written
// by the host while the clock runs: each round enqueues the same calls into one stream, one by one
// or as a graph that holds them, and waits for it, as nccl-tests do.
//
// The first round of each variant is checked. All calls are in place, so each multiplies the sums
// of the one before it by the number of ranks: a call that is left out shows, too.
//
// Recording is a matter of all ranks (NCCL demands it): they agree on it before a graph is
// launched. A graph is gone before its group, or NCCL would wait for that for ever.
#include "bench/coll_bench.h"

#include "base/check.h"
#include "collectives/cuda/plugin.h"
#include "kernels/plugin.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEVICE_CALLS = 20, DEVICE_ROUNDS = 7, DEVICE_WAIT_US = 60000000 };
enum { OURS, NCCL, DEVICE_GROUPS };

// Those of a graph come last: what is made at the first call of a size is there by then.
static const struct device_variant {
    const char *name;
    int group;
    bool symmetric, recorded;
} device_variants[] = {
    {"private", OURS, false, false},
    {"symmetric", OURS, true, false},
    {"nccl", NCCL, false, false},
    {"private-graph", OURS, false, true},
    {"symmetric-graph", OURS, true, true},
    {"nccl-graph", NCCL, false, true},
};
enum { DEVICE_VARIANTS = sizeof device_variants / sizeof device_variants[0] };

struct on_device {
    struct bootstrap *b;
    const struct coll_device_args *args;
    const struct coll_plugin *plugin;
    struct coll_device d;
    void *stream;
    struct coll_group *group[DEVICE_GROUPS]; // NULL: it could not be made
    float *buffer, *heap, *host;
    size_t most;
    bool left_out[DEVICE_VARIANTS]; // and it has been said why
};

// One variant at one size.
struct work {
    const struct device_variant *v;
    struct coll_group *g;
    float *x;
    size_t n;
    void *graph; // of a recorded one
};

static enum status because(struct coll_group *g, enum status st, struct error *err)
{
    return st == STATUS_OK ? st : status_fail(err, st, "%s", coll_error(g)->text);
}

// Nobody may end a group that a graph still holds, as a poll does that finds an error; so where the
// back end itself knows nothing of graphs, this looks at the time alone.
static enum status settle(const struct on_device *s, const struct work *w, struct error *err)
{
    bool polled = w->graph == NULL || coll_can_be_recorded(w->g);
    double begun = coll_bench_now_us();
    enum status st = STATUS_AGAIN;
    while (st == STATUS_AGAIN) {
        st = s->d.query(s->d.context, s->stream);
        if (polled)
            TRY(because(w->g, coll_poll(w->g), err));
        else if (coll_bench_now_us() - begun > DEVICE_WAIT_US)
            return status_fail(err, STATUS_TIMEOUT, "a graph did not end in a minute");
    }
    return st == STATUS_OK ? st : status_fail(err, st, "the device reports a failure");
}

static enum status calls(const struct on_device *s, const struct work *w, struct error *err)
{
    const struct coll_all_reduce_args a = {
        .buffer = w->x, .count = w->n, .symmetric = w->v->symmetric, .stream = s->stream};
    for (int k = 0; k < DEVICE_CALLS; k++)
        TRY(because(w->g, coll_all_reduce(w->g, &a), err));
    return STATUS_OK;
}

static enum status one_round(const struct on_device *s, const struct work *w, struct error *err)
{
    TRY(w->graph != NULL ? s->plugin->graph_launch(w->graph, s->stream, err) : calls(s, w, err));
    return settle(s, w, err);
}

static enum status copy(
    const struct on_device *s, const struct work *w, void *to, const void *from, struct error *err)
{
    enum status st = s->d.copy(s->d.context, to, from, w->n * sizeof *w->x, s->stream);
    return st == STATUS_OK ? settle(s, w, err) : status_fail(err, st, "a copy failed");
}

// Powers of two times small integers are exact; other numbers of ranks round with every call, and
// NCCL in an order of its own.
static uint64_t count_wrong(const struct on_device *s, size_t n)
{
    uint32_t size = s->b->size;
    double factor = pow(size, DEVICE_CALLS - 1);
    double slack = (size & (size - 1)) == 0 ? 0 : (double)size * DEVICE_CALLS * FLT_EPSILON;
    uint64_t wrong = 0;
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (uint32_t r = 0; r < size; r++)
            sum += (double)value(r, i, 1);
        sum *= factor;
        wrong += !(fabs((double)s->host[i] - sum) <= slack * sum);
    }
    return wrong;
}

static enum status verify(
    struct on_device *s, const struct work *w, uint64_t *wrong, struct error *err)
{
    for (size_t i = 0; i < w->n; i++)
        s->host[i] = value(s->b->rank, i, 1);
    TRY(copy(s, w, w->x, s->host, err));
    TRY(s->b->barrier(s->b, err));
    TRY(one_round(s, w, err));
    TRY(copy(s, w, s->host, w->x, err));
    *wrong = count_wrong(s, w->n);
    // Sums of zeros from here on: they neither grow nor slow anything down.
    memset(s->host, 0, w->n * sizeof *w->x);
    return copy(s, w, w->x, s->host, err);
}

// The mean over ranks of each rank's median, and the wrong elements of all.
static enum status measure(
    struct on_device *s, const struct work *w, struct coll_bench_row *row, struct error *err)
{
    int n = s->args->rounds > 0 ? (int)s->args->rounds : (int)DEVICE_ROUNDS;
    double us[SAMPLES_MAX];
    struct {
        double us;
        uint64_t wrong;
    } mine = {0}, all[COLL_RANKS_MAX];
    TRY(verify(s, w, &mine.wrong, err));
    for (int i = 0; i < n; i++) {
        TRY(s->b->barrier(s->b, err));
        double t0 = coll_bench_now_us();
        TRY(one_round(s, w, err));
        us[i] = (coll_bench_now_us() - t0) / DEVICE_CALLS;
    }
    mine.us = coll_bench_median(us, n);
    TRY(s->b->all_gather(s->b, &mine, sizeof mine, all, err));
    for (uint32_t r = 0; r < s->b->size; r++) {
        row->us += all[r].us / s->b->size;
        row->wrong += all[r].wrong;
    }
    return STATUS_OK;
}

// Whether no rank has failed; otherwise the first one's sentence is printed.
static bool agree(const struct on_device *s, const char *name, const struct error *mine)
{
    struct error all[COLL_RANKS_MAX];
    check(s->b->all_gather(s->b, mine, sizeof *mine, all, NULL) == STATUS_OK);
    for (uint32_t r = 0; r < s->b->size; r++) {
        if (all[r].status == STATUS_OK)
            continue;
        if (s->b->rank == 0)
            printf("# no %s: rank %u cannot record it: %s\n", name, (unsigned)r, all[r].text);
        return false;
    }
    return true;
}

// A call that failed may have ended the group, on all ranks.
static void leave_out(struct on_device *s, const struct work *w)
{
    bool ended = coll_poll(w->g) != STATUS_OK;
    for (int i = 0; i < DEVICE_VARIANTS; i++) {
        const struct device_variant *v = &device_variants[i];
        if (v != w->v && (!ended || v->group != w->v->group || s->left_out[i]))
            continue;
        s->left_out[i] = true;
        if (v != w->v && s->b->rank == 0)
            printf("# no %s: its group has ended with that\n", v->name);
    }
}

// On all ranks or on none.
static bool record(struct on_device *s, struct work *w)
{
    struct error mine = {0};
    void *graph = NULL;
    if (s->plugin->graph_begin(s->stream, &mine) == STATUS_OK) {
        enum status st = calls(s, w, &mine);
        (void)s->plugin->graph_end(s->stream, &graph, st == STATUS_OK ? &mine : NULL);
    }
    if (agree(s, w->v->name, &mine)) {
        w->graph = graph;
        return true;
    }
    if (graph != NULL)
        s->plugin->graph_drop(graph);
    leave_out(s, w);
    return false;
}

static void print(const struct on_device *s, const struct coll_bench_row *row)
{
    if (s->b->rank != 0)
        return;
    coll_bench_print(row, s->args->jsonl);
    if (!s->args->jsonl)
        putchar('\n');
    fflush(stdout);
}

static enum status one_variant(struct on_device *s, int i, size_t bytes, struct error *err)
{
    const struct device_variant *v = &device_variants[i];
    struct work w = {.v = v,
        .g = s->group[v->group],
        .x = v->symmetric ? s->heap : s->buffer,
        .n = bytes / sizeof(float)};
    if (w.g == NULL || s->left_out[i] || (v->recorded && !record(s, &w)))
        return STATUS_OK;
    uint32_t np = s->b->size;
    struct coll_bench_row row = {.np = np,
        .op = "all_reduce",
        .variant = v->name,
        .bytes = w.n * sizeof(float),
        .bus_factor = 2.0 * (np - 1) / np};
    TRY(measure(s, &w, &row, err));
    if (w.graph != NULL)
        s->plugin->graph_drop(w.graph);
    print(s, &row);
    return STATUS_OK;
}

// Both back ends' groups, where they can be made; the reason where not.
static enum status open_groups(struct on_device *s, struct error *err)
{
    static const char *const name[DEVICE_GROUPS] = {"cuda", "nccl"};
    for (int k = 0; k < DEVICE_GROUPS; k++) {
        struct coll_args args = {.backend = name[k],
            .device = &s->d,
            .heap_bytes = k == OURS ? s->most : 0,
            .native = k == NCCL};
        struct error why = {0};
        if (coll_create(s->b, &args, &s->group[k], &why) != STATUS_OK && s->b->rank == 0)
            printf("# no %s: %s\n", name[k], why.text);
    }
    if (s->group[OURS] == NULL)
        return status_fail(err, STATUS_UNSUPPORTED, "there is no group on these devices");
    char text[600];
    s->heap = coll_heap_take(s->group[OURS], s->most);
    coll_explain(s->group[OURS], "all_reduce", 65536, false, text, sizeof text);
    if (s->b->rank == 0)
        printf("# %s\n", text);
    if (s->b->rank == 0 && !s->args->jsonl) {
        coll_bench_print_head();
        putchar('\n');
    }
    return STATUS_OK;
}

// After a failure others may wait for this rank, and graphs may wait on the device: so that is the
// end of all.
static void must(const struct on_device *s, enum status st, const struct error *err)
{
    if (st == STATUS_OK)
        return;
    fprintf(stderr, "phalanx-coll-bench: rank %u: %s: %s\n", (unsigned)s->b->rank, status_text(st),
        err->text);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static enum status run(struct on_device *s, struct error *err)
{
    TRY(open_groups(s, err));
    TRY(s->d.take(s->d.context, s->most, (void **)&s->buffer, err));
    s->host = malloc(s->most);
    check(s->host != NULL && s->heap != NULL);
    for (int i = 0; i < s->args->n_sizes; i++)
        for (int v = 0; v < DEVICE_VARIANTS; v++)
            must(s, one_variant(s, v, s->args->sizes[i], err), err);
    // NCCL may know the buffer from its graphs until its group goes.
    for (int k = 0; k < DEVICE_GROUPS; k++)
        coll_destroy(s->group[k]);
    s->d.give(s->d.context, s->buffer);
    free(s->host);
    return STATUS_OK;
}

enum status coll_device_run(
    struct bootstrap *b, const struct coll_device_args *a, struct error *err)
{
    const struct plugin *p;
    struct device *device;
    struct coll_plugin_args args = {0};
    struct on_device s = {.b = b, .args = a};
    TRY(plugin_load(a->plugin, &p, err));
    s.plugin = p->kernels->collectives;
    TRY(p->kernels->device_open(
        &(struct device_args){.n_threads = 1, .index = b->rank}, &device, err));
    p->kernels->device_place(device, &args.device, &args.capability);
    s.stream = p->kernels->device_stream(device);
    for (int i = 0; i < a->n_sizes; i++)
        s.most = a->sizes[i] > s.most ? a->sizes[i] : s.most;
    enum status st = s.plugin == NULL || s.plugin->version != COLL_PLUGIN_VERSION
                         ? status_fail(err, STATUS_UNSUPPORTED, "the plugin has no collectives")
                         : s.plugin->open(&args, &s.d, err);
    if (st == STATUS_OK) {
        st = run(&s, err);
        s.plugin->close(&s.d);
    }
    p->kernels->device_close(device);
    return st;
}
