// SPDX-License-Identifier: Apache-2.0
// check(x): always on, in every build, for bugs of ours only. Data from outside never reaches it:
// that gets a status and a sentence (base/status.h).
#ifndef PHALANX_BASE_CHECK_H
#define PHALANX_BASE_CHECK_H

// Prints the failed expression with a backtrace to stderr and aborts.
#ifdef __cplusplus
extern "C" [[noreturn]] void check_failed(const char *expression, const char *file, int line);
#else
_Noreturn void check_failed(const char *expression, const char *file, int line);
#endif

#define check(x) ((x) ? (void)0 : check_failed(#x, __FILE__, __LINE__))

// Number of elements of an array (not of a pointer).
#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))

#endif
