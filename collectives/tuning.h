// SPDX-License-Identifier: Apache-2.0
// Which algorithm serves an all-reduce: a pure function of what all ranks have in common.
//
// A tuning file has one row a line, "host RANKS all_reduce KIND MAX_BYTES ALGORITHM", where RANKS
// is a number or *, KIND is private or symmetric, MAX_BYTES a number or inf, ALGORITHM one_shot or
// two_shot; # begins a comment. Rows for the group's size come first, then those with *; among them
// the first row whose MAX_BYTES is not below the size wins; without one, it is two_shot.
#ifndef PHALANX_COLLECTIVES_TUNING_H
#define PHALANX_COLLECTIVES_TUNING_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tuning_algorithm { TUNING_ONE_SHOT, TUNING_TWO_SHOT };

enum { TUNING_ROWS_MAX = 64, TUNING_FILE_BYTES_MAX = 64 * 1024 };

struct tuning_row {
    uint64_t max_bytes;
    uint32_t ranks; // 0: any
    bool symmetric;
    enum tuning_algorithm algorithm;
};

struct tuning {
    uint32_t n_rows;
    struct tuning_row row[TUNING_ROWS_MAX];
    bool built_in;
};

// `file` NULL: the built-in table.
enum status tuning_load(const char *file, struct tuning *out, struct error *err);
// Equal for equal tables.
uint64_t tuning_hash(const struct tuning *t);
enum tuning_algorithm tuning_pick(
    const struct tuning *t, uint32_t ranks, bool symmetric, size_t bytes);
const char *tuning_algorithm_name(enum tuning_algorithm a);

#endif
