// SPDX-License-Identifier: Apache-2.0
// mpirun -np N phalanx-coll-bench: our collectives beside MPI's, in one run.
//
// One sample is: all ranks meet, the clock starts, the rank rewrites its input, calls the operation
// and reads all of its result, the clock stops. Without rewriting and reading, slices would stay in
// the cache of the core that summed them and the numbers would mean nothing. The variants take
// turns, a few samples each, so that noise of the machine hits them alike. Printed is the mean over
// ranks of each rank's median; "op us" is the part of it that is neither rewriting nor reading. It
// comes from samples of its own, because looking at the clock takes a while too.
// algbw and busbw are counted as nccl-tests does; bytes are those of the whole array, also for
// reduce_scatter, all_gather and exchange.
#include "base/check.h"
#include "base/clock.h"
#include "base/config.h"
#include "collectives/bootstrap.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SAMPLES_MAX = 1000, TURN = 10, SIZES_MAX = 64, BYTES_MAX = 1 << 30 };

struct options {
    const char *ops, *sizes, *tuning;
    int output;
    int64_t samples;
};

static const struct config_row rows[] = {
    {.name = "ops",
        .type = CONFIG_TEXT,
        .offset = offsetof(struct options, ops),
        .default_text = "all_reduce",
        .value_name = "LIST",
        .help =
            "Operations: all_reduce, reduce_scatter, all_gather, broadcast, exchange, barrier."},
    {.name = "sizes",
        .type = CONFIG_TEXT,
        .offset = offsetof(struct options, sizes),
        .default_text = "1K,4K,16K,64K,256K,1M,4M,16M",
        .value_name = "LIST",
        .help = "Bytes of the whole array, with suffixes K and M."},
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
        .help = "Samples of each variant; 0: by size."},
    {.name = "output",
        .type = CONFIG_ENUM,
        .offset = offsetof(struct options, output),
        .default_text = "table",
        .choices = "table|jsonl",
        .value_name = "KIND",
        .help = "table for people, jsonl for programs."},
};

enum variant { PRIVATE, SYMMETRIC, MPI, N_VARIANTS };
static const char *const variant_name[] = {"private", "symmetric", "mpi"};

struct bench {
    uint32_t rank, size;
    struct bootstrap *b;
    struct coll_group *g;
    float *in, *out; // of this rank, BYTES_MAX at most
    float *heap;     // in the heap
    size_t bytes, n; // of the whole array; floats
    uint64_t turn;   // changes the input
};

// One operation: what it reads and writes, and how to call it.
struct op {
    const char *name;
    bool whole_in, whole_out; // or one rank's part
    bool reduces;
    void (*call)(struct bench *s, enum variant v, float *in, float *out);
    bool has[N_VARIANTS];
};

static void must(struct bench *s, enum status st)
{
    if (st == STATUS_OK)
        return;
    fprintf(stderr, "phalanx-coll-bench: rank %u: %s\n", (unsigned)s->rank, coll_error(s->g)->text);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void call_all_reduce(struct bench *s, enum variant v, float *in, float *out)
{
    if (v == MPI)
        MPI_Allreduce(in, out, (int)s->n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    else
        must(s,
            coll_all_reduce(s->g, &(struct coll_all_reduce_args){
                                      .buffer = out, .count = s->n, .symmetric = v == SYMMETRIC}));
}

static void call_reduce_scatter(struct bench *s, enum variant v, float *in, float *out)
{
    if (v == MPI)
        MPI_Reduce_scatter_block(
            in, out, (int)(s->n / s->size), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    else
        must(s, coll_reduce_scatter(s->g, in, out, s->n, DTYPE_F32, COLL_SUM, NULL));
}

static void call_all_gather(struct bench *s, enum variant v, float *in, float *out)
{
    int part = (int)(s->bytes / s->size);
    if (v == MPI)
        MPI_Allgather(in, part, MPI_BYTE, out, part, MPI_BYTE, MPI_COMM_WORLD);
    else
        must(s, coll_all_gather(s->g, in, out, (size_t)part, NULL));
}

static void call_broadcast(struct bench *s, enum variant v, float *in, float *out)
{
    (void)in;
    if (v == MPI)
        MPI_Bcast(out, (int)s->bytes, MPI_BYTE, 0, MPI_COMM_WORLD);
    else
        must(s, coll_broadcast(s->g, out, s->bytes, 0, NULL));
}

static void call_exchange(struct bench *s, enum variant v, float *in, float *out)
{
    size_t part = s->bytes / s->size, bytes[COLL_RANKS_MAX];
    const void *send[COLL_RANKS_MAX];
    if (v == MPI) {
        MPI_Alltoall(in, (int)part, MPI_BYTE, out, (int)part, MPI_BYTE, MPI_COMM_WORLD);
        return;
    }
    for (uint32_t r = 0; r < s->size; r++) {
        send[r] = (const char *)in + r * part;
        bytes[r] = part;
    }
    must(s, coll_exchange(s->g, &(struct coll_exchange_args){.counts = COLL_COUNTS_FIXED,
                                    .peers = ~(uint64_t)0 >> (64 - s->size),
                                    .send = send,
                                    .send_bytes = bytes,
                                    .receive = out,
                                    .slot_bytes = part,
                                    .receive_bytes = bytes}));
}

static void call_barrier(struct bench *s, enum variant v, float *in, float *out)
{
    (void)in;
    (void)out;
    if (v == MPI)
        MPI_Barrier(MPI_COMM_WORLD);
    else
        must(s, coll_barrier(s->g, NULL));
}

static const struct op ops[] = {
    {"all_reduce", true, true, true, call_all_reduce, {true, true, true}},
    {"reduce_scatter", true, false, true, call_reduce_scatter, {true, false, true}},
    {"all_gather", false, true, false, call_all_gather, {true, false, true}},
    {"broadcast", true, true, false, call_broadcast, {true, false, true}},
    {"exchange", true, true, false, call_exchange, {false, true, true}},
    {"barrier", false, false, false, call_barrier, {true, false, true}},
};

// Small integers: every sum of them is exact in any order, so MPI's result can be checked as well.
static float value(uint32_t rank, size_t i, uint64_t turn)
{
    return (float)((rank * 5 + (uint32_t)i + (uint32_t)turn) & 15);
}

// As fast as the machine can, so that they weigh little beside the operation.
#if defined(__x86_64__)
#define EACH_WIDTH __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EACH_WIDTH
#endif

EACH_WIDTH static void rewrite(float *x, size_t n, uint32_t rank, uint64_t turn)
{
    for (size_t i = 0; i < n; i++)
        x[i] = value(rank, i, turn);
}

EACH_WIDTH static uint64_t read_all(const float *x, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, x + i, 4);
        sum += u;
    }
    return sum;
}

static double now_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec * 1e-3;
}

// What element i of the output has to be on this rank.
static float expected(const struct bench *s, const struct op *o, size_t i)
{
    size_t part = s->n / s->size;
    float sum = 0;
    if (o->call == call_all_gather)
        return value((uint32_t)(i / part), i % part, s->turn);
    if (o->call == call_broadcast)
        return value(0, i, s->turn);
    if (o->call == call_exchange)
        return value((uint32_t)(i / part), s->rank * part + i % part, s->turn);
    size_t at = o->call == call_reduce_scatter ? s->rank * part + i : i;
    for (uint32_t r = 0; r < s->size; r++)
        sum += value(r, at, s->turn);
    return sum;
}

struct samples {
    double all[SAMPLES_MAX], op[SAMPLES_MAX];
    int n, n_op;
    uint64_t wrong;
};

static size_t floats(const struct bench *s, bool whole)
{
    return whole ? s->n : s->n / s->size;
}

static void sample(
    struct bench *s, const struct op *o, enum variant v, bool only_op, struct samples *to)
{
    static volatile uint64_t sink;
    bool move_only = o->call == call_barrier;
    // Ours reduces and broadcasts in place; MPI does so from one buffer to another, which is its
    // faster way.
    bool in_place = o->call == call_broadcast || (o->call == call_all_reduce && v != MPI);
    float *out = v == SYMMETRIC || o->call == call_exchange ? s->heap : s->out;
    float *in = in_place ? out : s->in;
    s->turn++;
    MPI_Barrier(MPI_COMM_WORLD);
    must(s, coll_barrier(s->g, NULL));
    double t0 = now_us();
    if (!move_only)
        rewrite(in, floats(s, o->whole_in), s->rank, s->turn);
    if (only_op)
        t0 = now_us();
    o->call(s, v, in, out);
    if (only_op)
        to->op[to->n_op++] = now_us() - t0;
    if (!move_only)
        sink = sink + read_all(out, floats(s, o->whole_out));
    if (!only_op)
        to->all[to->n++] = now_us() - t0;
    for (size_t i = 0; !move_only && to->n <= 2 && i < floats(s, o->whole_out); i++)
        to->wrong += out[i] != expected(s, o, i);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double mean_of_medians(struct bench *s, double *x, int n)
{
    double all[COLL_RANKS_MAX], sum = 0;
    qsort(x, (size_t)n, sizeof *x, by_value);
    check(s->b->all_gather(s->b, &x[n / 2], sizeof *x, all, NULL) == STATUS_OK);
    for (uint32_t r = 0; r < s->size; r++)
        sum += all[r];
    return sum / s->size;
}

static double bus_factor(const struct op *o, uint32_t size)
{
    double share = (double)(size - 1) / size;
    if (o->call == call_all_reduce)
        return 2 * share;
    return o->call == call_broadcast ? 1 : share;
}

static void print_row(struct bench *s, const struct options *opt, const struct op *o,
    enum variant v, struct samples *x, double mpi_us, double *us)
{
    uint64_t wrong[COLL_RANKS_MAX], all_wrong = 0;
    double op_us = mean_of_medians(s, x->op, x->n_op);
    *us = mean_of_medians(s, x->all, x->n);
    check(s->b->all_gather(s->b, &x->wrong, sizeof x->wrong, wrong, NULL) == STATUS_OK);
    for (uint32_t r = 0; r < s->size; r++)
        all_wrong += wrong[r];
    double alg = (double)s->bytes / *us * 1e-3, bus = alg * bus_factor(o, s->size);
    if (s->rank != 0)
        return;
    if (opt->output == 1)
        printf("{\"np\": %u, \"op\": \"%s\", \"variant\": \"%s\", \"bytes\": %zu, \"us\": %.3f, "
               "\"op_us\": %.3f, \"algbw_gbs\": %.3f, \"busbw_gbs\": %.3f, \"wrong\": %llu}\n",
            (unsigned)s->size, o->name, variant_name[v], s->bytes, *us, op_us, alg, bus,
            (unsigned long long)all_wrong);
    else
        printf("%10zu %-14s %-10s %10.2f %10.2f %8.2f %8.2f %6llu %8.2f\n", s->bytes, o->name,
            variant_name[v], *us, op_us, alg, bus, (unsigned long long)all_wrong,
            mpi_us > 0 ? mpi_us / *us : 1.0);
    fflush(stdout);
}

static void run(struct bench *s, const struct options *opt, const struct op *o, size_t bytes)
{
    static struct samples x[N_VARIANTS];
    s->n = bytes / 4 / s->size * s->size;
    s->bytes = s->n * 4;
    int want = (int)opt->samples;
    if (want == 0)
        want = bytes > 4 << 20 ? 20 : bytes > 1 << 20 ? 50 : bytes > 1 << 16 ? 200 : SAMPLES_MAX;
    memset(x, 0, sizeof x);
    while (x[MPI].n < want)
        for (int v = 0; v < N_VARIANTS; v++)
            for (int i = 0; o->has[v] && i < TURN && x[v].n < want; i++)
                sample(s, o, (enum variant)v, i % 2 != 0 && x[v].n_op < want, &x[v]);
    double mpi_us, us;
    print_row(s, opt, o, MPI, &x[MPI], 0, &mpi_us);
    for (int v = 0; v < MPI; v++)
        if (o->has[v])
            print_row(s, opt, o, (enum variant)v, &x[v], mpi_us, &us);
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

static const struct op *find_op(const char *text, size_t used)
{
    for (size_t i = 0; i < COUNT_OF(ops); i++)
        if (strlen(ops[i].name) == used && strncmp(ops[i].name, text, used) == 0)
            return &ops[i];
    return NULL;
}

static bool ops_valid(const char *text)
{
    for (const char *p = text;; p++) {
        size_t used = strcspn(p, ",");
        if (find_op(p, used) == NULL)
            return false;
        p += used;
        if (*p == '\0')
            return true;
    }
}

static void run_all(struct bench *s, const struct options *opt, const size_t *sizes, int n_sizes)
{
    if (s->rank == 0 && opt->output == 0)
        printf("# np %u, %s\n%10s %-14s %-10s %10s %10s %8s %8s %6s %8s\n", (unsigned)s->size,
            sysconf(_SC_NPROCESSORS_ONLN) >= (long)s->size ? "a core each" : "sharing cores",
            "bytes", "op", "variant", "us", "op us", "algbw", "busbw", "wrong", "x mpi");
    for (const char *p = opt->ops;; p++) {
        size_t used = strcspn(p, ",");
        const struct op *o = find_op(p, used);
        for (int i = 0; i < (o->call == call_barrier ? 1 : n_sizes); i++)
            run(s, opt, o, sizes[i]);
        p += used;
        if (*p == '\0')
            return;
    }
}

static int usage(const char *why)
{
    fprintf(stderr, "phalanx-coll-bench: %s\n", why);
    return 2;
}

// Returns the exit code; `help` alone needs no ranks.
static int bench_main(const struct options *opt)
{
    struct error err;
    size_t sizes[SIZES_MAX], most = 4;
    int n_sizes = parse_sizes(opt->sizes, sizes);
    struct bench s = {0};
    if (n_sizes == 0)
        return usage("--sizes: numbers of bytes from 4 to 1G with commas were expected");
    if (!ops_valid(opt->ops))
        return usage("--ops: names with commas were expected; see --help");
    for (int i = 0; i < n_sizes; i++)
        most = sizes[i] > most ? sizes[i] : most;
    if (bootstrap_mpi(&s.b, &err) != STATUS_OK)
        return usage(err.text);
    s.rank = s.b->rank;
    s.size = s.b->size;
    struct coll_args args = {.heap_bytes = most + 4096,
        .spin = sysconf(_SC_NPROCESSORS_ONLN) >= (long)s.size,
        .tuning_file = opt->tuning};
    if (coll_create(s.b, &args, &s.g, &err) != STATUS_OK)
        return usage(err.text);
    s.in = aligned_alloc(4096, (most + 4095) / 4096 * 4096);
    s.out = aligned_alloc(4096, (most + 4095) / 4096 * 4096);
    s.heap = coll_heap_take(s.g, most);
    check(s.in != NULL && s.out != NULL && s.heap != NULL);
    memset(s.in, 1, most);
    memset(s.out, 1, most);
    run_all(&s, opt, sizes, n_sizes);
    must(&s, coll_barrier(s.g, NULL));
    coll_destroy(s.g);
    s.b->close(s.b);
    free(s.in);
    free(s.out);
    return 0;
}

int main(int argc, char **argv)
{
    struct options opt = {0};
    struct error err;
    bool help = false;
    if (config_parse(rows, COUNT_OF(rows), argc, argv, &opt, NULL, &help, &err) != STATUS_OK)
        return usage(err.text);
    if (help) {
        config_help(rows, COUNT_OF(rows), stdout);
        return 0;
    }
    MPI_Init(&argc, &argv);
    int rc = bench_main(&opt);
    MPI_Finalize();
    return rc;
}
