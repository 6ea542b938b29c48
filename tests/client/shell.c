// SPDX-License-Identifier: Apache-2.0
#include "tests/client/shell.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

int shell_run(const char *command)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)0);
        _exit(127);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
