// SPDX-License-Identifier: Apache-2.0
// serve_bench [--endpoint E] [--openai-http HOST:PORT]: load on a running Phalanx server, on a peer
// that speaks HTTP, or on both in turn, so that what is printed last is a ratio from one run.
//
// Each client is a thread with a connection of its own. All send their first request at once; with
// more requests than clients each sends its next one when the last has ended (closed loop). Prompts
// are random ids and differ in every round, so that no prefix is found in a cache.
#include "bench/limits.h"
#include "bench/serve_target.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/config.h"

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_PLAIN_ID = 300, ROUNDS_MAX = 100, TARGETS_MAX = 2 };

struct settings {
    const char *endpoint, *http, *model;
    int64_t clients, requests, prompt_tokens, output_tokens, rounds, warm_up, vocab_size, seed;
    int output;
};

#define AT(field) offsetof(struct settings, field)
// clang-format off
static const struct config_row rows[] = {
    {"endpoint", CONFIG_TEXT, AT(endpoint), NULL, 0, 0, NULL, "E", "A Phalanx server."},
    {"openai-http", CONFIG_TEXT, AT(http), NULL, 0, 0, NULL, "HOST:PORT", "A server with OpenAI's /v1/completions, streaming."},
    {"model", CONFIG_TEXT, AT(model), NULL, 0, 0, NULL, "NAME", "Model; not needed where one is served."},
    {"clients", CONFIG_INT, AT(clients), "16", 1, 1024, NULL, "N", "Clients, each with one request at a time."},
    {"requests", CONFIG_INT, AT(requests), "0", 0, 1000000, NULL, "N", "Requests of a round; 0: one per client, all at once."},
    {"prompt-tokens", CONFIG_INT, AT(prompt_tokens), "64", 1, 65536, NULL, "N", "Length of each prompt."},
    {"output-tokens", CONFIG_INT, AT(output_tokens), "64", 1, 65536, NULL, "N", "Tokens asked for."},
    {"rounds", CONFIG_INT, AT(rounds), "3", 1, ROUNDS_MAX, NULL, "N", "Rounds; targets take turns."},
    {"warm-up", CONFIG_INT, AT(warm_up), "1", 0, ROUNDS_MAX, NULL, "N", "Rounds before those that count."},
    {"vocab-size", CONFIG_INT, AT(vocab_size), "32000", FIRST_PLAIN_ID + 1, 1048576, NULL, "N", "Prompt ids are below this."},
    {"seed", CONFIG_INT, AT(seed), "1", 0, 4294967295.0, NULL, "N", "Of the prompts."},
    {"output", CONFIG_ENUM, AT(output), "text", 0, 0, "text|jsonl", NULL, "How to print."},
};
// clang-format on

// One target under load. `times` is shared by the clients, each writing its own entries.
struct load {
    const struct settings *o;
    const struct target *target;
    const char *address;
    uint32_t round;
    uint32_t n_requests;
    _Atomic uint32_t next;
    _Atomic bool failed;
    struct target_times *times; // [n_requests]
    void **connection;          // [clients]
    pthread_barrier_t together;
    struct error err;
    pthread_mutex_t err_lock;
};

// What a round comes to.
struct figures {
    double tokens_per_s, ttft_median_ms, ttft_max_ms, tpot_median_ms, wall_s;
};

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u;
    return x ^ (x >> 32);
}

static void make_prompt(const struct load *l, uint32_t request, uint32_t *ids)
{
    uint64_t span = (uint64_t)l->o->vocab_size - FIRST_PLAIN_ID;
    uint64_t key = mix((uint64_t)l->o->seed << 40 ^ (uint64_t)l->round << 24 ^ request) | 1;
    for (int64_t i = 0; i < l->o->prompt_tokens; i++)
        ids[i] = FIRST_PLAIN_ID + (uint32_t)(mix(key + (uint64_t)i) % span);
}

static void note_failure(struct load *l, const struct error *err)
{
    pthread_mutex_lock(&l->err_lock);
    if (!atomic_exchange(&l->failed, true))
        l->err = *err;
    pthread_mutex_unlock(&l->err_lock);
}

struct client {
    struct load *load;
    void *connection;
    uint32_t *ids;
};

static void *client_main(void *user)
{
    struct client *c = user;
    struct load *l = c->load;
    struct target_request request = {
        c->ids, (uint32_t)l->o->prompt_tokens, (uint32_t)l->o->output_tokens};
    pthread_barrier_wait(&l->together);
    uint32_t at;
    while (!l->failed && (at = atomic_fetch_add(&l->next, 1)) < l->n_requests) {
        struct error err = {0};
        make_prompt(l, at, c->ids);
        enum status s = l->target->run(c->connection, &request, &l->times[at], &err);
        if (s == STATUS_OK && l->times[at].n_tokens != (uint32_t)l->o->output_tokens)
            s = status_fail(&err, STATUS_MISMATCH, "%s sent %u tokens, %lld were expected",
                l->target->name, (unsigned)l->times[at].n_tokens, (long long)l->o->output_tokens);
        if (s != STATUS_OK)
            note_failure(l, &err);
    }
    return NULL;
}

static struct figures sum_up(const struct load *l)
{
    uint32_t n = l->n_requests;
    double *ttft = calloc(n, sizeof *ttft), *tpot = calloc(n, sizeof *tpot), tokens = 0;
    struct figures f = {0};
    uint64_t begin = UINT64_MAX, end = 0;
    for (uint32_t i = 0; ttft && tpot && i < n; i++) {
        const struct target_times *t = &l->times[i];
        begin = t->sent_us < begin ? t->sent_us : begin;
        end = t->last_us > end ? t->last_us : end;
        tokens += t->n_tokens;
        ttft[i] = (double)(t->first_us - t->sent_us) / 1e3;
        if (t->n_tokens > 1)
            tpot[i] = (double)(t->last_us - t->first_us) / 1e3 / (t->n_tokens - 1);
        f.ttft_max_ms = ttft[i] > f.ttft_max_ms ? ttft[i] : f.ttft_max_ms;
    }
    if (ttft && tpot) {
        f.wall_s = (double)(end - begin) / 1e6;
        f.tokens_per_s = tokens / f.wall_s;
        f.ttft_median_ms = limits_median(ttft, n);
        f.tpot_median_ms = limits_median(tpot, n);
    }
    free(ttft);
    free(tpot);
    return f;
}

static enum status run_round(struct load *l, uint32_t round, struct figures *out, struct error *err)
{
    size_t n = (size_t)l->o->clients;
    struct client *client = calloc(n, sizeof *client);
    pthread_t *thread = calloc(n, sizeof *thread);
    uint32_t *ids = calloc(n, (size_t)l->o->prompt_tokens * sizeof *ids);
    size_t started = 0;
    l->round = round;
    l->next = 0;
    memset(l->times, 0, l->n_requests * sizeof *l->times);
    enum status s = client && thread && ids ? STATUS_OK : STATUS_NO_MEMORY;
    for (size_t i = 0; s == STATUS_OK && i < n; i++) {
        client[i] = (struct client){l, l->connection[i], ids + i * (size_t)l->o->prompt_tokens};
        if (pthread_create(&thread[i], NULL, client_main, &client[i]) != 0) {
            // The others already wait for this one: there is no way back.
            fprintf(stderr, "serve_bench: no thread for client %zu\n", i);
            abort();
        }
        started++;
    }
    for (size_t i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
    free(client);
    free(thread);
    free(ids);
    if (s != STATUS_OK)
        return status_fail(err, s, "no memory for %zu clients", n);
    if (l->failed) {
        *err = l->err;
        return err->status;
    }
    *out = sum_up(l);
    return STATUS_OK;
}

// ---- open, close -------------------------------------------------------------------------------

static void load_close(struct load *l)
{
    for (int64_t i = 0; l->connection && i < l->o->clients; i++)
        l->target->close(l->connection[i]);
    free(l->connection);
    free(l->times);
    pthread_barrier_destroy(&l->together);
    pthread_mutex_destroy(&l->err_lock);
}

static enum status load_open(struct load *l, const struct settings *o, const struct target *target,
    const char *address, struct error *err)
{
    l->o = o;
    l->target = target;
    l->address = address;
    l->n_requests = (uint32_t)(o->requests ? o->requests : o->clients);
    l->times = calloc(l->n_requests, sizeof *l->times);
    l->connection = calloc((size_t)o->clients, sizeof *l->connection);
    pthread_mutex_init(&l->err_lock, NULL);
    pthread_barrier_init(&l->together, NULL, (unsigned)o->clients);
    if (!l->times || !l->connection)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for %u requests", l->n_requests);
    for (int64_t i = 0; i < o->clients; i++)
        TRY(target->open(address, o->model, &l->connection[i], err));
    return STATUS_OK;
}

// ---- printing ----------------------------------------------------------------------------------

static void print_head(const struct settings *o)
{
    if (o->output != 0)
        return;
    printf("%lld clients, prompt %lld, output %lld, %lld requests a round\n", (long long)o->clients,
        (long long)o->prompt_tokens, (long long)o->output_tokens,
        (long long)(o->requests ? o->requests : o->clients));
    printf("%-8s %6s %12s %14s %10s %14s\n", "target", "round", "tokens/s", "TTFT median ms",
        "max ms", "TPOT median ms");
}

static void print_round(const struct load *l, const struct figures *f)
{
    if (l->o->output == 0) {
        printf("%-8s %6u %12.1f %14.1f %10.1f %14.2f\n", l->target->name, l->round, f->tokens_per_s,
            f->ttft_median_ms, f->ttft_max_ms, f->tpot_median_ms);
        fflush(stdout);
        return;
    }
    json_t *o = json_pack("{s:s, s:i, s:I, s:i, s:I, s:I, s:f, s:f, s:f, s:f, s:f}", "target",
        l->target->name, "round", (int)l->round, "clients", (json_int_t)l->o->clients, "requests",
        (int)l->n_requests, "prompt_tokens", (json_int_t)l->o->prompt_tokens, "output_tokens",
        (json_int_t)l->o->output_tokens, "tokens_per_s", f->tokens_per_s, "ttft_median_ms",
        f->ttft_median_ms, "ttft_max_ms", f->ttft_max_ms, "tpot_median_ms", f->tpot_median_ms,
        "wall_s", f->wall_s);
    json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(o);
}

// Medians over the rounds of one target after the other; the ratio is that of each round's pair.
static double median_of(const struct figures *a, const struct figures *b, size_t n, size_t offset)
{
    double v[ROUNDS_MAX];
    for (size_t i = 0; i < n; i++) {
        v[i] = *(const double *)(const void *)((const char *)&a[i] + offset);
        if (b)
            v[i] /= *(const double *)(const void *)((const char *)&b[i] + offset);
    }
    return limits_median(v, n);
}

static void print_end(
    const struct settings *o, struct figures f[TARGETS_MAX][ROUNDS_MAX], int n_targets)
{
    size_t n = (size_t)o->rounds;
    const struct figures *peer = n_targets == 2 ? f[1] : NULL;
    double rate = median_of(f[0], peer, n, offsetof(struct figures, tokens_per_s));
    double ttft = median_of(f[0], peer, n, offsetof(struct figures, ttft_median_ms));
    double most = median_of(f[0], peer, n, offsetof(struct figures, ttft_max_ms));
    double tpot = median_of(f[0], peer, n, offsetof(struct figures, tpot_median_ms));
    const char *name = peer ? "ratio" : "median";
    if (o->output == 0)
        printf(peer ? "%-8s %6s %12.3f %14.3f %10.3f %14.3f\n"
                    : "%-8s %6s %12.1f %14.1f %10.1f %14.2f\n",
            name, "", rate, ttft, most, tpot);
    else
        printf("{\"%s\":{\"tokens_per_s\":%.6g,\"ttft_median_ms\":%.6g,\"ttft_max_ms\":%.6g,"
               "\"tpot_median_ms\":%.6g}}\n",
            name, rate, ttft, most, tpot);
}

// Rounds of all targets in turn.
static enum status bench(const struct settings *o, struct load *load, int n, struct error *err)
{
    static struct figures figures[TARGETS_MAX][ROUNDS_MAX];
    struct figures warm;
    for (int64_t r = 0; r < o->warm_up; r++)
        for (int t = 0; t < n; t++)
            TRY(run_round(&load[t], (uint32_t)(o->rounds + r) + 1, &warm, err));
    print_head(o);
    for (int64_t r = 0; r < o->rounds; r++)
        for (int t = 0; t < n; t++) {
            TRY(run_round(&load[t], (uint32_t)r + 1, &figures[t][r], err));
            print_round(&load[t], &figures[t][r]);
        }
    print_end(o, figures, n);
    return STATUS_OK;
}

int main(int argc, char **argv)
{
    static struct settings o;
    static struct load load[TARGETS_MAX];
    struct error err = {0};
    bool help = false;
    int n = 0;
    enum status s = config_parse(rows, COUNT_OF(rows), argc, argv, &o, NULL, &help, &err);
    if (help) {
        printf("usage: serve_bench [--endpoint E] [--openai-http HOST:PORT] [options]\n"
               "Load on a running server; with two servers the last line is their ratio.\n\n");
        config_help(rows, COUNT_OF(rows), stdout);
        return 0;
    }
    if (s == STATUS_OK && (o.endpoint || !o.http))
        s = load_open(&load[n++], &o, &target_phalanx, o.endpoint, &err);
    if (s == STATUS_OK && o.http)
        s = load_open(&load[n++], &o, &target_http, o.http, &err);
    if (s == STATUS_OK)
        s = bench(&o, load, n, &err);
    if (s != STATUS_OK)
        fprintf(stderr, "serve_bench: %s\n", err.text);
    for (int t = 0; t < n; t++)
        load_close(&load[t]);
    return s == STATUS_OK ? 0 : 1;
}
