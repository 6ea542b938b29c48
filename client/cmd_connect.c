// SPDX-License-Identifier: Apache-2.0
// How the commands find a server and show their keys.
#include "client/cmd.h"

#include "proto/certificate.h"

#include <string.h>

enum status cmd_connect(const struct cmd_connection *connection, uint32_t timeout_ms,
    uint32_t patience_ms, struct phalanx_client **out, struct error *err)
{
    struct certificate own = {0};
    char server_key[CERTIFICATE_KEY_CHARS + 1];
    struct phalanx_client_options options = {.endpoint = connection->endpoint,
        .connect_timeout_ms = timeout_ms,
        .patience_ms = patience_ms};
    if (connection->server_public_key) {
        TRY(certificate_available(err));
        TRY(certificate_public_key(
            "--curve-server-public-key", connection->server_public_key, server_key, err));
        if (!connection->key)
            return status_fail(err, STATUS_INVALID,
                "--curve-key is missing, expected the file with this client's own key pair "
                "(phalanx keygen)");
        TRY(certificate_read("--curve-key", connection->key, true, &own, err));
        options.server_key = server_key;
        options.public_key = own.public_key;
        options.secret_key = own.secret_key;
    } else if (connection->key) {
        return status_fail(err, STATUS_INVALID,
            "--curve-server-public-key is missing, expected the server's public key or a file "
            "with it");
    }
    enum status s = phalanx_client_open(&options, out, err);
    explicit_bzero(&own, sizeof own);
    return s;
}
