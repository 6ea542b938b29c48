// SPDX-License-Identifier: Apache-2.0
// The log: one line a call on stderr, "time level process: text". The first function that detects
// a failure logs it; callers forward. Any thread may log.
#ifndef PHALANX_BASE_LOG_H
#define PHALANX_BASE_LOG_H

// In the order of the enum.
#define LOG_LEVEL_WORDS "error|warn|info|debug"

enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARN,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
    LOG_LEVEL_COUNT,
};

// Sets the name printed on each line ("coordinator", "rank 1") and the highest level shown.
// The name is copied. Called once at start; the only global state of the program.
void log_open(const char *process, enum log_level level);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
