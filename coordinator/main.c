// SPDX-License-Identifier: Apache-2.0
// phalanx-coordinator: reads the settings, opens the sockets, and runs the one loop.
#include "coordinator/shell.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

enum { TICK_MS = 500, MESSAGES_PER_TURN = 256 };

// ---- the decoder that the core is given --------------------------------------------------------

_Static_assert(sizeof(struct tokenizer_stream) <= TEXT_DECODER_STATE_BYTES, "the state fits");

static void decoder_begin(const void *user, void *state, bool skip_special)
{
    tokenizer_stream_begin(user, state, skip_special, false);
}

static void decoder_push(const void *user, void *state, uint32_t id, struct buf *out)
{
    check(tokenizer_stream_push(user, state, id, out) == STATUS_OK);
}

static void decoder_finish(const void *user, void *state, struct buf *out)
{
    check(tokenizer_stream_finish(user, state, out) == STATUS_OK);
}

// ---- outputs of the core -----------------------------------------------------------------------

static void emit(void *user, const struct core_out *out)
{
    struct shell *s = user;
    switch (out->type) {
    case CORE_OUT_PLAN:
        shell_groups_send_plan(s, out);
        break;
    case CORE_OUT_TOKENIZE:
        shell_tokenize_send(s, out);
        break;
    case CORE_OUT_GROUP_BAD:
        shell_groups_bad(s, out->group_bad.group, out->group_bad.sentence);
        break;
    case CORE_OUT_DRAINED:
        s->drained = true;
        break;
    case CORE_OUT_JOURNAL:
    case CORE_OUT_CLOSED:
        break;
    default:
        shell_reply_emit(s, out);
        break;
    }
}

// ---- start -------------------------------------------------------------------------------------

static enum status make_core(struct shell *s, struct error *err)
{
    struct core_config config = {.emit = emit, .user = s};
    uint64_t random[3];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return status_fail(err, STATUS_IO, "no random numbers from the system");
    // Larger than that of any coordinator before it, as long as the wall clock goes forward.
    s->epoch = clock_wall_s() << 20 | (random[2] & 0xfffff);
    config.epoch = s->epoch;
    config.key = (struct hash_key){random[0], random[1]};
    return core_create(&config, &s->core, err);
}

static const char *last_component(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static enum status load_tokenizer(
    const struct settings *o, struct tokenizer **out, struct error *err)
{
    char own[TEXT_FILE_PATH_BYTES];
    const char *cache = o->tokenizer_cache;
    if (!cache)
        cache = tokenizer_cache_default_dir(own) ? own : NULL;
    else if (strcmp(cache, "off") == 0)
        cache = NULL;
    enum status status = tokenizer_load_cached(o->model, cache, out, err);
    return status == STATUS_NOT_FOUND ? STATUS_OK : status; // served with ids only
}

static enum status add_model(struct shell *s, struct error *err)
{
    static struct model_config config;
    struct shell_model *m = &s->model[0];
    const struct settings *o = &s->settings;
    TRY(arch_read(o->model, &config, NULL, err));
    snprintf(
        m->name, sizeof m->name, "%s", o->model_name ? o->model_name : last_component(o->model));
    m->vocab_size = config.vocab_size;
    m->context_tokens = o->max_model_len ? (uint32_t)o->max_model_len : config.max_position;
    m->degree = (uint32_t)o->tensor_parallel_degree;
    if (!o->skip_tokenizer && !arch_is_shape(o->model)) // of a shape there are only ids
        TRY(load_tokenizer(o, &m->tokenizer, err));
    if (m->tokenizer)
        TRY(template_set_load(o->model, &m->templates, err));
    m->decoder = (struct text_decoder){m->tokenizer, decoder_begin, decoder_push, decoder_finish};
    struct core_model model = {
        .vocab_size = m->vocab_size,
        .context_tokens = m->context_tokens,
        .n_end_ids = config.n_eos,
        .decoder = m->tokenizer ? &m->decoder : NULL,
        .max_num_seqs = (uint32_t)o->max_num_seqs,
        .max_num_batched_tokens = (uint32_t)o->max_num_batched_tokens,
        .plans_in_flight = (uint32_t)o->plans_in_flight,
        .waiting_requests_max = (uint32_t)o->max_waiting_requests,
        .guaranteed_no_evict = o->guaranteed_no_evict,
        .no_prefix_cache = o->no_prefix_cache,
    };
    memcpy(model.end_ids, config.eos_id, sizeof config.eos_id);
    s->n_models = 1;
    struct core_in in = {.type = CORE_IN_MODEL_ADD, .now_us = clock_now_us()};
    in.model_add.index = 0;
    in.model_add.model = &model;
    core_step(s->core, &in);
    return STATUS_OK;
}

static enum status start(struct shell *s, struct error *err)
{
    arena_init(&s->in, LIMIT_MESSAGE_UNPACK_BYTES);
    arena_init(&s->out, LIMIT_MESSAGE_UNPACK_BYTES);
    buf_init(&s->packed, LIMIT_MESSAGE_BYTES);
    buf_init(&s->answer, LIMIT_WORKER_MESSAGE_BYTES);
    s->n_tenants = 1; // number 0 is the unnamed tenant
    TRY(make_core(s, err));
    TRY(add_model(s, err));
    s->context = zmq_ctx_new();
    umask(077); // the sockets of ipc:// endpoints are for this user alone
    TRY(shell_tokenize_open(s, err));
    return shell_open(s, err);
}

// ---- the loop ----------------------------------------------------------------------------------

static long wait_ms(const struct shell *s, uint64_t now)
{
    uint64_t due = core_next_deadline(s->core);
    if (due <= now)
        return 0;
    uint64_t ms = (due - now + 999) / 1000;
    return ms < TICK_MS ? (long)ms : TICK_MS;
}

// Whether serve has died: then its ranks have too, and nobody starts them again. Clients whose
// connection ends go to the server that comes next, which is more than a drain could do for them.
static bool supervisor_is_gone(const struct shell *s)
{
    struct pollfd item = {.fd = (int)s->settings.supervisor_fd};
    return item.fd >= 0 && poll(&item, 1, 0) == 1 && (item.revents & POLLERR);
}

static void begin_stop(struct shell *s, uint64_t now)
{
    s->orphaned = supervisor_is_gone(s);
    log_info("draining");
    s->stop_us = s->ranks_us = now;
    struct core_in in = {.type = CORE_IN_DRAIN, .now_us = now};
    core_step(s->core, &in);
}

static void turn(struct shell *s, int signals)
{
    zmq_pollitem_t items[] = {{s->clients, 0, ZMQ_POLLIN, 0}, {s->workers, 0, ZMQ_POLLIN, 0},
        {s->tokenize, 0, ZMQ_POLLIN, 0}, {NULL, signals, ZMQ_POLLIN, 0},
        {s->zap, 0, ZMQ_POLLIN, 0}};
    zmq_poll(items, s->zap ? 5 : 4, wait_ms(s, clock_now_us()));
    struct signalfd_siginfo info;
    if (items[3].revents && read(signals, &info, sizeof info) == (ssize_t)sizeof info)
        s->stopping = true;
    for (int i = 0; i < MESSAGES_PER_TURN && shell_receive(s, s->workers, true); i++)
        ;
    for (int i = 0; i < MESSAGES_PER_TURN && shell_receive(s, s->clients, false); i++)
        ;
    uint64_t now = clock_now_us();
    shell_keys_answer(s);
    shell_tokenize_receive(s, now);
    shell_groups_tick(s, now);
    shell_reply_tick(s, now);
    if (s->stopping && s->stop_us == 0)
        begin_stop(s, now);
    struct core_in tick = {.type = CORE_IN_TICK, .now_us = clock_now_us()};
    core_step(s->core, &tick);
}

// A drain ends without having done its work when it takes too long, or when there is nobody to do
// it: ranks that died are started again meanwhile.
static bool drain_is_over(const struct shell *s, uint64_t now)
{
    return s->stop_us && (now >= s->stop_us + (uint64_t)s->settings.drain_timeout_ms * 1000 ||
                             now >= s->ranks_us + (uint64_t)s->settings.drain_alone_ms * 1000);
}

static void give_up(struct shell *s, uint64_t now)
{
    log_error("stopped before all requests were done, after %llu s",
        (unsigned long long)((now - s->stop_us) / 1000000));
    s->gave_up = true;
    shell_groups_give_up(s, "the server has stopped before this request was done", now);
}

static void run(struct shell *s)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    while (!s->drained && !s->orphaned && !drain_is_over(s, clock_now_us()))
        turn(s, signals);
    shell_groups_shutdown(s);
    if (!s->drained && !s->orphaned)
        give_up(s, clock_now_us());
    clock_sleep_us(100000); // the last messages leave; the sockets do not linger
    close(signals);
}

static void finish(struct shell *s)
{
    shell_close(s);
    core_destroy(s->core);
    for (uint32_t i = 0; i < s->n_models; i++) {
        tokenizer_free(s->model[i].tokenizer);
        template_set_free(s->model[i].templates);
    }
    arena_reset(&s->in);
    arena_reset(&s->out);
    buf_deinit(&s->packed);
    buf_deinit(&s->answer);
    free(s->key);
    free(s);
}

int main(int argc, char **argv)
{
    struct shell *s = calloc(1, sizeof *s);
    struct error err = {0};
    bool help = false;
    if (!s)
        return 1;
    enum status status =
        settings_parse(SETTINGS_COORDINATOR, argc, argv, &s->settings, NULL, &help, &err);
    if (help) {
        printf("usage: phalanx-coordinator --model DIR --endpoint E --worker-endpoint E [options]\n"
               "Takes requests, schedules them and dispatches steps to groups of ranks.\n\n");
        settings_help(SETTINGS_COORDINATOR, stdout);
    } else if (status == STATUS_OK &&
               (!s->settings.model || !s->settings.endpoint || !s->settings.worker_endpoint)) {
        status = status_fail(&err, STATUS_INVALID,
            "--model, --endpoint and --worker-endpoint are required, see --help");
    }
    if (help || status != STATUS_OK) {
        if (!help)
            fprintf(stderr, "phalanx-coordinator: %s\n", err.text);
        free(s);
        return help ? 0 : 2;
    }
    log_open("coordinator", (enum log_level)s->settings.log_level);
    // Blocked before any thread exists, so that the loop alone sees them.
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    status = start(s, &err);
    if (status == STATUS_OK)
        run(s);
    else
        fprintf(stderr, "phalanx-coordinator: %s\n", err.text);
    bool done = status == STATUS_OK && !s->gave_up;
    finish(s);
    return done ? 0 : 1;
}
