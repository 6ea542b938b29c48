// SPDX-License-Identifier: Apache-2.0
#include "base/status.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct status_row {
    const char *name;
    enum status_class class;
    const char *text;
};

static const struct status_row rows[] = {
#define X(NAME, name, class, text) {#name, STATUS_CLASS_##class, text},
#include "base/status.def"
#undef X
};
_Static_assert(sizeof rows / sizeof rows[0] == STATUS_COUNT, "one row for each status");

const char *status_name(enum status s)
{
    return (unsigned)s < STATUS_COUNT ? rows[s].name : "unknown";
}

const char *status_text(enum status s)
{
    return (unsigned)s < STATUS_COUNT ? rows[s].text : "unknown status";
}

enum status_class status_class(enum status s)
{
    return (unsigned)s < STATUS_COUNT ? rows[s].class : STATUS_CLASS_BUG;
}

enum status status_fail(struct error *err, enum status s, const char *format, ...)
{
    if (!err)
        return s;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    if (n < 0)
        err->text[0] = '\0';
    for (char *p = err->text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    err->status = s;
    return s;
}
