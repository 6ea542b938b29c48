// SPDX-License-Identifier: Apache-2.0
// How memory is shared is agreed upon: each way is tried on all members, with a write and a read
// across every pair (that devices can reach each other is sometimes claimed and not so), until one
// works for all of them. Where the caller allows sums in another order (coll_args.native) and all
// devices can, the members' memory gets one more address, at which a switch sums and spreads; where
// they cannot, coll_explain says why and two_shot serves instead.
#include "collectives/backend_cuda.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *const way_names[COLL_PEERS_WAYS] = {"by file descriptor", "by cudaIpc"};

enum status backend_cuda_share_agree(
    struct coll_group *g, struct bootstrap *b, enum status mine, struct error *err)
{
    uint32_t word = (uint32_t)mine, all[COLL_RANKS_MAX];
    enum status met = b->all_gather(b, &word, sizeof word, all, mine == STATUS_OK ? err : NULL);
    if (mine != STATUS_OK)
        return mine;
    TRY(met);
    for (uint32_t r = 0; r < g->size; r++)
        if (all[r] != STATUS_OK)
            return status_fail(err, all[r] < STATUS_COUNT ? (enum status)all[r] : STATUS_INVALID,
                "rank %u could not share its device's memory", (unsigned)r);
    return STATUS_OK;
}

static enum status take_and_export(
    struct coll_group *g, enum coll_peers_way way, int *fd, uint8_t *handle, struct error *err)
{
    struct cuda_state *s = cuda_state_of(g);
    struct coll_peer_memory *own = &s->memory[g->rank];
    TRY(s->peers->take(s->context, way, s->bytes, own, err));
    return s->peers->export_memory(s->context, own, fd, handle, err);
}

// Every member hands out its memory in turn; a failure to map is kept until all have.
static enum status import_fds(struct coll_group *g, struct bootstrap *b, int own, struct error *err)
{
    struct cuda_state *s = cuda_state_of(g);
    enum status first = STATUS_OK;
    for (uint32_t r = 0; r < g->size; r++) {
        int fd = r == g->rank ? own : -1;
        TRY(b->share_fd(b, r, &fd, err));
        if (r == g->rank)
            continue;
        if (first == STATUS_OK)
            first = s->peers->import_memory(
                s->context, COLL_PEERS_FD, s->memory[g->rank].bytes, fd, NULL, &s->memory[r], err);
        close(fd);
    }
    return first;
}

static enum status import_handles(
    struct coll_group *g, struct bootstrap *b, const uint8_t *own, struct error *err)
{
    struct cuda_state *s = cuda_state_of(g);
    uint8_t all[COLL_DEVICE_RANKS_MAX * COLL_PEERS_HANDLE_BYTES];
    enum status first = STATUS_OK;
    TRY(b->all_gather(b, own, COLL_PEERS_HANDLE_BYTES, all, err));
    for (uint32_t r = 0; r < g->size && first == STATUS_OK; r++)
        if (r != g->rank)
            first = s->peers->import_memory(s->context, COLL_PEERS_IPC, s->memory[g->rank].bytes,
                -1, all + r * COLL_PEERS_HANDLE_BYTES, &s->memory[r], err);
    return first;
}

// Copies between host and device, and waits.
static enum status move_words(struct coll_group *g, void *to, const void *from, size_t bytes)
{
    const struct coll_device *d = g->main->device;
    TRY(d->copy(d->context, to, from, bytes, NULL));
    enum status s;
    while ((s = d->query(d->context, NULL)) == STATUS_AGAIN)
        sched_yield();
    return s;
}

static uint32_t probe_word(uint32_t from, uint32_t to)
{
    return 0x50480000u + from * 256 + to;
}

// Every member writes to all others and looks at what they have written.
static enum status try_pairs(struct coll_group *g, struct bootstrap *b, struct error *err)
{
    uint32_t seen[COLL_DEVICE_RANKS_MAX] = {0}, mine[COLL_DEVICE_RANKS_MAX], back = 0;
    enum status s = STATUS_OK;
    for (uint32_t r = 0; r < g->size && s == STATUS_OK; r++) {
        mine[r] = probe_word(g->rank, r);
        s = move_words(g, cuda_words_of(g, r) + g->rank, &mine[r], sizeof mine[r]);
    }
    TRY(b->barrier(b, err));
    if (s == STATUS_OK)
        s = move_words(g, seen, cuda_words_of(g, g->rank), g->size * sizeof *seen);
    for (uint32_t r = 0; r < g->size && s == STATUS_OK; r++) {
        s = move_words(g, &back, cuda_words_of(g, r) + g->rank, sizeof back);
        if (s == STATUS_OK && (seen[r] != probe_word(r, g->rank) || back != mine[r]))
            return status_fail(err, STATUS_UNSUPPORTED,
                "what rank %u writes to this rank's device does not arrive, or the reverse",
                (unsigned)r);
    }
    return s == STATUS_OK
               ? s
               : status_fail(err, s, "memory of another rank's device cannot be reached");
}

void backend_cuda_share_give_imports(struct coll_group *g)
{
    struct cuda_state *s = cuda_state_of(g);
    for (uint32_t r = 0; r < g->size; r++)
        if (r != g->rank)
            s->peers->give(s->context, &s->memory[r]);
}

static enum status share_by(
    struct coll_group *g, struct bootstrap *b, enum coll_peers_way way, struct error *err)
{
    uint8_t handle[COLL_PEERS_HANDLE_BYTES] = {0};
    int fd = -1;
    enum status st = backend_cuda_share_agree(g, b, take_and_export(g, way, &fd, handle, err), err);
    if (st == STATUS_OK)
        st = backend_cuda_share_agree(g, b,
            way == COLL_PEERS_FD ? import_fds(g, b, fd, err) : import_handles(g, b, handle, err),
            err);
    if (fd >= 0)
        close(fd);
    if (st == STATUS_OK)
        st = backend_cuda_share_agree(g, b, try_pairs(g, b, err), err);
    if (st == STATUS_OK)
        return st;
    // Owners give their memory back when nobody can have it mapped any more.
    struct cuda_state *s = cuda_state_of(g);
    backend_cuda_share_give_imports(g);
    enum status met = b->barrier(b, NULL);
    s->peers->give(s->context, &s->memory[g->rank]);
    return met == STATUS_OK ? st : met;
}

enum status backend_cuda_share(struct coll_group *g, struct bootstrap *b, struct error *err)
{
    struct cuda_state *s = cuda_state_of(g);
    struct error first = {0};
    enum status st = share_by(g, b, COLL_PEERS_FD, &first);
    s->way = COLL_PEERS_FD;
    if (st == STATUS_OK)
        return st;
    s->way = COLL_PEERS_IPC;
    struct error second = {0};
    st = share_by(g, b, COLL_PEERS_IPC, &second);
    return st == STATUS_OK
               ? st
               : status_fail(err, st,
                     "device memory cannot be shared: %s: %.200s; "
                     "%s: %.200s",
                     way_names[COLL_PEERS_FD], first.text, way_names[COLL_PEERS_IPC], second.text);
}

// Every member gets the object of rank 0, as a descriptor.
static enum status get_multicast(struct coll_group *g, struct bootstrap *b, struct error *err)
{
    struct cuda_state *s = cuda_state_of(g);
    size_t bytes = s->memory[g->rank].bytes;
    int fd = -1;
    TRY(backend_cuda_share_agree(g, b,
        g->rank != 0
            ? STATUS_OK
            : s->peers->multicast_make(s->context, g->size, bytes, &s->multicast, &fd, err),
        err));
    enum status st = b->share_fd(b, 0, &fd, err);
    if (st == STATUS_OK && g->rank != 0)
        st = s->peers->multicast_join(s->context, fd, bytes, &s->multicast, err);
    if (fd >= 0)
        close(fd);
    return backend_cuda_share_agree(g, b, st, err);
}

static enum status bind_multicast(struct coll_group *g, struct bootstrap *b, struct error *err)
{
    struct cuda_state *s = cuda_state_of(g);
    if (g->size == 1)
        return status_fail(err, STATUS_UNSUPPORTED, "there is nothing to sum in a group of one");
    if (!g->native)
        return status_fail(err, STATUS_UNSUPPORTED, "sums in another order were not allowed");
    if (s->way != COLL_PEERS_FD)
        return status_fail(err, STATUS_UNSUPPORTED, "memory of cudaIpc has none");
    TRY(backend_cuda_share_agree(g, b, s->peers->multicast_probe(s->context, err), err));
    TRY(get_multicast(g, b, err));
    // Nobody binds before all have entered, and nobody uses it before all have bound.
    TRY(backend_cuda_share_agree(
        g, b, s->peers->multicast_enter(s->context, &s->multicast, err), err));
    return backend_cuda_share_agree(
        g, b, s->peers->multicast_bind(s->context, &s->multicast, &s->memory[g->rank], err), err);
}

// All members come to the same verdict.
void backend_cuda_share_multicast(struct coll_group *g, struct bootstrap *b)
{
    struct cuda_state *s = cuda_state_of(g);
    struct error why = {0};
    enum status st = bind_multicast(g, b, &why);
    if (st != STATUS_OK)
        s->peers->multicast_give(s->context, &s->multicast);
    (void)snprintf(s->reach, sizeof s->reach, "%s, %s%.200s", way_names[s->way],
        st == STATUS_OK ? "and a switch can sum" : "no switch sums: ", why.text);
}
