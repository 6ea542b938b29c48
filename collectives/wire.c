// SPDX-License-Identifier: Apache-2.0
#include "collectives/wire.h"

#include "base/clock.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WIRE_TURN_MS = 1000 };

static enum status gone(const struct wire *w, struct error *err)
{
    return status_fail(
        err, STATUS_PEER_GONE, "rank %u ended while ranks were meeting", (unsigned)w->peer);
}

// Waits until the socket is ready for `events`. A peer that has died may have left bytes behind:
// they are still delivered, because the socket is looked at first.
static enum status ready(const struct wire *w, short events, struct error *err)
{
    for (;;) {
        uint64_t now = clock_now_us();
        if (now >= w->deadline_us)
            return status_fail(err, STATUS_TIMEOUT,
                "rank %u did not answer while ranks were meeting; all ranks must take part",
                (unsigned)w->peer);
        uint64_t left_ms = (w->deadline_us - now) / 1000 + 1;
        struct pollfd p[2] = {{.fd = w->fd, .events = events}, {.fd = w->pidfd, .events = POLLIN}};
        int rc = poll(p, 2, left_ms < WIRE_TURN_MS ? (int)left_ms : WIRE_TURN_MS);
        if (rc < 0 && errno != EINTR)
            return status_fail(err, STATUS_IO, "poll failed: %s", strerror(errno));
        if (rc > 0 && p[0].revents != 0)
            return STATUS_OK;
        if (rc > 0 && p[1].revents != 0)
            return gone(w, err);
    }
}

union control {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
};

static void attach_fd(struct msghdr *m, union control *c, int fd)
{
    memset(c, 0, sizeof *c);
    m->msg_control = c->room;
    m->msg_controllen = sizeof c->room;
    struct cmsghdr *h = CMSG_FIRSTHDR(m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(h), &fd, sizeof fd);
}

enum status wire_send(const struct wire *w, const void *data, size_t n, int pass, struct error *err)
{
    const char *at = data;
    while (n > 0) {
        struct iovec v = {.iov_base = (void *)(uintptr_t)at, .iov_len = n};
        struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
        union control c;
        if (pass >= 0)
            attach_fd(&m, &c, pass);
        ssize_t rc = sendmsg(w->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (rc > 0) {
            at += rc;
            n -= (size_t)rc;
            pass = -1;
        } else if (rc < 0 && errno == EAGAIN) {
            TRY(ready(w, POLLOUT, err));
        } else if (rc < 0 && (errno == EPIPE || errno == ECONNRESET)) {
            return gone(w, err);
        } else if (rc < 0 && errno != EINTR) {
            return status_fail(err, STATUS_IO, "sending to rank %u failed: %s", (unsigned)w->peer,
                strerror(errno));
        }
    }
    return STATUS_OK;
}

// Takes the descriptor out of a received message; a second one, or one that nobody expects, is
// closed at once.
static void take_fd(struct msghdr *m, int *passed)
{
    for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h != NULL; h = CMSG_NXTHDR(m, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        int fd;
        memcpy(&fd, CMSG_DATA(h), sizeof fd);
        if (passed != NULL && *passed < 0)
            *passed = fd;
        else
            close(fd);
    }
}

enum status wire_receive(const struct wire *w, void *data, size_t n, int *passed, struct error *err)
{
    char *at = data;
    int fd = -1;
    enum status s = STATUS_OK;
    while (n > 0 && s == STATUS_OK) {
        struct iovec v = {.iov_base = at, .iov_len = n};
        union control c;
        struct msghdr m = {
            .msg_iov = &v, .msg_iovlen = 1, .msg_control = c.room, .msg_controllen = sizeof c.room};
        ssize_t rc = recvmsg(w->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (rc > 0) {
            take_fd(&m, passed != NULL ? &fd : NULL);
            at += rc;
            n -= (size_t)rc;
        } else if (rc == 0 || errno == ECONNRESET) {
            s = gone(w, err);
        } else if (errno == EAGAIN) {
            s = ready(w, POLLIN, err);
        } else if (errno != EINTR) {
            s = status_fail(err, STATUS_IO, "receiving from rank %u failed: %s", (unsigned)w->peer,
                strerror(errno));
        }
    }
    if (s != STATUS_OK && fd >= 0)
        close(fd);
    else if (passed != NULL)
        *passed = fd;
    return s;
}
