// SPDX-License-Identifier: Apache-2.0
// phalanx generate, phalanx score. Options for parameters are made from proto/params.def.
#include "client/cmd.h"

#include "base/buf.h"
#include "base/check.h"
#include "base/config.h"
#include "proto/limits.h"
#include "proto/validate.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct generate_settings {
    struct cmd_connection connection;
    const char *model, *prompt, *prompt_file, *tokens, *seed, *prompt_logprobs;
    const char *tenant, *cache_salt;
    struct config_list stop, stop_token_id, logit_bias;
    int output;
    bool stats;
    int64_t timeout_ms;
#define INT(name, type, min, max, value, help) int64_t name;
#define REAL(name, open, min, max, value, help) double name;
#define FLAG(name, value, help) bool name;
#include "proto/params.def"
#undef INT
#undef REAL
#undef FLAG
};

#define AT(field) offsetof(struct generate_settings, field)
// clang-format off
static const struct config_row own_rows[] = {
    CMD_CONNECTION_ROWS(generate_settings),
    {"model", CONFIG_TEXT, AT(model), NULL, 0, 0, NULL, "NAME", "Model; not needed where one is served."},
    {"prompt", CONFIG_TEXT, AT(prompt), NULL, 0, 0, NULL, "TEXT", "Prompt as text."},
    {"prompt-file", CONFIG_TEXT, AT(prompt_file), NULL, 0, 0, NULL, "FILE", "Prompt from a file, - for standard input."},
    {"tokens", CONFIG_TEXT, AT(tokens), NULL, 0, 0, NULL, "1,2,3", "Prompt as token ids; nothing is added."},
    {"output", CONFIG_ENUM, AT(output), "text", 0, 0, "text|jsonl", NULL, "How to print."},
    {"stats", CONFIG_FLAG, AT(stats), NULL, 0, 0, NULL, NULL, "Say on standard error how fast it was."},
    {"stop", CONFIG_LIST, AT(stop), NULL, 0, 0, NULL, "TEXT", "End before this text; may be repeated."},
    {"stop-token-id", CONFIG_LIST, AT(stop_token_id), NULL, 0, 0, NULL, "ID", "End at this token; may be repeated."},
    {"logit-bias", CONFIG_LIST, AT(logit_bias), NULL, 0, 0, NULL, "ID:BIAS", "Added to a logit; may be repeated."},
    {"seed", CONFIG_TEXT, AT(seed), NULL, 0, 0, NULL, "N", "Seed of all draws, up to 2^64 - 1; one is drawn and shown in jsonl if not given."},
    {"prompt-logprobs", CONFIG_TEXT, AT(prompt_logprobs), NULL, 0, 0, NULL, "K", "Report prompt tokens with K alternatives."},
    {"tenant", CONFIG_TEXT, AT(tenant), NULL, 0, 0, NULL, "NAME", "Whose share of the server is used."},
    {"cache-salt", CONFIG_TEXT, AT(cache_salt), NULL, 0, 0, NULL, "TEXT", "Share cached prefixes only under this salt."},
    {"timeout-ms", CONFIG_INT, AT(timeout_ms), "10000", 1, 86400000, NULL, "N", "Give up when the server is silent so long."},
#define INT(name, type, min, max, value, help) {#name, CONFIG_INT, AT(name), #value, (double)(min), (double)(max), NULL, "N", help "."},
#define REAL(name, open, min, max, value, help) {#name, CONFIG_FLOAT, AT(name), #value, (double)(min), (double)(max), NULL, "F", help "."},
#define FLAG(name, value, help) {#name, CONFIG_FLAG, AT(name), value ? "true" : NULL, 0, 0, NULL, NULL, help "."},
#include "proto/params.def"
#undef INT
#undef REAL
#undef FLAG
};
// clang-format on

enum { ROWS = COUNT_OF(own_rows), POLL_MS = 100 };

// What `score` takes; all the rest is about tokens that it does not generate.
static const char *const score_options[] = {"endpoint", "curve-server-public-key", "curve-key",
    "model", "prompt", "prompt-file", "tokens", "output", "stats", "prompt-logprobs", "tenant",
    "cache-salt", "timeout-ms", "priority", "deadline-ms", "window", "add-special-tokens",
    "parse-special-tokens", "skip-special-tokens"};

// Names and defaults as the command line spells them: '-' for '_', 1.0 for 1.0f.
struct generate_rows {
    struct config_row row[ROWS], score_row[COUNT_OF(score_options)];
    char name[ROWS][CONFIG_NAME_BYTES], value[ROWS][CONFIG_NAME_BYTES];
};

static void make_rows(struct generate_rows *out)
{
    memcpy(out->row, own_rows, sizeof own_rows);
    config_spell(out->row, ROWS, out->name);
    for (int i = 0; i < ROWS; i++) {
        if (!own_rows[i].default_text)
            continue;
        snprintf(out->value[i], CONFIG_NAME_BYTES, "%s", own_rows[i].default_text);
        size_t n = strlen(out->value[i]);
        if (own_rows[i].type == CONFIG_FLOAT && n && out->value[i][n - 1] == 'f')
            out->value[i][n - 1] = '\0';
        out->row[i].default_text = out->value[i];
    }
    for (size_t k = 0; k < COUNT_OF(score_options); k++)
        for (int i = 0; i < ROWS; i++)
            if (strcmp(out->name[i], score_options[k]) == 0)
                out->score_row[k] = out->row[i];
}

struct generate {
    struct generate_settings settings;
    struct buf prompt; // bytes, or packed u32 ids
    uint32_t stop_ids[LIMIT_STOP_IDS];
    ProtobufCBinaryData stop[CONFIG_LIST_MAX];
    Phalanx__LogitBias bias[CONFIG_LIST_MAX], *bias_list[CONFIG_LIST_MAX];
    Phalanx__Submit submit;
    bool scoring;
    uint64_t seed;
    int exit_code;
    // Text of several samples is printed one after the other: the first one that has not ended
    // streams, what comes of the later ones is held back.
    uint32_t showing;
    struct buf held[LIMIT_SAMPLES];
    bool ended[LIMIT_SAMPLES];
};

static enum status parse_ids(const char *text, struct buf *out, struct error *err)
{
    const char *p = text;
    while (*p) {
        char *end;
        errno = 0;
        unsigned long id = strtoul(p, &end, 10);
        if (!isdigit((unsigned char)*p) || errno || id > UINT32_MAX || (*end && *end != ','))
            return status_fail(err, STATUS_INVALID,
                "--tokens: \"%.32s\" is not a token id, expected ids such as 1,2,3", p);
        uint32_t value = (uint32_t)id;
        buf_append(out, &value, sizeof value);
        p = *end ? end + 1 : end;
    }
    if (out->size == 0)
        return status_fail(err, STATUS_INVALID, "--tokens is empty, expected ids such as 1,2,3");
    return STATUS_OK;
}

static enum status read_file(const char *path, struct buf *out, struct error *err)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!f)
        return status_fail(err, STATUS_IO, "--prompt-file: %.200s: %s", path, strerror(errno));
    char chunk[65536];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0)
        buf_append(out, chunk, n);
    bool failed = ferror(f) != 0;
    if (f != stdin)
        fclose(f);
    if (failed)
        return status_fail(err, STATUS_IO, "%s: reading failed", path);
    if (buf_failed(out))
        return status_fail(
            err, STATUS_INVALID, "%s is larger than %d bytes", path, LIMIT_PROMPT_BYTES);
    return STATUS_OK;
}

static enum status take_prompt(struct generate *g, struct error *err)
{
    const struct generate_settings *o = &g->settings;
    if ((o->prompt != NULL) + (o->prompt_file != NULL) + (o->tokens != NULL) != 1)
        return status_fail(
            err, STATUS_INVALID, "expected one of --prompt, --prompt-file and --tokens");
    buf_init(&g->prompt, LIMIT_PROMPT_BYTES);
    Phalanx__Submit *m = &g->submit;
    if (o->tokens) {
        TRY(parse_ids(o->tokens, &g->prompt, err));
        m->n_prompt_ids = g->prompt.size / sizeof(uint32_t);
        m->prompt_ids = (uint32_t *)(void *)g->prompt.data;
        return STATUS_OK;
    }
    if (o->prompt)
        buf_append(&g->prompt, o->prompt, strlen(o->prompt));
    else
        TRY(read_file(o->prompt_file, &g->prompt, err));
    m->has_prompt = 1;
    m->prompt = (ProtobufCBinaryData){g->prompt.size, g->prompt.data};
    return STATUS_OK;
}

static enum status parse_bias(const char *text, Phalanx__LogitBias *out, struct error *err)
{
    char *colon, *end = NULL;
    errno = 0;
    unsigned long id = strtoul(text, &colon, 10);
    float bias = *colon == ':' ? strtof(colon + 1, &end) : 0;
    if (!isdigit((unsigned char)*text) || errno || id > UINT32_MAX || *colon != ':' ||
        end == colon + 1 || *end || !isfinite(bias))
        return status_fail(err, STATUS_INVALID,
            "--logit-bias is \"%.32s\", expected ID:BIAS such as 15:-2.5", text);
    out->has_id = out->has_bias = 1;
    out->id = (uint32_t)id;
    out->bias = bias;
    return STATUS_OK;
}

static enum status take_lists(struct generate *g, struct error *err)
{
    const struct generate_settings *o = &g->settings;
    Phalanx__Submit *m = &g->submit;
    for (int i = 0; i < o->stop.count; i++)
        g->stop[i] =
            (ProtobufCBinaryData){strlen(o->stop.item[i]), (uint8_t *)(uintptr_t)o->stop.item[i]};
    m->stop = g->stop;
    m->n_stop = (size_t)o->stop.count;
    if (o->stop_token_id.count > LIMIT_STOP_IDS)
        return status_fail(
            err, STATUS_INVALID, "--stop-token-id is given more than %d times", LIMIT_STOP_IDS);
    for (int i = 0; i < o->stop_token_id.count; i++) {
        int64_t id;
        if (!config_int_parse(o->stop_token_id.item[i], &id) || id < 0 || id > UINT32_MAX)
            return status_fail(err, STATUS_INVALID, "--stop-token-id is \"%.32s\", expected an id",
                o->stop_token_id.item[i]);
        g->stop_ids[i] = (uint32_t)id;
    }
    m->stop_token_ids = g->stop_ids;
    m->n_stop_token_ids = (size_t)o->stop_token_id.count;
    for (int i = 0; i < o->logit_bias.count; i++) {
        phalanx__logit_bias__init(&g->bias[i]);
        g->bias_list[i] = &g->bias[i];
        TRY(parse_bias(o->logit_bias.item[i], &g->bias[i], err));
    }
    m->logit_bias = g->bias_list;
    m->n_logit_bias = (size_t)o->logit_bias.count;
    return STATUS_OK;
}

static enum status take_numbers(struct generate *g, struct error *err)
{
    const struct generate_settings *o = &g->settings;
    Phalanx__Submit *m = &g->submit;
#define INT(name, type, min, max, value, help)                                                     \
    m->has_##name = 1;                                                                             \
    m->name = (type)o->name;
#define REAL(name, open, min, max, value, help)                                                    \
    m->has_##name = 1;                                                                             \
    m->name = (float)o->name;
#define FLAG(name, value, help)                                                                    \
    m->has_##name = 1;                                                                             \
    m->name = o->name;
#include "proto/params.def"
#undef INT
#undef REAL
#undef FLAG
    if (o->seed) {
        char *end;
        errno = 0;
        m->seed = strtoull(o->seed, &end, 10);
        m->has_seed = 1;
        if (errno || *end || !isdigit((unsigned char)*o->seed))
            return status_fail(err, STATUS_INVALID,
                "--seed is \"%.32s\", expected a number from 0 to 2^64 - 1", o->seed);
    }
    if (o->prompt_logprobs) {
        int64_t k;
        if (!config_int_parse(o->prompt_logprobs, &k) || k < 0 || k > LIMIT_LOGPROBS)
            return status_fail(err, STATUS_INVALID,
                "--prompt-logprobs is \"%.32s\", expected 0 to %d", o->prompt_logprobs,
                LIMIT_LOGPROBS);
        m->has_prompt_logprobs = 1;
        m->prompt_logprobs = (uint32_t)k;
    }
    if (g->scoring) {
        m->has_prompt_logprobs = 1;
        m->max_tokens = 0;
    }
    m->tenant = (char *)(uintptr_t)o->tenant;
    if (o->cache_salt) {
        m->has_cache_salt = 1;
        m->cache_salt =
            (ProtobufCBinaryData){strlen(o->cache_salt), (uint8_t *)(uintptr_t)o->cache_salt};
    }
    return STATUS_OK;
}

// The one model that is served, where none is named.
static enum status take_model(struct generate *g, struct phalanx_client *c, struct error *err)
{
    const Phalanx__Models *models;
    g->submit.model = (char *)(uintptr_t)g->settings.model;
    if (g->settings.model)
        return STATUS_OK;
    TRY(phalanx_client_models(c, (int)g->settings.timeout_ms, &models, err));
    if (models->n_model != 1)
        return status_fail(err, STATUS_INVALID,
            "--model is missing, and the server has %zu models, see phalanx models",
            models->n_model);
    g->submit.model = strdup(models->model[0]->name);
    return g->submit.model ? STATUS_OK : status_fail(err, STATUS_NO_MEMORY, "out of memory");
}

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

static void print_text(struct generate *g, uint32_t index, ProtobufCBinaryData text)
{
    if (text.len == 0) // an empty text is NULL
        return;
    if (index == g->showing || index >= LIMIT_SAMPLES)
        fwrite(text.data, 1, text.len, stdout);
    else if (!buf_append(&g->held[index], text.data, text.len) && g->exit_code == CMD_DONE) {
        fprintf(stderr, "phalanx generate: the text of sample %u is too long to be kept\n", index);
        g->exit_code = CMD_FAILED;
    }
}

// The sample's last text. Then its line ends, and the next sample is the one that streams.
static void end_text(struct generate *g, uint32_t index, ProtobufCBinaryData text)
{
    print_text(g, index, text);
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

static void print_token(struct generate *g, const struct phalanx_event *e)
{
    const Phalanx__Token *t = e->token;
    bool prompt = e->kind == PHALANX_EVENT_PROMPT;
    if (g->settings.output == CMD_TEXT) {
        if (!prompt)
            print_text(g, e->index, t->text);
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

static void print_stats(const Phalanx__Finish *f)
{
    double first_s = (double)f->first_token_us / 1e6, total_s = (double)f->total_us / 1e6;
    fflush(stdout);
    fprintf(stderr, "\n%u prompt tokens, first token after %.0f ms, %u tokens", f->prompt_tokens,
        first_s * 1000, f->completion_tokens);
    if (f->completion_tokens > 1 && total_s > first_s)
        fprintf(stderr, ", then %.1f tokens per second",
            (double)(f->completion_tokens - 1) / (total_s - first_s));
    fputc('\n', stderr);
}

static void print_finish(struct generate *g, const struct phalanx_event *e)
{
    const Phalanx__Finish *f = e->finish;
    bool failed = f->reason && (strcmp(f->reason, "error") == 0 || strcmp(f->reason, "abort") == 0);
    bool first = failed && g->exit_code == CMD_DONE; // its samples fail together; one sentence
    if (failed)
        g->exit_code = CMD_FAILED;
    if (g->settings.stats)
        print_stats(f);
    if (g->settings.output == CMD_TEXT)
        end_text(g, e->index, f->text);
    if (first)
        fprintf(stderr, "phalanx %s: %s\n", g->scoring ? "score" : "generate",
            f->error ? f->error : "failed");
    if (g->settings.output == CMD_TEXT || g->scoring) // each line of score is a token
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

static volatile sig_atomic_t interrupted;

// The second Ctrl-C ends the program at once.
static void on_interrupt(int number)
{
    struct sigaction again = {.sa_handler = SIG_DFL};
    interrupted = 1;
    sigaction(number, &again, NULL);
}

// The next event; the first Ctrl-C cancels the request, whose end is then an event as well.
static enum status next(struct phalanx_client *c, uint64_t request, struct phalanx_event *e,
    bool *cancelled, struct error *err)
{
    for (;;) {
        // Asked before each event: a stream that flows leaves no pause in which to ask.
        if (interrupted && !*cancelled) {
            *cancelled = true;
            TRY(phalanx_client_cancel(c, request, err));
        }
        enum status s = phalanx_client_next(c, POLL_MS, e, err);
        if (s != STATUS_AGAIN)
            return s;
    }
}

static enum status stream(struct generate *g, struct phalanx_client *c, struct error *err)
{
    uint64_t request;
    bool cancelled = false;
    TRY(phalanx_client_submit(c, &g->submit, &request, err));
    // Printing goes on; the wait for an event ends in any case.
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
    for (;;) {
        struct phalanx_event e;
        enum status s = next(c, request, &e, &cancelled, err);
        if (s != STATUS_OK)
            return s;
        switch (e.kind) {
        case PHALANX_EVENT_ACCEPTED:
            g->seed = e.seed;
            break;
        case PHALANX_EVENT_PROMPT:
        case PHALANX_EVENT_TOKEN:
            print_token(g, &e);
            break;
        case PHALANX_EVENT_FINISH:
            print_finish(g, &e);
            break;
        case PHALANX_EVENT_REFUSED:
            g->exit_code = CMD_REFUSED;
            return status_fail(err, e.status, "refused: %s", e.reason);
        default:
            return STATUS_OK;
        }
    }
}

static const char about_generate[] =
    "usage: phalanx generate (--prompt TEXT | --prompt-file FILE | --tokens IDS) [options]\n"
    "Continues a prompt and streams the text. With --output jsonl: a line per token (id, logprob,\n"
    "index, offset, text, top_logprobs), then one per sample (finish_reason, stop_reason, text "
    "held\n"
    "back, counts, milliseconds, seed). Ctrl-C cancels.\n";
static const char about_score[] =
    "usage: phalanx score (--prompt TEXT | --prompt-file FILE | --tokens IDS) [options]\n"
    "Prints each prompt token's id and log-probability, none for the first one. With --output\n"
    "jsonl: a line per token (id, logprob, prompt_offset, top_logprobs).\n";

static int run(int argc, char **argv, bool scoring)
{
    static struct generate_rows rows;
    struct generate *g = calloc(1, sizeof *g);
    struct error err = {0};
    bool help = false;
    struct phalanx_client *c = NULL;
    if (!g)
        return CMD_FAILED;
    make_rows(&rows);
    phalanx__submit__init(&g->submit);
    g->scoring = scoring;
    for (int i = 0; i < LIMIT_SAMPLES; i++)
        buf_init(&g->held[i], LIMIT_MESSAGE_UNPACK_BYTES);
    const struct config_row *row = scoring ? rows.score_row : rows.row;
    size_t n_rows = scoring ? COUNT_OF(score_options) : ROWS;
    // Defaults of all, then what is given.
    enum status s = config_parse(rows.row, ROWS, 1, argv, &g->settings, NULL, &help, &err);
    if (s == STATUS_OK)
        s = config_parse(row, n_rows, argc, argv, &g->settings, NULL, &help, &err);
    if (help) {
        puts(scoring ? about_score : about_generate);
        config_help(row, n_rows, stdout);
        cmd_help_end();
        free(g);
        return CMD_DONE;
    }
    if (s == STATUS_OK)
        s = take_prompt(g, &err);
    if (s == STATUS_OK)
        s = take_lists(g, &err);
    if (s == STATUS_OK)
        s = take_numbers(g, &err);
    if (s == STATUS_OK)
        s = cmd_connect(&g->settings.connection, (uint32_t)g->settings.timeout_ms, &c, &err);
    if (s == STATUS_OK)
        s = take_model(g, c, &err);
    if (s == STATUS_OK)
        s = stream(g, c, &err);
    int code = g->exit_code;
    if (s != STATUS_OK) {
        int from_status = cmd_fail(argv[0], &err);
        code = code ? code : from_status;
    }
    phalanx_client_close(c);
    if (!g->settings.model)
        free(g->submit.model);
    buf_deinit(&g->prompt);
    for (int i = 0; i < LIMIT_SAMPLES; i++)
        buf_deinit(&g->held[i]);
    free(g);
    return code;
}

int cmd_generate(int argc, char **argv)
{
    return run(argc, argv, false);
}

int cmd_score(int argc, char **argv)
{
    return run(argc, argv, true);
}
