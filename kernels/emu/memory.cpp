// SPDX-License-Identifier: Apache-2.0
// The emulated device's memory is the process's: all its threads share it, as ranks do that share
// a device. PHALANX_EMU_MEMORY=BYTES makes it as small as a test wants it.
#include "kernels/emu/memory.hpp"

extern "C" {
#include "base/config.h"
}
#include "kernels/emu/driver.hpp"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <unistd.h>

namespace
{

struct memory {
    std::mutex lock;
    std::map<const void *, std::size_t> taken;
    std::size_t bytes;
};

memory &all()
{
    static memory m;
    return m;
}

std::size_t pages(int which)
{
    return static_cast<std::size_t>(sysconf(which)) *
           static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

// 0: as much as the host has.
std::size_t limit()
{
    const char *text = config_env("PHALANX_EMU_MEMORY");
    std::uint64_t bytes = 0;
    return text != nullptr && config_bytes_parse(text, &bytes) ? bytes : 0;
}

// Exactly as long as asked for, so that the address sanitizer sees the first byte beyond; whole
// blocks can be shared with other processes.
void *host_take(std::size_t bytes)
{
    void *got = nullptr;
    if (bytes != 0 && bytes % emu::share_block == 0)
        return emu::share_malloc(bytes);
    return posix_memalign(&got, 256, bytes) == 0 ? got : nullptr;
}

} // namespace

namespace emu
{

bool memory_count(const void *p, std::size_t bytes)
{
    memory &m = all();
    std::lock_guard<std::mutex> held(m.lock);
    std::size_t most = limit();
    if (most != 0 && (bytes > most || m.bytes > most - bytes))
        return false;
    m.taken[p] = bytes;
    m.bytes += bytes;
    return true;
}

void memory_forget(const void *p)
{
    memory &m = all();
    std::lock_guard<std::mutex> held(m.lock);
    auto found = m.taken.find(p);
    if (found == m.taken.end())
        return;
    m.bytes -= found->second;
    m.taken.erase(found);
}

void memory_info(std::size_t *free_bytes, std::size_t *total_bytes)
{
    memory &m = all();
    std::lock_guard<std::mutex> held(m.lock);
    std::size_t most = limit();
    *total_bytes = most != 0 ? most : pages(_SC_PHYS_PAGES);
    *free_bytes = most == 0 ? pages(_SC_AVPHYS_PAGES) : m.bytes < most ? most - m.bytes : 0;
}

// Filled with ones: nothing may count on zeros.
void *memory_take(std::size_t bytes, bool on_device)
{
    void *got = host_take(bytes);
    if (got == nullptr)
        return nullptr;
    if (on_device && !memory_count(got, bytes)) {
        memory_give(got);
        return nullptr;
    }
    std::memset(got, 0xff, bytes);
    return got;
}

void memory_give(void *p)
{
    memory_forget(p);
    if (!share_free(p))
        std::free(p);
}

} // namespace emu
