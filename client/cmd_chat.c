// SPDX-License-Identifier: Apache-2.0
// phalanx chat: a conversation, a line of standard input at a time. The server keeps none of it:
// each turn sends all messages, whose beginning it finds in its prefix cache.
#include "client/generate.h"

#include "base/check.h"
#include "base/utf8.h"
#include "proto/message.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES_MAX = 1 << 20 };

struct chat {
    struct generate g;
    struct phalanx_client *client;
    json_t *messages;
    char *system; // owned; NULL: none
    struct buf input, answer;
    bool input_ended, terminal;
    int exit_code; // of the turn that went wrong last
};

static const char help_text[] = "/help          this\n"
                                "/reset         begin a new conversation\n"
                                "/system TEXT   begin a new one with this system message\n"
                                "/exit          leave, as Ctrl-D does\n"
                                "//TEXT         say /TEXT\n"
                                "Ctrl-C stops an answer.\n";

// ---- messages ----------------------------------------------------------------------------------

static enum status add_message(
    struct chat *c, const char *role, const void *text, size_t n, struct error *err)
{
    json_t *content = json_stringn(text, n);
    json_t *message = content ? json_pack("{s:s, s:o}", "role", role, "content", content) : NULL;
    if (!message || json_array_append_new(c->messages, message) != 0)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the conversation");
    return STATUS_OK;
}

static void forget_last(struct chat *c)
{
    json_array_remove(c->messages, json_array_size(c->messages) - 1);
}

static enum status begin(struct chat *c, struct error *err)
{
    json_array_clear(c->messages);
    return c->system ? add_message(c, "system", c->system, strlen(c->system), err) : STATUS_OK;
}

static enum status set_system(struct chat *c, const char *text, struct error *err)
{
    if (!utf8_valid(text, strlen(text)))
        return status_fail(err, STATUS_INVALID, "--system is not valid UTF-8");
    free(c->system);
    c->system = *text ? strdup(text) : NULL;
    if (*text && !c->system)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the system message");
    return begin(c, err);
}

// ---- one turn ----------------------------------------------------------------------------------

static void begin_turn(struct chat *c)
{
    struct generate *g = &c->g;
    g->exit_code = CMD_DONE;
    g->showing = 0;
    g->stats = (struct generate_stats){0};
    memset(g->ended, 0, sizeof g->ended);
    buf_clear(&c->answer);
    g->answer = &c->answer;
}

// What the model has said, also where Ctrl-C ended it, is part of the conversation. What came to
// nothing is not, and what it was asked then neither.
static enum status end_turn(struct chat *c, bool answered, struct error *err)
{
    if (!answered || buf_failed(&c->answer)) {
        forget_last(c);
        return STATUS_OK;
    }
    TRY(add_message(
        c, "assistant", c->answer.size ? (char *)c->answer.data : "", c->answer.size, err));
    if (c->g.settings.output == CMD_JSONL)
        cmd_print_json(json_pack(
            "{s:O}", "message", json_array_get(c->messages, json_array_size(c->messages) - 1)));
    return STATUS_OK;
}

static enum status say(struct chat *c, const char *text, size_t n, struct error *err)
{
    struct generate *g = &c->g;
    TRY(add_message(c, "user", text, n, err));
    char *json = json_dumps(c->messages, JSON_COMPACT);
    if (!json)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for the conversation");
    begin_turn(c);
    g->submit.has_messages = 1;
    g->submit.messages = (ProtobufCBinaryData){strlen(json), (uint8_t *)json};
    enum status s = generate_stream_run(g, c->client, err);
    free(json);
    bool stopped = generate_stream_interrupted();
    bool refused = s != STATUS_OK && g->exit_code == CMD_REFUSED;
    if (refused)
        cmd_fail("chat", err);
    if (g->exit_code != CMD_DONE && !stopped)
        c->exit_code = g->exit_code;
    if (s != STATUS_OK && !refused)
        return s; // the server is gone
    return end_turn(c, s == STATUS_OK && (g->exit_code == CMD_DONE || stopped), err);
}

// ---- input -------------------------------------------------------------------------------------

// Takes a line out of what was read; false if there is no whole one.
static bool take_line(struct chat *c, struct buf *line)
{
    uint8_t *end = c->input.size ? memchr(c->input.data, '\n', c->input.size) : NULL;
    if (!end && !(c->input_ended && c->input.size))
        return false;
    size_t n = end ? (size_t)(end - c->input.data) : c->input.size;
    buf_clear(line);
    size_t shown = n > 0 && c->input.data[n - 1] == '\r' ? n - 1 : n;
    buf_append(line, c->input.data, shown);
    buf_append(line, "", 1);
    buf_drop(&c->input, n + (end != NULL));
    return true;
}

// Reads on; false when Ctrl-C was pressed meanwhile.
static bool read_more(struct chat *c)
{
    char chunk[4096];
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    if (poll(&p, 1, -1) < 0)
        return errno != EINTR || !generate_stream_interrupted();
    ssize_t n = read(STDIN_FILENO, chunk, sizeof chunk);
    if (n < 0 && errno == EINTR)
        return !generate_stream_interrupted();
    if (n <= 0)
        c->input_ended = true;
    else
        buf_append(&c->input, chunk, (size_t)n);
    return true;
}

static void show_prompt(const struct chat *c)
{
    if (c->terminal) {
        fputs("> ", stdout);
        fflush(stdout);
    }
}

// The next line, zero-terminated, in `line`; false when there is none left.
static bool next_line(struct chat *c, struct buf *line, enum status *s, struct error *err)
{
    *s = STATUS_OK;
    show_prompt(c);
    generate_stream_catch();
    while (!take_line(c, line)) {
        if (c->input_ended)
            return false;
        if (!read_more(c)) {
            if (!c->terminal)
                return false;
            puts("\n/exit or Ctrl-D leaves");
            show_prompt(c);
            generate_stream_catch();
        }
        if (buf_failed(&c->input)) {
            *s = status_fail(err, STATUS_INVALID, "a line is longer than %d bytes", LINE_BYTES_MAX);
            return false;
        }
    }
    return true;
}

// ---- lines -------------------------------------------------------------------------------------

// A command; *leave is set by /exit.
static enum status command(struct chat *c, const char *line, bool *leave, struct error *err)
{
    size_t n = strcspn(line, " \t");
    const char *rest = line + n + strspn(line + n, " \t");
    if (strcmp(line, "/exit") == 0 || strcmp(line, "/quit") == 0)
        *leave = true;
    else if (strcmp(line, "/reset") == 0)
        return begin(c, err);
    else if (n == 7 && memcmp(line, "/system", 7) == 0)
        return set_system(c, rest, err);
    else if (strcmp(line, "/help") == 0)
        fputs(help_text, stderr);
    else
        fprintf(stderr, "phalanx chat: \"%.40s\" is no command, see /help\n", line);
    return STATUS_OK;
}

static enum status handle(
    struct chat *c, const char *line, size_t n, bool *leave, struct error *err)
{
    if (!utf8_valid(line, n)) {
        fprintf(stderr, "phalanx chat: the line is not valid UTF-8\n");
        c->exit_code = CMD_USAGE;
        return STATUS_OK;
    }
    if (line[0] == '/' && line[1] != '/')
        return command(c, line, leave, err);
    if (line[0] == '/') {
        line++;
        n--;
    }
    if (line[strspn(line, " \t")] == '\0' && strlen(line) == n)
        return STATUS_OK;
    return say(c, line, n, err);
}

static enum status talk(struct chat *c, struct error *err)
{
    struct buf line;
    bool leave = false;
    enum status s = STATUS_OK;
    buf_init(&line, LINE_BYTES_MAX + 1);
    while (s == STATUS_OK && !leave && next_line(c, &line, &s, err))
        s = handle(c, (char *)line.data, line.size - 1, &leave, err);
    if (c->terminal && !leave)
        putchar('\n');
    buf_deinit(&line);
    return s;
}

static enum status go(struct chat *c, struct error *err)
{
    const struct generate_settings *o = &c->g.settings;
    TRY(cmd_connect(
        &o->connection, (uint32_t)o->timeout_ms, (uint32_t)o->patience_ms, &c->client, err));
    TRY(generate_stream_model(&c->g, c->client, err));
    TRY(set_system(c, o->system ? o->system : "", err));
    if (o->message)
        return utf8_valid(o->message, strlen(o->message))
                   ? say(c, o->message, strlen(o->message), err)
                   : status_fail(err, STATUS_INVALID, "--message is not valid UTF-8");
    c->terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    if (c->terminal)
        printf("%s: /help for commands, Ctrl-D leaves\n", c->g.submit.model);
    enum status s = talk(c, err);
    if (c->terminal) // whoever sat there has seen what went wrong
        c->exit_code = CMD_DONE;
    return s;
}

static struct chat *chat_new(void)
{
    struct chat *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    phalanx__submit__init(&c->g.submit);
    c->g.chatting = true;
    for (int i = 0; i < LIMIT_SAMPLES; i++)
        buf_init(&c->g.held[i], LIMIT_MESSAGE_UNPACK_BYTES);
    buf_init(&c->input, LINE_BYTES_MAX);
    buf_init(&c->answer, LIMIT_MESSAGE_UNPACK_BYTES);
    c->messages = json_array();
    return c;
}

static void chat_free(struct chat *c)
{
    phalanx_client_close(c->client);
    if (!c->g.settings.model)
        free(c->g.submit.model);
    for (int i = 0; i < LIMIT_SAMPLES; i++)
        buf_deinit(&c->g.held[i]);
    buf_deinit(&c->g.tools);
    buf_deinit(&c->g.kwargs);
    buf_deinit(&c->input);
    buf_deinit(&c->answer);
    json_decref(c->messages);
    free(c->system);
    free(c);
}

int cmd_chat(int argc, char **argv)
{
    struct error err = {0};
    bool help = false;
    struct chat *c = chat_new();
    if (!c)
        return CMD_FAILED;
    enum status s = generate_options_parse(&c->g, argc, argv, &help, &err);
    if (help)
        generate_options_help(&c->g);
    else if (s == STATUS_OK)
        s = go(c, &err);
    int code = c->exit_code;
    if (s != STATUS_OK)
        code = cmd_fail(argv[0], &err);
    chat_free(c);
    return code;
}
