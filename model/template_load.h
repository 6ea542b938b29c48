// SPDX-License-Identifier: Apache-2.0
// The templates of a model directory; see template_set_load.
#ifndef PHALANX_MODEL_TEMPLATE_LOAD_H
#define PHALANX_MODEL_TEMPLATE_LOAD_H

#include "model/template.h"

struct template_named {
    char name[TEMPLATE_NAME_BYTES_MAX + 1];
    struct template *parsed; // NULL: it cannot be parsed, and why
    enum status status;
    struct error why;
};

struct template_special {
    const char *name; // "bos_token"
    char *text;       // owned
    size_t n;
};

struct template_set {
    struct template_named named[TEMPLATE_NAMED_MAX];
    size_t n_named;
    struct template_special specials[TEMPLATE_SPECIALS_MAX];
    size_t n_specials;
};

// The template called `name`; where that is NULL or "", the one for a conversation with or without
// tools. NOT_FOUND if there is none, the parser's status and sentence if it cannot be used.
enum status template_load_find(const struct template_set *set, const char *name, bool tools,
    const struct template_named **out, struct error *err);

#endif
