// SPDX-License-Identifier: Apache-2.0
// Fibres: stacks that take turns on one operating-system thread. Each emulated CUDA thread runs on
// one. A fibre is used for one function after the other; it belongs to the thread that made it.
//
// The sanitizers are told of every switch. To the thread sanitizer each fibre is a thread of its
// own, and a switch orders nothing: only what the emulated program does to synchronise (barriers,
// acquire and release, the border of a kernel) makes accesses of different fibres ordered. So a
// missing barrier is reported as a race although the fibres never run at the same time.
#ifndef PHALANX_KERNELS_EMU_FIBRE_HPP
#define PHALANX_KERNELS_EMU_FIBRE_HPP

#include <cstddef>

namespace emu
{

struct fibre;

// Room for the registers of a kernel that keeps large arrays, and for unoptimised builds.
constexpr std::size_t fibre_stack_bytes = 256 * 1024;

// nullptr when the system gives no more memory.
fibre *fibre_make();
void fibre_free(fibre *f);
// Says what the next resume begins. What ran on the fibre before has ended or been abandoned.
void fibre_begin(fibre *f, void (*run)(void *), void *argument);
// Gives up what runs on it, where it stands.
void fibre_abandon(fibre *f);
// From outside of fibres: goes on with `f` until it pauses or its function returns (then true).
bool fibre_resume(fibre *f);
// From within: back to the one who resumed.
void fibre_pause();

} // namespace emu

#endif
