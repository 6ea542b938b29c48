// SPDX-License-Identifier: Apache-2.0
// What the CUDA plugin exports for collectives: one symbol, so that there is one CUDA runtime in
// the process, the plugin's, and collectives run in the caller's streams.
//
//   p = dlsym(plugin, COLL_PLUGIN_SYMBOL)();       check p->version
//   p->open(&args, &device, err)                   fills a struct coll_device
//   (collectives/backend.h) coll_create(bootstrap, &(struct coll_args){.device = &device, ...},
//   ...)
//   ... coll_destroy; p->close(&device)
//
// graph_* record calls and launch them again, for who has no steps to record with kernels.h's
// graph_begin: a bench says itself when a graph runs and when it goes.
//
// The thread that calls anything of a group has made the device its current one.
#ifndef PHALANX_COLLECTIVES_CUDA_PLUGIN_H
#define PHALANX_COLLECTIVES_CUDA_PLUGIN_H

#include "collectives/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { COLL_PLUGIN_VERSION = 2 };
#define COLL_PLUGIN_SYMBOL "coll_plugin_table"

struct coll_plugin_args {
    int device;               // as cudaSetDevice counts
    uint32_t capability;      // 10 * major + minor
    uint32_t blocks, threads; // of the largest launch; 0: 32 and 512
};

struct coll_plugin {
    uint32_t version;
    enum status (*open)(
        const struct coll_plugin_args *args, struct coll_device *out, struct error *err);
    void (*close)(struct coll_device *d);
    // Nothing that is enqueued into `stream` between begin and end runs; graph_end ends the
    // recording in any case. The thread calls nothing that waits for the device in between.
    enum status (*graph_begin)(void *stream, struct error *err);
    enum status (*graph_end)(void *stream, void **graph, struct error *err);
    enum status (*graph_launch)(void *graph, void *stream, struct error *err);
    void (*graph_drop)(void *graph); // which does not run; before the groups that it calls
};

const struct coll_plugin *coll_plugin_table(void);

#ifdef __cplusplus
}
#endif

#endif
