// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/drive.h"

#include "tests/test_support.h"

#include <stdlib.h>
#include <string.h>

void drive_open(struct drive *d, const struct rank_options *options, uint32_t degree)
{
    *d = (struct drive){.step = 1, .depth = 1};
    struct error err = {0};
    if (local_open(options, degree, &d->group, &err) != STATUS_OK)
        fail_msg("degree %u of %s: %s", degree, options->model_dir, err.text);
    d->rank = local_rank(d->group);
    d->info = rank_info(d->rank);
    buf_init(&d->plan, LIMIT_PLAN_BYTES);
    d->free_block = calloc(d->info->limits.n_blocks[0], sizeof *d->free_block);
    drive_shuffle_blocks(d, 0);
}

void drive_close(struct drive *d)
{
    struct error err = {0};
    if (local_close(d->group, &err) != STATUS_OK)
        fail_msg("closing: %s", err.text);
    free(d->free_block);
    buf_deinit(&d->plan);
}

void drive_shuffle_blocks(struct drive *d, uint32_t seed)
{
    d->n_free = d->info->limits.n_blocks[0];
    for (uint32_t i = 0; i < d->n_free; i++)
        d->free_block[i] = d->n_free - 1 - i;
    srand(seed);
    for (uint32_t i = d->n_free - 1; seed && i > 0; i--) {
        uint32_t k = (uint32_t)rand() % (i + 1), t = d->free_block[i];
        d->free_block[i] = d->free_block[k];
        d->free_block[k] = t;
    }
}

static void begin(struct drive *d, struct drive_request *r)
{
    if (r->n_ids == 0) {
        memcpy(r->ids, r->prompt, r->n_prompt * sizeof *r->ids);
        r->n_ids = r->n_prompt;
    }
    r->first = true;
    r->generation = ++d->generation;
    r->n_computed = r->prefix ? r->prefix_tokens : 0;
    r->n_coming = 0;
    r->n_sent = 0;
    r->n_blocks = 0;
    for (uint32_t i = 0; i < r->n_computed / d->info->limits.block_tokens; i++)
        r->block[r->n_blocks++] = r->prefix->block[i];
}

// Rows up to the last token in sight; the last output's own is never computed.
static uint32_t rows_left(const struct drive_request *r)
{
    uint32_t total = r->n_ids + r->n_coming;
    bool all = total - r->n_prompt == r->n_output && !r->first;
    return total - r->n_computed - (all ? 1 : 0);
}

static void add_to_flight(struct drive *d, struct drive_request *r, bool samples)
{
    struct drive_flight *f = &d->flight[d->n_flights];
    assert_true(f->n < DRIVE_SLOTS_MAX && r->slot < DRIVE_SLOTS_MAX);
    f->seq[f->n].request = r;
    f->seq[f->n].slot = r->slot;
    f->seq[f->n].generation = r->generation;
    f->seq[f->n++].samples = samples;
    d->in_flight[r->slot]++;
    r->n_coming += samples;
}

static void add_to_plan(struct drive *d, struct drive_request *r, uint32_t budget)
{
    uint32_t left = rows_left(r), n = left < budget ? left : budget;
    n = r->chunk && r->chunk < n ? r->chunk : n;
    assert_true(n > 0);
    uint32_t end = r->n_computed + n, block = d->info->limits.block_tokens;
    while (r->n_blocks * block < end) {
        assert_true(d->n_free > 0 && r->n_blocks < DRIVE_BLOCKS_MAX);
        r->block[r->n_blocks++] = d->free_block[--d->n_free];
    }
    // Groups of layers have pages of their own: the same numbers serve both.
    uint32_t second = d->info->limits.n_blocks[1] ? r->n_blocks - r->n_sent : 0;
    struct plan_seq_parts p = {.head = {.slot = r->slot,
                                   .generation = r->generation,
                                   .attempt = r->attempt,
                                   .first_position = r->n_computed,
                                   .n_tokens = n,
                                   .block_begin = {r->n_sent, second ? r->n_sent : 0},
                                   .n_blocks = {r->n_blocks - r->n_sent, second}},
        .blocks = {r->block + r->n_sent, r->block + r->n_sent},
        .params = &r->params,
        .prompt_length = r->n_prompt,
        .bias = r->bias};
    if (r->first) {
        p.head.flags |= PLAN_SEQ_FIRST;
        p.head.n_ids = r->n_ids;
        p.ids = r->ids;
    }
    bool samples = end == r->n_ids + r->n_coming;
    if (samples)
        p.head.flags |= PLAN_SEQ_SAMPLE;
    if (r->score && r->n_computed + 1 < r->n_prompt) {
        p.head.flags |= PLAN_SEQ_SCORE;
        p.head.score_begin = r->n_computed;
        p.head.score_count = (end < r->n_prompt ? end : r->n_prompt - 1) - r->n_computed;
        p.head.score_logprobs = DRIVE_TOPS;
    }
    plan_add_seq(&d->plan, &p);
    add_to_flight(d, r, samples);
    r->first = false;
    r->n_sent = r->n_blocks;
    r->n_computed = end;
}

// A position that was scored before a preemption is scored again; it must say the same.
static void keep_result(
    struct drive_request *r, const struct answer_result *result, const struct answer_top *top)
{
    struct drive_result x = {.kind = result->kind,
        .position = result->position,
        .id = result->id,
        .logprob = result->logprob,
        .rank = result->rank,
        .n_top = result->n_top};
    assert_true(result->n_top <= DRIVE_TOPS);
    memcpy(x.top, top, result->n_top * sizeof *top);
    for (uint32_t i = 0; i < r->n_results; i++)
        if (r->result[i].position == x.position) {
            assert_memory_equal(&r->result[i], &x, sizeof x);
            return;
        }
    assert_true(r->n_results < DRIVE_IDS_MAX);
    r->result[r->n_results++] = x;
    if (x.kind == ANSWER_SAMPLED)
        r->ids[r->n_ids++] = x.id;
}

// The slot is released when the last plan that names it has been answered.
static void let_go(struct drive *d, uint32_t slot, uint32_t generation)
{
    d->ending[slot] = generation;
    if (d->in_flight[slot] > 0)
        return;
    assert_true(d->n_release < DRIVE_SLOTS_MAX);
    d->release[d->n_release++] = (struct plan_release){slot, generation};
    d->ending[slot] = 0;
}

static void take_answer(struct drive *d, const struct drive_flight *f)
{
    struct error err = {0};
    const struct buf *answer = rank_answer(d->rank);
    if (answer_check(answer->data, answer->size, &d->info->limits, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    const struct answer_header *h = (const void *)answer->data;
    assert_int_equal(h->step_id, f->step);
    assert_int_equal(h->n_seqs, f->n);
    struct plan_cursor c = answer_seqs(h), results;
    const struct answer_seq *seq;
    const struct answer_result *result;
    const struct answer_top *top;
    for (uint32_t i = 0; answer_next_seq(&c, &seq, &results); i++) {
        struct drive_request *r = f->seq[i].request;
        assert_true(seq->slot == f->seq[i].slot && seq->generation == f->seq[i].generation);
        d->in_flight[seq->slot]--;
        if (d->ending[seq->slot] == seq->generation)
            let_go(d, seq->slot, seq->generation);
        if (r->done || r->generation != seq->generation) {
            d->n_surplus++;
            continue; // computed behind its end
        }
        r->n_coming -= f->seq[i].samples;
        r->bad_logits |= seq->status == ANSWER_SEQ_BAD_LOGITS;
        while (answer_next_result(&results, &result, &top))
            keep_result(r, result, top);
    }
}

// Writes a plan of what can be computed; false: nothing, and nobody is released.
static bool write_plan(struct drive *d, struct drive_request *requests[], uint32_t n, uint32_t step)
{
    uint32_t budget = d->info->limits.step_tokens;
    struct drive_flight *f = &d->flight[d->n_flights];
    *f = (struct drive_flight){.step = d->step};
    plan_begin(&d->plan, 1, d->step);
    for (uint32_t i = 0; i < n; i++) {
        struct drive_request *r = requests[i];
        if (r->done || r->start_step > step || budget == 0 || rows_left(r) == 0)
            continue;
        uint32_t rows = r->n_computed;
        add_to_plan(d, r, budget);
        budget -= r->n_computed - rows;
    }
    bool any = f->n > 0 || d->n_release > 0;
    for (uint32_t i = 0; i < d->n_release; i++)
        plan_add_release(&d->plan, d->release[i].slot, d->release[i].generation);
    d->n_release = 0;
    plan_end(&d->plan);
    assert_false(buf_failed(&d->plan));
    return any;
}

static void send_plan(struct drive *d)
{
    struct error err = {0};
    bool repeats = true;
    if (rank_begin(d->rank, d->plan.data, d->plan.size, NULL, &repeats, &err) != STATUS_OK)
        fail_msg("step %llu: %s", (unsigned long long)d->step, err.text);
    assert_false(repeats);
    d->step++;
    d->n_flights++;
}

static void finish_plan(struct drive *d)
{
    struct error err = {0};
    if (rank_finish(d->rank, true, &err) != STATUS_OK)
        fail_msg("step %llu: %s", (unsigned long long)d->flight[0].step, err.text);
    take_answer(d, &d->flight[0]);
    memmove(&d->flight[0], &d->flight[1], sizeof d->flight - sizeof d->flight[0]);
    d->n_flights--;
}

// What an answer has ended or thrown out; returns how many have ended.
static uint32_t settle(struct drive *d, struct drive_request *requests[], uint32_t n)
{
    uint32_t n_ended = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct drive_request *r = requests[i];
        uint32_t n_output = r->n_ids - r->n_prompt;
        bool preempted = r->preempt_after && n_output == r->preempt_after;
        bool ended = n_output == r->n_output || (r->stop_after && n_output == r->stop_after);
        if (r->done || !(preempted || ended || r->bad_logits))
            continue;
        let_go(d, r->slot, r->generation);
        if (preempted && !ended) {
            r->preempt_after = 0;
            r->slot = r->resume_slot;
            r->attempt++;
            begin(d, r);
        } else {
            r->done = true;
            n_ended++;
        }
    }
    return n_ended;
}

void drive_run(struct drive *d, struct drive_request *requests[], uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (requests[i]->params.top_p == 0)
            requests[i]->params = (struct sampling_params){
                .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .n_logprobs = DRIVE_TOPS};
        begin(d, requests[i]);
    }
    uint32_t n_left = n;
    for (uint32_t step = 0; n_left > 0 || d->n_release > 0 || d->n_flights > 0;) {
        bool room = d->n_flights < d->depth;
        if (room && (write_plan(d, requests, n, step) || d->n_flights == 0)) {
            send_plan(d);
            step++;
        } else {
            finish_plan(d);
            n_left -= settle(d, requests, n);
        }
    }
}

void drive_run_one(struct drive *d, struct drive_request *request)
{
    drive_run(d, &request, 1);
}

bool drive_same(const struct drive_request *a, const struct drive_request *b)
{
    if (a->n_results != b->n_results || a->n_results == 0) {
        print_message("%u and %u results\n", a->n_results, b->n_results);
        return false;
    }
    for (uint32_t i = 0; i < a->n_results; i++) {
        const struct drive_result *x = &a->result[i], *y = &b->result[i];
        if (memcmp(x, y, sizeof *x) == 0)
            continue;
        print_message("position %u: id %u %.9g, position %u: id %u %.9g\n", x->position, x->id,
            (double)x->logprob, y->position, y->id, (double)y->logprob);
        return false;
    }
    return true;
}
