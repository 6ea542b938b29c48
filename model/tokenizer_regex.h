// SPDX-License-Identifier: Apache-2.0
// Regular expressions from Oniguruma's dialect (the one that tokenizer.json uses) to PCRE2's.
#ifndef PHALANX_MODEL_TOKENIZER_REGEX_H
#define PHALANX_MODEL_TOKENIZER_REGEX_H

#include "base/buf.h"
#include "base/status.h"

#include <stddef.h>

// Appends what PCRE2 is to compile (with PCRE2_UTF, PCRE2_UCP and PCRE2_MULTILINE) to `out`. What
// differs between the dialects: \s \w \d \h \b and their opposites, names of properties, \uHHHH,
// {n,m}+, {,n}, (?m), the reach of (?i), nested classes and && in classes. UNSUPPORTED for what has
// no counterpart; all other mistakes are left for PCRE2 to find. `where` names the pattern in
// sentences.
enum status tokenizer_regex_translate(
    const char *regex, size_t n, const char *where, struct buf *out, struct error *err);

#endif
