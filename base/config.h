// SPDX-License-Identifier: Apache-2.0
// One table defines each setting once: name, type, default, range, help. The command line
// (--tensor-parallel-degree 2), the environment (PHALANX_TENSOR_PARALLEL_DEGREE) and a file are
// views of that table. The command line wins over the environment, that over the default.
#ifndef PHALANX_BASE_CONFIG_H
#define PHALANX_BASE_CONFIG_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum config_type {
    CONFIG_FLAG,  // bool; present or not, or --name=true|false
    CONFIG_INT,   // int64_t with min and max
    CONFIG_BYTES, // uint64_t; accepts suffixes K, M, G, T (powers of 1024), KiB, MiB, GiB
    CONFIG_FLOAT, // double with min and max, finite
    CONFIG_TEXT,  // const char *, borrowed from argv or the environment, or NULL
    CONFIG_ENUM,  // int: index into the words of `choices`, separated by '|'
    CONFIG_LIST,  // struct config_list: may be given several times
};

enum { CONFIG_LIST_MAX = 64, CONFIG_NAME_BYTES = 40 };
struct config_list {
    int count;
    const char *item[CONFIG_LIST_MAX]; // borrowed
};

struct config_row {
    const char *name; // without dashes, words joined by '-'
    enum config_type type;
    size_t offset;            // of the field in the caller's struct
    const char *default_text; // parsed like a given value; NULL leaves zero, NULL or empty
    double min, max;          // CONFIG_INT, CONFIG_FLOAT and CONFIG_BYTES; both 0: no range
    const char *choices;      // CONFIG_ENUM: "cpu|cuda"
    const char *value_name;   // shown in --help: "N", "DIR"
    const char *help;         // one sentence
};

// Fills `out` (the caller's zeroed struct) from defaults, environment and argv[1..argc-1].
// Words that are no options go to `positional` (may be NULL: then they are errors). Stops with
// STATUS_INVALID and a sentence at the first word it does not understand. `--help` and `-h` set
// *help and return at once.
enum status config_parse(const struct config_row *rows, size_t n_rows, int argc, char *const *argv,
    void *out, struct config_list *positional, bool *help, struct error *err);

// Sets one field from text, as config_parse does; for files.
enum status config_set(
    const struct config_row *row, const char *text, void *out, struct error *err);

// Appends the value that config_set would read back; false, and nothing is appended, where there is
// none: a text that is NULL, or a list.
bool config_print(const struct config_row *row, const void *values, struct buf *out);

// Gives rows that were named after fields the names of options: '-' for '_', kept in names[n_rows].
void config_spell(struct config_row *rows, size_t n_rows, char (*names)[CONFIG_NAME_BYTES]);

// Prints the options as --help shows them.
void config_help(const struct config_row *rows, size_t n_rows, FILE *to);

// The value of an environment variable, or NULL; the only way to read the environment.
const char *config_env(const char *name);

// Parses "8", "4k", "2GiB", ... into bytes; false if it is no such thing or too large.
bool config_bytes_parse(const char *text, uint64_t *out);

// Strict decimal integer over the whole text; false otherwise.
bool config_int_parse(const char *text, int64_t *out);

#endif
