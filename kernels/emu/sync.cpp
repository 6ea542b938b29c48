// SPDX-License-Identifier: Apache-2.0
// What the threads of a block do together: barriers, warps, shared memory, asynchronous copies.
#include "kernels/emu/machine.hpp"
#include "kernels/emu/sanitize.hpp"

namespace emu
{

namespace
{

thread *me()
{
    return here().running;
}

void wait_here()
{
    fibre_pause();
}

void wake(thread *t)
{
    t->state = waits::nothing;
    here().ready.push_back(t);
}

void check_barrier(const block_barrier &b, unsigned id, unsigned n, const thread *t, site where)
{
    std::size_t all = t->home->threads.size();
    if (id >= barriers_max || n > all)
        complain(
            "%s:%d: %s of barrier %u for %u threads", where.file, where.line, where.what, id, n);
    if (n == all && t->home->alive < n)
        complain("%s at %s:%d: %zu threads of the block have ended before it", where.what,
            where.file, where.line, all - t->home->alive);
    if (b.arrived == 0)
        return;
    if (b.where.line != where.line || std::strcmp(b.where.file, where.file) != 0)
        complain("%s at %s:%d while others wait in %s at %s:%d: the block diverged at a barrier",
            where.what, where.file, where.line, b.where.what, b.where.file, b.where.line);
    if (b.expected != n)
        complain("%s at %s:%d for %u threads while others wait there for %u", where.what,
            where.file, where.line, n, b.expected);
}

// Volatile, so that no sanitizer sees a write of the kernel here.
void fill_ones(std::uint8_t *p, std::size_t bytes)
{
    volatile std::uint8_t *v = p;
    for (std::size_t i = 0; i < bytes; i++)
        v[i] = 0xff;
}

std::size_t carve(block *b, std::size_t bytes)
{
    std::size_t at = b->memory_used;
    b->shared_used += bytes;
    if (b->shared_used > shared_bytes_max)
        complain("a block wants %zu bytes of shared memory; it can have %zu", b->shared_used,
            shared_bytes_max);
    b->memory_used += (bytes + shared_gap - 1) / shared_gap * shared_gap + shared_gap;
    sanitize_forget(b->memory + at, bytes);
    fill_ones(b->memory + at, bytes);
    return at;
}

bool in_mask(std::uint32_t mask, unsigned lane)
{
    return (mask >> lane & 1) != 0;
}

// Reports what can never come together; true when all lanes of the mask have come.
bool warp_complete(thread *t)
{
    block *b = t->home;
    unsigned first = t->index / 32 * 32;
    bool complete = true;
    for (unsigned i = 0; i < 32; i++) {
        thread *o = first + i < b->threads.size() ? b->threads[first + i] : nullptr;
        if (!in_mask(t->mask, i)) {
            if (o != nullptr && o->state == waits::warp && in_mask(o->mask, t->index % 32))
                complain(
                    "%s at %s:%d with the mask 0x%08x, which lacks lane %u, but that lane waits "
                    "in %s for 0x%08x",
                    t->where.what, t->where.file, t->where.line, t->mask, i, o->where.what,
                    o->mask);
            continue;
        }
        if (o == nullptr || o->state == waits::done)
            complain("%s at %s:%d: the mask 0x%08x names lane %u, which %s", t->where.what,
                t->where.file, t->where.line, t->mask, i,
                o == nullptr ? "does not exist" : "has ended");
        if (o == t)
            continue;
        if (o->state != waits::warp)
            complete = false;
        else if (o->mask != t->mask || o->fn != t->fn)
            complain("%s at %s:%d with the mask 0x%08x meets lane %u in %s at %s:%d with 0x%08x",
                t->where.what, t->where.file, t->where.line, t->mask, i, o->where.what,
                o->where.file, o->where.line, o->mask);
    }
    return complete;
}

void nothing_together(void *const *, std::uint32_t)
{
}

} // namespace

votes barrier(unsigned id, unsigned n_threads, int predicate, site where)
{
    thread *t = me();
    unsigned n = n_threads == 0 ? static_cast<unsigned>(t->home->threads.size()) : n_threads;
    block_barrier &b = t->home->barriers[id < barriers_max ? id : 0];
    check_barrier(b, id, n, t, where);
    if (b.arrived == 0) {
        b.expected = n;
        b.where = where;
        b.tally = {0, 1, 0};
    }
    b.arrived++;
    b.tally.count += predicate != 0;
    b.tally.all &= predicate != 0;
    b.tally.any |= predicate != 0;
    sanitize_release(&b);
    t->where = where;
    t->state = waits::barrier;
    t->barrier = id;
    b.waiting.push_back(t);
    if (b.arrived == n) {
        for (thread *o : b.waiting) {
            o->result = b.tally;
            wake(o);
        }
        b.waiting.clear();
        b.arrived = 0;
    }
    wait_here();
    sanitize_acquire(&b);
    return t->result;
}

void warp_call(warp_function *fn, std::uint32_t mask, void *mine, site where)
{
    thread *t = me();
    unsigned lane = t->index % 32;
    t->where = where;
    t->fn = fn;
    t->mask = mask;
    t->mine = mine;
    if (!in_mask(mask, lane))
        complain("%s at %s:%d: lane %u is not in its own mask 0x%08x", where.what, where.file,
            where.line, lane, mask);
    bool complete = warp_complete(t);
    t->state = waits::warp;
    if (complete) {
        void *records[32] = {};
        thread *const *warp = &t->home->threads[t->index - lane];
        for (unsigned i = 0; i < 32; i++)
            if (in_mask(mask, i))
                records[i] = warp[i]->mine;
        fn(records, mask);
        for (unsigned i = 0; i < 32; i++)
            if (in_mask(mask, i))
                wake(warp[i]);
    }
    wait_here();
}

void warp_sync(std::uint32_t mask, site where)
{
    char *word = &me()->home->warp_words[me()->index / 32];
    sanitize_release(word);
    warp_call(nothing_together, mask, nullptr, where);
    sanitize_acquire(word);
}

void grid_wait()
{
    thread *t = me();
    launch *l = t->home->of;
    t->home->waited = true;
    if (l->alone) {
        sanitize_acquire(&l->released);
        yield(false);
        return;
    }
    t->state = waits::grid;
    l->held.push_back(t);
    wait_here();
    sanitize_acquire(&l->released);
}

void *shared(const void *tag, std::size_t bytes)
{
    block *b = me()->home;
    if (b->names.empty())
        shared_dynamic();
    for (const named_memory &m : b->names)
        if (m.tag == tag)
            return b->memory + m.at;
    if (b->names.size() == names_max)
        complain("a block has more than %u shared variables", names_max);
    std::size_t at = carve(b, bytes);
    b->names.push_back({tag, at, bytes});
    return b->memory + at;
}

// Comes first, so that it is aligned best.
void *shared_dynamic()
{
    block *b = me()->home;
    if (b->names.empty())
        b->names.push_back({nullptr, carve(b, b->of->request->dynamic_bytes), 0});
    return b->memory + b->names[0].at;
}

void check_aligned(const void *p, std::size_t bytes)
{
    std::uintptr_t at = reinterpret_cast<std::uintptr_t>(p);
    if (at % bytes != 0)
        complain("%zu bytes at once at an address that is %zu above a multiple of that", bytes,
            static_cast<std::size_t>(at % bytes));
}

void async_copy(void *to, const void *from, std::size_t bytes)
{
    thread *t = me();
    check_aligned(to, bytes);
    check_aligned(from, bytes);
    pending_copy c = {to, from, {}, bytes, t->groups};
    if (draw(2) == 0) {
        const std::uint8_t *p = static_cast<const std::uint8_t *>(from);
        c.taken.assign(p, p + bytes);
    }
    t->copies.push_back(std::move(c));
}

void async_commit()
{
    me()->groups++;
}

void async_wait(unsigned groups_left)
{
    thread *t = me();
    std::vector<pending_copy> &c = t->copies;
    for (std::size_t i = c.size(); i > 1; i--)
        std::swap(c[i - 1], c[draw(static_cast<std::uint32_t>(i))]);
    for (std::size_t i = 0; i < c.size();) {
        if (c[i].group + groups_left >= t->groups) {
            i++;
            continue;
        }
        std::memcpy(c[i].to, c[i].taken.empty() ? c[i].from : c[i].taken.data(), c[i].bytes);
        c[i] = std::move(c.back());
        c.pop_back();
    }
    yield(false);
}

} // namespace emu
