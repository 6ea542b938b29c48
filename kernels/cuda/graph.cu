// SPDX-License-Identifier: Apache-2.0
// Graphs of decode steps. What is recorded has the addresses of the batch and of the workspace in
// it: a graph that is older than either is forgotten. The first step of its bounds runs as ever, so
// that everything that is made at first use is there; the second is recorded.
#include "kernels/cuda/device.cuh"

#include <stdlib.h>

enum { GRAPHS_MAX = 128 };

struct device_graphs {
    struct {
        struct graph_bounds bounds;
        uint64_t used;        // the step that used it last; 0: free
        uint32_t memory_turn; // of the device when it was recorded
        uint64_t launches;    // of kernels that are in it
        cudaGraphExec_t x;    // NULL: seen once, not recorded
    } one[GRAPHS_MAX];
    uint64_t steps;
    int recording; // which one
};

namespace
{

bool same(const struct graph_bounds &a, const struct graph_bounds &b)
{
    return a.n_rows == b.n_rows && a.n_keys == b.n_keys;
}

void forget(struct device *d, int i)
{
    if (d->graphs->one[i].x != NULL)
        device_keep(d, cudaGraphExecDestroy(d->graphs->one[i].x), "giving a graph back");
    d->graphs->one[i].x = NULL;
}

// The place of these bounds; a new one takes the place of the one that was not used for longest.
int find(struct device *d, const struct graph_bounds &bounds, bool *found)
{
    struct device_graphs *g = d->graphs;
    int oldest = 0;
    for (int i = 0; i < GRAPHS_MAX; i++) {
        if (g->one[i].used != 0 && same(g->one[i].bounds, bounds)) {
            *found = true;
            return i;
        }
        if (g->one[i].used < g->one[oldest].used)
            oldest = i;
    }
    *found = false;
    forget(d, oldest);
    g->one[oldest].bounds = bounds;
    return oldest;
}

void begin_recording(struct device *d, const struct graph_bounds *b)
{
    device_keep(d, cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal), "a graph");
    d->recording = true;
    d->recording_failed = false;
    d->graphs->one[d->graphs->recording].launches = d->launches;
    d->batch.n_rows = d->batch.n_seqs = d->batch.n_logit_rows = b->n_rows;
    d->batch.n_keys = b->n_keys;
    d->batch.seq_rows = d->batch.seq_rows_least = 1;
}

} // namespace

enum graph_state cuda_graph_begin(struct device *d, const struct graph_bounds *b)
{
    check(!d->recording && d->batch.n_rows <= b->n_rows && d->batch.n_keys <= b->n_keys);
    if (d->graphs == NULL)
        d->graphs = (struct device_graphs *)calloc(1, sizeof *d->graphs);
    if (d->graphs == NULL || d->failed != STATUS_OK || b->n_rows > d->rows_max ||
        b->n_rows > d->seqs_max)
        return GRAPH_NONE;
    bool found;
    int i = find(d, *b, &found);
    d->graphs->one[i].used = ++d->graphs->steps;
    if (!found)
        return GRAPH_NONE;
    if (d->graphs->one[i].x != NULL && d->graphs->one[i].memory_turn == d->memory_turn) {
        device_keep(d, cudaGraphLaunch(d->graphs->one[i].x, d->stream), "a graph");
        d->launches += d->graphs->one[i].launches;
        return GRAPH_DONE;
    }
    forget(d, i);
    d->graphs->recording = i;
    begin_recording(d, b);
    return GRAPH_RECORDING;
}

bool cuda_graph_end(struct device *d, const struct batch *b)
{
    check(d->recording);
    cudaGraph_t graph = NULL;
    int i = d->graphs->recording;
    device_keep(d, cudaStreamEndCapture(d->stream, &graph), "the end of a graph");
    d->recording = false;
    uint64_t *launches = &d->graphs->one[i].launches; // so far, when it was begun
    *launches = d->launches - *launches;
    d->launches -= *launches; // nothing has run yet
    device_bound_batch(d, b);
    if (!d->recording_failed && d->failed == STATUS_OK) {
        device_keep(d, cudaGraphInstantiate(&d->graphs->one[i].x, graph, 0), "making a graph");
        d->graphs->one[i].memory_turn = d->memory_turn;
    }
    if (graph != NULL)
        device_keep(d, cudaGraphDestroy(graph), "giving a recording back");
    if (d->recording_failed)
        device_workspace(d, d->workspace_wanted); // for the next time
    if (d->recording_failed || d->failed != STATUS_OK)
        return false;
    device_keep(d, cudaGraphLaunch(d->graphs->one[i].x, d->stream), "a graph");
    d->launches += *launches;
    return true;
}

uint32_t device_graphs_max()
{
    return GRAPHS_MAX;
}

void device_graphs_close(struct device *d)
{
    for (int i = 0; d->graphs != NULL && i < GRAPHS_MAX; i++)
        forget(d, i);
    free(d->graphs);
    d->graphs = NULL;
}
