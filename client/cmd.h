// SPDX-License-Identifier: Apache-2.0
// The commands of `phalanx`. Each takes its own words (argv[0] is its name) and returns the exit
// code of the program.
#ifndef PHALANX_CLIENT_CMD_H
#define PHALANX_CLIENT_CMD_H

#include "base/status.h"
#include "client/phalanx_client.h"

#include <jansson.h>

enum cmd_exit {
    CMD_DONE = 0,
    CMD_FAILED = 1,
    CMD_USAGE = 2,
    CMD_REFUSED = 3, // by the server: busy, unknown model, bad parameter
};

enum cmd_output { CMD_TEXT, CMD_JSONL };

int cmd_generate(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_score(int argc, char **argv);
int cmd_models(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_keygen(int argc, char **argv);
int cmd_devices(int argc, char **argv);

// Prints "phalanx NAME: sentence" and returns the exit code that fits the status.
int cmd_fail(const char *name, const struct error *err);
// What --help of every client command ends with: exit codes, the environment.
void cmd_help_end(void);
// Prints one JSON object as a line and frees it.
void cmd_print_json(json_t *object);

// Where the server is, and the keys that it wants off this machine.
struct cmd_connection {
    const char *endpoint; // NULL: the user's default
    const char *server_public_key, *key;
};

// The options that fill a struct cmd_connection which is the member `connection` of `type`.
#define CMD_CONNECTION_ROWS(type)                                                                  \
    {"endpoint", CONFIG_TEXT, offsetof(struct type, connection.endpoint), NULL, 0, 0, NULL, "E",   \
        "Server, ipc://PATH or tcp://HOST:PORT; the user's default if not given."},                \
        {"curve-server-public-key", CONFIG_TEXT,                                                   \
            offsetof(struct type, connection.server_public_key), NULL, 0, 0, NULL, "FILE|KEY",     \
            "The server's public key, where it wants CURVE."},                                     \
    {                                                                                              \
        "curve-key", CONFIG_TEXT, offsetof(struct type, connection.key), NULL, 0, 0, NULL, "FILE", \
            "This client's own key pair, where the server wants CURVE."                            \
    }

// Connects, with the times of struct phalanx_client_options; the caller closes.
enum status cmd_connect(const struct cmd_connection *connection, uint32_t timeout_ms,
    uint32_t patience_ms, struct phalanx_client **out, struct error *err);

#endif
