// SPDX-License-Identifier: Apache-2.0
#include "collectives/nccl_load.h"

#include "base/check.h"

#include <dlfcn.h>
#include <string.h>

enum status nccl_load(const char *file, struct nccl *out, struct error *err)
{
    const char *name = file != NULL ? file : "libnccl.so.2";
    // NODELETE: NCCL leaves threads behind that run in its code after the last call.
    struct nccl n = {.library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)};
    if (n.library == NULL) {
        const char *why = dlerror();
        return status_fail(
            err, STATUS_UNSUPPORTED, "NCCL cannot be loaded: %s", why != NULL ? why : name);
    }
    const struct {
        const char *name;
        void *to;
    } symbol[] = {
        {"ncclGetVersion", &n.get_version},
        {"ncclGetUniqueId", &n.get_unique_id},
        {"ncclCommInitRankConfig", &n.comm_init},
        {"ncclCommGetAsyncError", &n.comm_async_error},
        {"ncclCommAbort", &n.comm_abort},
        {"ncclGetErrorString", &n.error_string},
        {"ncclGroupStart", &n.group_start},
        {"ncclGroupEnd", &n.group_end},
        {"ncclSend", &n.send},
        {"ncclRecv", &n.receive},
        {"ncclAllReduce", &n.all_reduce},
    };
    for (size_t i = 0; i < COUNT_OF(symbol); i++) {
        void *p = dlsym(n.library, symbol[i].name);
        if (p == NULL) {
            dlclose(n.library);
            return status_fail(err, STATUS_UNSUPPORTED,
                "%s has no %s; NCCL 2.14 or later is needed", name, symbol[i].name);
        }
        memcpy(symbol[i].to, &p, sizeof p); // POSIX: functions and data have pointers of one size
    }
    if (n.get_version(&n.version) != NCCL_OK || n.version < NCCL_VERSION_LEAST) {
        int version = n.version;
        dlclose(n.library);
        return status_fail(err, STATUS_UNSUPPORTED, "%s is NCCL %d; %d (2.14) or later is needed",
            name, version, NCCL_VERSION_LEAST);
    }
    *out = n;
    return STATUS_OK;
}

void nccl_unload(struct nccl *n)
{
    if (n->library != NULL)
        dlclose(n->library);
    n->library = NULL;
}
