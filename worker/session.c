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
    bool taken = true;
    for (uint32_t i = 0; i < SESSION_STEPS_MAX; i++) {
        struct session_step *step = &s->step[i];
        step->seq = calloc(slots, sizeof *step->seq);
        step->want = calloc(rows, sizeof *step->want);
        step->outcome = calloc(rows, sizeof *step->outcome);
        taken = taken && step->seq && step->want && step->outcome;
    }
    s->copy_src = calloc(COPIES_AT_ONCE, sizeof *s->copy_src);
    s->copy_dst = calloc(COPIES_AT_ONCE, sizeof *s->copy_dst);
    return taken && s->slot && s->token_ids && s->positions && s->logit_rows && s->seq &&
           s->copy_src && s->copy_dst && take_slots(s);
}

enum status session_open(const struct session_args *args, struct session **out, struct error *err)
{
    const struct plan_limits *l = &args->limits;
    check(l->n_slots >= 1 && l->n_slots <= LIMIT_SLOTS && l->step_tokens >= 1);
    struct session *s = calloc(1, sizeof *s);
    if (s) {
        s->a = *args;
        s->ahead = sampler_kept(args->sampler);
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
    for (uint32_t i = 0; i < SESSION_STEPS_MAX; i++) {
        free(s->step[i].seq);
        free(s->step[i].want);
        free(s->step[i].outcome);
    }
    free(s->copy_src);
    free(s->copy_dst);
    buf_deinit(&s->answer);
    free(s);
}

void session_reset(struct session *s, uint64_t epoch, uint64_t next_step_id)
{
    check(session_unfinished(s) == 0);
    s->epoch = epoch;
    s->next_step = next_step_id;
    s->last_hash = s->last_finished = 0;
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
    return s->last_finished;
}

uint32_t session_unfinished(const struct session *s)
{
    return s->n_begun - s->n_finished;
}

uint32_t session_depth(const struct session *s)
{
    return s->ahead ? SESSION_STEPS_MAX : 1;
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
    slot->begun = s->next_step;
    slot->n_ids = slot->n_given = v->head->n_ids;
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
static void add_rows(
    struct session *s, struct session_step *step, struct batch *b, const struct plan_seq *head)
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
        step->want[b->n_logit_rows++] = (struct sample_want){.slot = head->slot,
            .position = position + 1,
            .scored = true,
            .target = slot->ids[position + 1],
            .n_logprobs = head->score_logprobs};
    }
    b->n_rows += head->n_tokens;
    if (head->flags & PLAN_SEQ_SAMPLE) {
        s->logit_rows[b->n_logit_rows] = b->n_rows - 1;
        step->want[b->n_logit_rows++] =
            (struct sample_want){.slot = head->slot, .position = slot->n_ids};
    }
    if (slot->n_computed < head->first_position + head->n_tokens)
        slot->n_computed = head->first_position + head->n_tokens;
}

static struct batch make_batch(
    struct session *s, struct session_step *step, const struct plan_header *plan)
{
    struct batch b = {.token_ids = s->token_ids,
        .positions = s->positions,
        .seq = s->seq,
        .logit_rows = s->logit_rows,
        .kept = sampler_kept(s->a.sampler)};
    struct plan_cursor c = plan_seqs(plan);
    struct plan_seq_view v;
    while (plan_next_seq(&c, &v)) {
        if (v.head->flags & PLAN_SEQ_FIRST)
            begin_sequence(s, &v);
        update_tables(s, &v);
        const struct slot *slot = &s->slot[v.head->slot];
        step->seq[b.n_seqs] = (struct session_seq){*v.head, slot->begun, slot->failed};
        add_rows(s, step, &b, v.head);
    }
    step->plan = *plan;
    step->n_wanted = b.n_logit_rows;
    return b;
}

// What is sampled follows the ids at once: its position counts, and where it stays on the device
// the next rows name it by its slot.
static void name_sampled(struct session *s, const struct session_step *step)
{
    for (uint32_t i = 0; i < step->plan.n_seqs; i++) {
        const struct plan_seq *head = &step->seq[i].head;
        struct slot *slot = &s->slot[head->slot];
        if (head->flags & PLAN_SEQ_SAMPLE)
            slot->ids[slot->n_ids++] = KERNELS_TOKEN_KEPT | head->slot;
    }
}

// ---- from outcomes to the answer ---------------------------------------------------------------

static uint32_t n_wanted(const struct plan_seq *head)
{
    return head->score_count + (head->flags & PLAN_SEQ_SAMPLE ? 1 : 0);
}

// Puts what was sampled among the ids, on every rank alike, unless the slot has been given to
// another sequence meanwhile. A sequence that failed gets an id too, so that a plan that is already
// on its way still finds what it expects.
static void put_sampled(struct session *s, struct session_step *step)
{
    const struct sample_outcome *o = step->outcome;
    const struct sample_want *w = step->want;
    for (uint32_t i = 0; i < step->plan.n_seqs; i++) {
        struct session_seq *seq = &step->seq[i];
        struct slot *slot = &s->slot[seq->head.slot];
        bool holds = slot->begun == seq->begun;
        uint32_t n = n_wanted(&seq->head);
        seq->failed |= holds && slot->failed;
        for (uint32_t k = 0; k < n; k++)
            seq->failed |= o[k].failed;
        o += n;
        w += n;
        if (holds)
            slot->failed = seq->failed;
        if (holds && seq->head.flags & PLAN_SEQ_SAMPLE)
            slot->ids[w[-1].position] = seq->failed ? 0 : o[-1].id;
    }
}

static void answer_seq_of(
    struct session *s, const struct session_step *step, const struct session_seq *seq, uint32_t at)
{
    if (seq->failed) {
        answer_add_seq(&s->answer, &seq->head, ANSWER_SEQ_BAD_LOGITS);
        return;
    }
    answer_add_seq(&s->answer, &seq->head, ANSWER_SEQ_OK);
    for (uint32_t i = at; i < at + n_wanted(&seq->head); i++) {
        const struct sample_outcome *o = &step->outcome[i];
        struct answer_result result = {
            .kind = step->want[i].scored ? ANSWER_SCORED : ANSWER_SAMPLED,
            .position = step->want[i].position,
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

static enum status write_answer(
    struct session *s, const struct session_step *step, struct error *err)
{
    if (!s->a.answers)
        return STATUS_OK;
    answer_begin(&s->answer, &step->plan);
    uint32_t at = 0;
    for (uint32_t i = 0; i < step->plan.n_seqs; i++) {
        answer_seq_of(s, step, &step->seq[i], at);
        at += n_wanted(&step->seq[i].head);
    }
    uint64_t now = clock_now_us();
    answer_end(&s->answer, (uint32_t)(step->forward_us - step->begin_us),
        (uint32_t)((s->ahead ? now : step->enqueued_us) - step->forward_us),
        (uint32_t)step->collective_us, (uint32_t)(now - step->begin_us));
    if (buf_failed(&s->answer))
        return status_fail(err, STATUS_NO_MEMORY, "no memory for the answer to a step");
    return STATUS_OK;
}

// ---- steps -------------------------------------------------------------------------------------

enum status session_accepts(struct session *s, const void *data, size_t n, struct error *err)
{
    const struct plan_header *plan = data;
    TRY(plan_check(data, n, &s->a.limits, err));
    return session_repeats(s, plan) ? STATUS_OK : session_check(s, plan, err);
}

enum status session_begin(struct session *s, const void *data, size_t n,
    const struct forward_pulse *pulse, struct error *err)
{
    const struct plan_header *plan = data;
    TRY(session_accepts(s, data, n, err));
    if (session_repeats(s, plan))
        return STATUS_OK;
    check(session_unfinished(s) < SESSION_STEPS_MAX);
    uint32_t turn = s->n_begun % SESSION_STEPS_MAX;
    struct session_step *step = &s->step[turn];
    step->begin_us = clock_now_us();
    apply_releases(s, plan);
    apply_copies(s, plan);
    struct batch batch = make_batch(s, step, plan);
    if (batch.n_rows > 0)
        TRY(forward_rows(s->a.forward, &batch, pulse, err));
    step->forward_us = clock_now_us();
    TRY(sampler_run(
        s->a.sampler, s->a.forward, turn, step->want, step->n_wanted, step->outcome, err));
    step->enqueued_us = clock_now_us();
    step->collective_us = forward_take_collective_us(s->a.forward);
    if (s->ahead)
        forward_mark(s->a.forward, turn);
    name_sampled(s, step);
    if (!s->ahead)
        put_sampled(s, step);
    s->next_step = plan->step_id + 1;
    s->last_hash = plan->hash;
    s->n_begun++;
    return STATUS_OK;
}

enum status session_finish(struct session *s, bool wait, struct error *err)
{
    check(session_unfinished(s) > 0);
    uint32_t turn = s->n_finished % SESSION_STEPS_MAX;
    struct session_step *step = &s->step[turn];
    if (s->ahead) {
        enum status status = forward_reached(s->a.forward, turn, wait, err);
        if (status != STATUS_OK)
            return status;
        sampler_collect(s->a.sampler, turn, step->want, step->n_wanted, step->outcome);
        put_sampled(s, step);
    }
    s->n_finished++;
    s->last_finished = step->plan.step_id;
    return write_answer(s, step, err);
}
