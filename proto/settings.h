// SPDX-License-Identifier: Apache-2.0
// The settings of a server as a struct, and what its three programs do with the one table of them
// (proto/settings.def): read their own, and, in `phalanx serve`, pass them on to the two programs
// that it starts.
#ifndef PHALANX_PROTO_SETTINGS_H
#define PHALANX_PROTO_SETTINGS_H

#include "base/buf.h"
#include "base/config.h"

enum settings_program {
    SETTINGS_SERVE = 1,
    SETTINGS_COORDINATOR = 2,
    SETTINGS_WORKER = 4,
};

#define SETTINGS_DTYPES "auto|f32|f16|bf16"

enum { SETTINGS_WORD_BYTES = 16 }; // of the longest word of a choice

// Texts are borrowed from argv or the environment; NULL where none is given.
struct settings {
#define TEXT(field, programs, value_name, help) const char *field;
#define INT(field, programs, value, min, max, help) int64_t field;
#define BYTES(field, programs, value, help) uint64_t field;
#define CHOICE(field, programs, value, words, help) int field;
#define FLAG(field, programs, help) bool field;
#include "proto/settings.def"
#undef TEXT
#undef INT
#undef BYTES
#undef CHOICE
#undef FLAG
};

// Reads what `program` takes into the zeroed `out`, as config_parse does, and checks what a range
// alone cannot say. The other fields stay zero.
enum status settings_parse(enum settings_program program, int argc, char *const *argv,
    struct settings *out, struct config_list *words, bool *help, struct error *err);

// The options of `program` as --help shows them.
void settings_help(enum settings_program program, FILE *to);

// Calls `add` with --NAME=VALUE for each setting that `program` takes and `s` has a value for, also
// those at their default, so that the environment of the program decides nothing.
void settings_pass(enum settings_program program, const struct settings *s,
    void (*add)(void *user, const char *word), void *user);

// What a choice is called: the word of the setting `field` ("kv_cache_dtype").
void settings_word(const struct settings *s, const char *field, char out[SETTINGS_WORD_BYTES]);

#endif
