// SPDX-License-Identifier: Apache-2.0
// The little HTTP that a load generator needs: one POST per TCP connection, the answer read as a
// stream of "data:" lines whatever its framing is.
#include "bench/serve_target.h"

#include "base/buf.h"
#include "base/clock.h"

#include <errno.h>
#include <jansson.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REQUEST_BYTES_MAX = 1 << 20, LINE_BYTES_MAX = 1 << 16 };

struct connection {
    char host[128], port[16], model[160];
    struct buf body, head;
    char line[LINE_BYTES_MAX]; // received, not yet a whole line
    size_t n_line;
};

static void close_connection(void *user)
{
    struct connection *c = user;
    if (!c)
        return;
    buf_deinit(&c->body);
    buf_deinit(&c->head);
    free(c);
}

static enum status open_connection(
    const char *address, const char *model, void **out, struct error *err)
{
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address || (size_t)(colon - address) >= 128 || strlen(colon) > 15)
        return status_fail(err, STATUS_INVALID, "address \"%.64s\": expected HOST:PORT", address);
    struct connection *c = calloc(1, sizeof *c);
    if (!c)
        return status_fail(err, STATUS_NO_MEMORY, "no memory for a connection");
    snprintf(c->host, sizeof c->host, "%.*s", (int)(colon - address), address);
    snprintf(c->port, sizeof c->port, "%s", colon + 1);
    snprintf(c->model, sizeof c->model, "%s", model ? model : "model");
    buf_init(&c->body, REQUEST_BYTES_MAX);
    buf_init(&c->head, REQUEST_BYTES_MAX);
    *out = c;
    return STATUS_OK;
}

static enum status connect_tcp(const struct connection *c, int *out, struct error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    int why = getaddrinfo(c->host, c->port, &hints, &list);
    if (why != 0)
        return status_fail(err, STATUS_NOT_FOUND, "%s:%s: %s", c->host, c->port, gai_strerror(why));
    int fd = -1;
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    if (fd < 0)
        return status_fail(err, STATUS_IO, "%s:%s: %s", c->host, c->port, strerror(errno));
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    *out = fd;
    return STATUS_OK;
}

// ---- the request -------------------------------------------------------------------------------

// `ignore_eos` and `cache_prompt` are known to llama-server; other servers ignore them.
static void write_request(struct connection *c, const struct target_request *r)
{
    struct buf *b = &c->body;
    buf_clear(b);
    buf_printf(b,
        "{\"model\":\"%s\",\"stream\":true,\"temperature\":0,\"ignore_eos\":true,"
        "\"cache_prompt\":false,\"max_tokens\":%u",
        c->model, (unsigned)r->max_tokens);
    for (uint32_t i = 0; i < r->n_ids; i++)
        buf_printf(b, "%s%u", i ? "," : ",\"prompt\":[", (unsigned)r->ids[i]);
    buf_printf(b, "]}");
    buf_clear(&c->head);
    buf_printf(&c->head,
        "POST /v1/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
        "Connection: close\r\nContent-Length: %zu\r\n\r\n",
        c->host, b->size);
    buf_append(&c->head, b->data, b->size);
}

static enum status send_all(int fd, const struct buf *b, struct error *err)
{
    for (size_t at = 0; at < b->size;) {
        ssize_t n = send(fd, b->data + at, b->size - at, MSG_NOSIGNAL);
        if (n <= 0)
            return status_fail(err, STATUS_IO, "sending a request: %s", strerror(errno));
        at += (size_t)n;
    }
    return STATUS_OK;
}

// ---- the answer --------------------------------------------------------------------------------

// One event of the stream. The one with a finish reason carries no token.
static enum status take_event(
    const char *text, uint64_t now, struct target_times *t, bool *done, struct error *err)
{
    if (strncmp(text, "[DONE]", 6) == 0)
        return STATUS_OK;
    json_t *event = json_loads(text, 0, NULL);
    json_t *choice = json_array_get(json_object_get(event, "choices"), 0);
    const char *reason = json_string_value(json_object_get(choice, "finish_reason"));
    enum status s = STATUS_OK;
    if (!choice)
        s = status_fail(err, STATUS_MISMATCH, "the server sent \"%.200s\"", text);
    else if (reason && strcmp(reason, "length") != 0)
        s = status_fail(err, STATUS_MISMATCH, "a request ended with \"%.32s\"", reason);
    else if (reason)
        *done = true;
    else {
        t->last_us = now;
        if (t->n_tokens++ == 0)
            t->first_us = now;
    }
    json_decref(event);
    return s;
}

static enum status take_line(
    struct connection *c, uint64_t now, struct target_times *t, bool *done, struct error *err)
{
    char *line = c->line;
    if (strncmp(line, "HTTP/1.", 7) == 0 && strncmp(line + 8, " 200", 4) != 0)
        return status_fail(err, STATUS_MISMATCH, "the server answered \"%.64s\"", line);
    if (strncmp(line, "data:", 5) == 0)
        return take_event(line + 5 + strspn(line + 5, " "), now, t, done, err);
    return STATUS_OK;
}

static enum status take_bytes(
    struct connection *c, size_t n, struct target_times *t, bool *done, struct error *err)
{
    uint64_t now = clock_now_us();
    c->n_line += n;
    char *end;
    while ((end = memchr(c->line, '\n', c->n_line)) != NULL) {
        *end = '\0';
        TRY(take_line(c, now, t, done, err));
        size_t used = (size_t)(end + 1 - c->line);
        memmove(c->line, end + 1, c->n_line - used);
        c->n_line -= used;
    }
    return STATUS_OK;
}

static enum status follow(struct connection *c, int fd, struct target_times *t, struct error *err)
{
    bool done = false;
    c->n_line = 0;
    for (;;) {
        ssize_t n = recv(fd, c->line + c->n_line, sizeof c->line - 1 - c->n_line, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        TRY(take_bytes(c, (size_t)n, t, &done, err));
    }
    if (!done)
        return status_fail(
            err, STATUS_MISMATCH, "the stream ended early, after %u tokens", (unsigned)t->n_tokens);
    return STATUS_OK;
}

static enum status run(
    void *user, const struct target_request *request, struct target_times *times, struct error *err)
{
    struct connection *c = user;
    int fd = -1;
    write_request(c, request);
    TRY(connect_tcp(c, &fd, err));
    *times = (struct target_times){.sent_us = clock_now_us()};
    enum status s = send_all(fd, &c->head, err);
    if (s == STATUS_OK)
        s = follow(c, fd, times, err);
    close(fd);
    return s;
}

const struct target target_http = {"http", open_connection, close_connection, run};
