// SPDX-License-Identifier: Apache-2.0
// The driver's functions that sharing memory needs. They are found through the runtime, so nothing
// links libcuda, and a machine without a driver gets a sentence.
#ifndef PHALANX_COLLECTIVES_CUDA_DRIVER_CUH
#define PHALANX_COLLECTIVES_CUDA_DRIVER_CUH

#include "collectives/cuda/share.cuh"

#include "kernels/cuda/port.cuh"

#if PHX_EMU
#include "kernels/emu/driver.hpp"
#else
#include <cuda.h>
#endif

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

// `version`: the release of CUDA that brought the function.
inline enum status driver_find(const char *name, void **to, unsigned version, struct error *err)
{
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if PHX_EMU || CUDART_VERSION >= 12050
    cudaError_t e = cudaGetDriverEntryPointByVersion(name, to, version, cudaEnableDefault, &result);
#else
    (void)version;
    cudaError_t e = cudaGetDriverEntryPoint(name, to, cudaEnableDefault, &result);
#endif
    if (e == cudaSuccess && (result != cudaDriverEntryPointSuccess || *to == nullptr))
        e = cudaErrorInvalidValue;
    return e == cudaSuccess ? STATUS_OK
                            : status_fail(err, STATUS_UNSUPPORTED,
                                  "the CUDA driver gives no %s: %s", name, cudaGetErrorString(e));
}

inline enum status driver_load(driver *d, struct error *err)
{
    *d = {};
#define X(name) TRY(driver_find(#name, reinterpret_cast<void **>(&d->name), 12000, err));
    DRIVER_FUNCTIONS(X)
#undef X
    return STATUS_OK;
}

inline enum status driver_failed(const driver &d, CUresult r, const char *what, struct error *err)
{
    const char *text = nullptr;
    if (d.cuGetErrorString(r, &text) != CUDA_SUCCESS || text == nullptr)
        text = "unknown error";
    return status_fail(err, STATUS_DEVICE_FAILED, "%s: error %d, %s", what, (int)r, text);
}

// Maps m->handle, readable and writable by `device`, at an address of its own.
inline enum status driver_map(const driver &d, int device, coll_peer_memory *m, struct error *err)
{
    CUdeviceptr at = 0;
    CUmemAccessDesc access = {};
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = device;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    CUresult r = d.cuMemAddressReserve(&at, m->bytes, 0, 0, 0);
    if (r != CUDA_SUCCESS)
        return driver_failed(d, r, "cuMemAddressReserve", err);
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
    return driver_failed(d, r, what, err);
}

#endif
