// SPDX-License-Identifier: Apache-2.0
// Ranks learn the name of rank 0's socket through MPI; from then on they talk through sockets, so
// that descriptors can travel and nothing depends on MPI's progress. The name is abstract: it
// leaves no file behind. It is random, and the hub lets only this user in.
#include "collectives/bootstrap.h"

#include "collectives/star.h"

#include <errno.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { NAME_BYTES = 64 };

static struct sockaddr_un address(const char *name, socklen_t *n)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t used = strnlen(name, NAME_BYTES);
    memcpy(a.sun_path + 1, name, used);
    *n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + used);
    return a;
}

// Opens the hub's socket and writes its name; an empty name tells the others that it failed.
static enum status open_hub(int *out, char name[NAME_BYTES], struct error *err)
{
    uint64_t r[2];
    if (getrandom(r, sizeof r, 0) != (ssize_t)sizeof r)
        return status_fail(err, STATUS_IO, "no random numbers: %s", strerror(errno));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return status_fail(err, STATUS_IO, "socket failed: %s", strerror(errno));
    char text[NAME_BYTES] = {0};
    (void)snprintf(text, sizeof text, "phalanx-%016llx%016llx", (unsigned long long)r[0],
        (unsigned long long)r[1]);
    socklen_t n;
    struct sockaddr_un a = address(text, &n);
    if (bind(fd, (struct sockaddr *)&a, n) != 0 || listen(fd, COLL_RANKS_MAX) != 0) {
        close(fd);
        return status_fail(err, STATUS_IO, "cannot listen: %s", strerror(errno));
    }
    memcpy(name, text, sizeof text);
    *out = fd;
    return STATUS_OK;
}

static enum status join(
    const char *name, uint32_t rank, uint32_t size, struct bootstrap **out, struct error *err)
{
    if (name[0] == '\0')
        return status_fail(err, STATUS_IO, "rank 0 could not open its socket");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return status_fail(err, STATUS_IO, "socket failed: %s", strerror(errno));
    socklen_t n;
    struct sockaddr_un a = address(name, &n);
    if (connect(fd, (struct sockaddr *)&a, n) != 0) {
        close(fd);
        return status_fail(err, STATUS_IO,
            "cannot reach rank 0: %s; all ranks must share one host and network namespace",
            strerror(errno));
    }
    return star_join(fd, rank, size, STAR_TIMEOUT_MS, out, err);
}

// Whether all ranks see the same memory; collective, so that all of them refuse alike.
static bool one_host(int size)
{
    MPI_Comm host;
    int n = 0, least = 0;
    if (MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host) !=
        MPI_SUCCESS)
        return false;
    MPI_Comm_size(host, &n);
    MPI_Comm_free(&host);
    MPI_Allreduce(&n, &least, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    return least == size;
}

enum status bootstrap_mpi(struct bootstrap **out, struct error *err)
{
    int rank = 0, size = 0, ready = 0;
    if (MPI_Initialized(&ready) != MPI_SUCCESS || !ready)
        return status_fail(err, STATUS_INVALID, "MPI_Init has not been called");
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size > COLL_RANKS_MAX)
        return status_fail(err, STATUS_TOO_LARGE, "%d ranks were started, at most %d can meet",
            size, COLL_RANKS_MAX);
    if (!one_host(size))
        return status_fail(err, STATUS_UNSUPPORTED,
            "the %d ranks run on several hosts; groups need one host", size);
    char name[NAME_BYTES] = {0};
    int listener = -1;
    enum status st = rank == 0 ? open_hub(&listener, name, err) : STATUS_OK;
    if (MPI_Bcast(name, NAME_BYTES, MPI_CHAR, 0, MPI_COMM_WORLD) != MPI_SUCCESS)
        st = status_fail(err, STATUS_IO, "MPI_Bcast failed");
    if (st == STATUS_OK)
        st = rank == 0 ? star_accept(listener, (uint32_t)size, STAR_TIMEOUT_MS, out, err)
                       : join(name, (uint32_t)rank, (uint32_t)size, out, err);
    if (listener >= 0)
        close(listener);
    return st;
}
