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
int cmd_score(int argc, char **argv);
int cmd_models(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_serve(int argc, char **argv);

// Prints "phalanx NAME: sentence" and returns the exit code that fits the status.
int cmd_fail(const char *name, const struct error *err);
// Prints one JSON object as a line and frees it.
void cmd_print_json(json_t *object);
// Connects; the caller closes.
enum status cmd_connect(
    const char *endpoint, uint32_t timeout_ms, struct phalanx_client **out, struct error *err);

#endif
