// SPDX-License-Identifier: Apache-2.0
// What clients see. Each sample has a view: the offset of the next token to send. A client that
// keeps up gets each token when it is appended; one that does not, or that resumes, reads from the
// log, and its text is decoded again from there, with the same rules.
#include "coordinator/core_internal.h"

#include "base/check.h"

#include <string.h>

void core_view_emit(struct core *core, const struct core_request *r, struct core_out *out)
{
    out->request = core_handle(core, r);
    out->peer = r->peer;
    out->tenant = r->tenant;
    out->model = r->model;
    out->id = r->id;
    core->config.emit(core->config.user, out);
}

static const struct text_decoder *decoder_of(const struct core *core, const struct core_request *r)
{
    return core->model[r->model].config.decoder;
}

// Whether token `index` may contain the end of a stop string.
static bool matches(const struct core_request *r, uint32_t index)
{
    return MUTANT(STOPS_BEFORE_MIN_TOKENS) || index + 1 > r->min_tokens;
}

// The stop rules that look at ids; reason LENGTH stands for "goes on" here.
static struct core_end stop_by_id(
    const struct core *core, const struct core_request *r, uint32_t id)
{
    const struct core_model *model = &core->model[r->model].config;
    for (uint32_t i = 0; i < model->n_end_ids && !r->ignore_end; i++)
        if (model->end_ids[i] == id)
            return (struct core_end){.reason = CORE_STOP, .stop = CORE_STOP_END};
    for (uint32_t i = 0; i < r->n_client_stop_ids; i++) {
        const uint32_t *stop = core_log_at(&core->pages, &r->stop_ids, i);
        if (*stop == id)
            return (struct core_end){.reason = CORE_STOP, .stop = CORE_STOP_ID, .stop_value = id};
    }
    return (struct core_end){.reason = CORE_LENGTH};
}

// Feeds a token of the log to a text; returns the stop string found or TEXT_STREAM_GOES_ON.
static int push_text(struct core *core, const struct core_request *r, struct text_stream *text,
    uint32_t index, uint32_t id, bool ended_by_id)
{
    if (ended_by_id && !r->include_stop)
        return TEXT_STREAM_GOES_ON;
    struct text_stops stops;
    core_stops_load(core, r, &stops);
    return text_stream_push(text, decoder_of(core, r), &stops, id,
        matches(r, index) && !ended_by_id, r->include_stop, &core->scratch, &core->text);
}

static bool ended_by_id(const struct core_sample *s, uint32_t index)
{
    return s->state == SAMPLE_FINISHED && index + 1 == s->log.count &&
           (s->stop == CORE_STOP_END || s->stop == CORE_STOP_ID);
}

static void fill_token(struct core_token *token, const struct core_record *record)
{
    *token = (struct core_token){.id = record->id,
        .logprob = record->logprob,
        .rank = record->rank,
        .n_top = record->n_top,
        .top = record->top + MUTANT(LOGPROBS_MISALIGNED)};
}

static void emit_tokens(struct core *core, const struct core_request *r,
    const struct core_sample *s, uint32_t offset, uint32_t n)
{
    struct core_out out = {.type = CORE_OUT_TOKENS,
        .tokens = {.sample = s->index,
            .offset = MUTANT(OFFSET_RESTARTS) && s->attempt > 1 ? 0 : offset,
            .attempt = s->attempt,
            .n = n,
            .token = core->token}};
    core_view_emit(core, r, &out);
}

// ---- appending ----------------------------------------------------------------------------------

static struct core_record *append_record(struct core *core, const struct core_request *r,
    struct core_sample *s, const struct answer_result *result, const struct answer_top *top)
{
    struct core_record *record = core_log_append(&core->pages, &s->log);
    uint32_t n_top = result->n_top < r->params.n_logprobs ? result->n_top : r->params.n_logprobs;
    *record = (struct core_record){result->id, result->logprob, result->rank, n_top};
    memcpy(record->top, top, n_top * sizeof *top);
    if (s->log.count == 1)
        s->first_token_us = core->now_us;
    core->counters.tokens++;
    return record;
}

static void journal_token(
    struct core *core, const struct core_request *r, const struct core_sample *s, uint32_t offset)
{
    struct core_out out = {.type = CORE_OUT_JOURNAL,
        .journal = {.type = CORE_JOURNAL_TOKENS,
            .sample = s->index,
            .attempt = s->attempt,
            .offset = offset,
            .n = 1,
            .tokens = core->token}};
    core_view_emit(core, r, &out);
}

void core_view_append(struct core *core, struct core_sample *s, const struct answer_result *result,
    const struct answer_top *top, uint32_t context_tokens)
{
    struct core_request *r = core_request_of(core, s);
    uint32_t index = s->log.count;
    bool sends = r->peer && s->view_at_head && s->view_next == index &&
                 (index < r->view_limit || MUTANT(CREDIT_IGNORED));
    if (s->view_at_head && !sends) {
        if (!MUTANT(LAGGING_TEXT_LOST))
            s->view_text = s->text;
        s->view_at_head = false;
    }
    struct core_end end = stop_by_id(core, r, result->id);
    buf_clear(&core->text);
    int string = push_text(core, r, &s->text, index, result->id, end.reason == CORE_STOP);
    if (string >= 0 && end.reason != CORE_STOP)
        end = (struct core_end){
            .reason = CORE_STOP, .stop = CORE_STOP_STRING, .stop_value = (uint32_t)string};
    fill_token(&core->token[0], append_record(core, r, s, result, top));
    if (!MUTANT(TOKEN_NOT_JOURNALED))
        journal_token(core, r, s, index);
    if (sends) {
        core->token[0].text = core->text.data;
        core->token[0].n_text = (uint32_t)core->text.size;
        emit_tokens(core, r, s, index, 1);
        s->view_next++;
    }
    if (end.reason == CORE_STOP || s->log.count >= r->max_tokens + MUTANT(ONE_TOKEN_TOO_MANY) ||
        core_known(core, s) >= context_tokens)
        core_finish_sample(core, s, &end);
}

// ---- reading from the log -----------------------------------------------------------------------

// Sends prompt scores that the client has not got. Token 0 of the prompt has none.
static void deliver_scores(struct core *core, struct core_request *r)
{
    if (r->prompt_logprobs < 0 || r->prompt.count == 0)
        return;
    uint32_t n_ready = r->scores.count + 1;
    while (r->score_next < n_ready) {
        uint32_t n = 0;
        for (; n < CORE_TOKENS_PER_EVENT && r->score_next + n < n_ready; n++) {
            uint32_t position = r->score_next + n;
            if (position > 0) {
                uint32_t at = position - 1 - (MUTANT(SCORES_MISALIGNED) && position > 1);
                fill_token(&core->token[n], core_log_at(&core->pages, &r->scores, at));
                continue;
            }
            const uint32_t *id = core_log_at(&core->pages, &r->prompt, 0);
            core->token[n] = (struct core_token){.id = *id};
        }
        struct core_out out = {.type = CORE_OUT_PROMPT_LOGPROBS,
            .tokens = {.offset = r->score_next, .n = n, .token = core->token}};
        r->score_next += n;
        core_view_emit(core, r, &out);
    }
}

// Decodes tokens from view_next on into core->token, at most to `end`; returns how many.
static uint32_t replay(
    struct core *core, const struct core_request *r, struct core_sample *s, uint32_t end)
{
    uint32_t n = 0;
    buf_clear(&core->text);
    while (n < CORE_TOKENS_PER_EVENT && s->view_next + n < end &&
           core->text.size < CORE_TEXT_BYTES / 4) {
        uint32_t index = s->view_next + n;
        const struct core_record *record = core_log_at(&core->pages, &s->log, index);
        struct core_token *token = &core->token[n++];
        fill_token(token, record);
        size_t begin = core->text.size;
        push_text(core, r, &s->view_text, index, record->id, ended_by_id(s, index));
        token->text = core->text.data + begin;
        token->n_text = (uint32_t)(core->text.size - begin);
    }
    return n;
}

static void deliver_lagging(struct core *core, struct core_request *r, struct core_sample *s)
{
    uint32_t end = s->log.count < r->view_limit ? s->log.count : r->view_limit;
    while (s->view_next < end) {
        uint32_t offset = s->view_next;
        uint32_t n = replay(core, r, s, end);
        s->view_next += n;
        emit_tokens(core, r, s, offset, n);
    }
    s->view_at_head = s->view_next == s->log.count;
}

static void deliver_finish(struct core *core, struct core_request *r, struct core_sample *s)
{
    struct core_out out = {.type = CORE_OUT_FINISH};
    core_view_finish_facts(core, s, &out.finish);
    buf_clear(&core->text);
    if (s->stop != CORE_STOP_STRING) {
        struct text_stops stops;
        struct text_stream text = s->text;
        core_stops_load(core, r, &stops);
        text_stream_finish(&text, decoder_of(core, r), &stops, &core->scratch, &core->text);
    }
    out.finish.text = core->text.data;
    out.finish.n_text = (uint32_t)core->text.size;
    s->finish_sent = !MUTANT(FINISH_SENT_TWICE);
    core_view_emit(core, r, &out);
}

void core_view_deliver(struct core *core, struct core_request *r)
{
    if (r->peer == 0)
        return;
    deliver_scores(core, r);
    for (uint32_t i = r->first_sample; i != NONE; i = core->sample[i].next) {
        struct core_sample *s = &core->sample[i];
        if (!s->view_at_head)
            deliver_lagging(core, r, s);
        if (s->view_next == s->log.count && s->state == SAMPLE_FINISHED && !s->finish_sent)
            deliver_finish(core, r, s);
    }
}

// Moves one view; the text up to there is decoded and dropped.
static void rewind_sample(
    struct core *core, const struct core_request *r, struct core_sample *s, uint32_t from)
{
    s->finish_sent = false;
    if (from >= s->log.count) {
        s->view_next = s->log.count;
        s->view_at_head = true;
        return;
    }
    if (s->view_at_head || from < s->view_next) {
        if (!MUTANT(REWOUND_TEXT_GOES_ON))
            text_stream_begin(&s->view_text, decoder_of(core, r), r->skip_special);
        s->view_next = 0;
        s->view_at_head = false;
    }
    while (s->view_next < from)
        s->view_next += replay(core, r, s, from);
}

void core_view_rewind(struct core *core, struct core_request *r, uint32_t from)
{
    if (from == 0)
        r->score_next = 0;
    for (uint32_t i = r->first_sample; i != NONE; i = core->sample[i].next)
        rewind_sample(core, r, &core->sample[i], from);
}

void core_view_finish_facts(
    const struct core *core, const struct core_sample *s, struct core_finish *out)
{
    const struct core_request *r = &core->request[s->request];
    bool bad = s->reason == CORE_ABORT || s->reason == CORE_ERROR;
    bool last = true;
    for (uint32_t i = r->first_sample; i != NONE; i = core->sample[i].next)
        last = last && (&core->sample[i] == s || core->sample[i].finish_sent);
    *out = (struct core_finish){.sample = s->index,
        .reason = s->reason,
        .stop = s->stop,
        .stop_value = s->stop_value,
        .status = bad ? r->error : STATUS_OK,
        .sentence = bad ? r->sentence : NULL,
        .prompt_tokens = r->prompt.count,
        .output_tokens = s->log.count,
        .cached_tokens = s->cached_tokens + MUTANT(CACHED_TOKENS_MISCOUNTED),
        .queued_us = r->scheduled_us ? r->scheduled_us - r->accepted_us : 0,
        .first_token_us = s->first_token_us ? s->first_token_us - r->accepted_us : 0,
        .total_us = s->finished_us - r->accepted_us,
        .last = last};
}
