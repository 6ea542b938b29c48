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

enum { HELLO_MAGIC = 0x4f4c4548 };

// Connections of which it is not known yet whose they are wait for their hello beside each other:
// a stranger keeps nobody waiting, and a member on a busy machine may take its time.
struct meeting {
    uint32_t size, n_here;
    int *fds; // [size]: of the ranks that are here
    uint32_t n_silent;
    int silent[COLL_RANKS_MAX]; // oldest first
};

// Who may connect: this user, and root.
static bool same_user(int fd)
{
    struct ucred who;
    socklen_t n = sizeof who;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) != 0)
        return false;
    return who.uid == geteuid() || who.uid == 0;
}

static void drop_silent(struct meeting *m, uint32_t i)
{
    m->n_silent--;
    memmove(m->silent + i, m->silent + i + 1, (m->n_silent - i) * sizeof *m->silent);
}

static void welcome(struct meeting *m, int fd)
{
    if (!same_user(fd)) {
        close(fd);
        return;
    }
    if (m->n_silent == COLL_RANKS_MAX) {
        close(m->silent[0]);
        drop_silent(m, 0);
    }
    m->silent[m->n_silent++] = fd;
}

// Reads the hello of a connection that has said something, and files it under its rank. A stranger
// is hung up on and does not count; a member that was told another size ends the meeting. Members
// send their hello in one piece.
static enum status greet(struct meeting *m, uint32_t i, struct error *err)
{
    struct hello h;
    int fd = m->silent[i];
    ssize_t n = recv(fd, &h, sizeof h, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return STATUS_OK;
    drop_silent(m, i);
    if (n != (ssize_t)sizeof h || h.magic != HELLO_MAGIC) {
        close(fd);
        return STATUS_OK;
    }
    if (h.size != m->size || h.rank == 0 || h.rank >= m->size || m->fds[h.rank] >= 0) {
        close(fd);
        return status_fail(err, STATUS_MISMATCH,
            "a member came as rank %u of %u, but rank 0 expects %u different ranks",
            (unsigned)h.rank, (unsigned)h.size, (unsigned)m->size);
    }
    m->fds[h.rank] = fd;
    m->n_here++;
    return STATUS_OK;
}

static uint32_t first_missing(const struct meeting *m)
{
    uint32_t r = 1;
    while (r < m->size && m->fds[r] >= 0)
        r++;
    return r;
}

// Waits for the next thing to happen, at most a while.
static enum status meet_turn(struct meeting *m, int listener, struct error *err)
{
    struct pollfd p[1 + COLL_RANKS_MAX] = {{.fd = listener, .events = POLLIN}};
    for (uint32_t i = 0; i < m->n_silent; i++)
        p[1 + i] = (struct pollfd){.fd = m->silent[i], .events = POLLIN};
    if (poll(p, 1 + m->n_silent, 100) <= 0)
        return STATUS_OK;
    for (uint32_t i = m->n_silent; i-- > 0;) // from the end, which greet() moves up
        if (p[1 + i].revents)
            TRY(greet(m, i, err));
    if (!p[0].revents)
        return STATUS_OK;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0)
        welcome(m, fd);
    else if (errno != EINTR && errno != ECONNABORTED && errno != EAGAIN)
        return status_fail(err, STATUS_IO, "accept failed: %s", strerror(errno));
    return STATUS_OK;
}

static enum status accept_all(
    struct meeting *m, int listener, uint64_t deadline_us, struct error *err)
{
    while (m->n_here < m->size) {
        if (clock_now_us() >= deadline_us)
            return status_fail(err, STATUS_TIMEOUT, "only %u of %u ranks came; rank %u is missing",
                (unsigned)m->n_here, (unsigned)m->size, (unsigned)first_missing(m));
        TRY(meet_turn(m, listener, err));
    }
    return STATUS_OK;
}

enum status star_accept(
    int listener, uint32_t size, uint32_t timeout_ms, struct bootstrap **out, struct error *err)
{
    int fds[COLL_RANKS_MAX];
    memset(fds, -1, sizeof fds);
    struct meeting m = {.size = size, .n_here = 1, .fds = fds};
    enum status st = accept_all(&m, listener, clock_now_us() + (uint64_t)timeout_ms * 1000, err);
    for (uint32_t i = 0; i < m.n_silent; i++)
        close(m.silent[i]);
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
