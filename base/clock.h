// SPDX-License-Identifier: Apache-2.0
// Time. Every timeout is monotonic. The coordinator's core never calls these: it is given the time.
#ifndef PHALANX_BASE_CLOCK_H
#define PHALANX_BASE_CLOCK_H

#include <stdint.h>

// Microseconds since some fixed moment, never going back (CLOCK_MONOTONIC).
uint64_t clock_now_us(void);
// Seconds since 1970-01-01 UTC, for texts that people read.
uint64_t clock_wall_s(void);
void clock_sleep_us(uint64_t us);

#endif
