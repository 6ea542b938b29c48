// SPDX-License-Identifier: Apache-2.0
// phalanx devices: hands over to phalanx-devices beside this program, which knows the kernels.
#include "client/cmd.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int cmd_devices(int argc, char **argv)
{
    struct error err;
    char path[PATH_MAX + 32];
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        printf("usage: phalanx devices\n"
               "Lists the CPU's instruction set and the GPUs that serve --device cuda can use, or "
               "says\nwhy there are none.\n");
        return CMD_DONE;
    }
    if (argc > 1) {
        status_fail(&err, STATUS_INVALID, "\"%.64s\" is not understood, expected nothing", argv[1]);
        return cmd_fail("devices", &err);
    }
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
    path[n > 0 ? n : 0] = '\0';
    char *name = strrchr(path, '/');
    snprintf(name ? name + 1 : path, 32, "phalanx-devices");
    execl(path, path, (char *)NULL);
    status_fail(&err, STATUS_IO, "%.200s cannot be started: %s", path, strerror(errno));
    return cmd_fail("devices", &err);
}
