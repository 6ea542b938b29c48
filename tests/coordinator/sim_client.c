// SPDX-License-Identifier: Apache-2.0
// Fake clients: each has one request and a connection of its own. They repeat themselves, read
// slowly, go away and come back, and in the end compare what they got with the reference.
#include "tests/coordinator/sim.h"

#include <string.h>

// ---- what to ask for ----------------------------------------------------------------------------

static void make_prompt(struct sim *sim, struct sim_job *job)
{
    // A few templates, one of them all the same id, so that prefixes and single blocks repeat.
    uint32_t kind = sim_below(sim, 4);
    uint32_t shared = sim_between(sim, 1, sim->context_tokens * 2 / 3);
    job->n_prompt = shared;
    for (uint32_t i = 0; i < shared; i++)
        job->prompt[i] =
            kind == 0 ? 9 : (uint32_t)(sim_mix(sim->seed + kind, i) % (SIM_VOCAB - 8)) + 8;
    uint32_t own = sim_chance(sim, 500) ? sim_between(sim, 1, 8) : 0;
    for (uint32_t i = 0; i < own && job->n_prompt < sim->context_tokens - 1; i++)
        job->prompt[job->n_prompt++] = sim_below(sim, SIM_VOCAB);
}

static void make_stops(struct sim *sim, struct sim_job *job)
{
    static const char *const stops[] = {
        "abab", "cc", "a?", "ba", "abcab", " a", "xyx", "\xc3\xa9", "caab", "bcabc", "aaa", "x"};
    if (sim_chance(sim, 500))
        job->n_stops = sim_between(sim, 1, SIM_STOPS_MAX);
    for (uint32_t i = 0; i < job->n_stops; i++)
        snprintf(job->stop[i], sizeof job->stop[i], "%s",
            stops[sim_below(sim, sizeof stops / sizeof stops[0])]);
    job->n_stop_ids = sim_chance(sim, 300) ? sim_between(sim, 1, 4) : 0;
    for (uint32_t i = 0; i < job->n_stop_ids; i++)
        job->stop_ids[i] = sim_below(sim, SIM_VOCAB);
    job->include_stop = sim_chance(sim, 300);
    job->ignore_eos = sim_chance(sim, 300);
    job->skip_special = sim_chance(sim, 700);
    job->min_tokens = sim_chance(sim, 300) ? sim_between(sim, 1, 20) : 0;
}

static void make_faults(struct sim *sim, struct sim_job *job)
{
    job->poison_at = job->bad_logits_at = SIM_NONE;
    // Three poisonous requests at most: an innocent one survives as many deaths.
    if (job->number < 3 && sim_chance(sim, sim->faults.poison))
        job->poison_at = (int)sim_below(sim, job->n_prompt + 8);
    if (sim_chance(sim, sim->faults.bad_logits))
        job->bad_logits_at = (int)sim_below(sim, job->n_prompt + 8);
    job->tokenize_fails = job->as_text && sim_chance(sim, sim->faults.bad_logits);
    job->gone_for_good = sim_chance(sim, sim->faults.vanish);
    job->deadline_ms = sim_chance(sim, 100) ? sim_between(sim, 1, 60) : 0;
}

void sim_client_make(struct sim *sim, struct sim_job *job)
{
    for (uint32_t i = 0; i < REQUEST_ID_BYTES; i++)
        job->id[i] = (uint8_t)sim_below(sim, 256);
    job->id[0] = (uint8_t)job->number;
    job->tenant = sim_below(sim, sim->n_tenants);
    job->model = sim_below(sim, sim->n_models);
    job->salt = sim_chance(sim, 200) ? (uint8_t)sim_between(sim, 1, 2) : 0;
    make_prompt(sim, job);
    job->as_text = sim_chance(sim, 300);
    job->n = sim_chance(sim, 250) ? sim_between(sim, 2, SIM_SAMPLES_MAX) : 1;
    job->max_tokens = sim_between(sim, 1, sim_chance(sim, 500) ? 8 : SIM_OUTPUT_MAX);
    job->n_logprobs = sim_chance(sim, 200) ? sim_between(sim, 1, 4) : 0;
    job->prompt_logprobs = sim_chance(sim, 150) ? (int32_t)sim_below(sim, 3) : -1;
    if (job->prompt_logprobs >= 0 && sim_chance(sim, 300))
        job->max_tokens = 0;
    make_stops(sim, job);
    job->unattended = sim_chance(sim, 200);
    job->priority = sim_chance(sim, 300) ? (int32_t)sim_below(sim, 5) - 2 : 0;
    job->window = sim_chance(sim, 250) ? sim_between(sim, 1, 10) : 0;
    job->seed = sim_u64(sim) << 8 | job->number;
    make_faults(sim, job);
    sim_expect(sim, job);
}

size_t sim_client_text(const struct sim_job *job, char out[SIM_CONTEXT_MAX])
{
    // As many bytes as ids, for a tokenizer makes at most one id of a byte.
    for (uint32_t i = 0; i < job->n_prompt; i++)
        out[i] = (char)('a' + (job->number + i) % 26);
    return job->n_prompt;
}

// ---- sending ------------------------------------------------------------------------------------

static void send(struct sim *sim, struct sim_job *job, struct core_in *in, bool other_body)
{
    in->client.peer = job->peer;
    in->client.tenant = job->tenant;
    memcpy(in->client.id, job->id, sizeof job->id);
    bool lost = !sim->calm && sim_chance(sim, sim->faults.lose);
    bool late = !sim->calm && sim_chance(sim, sim->faults.reorder);
    uint64_t at = sim->now_us + 100 + (late ? sim_below(sim, 6000) : 0);
    if (!lost)
        sim_post(sim, at, SIM_EVENT_TO_CORE, job->number, other_body, in, sizeof *in);
    if (!sim->calm && sim_chance(sim, sim->faults.repeat))
        sim_post(sim, at + sim_below(sim, 4000), SIM_EVENT_TO_CORE, job->number, other_body, in,
            sizeof *in);
}

// The offset from which the client lacks something.
static uint32_t next_of(const struct sim_job *job)
{
    uint32_t next = UINT32_MAX;
    for (uint32_t i = 0; i < job->n; i++)
        if (!job->view[i].finished && job->view[i].next < next)
            next = job->view[i].next;
    if (job->prompt_logprobs >= 0 && job->scores_next < job->n_prompt && job->wants_scores)
        return 0;
    return next == UINT32_MAX ? 0 : next;
}

static void send_plain(struct sim *sim, struct sim_job *job, enum core_in_type type)
{
    struct core_in in = {.type = type};
    in.client.from = next_of(job);
    in.client.acked = next_of(job);
    in.client.window = job->window ? job->window : 1000;
    send(sim, job, &in, false);
}

static void send_submit(struct sim *sim, struct sim_job *job, bool other_body)
{
    struct core_in in = {.type = CORE_IN_SUBMIT};
    in.client.from = next_of(job);
    send(sim, job, &in, other_body);
}

static void fill_request(
    struct sim *sim, const struct sim_job *job, bool other_body, char text[SIM_CONTEXT_MAX])
{
    struct request *q = &sim->request;
    memset(q, 0, offsetof(struct request, stop));
    memcpy(q->id, job->id, sizeof q->id);
    q->body = (struct hash128){job->number + 1, other_body};
    if (job->as_text) {
        q->prompt.size = sim_client_text(job, text);
        q->prompt.data = (const uint8_t *)text;
    } else {
        q->prompt_ids = job->prompt;
        q->n_prompt_ids = job->n_prompt;
    }
    q->n = job->n;
    q->max_tokens = job->max_tokens;
    q->min_tokens = job->min_tokens;
    q->logprobs = job->n_logprobs;
    q->prompt_logprobs = job->prompt_logprobs;
    q->priority = job->priority;
    q->deadline_ms = job->deadline_ms;
    q->window = job->window;
    q->ignore_eos = job->ignore_eos;
    q->include_stop_str_in_output = job->include_stop;
    q->skip_special_tokens = job->skip_special;
    q->n_stop = job->n_stops;
    for (uint32_t i = 0; i < job->n_stops; i++)
        q->stop[i] = (struct request_text){(const uint8_t *)job->stop[i], strlen(job->stop[i])};
    q->stop_ids = job->stop_ids;
    q->n_stop_ids = job->n_stop_ids;
    q->cache_salt = (struct request_text){&job->salt, job->salt ? 1 : 0};
}

static void deliver_submit(
    struct sim *sim, struct sim_job *job, struct core_in_client client, bool other_body)
{
    // A late copy after the client has closed, and a second body that would be the first, are
    // what no client of ours sends.
    if (job->closed || (other_body && !job->known))
        return;
    char text[SIM_CONTEXT_MAX];
    struct sampling_params params = {.seed = job->seed,
        .temperature = 1,
        .top_p = 1,
        .typical_p = 1,
        .repetition_penalty = 1,
        .min_tokens = job->min_tokens,
        .n_logprobs = job->n_logprobs};
    fill_request(sim, job, other_body, text);
    struct core_in in = {.type = CORE_IN_SUBMIT};
    in.submit = (struct core_in_submit){.client = client,
        .model = job->model,
        .unattended = job->unattended,
        .request = &sim->request,
        .params = &params};
    job->submit_from = client.from;
    job->tried_conflict = other_body;
    if (!other_body) {
        job->gone_us = 0;
        job->core_peer = client.peer;
    }
    sim_step(sim, &in);
}

void sim_client_deliver(struct sim *sim, struct sim_job *job, struct core_in *in, bool other_body)
{
    struct core_in_client client = in->client;
    if (in->type == CORE_IN_SUBMIT) {
        deliver_submit(sim, job, client, other_body);
        return;
    }
    if (in->type == CORE_IN_RESUME) {
        // What is over by now ends before the view moves.
        struct core_in tick = {.type = CORE_IN_TICK};
        while (sim->core_now_us < sim->now_us)
            sim_step(sim, &tick);
        if (job->known) {
            sim_watch_rewind(job, client.from);
            job->gone_us = 0;
            job->core_peer = client.peer;
        }
    } else if (in->type == CORE_IN_CREDIT) {
        job->view_limit = (uint64_t)client.acked + client.window;
    } else {
        job->may_abort = true;
    }
    sim_step(sim, in);
}

// ---- receiving ----------------------------------------------------------------------------------

static void receive_tokens(struct sim *sim, struct sim_job *job, const struct sim_message *m)
{
    struct sim_view *view = &job->view[m->sample];
    uint32_t at = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        if (m->offset + i == view->next && !view->finished) {
            memcpy(view->text + view->n_text, m->text + at, m->n_text[i]);
            view->n_text += m->n_text[i];
            view->next++;
        }
        at += m->n_text[i];
    }
    SIM_EXPECT(
        sim, view->next <= job->expected[m->sample].n, "job %u has too many tokens", job->number);
}

static void receive_finish(struct sim *sim, struct sim_job *job, const struct sim_message *m)
{
    struct sim_view *view = &job->view[m->finish.sample];
    const struct sim_expected *e = &job->expected[m->finish.sample];
    if (view->finished || view->next != m->finish.output_tokens)
        return; // a repeated end, or tokens are still missing
    memcpy(view->text + view->n_text, m->text, m->n_text[0]);
    view->n_text += m->n_text[0];
    view->finished = true;
    view->reason = m->finish.reason;
    bool cut = view->reason == CORE_ABORT || view->reason == CORE_ERROR;
    char text[SIM_TEXT_MAX];
    size_t n = cut ? sim_text(job, e->id, view->next, true, text) : e->n_text;
    SIM_EXPECT(sim, view->n_text == n && memcmp(view->text, cut ? text : e->text, n) == 0,
        "job %u sample %u: text \"%.*s\", expected \"%.*s\"", job->number, m->finish.sample,
        (int)view->n_text, view->text, (int)n, cut ? text : e->text);
}

void sim_client_receive(struct sim *sim, const struct sim_message *m)
{
    struct sim_job *job = m->job;
    if (m->peer != job->peer || job->done)
        return; // sent to a connection that is no more
    job->heard_us = sim->now_us;
    if (m->type == CORE_OUT_ACCEPTED)
        job->accepted = true;
    else if (m->type == CORE_OUT_REFUSED)
        job->done = !job->known && sim->draining;
    else if (m->type == CORE_OUT_TOKENS)
        receive_tokens(sim, job, m);
    else if (m->type == CORE_OUT_FINISH)
        receive_finish(sim, job, m);
    else if (m->type == CORE_OUT_PROMPT_LOGPROBS && m->offset <= job->scores_next &&
             m->offset + m->n > job->scores_next)
        job->scores_next = m->offset + m->n;
}

// ---- looking around -----------------------------------------------------------------------------

static bool has_all(struct sim_job *job)
{
    bool all = true, cut = false;
    for (uint32_t i = 0; i < job->n; i++) {
        all = all && job->view[i].finished;
        cut = cut || job->view[i].reason == CORE_ABORT || job->view[i].reason == CORE_ERROR;
    }
    job->wants_scores = all && !cut;
    return all && (cut || job->prompt_logprobs < 0 || job->scores_next >= job->n_prompt);
}

static void vanish(struct sim *sim, struct sim_job *job)
{
    sim_post(sim, sim->now_us + sim_below(sim, 4000), SIM_EVENT_PEER_GONE, job->number, job->peer,
        NULL, 0);
    job->peer = 0;
}

static void misbehave(struct sim *sim, struct sim_job *job)
{
    if (sim_chance(sim, sim->faults.cancel))
        send_plain(sim, job, CORE_IN_CANCEL);
    if (sim_chance(sim, sim->faults.resume)) {
        struct core_in in = {.type = CORE_IN_RESUME};
        in.client.from = sim_below(sim, next_of(job) + 1);
        send(sim, job, &in, false);
    }
    if (sim_chance(sim, sim->faults.conflict))
        send_submit(sim, job, true);
    if (sim_chance(sim, sim->faults.repeat))
        send_submit(sim, job, false);
    if (sim_chance(sim, sim->faults.vanish))
        vanish(sim, job);
}

static void look_connected(struct sim *sim, struct sim_job *job)
{
    if (!job->accepted) {
        send_submit(sim, job, false);
    } else if (has_all(job)) {
        send_plain(sim, job, CORE_IN_CLOSE);
    } else {
        if (job->window)
            send_plain(sim, job, CORE_IN_CREDIT);
        if (sim->now_us - job->heard_us > 20000)
            send_plain(sim, job, CORE_IN_RESUME);
        if (!sim->calm)
            misbehave(sim, job);
    }
}

void sim_client_look(struct sim *sim, struct sim_job *job)
{
    if (job->done)
        return;
    bool gone = job->gone_for_good && job->accepted;
    if (gone && job->peer && sim_chance(sim, 300))
        vanish(sim, job);
    if (!job->peer && !gone) {
        job->peer = ++sim->next_peer;
        if (job->accepted)
            send_submit(sim, job, false);
    }
    if (job->peer)
        look_connected(sim, job);
    sim_post(
        sim, sim->now_us + sim_between(sim, 500, 5000), SIM_EVENT_LOOK, job->number, 0, NULL, 0);
}
