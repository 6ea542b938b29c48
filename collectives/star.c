// SPDX-License-Identifier: Apache-2.0
#include "collectives/star.h"

#include "base/clock.h"
#include "collectives/identity.h"
#include "collectives/wire.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STAR_MAGIC = 0x52545350 };

enum kind { KIND_GATHER = 1, KIND_FD, KIND_ATTACH, KIND_SPLIT, KIND_FAILED };

struct message {
    uint32_t magic;
    uint32_t kind;
    uint32_t call;   // number of the collective call
    uint32_t status; // KIND_FAILED: what went wrong
    uint64_t bytes;  // that follow, in all
};

struct star {
    struct bootstrap b;
    struct family *family;
    _Atomic int fd[COLL_RANKS_MAX]; // hub: to each rank; others: [0]
    int pidfd[COLL_RANKS_MAX];
    uint32_t timeout_ms;
    uint32_t call;
    bool attached;
    enum status broken; // sticky
};

// Members made together share one allocation, freed with the last of them. In a forked child the
// others' members stay unused; it closes their sockets before it first meets them.
struct family {
    struct identity maker;
    _Atomic uint32_t open; // members and families split off
    uint32_t n;
    struct family *parent; // that it was split off, or NULL; kept until this one is gone
    // Members that are threads order their memory by this: the language knows nothing of the order
    // that sockets give.
    _Atomic uint32_t turns;
    struct star member[];
};

static struct wire wire_to(struct star *s, uint32_t peer, uint64_t deadline_us)
{
    return (struct wire){.fd = atomic_load_explicit(&s->fd[peer], memory_order_relaxed),
        .pidfd = s->pidfd[peer],
        .peer = peer,
        .deadline_us = deadline_us};
}

// Before a member sends what it did, and after it has received what others did.
static void order(struct star *s)
{
    struct family *f = s->family;
    while (f->parent != NULL)
        f = f->parent;
    atomic_fetch_add_explicit(&f->turns, 1, memory_order_acq_rel);
}

static uint64_t deadline(const struct star *s)
{
    return clock_now_us() + (uint64_t)s->timeout_ms * 1000;
}

static void close_fd(_Atomic int *fd)
{
    int old = atomic_exchange(fd, -1);
    if (old >= 0)
        close(old);
}

// Marks this member broken; the hub also tells everyone who still listens, so that nobody waits
// for a deadline.
static enum status fail(struct star *s, enum status why)
{
    if (s->broken == STATUS_OK && s->b.rank == 0) {
        struct message m = {.magic = STAR_MAGIC, .kind = KIND_FAILED, .status = why};
        for (uint32_t r = 1; r < s->b.size; r++) {
            struct wire w = wire_to(s, r, clock_now_us() + 1000);
            (void)wire_send(&w, &m, sizeof m, -1, NULL);
            shutdown(w.fd, SHUT_RDWR);
        }
    } else if (s->broken == STATUS_OK) {
        shutdown(atomic_load(&s->fd[0]), SHUT_RDWR);
    }
    s->broken = why;
    return why;
}

static enum status say(struct star *s, uint32_t peer, enum kind kind, const void *data,
    size_t bytes, int pass, struct error *err)
{
    struct wire w = wire_to(s, peer, deadline(s));
    struct message m = {
        .magic = STAR_MAGIC, .kind = kind, .call = s->call, .bytes = (uint64_t)bytes};
    TRY(wire_send(&w, &m, sizeof m, pass, err));
    return bytes > 0 ? wire_send(&w, data, bytes, -1, err) : STATUS_OK;
}

static enum status hear(struct star *s, uint32_t peer, enum kind kind, void *data, size_t bytes,
    int *passed, struct error *err)
{
    struct wire w = wire_to(s, peer, deadline(s));
    struct message m;
    TRY(wire_receive(&w, &m, sizeof m, passed, err));
    enum status st = STATUS_OK;
    if (m.magic != STAR_MAGIC)
        st = status_fail(err, STATUS_MISMATCH, "rank %u speaks another protocol", (unsigned)peer);
    else if (m.kind == KIND_FAILED && m.status < STATUS_COUNT && m.status != STATUS_OK)
        st = status_fail(err, (enum status)m.status,
            "rank 0 reports that the meeting of ranks failed: %s",
            status_text((enum status)m.status));
    else if (m.kind != (uint32_t)kind || m.call != s->call || m.bytes != bytes)
        st = status_fail(err, STATUS_MISMATCH,
            "rank %u made another call (kind %u, %llu bytes) than rank %u (kind %u, %zu bytes)",
            (unsigned)peer, (unsigned)m.kind, (unsigned long long)m.bytes, (unsigned)s->b.rank,
            (unsigned)kind, bytes);
    else if (bytes > 0)
        st = wire_receive(&w, data, bytes, NULL, err);
    if (st != STATUS_OK && passed != NULL && *passed >= 0) {
        close(*passed);
        *passed = -1;
    }
    return st;
}

static enum status gather_hub(
    struct star *s, const void *mine, size_t bytes, void *out, struct error *err)
{
    char *at = out;
    if (bytes > 0)
        memmove(at, mine, bytes);
    for (uint32_t r = 1; r < s->b.size; r++)
        TRY(hear(s, r, KIND_GATHER, at + r * bytes, bytes, NULL, err));
    for (uint32_t r = 1; r < s->b.size; r++)
        TRY(say(s, r, KIND_GATHER, out, s->b.size * bytes, -1, err));
    return STATUS_OK;
}

static enum status gather_leaf(
    struct star *s, const void *mine, size_t bytes, void *out, struct error *err)
{
    TRY(say(s, 0, KIND_GATHER, mine, bytes, -1, err));
    return hear(s, 0, KIND_GATHER, out, s->b.size * bytes, NULL, err);
}

// What each rank says about itself; its pidfd travels along.
static enum status attach_hub(struct star *s, struct identity *all, struct error *err)
{
    int pidfd[COLL_RANKS_MAX];
    for (uint32_t r = 1; r < s->b.size; r++) {
        TRY(hear(s, r, KIND_ATTACH, &all[r], sizeof all[r], &pidfd[r], err));
        s->pidfd[r] = pidfd[r]; // watched from here on, closed with the star
    }
    int self = identity_pidfd();
    enum status st = STATUS_OK;
    for (uint32_t r = 1; r < s->b.size; r++)
        for (uint32_t q = 0; q < s->b.size && st == STATUS_OK; q++)
            if (q != r)
                st = say(s, r, KIND_ATTACH, &all[q], sizeof all[q], q == 0 ? self : pidfd[q], err);
    if (self >= 0)
        close(self);
    return st;
}

static enum status attach_leaf(struct star *s, struct identity *all, struct error *err)
{
    int self = identity_pidfd();
    enum status st = say(s, 0, KIND_ATTACH, &all[s->b.rank], sizeof all[0], self, err);
    if (self >= 0)
        close(self);
    for (uint32_t q = 0; q < s->b.size && st == STATUS_OK; q++)
        if (q != s->b.rank)
            st = hear(s, 0, KIND_ATTACH, &all[q], sizeof all[q], &s->pidfd[q], err);
    return st;
}

// Copies of another process's ends would hide its death from its peers.
static void close_ends(struct star *s, uint32_t q)
{
    for (uint32_t i = 0; i < s->b.size && q != s->b.rank; i++)
        close_fd(&s->family->member[q].fd[i]);
}

// The first call of a member: only now is it known in which process it lives.
static enum status attach(struct star *s, struct error *err)
{
    struct identity all[COLL_RANKS_MAX];
    all[s->b.rank] = identity_self();
    if (s->family->n == s->b.size && !identity_same(all[s->b.rank], s->family->maker))
        for (uint32_t q = 0; q < s->b.size; q++)
            close_ends(s, q);
    TRY(s->b.rank == 0 ? attach_hub(s, all, err) : attach_leaf(s, all, err));
    for (uint32_t q = 0; q < s->b.size; q++) {
        bool here = identity_same(all[q], all[s->b.rank]);
        if (here && s->pidfd[q] >= 0) {
            close(s->pidfd[q]);
            s->pidfd[q] = -1;
        }
        if (!here && s->family->n == s->b.size)
            close_ends(s, q);
    }
    s->attached = true;
    return STATUS_OK;
}

static enum status begin(struct star *s, struct error *err)
{
    if (s->broken != STATUS_OK)
        return status_fail(
            err, s->broken, "an earlier meeting of these ranks failed: %s", status_text(s->broken));
    if (!s->attached) {
        enum status st = attach(s, err);
        if (st != STATUS_OK)
            return fail(s, st);
    }
    s->call++;
    order(s);
    return STATUS_OK;
}

static enum status end(struct star *s, enum status st)
{
    order(s);
    return st == STATUS_OK ? STATUS_OK : fail(s, st);
}

static enum status star_all_gather(
    struct bootstrap *b, const void *mine, size_t bytes, void *out, struct error *err)
{
    struct star *s = b->state;
    TRY(begin(s, err));
    enum status st =
        b->rank == 0 ? gather_hub(s, mine, bytes, out, err) : gather_leaf(s, mine, bytes, out, err);
    return st == STATUS_OK ? STATUS_OK : fail(s, st);
}

static enum status star_barrier(struct bootstrap *b, struct error *err)
{
    return star_all_gather(b, NULL, 0, NULL, err);
}

static enum status share_hub(struct star *s, uint32_t root, int *fd, struct error *err)
{
    if (root != 0) {
        int got = -1;
        TRY(hear(s, root, KIND_FD, NULL, 0, &got, err));
        if (got < 0)
            return status_fail(err, STATUS_IO, "rank %u sent no descriptor", (unsigned)root);
        *fd = got;
    }
    for (uint32_t r = 1; r < s->b.size; r++)
        if (r != root)
            TRY(say(s, r, KIND_FD, NULL, 0, *fd, err));
    return STATUS_OK;
}

static enum status share_leaf(struct star *s, uint32_t root, int *fd, struct error *err)
{
    if (s->b.rank == root)
        return say(s, 0, KIND_FD, NULL, 0, *fd, err);
    int got = -1;
    TRY(hear(s, 0, KIND_FD, NULL, 0, &got, err));
    if (got < 0)
        return status_fail(err, STATUS_IO, "rank %u sent no descriptor", (unsigned)root);
    *fd = got;
    return STATUS_OK;
}

static enum status star_share_fd(struct bootstrap *b, uint32_t root, int *fd, struct error *err)
{
    struct star *s = b->state;
    if (root >= b->size)
        return status_fail(err, STATUS_INVALID, "rank %u of %u has no descriptor to share",
            (unsigned)root, (unsigned)b->size);
    TRY(begin(s, err));
    int got = b->rank == root ? *fd : -1;
    enum status st = b->rank == 0 ? share_hub(s, root, &got, err) : share_leaf(s, root, &got, err);
    if (st == STATUS_OK)
        *fd = got;
    else if (b->rank != root && got >= 0)
        close(got);
    return end(s, st);
}

static int star_peer_pidfd(struct bootstrap *b, uint32_t peer)
{
    struct star *s = b->state;
    return peer < b->size ? s->pidfd[peer] : -1;
}

static enum status make(struct family *parent, uint32_t rank, uint32_t size, const int *fds,
    uint32_t timeout_ms, struct bootstrap **out, struct error *err);

// The hub makes the sockets of every new star and hands both ends out. Its own ends go into
// `mine`, which is indexed by rank in the new star.
static enum status split_pair(
    struct star *s, uint32_t leader, uint32_t member, int *mine, struct error *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return status_fail(err, STATUS_IO, "socketpair failed: %s", strerror(errno));
    enum status st = STATUS_OK;
    if (leader == 0) {
        *mine = pair[0];
    } else {
        st = say(s, leader, KIND_SPLIT, NULL, 0, pair[0], err);
        close(pair[0]);
    }
    if (st == STATUS_OK)
        st = say(s, member, KIND_SPLIT, NULL, 0, pair[1], err);
    close(pair[1]);
    return st;
}

static enum status split_hub(struct star *s, const uint32_t *colour, int *mine, struct error *err)
{
    uint32_t position[COLL_RANKS_MAX] = {0};
    for (uint32_t m = 1; m < s->b.size; m++) {
        uint32_t leader = 0;
        while (colour[leader] != colour[m])
            leader++;
        if (leader == m)
            continue;
        uint32_t at = ++position[leader];
        TRY(split_pair(s, leader, m, leader == 0 ? &mine[at] : NULL, err));
    }
    return STATUS_OK;
}

static enum status split_leaf(
    struct star *s, uint32_t rank, uint32_t size, int *mine, struct error *err)
{
    uint32_t first = rank == 0 ? 1 : 0, end = rank == 0 ? size : 1;
    for (uint32_t i = first; i < end; i++) {
        TRY(hear(s, 0, KIND_SPLIT, NULL, 0, &mine[i], err));
        if (mine[i] < 0)
            return status_fail(err, STATUS_IO, "rank 0 sent no socket");
    }
    return STATUS_OK;
}

static enum status star_split(
    struct bootstrap *b, uint32_t colour, struct bootstrap **out, struct error *err)
{
    struct star *s = b->state;
    uint32_t colours[COLL_RANKS_MAX];
    TRY(star_all_gather(b, &colour, sizeof colour, colours, err));
    TRY(begin(s, err));
    uint32_t rank = 0, size = 0;
    for (uint32_t r = 0; r < b->size; r++) {
        rank += r < b->rank && colours[r] == colour;
        size += colours[r] == colour;
    }
    int mine[COLL_RANKS_MAX];
    memset(mine, -1, sizeof mine);
    enum status st =
        b->rank == 0 ? split_hub(s, colours, mine, err) : split_leaf(s, rank, size, mine, err);
    if (end(s, st) == STATUS_OK)
        return make(s->family, rank, size, mine, s->timeout_ms, out, err);
    for (uint32_t i = 0; i < COLL_RANKS_MAX; i++)
        if (mine[i] >= 0)
            close(mine[i]);
    return st;
}

static void star_close(struct bootstrap *b)
{
    struct star *s = b->state;
    for (uint32_t i = 0; i < COLL_RANKS_MAX; i++) {
        close_fd(&s->fd[i]);
        if (s->pidfd[i] >= 0)
            close(s->pidfd[i]);
    }
    for (struct family *f = s->family; f != NULL;) {
        struct family *parent = f->parent;
        if (atomic_fetch_sub(&f->open, 1) != 1)
            break;
        free(f);
        f = parent;
    }
}

static struct family *family_make(uint32_t n, uint32_t size, uint32_t timeout_ms)
{
    struct family *f = calloc(1, sizeof *f + n * sizeof f->member[0]);
    if (f == NULL)
        return NULL;
    atomic_store(&f->open, n);
    f->n = n;
    f->maker = identity_self();
    for (uint32_t i = 0; i < n; i++) {
        struct star *s = &f->member[i];
        *s = (struct star){.b = {.rank = i,
                               .size = size,
                               .state = s,
                               .all_gather = star_all_gather,
                               .barrier = star_barrier,
                               .share_fd = star_share_fd,
                               .peer_pidfd = star_peer_pidfd,
                               .split = star_split,
                               .close = star_close},
            .family = f,
            .timeout_ms = timeout_ms};
        for (uint32_t r = 0; r < COLL_RANKS_MAX; r++) {
            atomic_store(&s->fd[r], -1);
            s->pidfd[r] = -1;
        }
    }
    return f;
}

static void close_all(const int *fds, uint32_t rank, uint32_t size)
{
    for (uint32_t r = rank == 0 ? 1 : 0; r < (rank == 0 ? size : 1); r++)
        if (fds[r] >= 0)
            close(fds[r]);
}

static enum status make(struct family *parent, uint32_t rank, uint32_t size, const int *fds,
    uint32_t timeout_ms, struct bootstrap **out, struct error *err)
{
    struct family *f = NULL;
    if (size > 0 && size <= COLL_RANKS_MAX && rank < size)
        f = family_make(1, size, timeout_ms);
    if (f == NULL) {
        close_all(fds, rank, size <= COLL_RANKS_MAX ? size : 0);
        return status_fail(err, STATUS_INVALID, "rank %u of %u cannot be: at most %d ranks",
            (unsigned)rank, (unsigned)size, COLL_RANKS_MAX);
    }
    if (parent != NULL)
        atomic_fetch_add(&parent->open, 1);
    f->parent = parent;
    f->member[0].b.rank = rank;
    for (uint32_t r = rank == 0 ? 1 : 0; r < (rank == 0 ? size : 1); r++)
        atomic_store(&f->member[0].fd[r], fds[r]);
    *out = &f->member[0].b;
    return STATUS_OK;
}

enum status star_make(uint32_t rank, uint32_t size, const int *fds, uint32_t timeout_ms,
    struct bootstrap **out, struct error *err)
{
    return make(NULL, rank, size, fds, timeout_ms, out, err);
}

enum status star_make_all(uint32_t size, struct bootstrap **members, struct error *err)
{
    if (size == 0 || size > COLL_RANKS_MAX)
        return status_fail(err, STATUS_INVALID, "%u ranks asked for, 1 to %d can meet",
            (unsigned)size, COLL_RANKS_MAX);
    struct family *f = family_make(size, size, STAR_TIMEOUT_MS);
    if (f == NULL)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for %u members", (unsigned)size);
    enum status st = STATUS_OK;
    for (uint32_t r = 1; r < size && st == STATUS_OK; r++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
            st = status_fail(err, STATUS_IO, "socketpair failed: %s", strerror(errno));
            break;
        }
        atomic_store(&f->member[0].fd[r], pair[0]);
        atomic_store(&f->member[r].fd[0], pair[1]);
    }
    for (uint32_t r = 0; r < size; r++) {
        if (st == STATUS_OK)
            members[r] = &f->member[r].b;
        else
            star_close(&f->member[r].b);
    }
    return st;
}
