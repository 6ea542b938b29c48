// SPDX-License-Identifier: Apache-2.0
#include "coordinator/shell.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <zmq.h>

#define TOKENIZE_ENDPOINT "inproc://tokenize"

// Both directions: a header, then text or ids.
struct tokenize_job {
    uint64_t request;
    uint32_t model;
    bool add_special, parse_special;
    // Of a conversation; sizes of what follows: messages, tools, kwargs, the template's name.
    bool chat, has_tools, has_kwargs, add_generation_prompt, continue_final_message;
    size_t n_messages, n_tools, n_kwargs, n_name;
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

static enum status encode_text(const struct shell_model *m, const struct tokenize_job *job,
    const struct tokenizer_marked *text, struct tokenizer_ids *ids, struct error *err)
{
    unsigned flags = (job->add_special ? (unsigned)TOKENIZER_ADD_SPECIAL : 0) |
                     (job->parse_special ? (unsigned)TOKENIZER_PARSE_SPECIAL : 0);
    return tokenizer_encode_marked(m->tokenizer, text, flags, ids, err);
}

// The template's own text is always parsed for special tokens, what clients wrote only if asked.
static enum status encode_chat(const struct shell_model *m, const struct tokenize_job *job,
    const char *text, struct tokenizer_ids *ids, struct error *err)
{
    char name[LIMIT_TEMPLATE_NAME_BYTES + 1] = "";
    const char *tools = text + job->n_messages, *kwargs = tools + job->n_tools;
    memcpy(name, kwargs + job->n_kwargs, job->n_name);
    struct template_chat chat = {.messages = text,
        .n_messages = job->n_messages,
        .tools = job->has_tools ? tools : NULL,
        .n_tools = job->n_tools,
        .kwargs = job->has_kwargs ? kwargs : NULL,
        .n_kwargs = job->n_kwargs,
        .name = name,
        .add_generation_prompt = job->add_generation_prompt,
        .continue_final_message = job->continue_final_message,
        .now_s = (int64_t)clock_wall_s()};
    struct template_text_spans made;
    struct tokenize_job as_text = {.add_special = job->add_special, .parse_special = true};
    template_text_spans_init(&made);
    enum status st = template_render(m->templates, &chat, &made, err);
    if (st == STATUS_OK)
        st = encode_text(m, &as_text,
            &(struct tokenizer_marked){.data = made.text.data,
                .n = made.text.size,
                .plain = made.spans,
                .n_plain = job->parse_special ? 0 : made.n_spans},
            ids, err);
    log_debug("chat: %zu bytes, %llu steps", made.text.size, (unsigned long long)made.steps);
    template_text_spans_deinit(&made);
    return st;
}

static void encode(
    struct shell *s, void *socket, const struct tokenize_job *job, const void *text, size_t n)
{
    struct error err = {0};
    struct tokenizer_ids ids;
    const struct shell_model *m = &s->model[job->model];
    tokenizer_ids_init(&ids, LIMIT_CONTEXT_TOKENS);
    enum status status =
        job->chat
            ? encode_chat(m, job, text, &ids, &err)
            : encode_text(m, job, &(struct tokenizer_marked){.data = text, .n = n}, &ids, &err);
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

// All of a conversation behind one another; false without memory.
static bool pack_chat(const struct request *r, struct tokenize_job *job, zmq_msg_t *to)
{
    const struct request_chat *c = &r->chat;
    job->chat = true;
    job->has_tools = c->tools.data != NULL;
    job->has_kwargs = c->kwargs.data != NULL;
    job->add_generation_prompt = r->add_generation_prompt;
    job->continue_final_message = r->continue_final_message;
    job->n_messages = c->messages.size;
    job->n_tools = c->tools.size;
    job->n_kwargs = c->kwargs.size;
    job->n_name = strlen(c->template_name);
    if (zmq_msg_init_size(to, job->n_messages + job->n_tools + job->n_kwargs + job->n_name) != 0)
        return false;
    char *p = zmq_msg_data(to);
    memcpy(p, c->messages.data, job->n_messages);
    p += job->n_messages;
    if (job->n_tools)
        memcpy(p, c->tools.data, job->n_tools);
    p += job->n_tools;
    if (job->n_kwargs)
        memcpy(p, c->kwargs.data, job->n_kwargs);
    memcpy(p + job->n_kwargs, c->template_name, job->n_name);
    return true;
}

static bool pack_text(const struct core_out *out, zmq_msg_t *to)
{
    if (zmq_msg_init_size(to, out->tokenize.n) != 0)
        return false;
    if (out->tokenize.n)
        memcpy(zmq_msg_data(to), out->tokenize.text, out->tokenize.n);
    return true;
}

void shell_tokenize_send(struct shell *s, const struct core_out *out)
{
    struct tokenize_job job = {
        .request = out->request,
        .model = out->model,
        .add_special = out->tokenize.add_special,
        .parse_special = out->tokenize.parse_special,
    };
    zmq_msg_t body;
    bool packed =
        out->tokenize.chat ? pack_chat(out->tokenize.chat, &job, &body) : pack_text(out, &body);
    if (packed && zmq_send(s->tokenize, &job, sizeof job, ZMQ_SNDMORE) >= 0 &&
        zmq_msg_send(&body, s->tokenize, 0) >= 0)
        return;
    log_error("tokenizing thread: %s", zmq_strerror(errno));
    if (packed)
        zmq_msg_close(&body);
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
