// SPDX-License-Identifier: Apache-2.0
// The emulator's part of the CUDA driver: memory that processes share, by file descriptor
// (cuMem*) or by handle (cudaIpc*). Memory is a memfd, so ranks may be threads or processes.
//
// Multicast objects are files that name their members' memory; what is done at a multicast address
// asks multicast_of, and anything else there is an access to memory of nobody.
//
// As with CUDA, nothing may be touched before cuMemSetAccess, sizes are multiples of the
// granularity, and a process cannot open its own cudaIpc handle.
#ifndef PHALANX_KERNELS_EMU_DRIVER_HPP
#define PHALANX_KERNELS_EMU_DRIVER_HPP

#include "kernels/emu/runtime.hpp"

#include <vector>

typedef int CUdevice;
typedef unsigned long long CUdeviceptr, CUmemGenericAllocationHandle, cuuint64_t;

enum CUresult {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_INVALID_HANDLE = 400,
};
enum CUmemAllocationType { CU_MEM_ALLOCATION_TYPE_PINNED = 1 };
enum CUmemAllocationHandleType { CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR = 1 };
enum CUmemLocationType { CU_MEM_LOCATION_TYPE_DEVICE = 1 };
enum CUmemAccess_flags { CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3 };
enum CUmemAllocationGranularity_flags { CU_MEM_ALLOC_GRANULARITY_RECOMMENDED = 1 };
enum CUmulticastGranularity_flags { CU_MULTICAST_GRANULARITY_MINIMUM = 0 };
enum CUdevice_attribute { CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED = 132 };

struct CUmemLocation {
    CUmemLocationType type;
    int id;
};
struct CUmemAllocationProp {
    CUmemAllocationType type;
    CUmemAllocationHandleType requestedHandleTypes;
    CUmemLocation location;
};
struct CUmemAccessDesc {
    CUmemLocation location;
    CUmemAccess_flags flags;
};

CUresult cuGetErrorString(CUresult r, const char **text);
CUresult cuMemGetAllocationGranularity(
    std::size_t *bytes, const CUmemAllocationProp *p, CUmemAllocationGranularity_flags which);
CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, std::size_t bytes,
    const CUmemAllocationProp *p, unsigned long long flags);
CUresult cuMemRelease(CUmemGenericAllocationHandle handle);
CUresult cuMemExportToShareableHandle(void *fd, CUmemGenericAllocationHandle handle,
    CUmemAllocationHandleType type, unsigned long long flags);
CUresult cuMemImportFromShareableHandle(
    CUmemGenericAllocationHandle *handle, void *fd, CUmemAllocationHandleType type);
CUresult cuMemAddressReserve(CUdeviceptr *at, std::size_t bytes, std::size_t alignment,
    CUdeviceptr wanted, unsigned long long flags);
CUresult cuMemAddressFree(CUdeviceptr at, std::size_t bytes);
CUresult cuMemMap(CUdeviceptr at, std::size_t bytes, std::size_t offset,
    CUmemGenericAllocationHandle handle, unsigned long long flags);
CUresult cuMemUnmap(CUdeviceptr at, std::size_t bytes);
CUresult cuMemSetAccess(
    CUdeviceptr at, std::size_t bytes, const CUmemAccessDesc *access, std::size_t n);

struct CUmulticastObjectProp {
    unsigned numDevices;
    std::size_t size;
    unsigned long long handleTypes, flags;
};
CUresult cuDeviceGet(CUdevice *device, int ordinal);
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device);
CUresult cuMulticastGetGranularity(
    std::size_t *bytes, const CUmulticastObjectProp *p, CUmulticastGranularity_flags which);
CUresult cuMulticastCreate(CUmemGenericAllocationHandle *handle, const CUmulticastObjectProp *p);
CUresult cuMulticastAddDevice(CUmemGenericAllocationHandle handle, CUdevice device);
// A device would wait until all have been added; here it is an error.
CUresult cuMulticastBindMem(CUmemGenericAllocationHandle handle, std::size_t offset,
    CUmemGenericAllocationHandle memory, std::size_t memory_offset, std::size_t bytes,
    unsigned long long flags);
CUresult cuMulticastUnbind(
    CUmemGenericAllocationHandle handle, CUdevice device, std::size_t offset, std::size_t bytes);

enum cudaDriverEntryPointQueryResult {
    cudaDriverEntryPointSuccess = 0,
    cudaDriverEntryPointSymbolNotFound = 1,
};
constexpr unsigned long long cudaEnableDefault = 0;
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **to, unsigned version,
    unsigned long long flags, cudaDriverEntryPointQueryResult *result);

struct cudaIpcMemHandle_t {
    char reserved[64];
};
constexpr unsigned cudaIpcMemLazyEnablePeerAccess = 1;
// Memory of cudaMalloc in whole blocks of 2 MiB only: shorter ones are not shared here.
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *p);
cudaError_t cudaIpcOpenMemHandle(void **p, cudaIpcMemHandle_t handle, unsigned flags);
cudaError_t cudaIpcCloseMemHandle(void *p);

namespace emu
{

constexpr std::size_t share_block = 2u << 20;

// For cudaMalloc and cudaFree: whole blocks are memfds, with a page behind them that nobody may
// touch. `share_free` says whether p was one.
void *share_malloc(std::size_t bytes);
bool share_free(void *p);

// What a multicast address stands for: the same place in the memory of every member, in the order
// in which they were bound. Empty: it is none, or some member has not bound its memory yet.
std::vector<void *> multicast_of(const void *p);

} // namespace emu

#endif
