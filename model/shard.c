// SPDX-License-Identifier: Apache-2.0
#include "model/shard.h"

#include "base/check.h"

#include <stdio.h>

enum { DEGREES_SHOWN_MAX = 64 };

struct shard_range shard_split(uint32_t total, uint32_t unit, uint32_t size, uint32_t rank)
{
    check(unit > 0 && size > 0 && rank < size);
    // The last unit may be cut short by the end of the dimension.
    uint64_t units = ((uint64_t)total + unit - 1) / unit;
    uint64_t each = units / size, more = units % size;
    uint64_t first = rank * each + (rank < more ? rank : more);
    uint64_t last = first + each + (rank < more);
    uint64_t begin = first * unit < total ? first * unit : total;
    uint64_t end = last * unit < total ? last * unit : total;
    return (struct shard_range){(uint32_t)begin, (uint32_t)(end - begin)};
}

struct shard_range shard_heads(const struct model_config *m, const struct shard *s)
{
    return shard_split(m->n_heads, 1, s->tp_size, s->tp_rank);
}

// The KV heads that the rank's query heads read: whole shares of them, or one that is shared.
struct shard_range shard_kv_heads(const struct model_config *m, const struct shard *s)
{
    if (s->tp_size <= m->n_kv_heads)
        return shard_split(m->n_kv_heads, 1, s->tp_size, s->tp_rank);
    return (struct shard_range){s->tp_rank / (s->tp_size / m->n_kv_heads), 1};
}

struct shard_range shard_ffn(const struct model_config *m, const struct shard *s)
{
    return shard_split(m->ffn_dim, 1, s->tp_size, s->tp_rank);
}

struct shard_range shard_experts(const struct model_config *m, uint32_t tp_size, uint32_t tp_rank)
{
    return shard_split(m->n_experts, 1, tp_size, tp_rank);
}

bool shard_places_experts(const struct model_config *m, const struct shard *s)
{
    return s->expert_end - s->expert_begin < m->n_experts;
}

enum status shard_place_experts(const struct model_config *m, struct shard *s, struct error *err)
{
    if (m->n_experts == 0)
        return status_fail(err, STATUS_INVALID,
            "experts cannot be placed: a %s model with this config.json has none", m->family);
    if (m->n_experts < s->tp_size)
        return status_fail(err, STATUS_INVALID,
            "%u experts cannot be placed on %u ranks; expected at most as many ranks as experts",
            m->n_experts, s->tp_size);
    struct shard_range mine = shard_experts(m, s->tp_size, s->tp_rank);
    s->expert_begin = mine.begin;
    s->expert_end = mine.begin + mine.count;
    return STATUS_OK;
}

struct shard_range shard_expert_ffn(const struct model_config *m, const struct shard *s)
{
    if (shard_places_experts(m, s))
        return (struct shard_range){0, m->expert_ffn_dim};
    return shard_split(m->expert_ffn_dim, 1, s->tp_size, s->tp_rank);
}

struct shard_range shard_shared_ffn(const struct model_config *m, const struct shard *s)
{
    return shard_split(m->shared_ffn_dim, 1, s->tp_size, s->tp_rank);
}

struct shard_range shard_vocab(const struct model_config *m, const struct shard *s)
{
    return shard_split(m->vocab_size, 1, s->tp_size, s->tp_rank);
}

// Each rank needs the same number of query heads, all served by the same number of KV heads, and
// at least one MLP column and one vocabulary row.
static bool works(const struct model_config *m, uint32_t n)
{
    return n > 0 && m->n_heads % n == 0 && (m->n_kv_heads % n == 0 || n % m->n_kv_heads == 0) &&
           m->ffn_dim >= n && m->vocab_size >= n && (m->n_experts == 0 || m->expert_ffn_dim >= n) &&
           (m->shared_ffn_dim == 0 || m->shared_ffn_dim >= n);
}

enum status shard_check(const struct model_config *m, uint32_t tp_size, struct error *err)
{
    if (works(m, tp_size))
        return STATUS_OK;
    char list[256] = "";
    size_t used = 0;
    for (uint32_t n = 1; n <= DEGREES_SHOWN_MAX && used + 8 < sizeof list; n++)
        if (works(m, n))
            used += (size_t)snprintf(list + used, sizeof list - used, used ? ", %u" : "%u", n);
    return status_fail(err, STATUS_INVALID,
        "a model of %u attention heads and %u KV heads cannot be cut into %u parts; degrees that "
        "work: %s",
        m->n_heads, m->n_kv_heads, tp_size, list);
}
