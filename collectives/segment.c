// SPDX-License-Identifier: Apache-2.0
#include "collectives/segment.h"

#include "base/check.h"
#include "base/clock.h"
#include "collectives/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { YIELD_US = 1500, SLEEP_MIN_US = 50, SLEEP_MAX_US = 1000 };

// What each rank tells the others before there is memory.
struct card {
    struct identity identity;
    uint64_t fingerprint;
    uint64_t bytes;
    uint64_t status;
};

static size_t page_round(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (n + page - 1) / page * page;
}

static size_t head_bytes(void)
{
    return page_round(sizeof(struct segment_head));
}

// All ranks see the same cards in the same order and so come to the same verdict.
static enum status compare_cards(const struct card *all, uint32_t size, struct error *err)
{
    for (uint32_t r = 0; r < size; r++)
        if (all[r].status != STATUS_OK)
            return status_fail(err,
                all[r].status < STATUS_COUNT ? (enum status)all[r].status : STATUS_INVALID,
                "rank %u could not take part: %s", (unsigned)r,
                status_text((enum status)all[r].status));
    for (uint32_t r = 1; r < size; r++)
        if (all[r].fingerprint != all[0].fingerprint || all[r].bytes != all[0].bytes)
            return status_fail(err, STATUS_MISMATCH,
                "rank %u asks for other sizes or settings than rank 0; they must be equal",
                (unsigned)r);
    return STATUS_OK;
}

// Maps head and body, and the last mirror_bytes of the body again right behind them.
static enum status map(
    struct segment *s, int fd, size_t file_bytes, size_t mirror_bytes, struct error *err)
{
    size_t all = file_bytes + mirror_bytes;
    uint8_t *at = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return status_fail(err, STATUS_NO_MEMORY, "no address space for %zu bytes", all);
    int rw = PROT_READ | PROT_WRITE, fixed = MAP_SHARED | MAP_FIXED;
    if (mmap(at, file_bytes, rw, fixed, fd, 0) == MAP_FAILED ||
        (mirror_bytes > 0 && mmap(at + file_bytes, mirror_bytes, rw, fixed, fd,
                                 (off_t)(file_bytes - mirror_bytes)) == MAP_FAILED)) {
        int why = errno;
        munmap(at, all);
        return status_fail(
            err, STATUS_NO_MEMORY, "cannot map %zu bytes of shared memory: %s", all, strerror(why));
    }
    s->head = (struct segment_head *)(void *)at;
    s->map_bytes = all;
    return STATUS_OK;
}

static enum status make_memfd(
    const struct segment_args *a, size_t file_bytes, int *out, struct error *err)
{
    int fd = memfd_create(a->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return status_fail(err, STATUS_IO, "memfd_create failed: %s", strerror(errno));
    // Sealed, so that no member can shrink it under another, who would get SIGBUS.
    if (ftruncate(fd, (off_t)file_bytes) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        int why = errno;
        close(fd);
        return status_fail(err, STATUS_NO_MEMORY, "cannot make %zu bytes of shared memory: %s",
            file_bytes, strerror(why));
    }
    *out = fd;
    return STATUS_OK;
}

static enum status open_root(struct segment *s, const struct segment_args *a,
    const struct card *cards, size_t file_bytes, int *fd, struct error *err)
{
    TRY(make_memfd(a, file_bytes, fd, err));
    enum status st = map(s, *fd, file_bytes, a->mirror_bytes, err);
    if (st != STATUS_OK) {
        close(*fd);
        *fd = -1;
        return st;
    }
    uint32_t users = 0;
    for (uint32_t r = 0; r < s->size; r++)
        users += identity_same(cards[r].identity, cards[0].identity);
    s->head->bytes = file_bytes;
    atomic_store(&s->head->users, users);
    return STATUS_OK;
}

static void unmap(struct segment *s)
{
    bool shared = s->borrowed || s->rank == 0;
    if (!shared || atomic_fetch_sub(&s->head->users, 1) == 1)
        munmap(s->head, s->map_bytes);
    s->head = NULL;
}

// The memory goes from rank 0 to all others. Returns with s->head set, or NULL after a failure.
static enum status spread(struct bootstrap *b, struct segment *s, const struct segment_args *a,
    const struct card *cards, size_t file_bytes, struct error *err)
{
    int fd = -1;
    struct {
        uint64_t status, address;
    } mine = {0}, all[COLL_RANKS_MAX];
    if (s->rank == 0) {
        mine.status = open_root(s, a, cards, file_bytes, &fd, err);
        mine.address = (uint64_t)(uintptr_t)s->head;
    }
    enum status st = b->all_gather(b, &mine, sizeof mine, all, err);
    if (st == STATUS_OK && all[0].status != STATUS_OK)
        st = s->rank == 0 ? (enum status)mine.status
                          : status_fail(err, STATUS_NO_MEMORY, "rank 0 has no shared memory");
    if (st == STATUS_OK && s->size > 1)
        st = b->share_fd(b, 0, &fd, err);
    if (st == STATUS_OK && s->rank != 0) {
        s->borrowed = identity_same(cards[s->rank].identity, cards[0].identity);
        if (s->borrowed) {
            s->head = (struct segment_head *)(uintptr_t)all[0].address;
            s->map_bytes = file_bytes + a->mirror_bytes;
        } else {
            st = map(s, fd, file_bytes, a->mirror_bytes, err);
        }
    }
    if (fd >= 0)
        close(fd);
    return st;
}

// Nobody may use the memory before all have it, and nobody may keep it if one has not.
static enum status agree(
    struct bootstrap *b, struct segment *s, enum status mine, struct error *err)
{
    uint32_t status = mine, all[COLL_RANKS_MAX];
    enum status st = b->all_gather(b, &status, sizeof status, all, mine == STATUS_OK ? err : NULL);
    TRY(mine);
    TRY(st);
    for (uint32_t r = 0; r < s->size; r++)
        if (all[r] != STATUS_OK)
            return status_fail(
                err, STATUS_PEER_GONE, "rank %u could not map the shared memory", (unsigned)r);
    return STATUS_OK;
}

static void take_handles(struct bootstrap *b, struct segment *s)
{
    for (uint32_t r = 0; r < s->size; r++) {
        int fd = r == s->rank ? -1 : b->peer_pidfd(b, r);
        s->pidfd[r] = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    }
}

enum status segment_open(
    struct bootstrap *b, const struct segment_args *args, struct segment *out, struct error *err)
{
    struct segment s = {.rank = b->rank, .size = b->size};
    size_t file_bytes = head_bytes() + page_round(args->body_bytes);
    struct card mine = {.identity = identity_self(),
        .fingerprint = args->fingerprint,
        .bytes = file_bytes + args->mirror_bytes,
        .status = args->status};
    struct card cards[COLL_RANKS_MAX];
    TRY(b->all_gather(b, &mine, sizeof mine, cards, err));
    TRY(compare_cards(cards, s.size, err));
    enum status st = spread(b, &s, args, cards, file_bytes, err);
    st = agree(b, &s, st, err);
    if (st != STATUS_OK) {
        if (s.head != NULL)
            unmap(&s);
        return st;
    }
    s.body = (uint8_t *)s.head + head_bytes();
    take_handles(b, &s);
    *out = s;
    return STATUS_OK;
}

void segment_close(struct segment *s)
{
    if (s->head == NULL)
        return;
    atomic_store_explicit(&s->head->mark[s->rank].left, 1, memory_order_release);
    for (uint32_t r = 0; r < s->size; r++)
        if (s->pidfd[r] >= 0)
            close(s->pidfd[r]);
    unmap(s);
}

void segment_poison(struct segment *s, enum status why, uint32_t culprit)
{
    uint64_t none = 0;
    uint64_t word = (uint64_t)why | (uint64_t)s->rank << 32 | (uint64_t)culprit << 48;
    check(why != STATUS_OK);
    atomic_compare_exchange_strong(&s->head->poison, &none, word);
}

enum status segment_poisoned(const struct segment *s, uint32_t *reporter, uint32_t *culprit)
{
    uint64_t word = atomic_load_explicit(&s->head->poison, memory_order_acquire);
    *reporter = (uint32_t)(word >> 32 & 0xffff);
    *culprit = (uint32_t)(word >> 48);
    uint32_t why = (uint32_t)word;
    return why < STATUS_COUNT ? (enum status)why : STATUS_DEVICE_FAILED;
}

bool segment_peer_gone(const struct segment *s, uint32_t peer)
{
    if (atomic_load_explicit(&s->head->mark[peer].left, memory_order_acquire) != 0)
        return true;
    struct pollfd p = {.fd = s->pidfd[peer], .events = POLLIN};
    return p.fd >= 0 && poll(&p, 1, 0) > 0;
}

// Sleeps, but not beyond the end of the peer's process.
static void sleep_on(const struct segment *s, uint32_t peer, uint64_t us)
{
    struct pollfd p = {.fd = s->pidfd[peer], .events = POLLIN};
    struct timespec ts = {.tv_nsec = (long)us * 1000};
    (void)ppoll(&p, 1, &ts, NULL);
}

enum status segment_wait_turn(struct segment *s, struct segment_wait *w, uint32_t peer)
{
    uint32_t reporter, culprit;
    uint64_t now = clock_now_us();
    if (w->start_us == 0)
        w->start_us = now;
    TRY(segment_poisoned(s, &reporter, &culprit));
    if (w->peer_gone)
        return STATUS_PEER_GONE;
    uint64_t waited = now - w->start_us;
    if (waited >= (uint64_t)w->timeout_ms * 1000)
        return STATUS_TIMEOUT;
    if (waited < YIELD_US) {
        sched_yield();
        return STATUS_OK;
    }
    w->peer_gone = segment_peer_gone(s, peer);
    if (!w->peer_gone) {
        uint64_t us = waited / 16;
        us = us < SLEEP_MIN_US ? SLEEP_MIN_US : us;
        sleep_on(s, peer, us < SLEEP_MAX_US ? us : SLEEP_MAX_US);
    }
    return STATUS_OK;
}
