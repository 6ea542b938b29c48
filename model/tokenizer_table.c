// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer_table.h"

#include <string.h>
#include <sys/random.h>

struct hash_key tokenizer_table_random_key(void)
{
    struct hash_key key;
    if (getrandom(&key, sizeof key, GRND_NONBLOCK) != sizeof key)
        key = (struct hash_key){0};
    return key;
}

// Slots for `n` keys at most half full; at least two, so that a shift by 64 never happens.
static unsigned slots_log2(size_t n)
{
    unsigned k = 1;
    while (((size_t)1 << k) < 2 * n)
        k++;
    return k;
}

bool tokenizer_table_texts_init(
    struct tokenizer_texts *t, struct arena *a, struct hash_key key, size_t n_keys)
{
    size_t n = (size_t)1 << slots_log2(n_keys + 1);
    struct tokenizer_table_key *slots = arena_array(a, n, sizeof *slots);
    if (!slots)
        return false;
    *t = (struct tokenizer_texts){.slots = slots, .mask = n - 1, .key = key};
    return true;
}

static struct tokenizer_table_key *slot_of(
    const struct tokenizer_texts *t, const void *text, size_t n, uint16_t *tag)
{
    uint64_t h = hash_64(t->key, text, n);
    *tag = (uint16_t)(h >> 48);
    for (size_t i = (size_t)h & t->mask;; i = (i + 1) & t->mask) {
        struct tokenizer_table_key *s = &t->slots[i];
        if (!s->text || (s->tag == *tag && s->n == n && memcmp(s->text, text, n) == 0))
            return s;
    }
}

bool tokenizer_table_texts_put(
    struct tokenizer_texts *t, const uint8_t *text, size_t n, uint32_t id)
{
    uint16_t tag;
    struct tokenizer_table_key *s = slot_of(t, text, n, &tag);
    if (s->text)
        return false;
    *s = (struct tokenizer_table_key){.text = text, .n = (uint16_t)n, .tag = tag, .id = id};
    return true;
}

uint32_t tokenizer_table_texts_get(const struct tokenizer_texts *t, const void *text, size_t n)
{
    uint16_t tag;
    const struct tokenizer_table_key *s = slot_of(t, text, n, &tag);
    return s->text ? s->id : UINT32_MAX;
}

bool tokenizer_table_pairs_init(
    struct tokenizer_pairs *t, struct arena *a, struct hash_key key, size_t n_pairs)
{
    unsigned log2 = slots_log2(n_pairs + 1);
    size_t n = (size_t)1 << log2;
    struct tokenizer_merge *slots = arena_array(a, n, sizeof *slots);
    if (!slots)
        return false;
    for (size_t i = 0; i < n; i++)
        slots[i].id = UINT32_MAX;
    *t = (struct tokenizer_pairs){.slots = slots,
        .shift = 64 - log2,
        .mask = n - 1,
        .factor = (key.k0 ^ 0x9e3779b97f4a7c15u) | 1};
    return true;
}

void tokenizer_table_pairs_put(struct tokenizer_pairs *t, const struct tokenizer_merge *merge)
{
    size_t i = (size_t)((((uint64_t)merge->a << 32 | merge->b) * t->factor) >> t->shift);
    for (;; i = (i + 1) & t->mask) {
        struct tokenizer_merge *m = &t->slots[i];
        if (m->id == UINT32_MAX || (m->a == merge->a && m->b == merge->b)) {
            *m = *merge;
            return;
        }
    }
}
