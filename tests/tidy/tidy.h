// SPDX-License-Identifier: Apache-2.0
// What a program can check of the house's rules. A rule looks at one source file, or at the symbols
// of all object files, and reports what it finds; exceptions.def names what is excused, and why.
#ifndef PHALANX_TESTS_TIDY_TIDY_H
#define PHALANX_TESTS_TIDY_TIDY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum rule {
#define RULE(NAME, name, text) RULE_##NAME,
#include "tests/tidy/rules.def"
#undef RULE
    RULE_COUNT
};

struct exception {
    enum rule rule;
    const char *path, *word, *reason;
};

enum { EXCEPTIONS_MAX = 256 };

// One run. `out` may be NULL: the findings are then only counted.
struct tidy {
    FILE *out;
    const struct exception *exceptions;
    size_t n_exceptions;
    bool excused[EXCEPTIONS_MAX]; // which of them were needed
    unsigned found[RULE_COUNT];
};

// Starts a run with the exceptions of exceptions.def.
void tidy_begin(struct tidy *t, FILE *out);
// Whether an exception names this; it is then needed.
bool tidy_excused(struct tidy *t, enum rule rule, const char *path, const char *word);
// Counts and prints one finding, unless it is excused. `word` is what exceptions name.
void tidy_report(struct tidy *t, enum rule rule, const char *path, unsigned line, const char *word);
// Reports the exceptions to rules from `first` to `last` that excused nothing.
void tidy_stale(struct tidy *t, enum rule first, enum rule last);
unsigned tidy_total(const struct tidy *t);

// A file as the rules see it. `path` is relative to the repository's root. `code` has the same
// length and lines as `text`, with comments and the insides of strings blanked.
struct source {
    const char *path;
    char *text, *code;
    size_t size;
};

// Copies `text`. Nothing here fails but for want of memory, which ends the program.
struct source source_make(const char *path, const char *text, size_t size);
void source_free(struct source *s);
bool source_is_c(const char *path);    // .c .h .inc .def
bool source_is_text(const char *path); // also scripts, build files and .proto
bool path_begins(const char *path, const char *prefix);
bool path_ends(const char *path, const char *suffix);

// All rules that look at one file.
void text_rules(struct tidy *t, const struct source *s);
void code_rules(struct tidy *t, const struct source *s);
void include_rules(struct tidy *t, const struct source *s);

// What `objdump -t` prints for all object files, which is cut into words in place.
void symbol_rules(struct tidy *t, char *table);
// Whether a path of `objects` (one a line) was made from this source.
bool symbols_built(const char *objects, const char *path);

#endif
