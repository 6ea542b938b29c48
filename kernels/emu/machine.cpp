// SPDX-License-Identifier: Apache-2.0
#include "kernels/emu/machine.hpp"

#include "kernels/emu/sanitize.hpp"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <sched.h>

namespace emu
{

__thread view *self;

namespace
{

constexpr std::uint64_t silence_ns_max = 60ull * 1000 * 1000 * 1000;
constexpr std::size_t arena_bytes = shared_bytes_max + 256 * shared_gap;
constexpr unsigned threads_max = 32 * 1024; // two mappings each; the system allows about 65,000

// Into `text`; its length.
int name_thread(char *text, std::size_t room, const thread *t)
{
    return std::snprintf(text, room, "thread (%u,%u,%u) of block (%u,%u,%u)", t->thread_index.x,
        t->thread_index.y, t->thread_index.z, t->block_index.x, t->block_index.y, t->block_index.z);
}

std::string name_of(const thread *t)
{
    char text[160];
    name_thread(text, sizeof text, t);
    return text;
}

std::string place_of(const site &s)
{
    return std::string(s.what) + " at " + s.file + ":" + std::to_string(s.line);
}

void run_body(void *p)
{
    thread *t = static_cast<thread *>(p);
    launch *l = t->home->of;
    sanitize_acquire(&l->begun);
    l->request->body();
    sanitize_release(&l->ended);
}

uint3 unfold(unsigned i, const dim3 &d)
{
    return {i % d.x, i / d.x % d.y, i / d.x / d.y};
}

} // namespace

machine &here()
{
    static thread_local machine m;
    return m;
}

std::uint64_t now_ns()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<std::uint64_t>(t.tv_sec) * 1000000000u +
           static_cast<std::uint64_t>(t.tv_nsec);
}

// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators", 2016).
std::uint32_t draw(std::uint32_t below)
{
    std::uint64_t &x = here().random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    std::uint64_t high = (x * 2685821657736338717ull) >> 32;
    return static_cast<std::uint32_t>(high * below >> 32);
}

void complain(const char *format, ...)
{
    // Nothing here may own memory: this fibre never goes on, so nobody would give it back.
    char text[sentence_bytes];
    machine &m = here();
    int n = m.running != nullptr ? name_thread(text, sizeof text, m.running) : 0;
    n += std::snprintf(text + n, sizeof text - static_cast<std::size_t>(n), ": ");
    va_list args;
    va_start(args, format);
    std::vsnprintf(text + n, sizeof text - static_cast<std::size_t>(n), format, args);
    va_end(args);
    if (m.running == nullptr) {
        std::fprintf(stderr, "emulator, outside of a kernel%s\n", text);
        std::abort();
    }
    m.fail_text(text);
    fibre_pause();
    std::abort();
}

void yield(bool waiting)
{
    machine &m = here();
    thread *t = m.running;
    if (t == nullptr)
        return;
    if (!waiting && draw(4) != 0)
        return;
    // One that only looks comes back early now and then, so that it also sees unfinished things.
    m.progress = !waiting;
    (waiting && draw(4) != 0 ? m.waiting : m.ready).push_back(t);
    fibre_pause();
}

machine::machine()
    : random(0x9e3779b97f4a7c15ull), progress_ns(0), running(nullptr), alive(0), begun(0),
      failed(false), sentence(), progress(false)
{
}

machine::~machine()
{
    forget_all();
    for (thread *t : idle) {
        fibre_free(t->own);
        delete t;
    }
    for (std::uint8_t *a : arenas) {
        sanitize_forget(a, arena_bytes);
        std::free(a);
    }
}

void machine::fail_text(const char *why)
{
    if (!failed)
        std::snprintf(sentence, sizeof sentence, "%s", why);
    failed = true;
    sanitize_release(&failed);
}

void machine::fail_outside(const std::string &why)
{
    fail_text(why.c_str());
}

thread *machine::take_thread()
{
    if (!idle.empty()) {
        thread *t = idle.back();
        idle.pop_back();
        return t;
    }
    fibre *f = fibre_make();
    if (f == nullptr)
        return nullptr;
    thread *t = new thread{};
    t->own = f;
    t->copies.reserve(256);
    return t;
}

launch *machine::begin(std::shared_ptr<const launch_request> request, bool alone)
{
    launch *l = new launch{};
    const dim3 &g = request->grid;
    unsigned n = g.x * g.y * g.z, threads = request->block.x * request->block.y * request->block.z;
    l->request = std::move(request);
    for (unsigned i = 0; i < n; i++)
        l->order.push_back(i);
    for (unsigned i = n; i > 1; i--)
        std::swap(l->order[i - 1], l->order[draw(i)]);
    l->alone = alone;
    const unsigned patiences[] = {0, 1, 64};
    l->patience = patiences[draw(3)];
    l->resident_max = l->request->cooperative ? n : 1 + draw(alone ? 4 : 8);
    begun++;
    launches.push_back(l);
    progress_ns = now_ns();
    if (l->request->cooperative && static_cast<std::uint64_t>(n) * threads > threads_max)
        fail_outside("a cooperative grid of " + std::to_string(n) + " blocks of " +
                     std::to_string(threads) + " threads is more than the emulator runs at once");
    begin_blocks(l);
    return l;
}

void machine::begin_blocks(launch *l)
{
    while (!failed && l->resident < l->resident_max && !l->order.empty()) {
        unsigned number = l->order.back();
        l->order.pop_back();
        if (!begin_block(l, number))
            fail_outside("the system has no memory for more emulated threads");
    }
}

// Lists that fibres add to must not grow there: to the thread sanitizer, memory that one thread
// takes and another gives back is a race.
void machine::reserve(block *b, std::size_t n)
{
    alive += n;
    ready.reserve(alive);
    waiting.reserve(alive);
    b->names.reserve(names_max);
    for (block_barrier &bar : b->barriers)
        bar.waiting.reserve(&bar == b->barriers ? n : 0);
}

bool machine::begin_block(launch *l, unsigned number)
{
    const launch_request &r = *l->request;
    unsigned n = r.block.x * r.block.y * r.block.z;
    block *b = new block{};
    b->of = l;
    b->alive = n;
    b->warp_words.resize((n + 31) / 32);
    reserve(b, n);
    l->held.reserve(l->alone ? 0 : std::size_t{l->resident_max} * n);
    l->blocks.push_back(b);
    l->resident++;
    if (arenas.empty()) {
        void *p = nullptr;
        if (posix_memalign(&p, 1024, arena_bytes) != 0)
            return false;
        arenas.push_back(static_cast<std::uint8_t *>(p));
    }
    b->memory = arenas.back();
    arenas.pop_back();
    sanitize_poison(b->memory, arena_bytes);
    for (unsigned i = 0; i < n; i++) {
        thread *t = take_thread();
        if (t == nullptr)
            return false;
        t->thread_index = unfold(i, r.block);
        t->block_index = unfold(number, r.grid);
        t->block_size = r.block;
        t->grid_size = r.grid;
        t->home = b;
        t->index = i;
        t->state = waits::nothing;
        t->groups = 0;
        t->copies.clear();
        fibre_begin(t->own, run_body, t);
        b->threads.push_back(t);
        ready.push_back(t);
    }
    sanitize_release(&l->begun);
    return true;
}

void machine::end_block(block *b)
{
    launch *l = b->of;
    sanitize_acquire(&l->ended);
    for (thread *t : b->threads)
        fibre_abandon(t->own);
    alive -= l->request->block.x * l->request->block.y * l->request->block.z;
    idle.insert(idle.end(), b->threads.begin(), b->threads.end());
    if (b->memory != nullptr)
        arenas.push_back(b->memory);
    for (std::size_t i = 0; i < l->blocks.size(); i++)
        if (l->blocks[i] == b) {
            l->blocks[i] = l->blocks.back();
            l->blocks.pop_back();
            break;
        }
    delete b;
    l->resident--;
}

void machine::finish_thread(thread *t)
{
    block *b = t->home;
    t->state = waits::done;
    b->alive--;
    const block_barrier &bar = b->barriers[0];
    if (bar.arrived > 0 && bar.expected == b->threads.size())
        fail_outside(name_of(t) + " has ended while " + std::to_string(bar.arrived) +
                     " threads of its block wait in " + place_of(bar.where));
    if (b->alive > 0 || failed)
        return;
    launch *l = b->of;
    if (l->request->overlaps && !b->waited)
        fail_outside(name_of(t) + " was the last of its block, and none has called phx_grid_wait, "
                                  "though the kernel may begin before the one before it has ended");
    end_block(b);
    begin_blocks(l);
    l->finished = l->resident == 0 && l->order.empty();
}

void machine::release(launch *l)
{
    sanitize_release(&l->released);
    l->alone = true;
    for (thread *t : l->held) {
        t->state = waits::nothing;
        ready.push_back(t);
    }
    l->held.clear();
}

void machine::end(launch *l)
{
    for (std::size_t i = 0; i < launches.size(); i++)
        if (launches[i] == l) {
            launches[i] = launches.back();
            launches.pop_back();
            break;
        }
    delete l;
}

// Every runnable thread waits for memory. Another operating-system thread may write it.
bool machine::only_waiting()
{
    ready.swap(waiting);
    if (now_ns() - progress_ns > silence_ns_max) {
        fail_outside(name_of(ready[0]) + " and " + std::to_string(ready.size() - 1) +
                     " other threads have been polling for a minute, and nothing else can run");
        return false;
    }
    sched_yield();
    return true;
}

bool machine::turn()
{
    if (failed || (ready.empty() && (waiting.empty() || !only_waiting())))
        return false;
    std::size_t i = draw(static_cast<std::uint32_t>(ready.size()));
    thread *t = ready[i];
    ready[i] = ready.back();
    ready.pop_back();
    running = t;
    self = t;
    progress = true;
    bool finished = fibre_resume(t->own);
    running = nullptr;
    self = nullptr;
    if (finished && !failed)
        finish_thread(t);
    if (progress)
        progress_ns = now_ns();
    return !failed;
}

void machine::explain_deadlock()
{
    std::string text;
    const thread *barrier = nullptr, *warp = nullptr;
    for (const launch *l : launches)
        for (const block *b : l->blocks)
            for (const thread *t : b->threads) {
                if (t->state == waits::barrier && barrier == nullptr)
                    barrier = t;
                if (t->state == waits::warp && warp == nullptr)
                    warp = t;
            }
    if (barrier != nullptr) {
        const block_barrier &bar = barrier->home->barriers[barrier->barrier];
        text = name_of(barrier) + " waits in " + place_of(barrier->where) + ", where " +
               std::to_string(bar.arrived) + " of " + std::to_string(bar.expected) +
               " threads have come";
    }
    if (warp != nullptr) {
        char mask[16];
        std::snprintf(mask, sizeof mask, "0x%08x", warp->mask);
        text += (text.empty() ? "" : "; ") + name_of(warp) + " waits in " + place_of(warp->where) +
                " for all lanes of " + mask;
    }
    fail_outside(text.empty() ? "a stream waits for an event that nobody records"
                              : text + "; none can go on");
}

void machine::forget_all()
{
    while (!launches.empty()) {
        launch *l = launches.back();
        while (!l->blocks.empty())
            end_block(l->blocks.back());
        end(l);
    }
    ready.clear();
    waiting.clear();
}

} // namespace emu
