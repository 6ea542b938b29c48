// SPDX-License-Identifier: Apache-2.0
#include "coordinator/shell.h"

#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <zmq.h>

#define TOKENIZE_ENDPOINT "inproc://tokenize"

// Both directions: a header, then text or ids.
struct tokenize_job {
    uint64_t request;
    uint32_t model, flags;
};
struct tokenize_result {
    uint64_t request;
    uint32_t n_ids;
    uint32_t failed; // a sentence follows instead of ids
};

static void answer(void *socket, const struct tokenize_result *head, const void *body, size_t n)
{
    if (zmq_send(socket, head, sizeof *head, ZMQ_SNDMORE) >= 0)
        zmq_send(socket, body, n, 0);
}

static void encode(
    struct shell *s, void *socket, const struct tokenize_job *job, const void *text, size_t n)
{
    struct error err = {0};
    struct tokenizer_ids ids;
    tokenizer_ids_init(&ids, LIMIT_CONTEXT_TOKENS);
    enum status status =
        tokenizer_encode(s->model[job->model].tokenizer, text, n, job->flags, &ids, &err);
    struct tokenize_result head = {.request = job->request, .n_ids = (uint32_t)ids.count};
    if (status == STATUS_OK) {
        answer(socket, &head, ids.data, ids.count * sizeof ids.data[0]);
    } else {
        head.failed = 1;
        answer(socket, &head, err.text, strlen(err.text) + 1);
    }
    tokenizer_ids_deinit(&ids);
}

static void *tokenize_main(void *arg)
{
    struct shell *s = arg;
    void *socket = zmq_socket(s->context, ZMQ_PAIR);
    if (!socket)
        return NULL;
    int unlimited = 0;
    zmq_setsockopt(socket, ZMQ_SNDHWM, &unlimited, sizeof unlimited);
    zmq_setsockopt(socket, ZMQ_RCVHWM, &unlimited, sizeof unlimited);
    bool open = zmq_connect(socket, TOKENIZE_ENDPOINT) == 0;
    while (open) {
        struct tokenize_job job;
        if (zmq_recv(socket, &job, sizeof job, 0) < 0) {
            open = errno == EINTR;
            continue;
        }
        zmq_msg_t text;
        zmq_msg_init(&text);
        open = zmq_msg_recv(&text, socket, 0) >= 0;
        if (open)
            encode(s, socket, &job, zmq_msg_data(&text), zmq_msg_size(&text));
        zmq_msg_close(&text);
    }
    int linger = 0;
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    zmq_close(socket);
    return NULL;
}

enum status shell_tokenize_open(struct shell *s, struct error *err)
{
    s->tokenize = zmq_socket(s->context, ZMQ_PAIR);
    int zero = 0; // no limit: the core bounds how many requests wait for their tokens
    if (!s->tokenize || zmq_setsockopt(s->tokenize, ZMQ_SNDHWM, &zero, sizeof zero) ||
        zmq_setsockopt(s->tokenize, ZMQ_RCVHWM, &zero, sizeof zero) ||
        zmq_setsockopt(s->tokenize, ZMQ_LINGER, &zero, sizeof zero) ||
        zmq_bind(s->tokenize, TOKENIZE_ENDPOINT) != 0)
        return status_fail(err, STATUS_IO, "tokenizing thread: %s", zmq_strerror(errno));
    pthread_t thread;
    int rc = pthread_create(&thread, NULL, tokenize_main, s);
    if (rc != 0)
        return status_fail(err, STATUS_NO_MEMORY, "tokenizing thread: %s", strerror(rc));
    pthread_detach(thread);
    return STATUS_OK;
}

void shell_tokenize_send(struct shell *s, const struct core_out *out)
{
    struct tokenize_job job = {
        .request = out->request,
        .model = out->model,
        .flags = (out->tokenize.add_special ? (unsigned)TOKENIZER_ADD_SPECIAL : 0) |
                 (out->tokenize.parse_special ? (unsigned)TOKENIZER_PARSE_SPECIAL : 0),
    };
    if (zmq_send(s->tokenize, &job, sizeof job, ZMQ_SNDMORE) < 0 ||
        zmq_send(s->tokenize, out->tokenize.text, out->tokenize.n, 0) < 0)
        log_error("tokenizing thread: %s", zmq_strerror(errno));
}

void shell_tokenize_receive(struct shell *s, uint64_t now_us)
{
    struct tokenize_result head;
    while (zmq_recv(s->tokenize, &head, sizeof head, ZMQ_DONTWAIT) == (int)sizeof head) {
        zmq_msg_t body;
        zmq_msg_init(&body);
        if (zmq_msg_recv(&body, s->tokenize, 0) >= 0) {
            struct core_in in = {.type = CORE_IN_TOKENIZED, .now_us = now_us};
            in.tokenized.request = head.request;
            if (head.failed) {
                in.tokenized.sentence = zmq_msg_data(&body);
            } else {
                in.tokenized.ids = zmq_msg_data(&body);
                in.tokenized.n_ids = head.n_ids;
            }
            core_step(s->core, &in);
        }
        zmq_msg_close(&body);
    }
}
