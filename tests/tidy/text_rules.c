// SPDX-License-Identifier: Apache-2.0
// Rules about the letters of a file.
#include "tests/tidy/tidy.h"

#include <string.h>

enum { COLUMNS_MAX = 100, FILE_LINES_MAX = 1000 };

static void check_licence(struct tidy *t, const struct source *s)
{
    static const char words[] = "SPDX-License-Identifier: Apache-2.0";
    const char *line = s->text;
    if (strncmp(line, "#!", 2) == 0)
        line += strcspn(line, "\n") + 1;
    const char *end = line + strcspn(line, "\n");
    const char *found = strstr(line, words);
    if (!found || found > end)
        tidy_report(t, RULE_LICENCE, s->path, 1, "no SPDX line");
}

// Tables of settings, one row a line, may be wider where clang-format is told to leave them alone.
struct layout {
    bool is_code, off;
};

static void check_columns(struct tidy *t, const struct source *s, struct layout *l,
    const char *line, size_t n, unsigned at)
{
    static const char off[] = "// clang-format off", on[] = "// clang-format on";
    if (strncmp(line, off, sizeof off - 1) == 0)
        l->off = true;
    else if (strncmp(line, on, sizeof on - 1) == 0)
        l->off = false;
    if (l->is_code && !l->off && n > COLUMNS_MAX)
        tidy_report(t, RULE_COLUMNS, s->path, at, "a long line");
    if (memchr(line, '\t', n))
        tidy_report(t, RULE_COLUMNS, s->path, at, "a tab");
    if (n && line[n - 1] == ' ')
        tidy_report(t, RULE_COLUMNS, s->path, at, "a blank at the end");
}

static void check_words(
    struct tidy *t, const struct source *s, bool is_c, const char *line, size_t n, unsigned at)
{
    // The parts are put together here, so that this file does not report itself.
    static const char *const later[] = {"TO"
                                        "DO",
        "FIX"
        "ME"};
    bool ascii = true;
    for (size_t i = 0; i < n; i++)
        ascii = ascii && (unsigned char)line[i] < 0x80;
    if (is_c && !ascii)
        tidy_report(t, RULE_ASCII, s->path, at, "a byte above 7f");
    for (size_t k = 0; k < 2; k++) {
        const char *found = strstr(line, later[k]);
        if (found && found < line + n)
            tidy_report(t, RULE_LATER, s->path, at, later[k]);
    }
}

void text_rules(struct tidy *t, const struct source *s)
{
    unsigned lines = 0;
    bool is_c = source_is_c(s->path);
    struct layout l = {.is_code = is_c && !path_ends(s->path, ".def")};
    check_licence(t, s);
    for (const char *p = s->text; *p;) {
        size_t n = strcspn(p, "\n");
        check_columns(t, s, &l, p, n, ++lines);
        check_words(t, s, is_c, p, n, lines);
        p += n + (p[n] == '\n');
    }
    if (lines > FILE_LINES_MAX)
        tidy_report(t, RULE_FILE_LENGTH, s->path, lines, "a long file");
}
