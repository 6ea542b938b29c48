// SPDX-License-Identifier: Apache-2.0
// Typed, range-checked reading of a JSON object. The first mistake writes the sentence and sticks,
// so that a reader may take many keys and ask once. A key that is missing or null has the default.
// Every getter returns a value within the range, also after a mistake.
#ifndef PHALANX_MODEL_CONFIG_JSON_H
#define PHALANX_MODEL_CONFIG_JSON_H

#include "base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct config_json {
    const json_t *object;
    const char *where; // "config.json", for sentences
    struct error *err;
    enum status status;
};

// Parses a whole text that must be an object without duplicate keys; the caller json_decref()s.
enum status config_json_parse(
    const char *text, size_t bytes, const char *where, json_t **out, struct error *err);

// Writes the sentence unless there is one already. `format` begins with what is wrong.
void config_json_fail(struct config_json *c, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// NULL if missing or null.
const json_t *config_json_get(const struct config_json *c, const char *key);

uint32_t config_json_u32(
    struct config_json *c, const char *key, uint32_t missing, uint32_t min, uint32_t max);
// As above, but the key must be there.
uint32_t config_json_need_u32(struct config_json *c, const char *key, uint32_t min, uint32_t max);
double config_json_f64(
    struct config_json *c, const char *key, double missing, double min, double max);
double config_json_need_f64(struct config_json *c, const char *key, double min, double max);
bool config_json_bool(struct config_json *c, const char *key, bool missing);
// Borrowed from the object.
const char *config_json_text(struct config_json *c, const char *key, const char *missing);

#endif
