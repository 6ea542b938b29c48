// SPDX-License-Identifier: Apache-2.0
// How the sockets of a star come to be where ranks start apart: the hub listens, others connect.
#include "base/clock.h"
#include "collectives/star.h"
#include "collectives/wire.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// What a rank says when it connects to the hub's listening socket; checked by the hub.
struct hello {
    uint32_t magic, rank, size, reserved;
};

enum { HELLO_MAGIC = 0x4f4c4548, HELLO_MS = 2000 };

// Who may connect: this user, and root.
static bool same_user(int fd)
{
    struct ucred who;
    socklen_t n = sizeof who;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) != 0)
        return false;
    return who.uid == geteuid() || who.uid == 0;
}

// Reads the hello of a fresh connection and files it under its rank. A stranger is hung up on and
// does not count; a member that was told another size ends the meeting.
static enum status greet(int fd, uint32_t size, int *fds, uint32_t *n_here, struct error *err)
{
    struct hello h;
    struct wire w = {.fd = fd, .pidfd = -1, .deadline_us = clock_now_us() + HELLO_MS * 1000};
    if (!same_user(fd) || wire_receive(&w, &h, sizeof h, NULL, NULL) != STATUS_OK ||
        h.magic != HELLO_MAGIC) {
        close(fd);
        return STATUS_OK;
    }
    if (h.size != size || h.rank == 0 || h.rank >= size || fds[h.rank] >= 0) {
        close(fd);
        return status_fail(err, STATUS_MISMATCH,
            "a member came as rank %u of %u, but rank 0 expects %u different ranks",
            (unsigned)h.rank, (unsigned)h.size, (unsigned)size);
    }
    fds[h.rank] = fd;
    ++*n_here;
    return STATUS_OK;
}

static uint32_t first_missing(const int *fds, uint32_t size)
{
    uint32_t r = 1;
    while (r < size && fds[r] >= 0)
        r++;
    return r;
}

static enum status accept_all(
    int listener, uint32_t size, uint64_t deadline_us, int *fds, struct error *err)
{
    uint32_t n_here = 1;
    while (n_here < size) {
        uint64_t now = clock_now_us();
        if (now >= deadline_us)
            return status_fail(err, STATUS_TIMEOUT, "only %u of %u ranks came; rank %u is missing",
                (unsigned)n_here, (unsigned)size, (unsigned)first_missing(fds, size));
        struct pollfd p = {.fd = listener, .events = POLLIN};
        if (poll(&p, 1, 100) <= 0)
            continue;
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            TRY(greet(fd, size, fds, &n_here, err));
        else if (errno != EINTR && errno != ECONNABORTED && errno != EAGAIN)
            return status_fail(err, STATUS_IO, "accept failed: %s", strerror(errno));
    }
    return STATUS_OK;
}

enum status star_accept(
    int listener, uint32_t size, uint32_t timeout_ms, struct bootstrap **out, struct error *err)
{
    int fds[COLL_RANKS_MAX];
    memset(fds, -1, sizeof fds);
    enum status st =
        accept_all(listener, size, clock_now_us() + (uint64_t)timeout_ms * 1000, fds, err);
    if (st == STATUS_OK)
        return star_make(0, size, fds, timeout_ms, out, err);
    for (uint32_t r = 1; r < size; r++)
        if (fds[r] >= 0)
            close(fds[r]);
    return st;
}

enum status star_join(int fd, uint32_t rank, uint32_t size, uint32_t timeout_ms,
    struct bootstrap **out, struct error *err)
{
    struct hello h = {.magic = HELLO_MAGIC, .rank = rank, .size = size};
    struct wire w = {
        .fd = fd, .pidfd = -1, .deadline_us = clock_now_us() + (uint64_t)timeout_ms * 1000};
    enum status st = STATUS_OK;
    if (!same_user(fd))
        st = status_fail(err, STATUS_DENIED, "the socket of rank 0 belongs to another user");
    if (st == STATUS_OK)
        st = wire_send(&w, &h, sizeof h, -1, err);
    if (st != STATUS_OK) {
        close(fd);
        return st;
    }
    return star_make(rank, size, &fd, timeout_ms, out, err);
}
