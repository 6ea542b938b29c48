// SPDX-License-Identifier: Apache-2.0
// Rules about functions and calls. The sources are formatted by clang-format, so a function begins
// with a line "{" and ends with a line "}": no parser of C is needed.
#include "base/check.h"
#include "tests/tidy/tidy.h"

#include <ctype.h>
#include <string.h>

enum { FUNCTION_LINES_MAX = 70, PARAMETERS_MAX = 6 };

// clang-format off
// Where a call is allowed all the same ("main": every file that defines main), and what to use.
static const struct banned {
    const char *name, *allowed, *instead;
} banned[] = {
    {"strcpy", "", "snprintf"},
    {"strcat", "", "struct buf"},
    {"strncpy", "", "snprintf, which always ends the string"},
    {"strncat", "", "struct buf"},
    {"stpcpy", "", "snprintf"},
    {"sprintf", "", "snprintf"},
    {"vsprintf", "", "vsnprintf"},
    {"gets", "", "fgets"},
    {"atoi", "", "config_int_parse"},
    {"atol", "", "config_int_parse"},
    {"atoll", "", "config_int_parse"},
    {"atof", "", "strtod and a look at its end"},
    {"strtok", "", "strcspn"},
    {"assert", "", "check, which stays in release builds"},
    {"alloca", "", "an arena"},
    {"setjmp", "", "statuses"},
    {"longjmp", "", "statuses"},
    {"signal", "", "sigaction or signalfd"},
    {"tmpnam", "", "mkdtemp"},
    {"tempnam", "", "mkdtemp"},
    {"mktemp", "", "mkdtemp"},
    {"system", "", "fork and exec, without a shell"},
    {"popen", "tests/tidy/", "fork and exec, without a shell"},
    {"localtime", "", "localtime_r"},
    {"gmtime", "", "gmtime_r"},
    {"getenv", "base/config.c tests/", "config_env"},
    {"setenv", "tests/", "the environment of a child's exec"},
    {"putenv", "tests/", "the environment of a child's exec"},
    {"rand", "tests/ bench/", "Philox, or getrandom"},
    {"srand", "tests/ bench/", "Philox, or getrandom"},
    {"abort", "base/check.c bench/ tests/", "check"},
    {"exit", "main", "a status; _exit in a child after fork"},
};

// Names of things that several files of a folder make up, or that another contract fixes.
static const struct prefix {
    const char *path, *prefix;
} prefixes[] = {
    {"collectives/", "coll_"},          // collectives.h: the calls of a rank
    {"kernels/cpu/", "cpu_"},           // the slots of the op table
    {"kernels/cpu/device.c", "kernels_cpu"},
    {"proto/plan", "answer_"},          // a plan's answer
    {"proto/validate.c", "request_"},   // what the validator makes
    {"worker/sample.c", "sampler_"},
    {"client/main.c", "cmd_"},          // what the commands share: cmd.h
    {"tests/fuzz/", "LLVMFuzzer"},
    {"tests/collectives/fake_nccl.c", "nccl"},
    {"tests/collectives/op_cases.c", "norm_"},
    {"tests/cuda/fake_cublaslt.c", "cublasLt"},
    {"tests/", "__wrap_"},              // the linker's name for a replaced function
    {"tests/kernels/ops_support.c", "random_"},
    {"tests/e2e/cluster", "command_"},
    {"tests/e2e/cluster", "answer_"},
    {"tests/e2e/cluster", "tokens_"},
    {"tests/tidy/source.c", "path_"},
    {"tests/tidy/symbols.c", "symbol_"},
};
// clang-format on

static bool word_char(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

static bool defines_main(const struct source *s)
{
    return strstr(s->code, "\nint main(") != NULL;
}

static bool allowed(const struct source *s, const char *list)
{
    while (*list) {
        size_t n = strcspn(list, " ");
        if (n == 4 && strncmp(list, "main", 4) == 0 && defines_main(s))
            return true;
        if (strncmp(s->path, list, n) == 0)
            return true;
        list += n + (list[n] == ' ');
    }
    return false;
}

static unsigned line_at(const struct source *s, const char *p)
{
    unsigned line = 1;
    for (const char *c = s->code; c < p; c++)
        line += *c == '\n';
    return line;
}

static void check_banned(struct tidy *t, const struct source *s)
{
    for (size_t i = 0; i < COUNT_OF(banned); i++) {
        size_t n = strlen(banned[i].name);
        for (const char *p = s->code; (p = strstr(p, banned[i].name)); p += n) {
            bool member = p > s->code && (p[-1] == '.' || p[-1] == '>');
            if (p[n] != '(' || member || (p > s->code && word_char(p[-1])))
                continue;
            if (allowed(s, banned[i].allowed))
                continue;
            unsigned before = t->found[RULE_BANNED];
            tidy_report(t, RULE_BANNED, s->path, line_at(s, p), banned[i].name);
            if (t->out && t->found[RULE_BANNED] > before)
                fprintf(t->out, "    use %s\n", banned[i].instead);
        }
    }
}

static void check_typedef(struct tidy *t, const struct source *s)
{
    static const char *const of[] = {"typedef struct", "typedef enum ", "typedef union"};
    for (size_t i = 0; i < COUNT_OF(of); i++)
        for (const char *p = s->code; (p = strstr(p, of[i])); p++) {
            const char *name = p + strcspn(p, ";{(");
            if (*name != '(') // a function type may return one
                tidy_report(t, RULE_TYPEDEF, s->path, line_at(s, p), of[i]);
        }
}

// What stands between the end of the last declaration and "{".
struct signature {
    const char *begin, *end;
    char name[128];
    unsigned n_parameters;
    bool is_static; // V16_INLINE and its like as well
};

// The identifier before the first '(' that is not an attribute's.
static const char *find_name(struct signature *g)
{
    const char *p = g->begin;
    while (p < g->end) {
        p += strcspn(p, "(");
        if (p >= g->end)
            return NULL;
        const char *last = p;
        while (last > g->begin && word_char(last[-1]))
            last--;
        size_t n = (size_t)(p - last);
        if (n && strncmp(last, "__attribute__", n) != 0 && n < sizeof g->name) {
            memcpy(g->name, last, n);
            g->name[n] = '\0';
            return p;
        }
        int depth = 0;
        do
            depth += (*p == '(') - (*p == ')');
        while (p++ < g->end && depth > 0);
    }
    return NULL;
}

static bool read_signature(struct signature *g)
{
    const char *p = find_name(g);
    if (!p)
        return false;
    int depth = 0;
    g->n_parameters = 1;
    for (; p < g->end; p++) {
        depth += (*p == '(') - (*p == ')');
        if (depth == 0)
            break;
        g->n_parameters += depth == 1 && *p == ',';
    }
    const char *word = strstr(g->begin, "static "), *macro = strstr(g->begin, "_INLINE ");
    g->is_static = (word && word < g->end) || (macro && macro < g->end);
    const char *err = strstr(g->begin, "struct error *err)");
    g->n_parameters -= err && err < g->end;
    return true;
}

// `name` begins with the first words of the file's stem, as core_ or core_answer_ in core_answer.c.
static bool name_fits(const char *path, const char *name)
{
    for (size_t i = 0; i < COUNT_OF(prefixes); i++)
        if (path_begins(path, prefixes[i].path) && path_begins(name, prefixes[i].prefix))
            return true;
    const char *slash = strrchr(path, '/');
    const char *stem = slash ? slash + 1 : path;
    size_t word = strcspn(stem, "_.");
    return strncmp(name, stem, word) == 0 && (name[word] == '_' || !name[word]);
}

static void check_function(
    struct tidy *t, const struct source *s, struct signature *g, unsigned at, unsigned n_lines)
{
    if (!read_signature(g))
        return;
    if (n_lines > FUNCTION_LINES_MAX)
        tidy_report(t, RULE_FUNCTION_LENGTH, s->path, at, g->name);
    if (g->n_parameters > PARAMETERS_MAX && !g->is_static)
        tidy_report(t, RULE_PARAMETERS, s->path, at, g->name);
    bool free_name = g->is_static || strcmp(g->name, "main") == 0 || path_ends(s->path, ".inc");
    if (!free_name && !name_fits(s->path, g->name))
        tidy_report(t, RULE_NAME, s->path, at, g->name);
}

static bool line_is(const char *p, size_t n, const char *word)
{
    return n == strlen(word) && strncmp(p, word, n) == 0;
}

static bool line_blank(const char *p, size_t n)
{
    return strspn(p, " ") >= n;
}

void code_rules(struct tidy *t, const struct source *s)
{
    struct signature g = {0};
    const char *begin = s->code; // after the last line that ended a declaration
    unsigned at = 0, begin_line = 1, open_line = 0;
    check_banned(t, s);
    check_typedef(t, s);
    for (const char *p = s->code; *p;) {
        size_t n = strcspn(p, "\n");
        const char *next = p + n + (p[n] == '\n');
        at++;
        if (line_is(p, n, "{")) {
            g = (struct signature){.begin = begin, .end = p};
            open_line = begin_line;
        } else if (line_is(p, n, "}") && g.begin) {
            check_function(t, s, &g, open_line, at - open_line + 1);
            g.begin = NULL;
        }
        bool ends = n && (p[n - 1] == ';' || p[n - 1] == '}' || p[n - 1] == '\\');
        if (*p == '#' || ends || line_blank(p, n)) {
            begin = next;
            begin_line = at + 1;
        }
        p = next;
    }
}
