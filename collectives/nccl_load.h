// SPDX-License-Identifier: Apache-2.0
// The part of NCCL's binary interface that we use, declared here so that neither its headers nor
// its library are needed to build; a test compares it with nccl.h where that is installed. The
// library is loaded at run time. Any version from 2.14 on will do.
#ifndef PHALANX_COLLECTIVES_NCCL_LOAD_H
#define PHALANX_COLLECTIVES_NCCL_LOAD_H

#include "base/status.h"

#include <stddef.h>

enum {
    NCCL_OK = 0,
    NCCL_IN_PROGRESS = 7,
    NCCL_UINT8 = 1,
    NCCL_F16 = 6,
    NCCL_F32 = 7,
    NCCL_BF16 = 9,
    NCCL_SUM = 0,
    NCCL_MAX = 2,
    NCCL_ID_BYTES = 128,
    NCCL_VERSION_LEAST = 21400,
};

struct nccl_id {
    char bytes[NCCL_ID_BYTES];
};

// ncclConfig_t as of version 2.14: later libraries accept it by its size and version.
struct nccl_config {
    size_t size;
    unsigned magic;
    unsigned version;
    int blocking;
};
enum { NCCL_CONFIG_MAGIC = (int)0xcafebeef };

struct nccl {
    void *library;
    int version;
    int (*get_version)(int *version);
    int (*get_unique_id)(struct nccl_id *id);
    int (*comm_init)(
        void **comm, int n_ranks, struct nccl_id id, int rank, struct nccl_config *config);
    int (*comm_async_error)(void *comm, int *error);
    int (*comm_abort)(void *comm);
    const char *(*error_string)(int result);
    int (*group_start)(void);
    int (*group_end)(void);
    int (*send)(const void *from, size_t count, int type, int peer, void *comm, void *stream);
    int (*receive)(void *to, size_t count, int type, int peer, void *comm, void *stream);
    int (*all_reduce)(
        const void *from, void *to, size_t count, int type, int op, void *comm, void *stream);
};

// `file` NULL: libnccl.so.2. The sentence says what is missing.
enum status nccl_load(const char *file, struct nccl *out, struct error *err);
void nccl_unload(struct nccl *n);

#endif
