// SPDX-License-Identifier: Apache-2.0
// --tune: which algorithm for which size, for as many ranks as this run has. Each candidate is a
// group whose tuning table knows nothing else; a candidate with a wrong element is dropped. For
// both kinds of buffers the size is sought up to which one_shot should serve: the one that makes
// the sum of the logarithms of all times least. Rows of other group sizes that the file has stay.
#include "bench/coll_bench.h"

#include "base/check.h"
#include "collectives/tuning.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TUNE_SIZES = 11, TUNE_FIRST = 256, TUNE_SAMPLES = 400 };

// Wrong elements make a candidate lose against every other.
static const double hopeless_us = 1e12;

static bool write_rows(const char *file, const struct tuning *keep, const char *rows)
{
    FILE *f = fopen(file, "we");
    if (f == NULL)
        return false;
    fprintf(f, "# arch ranks op kind max_bytes algorithm; written by phalanx-coll-bench --tune\n");
    for (uint32_t i = 0; i < keep->n_rows; i++) {
        const struct tuning_row *r = &keep->row[i];
        char ranks[16] = "*", bytes[32] = "inf";
        if (r->ranks != 0)
            (void)snprintf(ranks, sizeof ranks, "%u", (unsigned)r->ranks);
        if (r->max_bytes != UINT64_MAX)
            (void)snprintf(bytes, sizeof bytes, "%llu", (unsigned long long)r->max_bytes);
        fprintf(f, "%s %s all_reduce %s %s %s\n", r->arch, ranks,
            r->symmetric ? "symmetric" : "private", bytes, tuning_algorithm_name(r->algorithm));
    }
    fputs(rows, f);
    bool good = ferror(f) == 0;
    return fclose(f) == 0 && good;
}

// A group for which there is one algorithm; collective.
static struct coll_group *candidate(struct bench *s, enum tuning_algorithm a)
{
    char name[64] = "/tmp/phalanx-tune-XXXXXX", text[128], all[COLL_RANKS_MAX][64];
    struct coll_group *g;
    struct error err;
    if (s->rank == 0) {
        int fd = mkstemp(name);
        check(fd >= 0);
        close(fd);
        (void)snprintf(text, sizeof text,
            "host * all_reduce private inf %s\nhost * all_reduce symmetric inf %s\n",
            tuning_algorithm_name(a), tuning_algorithm_name(a));
        check(write_rows(name, &(struct tuning){0}, text));
    }
    check(s->b->all_gather(s->b, name, sizeof name, all, NULL) == STATUS_OK);
    struct coll_args args = {.heap_bytes = (TUNE_FIRST << TUNE_SIZES) + 4096,
        .spin = sysconf(_SC_NPROCESSORS_ONLN) >= (long)s->size,
        .tuning_file = all[0]};
    enum status st = coll_create(s->b, &args, &g, &err);
    if (s->rank == 0)
        unlink(name);
    if (st != STATUS_OK) {
        fprintf(stderr, "phalanx-coll-bench: %s\n", err.text);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    return g;
}

static double measure(
    struct bench *s, struct coll_group *g, bool symmetric, size_t bytes, int samples)
{
    static struct samples x;
    const struct op *o = coll_ops_find("all_reduce", 10);
    struct coll_group *world = s->g;
    float *heap = s->heap;
    uint64_t wrong[COLL_RANKS_MAX], all = 0;
    s->g = g;
    s->heap = coll_heap_take(g, 0);
    x.n = 0;
    x.wrong = 0;
    coll_bench_shape(s, o, bytes);
    for (int i = 0; i < samples; i++)
        coll_bench_sample(s, o, symmetric ? SYMMETRIC : PRIVATE, i < 3, &x);
    s->g = world;
    s->heap = heap;
    double us = coll_bench_mean(s, x.us, x.n);
    check(s->b->all_gather(s->b, &x.wrong, sizeof wrong[0], wrong, NULL) == STATUS_OK);
    for (uint32_t r = 0; r < s->size; r++)
        all += wrong[r];
    return all == 0 ? us : hopeless_us;
}

// How many of the sizes one_shot should serve.
static int best_split(const double us[2][TUNE_SIZES])
{
    int best = 0;
    double least = INFINITY;
    for (int k = 0; k <= TUNE_SIZES; k++) {
        double sum = 0;
        for (int i = 0; i < TUNE_SIZES; i++)
            sum += log(us[i < k ? TUNING_ONE_SHOT : TUNING_TWO_SHOT][i]);
        if (sum < least)
            best = k;
        least = sum < least ? sum : least;
    }
    return best;
}

static void drop_rows(struct tuning *t, uint32_t ranks)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_rows; i++)
        if (strcmp(t->row[i].arch, "host") != 0 || t->row[i].ranks != ranks)
            t->row[n++] = t->row[i];
    t->n_rows = n;
}

static int tune_kind(struct bench *s, struct coll_group *const g[2], bool symmetric, int samples,
    char *text, size_t room)
{
    double us[2][TUNE_SIZES];
    const char *kind = symmetric ? "symmetric" : "private";
    for (int i = 0; i < TUNE_SIZES; i++) {
        // In turns, so that noise of the machine hits both alike.
        us[0][i] = measure(s, g[0], symmetric, (size_t)TUNE_FIRST << i, samples);
        us[1][i] = measure(s, g[1], symmetric, (size_t)TUNE_FIRST << i, samples);
        if (s->rank == 0)
            printf("%10zu %-10s one_shot %8.2f us   two_shot %8.2f us\n", (size_t)TUNE_FIRST << i,
                kind, us[0][i], us[1][i]);
    }
    int k = best_split(us);
    int n = k == 0 ? 0
                   : snprintf(text, room, "host %u all_reduce %s %zu one_shot\n", (unsigned)s->size,
                         kind, (size_t)TUNE_FIRST << (k - 1));
    return n + snprintf(text + n, room - (size_t)n, "host %u all_reduce %s inf two_shot\n",
                   (unsigned)s->size, kind);
}

int coll_tune_run(struct bench *s, const char *file, int64_t samples)
{
    struct coll_group *const g[] = {candidate(s, TUNING_ONE_SHOT), candidate(s, TUNING_TWO_SHOT)};
    struct tuning keep = {0};
    struct error err;
    char text[512];
    int want = samples > 0 ? (int)samples : TUNE_SAMPLES, rc = 0;
    int used = tune_kind(s, g, false, want, text, sizeof text);
    (void)tune_kind(s, g, true, want, text + used, sizeof text - (size_t)used);
    if (s->rank == 0 && access(file, F_OK) == 0 && tuning_load(file, &keep, &err) != STATUS_OK) {
        fprintf(stderr, "phalanx-coll-bench: %s\n", err.text);
        rc = 1;
    }
    drop_rows(&keep, s->size);
    if (s->rank == 0 && rc == 0 && !write_rows(file, &keep, text)) {
        fprintf(stderr, "phalanx-coll-bench: cannot write %s\n", file);
        rc = 1;
    }
    if (s->rank == 0)
        fputs(text, stdout);
    check(s->b->barrier(s->b, NULL) == STATUS_OK);
    coll_destroy(g[0]);
    coll_destroy(g[1]);
    return rc;
}
