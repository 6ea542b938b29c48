// SPDX-License-Identifier: Apache-2.0
// The host's side of the emulator: the part of the CUDA runtime that the back end calls, under its
// own names, so that the same source starts kernels here and on a device.
//
// A stream is a queue. Nothing in it happens before the host waits for it (a synchronise, a query
// or an event): so a host that reads a result, or reuses a source, too early is found out. While it
// waits, all streams of its operating-system thread move on together, in random order. Streams and
// events belong to the thread that made them. An error of a launch is sticky until emu_reset.
#ifndef PHALANX_KERNELS_EMU_RUNTIME_HPP
#define PHALANX_KERNELS_EMU_RUNTIME_HPP

#include "kernels/emu/emu.hpp"

#include <functional>
#include <type_traits>

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorNotReady = 600,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900,
};
enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault,
};
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal,
    cudaStreamCaptureModeThreadLocal,
    cudaStreamCaptureModeRelaxed,
};
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
struct cudaUUID_t {
    char bytes[16];
};
struct cudaDeviceProp {
    char name[256];
    cudaUUID_t uuid;
    std::size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocMapped = 2,
                   cudaHostAllocPortable = 1;

typedef struct emu_stream *cudaStream_t;
typedef struct emu_event *cudaEvent_t;
typedef struct emu_graph *cudaGraph_t;
typedef struct emu_graph *cudaGraphExec_t;
typedef void (*cudaHostFn_t)(void *);

// One device, an sm_80 with few processors, whose memory is the host's, or as much of it as
// PHALANX_EMU_MEMORY says.
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int index);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int index);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr a, int index);
cudaError_t cudaMemGetInfo(std::size_t *free_bytes, std::size_t *total_bytes);

cudaError_t cudaMalloc(void **p, std::size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaHostAlloc(void **p, std::size_t bytes, unsigned flags);
cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpy(void *to, const void *from, std::size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(
    void *to, const void *from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemcpy2DAsync(void *to, std::size_t to_pitch, const void *from,
    std::size_t from_pitch, std::size_t width, std::size_t height, cudaMemcpyKind kind,
    cudaStream_t s);
cudaError_t cudaMemset(void *p, int value, std::size_t bytes);
cudaError_t cudaMemsetAsync(void *p, int value, std::size_t bytes, cudaStream_t s);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamQuery(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
// No two streams of a process have the same, also one after the other.
cudaError_t cudaStreamGetId(cudaStream_t s, unsigned long long *id);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t fn, void *argument);

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end);

// A graph is the recorded list of what a capture saw in one stream.
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *status);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x);

cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char *cudaGetErrorName(cudaError_t e);
const char *cudaGetErrorString(cudaError_t e);

namespace emu
{
cudaError_t set_dynamic_limit(const void *kernel, int bytes);
cudaError_t start(const void *kernel, dim3 grid, dim3 block, std::size_t dynamic_bytes,
    bool cooperative, bool overlaps, cudaStream_t s, std::function<void()> body);
} // namespace emu

template <class... P>
inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute a, int value)
{
    if (a != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess;
    return emu::set_dynamic_limit(reinterpret_cast<const void *>(kernel), value);
}

// The order of everything that follows on this operating-system thread.
void emu_seed(std::uint64_t seed);
// What the first launch that failed said; empty when none has.
const char *emu_sentence();
// How many kernels of this operating-system thread have begun so far, also out of graphs.
unsigned long long emu_launches();
// Forgets all launches and queued work of this thread, and its error.
void emu_reset();

#endif
