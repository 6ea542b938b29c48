// SPDX-License-Identifier: Apache-2.0
// The one check of step plans and answers: every size, count, index and number, as if it came from
// an enemy. After it, the walkers of plan.c stay inside the message, and every id and block number
// can be used as an index.
#include "proto/plan.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

// What is left of the message. Sizes are multiples of 8, so `at` stays aligned.
struct reader {
    const uint8_t *at;
    size_t left;
};

// The next `count` elements of `size` bytes, padded to 8; NULL when the message ends before.
static const void *take(struct reader *r, size_t count, size_t size)
{
    if (count > r->left / size)
        return NULL;
    size_t bytes = (count * size + 7) & ~(size_t)7;
    if (bytes > r->left)
        return NULL;
    const void *p = r->at;
    r->at += bytes;
    r->left -= bytes;
    return p;
}

// ---- one sequence of a plan --------------------------------------------------------------------

struct seq_check {
    const struct plan_seq *head;
    const struct plan_limits *limits;
    struct reader r; // of the record
    struct error *err;
};

#define REFUSE(c, ...) return status_fail((c)->err, STATUS_INVALID, __VA_ARGS__)

static enum status check_ids(struct seq_check *c, const uint32_t *ids, uint32_t n, const char *what)
{
    if (n && !ids)
        REFUSE(c, "step plan: slot %" PRIu32 " ends inside its %s", c->head->slot, what);
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] >= c->limits->vocab_size)
            REFUSE(c,
                "step plan: slot %" PRIu32 " has %s %" PRIu32 ", the vocabulary has %" PRIu32
                " ids",
                c->head->slot, what, ids[i], c->limits->vocab_size);
    return STATUS_OK;
}

static enum status check_rows(struct seq_check *c)
{
    const struct plan_seq *s = c->head;
    uint32_t context = c->limits->context_tokens;
    if (s->n_tokens < 1 || s->n_tokens > context || s->first_position > context - s->n_tokens)
        REFUSE(c,
            "step plan: slot %" PRIu32 " has rows %" PRIu32 " + %" PRIu32
            ", expected 1 or more within a context of %" PRIu32,
            s->slot, s->first_position, s->n_tokens, context);
    if (s->n_drafts || s->adapter || s->grammar)
        return status_fail(c->err, STATUS_UNSUPPORTED,
            "step plan: slot %" PRIu32 " asks for drafts, an adapter or a grammar, expected none",
            s->slot);
    bool first = s->flags & PLAN_SEQ_FIRST;
    if (first ? s->n_ids < s->first_position + s->n_tokens || s->n_ids > context : s->n_ids != 0)
        REFUSE(c, "step plan: slot %" PRIu32 " carries %" PRIu32 " ids for rows up to %" PRIu32,
            s->slot, s->n_ids, s->first_position + s->n_tokens);
    if (!(s->flags & PLAN_SEQ_SCORE)) {
        if (s->score_begin || s->score_count || s->score_logprobs)
            REFUSE(c, "step plan: slot %" PRIu32 " has score fields without the flag", s->slot);
    } else if (s->score_count < 1 || s->score_count > s->n_tokens ||
               s->score_begin < s->first_position ||
               s->score_begin - s->first_position > s->n_tokens - s->score_count ||
               s->score_logprobs > LIMIT_LOGPROBS) {
        REFUSE(c,
            "step plan: slot %" PRIu32 " scores rows %" PRIu32 " + %" PRIu32
            ", expected some of its rows and at most %d log-probabilities",
            s->slot, s->score_begin, s->score_count, LIMIT_LOGPROBS);
    }
    return STATUS_OK;
}

static enum status check_blocks(struct seq_check *c)
{
    const struct plan_seq *s = c->head;
    const struct plan_limits *l = c->limits;
    for (uint32_t g = 0; g < LIMIT_KV_GROUPS; g++) {
        uint32_t n_max = 0;
        if (g < l->n_kv_groups)
            n_max = (l->context_tokens + l->block_tokens - 1) / l->block_tokens;
        if (s->n_blocks[g] > n_max || s->block_begin[g] > n_max - s->n_blocks[g] ||
            (s->flags & PLAN_SEQ_FIRST && s->block_begin[g]))
            REFUSE(c,
                "step plan: slot %" PRIu32 " sets blocks %" PRIu32 " + %" PRIu32
                " of KV group %" PRIu32 ", expected at most %" PRIu32 " in all",
                s->slot, s->block_begin[g], s->n_blocks[g], g, n_max);
        const uint32_t *blocks = take(&c->r, s->n_blocks[g], 4);
        if (!blocks)
            REFUSE(c, "step plan: slot %" PRIu32 " ends inside its block table", s->slot);
        for (uint32_t i = 0; i < s->n_blocks[g]; i++)
            if (blocks[i] >= l->n_blocks[g])
                REFUSE(c,
                    "step plan: slot %" PRIu32 " has block %" PRIu32 ", group %" PRIu32
                    " has %" PRIu32 " blocks",
                    s->slot, blocks[i], g, l->n_blocks[g]);
    }
    return STATUS_OK;
}

struct float_range {
    const char *name;
    float value, min, max;
    bool open; // min itself is not allowed
};

static enum status check_params(struct seq_check *c, const struct sampling_params *p)
{
    const struct float_range ranges[] = {
        {"temperature", p->temperature, 0, 1e4f, false},
        {"top_p", p->top_p, 0, 1, true},
        {"min_p", p->min_p, 0, 1, false},
        {"typical_p", p->typical_p, 0, 1, true},
        {"repetition_penalty", p->repetition_penalty, 0, 2, true},
        {"presence_penalty", p->presence_penalty, -2, 2, false},
        {"frequency_penalty", p->frequency_penalty, -2, 2, false},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        const struct float_range *f = &ranges[i];
        // Written so that a NaN fails.
        if (!(f->value >= f->min && f->value <= f->max) || (f->open && f->value == f->min))
            REFUSE(c, "step plan: slot %" PRIu32 " has %s = %g, expected %g to %g", c->head->slot,
                f->name, (double)f->value, (double)f->min, (double)f->max);
    }
    if (p->top_k < -1 || p->n_logprobs > LIMIT_LOGPROBS || p->n_stop_ids > SAMPLING_STOP_IDS_MAX ||
        p->n_logit_bias > SAMPLING_LOGIT_BIAS_MAX || p->pad)
        REFUSE(c,
            "step plan: slot %" PRIu32 " has top_k %" PRId32 ", %" PRIu32
            " log-probabilities, %" PRIu32 " stop ids, %" PRIu32 " biases: one is out of range",
            c->head->slot, p->top_k, p->n_logprobs, p->n_stop_ids, p->n_logit_bias);
    return STATUS_OK;
}

static enum status check_first(struct seq_check *c)
{
    if (!(c->head->flags & PLAN_SEQ_FIRST))
        return STATUS_OK;
    const struct plan_first *first = take(&c->r, 1, sizeof *first);
    if (!first)
        REFUSE(c, "step plan: slot %" PRIu32 " ends before its parameters", c->head->slot);
    if (first->prompt_length < 1 || first->prompt_length > c->head->n_ids || first->pad)
        REFUSE(c, "step plan: slot %" PRIu32 " has a prompt of %" PRIu32 " among %" PRIu32 " ids",
            c->head->slot, first->prompt_length, c->head->n_ids);
    TRY(check_params(c, &first->params));
    TRY(check_ids(
        c, take(&c->r, first->params.n_stop_ids, 4), first->params.n_stop_ids, "stop id"));
    const struct sampling_bias *bias = take(&c->r, first->params.n_logit_bias, sizeof *bias);
    if (!bias)
        REFUSE(c, "step plan: slot %" PRIu32 " ends inside its biases", c->head->slot);
    for (uint32_t i = 0; i < first->params.n_logit_bias; i++) {
        TRY(check_ids(c, &bias[i].id, 1, "biased id"));
        if (!(bias[i].bias >= -100 && bias[i].bias <= 100))
            REFUSE(c, "step plan: slot %" PRIu32 " has a bias of %g, expected -100 to 100",
                c->head->slot, (double)bias[i].bias);
    }
    return STATUS_OK;
}

static enum status check_seq(struct seq_check *c)
{
    if (c->head->flags & ~(uint32_t)PLAN_SEQ_FLAGS_ALL)
        REFUSE(c, "step plan: slot %" PRIu32 " has unknown flags", c->head->slot);
    TRY(check_rows(c));
    TRY(check_ids(c, take(&c->r, c->head->n_ids, 4), c->head->n_ids, "token id"));
    TRY(check_blocks(c));
    TRY(check_first(c));
    if (c->r.left)
        REFUSE(c, "step plan: slot %" PRIu32 " has %zu bytes too many", c->head->slot, c->r.left);
    return STATUS_OK;
}

// ---- a whole plan ------------------------------------------------------------------------------

// Slots seen so far; each may occur once in a list.
struct slot_set {
    uint64_t bits[(LIMIT_SLOTS + 63) / 64];
};

static bool slot_new(struct slot_set *set, uint32_t slot, const struct plan_limits *l)
{
    if (slot >= l->n_slots || slot >= LIMIT_SLOTS)
        return false;
    uint64_t bit = (uint64_t)1 << slot % 64;
    bool is_new = !(set->bits[slot / 64] & bit);
    set->bits[slot / 64] |= bit;
    return is_new;
}

static enum status check_head(
    const struct plan_header *h, size_t n, const struct plan_limits *l, struct error *err)
{
    if (h->magic != PLAN_MAGIC || h->version != PLAN_VERSION)
        return status_fail(err, STATUS_INVALID,
            "step plan: magic %08" PRIx32 " version %" PRIu32 ", expected %08x version %d",
            h->magic, h->version, PLAN_MAGIC, PLAN_VERSION);
    if (h->bytes != n)
        return status_fail(err, STATUS_INVALID,
            "step plan: %zu bytes came, its header says %" PRIu64, n, h->bytes);
    if (h->n_seqs > l->n_slots || h->n_releases > l->n_slots || h->n_rows > l->step_tokens)
        return status_fail(err, STATUS_INVALID,
            "step plan: %" PRIu32 " sequences, %" PRIu32 " releases, %" PRIu32
            " rows; expected at most %" PRIu32 " slots and %" PRIu32 " rows",
            h->n_seqs, h->n_releases, h->n_rows, l->n_slots, l->step_tokens);
    if (h->hash != plan_hash(h))
        return status_fail(
            err, STATUS_INVALID, "step plan %" PRIu64 ": its hash does not match", h->step_id);
    return STATUS_OK;
}

static enum status check_seqs(
    const struct plan_header *h, struct reader *r, const struct plan_limits *l, struct error *err)
{
    struct slot_set seen = {0};
    uint64_t n_rows = 0;
    for (uint32_t i = 0; i < h->n_seqs; i++) {
        const struct plan_seq *seq = (const void *)r->at;
        if (r->left < sizeof *seq || seq->bytes < sizeof *seq || seq->bytes > r->left ||
            seq->bytes % 8)
            return status_fail(err, STATUS_INVALID,
                "step plan: record %" PRIu32 " does not fit into the %zu bytes left", i, r->left);
        if (!slot_new(&seen, seq->slot, l))
            return status_fail(err, STATUS_INVALID,
                "step plan: slot %" PRIu32 " is given twice or not below %" PRIu32, seq->slot,
                l->n_slots);
        struct seq_check c = {.head = seq, .limits = l, .err = err};
        c.r = (struct reader){r->at + sizeof *seq, seq->bytes - sizeof *seq};
        TRY(check_seq(&c));
        n_rows += seq->n_tokens;
        take(r, 1, seq->bytes);
    }
    if (n_rows != h->n_rows)
        return status_fail(err, STATUS_INVALID,
            "step plan: sequences have %" PRIu64 " rows, the header says %" PRIu32, n_rows,
            h->n_rows);
    return STATUS_OK;
}

static enum status check_rest(
    const struct plan_header *h, struct reader *r, const struct plan_limits *l, struct error *err)
{
    struct slot_set seen = {0};
    const struct plan_release *release = take(r, h->n_releases, sizeof *release);
    const struct plan_copy *copy = release ? take(r, h->n_copies, sizeof *copy) : NULL;
    if (!copy || r->left)
        return status_fail(err, STATUS_INVALID,
            "step plan: its size does not fit %" PRIu32 " releases and %" PRIu32 " copies",
            h->n_releases, h->n_copies);
    for (uint32_t i = 0; i < h->n_releases; i++)
        if (!slot_new(&seen, release[i].slot, l))
            return status_fail(err, STATUS_INVALID,
                "step plan: slot %" PRIu32 " is released twice or not below %" PRIu32,
                release[i].slot, l->n_slots);
    for (uint32_t i = 0; i < h->n_copies; i++) {
        const struct plan_copy *c = &copy[i];
        if (c->group >= l->n_kv_groups || c->src >= l->n_blocks[c->group] ||
            c->dst >= l->n_blocks[c->group] || c->src == c->dst || c->pad)
            return status_fail(err, STATUS_INVALID,
                "step plan: copy of block %" PRIu32 " to %" PRIu32 " in KV group %" PRIu32
                " is out of range",
                c->src, c->dst, c->group);
    }
    return STATUS_OK;
}

enum status plan_check(
    const void *data, size_t n, const struct plan_limits *limits, struct error *err)
{
    const struct plan_header *h = data;
    if (n < sizeof *h || n > LIMIT_PLAN_BYTES || n % 8 || (uintptr_t)data % 8)
        return status_fail(err, STATUS_INVALID,
            "step plan: %zu bytes, expected a multiple of 8 from %zu to %d", n, sizeof *h,
            LIMIT_PLAN_BYTES);
    TRY(check_head(h, n, limits, err));
    struct reader r = {(const uint8_t *)(h + 1), n - sizeof *h};
    TRY(check_seqs(h, &r, limits, err));
    return check_rest(h, &r, limits, err);
}

// ---- answers -----------------------------------------------------------------------------------

// Log-probabilities may be minus infinity, never more than 0 (but for rounding) or NaN.
static bool logprob_ok(float x)
{
    return x <= 1e-3f;
}

static bool result_ok(struct reader *r, const struct plan_limits *l)
{
    const struct answer_result *result = take(r, 1, sizeof *result);
    if (!result || result->kind > ANSWER_SCORED || result->position > l->context_tokens ||
        result->id >= l->vocab_size || !logprob_ok(result->logprob) || result->rank < 1 ||
        result->rank > l->vocab_size || result->n_top > SAMPLING_LOGPROBS_MAX)
        return false;
    const struct answer_top *top = take(r, result->n_top, sizeof *top);
    for (uint32_t i = 0; top && i < result->n_top; i++)
        if (top[i].id >= l->vocab_size || !logprob_ok(top[i].logprob))
            return false;
    return top != NULL;
}

static bool answer_seq_ok(struct reader *r, struct slot_set *seen, const struct plan_limits *l)
{
    const struct answer_seq *seq = (const void *)r->at;
    if (r->left < sizeof *seq || seq->bytes < sizeof *seq || seq->bytes > r->left ||
        seq->bytes % 8 || seq->status > ANSWER_SEQ_BAD_LOGITS || !slot_new(seen, seq->slot, l))
        return false;
    struct reader results = {r->at + sizeof *seq, seq->bytes - sizeof *seq};
    for (uint32_t i = 0; i < seq->n_results; i++)
        if (!result_ok(&results, l))
            return false;
    take(r, 1, seq->bytes);
    return results.left == 0;
}

enum status answer_check(
    const void *data, size_t n, const struct plan_limits *limits, struct error *err)
{
    const struct answer_header *h = data;
    if (n < sizeof *h || n > LIMIT_WORKER_MESSAGE_BYTES || n % 8 || (uintptr_t)data % 8 ||
        h->magic != ANSWER_MAGIC || h->version != PLAN_VERSION || h->bytes != n || h->pad)
        return status_fail(err, STATUS_INVALID,
            "step answer: %zu bytes without a valid header of version %d", n, PLAN_VERSION);
    struct reader r = {(const uint8_t *)(h + 1), n - sizeof *h};
    struct slot_set seen = {0};
    for (uint32_t i = 0; i < h->n_seqs; i++)
        if (!answer_seq_ok(&r, &seen, limits))
            return status_fail(err, STATUS_INVALID,
                "step answer %" PRIu64 ": sequence %" PRIu32 " is malformed or out of range",
                h->step_id, i);
    if (r.left)
        return status_fail(
            err, STATUS_INVALID, "step answer %" PRIu64 ": %zu bytes too many", h->step_id, r.left);
    return STATUS_OK;
}
