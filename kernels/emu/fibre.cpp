// SPDX-License-Identifier: Apache-2.0
// A fibre is entered once by setcontext; after that the compiler's own setjmp and longjmp switch in
// a few nanoseconds, where swapcontext would make a system call each time.
#include "kernels/emu/fibre.hpp"

#include "kernels/emu/sanitize.hpp"

#include <cstdint>
#include <cstdlib>
#include <sys/mman.h>
#include <ucontext.h>

namespace emu
{

namespace
{

constexpr std::size_t guard_bytes = 4096;

struct place {
    void *jump[5]; // what __builtin_setjmp wants
    void *asan;    // its stack of fake frames
    void *tsan;
};

} // namespace

struct fibre {
    place at;
    std::uint8_t *stack; // above a guard page
    void (*run)(void *);
    void *argument;
    bool entered, finished;
};

namespace
{

thread_local place host;
thread_local fibre *current;
thread_local const void *host_stack;
thread_local std::size_t host_stack_bytes;

EMU_UNSEEN void body()
{
    fibre *f = current;
    sanitize_switched(nullptr, &host_stack, &host_stack_bytes);
    for (;;) {
        f->run(f->argument);
        f->finished = true;
        fibre_pause();
    }
}

// The other half of a switch must be a function of its own: a jump back into the function that
// jumps is not allowed.
[[noreturn]] __attribute__((noinline)) EMU_UNSEEN void enter(fibre *f)
{
    if (f->entered)
        __builtin_longjmp(f->at.jump, 1);
    f->entered = true;
    ucontext_t c;
    if (getcontext(&c) != 0)
        std::abort();
    c.uc_stack.ss_sp = f->stack;
    c.uc_stack.ss_size = fibre_stack_bytes;
    c.uc_link = nullptr;
    makecontext(&c, body, 0);
    setcontext(&c);
    std::abort();
}

[[noreturn]] __attribute__((noinline)) EMU_UNSEEN void jump(place *to)
{
    __builtin_longjmp(to->jump, 1);
}

__attribute__((noinline)) EMU_UNSEEN void leave(place *from)
{
    sanitize_switch(&from->asan, host_stack, host_stack_bytes, host.tsan);
    if (__builtin_setjmp(from->jump) == 0)
        jump(&host);
    sanitize_switched(from->asan, &host_stack, &host_stack_bytes);
}

} // namespace

fibre *fibre_make()
{
    void *p = mmap(nullptr, guard_bytes + fibre_stack_bytes, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return nullptr;
    if (mprotect(p, guard_bytes, PROT_NONE) != 0) {
        munmap(p, guard_bytes + fibre_stack_bytes);
        return nullptr;
    }
    fibre *f = new fibre{};
    f->stack = static_cast<std::uint8_t *>(p) + guard_bytes;
    f->at.tsan = sanitize_fibre_make();
    return f;
}

void fibre_free(fibre *f)
{
    if (f == nullptr)
        return;
    sanitize_fibre_free(f->at.tsan);
    sanitize_forget(f->stack, fibre_stack_bytes);
    munmap(f->stack - guard_bytes, guard_bytes + fibre_stack_bytes);
    delete f;
}

void fibre_abandon(fibre *f)
{
    if (!f->entered || f->finished)
        return;
    sanitize_fibre_join(f->at.tsan);
    sanitize_fibre_free(f->at.tsan);
    sanitize_forget(f->stack, fibre_stack_bytes);
    f->at.tsan = sanitize_fibre_make();
    f->entered = false;
}

void fibre_begin(fibre *f, void (*run)(void *), void *argument)
{
    f->run = run;
    f->argument = argument;
    f->finished = false;
}

__attribute__((noinline)) EMU_UNSEEN bool fibre_resume(fibre *f)
{
    current = f;
    host.tsan = sanitize_fibre_current();
    sanitize_switch(&host.asan, f->stack, fibre_stack_bytes, f->at.tsan);
    if (__builtin_setjmp(host.jump) == 0)
        enter(f);
    sanitize_switched(host.asan, nullptr, nullptr);
    f = current;
    current = nullptr;
    return f->finished;
}

EMU_UNSEEN void fibre_pause()
{
    leave(&current->at);
}

} // namespace emu
