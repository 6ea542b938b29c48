// SPDX-License-Identifier: Apache-2.0
// What a text is split by or searched for: a regular expression, a literal, or a class of
// characters. tokenizer.json writes regular expressions in Oniguruma's dialect; they are
// translated to PCRE2's.
#ifndef PHALANX_MODEL_TOKENIZER_PATTERN_H
#define PHALANX_MODEL_TOKENIZER_PATTERN_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct tokenizer_pattern {
    pcre2_code *code;              // owned; a regular expression, or NULL
    bool (*is_member)(uint32_t c); // a class of characters, or NULL
    const uint8_t *literal;        // borrowed; otherwise
    size_t n_literal;
};

// Scratch memory of the regular expressions; one thread, one call. Zeroed before the first use.
struct tokenizer_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

// `where` names the pattern in sentences. UNSUPPORTED for what PCRE2 has no words for.
enum status tokenizer_pattern_regex(
    struct tokenizer_pattern *p, const char *regex, size_t n, const char *where, struct error *err);
void tokenizer_pattern_deinit(struct tokenizer_pattern *p);
void tokenizer_pattern_matcher_deinit(struct tokenizer_matcher *m);

// Walks over the matches in valid UTF-8 from left to right, as Oniguruma's find_iter does: an
// empty match right behind the previous match does not count.
struct tokenizer_scan {
    const struct tokenizer_pattern *pattern;
    struct tokenizer_matcher *matcher;
    const uint8_t *text;
    size_t n;
    size_t at;        // where the next search begins
    size_t last_end;  // of the last match; SIZE_MAX before the first
    size_t first_end; // set by replacing: the end of a match that began at 0, or 0
};

struct tokenizer_scan tokenizer_pattern_scan(
    const struct tokenizer_pattern *p, struct tokenizer_matcher *m, const uint8_t *text, size_t n);
// *found tells whether *start and *end are a match. INVALID when a regular expression needs more
// steps than its limit.
enum status tokenizer_pattern_next(
    struct tokenizer_scan *s, bool *found, size_t *start, size_t *end, struct error *err);

// Appends the text with each match replaced by `content`. TOO_LARGE when `out` is full, or as
// above.
enum status tokenizer_pattern_replace(struct tokenizer_scan *s, const uint8_t *content,
    size_t n_content, struct buf *out, struct error *err);

#endif
