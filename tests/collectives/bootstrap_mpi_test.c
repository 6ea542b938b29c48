// SPDX-License-Identifier: Apache-2.0
// Run by mpirun: ranks that MPI started meet, pass descriptors, and make a group and a ring.
#include "tests/collectives/bootstrap_cases.h"

#include "collectives/ring.h"

#include <mpi.h>

static int talk(struct bootstrap *b)
{
    struct coll_group *g;
    struct ring *r;
    float x[100];
    WANT(ranks_group(b, 4096, 20000, &g) == 0);
    WANT_OK(ring_create(b, 4096, false, &r, NULL));
    for (int i = 0; i < 100; i++)
        x[i] = (float)(i * (int)(b->rank + 1));
    WANT_OK(coll_all_reduce(g, &(struct coll_all_reduce_args){.buffer = x, .count = 100}));
    for (int i = 0; i < 100; i++)
        WANT(x[i] == (float)(i * (int)(b->size * (b->size + 1) / 2)));
    if (b->rank == 0) {
        WANT_OK(ring_write(r, x, sizeof x, 20000));
    } else {
        const void *data;
        size_t n;
        WANT_OK(ring_read(r, &data, &n, 20000));
        WANT(n == sizeof x && ((const float *)data)[99] == x[99]);
        ring_release(r);
    }
    WANT_OK(coll_barrier(g, NULL));
    ring_destroy(r);
    coll_destroy(g);
    return 0;
}

int main(int argc, char **argv)
{
    struct bootstrap *b;
    struct error err = {0};
    int processes = 1;
    if (bootstrap_mpi(&b, &err) != STATUS_INVALID) // MPI has not been started
        return 1;
    MPI_Init(&argc, &argv);
    if (bootstrap_mpi(&b, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    int rc = bootstrap_cases(b, &processes);
    rc = rc != 0 ? rc : talk(b);
    b->close(b);
    MPI_Finalize();
    return rc;
}
