// SPDX-License-Identifier: Apache-2.0
// The driver's functions are found through the runtime, so nothing links libcuda, and a machine
// without a driver gets a sentence.
#include "collectives/cuda/share.cuh"

#include "kernels/cuda/port.cuh"

#include <string.h>

#if PHX_EMU
#include "kernels/emu/driver.hpp"
#else
#include <cuda.h>
#endif

namespace
{

// Pieces of cudaIpc are whole blocks of the driver's: what else lies in them is shared too.
constexpr size_t ipc_block = 2u << 20;

#define DRIVER_FUNCTIONS(X)                                                                        \
    X(cuGetErrorString)                                                                            \
    X(cuMemGetAllocationGranularity)                                                               \
    X(cuMemCreate)                                                                                 \
    X(cuMemRelease)                                                                                \
    X(cuMemExportToShareableHandle)                                                                \
    X(cuMemImportFromShareableHandle)                                                              \
    X(cuMemAddressReserve)                                                                         \
    X(cuMemAddressFree)                                                                            \
    X(cuMemMap)                                                                                    \
    X(cuMemUnmap)                                                                                  \
    X(cuMemSetAccess)

struct driver {
#define X(name) decltype(&::name) name;
    DRIVER_FUNCTIONS(X)
#undef X
};

cudaError_t find(const char *name, void **to)
{
#if PHX_EMU || CUDART_VERSION >= 12050
    cudaDriverEntryPointQueryResult result;
    cudaError_t e = cudaGetDriverEntryPointByVersion(name, to, 12000, cudaEnableDefault, &result);
#else
    cudaDriverEntryPointQueryResult result;
    cudaError_t e = cudaGetDriverEntryPoint(name, to, cudaEnableDefault, &result);
#endif
    if (e == cudaSuccess && (result != cudaDriverEntryPointSuccess || *to == nullptr))
        e = cudaErrorInvalidValue;
    return e;
}

enum status load(driver *d, struct error *err)
{
    *d = {};
    const struct {
        const char *name;
        void **to;
    } functions[] = {
#define X(name) {#name, reinterpret_cast<void **>(&d->name)},
        DRIVER_FUNCTIONS(X)
#undef X
    };
    for (const auto &f : functions) {
        cudaError_t e = find(f.name, f.to);
        if (e != cudaSuccess)
            return status_fail(err, STATUS_UNSUPPORTED, "the CUDA driver gives no %s: %s", f.name,
                cudaGetErrorString(e));
    }
    return STATUS_OK;
}

enum status failed(const driver &d, CUresult r, const char *what, struct error *err)
{
    const char *text = nullptr;
    if (d.cuGetErrorString(r, &text) != CUDA_SUCCESS || text == nullptr)
        text = "unknown error";
    return status_fail(err, STATUS_DEVICE_FAILED, "%s: error %d, %s", what, (int)r, text);
}

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

// Maps m->handle, readable and writable by `device`, at an address of its own.
enum status map(const driver &d, int device, coll_peer_memory *m, struct error *err)
{
    CUdeviceptr at = 0;
    CUmemAccessDesc access = {};
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = device;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    CUresult r = d.cuMemAddressReserve(&at, m->bytes, 0, 0, 0);
    if (r != CUDA_SUCCESS)
        return failed(d, r, "cuMemAddressReserve", err);
    const char *what = "cuMemMap";
    r = d.cuMemMap(at, m->bytes, 0, m->handle, 0);
    bool mapped = r == CUDA_SUCCESS;
    if (mapped) {
        what = "cuMemSetAccess";
        r = d.cuMemSetAccess(at, m->bytes, &access, 1);
    }
    if (r == CUDA_SUCCESS) {
        m->p = reinterpret_cast<void *>(at);
        return STATUS_OK;
    }
    if (mapped)
        (void)d.cuMemUnmap(at, m->bytes);
    (void)d.cuMemAddressFree(at, m->bytes);
    return failed(d, r, what, err);
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
    TRY(load(&d, err));
    CUmemAllocationProp p = properties(device);
    size_t granularity = 0;
    CUresult r =
        d.cuMemGetAllocationGranularity(&granularity, &p, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
    if (r != CUDA_SUCCESS)
        return failed(d, r, "cuMemGetAllocationGranularity", err);
    CUmemGenericAllocationHandle handle = 0;
    m->bytes = round_up(m->bytes, granularity);
    r = d.cuMemCreate(&handle, m->bytes, &p, 0);
    if (r != CUDA_SUCCESS)
        return failed(d, r, "cuMemCreate", err);
    m->handle = handle;
    enum status s = map(d, device, m, err);
    if (s != STATUS_OK)
        (void)d.cuMemRelease(handle);
    return s;
}

enum status import_fd(int device, int fd, coll_peer_memory *m, struct error *err)
{
    driver d;
    TRY(load(&d, err));
    CUmemGenericAllocationHandle handle = 0;
    CUresult r = d.cuMemImportFromShareableHandle(&handle,
        reinterpret_cast<void *>(static_cast<uintptr_t>(fd)),
        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    if (r != CUDA_SUCCESS)
        return failed(d, r, "cuMemImportFromShareableHandle", err);
    m->handle = handle;
    enum status s = map(d, device, m, err);
    if (s != STATUS_OK)
        (void)d.cuMemRelease(handle);
    return s;
}

void give_fd(coll_peer_memory *m)
{
    driver d;
    if (load(&d, nullptr) != STATUS_OK)
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
    TRY(load(&d, err));
    CUresult r =
        d.cuMemExportToShareableHandle(fd, m->handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
    return r == CUDA_SUCCESS ? STATUS_OK : failed(d, r, "cuMemExportToShareableHandle", err);
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
