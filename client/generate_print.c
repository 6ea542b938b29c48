// SPDX-License-Identifier: Apache-2.0
#include "client/generate.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static json_t *number_json(bool there, float x)
{
    return there && isfinite(x) ? json_real((double)x) : json_null();
}

static json_t *text_json(ProtobufCBinaryData text)
{
    json_t *s = json_stringn((const char *)text.data, text.len);
    return s ? s : json_string("");
}

// A number; as text where it is larger than what JSON libraries take.
static json_t *seed_json(uint64_t seed)
{
    return seed <= INT64_MAX ? json_integer((json_int_t)seed)
                             : json_sprintf("%llu", (unsigned long long)seed);
}

static void print_text(struct generate *g, uint32_t index, const void *text, size_t n)
{
    if (n == 0) // an empty text is NULL
        return;
    if (index == g->showing || index >= LIMIT_SAMPLES)
        fwrite(text, 1, n, stdout);
    else if (!buf_append(&g->held[index], text, n) && g->exit_code == CMD_DONE) {
        fprintf(stderr, "phalanx generate: the text of sample %u is too long to be kept\n", index);
        g->exit_code = CMD_FAILED;
    }
}

// Without a tokenizer the ids are the text.
static void print_id(struct generate *g, const struct phalanx_event *e)
{
    char text[16];
    int n = snprintf(text, sizeof text, "%s%u", e->offset ? " " : "", e->token->id);
    print_text(g, e->index, text, (size_t)n);
}

// The sample's last text. Then its line ends, and the next sample is the one that streams.
static void end_text(struct generate *g, uint32_t index, ProtobufCBinaryData text)
{
    print_text(g, index, text.data, text.len);
    if (index >= LIMIT_SAMPLES)
        return;
    g->ended[index] = true;
    while (g->showing < LIMIT_SAMPLES && g->ended[g->showing]) {
        if (!g->scoring)
            putchar('\n');
        if (++g->showing == LIMIT_SAMPLES)
            break;
        const struct buf *next = &g->held[g->showing];
        if (next->size)
            fwrite(next->data, 1, next->size, stdout);
    }
    fflush(stdout);
}

void generate_print_token(struct generate *g, const struct phalanx_event *e)
{
    const Phalanx__Token *t = e->token;
    bool prompt = e->kind == PHALANX_EVENT_PROMPT;
    if (g->settings.output == CMD_TEXT) {
        if (!prompt && g->ids_as_text)
            print_id(g, e);
        else if (!prompt)
            print_text(g, e->index, t->text.data, t->text.len);
        else if (t->has_logprob)
            printf("%u\t%.6f\n", t->id, (double)t->logprob);
        else
            printf("%u\t-\n", t->id);
        fflush(stdout);
        return;
    }
    json_t *o = json_pack(
        "{s:i, s:o}", "id", (int)t->id, "logprob", number_json(t->has_logprob, t->logprob));
    if (prompt) {
        json_object_set_new(o, "prompt_offset", json_integer(e->offset));
    } else {
        json_object_set_new(o, "index", json_integer(e->index));
        json_object_set_new(o, "offset", json_integer(e->offset));
        json_object_set_new(o, "text", text_json(t->text));
    }
    json_t *tops = json_array();
    for (size_t i = 0; i < t->n_top; i++)
        json_array_append_new(tops, json_pack("{s:i, s:o}", "id", (int)t->top[i]->id, "logprob",
                                        number_json(true, t->top[i]->logprob)));
    json_object_set_new(o, "top_logprobs", tops);
    cmd_print_json(o);
}

static void add_stats(struct generate_stats *s, const Phalanx__Finish *f)
{
    s->n_samples++;
    s->prompt_tokens = f->prompt_tokens;
    s->completion_tokens += f->completion_tokens;
    if (f->first_token_us && (!s->first_token_us || f->first_token_us < s->first_token_us))
        s->first_token_us = f->first_token_us;
    if (f->total_us > s->total_us)
        s->total_us = f->total_us;
}

void generate_print_stats(const struct generate *g)
{
    const struct generate_stats *s = &g->stats;
    double first_s = (double)s->first_token_us / 1e6, total_s = (double)s->total_us / 1e6;
    if (!g->settings.stats || !s->n_samples)
        return;
    fflush(stdout);
    fprintf(stderr, "%u prompt tokens, first token after %.0f ms, %u tokens", s->prompt_tokens,
        first_s * 1000, s->completion_tokens);
    if (s->n_samples > 1)
        fprintf(stderr, " in %u samples", s->n_samples);
    if (s->completion_tokens > s->n_samples && total_s > first_s)
        fprintf(stderr, ", then %.1f tokens per second",
            (double)(s->completion_tokens - s->n_samples) / (total_s - first_s));
    fputc('\n', stderr);
}

// Whether the server would refuse the request as it is each time: what it finds out about a text
// only after accepting it is no other refusal than what it sees at once in ids.
static bool refused(const Phalanx__Finish *f)
{
    return f->status && (strcmp(f->status, status_name(STATUS_INVALID)) == 0 ||
                            strcmp(f->status, status_name(STATUS_TOO_LARGE)) == 0);
}

void generate_print_finish(struct generate *g, const struct phalanx_event *e)
{
    const Phalanx__Finish *f = e->finish;
    bool failed = f->reason && (strcmp(f->reason, "error") == 0 || strcmp(f->reason, "abort") == 0);
    bool first = failed && g->exit_code == CMD_DONE; // its samples fail together; one sentence
    if (failed)
        g->exit_code = refused(f) ? CMD_REFUSED : CMD_FAILED;
    add_stats(&g->stats, f);
    if (g->settings.output == CMD_TEXT && !refused(f))
        end_text(g, e->index, f->text);
    if (first)
        fprintf(stderr, "phalanx %s: %s%s\n", generate_options_command(g),
            refused(f) ? "refused: " : "", f->error ? f->error : "failed");
    // Each line of score is a token; a refusal is a sentence.
    if (g->settings.output == CMD_TEXT || g->scoring || refused(f))
        return;
    json_t *stop = json_null();
    if (f->has_stop_index && f->stop_index < g->submit.n_stop)
        stop = text_json(g->submit.stop[f->stop_index]);
    else if (f->has_stop_id)
        stop = json_integer(f->stop_id);
    json_t *o = json_pack("{s:i, s:s, s:o, s:o, s:i, s:i, s:i, s:f, s:f, s:f, s:o}", "index",
        (int)e->index, "finish_reason", f->reason ? f->reason : "error", "stop_reason", stop,
        "text", text_json(f->text), "prompt_tokens", (int)f->prompt_tokens, "completion_tokens",
        (int)f->completion_tokens, "cached_tokens", (int)f->cached_tokens, "queued_ms",
        (double)f->queued_us / 1000, "first_token_ms", (double)f->first_token_us / 1000, "total_ms",
        (double)f->total_us / 1000, "seed", seed_json(g->seed));
    if (f->error)
        json_object_set_new(o, "error", json_string(f->error));
    cmd_print_json(o);
}
