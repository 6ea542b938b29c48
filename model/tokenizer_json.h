// SPDX-License-Identifier: Apache-2.0
// Reading fields of tokenizer.json with sentences that name the place. Texts are borrowed from
// the document.
#ifndef PHALANX_MODEL_TOKENIZER_JSON_H
#define PHALANX_MODEL_TOKENIZER_JSON_H

#include "model/tokenizer_internal.h"

#include <jansson.h>

// Parses a whole document within the limits on size and number of values; *out is owned. `flags`
// are jansson's.
enum status tokenizer_json_parse(
    const char *name, const void *text, size_t n, size_t flags, json_t **out, struct error *err);

// jansson takes no U+0000 in keys, but a vocabulary may have it: this makes a copy of the document
// in which keys have U+FDD0 (which is no character) instead. *copy stays NULL where no key has
// U+0000; otherwise the caller frees it. UNSUPPORTED for a document that has both.
#define TOKENIZER_JSON_NUL "\xef\xb7\x90"
enum status tokenizer_json_hide_nul(const void *text, size_t n, char **copy, struct error *err);

// A required text. `where` names the object in sentences.
enum status tokenizer_json_text(const json_t *object, const char *field, const char *where,
    struct tokenizer_bytes *out, struct error *err);
// An optional boolean; null counts as absent.
enum status tokenizer_json_bool(const json_t *object, const char *field, const char *where,
    bool absent, bool *out, struct error *err);
// An optional count between 0 and `max`.
enum status tokenizer_json_count(const json_t *object, const char *field, const char *where,
    size_t max, size_t *out, struct error *err);
// A required text of exactly one character.
enum status tokenizer_json_char(const json_t *object, const char *field, const char *where,
    struct tokenizer_bytes *out, struct error *err);
// The "type" of an object; NULL (and a sentence) if it is not an object with one.
const char *tokenizer_json_type(const json_t *object, const char *where, struct error *err);
// {"String": "..."} or {"Regex": "..."} in field "pattern". The literal is kept in the arena of
// `t`, the compiled expression is owned by *out.
enum status tokenizer_json_pattern(struct tokenizer *t, const json_t *object, const char *where,
    struct tokenizer_pattern *out, struct error *err);
// Copies bytes into the arena of `t`.
enum status tokenizer_json_keep(
    struct tokenizer *t, struct tokenizer_bytes *bytes, struct error *err);

#endif
