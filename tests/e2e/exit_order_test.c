// SPDX-License-Identifier: Apache-2.0
// A group that cannot start: mpirun ends all its ranks with the first one that fails, and what rank
// 0 has to tell the coordinator must come through although the coordinator is slow to take it.
#include "tests/e2e/cluster.h"

#include "base/arena.h"
#include "proto/limits.h"
#include "proto/message.h"
#include "proto/worker.pb-c.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

enum { WAIT_MS = 20000, LATE_MS = 400 };

static void spawn(struct command *m, const char *n, const char *endpoint)
{
    command_spawn_shell(m, NULL,
        "root=; [ \"$(id -u)\" -ne 0 ] || root=--allow-run-as-root\n"
        "exec mpirun -q $root --oversubscribe --bind-to none --mca plm isolated "
        "--mca btl self,vader --mca odls_base_sigkill_timeout 0 -np \"$1\" "
        "\"${0%/*}/phalanx-worker\" --model=/nowhere/model --model-name=m --coordinator=\"$2\" "
        "2>&1",
        (const char *const[]){n, endpoint, NULL});
}

// Until rank 0 has said what is wrong; now it wants to tell the coordinator.
static void await_sentence(const struct command *m)
{
    for (int i = 0; i < WAIT_MS / 5; i++) {
        char *out = command_peek(m);
        bool said = strstr(out, "/nowhere/model") != NULL;
        free(out);
        if (said)
            return;
        cluster_sleep_ms(5);
    }
    fail_msg("the ranks say nothing");
}

// Takes frames until one of them is the message that the group has failed.
static void expect_failed(void *router)
{
    int timeout_ms = WAIT_MS;
    struct arena arena;
    arena_init(&arena, LIMIT_MESSAGE_UNPACK_BYTES);
    assert_int_equal(zmq_setsockopt(router, ZMQ_RCVTIMEO, &timeout_ms, sizeof timeout_ms), 0);
    for (bool failed = false; !failed;) {
        zmq_msg_t part;
        ProtobufCMessage *base;
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, router, 0) < 0)
            fail_msg("rank 0 ended before it could tell the coordinator");
        if (!zmq_msg_more(&part) &&
            message_unpack(&phalanx__worker__worker_message__descriptor, zmq_msg_data(&part),
                zmq_msg_size(&part), &arena, &base, NULL) == STATUS_OK) {
            const Phalanx__Worker__WorkerMessage *w = (const void *)base;
            failed = w->failed && w->failed->reason;
            if (failed)
                assert_non_null(strstr(w->failed->reason, "/nowhere/model"));
        }
        zmq_msg_close(&part);
    }
    arena_reset(&arena);
}

static void check_group(const char *n)
{
    char endpoint[64];
    struct command m;
    void *context = zmq_ctx_new(), *router = zmq_socket(context, ZMQ_ROUTER);
    snprintf(endpoint, sizeof endpoint, "ipc:///tmp/phalanx-order-%d.ipc", (int)getpid());
    spawn(&m, n, endpoint);
    await_sentence(&m);
    cluster_sleep_ms(LATE_MS);
    assert_int_equal(zmq_bind(router, endpoint), 0);
    expect_failed(router);
    command_wait(&m);
    assert_int_equal(m.code, 3); // starting it again would fail again
    command_free(&m);
    zmq_close(router);
    zmq_ctx_term(context);
    unlink(endpoint + 6);
}

static void test_reason_comes_through(void **state)
{
    (void)state;
    check_group("2");
    check_group("4");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reason_comes_through)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
