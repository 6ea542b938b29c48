// SPDX-License-Identifier: Apache-2.0
// CURVE with real processes: who has the right keys is served, everybody else gets a sentence and
// an exit code in bounded time, and the server goes on.
#include "tests/client/shell.h"
#include "tests/e2e/cluster.h"

#include "client/phalanx_client.h"
#include "proto/certificate.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

static char keys[48], strangers[64];
static char server_pub[96], client_key[96], strange_pub[96], strange_key[96], authorized[96];

static const char *model(void)
{
    return test_path(test_source_dir(), "tests/golden/models/llama-mqa-f16");
}

static const char *key(const char *name)
{
    return test_path(keys, name);
}

// Runs a command without a server; checks its code and that its sentence has `part`.
static void expect(int code, const char *part, const char *const *words)
{
    struct command m;
    cluster_run(NULL, &m, words);
    const char *text = code ? m.err : m.out;
    if (m.code != code || !strstr(text, part)) {
        for (int i = 0; words[i]; i++)
            print_error("%s ", words[i]);
        print_error(
            "\nended with %d, expected %d and \"%s\":\n%s%s", m.code, code, part, m.out, m.err);
    }
    assert_int_equal(m.code, code);
    assert_non_null(strstr(text, part));
    if (code) // one sentence
        assert_ptr_equal(strchr(m.err, '\n'), m.err + strlen(m.err) - 1);
    command_free(&m);
}

#define EXPECT(code, part, ...) expect(code, part, (const char *const[]){__VA_ARGS__, NULL})

static int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    close(fd);
    return ntohs(a.sin_port);
}

// An address of this machine that is not loopback; false if it has none.
static bool outer_address(char out[INET_ADDRSTRLEN])
{
    struct ifaddrs *list, *i;
    bool found = false;
    assert_int_equal(getifaddrs(&list), 0);
    for (i = list; i && !found; i = i->ifa_next)
        if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET && !(i->ifa_flags & IFF_LOOPBACK))
            found = inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr, out,
                        INET_ADDRSTRLEN) != NULL;
    freeifaddrs(list);
    return found;
}

static int mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static int make_keys(void **state)
{
    (void)state;
    if (!zmq_has("curve"))
        return 0;
    snprintf(keys, sizeof keys, "/tmp/phalanx-curve-XXXXXX");
    assert_non_null(mkdtemp(keys));
    snprintf(strangers, sizeof strangers, "%s/strangers", keys);
    snprintf(server_pub, sizeof server_pub, "%s/server.pub", keys);
    snprintf(client_key, sizeof client_key, "%s/client.key", keys);
    snprintf(authorized, sizeof authorized, "%s/authorized", keys);
    snprintf(strange_pub, sizeof strange_pub, "%s/server.pub", strangers);
    snprintf(strange_key, sizeof strange_key, "%s/client.key", strangers);
    EXPECT(0, "server.key", "keygen", keys);
    EXPECT(0, "boss.key", "keygen", keys, "--client", "boss", "--admin");
    EXPECT(0, "server.key", "keygen", strangers);
    return 0;
}

static int remove_keys(void **state)
{
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -r %s", keys);
    return keys[0] ? shell_run(command) : 0;
}

static bool skipped(void)
{
    if (!zmq_has("curve"))
        printf("skipped: this libzmq has no CURVE\n");
    return !zmq_has("curve");
}

static void test_keygen(void **state)
{
    (void)state;
    if (skipped())
        return;
    assert_int_equal(mode_of(key("server.key")), 0600);
    assert_int_equal(mode_of(client_key), 0600);
    assert_int_equal(mode_of(server_pub), 0644);
    EXPECT(1, "is there already", "keygen", keys);
    EXPECT(1, "is there already", "keygen", keys, "--client", "boss");
    EXPECT(2, "expected up to 64", "keygen", keys, "--client", "../x");
    EXPECT(2, "given twice", "keygen", keys, "--client", "twin", "--client", "twin");
    EXPECT(0, "twin.key", "keygen", keys, "--client", "twin");
    EXPECT(2, "expected 1 to", "keygen", "");
    EXPECT(2, "expected up to 64", "keygen", keys, "--client", "server");
    EXPECT(2, "expected one", "keygen");
    EXPECT(2, "unknown option", "keygen", keys, "--clients", "x");
}

static void test_serve_needs_keys(void **state)
{
    (void)state;
    if (skipped())
        return;
    const char *const out[] = {"tcp://0.0.0.0:9", "tcp://*:9", "tcp://[::]:9", "tcp://10.0.0.1:9",
        "tcp://127.0.0.1.example.org:9"};
    for (size_t i = 0; i < sizeof out / sizeof out[0]; i++)
        EXPECT(2, "expected --curve-server-key", "serve", "--model", model(), "--endpoint", out[i]);
    EXPECT(2, "together", "serve", "--model", model(), "--endpoint", "tcp://127.0.0.1:9",
        "--curve-authorized-clients", authorized);
    EXPECT(2, "together", "serve", "--model", model(), "--endpoint", "tcp://0.0.0.0:9",
        "--curve-server-key", key("server.key"));
    EXPECT(2, "no secret-key", "serve", "--model", model(), "--endpoint", "tcp://0.0.0.0:9",
        "--curve-server-key", server_pub, "--curve-authorized-clients", authorized);
    EXPECT(1, "no .pub file", "serve", "--model", model(), "--endpoint", "tcp://127.0.0.1:9",
        "--curve-server-key", key("server.key"), "--curve-authorized-clients", test_source_dir());
}

// What the library says to a client that shows these keys.
static enum status knock(const char *endpoint, const struct certificate *server,
    const struct certificate *own, struct error *err)
{
    struct phalanx_client *c;
    const Phalanx__Models *models;
    struct phalanx_client_options o = {.endpoint = endpoint};
    o.server_key = server ? server->public_key : NULL;
    o.public_key = own ? own->public_key : NULL;
    o.secret_key = own ? own->secret_key : NULL;
    enum status s = phalanx_client_open(&o, &c, err);
    if (s != STATUS_OK)
        return s;
    s = phalanx_client_models(c, 10000, &models, err);
    phalanx_client_close(c);
    return s;
}

static void check_good(const char *endpoint)
{
    EXPECT(0, "\"finish_reason\":\"length\"", "generate", "--endpoint", endpoint, "--tokens", "1,2",
        "--max-tokens", "3", "--ignore-eos", "--output", "jsonl", "--curve-server-public-key",
        server_pub, "--curve-key", client_key);
}

static void check_wrong_keys(const char *endpoint)
{
    EXPECT(3, "--curve-server-public-key", "models", "--endpoint", endpoint);
    EXPECT(3, "--curve-server-public-key", "generate", "--endpoint", endpoint, "--tokens", "1",
        "--model", "golden");
    check_good(endpoint);
    EXPECT(3, "does not know this client's key", "generate", "--endpoint", endpoint, "--tokens",
        "1", "--model", "golden", "--curve-server-public-key", server_pub, "--curve-key",
        strange_key);
    EXPECT(3, "does not know this client's key", "stop", "--endpoint", endpoint,
        "--curve-server-public-key", server_pub, "--curve-key", strange_key);
    check_good(endpoint);
    EXPECT(3, "ends every handshake", "models", "--endpoint", endpoint, "--curve-server-public-key",
        strange_pub, "--curve-key", client_key);
    check_good(endpoint);
    EXPECT(2, "--curve-key is missing", "models", "--endpoint", endpoint,
        "--curve-server-public-key", server_pub);
    EXPECT(2, "--curve-server-public-key is missing", "models", "--endpoint", endpoint,
        "--curve-key", client_key);
    EXPECT(2, "no secret-key", "models", "--endpoint", endpoint, "--curve-server-public-key",
        server_pub, "--curve-key", key("authorized/client.pub"));
    EXPECT(2, "expected a file or a public key", "models", "--endpoint", endpoint,
        "--curve-server-public-key", "tooshort", "--curve-key", client_key);
}

// The library, without the command line's checks.
static void check_library(const char *endpoint)
{
    struct certificate server, own, stranger;
    struct error err = {0};
    assert_int_equal(certificate_read("", server_pub, false, &server, &err), STATUS_OK);
    assert_int_equal(certificate_read("", client_key, true, &own, &err), STATUS_OK);
    assert_int_equal(certificate_read("", strange_key, true, &stranger, &err), STATUS_OK);
    assert_int_equal(knock(endpoint, &server, &own, &err), STATUS_OK);
    assert_int_equal(knock(endpoint, &server, &stranger, &err), STATUS_DENIED);
    assert_int_equal(knock(endpoint, &server, NULL, &err), STATUS_DENIED); // a fresh pair
    assert_int_equal(knock(endpoint, NULL, NULL, &err), STATUS_DENIED);
    assert_int_equal(knock(endpoint, &stranger, &own, &err), STATUS_DENIED);
    assert_int_equal(knock(endpoint, &server, &own, &err), STATUS_OK);
}

static void test_keys(void **state)
{
    (void)state;
    if (skipped())
        return;
    char endpoint[64], local[64], outer[64], address[INET_ADDRSTRLEN];
    int port = free_port();
    snprintf(endpoint, sizeof endpoint, "tcp://0.0.0.0:%d", port);
    snprintf(local, sizeof local, "tcp://127.0.0.1:%d", port);
    struct cluster c;
    cluster_start(&c, model(),
        (const char *const[]){"--endpoint", endpoint, "--curve-server-key", key("server.key"),
            "--curve-authorized-clients", authorized, NULL});
    check_good(local);
    check_wrong_keys(local);
    check_library(local);
    check_good(local);
    if (outer_address(address)) {
        snprintf(outer, sizeof outer, "tcp://%s:%d", address, port);
        check_good(outer);
        EXPECT(3, "may not stop", "stop", "--endpoint", outer, "--curve-server-public-key",
            server_pub, "--curve-key", client_key);
        check_good(outer);
        EXPECT(0, "", "stop", "--endpoint", outer, "--curve-server-public-key", server_pub,
            "--curve-key", key("boss.key"));
    } else {
        EXPECT(0, "", "stop", "--endpoint", local, "--curve-server-public-key", server_pub,
            "--curve-key", client_key);
    }
    assert_int_equal(cluster_wait(&c), 0);
    command_free(&c.serve);
}

// Requests belong to the key that made them: the same id under another key is another request.
static void test_keys_separate_requests(void **state)
{
    (void)state;
    if (skipped())
        return;
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%d", free_port());
    struct cluster c;
    cluster_start(&c, model(),
        (const char *const[]){"--endpoint", endpoint, "--curve-server-key", key("server.key"),
            "--curve-authorized-clients", authorized, NULL});
    struct certificate server, own[2];
    struct error err = {0};
    uint8_t id[16] = "the same 16 byte";
    uint32_t prompt[2] = {1, 2};
    assert_int_equal(certificate_read("", server_pub, false, &server, &err), STATUS_OK);
    assert_int_equal(certificate_read("", client_key, true, &own[0], &err), STATUS_OK);
    assert_int_equal(certificate_read("", key("boss.key"), true, &own[1], &err), STATUS_OK);
    for (int i = 0; i < 2; i++) {
        struct phalanx_client_options o = {.endpoint = endpoint,
            .server_key = server.public_key,
            .public_key = own[i].public_key,
            .secret_key = own[i].secret_key};
        struct phalanx_client *client;
        struct phalanx_event e;
        uint64_t request;
        Phalanx__Submit m = PHALANX__SUBMIT__INIT;
        m.has_request_id = 1;
        m.request_id = (ProtobufCBinaryData){sizeof id, id};
        m.model = (char *)(uintptr_t)CLUSTER_MODEL;
        prompt[1] += (uint32_t)i; // another body: CONFLICT if it were the same request
        m.prompt_ids = prompt;
        m.n_prompt_ids = 2;
        m.tenant = (char *)(uintptr_t) "client"; // the key counts, not what is said
        assert_int_equal(phalanx_client_open(&o, &client, &err), STATUS_OK);
        assert_int_equal(phalanx_client_submit(client, &m, &request, &err), STATUS_OK);
        assert_int_equal(phalanx_client_next(client, 10000, &e, &err), STATUS_OK);
        assert_int_equal(e.kind, PHALANX_EVENT_ACCEPTED);
        phalanx_client_close(client);
    }
    cluster_stop(&c);
}

// Keys for a server that has none.
static void test_server_without_curve(void **state)
{
    (void)state;
    if (skipped())
        return;
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%d", free_port());
    struct cluster c;
    cluster_start(&c, model(), (const char *const[]){"--endpoint", endpoint, NULL});
    EXPECT(3, "CURVE", "models", "--endpoint", endpoint, "--curve-server-public-key", server_pub,
        "--curve-key", client_key);
    EXPECT(0, "ready", "models", "--endpoint", endpoint);
    cluster_stop(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keygen),
        cmocka_unit_test(test_serve_needs_keys),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_keys_separate_requests),
        cmocka_unit_test(test_server_without_curve),
    };
    return cmocka_run_group_tests(tests, make_keys, remove_keys);
}
