// SPDX-License-Identifier: Apache-2.0
// Which algorithm serves an all-reduce: a pure function of what all ranks have in common.
//
// A tuning file has one row a line, "ARCH RANKS all_reduce KIND MAX_BYTES ALGORITHM": ARCH is host
// or a device's name (sm80), RANKS a number or *, KIND private or symmetric, MAX_BYTES a number or
// inf, ALGORITHM one of tuning_algorithm_name; # begins a comment. Of the rows of the group's arch,
// those for its size count, and if there are none, those with *; among them the first row whose
// MAX_BYTES is not below the size wins; without one, it is two_shot. phalanx-coll-bench --tune
// writes a file.
#ifndef PHALANX_COLLECTIVES_TUNING_H
#define PHALANX_COLLECTIVES_TUNING_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tuning_algorithm {
    TUNING_ONE_SHOT,
    TUNING_TWO_SHOT,
    TUNING_LL,       // devices: flags in the data
    TUNING_MULTIMEM, // devices: sums in the switch, inexact
    TUNING_NATIVE,   // a library's own reduction, inexact; only with coll_args.native
    TUNING_ALGORITHMS
};

enum { TUNING_ROWS_MAX = 64, TUNING_FILE_BYTES_MAX = 64 * 1024, TUNING_ARCH_BYTES = 16 };

struct tuning_row {
    char arch[TUNING_ARCH_BYTES];
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
// Drops the rows that do not count for groups of this size on this arch.
void tuning_narrow(struct tuning *t, const char *arch, uint32_t ranks);
// Of a narrowed table.
enum tuning_algorithm tuning_pick(const struct tuning *t, bool symmetric, size_t bytes);
const char *tuning_algorithm_name(enum tuning_algorithm a);

#endif
