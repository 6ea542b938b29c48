// SPDX-License-Identifier: Apache-2.0
// Run by mpirun: the MPI back end gives the bits of shared memory in every operation, in the world
// and in parts of it at once; members that disagree or leave get an error; its own reduction is
// used only where it was allowed.
#include "tests/collectives/op_cases.h"

#include "base/clock.h"
#include "collectives/backend.h"

#include <mpi.h>
#include <string.h>

static const struct coll_backend *const more[] = {&backend_mpi, NULL};
static const struct coll_args with_mpi = {
    .backend = "mpi", .more = more, .heap_bytes = OP_CASES_HEAP_BYTES, .timeout_ms = 20000};

static int cases(struct bootstrap *b)
{
    struct coll_group *g, *part_group;
    struct bootstrap *part;
    struct error err = {0};
    enum status s = coll_create(b, &with_mpi, &g, &err);
    if (s != STATUS_OK)
        fprintf(stderr, "%s\n", err.text);
    WANT(s == STATUS_OK && strcmp(coll_backend_name(g), "mpi") == 0);
    WANT_OK(b->split(b, b->rank > 0, &part, NULL));
    WANT_OK(coll_create(part, &with_mpi, &part_group, NULL));
    WANT(op_cases(part_group) == 0);
    WANT(op_cases(g) == 0);
    coll_destroy(part_group);
    coll_destroy(g);
    part->close(part);
    return 0;
}

static int mismatch(struct bootstrap *b)
{
    struct coll_group *g;
    float x[100] = {0};
    WANT_OK(coll_create(b, &with_mpi, &g, NULL));
    WANT_OK(coll_barrier(g, NULL));
    WANT_OK(b->barrier(b, NULL)); // nobody is still in the first one when the group ends
    uint64_t start = clock_now_us();
    enum status s = coll_all_reduce(
        g, &(struct coll_all_reduce_args){.buffer = x, .count = b->rank == 1 ? 100 : 99});
    WANT(s == STATUS_MISMATCH && clock_now_us() - start < 5000000);
    WANT(coll_barrier(g, NULL) == STATUS_MISMATCH);
    coll_destroy(g);
    WANT_OK(b->barrier(b, NULL));
    return 0;
}

static int left(struct bootstrap *b)
{
    struct coll_group *g;
    WANT_OK(coll_create(b, &with_mpi, &g, NULL));
    WANT_OK(coll_barrier(g, NULL));
    WANT_OK(b->barrier(b, NULL));
    if (b->rank == 1) {
        coll_destroy(g);
    } else {
        WANT(coll_barrier(g, NULL) == STATUS_PEER_GONE);
        WANT(strstr(coll_error(g)->text, "rank 1") != NULL);
        coll_destroy(g);
    }
    WANT_OK(b->barrier(b, NULL));
    return 0;
}

static int late(struct bootstrap *b)
{
    struct coll_group *g;
    struct coll_args args = with_mpi;
    args.timeout_ms = 300;
    WANT_OK(coll_create(b, &args, &g, NULL));
    if (b->rank == 1)
        clock_sleep_us(900000);
    enum status s = coll_barrier(g, NULL);
    WANT(s == STATUS_TIMEOUT);
    coll_destroy(g);
    WANT_OK(b->barrier(b, NULL));
    return 0;
}

static int native(struct bootstrap *b)
{
    struct coll_group *g;
    struct coll_args args = with_mpi;
    float x[1000], want[1000];
    char text[200];
    args.native = true;
    WANT_OK(coll_create(b, &args, &g, NULL));
    coll_explain(g, "all_reduce", 4000, false, text, sizeof text);
    WANT(strstr(text, "mpi native (inexact") != NULL);
    ranks_fill(x, 1000, DTYPE_F32, 3, b->rank, true);
    ranks_expect(want, 1000, DTYPE_F32, COLL_SUM, 3, b->size, true);
    WANT_OK(coll_all_reduce(g, &(struct coll_all_reduce_args){.buffer = x, .count = 1000}));
    WANT(memcmp(x, want, sizeof x) == 0); // integers are exact in any order
    coll_destroy(g);
    WANT_OK(coll_create(b, &with_mpi, &g, NULL));
    coll_explain(g, "all_reduce", 4000, false, text, sizeof text);
    WANT(strstr(text, "inexact") == NULL);
    coll_destroy(g);
    return 0;
}

int main(int argc, char **argv)
{
    struct bootstrap *b;
    struct error err = {0};
    MPI_Init(&argc, &argv);
    if (bootstrap_mpi(&b, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    int rc = cases(b);
    rc = rc != 0 ? rc : mismatch(b);
    rc = rc != 0 ? rc : left(b);
    rc = rc != 0 ? rc : late(b);
    rc = rc != 0 ? rc : native(b);
    b->close(b);
    if (rc != 0)
        MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Finalize();
    return rc;
}
