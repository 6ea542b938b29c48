// SPDX-License-Identifier: Apache-2.0
#include "worker/session.h"

#include "base/check.h"
#include "base/clock.h"
#include "worker/session_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { COPIES_AT_ONCE = 256 };

// ---- life cycle --------------------------------------------------------------------------------

// Address space for histories and tables: it becomes memory where sequences are long.
static bool take_slots(struct session *s)
{
    const struct plan_limits *l = &s->a.limits;
    uint64_t ids = (uint64_t)l->context_tokens + 1;
    uint64_t each = ids + (uint64_t)LIMIT_KV_GROUPS * s->blocks_max;
    s->memory_bytes = each * l->n_slots * sizeof(uint32_t);
    void *p = mmap(NULL, s->memory_bytes, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return false;
    s->memory = p;
    for (uint32_t i = 0; i < l->n_slots; i++) {
        s->slot[i].ids = (uint32_t *)p + i * each;
        for (uint32_t g = 0; g < LIMIT_KV_GROUPS; g++)
            s->slot[i].blocks[g] = s->slot[i].ids + ids + g * s->blocks_max;
    }
    return true;
}

static bool take_all(struct session *s)
{
    uint32_t rows = s->a.limits.step_tokens, slots = s->a.limits.n_slots;
    s->slot = calloc(slots, sizeof *s->slot);
    s->token_ids = calloc(rows, sizeof *s->token_ids);
    s->positions = calloc(rows, sizeof *s->positions);
    s->logit_rows = calloc(rows, sizeof *s->logit_rows);
    s->seq = calloc(slots, sizeof *s->seq);
    s->want = calloc(rows, sizeof *s->want);
    s->outcome = calloc(rows, sizeof *s->outcome);
    s->copy_src = calloc(COPIES_AT_ONCE, sizeof *s->copy_src);
    s->copy_dst = calloc(COPIES_AT_ONCE, sizeof *s->copy_dst);
    return s->slot && s->token_ids && s->positions && s->logit_rows && s->seq && s->want &&
           s->outcome && s->copy_src && s->copy_dst && take_slots(s);
}

enum status session_open(const struct session_args *args, struct session **out, struct error *err)
{
    const struct plan_limits *l = &args->limits;
    check(l->n_slots >= 1 && l->n_slots <= LIMIT_SLOTS && l->step_tokens >= 1);
    struct session *s = calloc(1, sizeof *s);
    if (s) {
        s->a = *args;
        s->blocks_max = (l->context_tokens + l->block_tokens - 1) / l->block_tokens;
        buf_init(&s->answer, LIMIT_WORKER_MESSAGE_BYTES);
    }
    if (!s || !take_all(s)) {
        session_close(s);
        return status_fail(err, STATUS_NO_MEMORY, "no memory for %u sequences of %u tokens",
            l->n_slots, l->context_tokens);
    }
    *out = s;
    return STATUS_OK;
}

void session_close(struct session *s)
{
    if (!s)
        return;
    if (s->memory)
        munmap(s->memory, s->memory_bytes);
    free(s->slot);
    free(s->token_ids);
    free(s->positions);
    free(s->logit_rows);
    free(s->seq);
    free(s->want);
    free(s->outcome);
    free(s->copy_src);
    free(s->copy_dst);
    buf_deinit(&s->answer);
    free(s);
}

void session_reset(struct session *s, uint64_t epoch, uint64_t next_step_id)
{
    s->epoch = epoch;
    s->next_step = next_step_id;
    s->last_hash = 0;
    buf_clear(&s->answer);
    for (uint32_t i = 0; i < s->a.limits.n_slots; i++)
        s->slot[i].used = false;
}

bool session_repeats(const struct session *s, const struct plan_header *plan)
{
    return s->last_hash && plan->epoch == s->epoch && plan->step_id + 1 == s->next_step &&
           plan->hash == s->last_hash;
}

const struct buf *session_answer(const struct session *s)
{
    return &s->answer;
}

uint64_t session_epoch(const struct session *s)
{
    return s->epoch;
}

uint64_t session_last_step(const struct session *s)
{
    return s->last_hash ? s->next_step - 1 : 0;
}

// ---- from plan to batch ------------------------------------------------------------------------

static void apply_releases(struct session *s, const struct plan_header *plan)
{
    const struct plan_release *release = plan_releases(plan);
    for (uint32_t i = 0; i < plan->n_releases; i++)
        s->slot[release[i].slot].used = false;
}

// Runs of copies within one group, in order.
static void apply_copies(struct session *s, const struct plan_header *plan)
{
    const struct plan_copy *copy = plan_copies(plan);
    for (uint32_t i = 0; i < plan->n_copies;) {
        uint32_t n = 0, group = copy[i].group;
        for (; i < plan->n_copies && n < COPIES_AT_ONCE && copy[i].group == group; i++, n++) {
            s->copy_src[n] = copy[i].src;
            s->copy_dst[n] = copy[i].dst;
        }
        forward_copy_blocks(s->a.forward, group, s->copy_src, s->copy_dst, n);
    }
}

static void begin_sequence(struct session *s, const struct plan_seq_view *v)
{
    struct slot *slot = &s->slot[v->head->slot];
    slot->used = true;
    slot->failed = false;
    slot->generation = v->head->generation;
    slot->attempt = v->head->attempt;
    slot->n_ids = v->head->n_ids;
    slot->n_computed = v->head->first_position;
    memset(slot->n_blocks, 0, sizeof slot->n_blocks);
    memcpy(slot->ids, v->ids, v->head->n_ids * sizeof *v->ids);
    struct sampler_begin_args args = {.slot = v->head->slot,
        .params = v->first->params,
        .stop_ids = v->stop_ids,
        .bias = v->bias,
        .ids = v->ids,
        .n_ids = v->head->n_ids,
        .prompt_length = v->first->prompt_length};
    sampler_begin(s->a.sampler, &args);
}

static void update_tables(struct session *s, const struct plan_seq_view *v)
{
    struct slot *slot = &s->slot[v->head->slot];
    for (uint32_t g = 0; g < s->a.limits.n_kv_groups; g++) {
        uint32_t begin = v->head->block_begin[g], n = v->head->n_blocks[g];
        memcpy(slot->blocks[g] + begin, v->blocks[g], n * sizeof(uint32_t));
        if (begin + n > slot->n_blocks[g])
            slot->n_blocks[g] = begin + n;
    }
}

// Adds the rows of one sequence and what is wanted of them.
static void add_rows(struct session *s, struct batch *b, const struct plan_seq *head)
{
    struct slot *slot = &s->slot[head->slot];
    struct batch_seq *seq = &s->seq[b->n_seqs++];
    *seq = (struct batch_seq){
        .first_row = b->n_rows, .n_rows = head->n_tokens, .first_position = head->first_position};
    uint32_t end = head->first_position + head->n_tokens, size = s->a.limits.block_tokens;
    for (uint32_t g = 0; g < s->a.limits.n_kv_groups; g++) {
        seq->blocks[g] = slot->blocks[g];
        seq->n_blocks[g] = (end + size - 1) / size;
    }
    for (uint32_t i = 0; i < head->n_tokens; i++) {
        s->token_ids[b->n_rows + i] = slot->ids[head->first_position + i];
        s->positions[b->n_rows + i] = head->first_position + i;
    }
    for (uint32_t i = 0; i < head->score_count; i++) {
        uint32_t position = head->score_begin + i;
        s->logit_rows[b->n_logit_rows] = b->n_rows + position - head->first_position;
        s->want[b->n_logit_rows++] = (struct sample_want){.slot = head->slot,
            .position = position + 1,
            .scored = true,
            .target = slot->ids[position + 1],
            .n_logprobs = head->score_logprobs};
    }
    b->n_rows += head->n_tokens;
    if (head->flags & PLAN_SEQ_SAMPLE) {
        s->logit_rows[b->n_logit_rows] = b->n_rows - 1;
        s->want[b->n_logit_rows++] =
            (struct sample_want){.slot = head->slot, .position = slot->n_ids};
    }
    if (slot->n_computed < head->first_position + head->n_tokens)
        slot->n_computed = head->first_position + head->n_tokens;
}

static struct batch make_batch(struct session *s, const struct plan_header *plan)
{
    struct batch b = {.token_ids = s->token_ids,
        .positions = s->positions,
        .seq = s->seq,
        .logit_rows = s->logit_rows};
    struct plan_cursor c = plan_seqs(plan);
    struct plan_seq_view v;
    while (plan_next_seq(&c, &v)) {
        if (v.head->flags & PLAN_SEQ_FIRST)
            begin_sequence(s, &v);
        update_tables(s, &v);
        add_rows(s, &b, v.head);
    }
    return b;
}

// ---- from outcomes to the answer ---------------------------------------------------------------

static uint32_t n_wanted(const struct plan_seq *head)
{
    return head->score_count + (head->flags & PLAN_SEQ_SAMPLE ? 1 : 0);
}

// Appends what was sampled, on every rank alike. A sequence that failed gets an id too, so that a
// plan that is already on its way still finds what it expects.
static void append_sampled(struct session *s, const struct plan_header *plan)
{
    struct plan_cursor c = plan_seqs(plan);
    struct plan_seq_view v;
    const struct sample_outcome *o = s->outcome;
    while (plan_next_seq(&c, &v)) {
        struct slot *slot = &s->slot[v.head->slot];
        for (uint32_t i = 0; i < n_wanted(v.head); i++)
            slot->failed |= o[i].failed;
        o += n_wanted(v.head);
        if (v.head->flags & PLAN_SEQ_SAMPLE)
            slot->ids[slot->n_ids++] = slot->failed ? 0 : o[-1].id;
    }
}

static void answer_seq_of(struct session *s, const struct plan_seq *head, uint32_t first)
{
    if (s->slot[head->slot].failed) {
        answer_add_seq(&s->answer, head, ANSWER_SEQ_BAD_LOGITS);
        return;
    }
    answer_add_seq(&s->answer, head, ANSWER_SEQ_OK);
    for (uint32_t i = first; i < first + n_wanted(head); i++) {
        const struct sample_outcome *o = &s->outcome[i];
        struct answer_result result = {.kind = s->want[i].scored ? ANSWER_SCORED : ANSWER_SAMPLED,
            .position = s->want[i].position,
            .id = o->id,
            .logprob = o->logprob,
            .rank = o->rank,
            .n_top = o->n_top};
        struct answer_top top[LIMIT_LOGPROBS];
        for (uint32_t k = 0; k < o->n_top; k++)
            top[k] = (struct answer_top){o->top[k].id, o->top[k].logprob};
        answer_add_result(&s->answer, &result, top);
    }
}

struct step_times {
    uint64_t begin, forward, end, collective_us;
};

static enum status write_answer(struct session *s, const struct plan_header *plan,
    const struct step_times *t, struct error *err)
{
    if (!s->a.answers)
        return STATUS_OK;
    answer_begin(&s->answer, plan);
    struct plan_cursor c = plan_seqs(plan);
    struct plan_seq_view v;
    uint32_t first = 0;
    while (plan_next_seq(&c, &v)) {
        answer_seq_of(s, v.head, first);
        first += n_wanted(v.head);
    }
    answer_end(&s->answer, (uint32_t)(t->forward - t->begin), (uint32_t)(t->end - t->forward),
        (uint32_t)t->collective_us, (uint32_t)(clock_now_us() - t->begin));
    if (buf_failed(&s->answer))
        return status_fail(err, STATUS_NO_MEMORY, "no memory for the answer to a step");
    return STATUS_OK;
}

enum status session_accepts(struct session *s, const void *data, size_t n, struct error *err)
{
    const struct plan_header *plan = data;
    TRY(plan_check(data, n, &s->a.limits, err));
    return session_repeats(s, plan) ? STATUS_OK : session_check(s, plan, err);
}

enum status session_execute(struct session *s, const void *data, size_t n,
    const struct forward_pulse *pulse, struct error *err)
{
    const struct plan_header *plan = data;
    TRY(session_accepts(s, data, n, err));
    if (session_repeats(s, plan))
        return STATUS_OK;
    struct step_times t = {.begin = clock_now_us()};
    apply_releases(s, plan);
    apply_copies(s, plan);
    struct batch batch = make_batch(s, plan);
    if (batch.n_rows > 0)
        TRY(forward_rows(s->a.forward, &batch, pulse, err));
    t.forward = clock_now_us();
    TRY(sampler_run(s->a.sampler, s->a.forward, s->want, batch.n_logit_rows, s->outcome, err));
    t.end = clock_now_us();
    t.collective_us = forward_take_collective_us(s->a.forward);
    append_sampled(s, plan);
    s->next_step = plan->step_id + 1;
    s->last_hash = plan->hash;
    return write_answer(s, plan, &t, err);
}
