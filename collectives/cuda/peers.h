// SPDX-License-Identifier: Apache-2.0
// What the back end "cuda" (collectives/backend_cuda.c) needs of a device: memory that members map
// into each other's processes, and the kernels of device.h that work with it. A struct coll_device
// points to such a table, so that collectives/ itself links nothing of CUDA.
//
// The CUDA plugin fills it (plugin.h); the tests' is the same code on the emulator.
//
// Memory is shared in one of two ways, the first that works between all members of a group:
//   FD   physical memory of the driver's (cuMemCreate), exported as a file descriptor, which the
//        bootstrap passes on. What a member has mapped stays alive when its owner dies.
//   IPC  cudaMalloc's, named by a handle of 64 bytes. Not within one process, and the owner may
//        give it back only after all others have unmapped it.
#ifndef PHALANX_COLLECTIVES_CUDA_PEERS_H
#define PHALANX_COLLECTIVES_CUDA_PEERS_H

#include "collectives/cuda/device.h"

#ifdef __cplusplus
extern "C" {
#endif

enum coll_peers_way { COLL_PEERS_FD, COLL_PEERS_IPC, COLL_PEERS_WAYS };
enum { COLL_PEERS_HANDLE_BYTES = 64 };

// Memory of a device as this process has it. Zeroed: none.
struct coll_peer_memory {
    void *p;
    size_t bytes; // rounded up by `take`
    enum coll_peers_way way;
    bool imported; // of another member
    uint64_t handle;
};

struct coll_peers {
    uint32_t blocks, threads; // of the largest launch; 0: device.h's defaults
    // Zeroed memory of this device that others can map; it may be longer than asked for.
    enum status (*take)(void *context, enum coll_peers_way way, size_t bytes,
        struct coll_peer_memory *out, struct error *err);
    // FD: the caller owns *fd. IPC: fills handle[COLL_PEERS_HANDLE_BYTES].
    enum status (*export_memory)(void *context, const struct coll_peer_memory *m, int *fd,
        uint8_t *handle, struct error *err);
    // Maps what another member has exported; `fd` stays the caller's.
    enum status (*import_memory)(void *context, enum coll_peers_way way, size_t bytes, int fd,
        const uint8_t *handle, struct coll_peer_memory *out, struct error *err);
    // Waits for everything that runs on the device, then unmaps or gives back.
    void (*give)(void *context, struct coll_peer_memory *m);

    // One address for the memory (FD) of all members, at which a switch sums and spreads. All
    // members: probe; rank 0: make, the others: join with its descriptor; when all have, enter;
    // when all have, bind. `out` is the caller's to give back after any of them, if p or handle is
    // set.
    enum status (*multicast_probe)(void *context, struct error *err);
    // The caller owns *fd. `bytes` as `take` has rounded them.
    enum status (*multicast_make)(void *context, uint32_t size, size_t bytes,
        struct coll_peer_memory *out, int *fd, struct error *err);
    enum status (*multicast_join)(
        void *context, int fd, size_t bytes, struct coll_peer_memory *out, struct error *err);
    enum status (*multicast_enter)(
        void *context, const struct coll_peer_memory *m, struct error *err);
    enum status (*multicast_bind)(void *context, struct coll_peer_memory *m,
        const struct coll_peer_memory *own, struct error *err);
    void (*multicast_give)(void *context, struct coll_peer_memory *m);

    // device.h
    size_t (*pad_bytes)(uint32_t size, uint32_t blocks);
    enum status (*open)(
        const struct coll_device_args *args, struct coll_device_group **out, struct error *err);
    void (*close)(struct coll_device_group *d);
    enum status (*poll)(const struct coll_device_group *d, struct error *err);
    uint32_t (*waits)(const struct coll_device_group *d);
    void (*abort)(struct coll_device_group *d);
    enum status (*all_reduce)(
        struct coll_device_group *d, const struct coll_device_reduce_args *a, struct error *err);
    enum status (*reduce_scatter)(
        struct coll_device_group *d, const struct coll_device_reduce_args *a, struct error *err);
    enum status (*all_gather)(struct coll_device_group *d, const void *in, void *out, size_t bytes,
        void *stream, struct error *err);
    enum status (*broadcast)(struct coll_device_group *d, void *buffer, size_t bytes, uint32_t root,
        void *stream, struct error *err);
    enum status (*barrier)(struct coll_device_group *d, void *stream, struct error *err);
    enum status (*norm)(
        struct coll_device_group *d, const struct coll_device_norm_args *a, struct error *err);
    enum status (*exchange)(
        struct coll_device_group *d, const struct coll_device_exchange_args *a, struct error *err);
};

#ifdef __cplusplus
}
#endif

#endif
