// SPDX-License-Identifier: Apache-2.0
// A drain in which nobody can do the work: a coordinator without ranks, with a request accepted. It
// waits as long as ranks give signs, here those of ranks that load for ever, and then a while.
#include "tests/e2e/cluster.h"

#include "base/clock.h"
#include "proto/message.h"
#include "proto/worker.pb-c.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

enum { ALONE_MS = 1500, SIGN_MS = 50, SIGNS_MS = 2 * ALONE_MS, TRIES = 20 };

struct scene {
    char dir[40], workers[80];
    struct cluster clients; // only its endpoint is used
    struct command coordinator, request;
};

static void begin(struct scene *s)
{
    char alone[16];
    snprintf(s->dir, sizeof s->dir, "/tmp/phalanx-drain-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    snprintf(alone, sizeof alone, "%d", ALONE_MS);
    snprintf(s->workers, sizeof s->workers, "ipc://%s/workers.ipc", s->dir);
    snprintf(s->clients.endpoint, sizeof s->clients.endpoint, "ipc://%s/client.ipc", s->dir);
    command_spawn_shell(&s->coordinator, NULL,
        "exec \"${0%/*}/phalanx-coordinator\" --model \"$1\" --model-name golden --endpoint \"$2\" "
        "--worker-endpoint \"$3\" --drain-alone-ms \"$4\"",
        WORDS(test_path(test_source_dir(), "tests/golden/models/llama-mqa-f16"),
            s->clients.endpoint, s->workers, alone));
    while (access(s->clients.endpoint + 6, F_OK) != 0) // clients wait for 5 s, a sanitizer for more
        cluster_sleep_ms(5);
    command_spawn(&s->request, &s->clients, WORDS("generate", "--tokens", "1,5"));
    while (cluster_stat(&s->clients, "waiting") != 1)
        cluster_sleep_ms(5);
}

static void expect_given_up(struct scene *s)
{
    command_wait(&s->coordinator);
    assert_int_equal(s->coordinator.code, 1);
    assert_non_null(strstr(s->coordinator.err, "stopped before all requests were done"));
    command_free(&s->coordinator);
    command_wait(&s->request);
    assert_int_equal(s->request.code, 1);
    assert_non_null(strstr(s->request.err, "the server has stopped before this request was done"));
    command_free(&s->request);
    unlink(s->clients.endpoint + 6);
    unlink(s->workers + 6);
    assert_int_equal(rmdir(s->dir), 0);
}

static void test_nobody_comes(void **state)
{
    (void)state;
    static struct scene s;
    begin(&s);
    kill(s.coordinator.pid, SIGTERM);
    expect_given_up(&s);
}

// The sign that ranks give while they load.
static void send_sign(void *dealer)
{
    struct buf packed;
    buf_init(&packed, 4096);
    Phalanx__Worker__Progress progress = PHALANX__WORKER__PROGRESS__INIT;
    progress.model = (char *)(uintptr_t)CLUSTER_MODEL;
    progress.has_bytes_done = progress.has_bytes_total = 1;
    progress.bytes_done = 1;
    progress.bytes_total = 2;
    Phalanx__Worker__WorkerMessage m = PHALANX__WORKER__WORKER_MESSAGE__INIT;
    m.progress = &progress;
    message_pack(&m.base, &packed);
    assert_int_equal(zmq_send(dealer, "C", 1, ZMQ_SNDMORE), 1);
    assert_int_equal(zmq_send(dealer, packed.data, packed.size, 0), (int)packed.size);
    buf_deinit(&packed);
}

// Without taking its exit code, which command_wait wants.
static bool is_running(pid_t pid)
{
    siginfo_t info = {0};
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    return info.si_pid == 0;
}

// Twice as long as the coordinator would wait alone. False if this process was too slow to tell:
// then a sign may have come late.
static bool send_signs(const struct scene *s, void *dealer)
{
    uint64_t begin_us = clock_now_us(), last_us = begin_us, now;
    bool in_time = true;
    while ((now = clock_now_us()) < begin_us + SIGNS_MS * 1000 && is_running(s->coordinator.pid)) {
        in_time = in_time && now - last_us < ALONE_MS * 1000 / 2;
        last_us = now;
        send_sign(dealer);
        cluster_sleep_ms(SIGN_MS);
    }
    return in_time && clock_now_us() - last_us < ALONE_MS * 1000 / 2;
}

static void test_signs_keep_it(void **state)
{
    (void)state;
    static struct scene s;
    void *context = zmq_ctx_new();
    bool in_time = false;
    for (int i = 0; i < TRIES && !in_time; i++) {
        begin(&s);
        void *dealer = zmq_socket(context, ZMQ_DEALER);
        assert_int_equal(zmq_connect(dealer, s.workers), 0);
        send_sign(dealer);
        kill(s.coordinator.pid, SIGTERM);
        in_time = send_signs(&s, dealer);
        assert_true(!in_time || is_running(s.coordinator.pid));
        zmq_close(dealer);
        expect_given_up(&s);
    }
    zmq_ctx_term(context);
    assert_true(in_time);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_comes),
        cmocka_unit_test(test_signs_keep_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
