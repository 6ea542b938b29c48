// SPDX-License-Identifier: Apache-2.0
#include "collectives/cuda/driver.cuh"

#include <string.h>

namespace
{

// Pieces of cudaIpc are whole blocks of the driver's: what else lies in them is shared too.
constexpr size_t ipc_block = 2u << 20;

enum status failed_runtime(cudaError_t e, const char *what, struct error *err)
{
    return e == cudaSuccess ? STATUS_OK
                            : status_fail(err, STATUS_DEVICE_FAILED, "%s: error %d, %s", what,
                                  (int)e, cudaGetErrorString(e));
}

const share_context *context_of(void *context)
{
    return static_cast<const share_context *>(context);
}

CUmemAllocationProp properties(int device)
{
    CUmemAllocationProp p = {};
    p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    p.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    p.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    p.location.id = device;
    return p;
}

enum status zero(void *p, size_t bytes, struct error *err)
{
    cudaError_t e = cudaMemset(p, 0, bytes);
    if (e == cudaSuccess)
        e = cudaDeviceSynchronize();
    return failed_runtime(e, "clearing shared memory", err);
}

size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

enum status take_fd(int device, coll_peer_memory *m, struct error *err)
{
    driver d;
    TRY(driver_load(&d, err));
    CUmemAllocationProp p = properties(device);
    size_t granularity = 0;
    CUresult r =
        d.cuMemGetAllocationGranularity(&granularity, &p, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
    if (r != CUDA_SUCCESS)
        return driver_failed(d, r, "cuMemGetAllocationGranularity", err);
    CUmemGenericAllocationHandle handle = 0;
    m->bytes = round_up(m->bytes, granularity);
    r = d.cuMemCreate(&handle, m->bytes, &p, 0);
    if (r != CUDA_SUCCESS)
        return driver_failed(d, r, "cuMemCreate", err);
    m->handle = handle;
    enum status s = driver_map(d, device, m, err);
    if (s != STATUS_OK)
        (void)d.cuMemRelease(handle);
    return s;
}

enum status import_fd(int device, int fd, coll_peer_memory *m, struct error *err)
{
    driver d;
    TRY(driver_load(&d, err));
    CUmemGenericAllocationHandle handle = 0;
    CUresult r = d.cuMemImportFromShareableHandle(&handle,
        reinterpret_cast<void *>(static_cast<uintptr_t>(fd)),
        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    if (r != CUDA_SUCCESS)
        return driver_failed(d, r, "cuMemImportFromShareableHandle", err);
    m->handle = handle;
    enum status s = driver_map(d, device, m, err);
    if (s != STATUS_OK)
        (void)d.cuMemRelease(handle);
    return s;
}

void give_fd(coll_peer_memory *m)
{
    driver d;
    if (driver_load(&d, nullptr) != STATUS_OK)
        return;
    CUdeviceptr at = reinterpret_cast<CUdeviceptr>(m->p);
    (void)d.cuMemUnmap(at, m->bytes);
    (void)d.cuMemAddressFree(at, m->bytes);
    (void)d.cuMemRelease(m->handle);
}

} // namespace

enum status share_take(void *context, enum coll_peers_way way, size_t bytes,
    struct coll_peer_memory *out, struct error *err)
{
    coll_peer_memory m = {};
    m.way = way;
    m.bytes = bytes;
    if (way == COLL_PEERS_FD) {
        TRY(take_fd(context_of(context)->device, &m, err));
    } else {
        m.bytes = round_up(bytes, ipc_block);
        TRY(failed_runtime(cudaMalloc(&m.p, m.bytes), "cudaMalloc", err));
    }
    enum status s = zero(m.p, m.bytes, err);
    if (s != STATUS_OK)
        share_give(context, &m);
    else
        *out = m;
    return s;
}

enum status share_export(
    void *context, const struct coll_peer_memory *m, int *fd, uint8_t *handle, struct error *err)
{
    (void)context;
    if (m->way == COLL_PEERS_IPC) {
        cudaIpcMemHandle_t h;
        static_assert(sizeof h == COLL_PEERS_HANDLE_BYTES, "handles of 64 bytes");
        TRY(failed_runtime(cudaIpcGetMemHandle(&h, m->p), "cudaIpcGetMemHandle", err));
        memcpy(handle, &h, sizeof h);
        return STATUS_OK;
    }
    driver d;
    TRY(driver_load(&d, err));
    CUresult r =
        d.cuMemExportToShareableHandle(fd, m->handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
    return r == CUDA_SUCCESS ? STATUS_OK : driver_failed(d, r, "cuMemExportToShareableHandle", err);
}

enum status share_import(void *context, enum coll_peers_way way, size_t bytes, int fd,
    const uint8_t *handle, struct coll_peer_memory *out, struct error *err)
{
    coll_peer_memory m = {};
    m.way = way;
    m.bytes = bytes;
    m.imported = true;
    if (way == COLL_PEERS_FD) {
        TRY(import_fd(context_of(context)->device, fd, &m, err));
    } else {
        cudaIpcMemHandle_t h;
        memcpy(&h, handle, sizeof h);
        TRY(failed_runtime(cudaIpcOpenMemHandle(&m.p, h, cudaIpcMemLazyEnablePeerAccess),
            "cudaIpcOpenMemHandle", err));
    }
    *out = m;
    return STATUS_OK;
}

void share_give(void *context, struct coll_peer_memory *m)
{
    (void)context;
    if (m->p == nullptr)
        return;
    (void)cudaDeviceSynchronize();
    if (m->way == COLL_PEERS_FD)
        give_fd(m);
    else if (m->imported)
        (void)cudaIpcCloseMemHandle(m->p);
    else
        (void)cudaFree(m->p);
    *m = {};
}
