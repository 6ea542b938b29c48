// SPDX-License-Identifier: Apache-2.0
#include "proto/endpoint.h"

#include "base/config.h"

#include <arpa/inet.h>
#include <stdint.h>
#include <string.h>

enum { IPC_PATH_BYTES_MAX = 100, PORT_MAX = 65535 };

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

bool endpoint_is_local(const char *endpoint)
{
    if (begins(endpoint, "ipc://") || begins(endpoint, "tcp://[::1]:") ||
        begins(endpoint, "tcp://localhost:"))
        return true;
    // A number, not a name that only begins like one.
    char host[INET_ADDRSTRLEN] = "";
    const char *colon = strrchr(endpoint, ':');
    size_t n = begins(endpoint, "tcp://127.") && colon > endpoint + 6
                   ? (size_t)(colon - endpoint - 6)
                   : sizeof host;
    struct in_addr address;
    if (n >= sizeof host)
        return false;
    memcpy(host, endpoint + 6, n);
    return inet_pton(AF_INET, host, &address) == 1;
}

static bool form_is_right(const char *endpoint)
{
    if (begins(endpoint, "ipc:///")) {
        size_t n = strlen(endpoint + 6);
        return n > 1 && n <= IPC_PATH_BYTES_MAX && endpoint[6 + n - 1] != '/';
    }
    const char *colon = strrchr(endpoint, ':');
    int64_t port;
    return begins(endpoint, "tcp://") && colon > endpoint + 6 &&
           strlen(endpoint) <= ENDPOINT_BYTES_MAX && config_int_parse(colon + 1, &port) &&
           port >= 1 && port <= PORT_MAX;
}

enum status endpoint_check(const char *endpoint, bool has_keys, struct error *err)
{
    if (!form_is_right(endpoint))
        return status_fail(err, STATUS_INVALID,
            "endpoint \"%.200s\" is not understood, expected tcp://ADDRESS:PORT or ipc:// with an "
            "absolute path of at most %d bytes",
            endpoint, IPC_PATH_BYTES_MAX);
    if (!endpoint_is_local(endpoint) && !has_keys)
        return status_fail(err, STATUS_INVALID,
            "endpoint \"%.200s\" can be reached from other machines, expected --curve-server-key "
            "and --curve-authorized-clients (phalanx keygen makes them), or ipc:// or "
            "tcp://127.0.0.1:PORT",
            endpoint);
    return STATUS_OK;
}
