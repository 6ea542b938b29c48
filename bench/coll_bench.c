// SPDX-License-Identifier: Apache-2.0
// mpirun -np N phalanx-coll-bench: our collectives beside MPI's, in one run.
//
// One sample is: all ranks meet, the clock starts, the rank rewrites its input, calls the operation
// and reads all of its result, the clock stops. Without rewriting and reading, slices would stay in
// the cache of the core that summed them and the numbers would mean nothing. The variants take
// turns, a few samples each, so that noise of the machine hits them alike. Printed is the mean over
// ranks of each rank's median. For mpi-tuned it is the better of two settings: no single-copy
// transfers, and the shared-memory collectives. The operation touch is a barrier of ours in all
// variants: what rewriting, meeting and reading cost by themselves.
// algbw and busbw are counted as nccl-tests does; bytes are those of the whole array, also for
// reduce_scatter, all_gather and logits. wrong counts elements of the first samples of each
// variant.
#include "bench/coll_bench.h"

#include "base/check.h"
#include "base/config.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct options {
    const char *ops, *sizes, *tuning, *tune, *device;
    uint64_t serve;
    int output;
    int64_t samples;
    bool tuned;
};

static const struct config_row options[] = {
    {.name = "ops",
        .type = CONFIG_TEXT,
        .offset = offsetof(struct options, ops),
        .default_text = "all_reduce",
        .value_name = "LIST",
        .help = "Operations: all_reduce, all_reduce_norm, reduce_scatter, all_gather, broadcast, "
                "barrier, touch, logits, kv_heads, experts, two_groups."},
    {.name = "sizes",
        .type = CONFIG_TEXT,
        .offset = offsetof(struct options, sizes),
        .default_text = "1K,4K,16K,64K,256K,1M,4M,16M",
        .value_name = "LIST",
        .help = "Bytes of the whole array, with suffixes K and M."},
    {.name = "tuned",
        .type = CONFIG_FLAG,
        .offset = offsetof(struct options, tuned),
        .default_text = "true",
        .help = "Also run MPI tuned, in other mpirun jobs that take turns with this one."},
    {.name = "tune",
        .type = CONFIG_TEXT,
        .offset = offsetof(struct options, tune),
        .value_name = "FILE",
        .help =
            "Measure the algorithms and write this group size's rows of a tuning table; written as "
            "--tune=FILE, because mpirun looks for a --tune of its own."},
    {.name = "device",
        .type = CONFIG_TEXT,
        .offset = offsetof(struct options, device),
        .value_name = "NAME",
        .help = "Measure all_reduce on devices, cuda or emu, beside NCCL's: calls one by one, and "
                "recorded in a graph."},
    {.name = "serve",
        .type = CONFIG_BYTES,
        .offset = offsetof(struct options, serve),
        .value_name = "BYTES",
        .help = "Used by --tuned: take commands from standard input."},
    {.name = "tuning-file",
        .type = CONFIG_TEXT,
        .offset = offsetof(struct options, tuning),
        .value_name = "FILE",
        .help = "Table of algorithms in place of the built-in one."},
    {.name = "samples",
        .type = CONFIG_INT,
        .offset = offsetof(struct options, samples),
        .default_text = "0",
        .min = 0,
        .max = SAMPLES_MAX,
        .value_name = "N",
        .help = "Samples of each variant, or of --device rounds of 20 calls; 0: as many as usual."},
    {.name = "output",
        .type = CONFIG_ENUM,
        .offset = offsetof(struct options, output),
        .default_text = "table",
        .choices = "table|jsonl",
        .value_name = "KIND",
        .help = "table for people, jsonl for programs."},
};

void coll_bench_must(struct bench *s, enum status st)
{
    if (st == STATUS_OK)
        return;
    fprintf(stderr, "phalanx-coll-bench: rank %u: %s: %s\n", (unsigned)s->rank, status_text(st),
        coll_error(s->g)->text);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

// As fast as the machine can, so that they weigh little beside the operation.
#if defined(__x86_64__)
#define EACH_WIDTH __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EACH_WIDTH
#endif

enum { LANES = 16 }; // floats of a vector; `value` repeats after as many

EACH_WIDTH static void rewrite(float *x, size_t n, uint32_t rank, uint64_t turn)
{
    float pattern[LANES];
    size_t i = 0;
    for (size_t k = 0; k < LANES; k++)
        pattern[k] = value(rank, k, turn);
    for (; i + LANES <= n; i += LANES)
        memcpy(x + i, pattern, sizeof pattern);
    for (; i < n; i++)
        x[i] = value(rank, i, turn);
}

// Every element once, in four vectors at a time: loads, and little else.
EACH_WIDTH static uint64_t read_all(const float *x, size_t n)
{
    typedef uint32_t vector __attribute__((vector_size(LANES * sizeof(float))));
    enum { AT_ONCE = 4 };
    vector sum[AT_ONCE] = {0}, v;
    uint64_t all = 0;
    size_t i = 0;
    for (; i + AT_ONCE * LANES <= n; i += AT_ONCE * LANES)
        for (size_t k = 0; k < AT_ONCE; k++) {
            memcpy(&v, x + i + k * LANES, sizeof v);
            sum[k] ^= v;
        }
    v = sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
    for (size_t k = 0; k < LANES; k++)
        all += v[k];
    for (; i < n; i++) {
        uint32_t u;
        memcpy(&u, x + i, sizeof u);
        all += u;
    }
    return all;
}

double coll_bench_now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec * 1e-3;
}

static size_t floats(const struct bench *s, unsigned what)
{
    return what == WHOLE ? s->n : what == PART ? s->n / s->size : 0;
}

static size_t unit_of(const struct bench *s, const struct op *o, size_t n)
{
    switch (o->unit) {
    case RANKS:
        return s->size;
    case HALVES:
        return 2;
    case ROWS:
        return n > NORM_DIM ? NORM_DIM : 1;
    case TOKENS:
        return TOKEN_FLOATS;
    case ANY:
        break;
    }
    return 1;
}

bool coll_bench_shape(struct bench *s, const struct op *o, size_t bytes)
{
    size_t n = bytes / sizeof(float), unit = unit_of(s, o, n);
    s->n = n / unit * unit;
    s->bytes = s->n * sizeof(float);
    return s->n > 0 && s->size >= o->least_ranks && (s->size % 2 == 0 || o->least_ranks == 1) &&
           (o->most_bytes == 0 || bytes <= o->most_bytes);
}

void coll_bench_sample(
    struct bench *s, const struct op *o, enum variant v, bool verify, struct samples *to)
{
    static volatile uint64_t sink;
    bool in_place = v >= VARIANT_MPI ? o->mpi_in_place : o->in_place;
    float *in = s->in, *out = s->out;
    if (v == SYMMETRIC && o->heap == OUT)
        out = s->heap;
    if (v == SYMMETRIC && o->heap == OUT_HALF)
        out = s->half_heap;
    if (v == SYMMETRIC && o->heap == IN)
        in = s->heap;
    in = in_place ? out : in;
    s->turn++;
    MPI_Barrier(MPI_COMM_WORLD);
    coll_bench_must(s, coll_barrier(s->g, NULL));
    double t0 = coll_bench_now_us();
    rewrite(in, floats(s, o->reads), s->rank, s->turn);
    o->call(s, v, in, out);
    sink = sink + read_all(out, floats(s, o->writes));
    to->us[to->n++] = coll_bench_now_us() - t0;
    for (size_t i = 0; verify && o->expected != NULL && i < floats(s, o->writes); i++)
        to->wrong += out[i] != o->expected(s, i);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double coll_bench_median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    return x[n / 2];
}

double coll_bench_mean(struct bench *s, double *us, int n)
{
    double mine = coll_bench_median(us, n), all[COLL_RANKS_MAX], sum = 0;
    check(s->b->all_gather(s->b, &mine, sizeof mine, all, NULL) == STATUS_OK);
    for (uint32_t r = 0; r < s->size; r++)
        sum += all[r];
    return sum / s->size;
}

int coll_bench_samples(int64_t asked, size_t bytes)
{
    if (asked > 0)
        return (int)asked;
    return bytes > 4 << 20 ? 20 : bytes > 1 << 20 ? 50 : bytes > 1 << 16 ? 200 : SAMPLES_MAX;
}

struct row {
    double us;
    uint64_t wrong;
    bool there;
};

// The times of the tuned jobs, on rank 0 only.
struct other_times {
    double us[TUNED_MAX][COLL_RANKS_MAX][SAMPLES_MAX];
    uint64_t wrong;
    int n;
};

static void other_turn(
    struct bench *s, struct tuned *t, const struct op *o, int n, struct other_times *x)
{
    double us[COLL_RANKS_MAX * TURN];
    for (int job = 0; s->rank == 0 && job < t->n; job++) {
        struct turn turn = {o->name, s->bytes, n, x->n == 0, s->size, us, &x->wrong};
        if (!coll_tuned_turn(t, job, &turn))
            t->n = 0;
        for (uint32_t r = 0; r < s->size; r++)
            memcpy(&x->us[job][r][x->n], us + r * (size_t)n, (size_t)n * sizeof us[0]);
    }
    x->n += n;
    check(s->b->barrier(s->b, NULL) == STATUS_OK); // a socket: nobody spins meanwhile
}

static struct row other_row(const struct bench *s, const struct tuned *t, struct other_times *x)
{
    struct row row = {.there = s->rank == 0 && t->n > 0, .wrong = x->wrong};
    for (int job = 0; row.there && job < t->n; job++) {
        double sum = 0;
        for (uint32_t r = 0; r < s->size; r++)
            sum += coll_bench_median(x->us[job][r], x->n);
        if (row.us == 0 || sum / s->size < row.us)
            row.us = sum / s->size;
    }
    return row;
}

void coll_bench_print_head(void)
{
    printf("%10s %-15s %-15s %10s %8s %8s %6s", "bytes", "op", "variant", "us", "algbw", "busbw",
        "wrong");
}

void coll_bench_print(const struct coll_bench_row *r, bool jsonl)
{
    double alg = (double)r->bytes / r->us * 1e-3, bus = alg * r->bus_factor;
    unsigned long long wrong = r->wrong;
    if (jsonl)
        printf("{\"np\": %u, \"op\": \"%s\", \"variant\": \"%s\", \"bytes\": %zu, "
               "\"us\": %.3f, \"algbw_gbs\": %.3f, \"busbw_gbs\": %.3f, \"wrong\": %llu}\n",
            (unsigned)r->np, r->op, r->variant, r->bytes, r->us, alg, bus, wrong);
    else
        printf("%10zu %-15s %-15s %10.2f %8.2f %8.2f %6llu", r->bytes, r->op, r->variant, r->us,
            alg, bus, wrong);
}

static void print_row(const struct bench *s, const struct options *opt, const struct op *o,
    enum variant v, const struct row *rows)
{
    const struct row *r = &rows[v];
    bool jsonl = opt->output == 1;
    if (s->rank != 0 || !r->there)
        return;
    coll_bench_print(&(struct coll_bench_row){s->size, o->name, variant_name[v], s->bytes, r->us,
                         o->bus_factor(s->size), r->wrong},
        jsonl);
    if (!jsonl)
        printf(" %8.2f", rows[VARIANT_MPI].us / r->us);
    if (!jsonl && rows[VARIANT_MPI_TUNED].there)
        printf(" %8.2f\n", rows[VARIANT_MPI_TUNED].us / r->us);
    else if (!jsonl)
        printf(" %8s\n", "-");
    fflush(stdout);
}

static void run(struct bench *s, const struct options *opt, struct tuned *t, const struct op *o)
{
    static struct samples x[N_VARIANTS];
    static struct other_times other;
    struct row rows[N_VARIANTS] = {0};
    const bool has[] = {o->has[0], o->has[1], true};
    int want = coll_bench_samples(opt->samples, s->bytes);
    memset(x, 0, sizeof x);
    other.n = 0;
    other.wrong = 0;
    while (x[VARIANT_MPI].n < want) {
        int n = want - x[VARIANT_MPI].n < TURN ? want - x[VARIANT_MPI].n : TURN;
        for (int v = 0; v <= VARIANT_MPI; v++)
            for (int i = 0; has[v] && i < n; i++)
                coll_bench_sample(s, o, (enum variant)v, x[v].n < 2, &x[v]);
        if (opt->tuned)
            other_turn(s, t, o, n, &other);
    }
    for (int v = 0; v <= VARIANT_MPI; v++) {
        uint64_t wrong[COLL_RANKS_MAX];
        if (!has[v])
            continue;
        rows[v] = (struct row){.us = coll_bench_mean(s, x[v].us, x[v].n), .there = true};
        check(s->b->all_gather(s->b, &x[v].wrong, sizeof wrong[0], wrong, NULL) == STATUS_OK);
        for (uint32_t r = 0; r < s->size; r++)
            rows[v].wrong += wrong[r];
    }
    rows[VARIANT_MPI_TUNED] = other_row(s, t, &other);
    for (int v = 0; v < N_VARIANTS; v++)
        print_row(s, opt, o, (enum variant)v, rows);
}

static int parse_sizes(const char *text, size_t *out)
{
    int n = 0;
    char word[32];
    while (n < SIZES_MAX) {
        size_t used = strcspn(text, ",");
        uint64_t v;
        if (used == 0 || used >= sizeof word)
            return 0;
        memcpy(word, text, used);
        word[used] = '\0';
        if (!config_bytes_parse(word, &v) || v < 4 || v > BYTES_MAX)
            return 0;
        out[n++] = (size_t)v;
        if (text[used] == '\0')
            return n;
        text += used + 1;
    }
    return 0;
}

static void run_all(
    struct bench *s, const struct options *opt, struct tuned *t, const size_t *sizes, int n_sizes)
{
    if (s->rank == 0 && opt->output == 0) {
        printf("# np %u, %s\n", (unsigned)s->size,
            sysconf(_SC_NPROCESSORS_ONLN) >= (long)s->size ? "a core each" : "sharing cores");
        coll_bench_print_head();
        printf(" %8s %8s\n", "x mpi", "x tuned");
    }
    for (const char *p = opt->ops;; p++) {
        size_t used = strcspn(p, ",");
        const struct op *o = coll_ops_find(p, used);
        for (int i = 0; i < (o->reads == NONE ? 1 : n_sizes); i++)
            if (coll_bench_shape(s, o, sizes[i]))
                run(s, opt, t, o);
            else if (s->rank == 0)
                fprintf(stderr, "phalanx-coll-bench: no %s of %zu bytes on %u ranks\n", o->name,
                    sizes[i], (unsigned)s->size);
        p += used;
        if (*p == '\0')
            return;
    }
}

static float *room(size_t bytes)
{
    size_t rounded = (bytes + 4095) / 4096 * 4096;
    float *p = aligned_alloc(4096, rounded);
    check(p != NULL);
    memset(p, 1, rounded);
    return p;
}

enum status coll_bench_open(
    struct bench *s, size_t most, const char *tuning_file, struct error *err)
{
    struct bootstrap *half;
    size_t uses = most < USES_BYTES_MAX ? most : USES_BYTES_MAX;
    TRY(bootstrap_mpi(&s->b, err));
    s->rank = s->b->rank;
    s->size = s->b->size;
    size_t many = 2 * s->size * uses > most ? 2 * s->size * uses : most;
    struct coll_args args = {.heap_bytes = many + 4096,
        .spin = sysconf(_SC_NPROCESSORS_ONLN) >= (long)s->size,
        .tuning_file = tuning_file};
    TRY(coll_create(s->b, &args, &s->g, err));
    uint32_t part = s->rank >= s->size / 2;
    TRY(s->b->split(s->b, part, &half, err));
    args.heap_bytes = most + 4096;
    TRY(coll_create(half, &args, &s->half, err));
    half->close(half);
    MPI_Comm_split(MPI_COMM_WORLD, (int)part, (int)s->rank, &s->half_comm);
    MPI_Comm_split(MPI_COMM_WORLD, (int)s->rank / 2, (int)s->rank, &s->pair_comm);
    s->in = room(most);
    s->out = room(most);
    s->extra = room(many);
    s->heap = coll_heap_take(s->g, many);
    s->half_heap = coll_heap_take(s->half, most);
    check(s->heap != NULL && s->half_heap != NULL);
    return STATUS_OK;
}

void coll_bench_close(struct bench *s)
{
    coll_bench_must(s, coll_barrier(s->g, NULL));
    MPI_Comm_free(&s->half_comm);
    MPI_Comm_free(&s->pair_comm);
    coll_destroy(s->half);
    coll_destroy(s->g);
    s->b->close(s->b);
    free(s->in);
    free(s->out);
    free(s->extra);
}

static int usage(const char *why)
{
    fprintf(stderr, "phalanx-coll-bench: %s\n", why);
    return 2;
}

static int device_main(const struct options *opt, const size_t *sizes, int n_sizes)
{
    struct bootstrap *b;
    struct error err;
    enum status st = bootstrap_mpi(&b, &err);
    if (st == STATUS_OK) {
        const struct coll_device_args args = {
            opt->device, opt->output == 1, opt->samples, sizes, n_sizes};
        st = coll_device_run(b, &args, &err);
        b->close(b);
    }
    return st == STATUS_OK ? 0 : usage(err.text);
}

// Returns the exit code; `help` alone needs no ranks.
static int bench_main(const struct options *opt)
{
    struct error err;
    size_t sizes[SIZES_MAX], most = 4;
    int n_sizes = parse_sizes(opt->sizes, sizes), rc = 0;
    struct bench s = {0};
    struct tuned t = {0};
    if (n_sizes == 0)
        return usage("--sizes: numbers of bytes from 4 to 1G with commas were expected");
    if (!coll_ops_valid(opt->ops))
        return usage("--ops: names with commas were expected; see --help");
    if (opt->device != NULL && strcmp(opt->ops, "all_reduce") != 0)
        return usage("--device: all_reduce is measured on devices, and nothing else");
    if (opt->device != NULL)
        return device_main(opt, sizes, n_sizes);
    for (int i = 0; i < n_sizes; i++)
        most = sizes[i] > most ? sizes[i] : most;
    if (opt->serve != 0)
        most = (size_t)opt->serve;
    if (coll_bench_open(&s, most, opt->tuning, &err) != STATUS_OK)
        return usage(err.text);
    if (opt->serve != 0) {
        rc = coll_tuned_serve(&s);
    } else if (opt->tune != NULL) {
        rc = coll_tune_run(&s, opt->tune, opt->samples);
    } else {
        if (opt->tuned && s.rank == 0)
            coll_tuned_start(&t, s.size, most);
        if (opt->tuned && s.rank == 0 && t.n < TUNED_MAX)
            fprintf(stderr, "phalanx-coll-bench: only %d of %d tuned jobs could be started\n", t.n,
                TUNED_MAX);
        check(s.b->barrier(s.b, NULL) == STATUS_OK);
        run_all(&s, opt, &t, sizes, n_sizes);
        coll_tuned_stop(&t);
    }
    coll_bench_close(&s);
    return rc;
}

int main(int argc, char **argv)
{
    struct options opt = {0};
    struct error err;
    bool help = false;
    if (config_parse(options, COUNT_OF(options), argc, argv, &opt, NULL, &help, &err) != STATUS_OK)
        return usage(err.text);
    if (help) {
        config_help(options, COUNT_OF(options), stdout);
        return 0;
    }
    MPI_Init(&argc, &argv);
    int rc = bench_main(&opt);
    MPI_Finalize();
    return rc;
}
