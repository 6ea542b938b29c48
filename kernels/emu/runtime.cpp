// SPDX-License-Identifier: Apache-2.0
#include "kernels/emu/driver.hpp"

#include "kernels/emu/machine.hpp"
#include "kernels/emu/memory.hpp"
#include "kernels/emu/sanitize.hpp"

#include <atomic>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>

struct emu_event {
    std::uint64_t asked, done; // how often recorded into a queue, and reached
    std::uint64_t at_ns;
};

namespace
{

enum class does { kernel, host, record, wait };

struct step {
    does kind;
    std::shared_ptr<const emu::launch_request> kernel;
    std::function<void()> host;
    emu_event *event;
    std::uint64_t count; // of the event
};

} // namespace

struct emu_graph {
    std::vector<step> steps;
};

struct emu_stream {
    std::deque<step> queue;
    std::deque<emu::launch *> running; // more than one where kernels overlap; the oldest is first
    emu_graph *capture;
    unsigned long long id;
};

namespace
{

constexpr std::size_t default_dynamic_bytes = 48 * 1024;
constexpr std::size_t chain_max = 3; // kernels of a stream that run at once

unsigned long long next_id()
{
    static std::atomic<unsigned long long> n;
    return ++n;
}

struct streams {
    emu_stream null = {{}, {}, nullptr, next_id()};
    std::vector<emu_stream *> all = {&null};
    cudaError_t last = cudaSuccess;
};

streams &mine()
{
    static thread_local streams s;
    return s;
}

emu_stream *stream_of(cudaStream_t s)
{
    return s == nullptr ? &mine().null : s;
}

cudaError_t give(cudaError_t e)
{
    if (e != cudaSuccess)
        mine().last = e;
    return e;
}

bool busy(const emu_stream *s)
{
    return !s->running.empty() || !s->queue.empty();
}

// Whether a kernel begins now while the ones before it run: never, at once or some time, as was
// drawn for the last of them. A device is more patient: it waits until all of their blocks have
// begun.
bool overtakes(const emu_stream *s, const step &next)
{
    return next.kind == does::kernel && next.kernel->overlaps && s->running.size() < chain_max &&
           s->running.back()->patience > 0 && emu::draw(s->running.back()->patience) == 0;
}

bool retire(emu_stream *s)
{
    emu::launch *l = s->running.front();
    if (!l->finished)
        return false;
    emu::sanitize_acquire(&l->ended);
    emu::here().end(l);
    s->running.pop_front();
    if (!s->running.empty())
        emu::here().release(s->running.front());
    return true;
}

// Does the first step of the queue if its turn has come; false when it cannot go on.
bool advance(emu_stream *s)
{
    emu::machine &m = emu::here();
    if (!s->running.empty() && retire(s))
        return true;
    if (s->queue.empty())
        return false;
    step &first = s->queue.front();
    if (!s->running.empty() && !overtakes(s, first))
        return false;
    if (first.kind == does::wait && first.event->done < first.count)
        return false;
    step now = std::move(first);
    s->queue.pop_front();
    if (now.kind == does::kernel)
        s->running.push_back(m.begin(std::move(now.kernel), s->running.empty()));
    else if (now.kind == does::host)
        now.host();
    if (now.kind == does::record) {
        now.event->done++;
        now.event->at_ns = emu::now_ns();
    }
    return true;
}

bool advance_one()
{
    std::vector<emu_stream *> &all = mine().all;
    std::uint32_t n = static_cast<std::uint32_t>(all.size()), first = emu::draw(n);
    for (std::uint32_t i = 0; i < n; i++)
        if (advance(all[(first + i) % n]))
            return true;
    return false;
}

// Moves everything on until `done` says that the host need not wait any more.
template <class F> cudaError_t run_until(F done)
{
    emu::machine &m = emu::here();
    while (!m.failed && !done())
        if (!advance_one() && !m.turn() && !m.failed)
            m.explain_deadlock();
    emu::sanitize_acquire(&m.failed);
    return give(m.failed ? cudaErrorLaunchFailure : cudaSuccess);
}

cudaError_t enqueue(cudaStream_t s, step what)
{
    if (emu::here().failed)
        return give(cudaErrorLaunchFailure);
    emu_stream *q = stream_of(s);
    if (q->capture != nullptr)
        q->capture->steps.push_back(std::move(what));
    else
        q->queue.push_back(std::move(what));
    return cudaSuccess;
}

cudaError_t enqueue_host(cudaStream_t s, std::function<void()> f)
{
    return enqueue(s, {does::host, nullptr, std::move(f), nullptr, 0});
}

bool capturing()
{
    for (const emu_stream *s : mine().all)
        if (s->capture != nullptr)
            return true;
    return false;
}

// The process's, as functions are.
struct limits {
    std::mutex lock;
    std::map<const void *, std::size_t> dynamic;
};

limits &kernel_limits()
{
    static limits l;
    return l;
}

std::size_t dynamic_limit(const void *kernel)
{
    limits &l = kernel_limits();
    std::lock_guard<std::mutex> held(l.lock);
    auto found = l.dynamic.find(kernel);
    return found == l.dynamic.end() ? default_dynamic_bytes : found->second;
}

} // namespace

namespace emu
{

cudaError_t set_dynamic_limit(const void *kernel, int bytes)
{
    if (bytes < 0 || static_cast<std::size_t>(bytes) > shared_bytes_max)
        return give(cudaErrorInvalidValue);
    limits &l = kernel_limits();
    std::lock_guard<std::mutex> held(l.lock);
    l.dynamic[kernel] = static_cast<std::size_t>(bytes);
    return cudaSuccess;
}

cudaError_t start(const void *kernel, dim3 grid, dim3 block, std::size_t dynamic_bytes,
    bool cooperative, bool overlaps, cudaStream_t s, std::function<void()> body)
{
    unsigned long long threads = 1ull * block.x * block.y * block.z;
    unsigned long long blocks = 1ull * grid.x * grid.y * grid.z;
    if (threads == 0 || threads > block_threads_max || blocks == 0 || blocks > 0x7fffffff ||
        grid.y > 65535 || grid.z > 65535 || block.z > 64 || dynamic_bytes > dynamic_limit(kernel))
        return give(cudaErrorInvalidConfiguration);
    auto r = std::make_shared<launch_request>();
    r->grid = grid;
    r->block = block;
    r->dynamic_bytes = dynamic_bytes;
    r->cooperative = cooperative;
    r->overlaps = overlaps;
    r->body = std::move(body);
    return enqueue(s, {does::kernel, std::move(r), nullptr, nullptr, 0});
}

} // namespace emu

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int index)
{
    return give(index == 0 ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaMemGetInfo(std::size_t *free_bytes, std::size_t *total_bytes)
{
    emu::memory_info(free_bytes, total_bytes);
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int index)
{
    if (index != 0)
        return give(cudaErrorInvalidValue);
    *p = cudaDeviceProp();
    std::memcpy(p->name, "emulated", sizeof "emulated");
    std::memcpy(p->uuid.bytes, "emulated device", sizeof p->uuid.bytes);
    std::size_t free_bytes;
    cudaMemGetInfo(&free_bytes, &p->totalGlobalMem);
    p->major = 8;
    p->multiProcessorCount = 4;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr a, int index)
{
    if (index != 0 || a != cudaDevAttrMaxSharedMemoryPerBlockOptin)
        return give(cudaErrorInvalidValue);
    *value = 163 << 10;
    return cudaSuccess;
}

static cudaError_t take(void **p, std::size_t bytes, bool on_device)
{
    void *got = emu::memory_take(bytes, on_device);
    if (got == nullptr)
        return give(cudaErrorMemoryAllocation);
    *p = got;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **p, std::size_t bytes)
{
    return take(p, bytes, true);
}

cudaError_t cudaFree(void *p)
{
    cudaError_t e = cudaDeviceSynchronize();
    emu::memory_give(p);
    return e;
}

cudaError_t cudaHostAlloc(void **p, std::size_t bytes, unsigned)
{
    return take(p, bytes, false);
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned)
{
    *device = host;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    return cudaFree(p);
}

cudaError_t cudaMemcpy(void *to, const void *from, std::size_t bytes, cudaMemcpyKind kind)
{
    cudaError_t e = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    return e != cudaSuccess ? e : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemcpyAsync(
    void *to, const void *from, std::size_t bytes, cudaMemcpyKind, cudaStream_t s)
{
    return enqueue_host(s, [=] { std::memcpy(to, from, bytes); });
}

cudaError_t cudaMemcpy2DAsync(void *to, std::size_t to_pitch, const void *from,
    std::size_t from_pitch, std::size_t width, std::size_t height, cudaMemcpyKind, cudaStream_t s)
{
    if (width > to_pitch || width > from_pitch)
        return give(cudaErrorInvalidValue);
    return enqueue_host(s, [=] {
        for (std::size_t i = 0; i < height; i++)
            std::memcpy(static_cast<char *>(to) + i * to_pitch,
                static_cast<const char *>(from) + i * from_pitch, width);
    });
}

cudaError_t cudaMemset(void *p, int value, std::size_t bytes)
{
    cudaError_t e = cudaMemsetAsync(p, value, bytes, nullptr);
    return e != cudaSuccess ? e : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void *p, int value, std::size_t bytes, cudaStream_t s)
{
    return enqueue_host(s, [=] { std::memset(p, value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = new emu_stream{{}, {}, nullptr, next_id()};
    mine().all.push_back(*s);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    cudaError_t e = cudaStreamSynchronize(s);
    std::vector<emu_stream *> &all = mine().all;
    for (std::size_t i = 1; i < all.size(); i++)
        if (all[i] == s) {
            all.erase(all.begin() + static_cast<std::ptrdiff_t>(i));
            delete s;
            break;
        }
    return e;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    emu_stream *q = stream_of(s);
    if (q->capture != nullptr)
        return give(cudaErrorStreamCaptureUnsupported);
    return run_until([q] { return !busy(q); });
}

cudaError_t cudaStreamQuery(cudaStream_t s)
{
    if (stream_of(s)->capture != nullptr)
        return give(cudaErrorStreamCaptureUnsupported);
    emu::machine &m = emu::here();
    for (std::uint32_t n = emu::draw(64); n > 0 && !m.failed; n--)
        if (!advance_one())
            m.turn();
    if (m.failed)
        return give(cudaErrorLaunchFailure);
    return busy(stream_of(s)) ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    return enqueue(s, {does::wait, nullptr, nullptr, e, e->asked});
}

cudaError_t cudaStreamGetId(cudaStream_t s, unsigned long long *id)
{
    *id = stream_of(s)->id;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize()
{
    if (capturing())
        return give(cudaErrorStreamCaptureUnsupported);
    return run_until([] {
        for (const emu_stream *s : mine().all)
            if (busy(s))
                return false;
        return true;
    });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t fn, void *argument)
{
    return enqueue_host(s, [=] { fn(argument); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new emu_event{};
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    cudaError_t r = cudaEventSynchronize(e);
    delete e;
    return r;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    if (stream_of(s)->capture == nullptr)
        e->asked++;
    return enqueue(s, {does::record, nullptr, nullptr, e, 0});
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    return run_until([e] { return e->done >= e->asked; });
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    cudaError_t r = cudaStreamQuery(nullptr);
    if (r != cudaSuccess && r != cudaErrorNotReady)
        return r;
    return e->done >= e->asked ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    *ms = static_cast<float>(end->at_ns - begin->at_ns) * 1e-6f;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    if (s == nullptr || s->capture != nullptr)
        return give(cudaErrorStreamCaptureUnsupported);
    s->capture = new emu_graph{};
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus *status)
{
    bool captures = stream_of(s)->capture != nullptr;
    *status = captures ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    if (s == nullptr || s->capture == nullptr)
        return give(cudaErrorStreamCaptureUnsupported);
    *g = s->capture;
    s->capture = nullptr;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long)
{
    *x = new emu_graph(*g);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s)
{
    for (const step &one : x->steps) {
        if (one.kind == does::record)
            one.event->asked++;
        cudaError_t e = enqueue(s, one);
        if (e != cudaSuccess)
            return e;
    }
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
    return cudaGraphDestroy(x);
}

cudaError_t cudaGetLastError()
{
    cudaError_t e = cudaPeekAtLastError();
    mine().last = cudaSuccess;
    return e;
}

cudaError_t cudaPeekAtLastError()
{
    return emu::here().failed ? cudaErrorLaunchFailure : mine().last;
}

const char *cudaGetErrorName(cudaError_t e)
{
    switch (e) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
        return "cudaErrorInvalidConfiguration";
    case cudaErrorNotReady:
        return "cudaErrorNotReady";
    case cudaErrorLaunchFailure:
        return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported:
        return "cudaErrorStreamCaptureUnsupported";
    }
    return "unknown";
}

const char *cudaGetErrorString(cudaError_t e)
{
    return e == cudaErrorLaunchFailure ? emu_sentence() : cudaGetErrorName(e);
}

void emu_seed(std::uint64_t seed)
{
    emu::here().random = (seed + 1) * 0x9e3779b97f4a7c15ull | 1;
    emu::draw(2);
}

const char *emu_sentence()
{
    return emu::here().sentence;
}

unsigned long long emu_launches()
{
    return emu::here().begun;
}

void emu_reset()
{
    emu::machine &m = emu::here();
    m.forget_all();
    m.failed = false;
    m.sentence[0] = 0;
    for (emu_stream *s : mine().all) {
        s->queue.clear();
        s->running.clear();
    }
    mine().last = cudaSuccess;
}
