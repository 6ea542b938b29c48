// SPDX-License-Identifier: Apache-2.0
// How much memory the emulated device has, and who has it. Any thread may call.
#ifndef PHALANX_KERNELS_EMU_MEMORY_HPP
#define PHALANX_KERNELS_EMU_MEMORY_HPP

#include <cstddef>

namespace emu
{

// Memory of the device, or of the host where copies begin and end; nullptr when there is none.
void *memory_take(std::size_t bytes, bool on_device);
void memory_give(void *p);
// Counts memory of the device that was taken otherwise; false where it would be more than there is.
bool memory_count(const void *p, std::size_t bytes);
void memory_forget(const void *p);
void memory_info(std::size_t *free_bytes, std::size_t *total_bytes);

} // namespace emu

#endif
