// SPDX-License-Identifier: Apache-2.0
// Checks the tree against the house's rules: tidy_main sources ROOT | format ROOT |
// headers ROOT COMPILER FLAG... | symbols ROOT BUILD OBJECTS, where OBJECTS is a file that names
// each object file of the build.
#include "base/buf.h"
#include "base/check.h"
#include "tests/tidy/tidy.h"

#include <fts.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_MAX = 1 << 28 };

typedef void each_fn(struct tidy *t, const char *path, void *context);

static bool skipped(const char *path)
{
    static const char *const folders[] = {"./.git", "./build", "./.cache", "./tests/golden/models",
        "./tests/fuzz/seeds", "./deploy/demo-model/.venv"};
    for (size_t i = 0; i < COUNT_OF(folders); i++)
        if (strcmp(path, folders[i]) == 0)
            return true;
    return false;
}

// Calls `each` for every file below the current folder, in no order.
static void walk(struct tidy *t, each_fn *each, void *context)
{
    char dot[] = ".";
    char *const roots[] = {dot, NULL};
    FTS *tree = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    check(tree);
    for (FTSENT *e; (e = fts_read(tree));) {
        if (e->fts_info == FTS_D && skipped(e->fts_path))
            fts_set(tree, e, FTS_SKIP);
        else if (e->fts_info == FTS_F && path_begins(e->fts_path, "./"))
            each(t, e->fts_path + 2, context);
    }
    fts_close(tree);
}

static void read_stream(FILE *f, struct buf *b)
{
    char block[65536];
    for (size_t n; (n = fread(block, 1, sizeof block, f)) > 0;)
        buf_append(b, block, n);
    buf_append(b, "", 1);
    check(!buf_failed(b));
}

static void check_source(struct tidy *t, const char *path, void *context)
{
    (void)context;
    if (!source_is_text(path))
        return;
    FILE *f = fopen(path, "rb");
    if (!f)
        return; // deleted since
    struct buf b;
    buf_init(&b, TEXT_MAX);
    read_stream(f, &b);
    fclose(f);
    struct source s = source_make(path, (char *)b.data, b.size - 1);
    text_rules(t, &s);
    if (source_is_c(path)) {
        code_rules(t, &s);
        include_rules(t, &s);
    }
    source_free(&s);
    buf_deinit(&b);
}

static void check_sources(struct tidy *t)
{
    walk(t, check_source, NULL);
    tidy_stale(t, RULE_LICENCE, RULE_NAME);
}

static void append_word(struct buf *b, const char *word)
{
    buf_append(b, word, strlen(word));
    buf_append(b, " ", 1);
}

static void append_formatted(struct tidy *t, const char *path, void *context)
{
    (void)t;
    if (path_ends(path, ".c") || path_ends(path, ".h") || path_ends(path, ".inc"))
        append_word(context, path);
}

static void append_header(struct tidy *t, const char *path, void *context)
{
    if (path_ends(path, ".h") && !tidy_excused(t, RULE_HEADER, path, ""))
        append_word(context, path);
}

// Runs the command, prints what it says, and reports one finding if it fails.
static void run(struct tidy *t, enum rule rule, struct buf *command)
{
    buf_append(command, "2>&1", 5);
    check(!buf_failed(command));
    FILE *f = popen((char *)command->data, "r");
    check(f);
    struct buf said;
    buf_init(&said, TEXT_MAX);
    read_stream(f, &said);
    fputs((char *)said.data, stdout);
    if (pclose(f) != 0)
        tidy_report(t, rule, "tests/tidy", 0, "see above");
    buf_deinit(&said);
}

// Versions of clang-format differ in what they find beautiful: only one is asked.
static void check_format(struct tidy *t)
{
    FILE *f = popen("clang-format --version 2>/dev/null", "r");
    char version[256] = "";
    check(f);
    bool there = fgets(version, sizeof version, f) && strstr(version, "version 14.");
    pclose(f);
    if (!there) {
        printf("skipped: no clang-format 14\n");
        return;
    }
    struct buf command;
    buf_init(&command, TEXT_MAX);
    append_word(&command, "clang-format --dry-run -Werror");
    walk(t, append_formatted, &command);
    run(t, RULE_FORMAT, &command);
    buf_deinit(&command);
}

static void check_headers(struct tidy *t, int n_words, char **words)
{
    struct buf command;
    buf_init(&command, TEXT_MAX);
    for (int i = 0; i < n_words; i++)
        append_word(&command, words[i]);
    append_word(&command, "-fsyntax-only -x c");
    walk(t, append_header, &command);
    run(t, RULE_HEADER, &command);
    tidy_stale(t, RULE_HEADER, RULE_HEADER);
    buf_deinit(&command);
}

static void check_built(struct tidy *t, const char *path, void *objects)
{
    // Benches are a part of the build that may be left out.
    bool left_out = path_begins(path, "bench/") && !strstr(objects, "bench/");
    if (path_ends(path, ".c") && !left_out && !symbols_built(objects, path))
        tidy_report(t, RULE_UNBUILT, path, 0, path);
}

// The lines of the file, without the build folder in front; targets without objects leave some
// empty.
static void read_objects(const char *list, const char *build, struct buf *out)
{
    char line[4096];
    FILE *f = fopen(list, "r");
    check(f);
    while (fgets(line, sizeof line, f)) {
        if (line[0] == '\n')
            continue;
        check(path_begins(line, build));
        const char *name = line + strlen(build) + 1;
        buf_append(out, name, strlen(name));
    }
    buf_append(out, "", 1);
    fclose(f);
    check(!buf_failed(out));
}

static void check_symbols(struct tidy *t, const char *build, const char *list)
{
    struct buf objects, command, table;
    buf_init(&objects, TEXT_MAX);
    buf_init(&command, TEXT_MAX);
    buf_init(&table, TEXT_MAX);
    read_objects(list, build, &objects);
    append_word(&command, "cd");
    append_word(&command, build);
    append_word(&command, "&& objdump -t");
    for (const char *p = (char *)objects.data; *p;) {
        size_t n = strcspn(p, "\n");
        buf_append(&command, p, n);
        buf_append(&command, " ", 1);
        p += n + (p[n] == '\n');
    }
    buf_append(&command, "", 1);
    FILE *f = popen((char *)command.data, "r");
    check(f);
    read_stream(f, &table);
    if (pclose(f) != 0) // it has said why; as a rule an object is missing
        tidy_report(t, RULE_UNBUILT, build, 0, "build everything first");
    symbol_rules(t, (char *)table.data);
    walk(t, check_built, objects.data);
    tidy_stale(t, RULE_GLOBAL, RULE_UNBUILT);
    buf_deinit(&objects);
    buf_deinit(&command);
    buf_deinit(&table);
}

int main(int argc, char **argv)
{
    struct tidy t;
    tidy_begin(&t, stdout);
    const char *what = argc > 2 ? argv[1] : "";
    if (argc > 2 && chdir(argv[2]) != 0) {
        perror(argv[2]);
        return 2;
    }
    if (strcmp(what, "sources") == 0 && argc == 3) {
        check_sources(&t);
    } else if (strcmp(what, "format") == 0 && argc == 3) {
        check_format(&t);
    } else if (strcmp(what, "headers") == 0 && argc > 3) {
        check_headers(&t, argc - 3, argv + 3);
    } else if (strcmp(what, "symbols") == 0 && argc == 5) {
        check_symbols(&t, argv[3], argv[4]);
    } else {
        fprintf(stderr,
            "usage: tidy_main sources ROOT | format ROOT | headers ROOT COMPILER FLAG... | "
            "symbols ROOT BUILD OBJECTS\n");
        return 2;
    }
    printf("%u findings\n", tidy_total(&t));
    return tidy_total(&t) != 0;
}
