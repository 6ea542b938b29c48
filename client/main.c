// SPDX-License-Identifier: Apache-2.0
// phalanx: the command line. Finds the command and hands over.
#include "client/cmd.h"

#include "base/check.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
};

static const struct command commands[] = {
    {"serve", cmd_serve, "Serve a model until SIGTERM."},
    {"generate", cmd_generate, "Continue a prompt."},
    {"chat", cmd_chat, "Talk with a model that has a chat template."},
    {"score", cmd_score, "Print the log-probability of each token of a prompt."},
    {"models", cmd_models, "List what a server serves."},
    {"stop", cmd_stop, "Drain and stop a server."},
    {"devices", cmd_devices, "List what a server can compute on, here."},
    {"keygen", cmd_keygen, "Make keys for a server that other machines reach, and its clients."},
};

static void usage(FILE *to)
{
    fprintf(to, "usage: phalanx COMMAND [options], phalanx COMMAND --help\n\n");
    for (size_t i = 0; i < COUNT_OF(commands); i++)
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].help);
    fprintf(to, "\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by the server.\n");
}

int cmd_fail(const char *name, const struct error *err)
{
    fprintf(stderr, "phalanx %s: %s\n", name, err->text);
    return err->status == STATUS_INVALID  ? CMD_USAGE
           : err->status == STATUS_DENIED ? CMD_REFUSED
                                          : CMD_FAILED;
}

void cmd_help_end(void)
{
    printf("\nA flag that is on is switched off by =false. Options can also come from the\n"
           "environment: PHALANX_ENDPOINT for --endpoint, and so on.\n"
           "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by the server.\n");
}

void cmd_print_json(json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9));
    if (text) {
        puts(text);
        fflush(stdout);
    }
    free(text);
    json_decref(object);
}

// What is printed is the result: a full disk or a closed file is a failure. Only `serve` has more
// to do than that.
static int finish(int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    fprintf(stderr, "phalanx: standard output cannot be written\n");
    return code == CMD_DONE ? CMD_FAILED : code;
}

// Where standard streams are closed, the next sockets would get their numbers, and what is printed
// would go there. Held like this, they can be neither read nor written, as if closed; also by the
// programs that are started from here.
static void hold_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

int main(int argc, char **argv)
{
    hold_streams();
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
                         strcmp(argv[1], "help") == 0)) {
        usage(stdout);
        return CMD_DONE;
    }
    if (argc >= 2 && strcmp(argv[1], "--version") == 0) {
        printf("phalanx %s\n", PHALANX_VERSION);
        return CMD_DONE;
    }
    for (size_t i = 0; argc >= 2 && i < COUNT_OF(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run == cmd_serve ? cmd_serve(argc - 1, argv + 1)
                                                : finish(commands[i].run(argc - 1, argv + 1));
    if (argc >= 2)
        fprintf(stderr, "phalanx: unknown command \"%.64s\"\n\n", argv[1]);
    usage(stderr);
    return CMD_USAGE;
}
