// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"error", "warn", "info", "debug"};
_Static_assert(sizeof level_names / sizeof level_names[0] == LOG_LEVEL_COUNT, "one name each");

static struct {
    enum log_level level;
    char process[32];
} log_state = {LOG_LEVEL_WARN, "phalanx"};

void log_open(const char *process, enum log_level level)
{
    log_state.level = level;
    snprintf(log_state.process, sizeof log_state.process, "%s", process);
}

void log_write(enum log_level level, const char *format, ...)
{
    if (level > log_state.level)
        return;
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    struct tm tm;
    gmtime_r(&ts.tv_sec, &tm);
    char line[1024];
    int n = snprintf(line, sizeof line, "%02d:%02d:%02d.%03ld %s %s: ", tm.tm_hour, tm.tm_min,
        tm.tm_sec, ts.tv_nsec / 1000000, level_names[level], log_state.process);
    size_t used = n > 0 ? (size_t)n : 0;
    va_list args;
    va_start(args, format);
    n = vsnprintf(line + used, sizeof line - used - 1, format, args);
    va_end(args);
    used += n > 0 ? (size_t)n : 0;
    if (used > sizeof line - 2)
        used = sizeof line - 2;
    line[used++] = '\n';
    // One write per line, so that lines of several processes never mix.
    if (write(STDERR_FILENO, line, used) < 0)
        return;
}
