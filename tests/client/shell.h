// SPDX-License-Identifier: Apache-2.0
// Commands that the tests need around themselves.
#ifndef PHALANX_TESTS_CLIENT_SHELL_H
#define PHALANX_TESTS_CLIENT_SHELL_H

// Runs `command` with /bin/sh; returns its exit code, -1 if it has none.
int shell_run(const char *command);

#endif
