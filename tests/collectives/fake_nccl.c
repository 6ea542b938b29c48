// SPDX-License-Identifier: Apache-2.0
// A library with NCCL's interface whose ranks are threads of one process and whose memory is the
// host's, so that the NCCL back end can be tested without a device. Sends are buffered, receives
// wait; a communicator that is aborted gives up. All calls finish before they return.
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID = 4, IN_PROGRESS = 7, RANKS = 8, OPS = 64, TURNS = 3000 };

struct id {
    char bytes[128];
};

struct parcel {
    struct parcel *next;
    size_t n;
    char data[];
};

struct world {
    struct world *next;
    struct id id;
    struct parcel *queue[RANKS][RANKS]; // [from][to]
    float *gathered[RANKS];
};

struct comm {
    struct world *world;
    int rank, size;
    _Atomic int polls; // the first call of a non-blocking communicator is still in progress
    _Atomic int aborted;
};

struct op {
    struct comm *comm;
    const void *from;
    void *to;
    size_t n;
    int peer;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct world *worlds;
static _Atomic int ids;
static _Thread_local struct op pending[OPS];
static _Thread_local int n_pending, depth;

int ncclGetVersion(int *version);
int ncclGetUniqueId(struct id *id);
int ncclCommInitRankConfig(void **out, int size, struct id id, int rank, void *config);
int ncclCommGetAsyncError(void *comm, int *error);
int ncclCommAbort(void *comm);
const char *ncclGetErrorString(int result);
int ncclGroupStart(void);
int ncclGroupEnd(void);
int ncclSend(const void *from, size_t count, int type, int peer, void *comm, void *stream);
int ncclRecv(void *to, size_t count, int type, int peer, void *comm, void *stream);
int ncclAllReduce(
    const void *from, void *to, size_t count, int type, int op, void *comm, void *stream);

int ncclGetVersion(int *version)
{
    *version = 22809;
    return OK;
}

int ncclGetUniqueId(struct id *id)
{
    memset(id, 0, sizeof *id);
    snprintf(id->bytes, sizeof id->bytes, "fake %d", atomic_fetch_add(&ids, 1));
    return OK;
}

int ncclCommInitRankConfig(void **out, int size, struct id id, int rank, void *config)
{
    struct comm *c = calloc(1, sizeof *c);
    int blocking;
    memcpy(&blocking, (char *)config + 16, sizeof blocking);
    if (c == NULL || size > RANKS || blocking != 0)
        return INVALID;
    pthread_mutex_lock(&lock);
    struct world *w = worlds;
    while (w != NULL && memcmp(&w->id, &id, sizeof id) != 0)
        w = w->next;
    if (w == NULL) {
        w = calloc(1, sizeof *w);
        if (w == NULL)
            abort();
        w->id = id;
        w->next = worlds;
        worlds = w;
    }
    pthread_mutex_unlock(&lock);
    c->world = w;
    c->rank = rank;
    c->size = size;
    *out = c;
    return IN_PROGRESS;
}

int ncclCommGetAsyncError(void *comm, int *error)
{
    struct comm *c = comm;
    *error = atomic_fetch_add(&c->polls, 1) == 0 ? IN_PROGRESS : OK;
    return OK;
}

// The memory of a communicator is left to the process: another thread may still look at it.
int ncclCommAbort(void *comm)
{
    atomic_store(&((struct comm *)comm)->aborted, 1);
    return OK;
}

const char *ncclGetErrorString(int result)
{
    return result == INVALID ? "invalid argument" : "fake error";
}

int ncclGroupStart(void)
{
    depth++;
    return OK;
}

static int add(struct op op)
{
    if (n_pending == OPS)
        return INVALID;
    pending[n_pending++] = op;
    if (depth > 0)
        return OK;
    depth++;
    return ncclGroupEnd();
}

int ncclSend(const void *from, size_t count, int type, int peer, void *comm, void *stream)
{
    (void)stream;
    return type == 1 ? add((struct op){comm, from, NULL, count, peer}) : INVALID;
}

int ncclRecv(void *to, size_t count, int type, int peer, void *comm, void *stream)
{
    (void)stream;
    return type == 1 ? add((struct op){comm, NULL, to, count, peer}) : INVALID;
}

static void post(const struct op *o)
{
    struct parcel *p = malloc(sizeof *p + o->n);
    if (p == NULL)
        abort();
    p->next = NULL;
    p->n = o->n;
    memcpy(p->data, o->from, o->n);
    pthread_mutex_lock(&lock);
    struct parcel **at = &o->comm->world->queue[o->comm->rank][o->peer];
    while (*at != NULL)
        at = &(*at)->next;
    *at = p;
    pthread_mutex_unlock(&lock);
}

// Gives up after a while: the real one would leave that to its caller, because it does not block.
static int fetch(const struct op *o)
{
    for (int turn = 0; turn < TURNS; turn++) {
        pthread_mutex_lock(&lock);
        struct parcel **at = &o->comm->world->queue[o->peer][o->comm->rank], *p = *at;
        if (p != NULL)
            *at = p->next;
        pthread_mutex_unlock(&lock);
        if (p != NULL) {
            int rc = p->n == o->n ? OK : INVALID;
            if (rc == OK)
                memcpy(o->to, p->data, p->n);
            free(p);
            return rc;
        }
        if (atomic_load(&o->comm->aborted))
            return INVALID;
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    return INVALID;
}

int ncclGroupEnd(void)
{
    int rc = OK;
    if (--depth > 0)
        return OK;
    for (int i = 0; i < n_pending; i++)
        if (pending[i].from != NULL)
            post(&pending[i]);
    for (int i = 0; i < n_pending && rc == OK; i++)
        if (pending[i].from == NULL)
            rc = fetch(&pending[i]);
    n_pending = 0;
    return rc;
}

// Sums f32 from the last rank to the first: an order other than ours, as the real one may have.
int ncclAllReduce(
    const void *from, void *to, size_t count, int type, int op, void *comm, void *stream)
{
    struct comm *c = comm;
    size_t n = count * sizeof(float);
    float *all = malloc(n * (size_t)c->size + 1);
    if (type != 7 || op != 0 || all == NULL)
        return INVALID;
    memcpy(all + (size_t)c->rank * count, from, n);
    ncclGroupStart();
    for (int q = 0; q < c->size; q++)
        if (q != c->rank) {
            ncclSend(from, n, 1, q, comm, stream);
            ncclRecv(all + (size_t)q * count, n, 1, q, comm, stream);
        }
    int rc = ncclGroupEnd();
    for (size_t i = 0; i < count && rc == OK; i++) {
        float sum = 0;
        for (int q = c->size - 1; q >= 0; q--)
            sum += all[(size_t)q * count + i];
        ((float *)to)[i] = sum;
    }
    free(all);
    return rc;
}
