// SPDX-License-Identifier: Apache-2.0
// Rules about the symbols of the object files, as `objdump -t` lists them: a line "FILE:     file
// format ...", then "ADDRESS FLAGS SECTION<tab>SIZE NAME" for each symbol, FLAGS being 7 letters.
#include "base/check.h"
#include "tests/tidy/tidy.h"

#include <stdlib.h>
#include <string.h>

enum symbol_kind { SYMBOL_OTHER, SYMBOL_FUNCTION, SYMBOL_MUTABLE, SYMBOL_WANTED };

struct symbol {
    char *name;
    const char *object;    // PART/CMakeFiles/TARGET.dir/FILE.c.o
    enum symbol_kind kind; // a function is one that other files see
};

struct symbols {
    struct symbol *item;
    size_t count, room;
};

static void add(struct symbols *all, struct symbol s)
{
    if (all->count == all->room) {
        all->room = all->room ? 2 * all->room : 1024;
        all->item = realloc(all->item, all->room * sizeof *all->item);
        check(all->item);
    }
    all->item[all->count++] = s;
}

// Constants with pointers lie in .data.rel.ro: only the loader writes there.
static bool mutable_section(const char *section)
{
    if (path_begins(section, ".data.rel.ro"))
        return false;
    return path_begins(section, ".data") || path_begins(section, ".bss") ||
           path_begins(section, ".tdata") || path_begins(section, ".tbss") ||
           strcmp(section, "*COM*") == 0;
}

enum { FLAGS_AT = 17, SECTION_AT = 25 };

// Statics of functions are name.1 with gcc and function.name with clang.
static void plain_name(char *name)
{
    char *dot = strchr(name, '.');
    if (dot && dot[1] >= '0' && dot[1] <= '9')
        *dot = '\0';
    else if (dot && dot > name)
        memmove(name, dot + 1, strlen(dot));
}

// Cuts one line of the table into words in place.
static struct symbol read_symbol(char *line, char *tab)
{
    struct symbol s = {.kind = SYMBOL_OTHER};
    const char *section = line + SECTION_AT, *flags = line + FLAGS_AT;
    *tab = '\0';
    s.name = strrchr(tab + 1, ' ');
    if (!s.name)
        return s;
    *s.name++ = '\0';
    plain_name(s.name);
    if (strcmp(section, "*UND*") == 0)
        s.kind = SYMBOL_WANTED;
    else if (memchr(flags, 'O', 7) && mutable_section(section))
        s.kind = SYMBOL_MUTABLE;
    else if (flags[0] == 'g' && memchr(flags, 'F', 7))
        s.kind = SYMBOL_FUNCTION;
    return s;
}

static struct symbols read_symbols(char *lines)
{
    struct symbols all = {0};
    const char *object = "";
    for (char *line = lines; *line;) {
        char *next = line + strcspn(line, "\n");
        if (*next)
            *next++ = '\0';
        char *tab = strchr(line, '\t'), *colon = strstr(line, ":     file format");
        if (colon) {
            *colon = '\0';
            object = line;
        } else if (tab && tab - line > SECTION_AT) {
            struct symbol s = read_symbol(line, tab);
            s.object = object;
            if (s.kind != SYMBOL_OTHER)
                add(&all, s);
        }
        line = next;
    }
    return all;
}

// Product code in C, made by people: the libraries and programs, without tests, benches and
// messages. What C++ makes of members and constants is not for this rule.
static bool ours(const char *object)
{
    return path_ends(object, ".c.o") && !path_begins(object, "tests/") &&
           !path_begins(object, "bench/") && !strstr(object, ".pb-c.");
}

// "base/CMakeFiles/phalanx_base.dir/log.c.o" -> "base/log.c"
static void source_of(const char *object, char *out, size_t size)
{
    const char *files = strstr(object, "CMakeFiles/");
    const char *rest = files ? strstr(files, ".dir/") : NULL;
    if (!rest) {
        snprintf(out, size, "%s", object);
        return;
    }
    rest += path_begins(rest, ".dir/./") ? 7 : 5;
    int n = snprintf(out, size, "%.*s%s", (int)(files - object), object, rest);
    if (n > 2 && (size_t)n < size)
        out[n - 2] = '\0'; // ".o"
}

static int by_name(const void *a, const void *b)
{
    const struct symbol *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : (x->kind == SYMBOL_WANTED) - (y->kind == SYMBOL_WANTED);
}

static void check_global(struct tidy *t, const struct symbol *s)
{
    char path[512];
    if (s->kind != SYMBOL_MUTABLE || !ours(s->object))
        return;
    source_of(s->object, path, sizeof path);
    tidy_report(t, RULE_GLOBAL, path, 0, s->name);
}

// `i` is the first of `n` symbols of one name; those that define it come first.
static void check_used(struct tidy *t, const struct symbol *s, size_t n)
{
    char path[512];
    if (s->kind != SYMBOL_FUNCTION || !ours(s->object) || strcmp(s->name, "main") == 0)
        return;
    for (size_t k = 0; k < n; k++)
        if (s[k].kind == SYMBOL_WANTED)
            return;
    source_of(s->object, path, sizeof path);
    tidy_report(t, RULE_UNUSED, path, 0, s->name);
}

void symbol_rules(struct tidy *t, char *table)
{
    struct symbols all = read_symbols(table);
    for (size_t i = 0; i < all.count; i++)
        check_global(t, &all.item[i]);
    if (all.count)
        qsort(all.item, all.count, sizeof *all.item, by_name);
    for (size_t i = 0, n; i < all.count; i += n) {
        for (n = 1; i + n < all.count; n++)
            if (strcmp(all.item[i].name, all.item[i + n].name) != 0)
                break;
        check_used(t, &all.item[i], n);
    }
    free(all.item);
}

bool symbols_built(const char *objects, const char *path)
{
    char made[512];
    while (*objects) {
        size_t n = strcspn(objects, "\n");
        char object[512];
        snprintf(object, sizeof object, "%.*s", (int)n, objects);
        source_of(object, made, sizeof made);
        if (strcmp(made, path) == 0)
            return true;
        objects += n + (objects[n] == '\n');
    }
    return false;
}
