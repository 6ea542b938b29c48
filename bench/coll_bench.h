// SPDX-License-Identifier: Apache-2.0
// What the files of phalanx-coll-bench share.
//
//   coll_bench.c   options, the loop over operations, sizes and variants, printing
//   coll_ops.c     the operations: how to call ours and MPI's, and what has to come out
//   coll_uses.c    those that the system is made for: logits, KV heads, experts, two groups at once
//   coll_tuned.c   a second mpirun whose MPI is tuned, which takes its turns on command
//   coll_tune.c    --tune: measures candidates and writes a tuning table
//   coll_device.c  --device: on devices, beside NCCL, called one by one and as a graph
#ifndef PHALANX_BENCH_COLL_BENCH_H
#define PHALANX_BENCH_COLL_BENCH_H

#include "collectives/bootstrap.h"
#include "collectives/collectives.h"

#include <mpi.h>
#include <stdio.h>

enum { SAMPLES_MAX = 1000, TURN = 10, SIZES_MAX = 64, BYTES_MAX = 1 << 30 };
enum {
    NORM_DIM = 1024,
    EXPERTS = 8,
    EXPERTS_PER_TOKEN = 2,
    TOKEN_FLOATS = 256,
    USES_BYTES_MAX = 1 << 20
};

enum variant { PRIVATE, SYMMETRIC, VARIANT_MPI, VARIANT_MPI_TUNED, N_VARIANTS };
static const char *const variant_name[] = {"private", "symmetric", "mpi", "mpi-tuned"};

struct bench {
    uint32_t rank, size;
    struct bootstrap *b;
    struct coll_group *g, *half; // the world; its lower or upper half
    MPI_Comm half_comm, pair_comm;
    float *in, *out, *extra; // of this rank, as large as the largest size and a bit
    float *heap, *half_heap; // in the heaps of g and half
    size_t bytes, n;         // of the whole array; floats
    uint64_t turn;           // changes the input
};

// One operation: what it reads and writes, and how to call it.
struct op {
    const char *name;
    uint32_t least_ranks;
    enum { ANY, RANKS, HALVES, ROWS, TOKENS } unit; // what the array is a whole number of
    enum { NONE, PART, WHOLE } reads, writes;       // one rank's part of the array, or all of it
    bool in_place;                                  // ours; MPI's too where mpi_in_place
    bool mpi_in_place;
    enum { NOWHERE, OUT, IN, OUT_HALF } heap; // what lies in the heap in the symmetric variant
    size_t most_bytes;                        // 0: no limit
    double (*bus_factor)(uint32_t size);
    void (*call)(struct bench *s, enum variant v, float *in, float *out);
    float (*expected)(const struct bench *s, size_t i); // element i of the output; NULL: nothing
    bool has[2];                                        // private, symmetric
};

const struct op *coll_ops_find(const char *text, size_t used);
bool coll_ops_valid(const char *list);

// Small integers: every sum of them is exact in any order, so MPI's result can be checked as well.
static inline float value(uint32_t rank, size_t i, uint64_t turn)
{
    return (float)((rank * 5 + (uint32_t)i + (uint32_t)turn) & 15);
}

// Ends the program unless `st` is STATUS_OK.
void coll_bench_must(struct bench *s, enum status st);

struct samples {
    double us[SAMPLES_MAX];
    int n;
    uint64_t wrong; // elements, in the first samples
};
void coll_bench_sample(
    struct bench *s, const struct op *o, enum variant v, bool verify, struct samples *to);
// Sets the sizes; false where the operation has nothing to do at this size.
bool coll_bench_shape(struct bench *s, const struct op *o, size_t bytes);
double coll_bench_now_us(void);
double coll_bench_median(double *x, int n); // sorts
// The mean over ranks of each rank's median, on all ranks.
double coll_bench_mean(struct bench *s, double *us, int n);
enum status coll_bench_open(
    struct bench *s, size_t most, const char *tuning_file, struct error *err);
void coll_bench_close(struct bench *s);
int coll_bench_samples(int64_t asked, size_t bytes);

// What is printed of one operation, size and variant: a line of JSON, or the first columns of a
// table's line, which the caller ends.
struct coll_bench_row {
    uint32_t np;
    const char *op, *variant;
    size_t bytes;
    double us, bus_factor;
    uint64_t wrong;
};
void coll_bench_print(const struct coll_bench_row *r, bool jsonl);
void coll_bench_print_head(void); // of those columns

void coll_uses_logits(struct bench *s, enum variant v, float *in, float *out);
float coll_uses_logits_expected(const struct bench *s, size_t i);
void coll_uses_kv_heads(struct bench *s, enum variant v, float *in, float *out);
float coll_uses_kv_heads_expected(const struct bench *s, size_t i);
void coll_uses_experts(struct bench *s, enum variant v, float *in, float *out);
float coll_uses_experts_expected(const struct bench *s, size_t i);
void coll_uses_halves(struct bench *s, enum variant v, float *in, float *out);
float coll_uses_halves_expected(const struct bench *s, size_t i);

// MPI tuned: other mpirun jobs with as many ranks, started by rank 0, that measure on command while
// everybody else sleeps. Their number may be 0 where they cannot be started.
enum { TUNED_MAX = 2 };
struct tuned {
    FILE *to[TUNED_MAX], *from[TUNED_MAX];
    int pid[TUNED_MAX], n;
};
void coll_tuned_start(struct tuned *t, uint32_t size, size_t most);
void coll_tuned_stop(struct tuned *t);
// One turn of `n` samples of each rank in a job. False if the job has failed.
struct turn {
    const char *op;
    size_t bytes;
    int n;
    bool verify;
    uint32_t size;
    double *us;      // [size][n] in rank order
    uint64_t *wrong; // added to
};
bool coll_tuned_turn(struct tuned *t, int job, const struct turn *turn);
// The other side; returns the exit code.
int coll_tuned_serve(struct bench *s);

// --device: all_reduce on the devices of a plugin, beside NCCL's.
struct coll_device_args {
    const char *plugin;
    bool jsonl;
    int64_t rounds; // of each variant; 0: as many as usual
    const size_t *sizes;
    int n_sizes;
};
enum status coll_device_run(
    struct bootstrap *b, const struct coll_device_args *args, struct error *err);

int coll_tune_run(struct bench *s, const char *file, int64_t samples);

#endif
