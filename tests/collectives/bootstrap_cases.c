// SPDX-License-Identifier: Apache-2.0
#include "tests/collectives/bootstrap_cases.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int gather(struct bootstrap *b)
{
    // Large enough to fill a socket's buffer several times.
    enum { N = 300 * 1024 };
    uint8_t *mine = malloc(N), *all = malloc((size_t)N * b->size);
    WANT(mine != NULL && all != NULL);
    for (size_t n = 1; n <= N; n = n == 1 ? 1000 : n == 1000 ? N : N + 1) {
        memset(mine, (int)(b->rank + n), n);
        memset(all, 0xee, n * b->size);
        WANT_OK(b->all_gather(b, mine, n, all, NULL));
        for (uint32_t r = 0; r < b->size; r++)
            for (size_t i = 0; i < n; i++)
                WANT(all[r * n + i] == (uint8_t)(r + n));
    }
    free(mine);
    free(all);
    WANT_OK(b->barrier(b, NULL));
    return 0;
}

// Every rank in turn shares a memfd into which it has written its rank.
static int share(struct bootstrap *b)
{
    for (uint32_t root = 0; root < b->size; root++) {
        int fd = -1;
        uint32_t v = 1000 + b->rank;
        if (b->rank == root) {
            fd = memfd_create("test", MFD_CLOEXEC);
            WANT(fd >= 0 && pwrite(fd, &v, sizeof v, 0) == sizeof v);
        }
        WANT_OK(b->share_fd(b, root, &fd, NULL));
        WANT(fd >= 0 && pread(fd, &v, sizeof v, 0) == sizeof v && v == 1000 + root);
        WANT((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
        close(fd);
    }
    return 0;
}

static int split(struct bootstrap *b)
{
    struct bootstrap *half = NULL;
    uint32_t colour = b->rank % 3 == 0 ? 7 : 9;
    WANT_OK(b->split(b, colour, &half, NULL));
    uint32_t all[COLL_RANKS_MAX], n = 0;
    WANT_OK(half->all_gather(half, &b->rank, sizeof b->rank, all, NULL));
    for (uint32_t r = 0; r < b->size; r++)
        if ((r % 3 == 0) == (b->rank % 3 == 0)) {
            WANT(n < half->size && all[n] == r);
            WANT((n == half->rank) == (r == b->rank));
            n++;
        }
    WANT(n == half->size);
    if (share(half) != 0)
        return 1;
    half->close(half);
    return 0;
}

int bootstrap_cases(struct bootstrap *b, void *processes)
{
    if (gather(b) != 0 || share(b) != 0 || split(b) != 0 || gather(b) != 0)
        return 1;
    for (uint32_t r = 0; r < b->size; r++) {
        int fd = b->peer_pidfd(b, r);
        WANT((fd >= 0) == (processes != NULL && r != b->rank));
        struct pollfd p = {.fd = fd, .events = POLLIN};
        WANT(fd < 0 || poll(&p, 1, 0) == 0);
    }
    // Nobody leaves before all have looked.
    WANT_OK(b->barrier(b, NULL));
    return 0;
}
