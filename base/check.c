// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"

#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

_Noreturn void check_failed(const char *expression, const char *file, int line)
{
    fprintf(stderr, "phalanx: check failed: %s (%s:%d), a bug in Phalanx; process %d\n", expression,
        file, line, (int)getpid());
    void *frames[32];
    int n = backtrace(frames, 32);
    backtrace_symbols_fd(frames, n, STDERR_FILENO);
    abort();
}
