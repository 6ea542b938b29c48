// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "tests/tidy/tidy.h"

#include <stdlib.h>
#include <string.h>

bool path_begins(const char *path, const char *prefix)
{
    return strncmp(path, prefix, strlen(prefix)) == 0;
}

bool path_ends(const char *path, const char *suffix)
{
    size_t n = strlen(path), k = strlen(suffix);
    return n >= k && strcmp(path + n - k, suffix) == 0;
}

static bool ends_with_one(const char *path, const char *const *suffixes)
{
    for (; *suffixes; suffixes++)
        if (path_ends(path, *suffixes))
            return true;
    return false;
}

bool source_is_c(const char *path)
{
    static const char *const c[] = {".c", ".h", ".inc", ".def", NULL};
    return ends_with_one(path, c);
}

bool source_is_text(const char *path)
{
    static const char *const others[] = {
        ".cpp", ".cu", ".cuh", ".proto", ".py", ".sh", ".cmake", "CMakeLists.txt", ".supp", NULL};
    const char *name = strrchr(path, '/');
    bool script = (path_begins(path, "deploy/") || path_begins(path, ".ci/")) && name &&
                  !strchr(name + 1, '.');
    return source_is_c(path) || script || ends_with_one(path, others);
}

// Blanks from `p` to the end of a comment or literal and returns its end.
static char *blank_until(char *p, const char *stop, const char *end, bool escapes)
{
    size_t n = strlen(stop);
    while (p < end && strncmp(p, stop, n) != 0) {
        if (escapes && *p == '\\' && p + 1 < end)
            *p++ = ' ';
        if (*p != '\n')
            *p = ' ';
        p++;
    }
    return p;
}

static void blank(char *code, const char *end)
{
    for (char *p = code; p < end; p++) {
        if (p[0] == '/' && p[1] == '/') {
            p = blank_until(p, "\n", end, false);
        } else if (p[0] == '/' && p[1] == '*') {
            p = blank_until(p, "*/", end, false);
            if (p + 1 < end) {
                p[0] = ' ';
                p[1] = ' ';
            }
        } else if (p[0] == '"') {
            p = blank_until(p + 1, "\"", end, true);
        } else if (p[0] == '\'' && p[1] != '\0' && (p[2] == '\'' || p[1] == '\\')) {
            p = blank_until(p + 1, "'", end, true);
        }
        if (p >= end)
            break;
    }
}

struct source source_make(const char *path, const char *text, size_t size)
{
    struct source s = {
        .path = path, .text = malloc(size + 1), .code = malloc(size + 1), .size = size};
    check(s.text && s.code);
    memcpy(s.text, text, size);
    memcpy(s.code, text, size);
    s.text[size] = s.code[size] = '\0';
    if (source_is_c(path))
        blank(s.code, s.code + size);
    return s;
}

void source_free(struct source *s)
{
    free(s->text);
    free(s->code);
    *s = (struct source){0};
}
