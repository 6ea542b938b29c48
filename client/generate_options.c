// SPDX-License-Identifier: Apache-2.0
// Options of phalanx generate, score and chat; those of parameters are made from proto/params.def.
#include "client/generate.h"

#include "base/check.h"
#include "proto/validate.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(struct generate_settings, field)
// clang-format off
static const struct config_row own_rows[] = {
    CMD_CONNECTION_ROWS(generate_settings),
    {"model", CONFIG_TEXT, AT(model), NULL, 0, 0, NULL, "NAME", "Model; not needed where one is served."},
    {"prompt", CONFIG_TEXT, AT(prompt), NULL, 0, 0, NULL, "TEXT", "Prompt as text."},
    {"prompt-file", CONFIG_TEXT, AT(prompt_file), NULL, 0, 0, NULL, "FILE", "Prompt from a file, - for standard input."},
    {"tokens", CONFIG_TEXT, AT(tokens), NULL, 0, 0, NULL, "1,2,3", "Prompt as token ids; nothing is added."},
    {"tokens-file", CONFIG_TEXT, AT(tokens_file), NULL, 0, 0, NULL, "FILE", "The same from a file, - for standard input: more than fit into a command line."},
    {"messages", CONFIG_TEXT, AT(messages), NULL, 0, 0, NULL, "JSON|FILE", "Prompt as a conversation, a JSON list of messages, for the model's chat template."},
    {"system", CONFIG_TEXT, AT(system), NULL, 0, 0, NULL, "TEXT", "System message that the conversation begins with."},
    {"message", CONFIG_TEXT, AT(message), NULL, 0, 0, NULL, "TEXT", "Say only this and end with the answer."},
    {"tools", CONFIG_TEXT, AT(tools), NULL, 0, 0, NULL, "JSON|FILE", "Tools that the model may call, a JSON list, for the chat template."},
    {"chat-template-kwargs", CONFIG_TEXT, AT(chat_template_kwargs), NULL, 0, 0, NULL, "JSON|FILE", "More names for the chat template, a JSON object."},
    {"chat-template", CONFIG_TEXT, AT(chat_template), NULL, 0, 0, NULL, "NAME", "One of the model's chat templates."},
    {"output", CONFIG_ENUM, AT(output), "text", 0, 0, "text|jsonl", NULL, "How to print."},
    {"stats", CONFIG_FLAG, AT(stats), NULL, 0, 0, NULL, NULL, "Say on standard error how fast it was."},
    {"stop", CONFIG_LIST, AT(stop), NULL, 0, 0, NULL, "TEXT", "End before this text; may be repeated."},
    {"stop-token-id", CONFIG_LIST, AT(stop_token_id), NULL, 0, 0, NULL, "ID", "End at this token; may be repeated."},
    {"logit-bias", CONFIG_LIST, AT(logit_bias), NULL, 0, 0, NULL, "ID:BIAS", "Added to a logit; may be repeated."},
    {"seed", CONFIG_TEXT, AT(seed), NULL, 0, 0, NULL, "N", "Seed of all draws, up to 2^64 - 1; one is drawn and shown in jsonl if not given."},
    {"prompt-logprobs", CONFIG_TEXT, AT(prompt_logprobs), NULL, 0, 0, NULL, "K", "Report prompt tokens with K alternatives."},
    {"tenant", CONFIG_TEXT, AT(tenant), NULL, 0, 0, NULL, "NAME", "Whose share of the server is used."},
    {"cache-salt", CONFIG_TEXT, AT(cache_salt), NULL, 0, 0, NULL, "TEXT", "Share cached prefixes only under this salt."},
    {"timeout-ms", CONFIG_INT, AT(timeout_ms), "10000", 1, 86400000, NULL, "N", "Give up when the server is silent so long before it accepts."},
    {"patience-ms", CONFIG_INT, AT(patience_ms), "60000", 1, 86400000, NULL, "N", "The same once it has accepted: it may have to start again."},
#define INT(name, type, min, max, value, help) {#name, CONFIG_INT, AT(name), #value, (double)(min), (double)(max), NULL, "N", help "."},
#define REAL(name, open, min, max, value, help) {#name, CONFIG_FLOAT, AT(name), #value, (double)(min), (double)(max), NULL, "F", help "."},
#define FLAG(name, value, help) {#name, CONFIG_FLAG, AT(name), value ? "true" : NULL, 0, 0, NULL, NULL, help "."},
#include "proto/params.def"
#undef INT
#undef REAL
#undef FLAG
};
// clang-format on

enum { ROWS = COUNT_OF(own_rows), TOKENS_FILE_BYTES_MAX = 16 << 20 };

// What `score` takes; all the rest is about tokens that it does not generate.
static const char *const score_options[] = {"endpoint", "curve-server-public-key", "curve-key",
    "model", "prompt", "prompt-file", "tokens", "tokens-file", "output", "stats", "prompt-logprobs",
    "tenant", "cache-salt", "timeout-ms", "patience-ms", "priority", "deadline-ms", "window",
    "add-special-tokens", "parse-special-tokens", "skip-special-tokens", NULL};
// What only `chat` takes, and what it does not: its prompts are its own.
static const char *const chat_options[] = {"system", "message", NULL};
static const char *const not_chat_options[] = {"prompt", "prompt-file", "tokens", "tokens-file",
    "messages", "n", "prompt-logprobs", "add-special-tokens", "add-generation-prompt",
    "continue-final-message", NULL};

// The options of a command. Names and defaults as the command line spells them: '-' for '_', 1.0
// for 1.0f.
struct generate_rows {
    struct config_row all[ROWS], row[ROWS];
    size_t n;
    char name[ROWS][CONFIG_NAME_BYTES], value[ROWS][CONFIG_NAME_BYTES];
};

static bool is_in(const char *const *list, const char *name)
{
    while (*list && strcmp(*list, name) != 0)
        list++;
    return *list != NULL;
}

static bool takes(const struct generate *g, const char *option)
{
    if (g->scoring)
        return is_in(score_options, option);
    return g->chatting ? !is_in(not_chat_options, option) : !is_in(chat_options, option);
}

static void make_rows(const struct generate *g, struct generate_rows *out)
{
    memcpy(out->all, own_rows, sizeof own_rows);
    config_spell(out->all, ROWS, out->name);
    out->n = 0;
    for (int i = 0; i < ROWS; i++) {
        if (own_rows[i].default_text) {
            snprintf(out->value[i], CONFIG_NAME_BYTES, "%s", own_rows[i].default_text);
            size_t n = strlen(out->value[i]);
            if (own_rows[i].type == CONFIG_FLOAT && n && out->value[i][n - 1] == 'f')
                out->value[i][n - 1] = '\0';
            out->all[i].default_text = out->value[i];
        }
        // An answer ends where the model ends it, or its context.
        if (g->chatting && strcmp(out->name[i], "max-tokens") == 0)
            snprintf(out->value[i], CONFIG_NAME_BYTES, "%d", LIMIT_CONTEXT_TOKENS);
        if (takes(g, out->name[i]))
            out->row[out->n++] = out->all[i];
    }
}

static enum status parse_ids(
    const char *option, const char *text, struct buf *out, struct error *err)
{
    const char *p = text;
    while (*p) {
        char *end;
        errno = 0;
        unsigned long id = strtoul(p, &end, 10);
        if (!isdigit((unsigned char)*p) || errno || id > UINT32_MAX ||
            (*end && (*end != ',' || !end[1])))
            return status_fail(err, STATUS_INVALID,
                "--%s: \"%.32s\" is not a token id, expected ids such as 1,2,3", option, p);
        uint32_t value = (uint32_t)id;
        buf_append(out, &value, sizeof value);
        p = *end ? end + 1 : end;
    }
    if (out->size == 0)
        return status_fail(
            err, STATUS_INVALID, "--%s is empty, expected ids such as 1,2,3", option);
    if (buf_failed(out))
        return status_fail(err, STATUS_INVALID, "--%s has more than %zu ids", option,
            out->size_max / sizeof(uint32_t));
    return STATUS_OK;
}

static enum status read_file(
    const char *option, const char *path, struct buf *out, struct error *err)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (!f)
        return status_fail(err, STATUS_IO, "--%s: %.200s: %s", option, path, strerror(errno));
    char chunk[65536];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0 && buf_append(out, chunk, n))
        continue;
    bool failed = ferror(f) != 0;
    if (f != stdin)
        fclose(f);
    if (failed)
        return status_fail(err, STATUS_IO, "%s: reading failed", path);
    if (buf_failed(out))
        return status_fail(err, STATUS_INVALID, "%s is larger than %zu bytes", path, out->size_max);
    return STATUS_OK;
}

// What stands in a file, which may end with a line's end.
static enum status parse_ids_file(const char *path, struct buf *out, struct error *err)
{
    struct buf text;
    buf_init(&text, TOKENS_FILE_BYTES_MAX);
    enum status s = read_file("tokens-file", path, &text, err);
    while (s == STATUS_OK && text.size && isspace(text.data[text.size - 1]))
        text.size--;
    if (s == STATUS_OK && buf_append(&text, "", 1))
        s = parse_ids("tokens-file", (const char *)text.data, out, err);
    buf_deinit(&text);
    return s;
}

// JSON as it stands, or a file with it.
static enum status read_json(const char *option, const char *value, size_t max, struct buf *out,
    ProtobufCBinaryData *to, struct error *err)
{
    buf_init(out, max);
    const char *first = value + strspn(value, " \t\r\n");
    if (*first == '[' || *first == '{')
        buf_append(out, value, strlen(value));
    else
        TRY(read_file(option, value, out, err));
    if (buf_failed(out))
        return status_fail(err, STATUS_INVALID, "--%s is larger than %zu bytes", option, max);
    *to = (ProtobufCBinaryData){out->size, out->data};
    return STATUS_OK;
}

static enum status take_conversation(struct generate *g, struct error *err)
{
    const struct generate_settings *o = &g->settings;
    Phalanx__Submit *m = &g->submit;
    if (o->messages) {
        m->has_messages = 1;
        TRY(read_json("messages", o->messages, LIMIT_PROMPT_BYTES, &g->prompt, &m->messages, err));
    }
    if (o->tools) {
        m->has_tools = 1;
        TRY(read_json("tools", o->tools, LIMIT_TOOLS_BYTES, &g->tools, &m->tools, err));
    }
    if (o->chat_template_kwargs) {
        m->has_chat_template_kwargs = 1;
        TRY(read_json("chat-template-kwargs", o->chat_template_kwargs, LIMIT_KWARGS_BYTES,
            &g->kwargs, &m->chat_template_kwargs, err));
    }
    m->chat_template = (char *)(uintptr_t)o->chat_template;
    return STATUS_OK;
}

static enum status take_prompt(struct generate *g, struct error *err)
{
    const struct generate_settings *o = &g->settings;
    TRY(take_conversation(g, err));
    if (g->chatting)
        return STATUS_OK;
    if ((o->prompt != NULL) + (o->prompt_file != NULL) + (o->tokens != NULL) +
            (o->tokens_file != NULL) + (o->messages != NULL) !=
        1)
        return status_fail(err, STATUS_INVALID, "expected one of --prompt, --prompt-file%s",
            g->scoring ? " and --tokens" : ", --tokens and --messages");
    if (o->messages)
        return STATUS_OK;
    buf_init(&g->prompt, LIMIT_PROMPT_BYTES);
    Phalanx__Submit *m = &g->submit;
    if (o->tokens || o->tokens_file) {
        TRY(o->tokens ? parse_ids("tokens", o->tokens, &g->prompt, err)
                      : parse_ids_file(o->tokens_file, &g->prompt, err));
        m->n_prompt_ids = g->prompt.size / sizeof(uint32_t);
        m->prompt_ids = (uint32_t *)(void *)g->prompt.data;
        return STATUS_OK;
    }
    if (o->prompt)
        buf_append(&g->prompt, o->prompt, strlen(o->prompt));
    else
        TRY(read_file("prompt-file", o->prompt_file, &g->prompt, err));
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
    // A template adds the special tokens; and either it asks for an answer, or the last one goes
    // on.
    bool conversation = g->chatting || o->messages;
    m->has_add_special_tokens = !conversation;
    m->has_add_generation_prompt = conversation && !o->continue_final_message;
    m->has_continue_final_message = conversation;
    m->tenant = (char *)(uintptr_t)o->tenant;
    if (o->cache_salt) {
        m->has_cache_salt = 1;
        m->cache_salt =
            (ProtobufCBinaryData){strlen(o->cache_salt), (uint8_t *)(uintptr_t)o->cache_salt};
    }
    return STATUS_OK;
}

static const char about_generate[] =
    "usage: phalanx generate (--prompt TEXT | --prompt-file FILE | --tokens IDS |\n"
    "                         --messages JSON|FILE) [options]\n"
    "Continues a prompt and streams the text. With --output jsonl: a line per token (id, logprob,\n"
    "index, offset, text, top_logprobs), then one per sample (finish_reason, stop_reason, text "
    "held\n"
    "back, counts, milliseconds, seed). Ctrl-C cancels.\n";
static const char about_score[] =
    "usage: phalanx score (--prompt TEXT | --prompt-file FILE | --tokens IDS) [options]\n"
    "Prints each prompt token's id and log-probability, none for the first one. With --output\n"
    "jsonl: a line per token (id, logprob, prompt_offset, top_logprobs).\n";
static const char about_chat[] =
    "usage: phalanx chat [--message TEXT] [options]\n"
    "Talks with a model that has a chat template: each line of standard input is a message, the\n"
    "answer streams. Lines that begin with '/' are commands: /help, /reset, /system TEXT, /exit.\n"
    "Ctrl-C stops an answer, Ctrl-D leaves. With --output jsonl: lines as of phalanx generate, "
    "then\n"
    "one with the whole message.\n";

enum status generate_options_parse(
    struct generate *g, int argc, char **argv, bool *help, struct error *err)
{
    struct generate_rows rows;
    make_rows(g, &rows);
    // Defaults of all, then what is given; lists grow, so what the environment put there is taken
    // once.
    TRY(config_parse(rows.all, ROWS, 1, argv, &g->settings, NULL, help, err));
    g->settings.stop.count = g->settings.stop_token_id.count = g->settings.logit_bias.count = 0;
    TRY(config_parse(rows.row, rows.n, argc, argv, &g->settings, NULL, help, err));
    if (*help)
        return STATUS_OK;
    TRY(take_prompt(g, err));
    TRY(take_lists(g, err));
    return take_numbers(g, err);
}

void generate_options_help(const struct generate *g)
{
    struct generate_rows rows;
    make_rows(g, &rows);
    puts(g->scoring ? about_score : g->chatting ? about_chat : about_generate);
    config_help(rows.row, rows.n, stdout);
    cmd_help_end();
}

const char *generate_options_command(const struct generate *g)
{
    return g->scoring ? "score" : g->chatting ? "chat" : "generate";
}
