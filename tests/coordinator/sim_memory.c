// SPDX-License-Identifier: Apache-2.0
// The core takes no memory after core_create, and expects no zeros where it did not ask for them.
// The simulation is linked with --wrap for the allocator's functions, so every call of ours and of
// the core comes through here.
#include "sim.h"

#include <stdlib.h>
#include <string.h>

static bool forbidden;
static uint64_t n_forbidden;

bool sim_memory_forbid(bool forbid)
{
    bool before = forbidden;
    forbidden = forbid;
    return before;
}

uint64_t sim_memory_count(void)
{
    return n_forbidden;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t count, size_t n);
void *__real_realloc(void *memory, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t count, size_t n);
void *__wrap_realloc(void *memory, size_t n);

void *__wrap_malloc(size_t n)
{
    n_forbidden += forbidden;
    void *memory = __real_malloc(n);
    if (memory)
        memset(memory, 0xa5, n);
    return memory;
}

void *__wrap_calloc(size_t count, size_t n)
{
    n_forbidden += forbidden;
    return __real_calloc(count, n);
}

void *__wrap_realloc(void *memory, size_t n)
{
    n_forbidden += forbidden;
    return __real_realloc(memory, n);
}
