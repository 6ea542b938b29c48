// SPDX-License-Identifier: Apache-2.0
// Memory of a device that other processes map: see struct coll_peers.
#ifndef PHALANX_COLLECTIVES_CUDA_SHARE_CUH
#define PHALANX_COLLECTIVES_CUDA_SHARE_CUH

#include "collectives/cuda/peers.h"

enum status share_take(void *context, enum coll_peers_way way, size_t bytes,
    struct coll_peer_memory *out, struct error *err);
enum status share_export(
    void *context, const struct coll_peer_memory *m, int *fd, uint8_t *handle, struct error *err);
enum status share_import(void *context, enum coll_peers_way way, size_t bytes, int fd,
    const uint8_t *handle, struct coll_peer_memory *out, struct error *err);
void share_give(void *context, struct coll_peer_memory *m);

// What `context` points to.
struct share_context {
    int device;
};

// multicast_share.cu
enum status share_multicast_probe(void *context, struct error *err);
enum status share_multicast_make(void *context, uint32_t size, size_t bytes,
    struct coll_peer_memory *out, int *fd, struct error *err);
enum status share_multicast_join(
    void *context, int fd, size_t bytes, struct coll_peer_memory *out, struct error *err);
enum status share_multicast_enter(
    void *context, const struct coll_peer_memory *m, struct error *err);
enum status share_multicast_bind(void *context, struct coll_peer_memory *m,
    const struct coll_peer_memory *own, struct error *err);
void share_multicast_give(void *context, struct coll_peer_memory *m);

#endif
