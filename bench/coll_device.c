// SPDX-License-Identifier: Apache-2.0
// --device: sums on devices, our back end beside NCCL's own all-reduce. Nothing is read or written
// by the host while the clock runs: each round enqueues the same call many times into one stream
// and waits for it, as nccl-tests do. The first call of each size is checked. Eager calls only.
#include "bench/coll_bench.h"

#include "base/check.h"
#include "collectives/cuda/plugin.h"
#include "kernels/plugin.h"

#include <stdlib.h>
#include <string.h>

enum { DEVICE_CALLS = 20, DEVICE_ROUNDS = 7, DEVICE_GROUPS = 2 };

struct on_device {
    struct bootstrap *b;
    struct coll_device d;
    void *stream;
    struct coll_group *group[DEVICE_GROUPS]; // cuda, nccl; NULL: it could not be made
    float *buffer, *heap, *host;
    size_t most;
};

static enum status settle(struct on_device *s, struct coll_group *g)
{
    enum status st = STATUS_AGAIN;
    while (st == STATUS_AGAIN) {
        st = s->d.query(s->d.context, s->stream);
        TRY(coll_poll(g));
    }
    return st;
}

static enum status call(
    struct on_device *s, struct coll_group *g, float *x, size_t n, bool symmetric)
{
    return coll_all_reduce(
        g, &(struct coll_all_reduce_args){
               .buffer = x, .count = n, .symmetric = symmetric, .stream = s->stream});
}

static enum status verify(
    struct on_device *s, struct coll_group *g, float *x, size_t n, bool symmetric, uint64_t *wrong)
{
    size_t bytes = n * sizeof *x;
    for (size_t i = 0; i < n; i++)
        s->host[i] = value(s->b->rank, i, 1);
    TRY(s->d.copy(s->d.context, x, s->host, bytes, s->stream));
    TRY(settle(s, g));
    TRY(s->b->barrier(s->b, NULL));
    TRY(call(s, g, x, n, symmetric));
    TRY(settle(s, g));
    TRY(s->d.copy(s->d.context, s->host, x, bytes, s->stream));
    TRY(settle(s, g));
    for (size_t i = 0; i < n; i++) {
        float sum = 0;
        for (uint32_t r = 0; r < s->b->size; r++)
            sum += value(r, i, 1);
        *wrong += s->host[i] != sum;
    }
    // Sums of zeros from here on: they neither grow nor slow anything down.
    memset(s->host, 0, bytes);
    TRY(s->d.copy(s->d.context, x, s->host, bytes, s->stream));
    return settle(s, g);
}

// The mean over ranks of each rank's median, and the wrong elements of all.
static enum status measure(struct on_device *s, struct coll_group *g, float *x, size_t n,
    bool symmetric, double *us, uint64_t *wrong)
{
    double round[DEVICE_ROUNDS];
    struct {
        double us;
        uint64_t wrong;
    } mine = {0}, all[COLL_RANKS_MAX];
    TRY(verify(s, g, x, n, symmetric, &mine.wrong));
    for (int i = 0; i < DEVICE_ROUNDS; i++) {
        TRY(s->b->barrier(s->b, NULL));
        double t0 = coll_bench_now_us();
        for (int k = 0; k < DEVICE_CALLS; k++)
            TRY(call(s, g, x, n, symmetric));
        TRY(settle(s, g));
        round[i] = (coll_bench_now_us() - t0) / DEVICE_CALLS;
    }
    mine.us = coll_bench_median(round, DEVICE_ROUNDS);
    TRY(s->b->all_gather(s->b, &mine, sizeof mine, all, NULL));
    *us = 0;
    *wrong = 0;
    for (uint32_t r = 0; r < s->b->size; r++) {
        *us += all[r].us / s->b->size;
        *wrong += all[r].wrong;
    }
    return STATUS_OK;
}

static void print(const struct on_device *s, bool jsonl, const char *variant, size_t bytes,
    double us, uint64_t wrong)
{
    double alg = (double)bytes / us * 1e-3, bus = alg * 2 * (s->b->size - 1) / s->b->size;
    if (s->b->rank != 0)
        return;
    printf(jsonl ? "{\"np\": %u, \"op\": \"all_reduce\", \"variant\": \"%s\", \"bytes\": %zu, "
                   "\"us\": %.3f, \"algbw_gbs\": %.3f, \"busbw_gbs\": %.3f, \"wrong\": %llu}\n"
                 : "%u %-10s %10zu %10.2f %8.2f %8.2f %6llu\n",
        (unsigned)s->b->size, variant, bytes, us, alg, bus, (unsigned long long)wrong);
    fflush(stdout);
}

static enum status one_size(struct on_device *s, bool jsonl, size_t bytes)
{
    static const char *const variant[] = {"private", "symmetric", "nccl"};
    size_t n = bytes / sizeof(float);
    for (int v = 0; v < 3; v++) {
        struct coll_group *g = s->group[v == 2];
        double us;
        uint64_t wrong;
        if (g == NULL)
            continue;
        enum status st = measure(s, g, v == 1 ? s->heap : s->buffer, n, v == 1, &us, &wrong);
        if (st != STATUS_OK) {
            fprintf(stderr, "phalanx-coll-bench: rank %u: %s: %s\n", (unsigned)s->b->rank,
                status_text(st), coll_error(g)->text);
            return st;
        }
        print(s, jsonl, variant[v], n * sizeof(float), us, wrong);
    }
    return STATUS_OK;
}

// Both back ends' groups, where they can be made; the reason where not.
static enum status open_groups(struct on_device *s, struct error *err)
{
    static const char *const name[DEVICE_GROUPS] = {"cuda", "nccl"};
    for (int k = 0; k < DEVICE_GROUPS; k++) {
        struct coll_args args = {.backend = name[k],
            .device = &s->d,
            .heap_bytes = k == 0 ? s->most : 0,
            .native = k == 1};
        struct error why = {0};
        if (coll_create(s->b, &args, &s->group[k], &why) != STATUS_OK && s->b->rank == 0)
            printf("# no %s: %s\n", name[k], why.text);
    }
    if (s->group[0] == NULL)
        return status_fail(err, STATUS_UNSUPPORTED, "there is no group on these devices");
    char text[600];
    s->heap = coll_heap_take(s->group[0], s->most);
    coll_explain(s->group[0], "all_reduce", 65536, false, text, sizeof text);
    if (s->b->rank == 0)
        printf("# %s\n", text);
    return STATUS_OK;
}

static enum status run(
    struct on_device *s, bool jsonl, const size_t *sizes, int n, struct error *err)
{
    TRY(open_groups(s, err));
    TRY(s->d.take(s->d.context, s->most, (void **)&s->buffer, err));
    s->host = malloc(s->most);
    check(s->host != NULL && s->heap != NULL);
    enum status st = STATUS_OK;
    for (int i = 0; i < n && st == STATUS_OK; i++)
        st = one_size(s, jsonl, sizes[i]);
    free(s->host);
    s->d.give(s->d.context, s->buffer);
    for (int k = 0; k < DEVICE_GROUPS; k++)
        coll_destroy(s->group[k]);
    return st == STATUS_OK ? st : status_fail(err, st, "a measurement failed");
}

enum status coll_device_run(struct bootstrap *b, const char *plugin, bool jsonl,
    const size_t *sizes, int n_sizes, struct error *err)
{
    const struct plugin *p;
    struct device *device;
    struct coll_plugin_args args = {0};
    struct on_device s = {.b = b};
    TRY(plugin_load(plugin, &p, err));
    const struct coll_plugin *c = p->kernels->collectives;
    TRY(p->kernels->device_open(
        &(struct device_args){.n_threads = 1, .index = b->rank}, &device, err));
    p->kernels->device_place(device, &args.device, &args.capability);
    s.stream = p->kernels->device_stream(device);
    for (int i = 0; i < n_sizes; i++)
        s.most = sizes[i] > s.most ? sizes[i] : s.most;
    enum status st = c == NULL || c->version != COLL_PLUGIN_VERSION
                         ? status_fail(err, STATUS_UNSUPPORTED, "the plugin has no collectives")
                         : c->open(&args, &s.d, err);
    if (st == STATUS_OK) {
        st = run(&s, jsonl, sizes, n_sizes, err);
        c->close(&s.d);
    }
    p->kernels->device_close(device);
    return st;
}
