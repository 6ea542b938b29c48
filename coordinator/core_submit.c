// SPDX-License-Identifier: Apache-2.0
// How a request is accepted: what it may cost is known and reserved before ACCEPTED, so nothing
// can run out afterwards. What the validator promised is checked again where memory depends on it.
#include "coordinator/prefix.h"
#include "coordinator/sched_queue.h"

#include <math.h>
#include <string.h>

// An answer to a SUBMIT that made no request.
static void reply(struct core *core, const struct core_in_submit *in, enum core_out_type type,
    struct core_out out)
{
    out.type = type;
    out.request = 0;
    out.peer = in->client.peer;
    out.tenant = in->client.tenant;
    out.model = in->model;
    out.id = in->request->id;
    core->config.emit(core->config.user, &out);
}

static void refuse(
    struct core *core, const struct core_in_submit *in, enum status status, const char *sentence)
{
    core->counters.refused++;
    reply(core, in, CORE_OUT_REFUSED,
        (struct core_out){.refused = {.status = status, .sentence = sentence}});
}

static void busy(struct core *core, const struct core_in_submit *in)
{
    uint64_t wait = 100 + 20 * (uint64_t)core->model[in->model].n_waiting_requests;
    core->counters.busy++;
    reply(core, in, CORE_OUT_BUSY,
        (struct core_out){
            .retry_after_ms =
                (uint32_t)(wait < LIMIT_RETRY_AFTER_MS ? wait : LIMIT_RETRY_AFTER_MS)});
}

static const char *bad_ids(const struct core_model *model, const struct request *q)
{
    for (uint32_t i = 0; q->prompt_ids && i < q->n_prompt_ids; i++)
        if (q->prompt_ids[i] >= model->vocab_size)
            return "a prompt id is outside the model's vocabulary";
    for (uint32_t i = 0; i < q->n_stop_ids; i++)
        if (q->stop_ids[i] >= model->vocab_size)
            return "a stop id is outside the model's vocabulary";
    for (uint32_t i = 0; i < q->n_bias; i++)
        if (q->bias[i].id >= model->vocab_size || !(fabsf(q->bias[i].bias) <= 100))
            return "a biased id is outside the model's vocabulary, or its bias beyond -100 to 100";
    return NULL;
}

// The sentence that refuses the request, or NULL.
static const char *bad_request(const struct core *core, const struct core_in_submit *in)
{
    const struct request *q = in->request;
    const struct core_model *model = &core->model[in->model].config;
    if (q->n < 1 || q->n > LIMIT_SAMPLES || q->n_stop > LIMIT_STOP_STRINGS ||
        q->n_stop_ids > LIMIT_STOP_IDS || q->n_bias > LIMIT_LOGIT_BIAS ||
        q->logprobs > LIMIT_LOGPROBS || q->prompt_logprobs > LIMIT_LOGPROBS ||
        in->params->n_logprobs > LIMIT_LOGPROBS)
        return "a count is over its limit";
    for (uint32_t i = 0; i < q->n_stop; i++)
        if (q->stop[i].size < 1 || q->stop[i].size > LIMIT_STOP_STRING_BYTES)
            return "a stop string is empty or too long";
    if (q->n_stop > 0 && !model->decoder)
        return "the model has no tokenizer, expected no stop strings";
    if (q->prompt_ids) {
        uint32_t room = q->max_tokens == 0 && q->prompt_logprobs >= 0 ? 0 : 1;
        if (q->n_prompt_ids < 1 || q->n_prompt_ids > model->context_tokens - room)
            return "the prompt is empty or leaves no room in the model's context";
    } else if (q->prompt.size > LIMIT_PROMPT_BYTES || q->chat.messages.size > LIMIT_PROMPT_BYTES) {
        return "the prompt is too long";
    }
    return bad_ids(model, q);
}

// How many bytes the prompt has, or what it will be made of: more or less its size.
static size_t text_bytes(const struct request *q)
{
    return q->prompt.size + q->chat.messages.size + q->chat.tools.size + q->chat.kwargs.size;
}

// Pages for everything but the prompt and what depends on its length.
static uint64_t fixed_pages(const struct core_model *model, const struct request *q)
{
    uint32_t n_stop_ids = q->n_stop_ids + model->n_end_ids;
    return core_pages_for(n_stop_ids, 4) + core_pages_for(q->n_bias, sizeof(struct sampling_bias)) +
           core_stops_pages(q);
}

// Pages for a prompt of `n` ids, its scores and the output of all samples.
static uint64_t prompt_pages(const struct core_request *r, uint32_t n, uint32_t n_samples)
{
    uint32_t top = sizeof(struct answer_top);
    uint64_t pages = core_pages_for(n, 4);
    if (r->prompt_logprobs >= 0)
        pages += core_pages_for(
            n, (uint32_t)sizeof(struct core_record) + (uint32_t)r->prompt_logprobs * top);
    uint32_t output = core_pages_for(
        r->max_tokens, (uint32_t)sizeof(struct core_record) + r->params.n_logprobs * top);
    return pages + (uint64_t)output * n_samples;
}

static void store_rules(struct core *core, struct core_request *r, const struct request *q)
{
    const struct core_model *model = &core->model[r->model].config;
    core_log_init(&r->prompt, 4);
    core_log_init(&r->stop_ids, 4);
    core_log_init(&r->bias, sizeof(struct sampling_bias));
    core_log_init(&r->stops, CORE_PAGE_BYTES);
    uint32_t tops = r->prompt_logprobs > 0 ? (uint32_t)r->prompt_logprobs : 0;
    core_log_init(
        &r->scores, (uint32_t)(sizeof(struct core_record) + tops * sizeof(struct answer_top)));
    core_log_append_array(&core->pages, &r->stop_ids, q->stop_ids, q->n_stop_ids);
    // With ignore_eos too: min_tokens masks the model's end ids in any case.
    core_log_append_array(&core->pages, &r->stop_ids, model->end_ids, model->n_end_ids);
    core_log_append_array(&core->pages, &r->bias, q->bias, q->n_bias);
    core_stops_store(core, r, q);
}

static void fill(struct core *core, struct core_request *r, const struct core_in_submit *in)
{
    const struct request *q = in->request;
    const struct core_model *model = &core->model[in->model].config;
    r->state = REQUEST_TOKENIZING;
    r->model = in->model;
    r->body = q->body;
    r->peer = in->client.peer;
    r->unattended = in->unattended;
    r->params = *in->params;
    r->params.n_stop_ids = q->n_stop_ids + model->n_end_ids;
    r->params.n_logit_bias = q->n_bias;
    r->params.pad = 0;
    r->n_client_stop_ids = q->n_stop_ids;
    r->prompt_logprobs = q->prompt_logprobs;
    r->max_tokens = q->max_tokens;
    if (r->max_tokens == 0 && q->prompt_logprobs < 0)
        r->max_tokens = 16;
    r->min_tokens = q->min_tokens;
    r->include_stop = q->include_stop_str_in_output;
    r->ignore_end = q->ignore_eos;
    r->skip_special = q->skip_special_tokens;
    r->priority = q->priority;
    r->view_limit = q->window ? q->window : UINT32_MAX;
    r->accepted_us = core->now_us;
    r->deadline_us = q->deadline_ms ? core->now_us + (uint64_t)q->deadline_ms * 1000 : 0;
    struct prefix_extra extra = {.tenant = r->tenant,
        .salt = hash_128(core->config.key, q->cache_salt.data, q->cache_salt.size)};
    r->root = prefix_root(core->config.key, &extra);
}

// max_tokens never exceeds what the context leaves after a prompt of `n_prompt` ids.
static void clamp_output(const struct core *core, struct core_request *r, uint32_t n_prompt)
{
    uint32_t context = core->model[r->model].config.context_tokens;
    uint32_t room = context > n_prompt ? context - n_prompt : 0;
    if (r->max_tokens > room)
        r->max_tokens = room;
}

static void start(struct core *core, struct core_request *r)
{
    const struct core_model *model = &core->model[r->model].config;
    r->state = REQUEST_LIVE;
    for (uint32_t i = 0; i < r->n_samples; i++)
        sched_queue_tenant_begin(core, r);
    // The other samples of a request wait until they find the first one's prompt in the cache.
    struct core_sample *first = &core->sample[r->first_sample];
    sched_queue_put(core, first);
    if (model->no_prefix_cache)
        core_finish_unblock(core, r);
}

// Takes everything that the request will need. BUSY when it must come back later, TOO_LARGE when
// that would never help.
static enum status reserve(
    struct core *core, struct core_request *r, const struct core_in_submit *in)
{
    const struct request *q = in->request;
    struct core_model_state *m = &core->model[in->model];
    // How many ids a text has is known when it is tokenized; until then at most one per byte and
    // a few that the tokenizer adds. (A conversation's template may make more of it: then the rest
    // is reserved when its size is known.)
    uint64_t n = q->prompt_ids ? q->n_prompt_ids : (uint64_t)text_bytes(q) + 16;
    if (n > m->config.context_tokens)
        n = m->config.context_tokens;
    clamp_output(core, r, q->prompt_ids ? (uint32_t)n : 1);
    uint64_t pages = fixed_pages(&m->config, q) + prompt_pages(r, (uint32_t)n, q->n);
    uint64_t queued = q->prompt_ids ? n : text_bytes(q) / 4 + 1;
    if (pages > core->pages.n || q->n > core->config.samples_max)
        return STATUS_TOO_LARGE;
    if ((m->n_waiting_requests >= m->config.waiting_requests_max && !MUTANT(QUEUE_UNBOUNDED)) ||
        (m->waiting_tokens > 0 && m->waiting_tokens + queued > m->config.waiting_tokens_max) ||
        !core_pages_reserve(&core->pages, pages))
        return STATUS_BUSY;
    r->pages_reserved = pages;
    if (!core_table_add_samples(core, r, q->n))
        return STATUS_BUSY;
    r->waiting_tokens = queued;
    r->counted_waiting = true;
    m->n_waiting_requests++;
    m->waiting_tokens += queued;
    return STATUS_OK;
}

static void emit_accepted(struct core *core, struct core_request *r, bool attached)
{
    struct core_out out = {.type = CORE_OUT_ACCEPTED,
        .accepted = {.epoch = core->config.epoch, .seed = r->params.seed, .attached = attached}};
    core_view_emit(core, r, &out);
}

static void accept_request(
    struct core *core, struct core_request *r, const struct core_in_submit *in)
{
    const struct request *q = in->request;
    core->n_live++;
    core->counters.accepted++;
    store_rules(core, r, q);
    for (uint32_t i = r->first_sample; i != NONE; i = core->sample[i].next)
        text_stream_begin(
            &core->sample[i].text, core->model[r->model].config.decoder, r->skip_special);
    struct core_out journal = {
        .type = CORE_OUT_JOURNAL, .journal = {.type = CORE_JOURNAL_ACCEPT, .submit = in}};
    core_view_emit(core, r, &journal);
    emit_accepted(core, r, false);
    core_finish_arm(core, r);
    if (q->prompt_ids) {
        core_log_append_array(&core->pages, &r->prompt, q->prompt_ids, q->n_prompt_ids);
        start(core, r);
    } else {
        struct core_out out = {.type = CORE_OUT_TOKENIZE,
            .tokenize = {.text = q->prompt.data,
                .n = q->prompt.size,
                .chat = q->chat.messages.data ? q : NULL,
                .add_special = q->add_special_tokens,
                .parse_special = q->parse_special_tokens}};
        core_view_emit(core, r, &out);
    }
    core_view_rewind(core, r, in->client.from);
    core_view_deliver(core, r);
}

static void attach(struct core *core, struct core_request *r, const struct core_in_submit *in)
{
    bool same = r->body.lo == in->request->body.lo && r->body.hi == in->request->body.hi;
    if (!same && !MUTANT(CONFLICT_ATTACHED)) {
        core->counters.conflicts++;
        reply(core, in, CORE_OUT_CONFLICT, (struct core_out){0});
        return;
    }
    core->counters.attached++;
    r->peer = in->client.peer;
    uint64_t limit = (uint64_t)in->client.from + in->request->window;
    r->view_limit = in->request->window && limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX;
    if (!MUTANT(RETURN_NOT_NOTICED))
        core_finish_arm(core, r);
    emit_accepted(core, r, true);
    core_view_rewind(core, r, in->client.from);
    core_view_deliver(core, r);
}

void core_request_submit(struct core *core, const struct core_in_submit *in)
{
    struct core_model_state *m = &core->model[in->model < core->config.models_max ? in->model : 0];
    if (in->client.tenant >= core->config.tenants_max || in->client.peer == 0) {
        refuse(core, in, STATUS_INVALID, "the tenant or the connection is unknown");
        return;
    }
    struct core_request *r = core_table_find(core, in->client.tenant, in->request->id);
    if (r && !MUTANT(EXECUTED_TWICE)) {
        attach(core, r, in);
        return;
    }
    const char *bad = NULL;
    if (in->model >= core->config.models_max || !m->added) {
        refuse(core, in, STATUS_NOT_FOUND, "no such model is served here");
    } else if (core->draining) {
        refuse(core, in, STATUS_CLOSED, "the server is shutting down");
    } else if (m->failed) {
        refuse(core, in, STATUS_DEVICE_FAILED, m->failure);
    } else if ((bad = bad_request(core, in)) != NULL) {
        refuse(core, in, STATUS_INVALID, bad);
    } else if ((r = core_table_add(core, in->client.tenant, in->request->id)) == NULL) {
        busy(core, in);
    } else {
        fill(core, r, in);
        enum status status = reserve(core, r, in);
        if (status == STATUS_OK) {
            accept_request(core, r, in);
            return;
        }
        core_table_remove(core, r);
        if (status == STATUS_BUSY)
            busy(core, in);
        else
            refuse(core, in, status, "prompt and output do not fit into the coordinator's memory");
    }
}

// ---- tokenized prompts --------------------------------------------------------------------------

static void fail_prompt(
    struct core *core, struct core_request *r, enum status status, const char *sentence)
{
    struct core_end end = {.reason = CORE_ERROR, .status = status, .sentence = sentence};
    core_finish_request(core, r, &end);
}

// The sentence that ends the request, or NULL.
static const char *bad_prompt(
    const struct core *core, const struct core_request *r, const struct core_in_tokenized *in)
{
    const struct core_model *model = &core->model[r->model].config;
    uint32_t room = r->max_tokens > 0;
    if (in->sentence)
        return in->sentence;
    if (in->n_ids < 1)
        return "the prompt has no tokens";
    if (in->n_ids > model->context_tokens - room)
        return "the prompt leaves no room in the model's context";
    for (uint32_t i = 0; i < in->n_ids; i++)
        if (in->ids[i] >= model->vocab_size)
            return "the tokenizer made an id outside the model's vocabulary";
    return NULL;
}

static void journal_prompt(
    struct core *core, const struct core_request *r, const struct core_in_tokenized *in)
{
    struct core_out out = {.type = CORE_OUT_JOURNAL,
        .journal = {.type = CORE_JOURNAL_PROMPT, .n = in->n_ids, .ids = in->ids}};
    core_view_emit(core, r, &out);
}

void core_request_tokenized(struct core *core, const struct core_in_tokenized *in)
{
    struct core_request *r = core_table_by_handle(core, in->request);
    if (!r || r->state != REQUEST_TOKENIZING)
        return; // it has ended meanwhile
    const char *bad = bad_prompt(core, r, in);
    if (bad) {
        fail_prompt(core, r, STATUS_INVALID, bad);
        return;
    }
    // The reservation was made for a guess of the length; make it exact.
    uint64_t held = (uint64_t)core_pages_for(r->stop_ids.count, 4) +
                    core_pages_for(r->bias.count, sizeof(struct sampling_bias)) + r->stops.count;
    clamp_output(core, r, in->n_ids);
    uint64_t wanted = held + prompt_pages(r, in->n_ids, r->n_samples);
    if (wanted > r->pages_reserved) {
        if (!core_pages_reserve(&core->pages, wanted - r->pages_reserved)) {
            fail_prompt(core, r, STATUS_TOO_LARGE,
                "the prompt has more tokens than bytes and no "
                "memory is left for them");
            return;
        }
    } else {
        core_pages_unreserve(&core->pages, r->pages_reserved - wanted);
    }
    r->pages_reserved = wanted;
    struct core_model_state *m = &core->model[r->model];
    m->waiting_tokens += in->n_ids - r->waiting_tokens;
    r->waiting_tokens = in->n_ids;
    core_log_append_array(&core->pages, &r->prompt, in->ids, in->n_ids);
    journal_prompt(core, r, in);
    start(core, r);
}
