// SPDX-License-Identifier: Apache-2.0
// Which back end serves a group. Every rank tells which candidates it could use; all see the same
// answers in the same order and so come to the same choice.
#include "collectives/group.h"

#include "base/check.h"

#include <string.h>

// What each rank tells the others.
struct verdict {
    uint64_t status;
    uint64_t usable; // bit k: candidate k
    uint64_t names;  // of the candidates: ranks of different builds are told apart
};

static void add(struct group_choices *c, const struct coll_backend *b, bool on_device)
{
    if (b->on_device == on_device && c->n < GROUP_CHOICES_MAX)
        c->of[c->n++] = b;
}

// On a device what was given from outside comes first (its own kernels), on the host last (MPI).
static struct group_choices list(const struct coll_args *args)
{
    struct group_choices c = {0};
    bool on_device = args->device != NULL;
    if (!on_device)
        add(&c, &backend_shm, on_device);
    for (const struct coll_backend *const *p = args->more; p != NULL && *p != NULL; p++)
        add(&c, *p, on_device);
    add(&c, &backend_cuda, on_device);
    add(&c, &backend_nccl, on_device);
    return c;
}

static bool known_elsewhere(const char *name)
{
    static const char *const all[] = {"shm", "mpi", "cuda", "nccl"};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        if (strcmp(all[i], name) == 0)
            return true;
    return false;
}

// Keeps only the candidate that was asked for.
static enum status narrow(
    struct group_choices *c, const char *name, bool on_device, struct error *err)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (strcmp(c->of[i]->name, name) == 0) {
            c->of[0] = c->of[i];
            c->n = 1;
            return STATUS_OK;
        }
    if (!known_elsewhere(name))
        return status_fail(err, STATUS_INVALID,
            "there is no collectives back end \"%.32s\"; \"auto\", \"shm\", \"mpi\", \"cuda\" or "
            "\"nccl\" was expected",
            name);
    return status_fail(err, STATUS_UNSUPPORTED,
        "the collectives back end \"%s\" does not serve buffers on the %s in this program", name,
        on_device ? "device" : "host");
}

static uint64_t hash_names(const struct group_choices *c)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (uint32_t i = 0; i < c->n; i++)
        for (const char *p = c->of[i]->name; *p != '\0'; p++)
            h = (h ^ (uint8_t)*p ^ i << 8) * 0x100000001b3u;
    return h;
}

static enum status join(const struct verdict *all, uint32_t size, const struct group_choices *c,
    struct group_choices *out, struct error *err)
{
    struct group_choices found = {0};
    uint64_t usable = ~(uint64_t)0;
    for (uint32_t r = 0; r < size; r++) {
        enum status s = all[r].status < STATUS_COUNT ? (enum status)all[r].status : STATUS_INVALID;
        if (s != STATUS_OK)
            return status_fail(
                err, s, "rank %u could not take part: %s", (unsigned)r, status_text(s));
        if (all[r].names != all[0].names)
            return status_fail(err, STATUS_MISMATCH,
                "rank %u chooses among other back ends than rank 0; all ranks must ask for the "
                "same one",
                (unsigned)r);
        usable &= all[r].usable;
    }
    for (uint32_t k = 0; k < c->n; k++)
        if (usable >> k & 1)
            found.of[found.n++] = c->of[k];
    if (found.n == 0)
        return status_fail(err, STATUS_UNSUPPORTED,
            "there is no back end that all %u ranks can use", (unsigned)size);
    *out = found;
    return STATUS_OK;
}

enum status group_choose(struct bootstrap *b, const struct coll_args *args, enum status mine,
    struct group_choices *out, struct error *err)
{
    struct error local = {0};
    struct group_choices c = {0};
    struct verdict verdict = {0}, all[COLL_RANKS_MAX];
    bool named = args->backend != NULL && strcmp(args->backend, "auto") != 0;
    enum status st = mine;
    if (st == STATUS_OK) {
        c = list(args);
        if (named)
            st = narrow(&c, args->backend, args->device != NULL, &local);
        if (st == STATUS_OK)
            verdict.names = hash_names(&c);
    }
    for (uint32_t k = 0; st == STATUS_OK && k < c.n; k++) {
        enum status s = c.of[k]->probe(args, &local);
        verdict.usable |= (uint64_t)(s == STATUS_OK) << k;
        if (named)
            st = s;
    }
    verdict.status = st;
    enum status met = b->all_gather(b, &verdict, sizeof verdict, all, st == STATUS_OK ? err : NULL);
    if (st != STATUS_OK)
        return status_fail(err, st, "%s", local.text);
    TRY(met);
    return join(all, b->size, &c, out, err);
}
