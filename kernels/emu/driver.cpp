// SPDX-License-Identifier: Apache-2.0
#include "kernels/emu/driver.hpp"

#include "kernels/emu/memory.hpp"

#include <atomic>
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

// What stands for the memory of a handle where memory is counted: no allocation's address.
const void *place_of(int fd)
{
    return reinterpret_cast<const void *>(static_cast<std::uintptr_t>(fd) + 1);
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

// A multicast object, in a file of one page: who has entered, and whose memory was bound.
struct multicast {
    unsigned devices;
    std::size_t bytes;
    std::atomic<unsigned> entered, bound, ready;
    struct {
        pid_t pid;
        int fd;
    } member[64];
};
static_assert(sizeof(multicast) <= page, "one page");

bool is_multicast(int fd)
{
    struct stat file;
    return fstat(fd, &file) == 0 && static_cast<std::size_t>(file.st_size) == page;
}

multicast *multicast_at(int fd)
{
    if (!is_multicast(fd))
        return nullptr;
    void *p = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? nullptr : static_cast<multicast *>(p);
}

// Where an object has been mapped, and what of its members has been mapped for it since.
struct multicast_place {
    int fd;
    std::size_t bytes;
    std::vector<char *> members;
};

struct places {
    std::mutex lock;
    std::map<const char *, multicast_place> at;
};

places &all_places()
{
    static places p;
    return p;
}

void map_members(multicast_place &place)
{
    multicast *m = multicast_at(place.fd);
    for (unsigned i = 0; m != nullptr && m->ready == m->devices && i < m->devices; i++) {
        char path[64];
        std::snprintf(path, sizeof path, "/proc/%d/fd/%d", static_cast<int>(m->member[i].pid),
            m->member[i].fd);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        void *p = fd >= 0 ? map_file(fd, place.bytes) : nullptr;
        if (fd >= 0)
            close(fd);
        if (p == nullptr)
            break;
        place.members.push_back(static_cast<char *>(p));
    }
    if (m != nullptr)
        munmap(m, page);
}

bool is_place(CUdeviceptr at)
{
    std::lock_guard<std::mutex> held(all_places().lock);
    return all_places().at.count(static_cast<const char *>(at_address(at))) != 0;
}

void leave_place(CUdeviceptr at)
{
    std::lock_guard<std::mutex> held(all_places().lock);
    auto found = all_places().at.find(static_cast<const char *>(at_address(at)));
    if (found == all_places().at.end())
        return;
    for (char *p : found->second.members)
        munmap(p, found->second.bytes + page);
    close(found->second.fd);
    all_places().at.erase(found);
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

std::vector<void *> multicast_of(const void *p)
{
    std::lock_guard<std::mutex> held(all_places().lock);
    std::vector<void *> all;
    auto next = all_places().at.upper_bound(static_cast<const char *>(p));
    if (next == all_places().at.begin())
        return all;
    auto &[begin, place] = *--next;
    std::size_t offset = static_cast<std::size_t>(static_cast<const char *>(p) - begin);
    if (offset >= place.bytes)
        return all;
    if (place.members.empty())
        map_members(place);
    for (char *m : place.members)
        all.push_back(m + offset);
    return all;
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
    if (!emu::memory_count(place_of(fd), bytes)) {
        close(fd);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *handle = static_cast<CUmemGenericAllocationHandle>(fd) + 1;
    return CUDA_SUCCESS;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    emu::memory_forget(place_of(fd_of(handle)));
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
    if (is_multicast(fd_of(handle))) {
        std::lock_guard<std::mutex> held(all_places().lock);
        all_places().at[static_cast<const char *>(at_address(at))] = {
            fcntl(fd_of(handle), F_DUPFD_CLOEXEC, 0), bytes, {}};
        return CUDA_SUCCESS;
    }
    if (offset != 0 || static_cast<std::size_t>(file.st_size) != bytes)
        return CUDA_ERROR_INVALID_VALUE;
    void *p = mmap(at_address(at), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, fd_of(handle), 0);
    return p == MAP_FAILED ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuMemUnmap(CUdeviceptr at, std::size_t bytes)
{
    leave_place(at);
    void *p =
        mmap(at_address(at), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    return p == MAP_FAILED ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuMemSetAccess(
    CUdeviceptr at, std::size_t bytes, const CUmemAccessDesc *access, std::size_t n)
{
    if (n == 1 && is_place(at))
        return CUDA_SUCCESS; // and memory of nobody: only what asks multicast_of may work there
    if (n != 1 || access->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE ||
        mprotect(at_address(at), bytes, PROT_READ | PROT_WRITE) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice)
{
    *value = which == CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED;
    return CUDA_SUCCESS;
}

CUresult cuMulticastGetGranularity(
    std::size_t *bytes, const CUmulticastObjectProp *, CUmulticastGranularity_flags)
{
    *bytes = emu::share_block;
    return CUDA_SUCCESS;
}

CUresult cuMulticastCreate(CUmemGenericAllocationHandle *handle, const CUmulticastObjectProp *p)
{
    if (p->numDevices < 1 || p->numDevices > 64 || p->size == 0 ||
        p->size % emu::share_block != 0 ||
        p->handleTypes != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        return CUDA_ERROR_INVALID_VALUE;
    int fd = file_of(page);
    multicast *m = fd >= 0 ? multicast_at(fd) : nullptr;
    if (m == nullptr) {
        if (fd >= 0)
            close(fd);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    m->devices = p->numDevices;
    m->bytes = p->size;
    munmap(m, page);
    *handle = static_cast<CUmemGenericAllocationHandle>(fd) + 1;
    return CUDA_SUCCESS;
}

CUresult cuMulticastAddDevice(CUmemGenericAllocationHandle handle, CUdevice)
{
    multicast *m = multicast_at(fd_of(handle));
    if (m == nullptr)
        return CUDA_ERROR_INVALID_HANDLE;
    bool fits = m->entered.fetch_add(1) < m->devices;
    munmap(m, page);
    return fits ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMulticastBindMem(CUmemGenericAllocationHandle handle, std::size_t offset,
    CUmemGenericAllocationHandle memory, std::size_t memory_offset, std::size_t bytes,
    unsigned long long)
{
    multicast *m = multicast_at(fd_of(handle));
    if (m == nullptr)
        return CUDA_ERROR_INVALID_HANDLE;
    bool fits = offset == 0 && memory_offset == 0 && bytes == m->bytes && m->entered == m->devices;
    unsigned i = fits ? m->bound.fetch_add(1) : m->devices;
    fits = fits && i < m->devices;
    if (fits) {
        m->member[i] = {getpid(), fd_of(memory)};
        m->ready.fetch_add(1);
    }
    munmap(m, page);
    return fits ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMulticastUnbind(CUmemGenericAllocationHandle, CUdevice, std::size_t, std::size_t)
{
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
        {"cuDeviceGet", reinterpret_cast<void *>(&cuDeviceGet)},
        {"cuDeviceGetAttribute", reinterpret_cast<void *>(&cuDeviceGetAttribute)},
        {"cuMulticastGetGranularity", reinterpret_cast<void *>(&cuMulticastGetGranularity)},
        {"cuMulticastCreate", reinterpret_cast<void *>(&cuMulticastCreate)},
        {"cuMulticastAddDevice", reinterpret_cast<void *>(&cuMulticastAddDevice)},
        {"cuMulticastBindMem", reinterpret_cast<void *>(&cuMulticastBindMem)},
        {"cuMulticastUnbind", reinterpret_cast<void *>(&cuMulticastUnbind)},
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
