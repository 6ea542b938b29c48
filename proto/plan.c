// SPDX-License-Identifier: Apache-2.0
// Writers and walkers of the step plan and its answer; the checks are in plan_check.c.
#include "proto/plan.h"

#include "base/check.h"
#include "base/hash.h"

#include <string.h>

// Appends `n` bytes and zeroes up to the next multiple of 8.
static void append_padded(struct buf *b, const void *data, size_t n)
{
    static const uint8_t zeros[8];
    buf_append(b, data, n);
    buf_append(b, zeros, (8 - n % 8) % 8);
}

uint64_t plan_hash(const struct plan_header *plan)
{
    struct plan_header head = *plan;
    head.hash = 0;
    struct hash_key key = {.k0 = hash_64((struct hash_key){0}, &head, sizeof head)};
    return hash_64(key, plan + 1, (size_t)(plan->bytes - sizeof head));
}

// ---- plans -------------------------------------------------------------------------------------

static struct plan_header *plan_head(struct buf *b)
{
    return buf_failed(b) ? NULL : (struct plan_header *)(void *)b->data;
}

void plan_begin(struct buf *b, uint64_t epoch, uint64_t step_id)
{
    buf_clear(b);
    struct plan_header head = {
        .magic = PLAN_MAGIC, .version = PLAN_VERSION, .epoch = epoch, .step_id = step_id};
    buf_append(b, &head, sizeof head);
}

void plan_add_seq(struct buf *b, const struct plan_seq_parts *parts)
{
    size_t begin = b->size;
    buf_append(b, &parts->head, sizeof parts->head);
    append_padded(b, parts->ids, (size_t)parts->head.n_ids * 4);
    for (uint32_t g = 0; g < LIMIT_KV_GROUPS; g++)
        append_padded(b, parts->blocks[g], (size_t)parts->head.n_blocks[g] * 4);
    if (parts->head.flags & PLAN_SEQ_FIRST) {
        struct plan_first first = {.prompt_length = parts->prompt_length, .params = *parts->params};
        buf_append(b, &first, sizeof first);
        append_padded(b, parts->stop_ids, (size_t)first.params.n_stop_ids * 4);
        append_padded(b, parts->bias, first.params.n_logit_bias * sizeof(struct sampling_bias));
    }
    struct plan_header *head = plan_head(b);
    if (!head)
        return;
    check(head->n_releases == 0 && head->n_copies == 0);
    struct plan_seq *seq = (void *)(b->data + begin);
    seq->bytes = (uint32_t)(b->size - begin);
    head->n_seqs++;
    head->n_rows += seq->n_tokens;
}

void plan_add_release(struct buf *b, uint32_t slot, uint32_t generation)
{
    struct plan_release release = {slot, generation};
    buf_append(b, &release, sizeof release);
    struct plan_header *head = plan_head(b);
    if (!head)
        return;
    check(head->n_copies == 0);
    head->n_releases++;
}

void plan_add_copy(struct buf *b, uint32_t group, uint32_t src, uint32_t dst)
{
    struct plan_copy copy = {.group = group, .src = src, .dst = dst};
    buf_append(b, &copy, sizeof copy);
    struct plan_header *head = plan_head(b);
    if (head)
        head->n_copies++;
}

void plan_end(struct buf *b)
{
    struct plan_header *head = plan_head(b);
    if (!head)
        return;
    head->bytes = b->size;
    head->hash = plan_hash(head);
}

struct plan_cursor plan_seqs(const struct plan_header *plan)
{
    return (struct plan_cursor){(const uint8_t *)(plan + 1), plan->n_seqs};
}

static size_t padded(size_t n)
{
    return (n + 7) & ~(size_t)7;
}

bool plan_next_seq(struct plan_cursor *c, struct plan_seq_view *out)
{
    if (c->left == 0)
        return false;
    const struct plan_seq *head = (const void *)c->at;
    const uint8_t *p = c->at + sizeof *head;
    *out = (struct plan_seq_view){.head = head, .ids = (const void *)p};
    p += padded((size_t)head->n_ids * 4);
    for (uint32_t g = 0; g < LIMIT_KV_GROUPS; g++) {
        out->blocks[g] = (const void *)p;
        p += padded((size_t)head->n_blocks[g] * 4);
    }
    if (head->flags & PLAN_SEQ_FIRST) {
        out->first = (const void *)p;
        p += sizeof *out->first;
        out->stop_ids = (const void *)p;
        p += padded((size_t)out->first->params.n_stop_ids * 4);
        out->bias = (const void *)p;
    }
    c->at += head->bytes;
    c->left--;
    return true;
}

const struct plan_release *plan_releases(const struct plan_header *plan)
{
    struct plan_cursor c = plan_seqs(plan);
    for (; c.left; c.left--)
        c.at += ((const struct plan_seq *)(const void *)c.at)->bytes;
    return (const void *)c.at;
}

const struct plan_copy *plan_copies(const struct plan_header *plan)
{
    return (const void *)(plan_releases(plan) + plan->n_releases);
}

// ---- answers -----------------------------------------------------------------------------------
// While an answer is written, header.bytes is the offset of the sequence record added last.

static struct answer_header *answer_head(struct buf *b)
{
    return buf_failed(b) ? NULL : (struct answer_header *)(void *)b->data;
}

void answer_begin(struct buf *b, const struct plan_header *plan)
{
    buf_clear(b);
    struct answer_header head = {.magic = ANSWER_MAGIC,
        .version = PLAN_VERSION,
        .epoch = plan->epoch,
        .step_id = plan->step_id,
        .plan_hash = plan->hash};
    buf_append(b, &head, sizeof head);
}

void answer_add_seq(struct buf *b, const struct plan_seq *seq, enum answer_seq_status status)
{
    size_t at = b->size;
    struct answer_seq record = {.bytes = sizeof record,
        .slot = seq->slot,
        .generation = seq->generation,
        .attempt = seq->attempt,
        .status = status};
    buf_append(b, &record, sizeof record);
    struct answer_header *head = answer_head(b);
    if (!head)
        return;
    head->n_seqs++;
    head->bytes = at;
}

void answer_add_result(
    struct buf *b, const struct answer_result *result, const struct answer_top *top)
{
    size_t begin = b->size;
    buf_append(b, result, sizeof *result);
    buf_append(b, top, result->n_top * sizeof *top);
    struct answer_header *head = answer_head(b);
    if (!head)
        return;
    check(head->n_seqs > 0);
    struct answer_seq *seq = (void *)(b->data + head->bytes);
    seq->n_results++;
    seq->bytes += (uint32_t)(b->size - begin);
}

void answer_end(struct buf *b, uint32_t forward_us, uint32_t sample_us, uint32_t collective_us,
    uint32_t total_us)
{
    struct answer_header *head = answer_head(b);
    if (!head)
        return;
    head->bytes = b->size;
    head->forward_us = forward_us;
    head->sample_us = sample_us;
    head->collective_us = collective_us;
    head->total_us = total_us;
}

struct plan_cursor answer_seqs(const struct answer_header *answer)
{
    return (struct plan_cursor){(const uint8_t *)(answer + 1), answer->n_seqs};
}

bool answer_next_seq(
    struct plan_cursor *c, const struct answer_seq **out, struct plan_cursor *results)
{
    if (c->left == 0)
        return false;
    const struct answer_seq *seq = (const void *)c->at;
    *out = seq;
    *results = (struct plan_cursor){c->at + sizeof *seq, seq->n_results};
    c->at += seq->bytes;
    c->left--;
    return true;
}

bool answer_next_result(
    struct plan_cursor *c, const struct answer_result **out, const struct answer_top **top)
{
    if (c->left == 0)
        return false;
    const struct answer_result *result = (const void *)c->at;
    *out = result;
    *top = (const void *)(result + 1);
    c->at += sizeof *result + result->n_top * sizeof **top;
    c->left--;
    return true;
}
