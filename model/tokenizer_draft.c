// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer_draft.h"

#include <stdlib.h>
#include <string.h>

#define MERGE_WORK_MAX ((size_t)1 << 30)

void tokenizer_draft_init(struct tokenizer_draft *d)
{
    *d = (struct tokenizer_draft){0};
    arena_init(&d->arena, TOKENIZER_ARENA_BYTES_MAX);
}

void tokenizer_draft_deinit(struct tokenizer_draft *d)
{
    json_decref(d->source);
    json_decref(d->rest);
    free(d->file);
    arena_reset(&d->arena);
    *d = (struct tokenizer_draft){0};
}

static enum status no_memory(struct error *err)
{
    return status_fail(err, STATUS_NO_MEMORY, "out of memory for the tokenizer");
}

enum status tokenizer_draft_reserve_tokens(struct tokenizer_draft *d, size_t n, struct error *err)
{
    if (n > TOKENIZER_VOCAB_MAX)
        return status_fail(err, STATUS_TOO_LARGE,
            "the tokenizer's vocabulary has %zu tokens, at most %u are supported", n,
            TOKENIZER_VOCAB_MAX);
    d->tokens = arena_array(&d->arena, n + 1, sizeof *d->tokens);
    return d->tokens ? STATUS_OK : no_memory(err);
}

enum status tokenizer_draft_reserve_merges(struct tokenizer_draft *d, size_t n, struct error *err)
{
    if (n > TOKENIZER_MERGES_MAX)
        return status_fail(err, STATUS_TOO_LARGE,
            "the tokenizer has %zu merges, at most %zu are supported", n, TOKENIZER_MERGES_MAX);
    d->merges = arena_array(&d->arena, n + 1, sizeof *d->merges);
    return d->merges ? STATUS_OK : no_memory(err);
}

enum status tokenizer_draft_keep(
    struct tokenizer_draft *d, struct tokenizer_bytes *bytes, struct error *err)
{
    const char *copy = arena_text(&d->arena, (const char *)bytes->data, bytes->n);
    if (!copy)
        return no_memory(err);
    bytes->data = (const uint8_t *)copy;
    return STATUS_OK;
}

enum status tokenizer_draft_index(
    struct tokenizer_draft *d, struct tokenizer_texts *table, struct error *err)
{
    if (!tokenizer_table_texts_init(table, &d->arena, tokenizer_table_random_key(), d->n_tokens))
        return no_memory(err);
    for (size_t i = 0; i < d->n_tokens; i++)
        tokenizer_table_texts_put(
            table, d->tokens[i].content.data, d->tokens[i].content.n, (uint32_t)i);
    return STATUS_OK;
}

// Appends the ways to cut token `i` into two that may be merged; returns how many.
static size_t cuts_of(const struct tokenizer_draft *d, const struct tokenizer_texts *table,
    const uint32_t *rank, size_t i, struct tokenizer_merge *merges)
{
    struct tokenizer_bytes whole = d->tokens[i].content;
    size_t count = 0;
    for (size_t k = 1; k < whole.n; k++) {
        if ((whole.data[k] & 0xc0) == 0x80)
            continue;
        uint32_t a = tokenizer_table_texts_get(table, whole.data, k);
        if (a == TOKENIZER_NONE || rank[a] == UINT32_MAX)
            continue;
        uint32_t b = tokenizer_table_texts_get(table, whole.data + k, whole.n - k);
        if (b == TOKENIZER_NONE || rank[b] == UINT32_MAX)
            continue;
        merges[count++] = (struct tokenizer_merge){
            .a = d->tokens[a].id, .b = d->tokens[b].id, .rank = rank[i], .id = d->tokens[i].id};
    }
    return count;
}

enum status tokenizer_draft_merge_all(
    struct tokenizer_draft *d, const uint32_t *rank, struct error *err)
{
    struct tokenizer_texts table;
    size_t room = 0, work = 0;
    for (size_t i = 0; i < d->n_tokens; i++) {
        size_t n = d->tokens[i].content.n; // no token has more cuts than bytes
        if (rank[i] == UINT32_MAX)
            continue;
        room += n;
        work += n * n; // each cut is looked up by its bytes
    }
    if (work > MERGE_WORK_MAX)
        return status_fail(err, STATUS_TOO_LARGE,
            "the tokenizer's tokens are too long: the squares of their lengths add up to more "
            "than %zu",
            MERGE_WORK_MAX);
    TRY(tokenizer_draft_index(d, &table, err));
    TRY(tokenizer_draft_reserve_merges(d, room, err));
    for (size_t i = 0; i < d->n_tokens; i++) {
        if (rank[i] != UINT32_MAX)
            d->n_merges += cuts_of(d, &table, rank, i, d->merges + d->n_merges);
    }
    return STATUS_OK;
}
