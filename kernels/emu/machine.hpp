// SPDX-License-Identifier: Apache-2.0
// The inside of the emulator: threads, blocks, launches and the order in which they run. Each
// operating-system thread has a machine of its own with its streams; machines share only the memory
// that the program shares. Not for kernels.
#ifndef PHALANX_KERNELS_EMU_MACHINE_HPP
#define PHALANX_KERNELS_EMU_MACHINE_HPP

#include "kernels/emu/emu.hpp"
#include "kernels/emu/fibre.hpp"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace emu
{

constexpr unsigned block_threads_max = 1024;
constexpr unsigned barriers_max = 16;
constexpr std::size_t sentence_bytes = 1024;
constexpr unsigned names_max = 64;                   // shared variables of a block
constexpr std::size_t shared_bytes_max = 227 * 1024; // of sm_90; sm_80 has 163 KiB
constexpr std::size_t shared_gap = 64;               // poisoned, after each variable

// How a kernel is started; what <<<>>> and its attributes say.
struct launch_request {
    dim3 grid, block;
    std::size_t dynamic_bytes;
    bool cooperative; // all blocks are resident at once
    bool overlaps;    // may begin before the kernel before it has ended, and waits for that
    std::function<void()> body;
};

struct block;

enum class waits { nothing, barrier, warp, grid, done };

struct pending_copy {
    void *to;
    const void *from; // or the bytes, taken when the copy was asked for
    std::vector<std::uint8_t> taken;
    std::size_t bytes;
    unsigned group;
};

struct thread : view {
    fibre *own;
    block *home;
    unsigned index; // within the block
    waits state;
    site where;
    unsigned barrier;
    votes result;
    warp_function *fn;
    std::uint32_t mask;
    void *mine;
    char warp_word;  // one for the thread sanitizer
    unsigned groups; // of asynchronous copies
    std::vector<pending_copy> copies;
};

struct block_barrier {
    unsigned arrived, expected;
    votes tally;
    site where;
    std::vector<thread *> waiting;
};

struct named_memory {
    const void *tag;
    std::size_t at, bytes;
};

struct launch;

struct block {
    launch *of;
    std::vector<thread *> threads;
    unsigned alive;
    std::uint8_t *memory;
    std::size_t memory_used, shared_used;
    std::vector<named_memory> names;
    block_barrier barriers[barriers_max];
    std::vector<char> warp_words;
    bool waited; // one of its threads, for the kernel before
};

struct launch {
    std::shared_ptr<const launch_request> request;
    std::vector<unsigned> order; // of blocks not yet begun, last first
    unsigned resident, resident_max;
    std::vector<block *> blocks;
    bool finished;
    bool alone;                 // what came before it in its stream has ended
    std::vector<thread *> held; // wait for that
    unsigned patience;          // how soon a kernel that overlaps begins behind it; 0: not at all
    char begun, released,
        ended; // for the thread sanitizer: order host and threads, threads and host
};

struct machine {
    std::vector<thread *> ready, waiting, idle;
    std::vector<launch *> launches;
    std::vector<std::uint8_t *> arenas;
    std::uint64_t random;
    std::uint64_t progress_ns; // when something other than waiting last happened
    thread *running;
    std::size_t alive;        // threads of resident blocks
    unsigned long long begun; // kernels, since the program began
    bool failed;
    char sentence[sentence_bytes];
    bool progress;

    machine();
    ~machine();
    machine(const machine &) = delete;
    machine &operator=(const machine &) = delete;

    // Begins a kernel whose turn in its stream has come, or, where it overlaps and is not `alone`,
    // is about to come. The launch stays until `finished`.
    launch *begin(std::shared_ptr<const launch_request> request, bool alone);
    // What came before it has ended.
    void release(launch *l);
    void end(launch *l);
    // Runs one thread for one turn; false when none can run.
    bool turn();
    // Nothing can run, yet something waits: says why.
    void explain_deadlock();
    void fail_text(const char *why);
    void fail_outside(const std::string &why);
    void forget_all();

  private:
    thread *take_thread();
    void reserve(block *b, std::size_t n);
    void begin_blocks(launch *l);
    bool begin_block(launch *l, unsigned number);
    void end_block(block *b);
    void finish_thread(thread *t);
    bool only_waiting();
};

machine &here();

} // namespace emu

#endif
