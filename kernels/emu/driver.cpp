// SPDX-License-Identifier: Apache-2.0
#include "kernels/emu/driver.hpp"

#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <map>
#include <mutex>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace
{

constexpr std::size_t page = 4096;
constexpr unsigned ipc_magic = 0x49504345;

// What cudaIpc has of this process: memory of cudaMalloc by address, and what was opened.
struct shared_block {
    int fd; // -1: another process's
    std::size_t bytes;
};

struct blocks {
    std::mutex lock;
    std::map<void *, shared_block> at;
};

blocks &all_blocks()
{
    static blocks b;
    return b;
}

// In the 64 bytes of a handle.
struct ipc_name {
    unsigned magic;
    pid_t pid;
    int fd;
    std::size_t bytes;
};

int file_of(std::size_t bytes)
{
    int fd = memfd_create("emulated-device", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

void *at_address(CUdeviceptr at)
{
    return reinterpret_cast<void *>(at);
}

// A handle is a file descriptor + 1, so that 0 is none.
int fd_of(CUmemGenericAllocationHandle handle)
{
    return static_cast<int>(handle) - 1;
}

// Maps `bytes` of the file between the address of nobody and a page of nobody.
void *map_file(int fd, std::size_t bytes)
{
    char *p = static_cast<char *>(
        mmap(nullptr, bytes + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (p == MAP_FAILED)
        return nullptr;
    if (mmap(p, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        munmap(p, bytes + page);
        return nullptr;
    }
    return p;
}

void remember(void *p, int fd, std::size_t bytes)
{
    std::lock_guard<std::mutex> held(all_blocks().lock);
    all_blocks().at[p] = {fd, bytes};
}

bool forget(void *p)
{
    shared_block b;
    {
        std::lock_guard<std::mutex> held(all_blocks().lock);
        auto found = all_blocks().at.find(p);
        if (found == all_blocks().at.end())
            return false;
        b = found->second;
        all_blocks().at.erase(found);
    }
    munmap(p, b.bytes + page);
    if (b.fd >= 0)
        close(b.fd);
    return true;
}

} // namespace

namespace emu
{

void *share_malloc(std::size_t bytes)
{
    int fd = file_of(bytes);
    void *p = fd >= 0 ? map_file(fd, bytes) : nullptr;
    if (p != nullptr)
        remember(p, fd, bytes);
    else if (fd >= 0)
        close(fd);
    return p;
}

bool share_free(void *p)
{
    return forget(p);
}

} // namespace emu

CUresult cuGetErrorString(CUresult r, const char **text)
{
    *text = r == CUDA_SUCCESS               ? "no error"
            : r == CUDA_ERROR_INVALID_VALUE ? "invalid argument"
            : r == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory"
                                            : "invalid resource handle";
    return CUDA_SUCCESS;
}

CUresult cuMemGetAllocationGranularity(
    std::size_t *bytes, const CUmemAllocationProp *, CUmemAllocationGranularity_flags)
{
    *bytes = emu::share_block;
    return CUDA_SUCCESS;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, std::size_t bytes,
    const CUmemAllocationProp *p, unsigned long long flags)
{
    if (bytes == 0 || bytes % emu::share_block != 0 || flags != 0 ||
        p->type != CU_MEM_ALLOCATION_TYPE_PINNED || p->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_INVALID_VALUE;
    int fd = file_of(bytes);
    if (fd < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = static_cast<CUmemGenericAllocationHandle>(fd) + 1;
    return CUDA_SUCCESS;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    return close(fd_of(handle)) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuMemExportToShareableHandle(void *fd, CUmemGenericAllocationHandle handle,
    CUmemAllocationHandleType type, unsigned long long)
{
    int copy = fcntl(fd_of(handle), F_DUPFD_CLOEXEC, 0);
    if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || copy < 0)
        return CUDA_ERROR_INVALID_HANDLE;
    *static_cast<int *>(fd) = copy;
    return CUDA_SUCCESS;
}

CUresult cuMemImportFromShareableHandle(
    CUmemGenericAllocationHandle *handle, void *fd, CUmemAllocationHandleType type)
{
    int given = static_cast<int>(reinterpret_cast<std::uintptr_t>(fd));
    int copy = fcntl(given, F_DUPFD_CLOEXEC, 0);
    if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || copy < 0)
        return CUDA_ERROR_INVALID_HANDLE;
    *handle = static_cast<CUmemGenericAllocationHandle>(copy) + 1;
    return CUDA_SUCCESS;
}

CUresult cuMemAddressReserve(
    CUdeviceptr *at, std::size_t bytes, std::size_t, CUdeviceptr, unsigned long long)
{
    void *p = mmap(nullptr, bytes + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *at = reinterpret_cast<CUdeviceptr>(p);
    return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr at, std::size_t bytes)
{
    return munmap(at_address(at), bytes + page) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// Nothing may be touched until cuMemSetAccess.
CUresult cuMemMap(CUdeviceptr at, std::size_t bytes, std::size_t offset,
    CUmemGenericAllocationHandle handle, unsigned long long)
{
    struct stat file;
    if (fstat(fd_of(handle), &file) != 0)
        return CUDA_ERROR_INVALID_HANDLE;
    if (offset != 0 || static_cast<std::size_t>(file.st_size) != bytes)
        return CUDA_ERROR_INVALID_VALUE;
    void *p = mmap(at_address(at), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, fd_of(handle), 0);
    return p == MAP_FAILED ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuMemUnmap(CUdeviceptr at, std::size_t bytes)
{
    void *p =
        mmap(at_address(at), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    return p == MAP_FAILED ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuMemSetAccess(
    CUdeviceptr at, std::size_t bytes, const CUmemAccessDesc *access, std::size_t n)
{
    if (n != 1 || access->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE ||
        mprotect(at_address(at), bytes, PROT_READ | PROT_WRITE) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **to, unsigned,
    unsigned long long, cudaDriverEntryPointQueryResult *result)
{
    static const struct {
        const char *name;
        void *function;
    } known[] = {
        {"cuGetErrorString", reinterpret_cast<void *>(&cuGetErrorString)},
        {"cuMemGetAllocationGranularity", reinterpret_cast<void *>(&cuMemGetAllocationGranularity)},
        {"cuMemCreate", reinterpret_cast<void *>(&cuMemCreate)},
        {"cuMemRelease", reinterpret_cast<void *>(&cuMemRelease)},
        {"cuMemExportToShareableHandle", reinterpret_cast<void *>(&cuMemExportToShareableHandle)},
        {"cuMemImportFromShareableHandle",
            reinterpret_cast<void *>(&cuMemImportFromShareableHandle)},
        {"cuMemAddressReserve", reinterpret_cast<void *>(&cuMemAddressReserve)},
        {"cuMemAddressFree", reinterpret_cast<void *>(&cuMemAddressFree)},
        {"cuMemMap", reinterpret_cast<void *>(&cuMemMap)},
        {"cuMemUnmap", reinterpret_cast<void *>(&cuMemUnmap)},
        {"cuMemSetAccess", reinterpret_cast<void *>(&cuMemSetAccess)},
    };
    *result = cudaDriverEntryPointSymbolNotFound;
    for (const auto &k : known)
        if (std::strcmp(k.name, name) == 0) {
            *to = k.function;
            *result = cudaDriverEntryPointSuccess;
        }
    return cudaSuccess;
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *p)
{
    ipc_name name = {ipc_magic, getpid(), -1, 0};
    std::lock_guard<std::mutex> held(all_blocks().lock);
    auto found = all_blocks().at.find(p);
    if (found == all_blocks().at.end() || found->second.fd < 0)
        return cudaErrorInvalidValue;
    name.fd = found->second.fd;
    name.bytes = found->second.bytes;
    *handle = {};
    std::memcpy(handle, &name, sizeof name);
    return cudaSuccess;
}

cudaError_t cudaIpcOpenMemHandle(void **p, cudaIpcMemHandle_t handle, unsigned)
{
    ipc_name name;
    char path[64];
    std::memcpy(&name, &handle, sizeof name);
    if (name.magic != ipc_magic || name.pid == getpid())
        return cudaErrorInvalidValue;
    std::snprintf(path, sizeof path, "/proc/%d/fd/%d", static_cast<int>(name.pid), name.fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    void *at = fd >= 0 ? map_file(fd, name.bytes) : nullptr;
    if (fd >= 0)
        close(fd);
    if (at == nullptr)
        return cudaErrorInvalidValue;
    remember(at, -1, name.bytes);
    *p = at;
    return cudaSuccess;
}

cudaError_t cudaIpcCloseMemHandle(void *p)
{
    return forget(p) ? cudaSuccess : cudaErrorInvalidValue;
}
