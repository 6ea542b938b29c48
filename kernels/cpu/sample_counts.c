// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "kernels/cpu/sample.h"

static uint32_t bits_for(uint32_t capacity)
{
    uint32_t bits = 4;
    while ((1ull << bits) < 2ull * capacity)
        bits++;
    return bits;
}

uint64_t sample_counts_bytes(uint32_t capacity)
{
    return sizeof(struct sample_count) * (uint64_t)capacity +
           sizeof(uint32_t) * (1ull << bits_for(capacity));
}

void sample_counts_init(struct sample_counts *c, void *memory, uint32_t capacity)
{
    *c = (struct sample_counts){
        .list = memory, .capacity = capacity, .index_bits = bits_for(capacity)};
    c->index = (uint32_t *)(void *)(c->list + capacity);
}

// Touches only what was used: most of a slot's memory never becomes real.
void sample_counts_clear(struct sample_counts *c)
{
    for (uint32_t i = 0; i < c->n; i++)
        c->index[c->list[i].place] = 0;
    c->n = 0;
}

void sample_counts_add(struct sample_counts *c, uint32_t id, bool output)
{
    uint32_t mask = (1u << c->index_bits) - 1;
    uint32_t place = id * 0x9E3779B1u >> (32 - c->index_bits);
    while (c->index[place] != 0 && c->list[c->index[place] - 1].id != id)
        place = (place + 1) & mask;
    if (c->index[place] == 0) {
        check(c->n < c->capacity);
        c->list[c->n] = (struct sample_count){.id = id, .place = place};
        c->index[place] = ++c->n;
    }
    if (output)
        c->list[c->index[place] - 1].n_output++;
}
