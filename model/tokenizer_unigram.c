// SPDX-License-Identifier: Apache-2.0
// The unigram model (Kudo, "Subword Regularization", 2018): of all ways to cut a word into tokens
// the one with the highest sum of scores, found from left to right with one best way per place.
#include "base/check.h"
#include "model/tokenizer_internal.h"
#include "model/unicode.h"

#include <stdlib.h>

static bool path_reserve(struct tokenizer_work *w, size_t n)
{
    if (n <= w->n_path_max)
        return true;
    size_t more = n < 256 ? 256 : n + n / 2;
    struct tokenizer_path *p = realloc(w->path, more * sizeof *p);
    if (!p)
        return false;
    w->path = p;
    w->n_path_max = more;
    return true;
}

// A better way to `to` replaces the old one; of equal ones the first is kept. SentencePiece's
// sums are floats.
static void path_offer(const struct tokenizer_unigram *u, struct tokenizer_path *to, double score,
    uint32_t id, size_t start)
{
    if (u->sentencepiece)
        score = (double)(float)score;
    if (to->start != UINT32_MAX && !(score > to->score))
        return;
    to->score = score;
    to->id = id;
    to->start = (uint32_t)start;
}

static void find_paths(
    const struct tokenizer *t, struct tokenizer_path *path, const uint8_t *text, size_t n)
{
    const struct tokenizer_unigram *u = &t->unigram;
    for (size_t i = 0; i <= n; i++)
        path[i] = (struct tokenizer_path){.start = UINT32_MAX};
    for (size_t i = 0, k; i < n; i += k) {
        double here = path[i].score;
        uint32_t node = TOKENIZER_PREFIX_ROOT;
        bool single = false;
        unicode_decode(text + i, n - i, &k);
        for (size_t end = i; end < n;) {
            const struct tokenizer_merge *e = tokenizer_prefix_step(&u->pieces, node, text[end++]);
            if (!e)
                break;
            node = e->id;
            if (e->rank == TOKENIZER_NONE)
                continue;
            path_offer(u, &path[end], u->score[e->rank] + here, e->rank, i);
            single |= end - i == k;
        }
        if (!single)
            path_offer(u, &path[i + k], u->unk_score + here, t->unk, i);
    }
}

// A run of unknown characters is one unknown token, or their bytes. Hugging Face's library looks
// the run up once more: put together, it may be a token after all.
static enum status emit_unknown(struct tokenizer_work *w, const uint8_t *text, size_t n)
{
    const struct tokenizer *t = w->t;
    if (!t->unigram.sentencepiece && t->unk != TOKENIZER_NONE) {
        uint32_t id = tokenizer_table_texts_get(&t->vocab, text, n);
        if (id != TOKENIZER_NONE)
            return tokenizer_work_emit(w, id);
    }
    bool bytes = t->byte_fallback && t->unk != TOKENIZER_NONE;
    for (size_t i = 0; i < n && bytes; i++)
        bytes = t->fallback_id[text[i]] != TOKENIZER_NONE;
    if (!bytes)
        return tokenizer_words_unknown(w);
    for (size_t i = 0; i < n; i++)
        TRY(tokenizer_work_emit(w, t->fallback_id[text[i]]));
    return STATUS_OK;
}

// Turns the way around: afterwards a token's first place has its id, and `start` is its end.
static void turn_around(struct tokenizer_path *path, size_t n)
{
    size_t end = n, start = path[n].start;
    uint32_t id = path[n].id;
    for (;;) {
        check(start < end); // every place where a character begins was reached
        struct tokenizer_path before = path[start];
        path[start].id = id;
        path[start].start = (uint32_t)end;
        if (start == 0)
            return;
        end = start;
        start = before.start;
        id = before.id;
    }
}

enum status tokenizer_unigram_encode(struct tokenizer_work *w, const uint8_t *text, size_t n)
{
    const uint32_t unk = w->t->unk;
    if (!path_reserve(w, n + 1))
        return status_fail(w->err, STATUS_NO_MEMORY, "out of memory for a word of %zu bytes", n);
    struct tokenizer_path *path = w->path;
    find_paths(w->t, path, text, n);
    turn_around(path, n);
    for (size_t i = 0; i < n;) {
        size_t end = path[i].start;
        if (path[i].id != unk) {
            TRY(tokenizer_work_emit(w, path[i].id));
        } else {
            while (end < n && path[end].id == unk)
                end = path[end].start;
            TRY(emit_unknown(w, text + i, end - i));
        }
        i = end;
    }
    return STATUS_OK;
}
