// SPDX-License-Identifier: Apache-2.0
// From a Hugging Face config.json to struct model_config. A family is a row of model/arch.def: its
// names, its defaults and which keys it understands; nothing else in the program knows families.
//
// A config that asks for arithmetic that we do not have is refused with a sentence that names the
// feature (model/arch_refused.def lists the keys), never computed wrongly. Every number is checked
// against its range.
#ifndef PHALANX_MODEL_ARCH_H
#define PHALANX_MODEL_ARCH_H

#include "model/model_config.h"
#include "model/text_file.h"

#include <stddef.h>

enum { ARCH_JSON_BYTES_MAX = 16 << 20 };

// What generation_config.json says of sampling; what it does not say is off. In the ranges of
// base/sampling_params.h.
struct generation_defaults {
    float temperature;        // 1 where not given
    float top_p;              // 1: off
    float min_p;              // 0: off
    float typical_p;          // 1: off
    float repetition_penalty; // 1: off
    int32_t top_k;            // 0: off
    uint32_t max_new_tokens;  // 0: not given
};

// Whether `model` is a file: the shape alone of a model of random weights, instead of a directory.
bool arch_is_shape(const char *model);
// The path of a model's config.json: in its directory, or the shape itself. False where the path is
// too long.
bool arch_config_path(char path[TEXT_FILE_PATH_BYTES], const char *model);

// Reads config.json and, if there is one, generation_config.json of a model directory; of a shape,
// the one file. The end ids of both files are united. rope_prepare() has yet to be called.
// `generation` may be NULL.
enum status arch_read(const char *dir, struct model_config *out,
    struct generation_defaults *generation, struct error *err);

// The same from texts; `generation_text` may be NULL.
enum status arch_parse(const char *config_text, size_t config_bytes, const char *generation_text,
    size_t generation_bytes, struct model_config *out, struct generation_defaults *generation,
    struct error *err);

struct arch_family {
    const char *name;         // "model_type" in config.json
    const char *architecture; // the class name in config.json's "architectures"
    const char *models;       // what people call them
};

// Calls `visit` for each family, in the order of the table.
void arch_each(void (*visit)(void *user, const struct arch_family *family), void *user);

#endif
