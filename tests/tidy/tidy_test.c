// SPDX-License-Identifier: Apache-2.0
// Plants a violation of every rule, and beside it what the rule must let pass.
#include "tests/test_support.h"
#include "tests/tidy/tidy.h"

#include <string.h>

#define LICENCE "// SPDX-License-Identifier: Apache-2.0\n"

static struct tidy look(const char *path, const char *text)
{
    struct tidy t;
    tidy_begin(&t, NULL);
    t.n_exceptions = 0;
    struct source s = source_make(path, text, strlen(text));
    text_rules(&t, &s);
    if (source_is_c(path)) {
        code_rules(&t, &s);
        include_rules(&t, &s);
    }
    source_free(&s);
    return t;
}

// The text has `n` findings of this rule and none of another.
static void expect(enum rule rule, unsigned n, const char *path, const char *text)
{
    struct tidy t = look(path, text);
    if (t.found[rule] != n || tidy_total(&t) != n)
        print_error("%s:\n%s\n", path, text);
    assert_int_equal(t.found[rule], n);
    assert_int_equal(tidy_total(&t), n);
}

static void test_letters(void **state)
{
    (void)state;
    expect(RULE_LICENCE, 1, "base/a.c", "int x;\n");
    expect(RULE_LICENCE, 0, "base/a.c", LICENCE);
    expect(RULE_LICENCE, 0, "deploy/run", "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n");
    expect(RULE_LICENCE, 1, "base/a.c", "\n" LICENCE);
    expect(RULE_ASCII, 1, "base/a.c", LICENCE "// caf\xc3\xa9\n");
    expect(RULE_COLUMNS, 1, "base/a.c", LICENCE "\tint x;\n");
    expect(RULE_COLUMNS, 1, "base/a.c", LICENCE "int x; \n");
    expect(RULE_ASCII, 0, "tests/a.py", "# SPDX-License-Identifier: Apache-2.0\n# caf\xc3\xa9\n");
    expect(RULE_LATER, 1, "base/a.c",
        LICENCE "// TO"
                "DO: all\n");
    expect(RULE_LATER, 1, "base/CMakeLists.txt",
        "# SPDX-License-Identifier: Apache-2.0\n# FIX"
        "ME\n");
}

static void test_lengths(void **state)
{
    (void)state;
    static char text[64000];
    for (int wide = 100; wide <= 101; wide++) {
        snprintf(text, sizeof text, "%s// %0*d\n", LICENCE, wide - 3, 0);
        expect(RULE_COLUMNS, wide > 100, "base/a.c", text);
    }
    for (int lines = 1000; lines <= 1001; lines++) {
        char *p = text + snprintf(text, sizeof text, "%s", LICENCE);
        for (int i = 1; i < lines; i++)
            *p++ = '\n';
        *p = '\0';
        expect(RULE_FILE_LENGTH, lines > 1000, "base/a.c", text);
    }
    for (int lines = 70; lines <= 71; lines++) {
        char *p = text + snprintf(text, sizeof text, "%sint a_b(int x)\n{\n", LICENCE);
        for (int i = 3; i < lines; i++)
            p += snprintf(p, 16, "    x++;\n");
        snprintf(p, 16, "}\n");
        expect(RULE_FUNCTION_LENGTH, lines > 70, "base/a.c", text);
    }
}

static void test_functions(void **state)
{
    (void)state;
    expect(RULE_NAME, 1, "base/log.c", LICENCE "int open_it(void)\n{\n}\n");
    expect(RULE_NAME, 1, "base/log.c", LICENCE "__attribute__((cold)) int\nopen_it(void)\n{\n}\n");
    expect(RULE_NAME, 1, "base/log.c", LICENCE "int logger(void)\n{\n}\n");
    expect(RULE_NAME, 0, "base/log.c", LICENCE "static int open_it(void)\n{\n}\n");
    expect(RULE_NAME, 0, "base/log.c", LICENCE "int log_open(void)\n{\n}\n");
    expect(RULE_NAME, 0, "base/core_view.c", LICENCE "int core_open(void)\n{\n}\n");
    expect(RULE_NAME, 0, "base/log.c", LICENCE "static struct x y[] = {\n    {1},\n};\n");
    expect(RULE_NAME, 0, "base/x.c", LICENCE "int main(int argc, char **argv)\n{\n}\n");
    expect(RULE_PARAMETERS, 0, "base/a.c",
        LICENCE "int a_b(int a, int b, int c, int d, int e, int f)\n{\n}\n");
    expect(RULE_PARAMETERS, 0, "base/a.c",
        LICENCE "int a_b(int a, int b, int c, int d, int e, int f, struct error *err)\n{\n}\n");
    expect(RULE_PARAMETERS, 1, "base/a.c",
        LICENCE "int a_b(int a, int b, int c, int d, int e, int f, int g)\n{\n}\n");
}

static void test_calls(void **state)
{
    (void)state;
    static const char *const banned[] = {"strcpy", "sprintf", "atoi", "strtok", "gets", "assert",
        "alloca", "getenv", "exit", "abort", "system", "rand"};
    for (size_t i = 0; i < sizeof banned / sizeof *banned; i++) {
        char text[256];
        snprintf(text, sizeof text, LICENCE "int x = %s(y);\n", banned[i]);
        expect(RULE_BANNED, 1, "base/a.c", text);
        snprintf(text, sizeof text, LICENCE "int x = my_%s(y) + a.%s(y);\n", banned[i], banned[i]);
        expect(RULE_BANNED, 0, "base/a.c", text);
        snprintf(text, sizeof text, LICENCE "/* %s(x) */ char *p = \"\\\"%s(x)\"; // %s(x)\n",
            banned[i], banned[i], banned[i]);
        expect(RULE_BANNED, 0, "base/a.c", text);
    }
    expect(RULE_BANNED, 1, "base/a.c", LICENCE "char a = '\"', b = atoi(c), d = '\\'';\n");
    expect(RULE_BANNED, 0, "base/config.c", LICENCE "char *p = getenv(x);\n");
    expect(RULE_BANNED, 0, "base/a.c", LICENCE "\nint main(void)\n{\n    exit(1);\n}\n");
    expect(RULE_TYPEDEF, 1, "base/a.c", LICENCE "typedef struct a {\n    int x;\n} a;\n");
    expect(RULE_TYPEDEF, 1, "base/a.c", LICENCE "typedef enum a {\n    X\n} a;\n");
    expect(RULE_TYPEDEF, 0, "base/a.c", LICENCE "typedef struct a *f(int x);\n");
}

static void test_includes(void **state)
{
    (void)state;
    expect(RULE_ARROW, 1, "base/a.c", LICENCE "#include \"proto/plan.h\"\n");
    expect(RULE_ARROW, 1, "kernels/a.c", LICENCE "#include \"model/arch.h\"\n");
    expect(RULE_ARROW, 1, "coordinator/a.c", LICENCE "#include \"worker/rank.h\"\n");
    expect(RULE_ARROW, 1, "worker/a.c", LICENCE "#include \"tests/test_support.h\"\n");
    expect(RULE_ARROW, 1, "base/a.c", LICENCE "#include \"status.h\"\n"); // not from the root
    expect(RULE_ARROW, 0, "worker/a.c", LICENCE "#include \"kernels/kernels.h\"\n");
    expect(RULE_PRIVATE, 1, "worker/a.c", LICENCE "#include \"model/arch_internal.h\"\n");
    expect(RULE_PRIVATE, 0, "model/a.c", LICENCE "#include \"model/arch_internal.h\"\n");
    expect(RULE_PRIVATE, 1, "worker/a.c", LICENCE "#include \"kernels/cpu/team.h\"\n");
    expect(RULE_SYSTEM_HEADER, 1, "base/a.c", LICENCE "#include <mpi.h>\n");
    expect(RULE_SYSTEM_HEADER, 1, "kernels/a.c", LICENCE "#include <zmq.h>\n");
    expect(RULE_SYSTEM_HEADER, 1, "coordinator/core_view.c", LICENCE "#include <time.h>\n");
    expect(RULE_SYSTEM_HEADER, 1, "coordinator/sched.c", LICENCE "#include <sys/random.h>\n");
    expect(RULE_SYSTEM_HEADER, 0, "coordinator/shell.c", LICENCE "#include <zmq.h>\n");
    expect(RULE_GUARD, 1, "base/a.h", LICENCE "#ifndef BASE_A_H\n#endif\n");
    expect(RULE_GUARD, 0, "base/a.h", LICENCE "#ifndef PHALANX_BASE_A_H\n#endif\n");
}

#define OBJECT(name) "base/CMakeFiles/b.dir/" name ".c.o:     file format elf64-x86-64\n\n"
#define LINE(flags, section, name)                                                                 \
    "0000000000000000 " flags " " section "\t0000000000000008 " name "\n"

static struct tidy look_at_symbols(const char *table)
{
    static char copy[4096];
    struct tidy t;
    tidy_begin(&t, NULL);
    t.n_exceptions = 0;
    snprintf(copy, sizeof copy, "%s", table);
    symbol_rules(&t, copy);
    return t;
}

static void test_symbols(void **state)
{
    (void)state;
    static const char *const states[] = {OBJECT("a") LINE("l     O", ".bss", "counter.2"),
        OBJECT("a") LINE("g     O", ".data", "counter"),
        OBJECT("a") LINE("l     O", ".data.rel.local", "table"),
        OBJECT("a") LINE("l     O", ".tbss", "per_thread"),
        OBJECT("a") LINE("      O", "*COM*", "tentative")};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        struct tidy t = look_at_symbols(states[i]);
        assert_int_equal(t.found[RULE_GLOBAL], 1);
        assert_int_equal(tidy_total(&t), 1);
    }
    struct tidy t = look_at_symbols(
        OBJECT("a") LINE("l     O", ".data.rel.ro.local", "names") LINE("l     O", ".rodata", "x")
            LINE("g     F", ".text", "a_b") OBJECT("b") LINE("      *", "*UND*", "a_b"));
    assert_int_equal(tidy_total(&t), 0);
    t = look_at_symbols(OBJECT("a") LINE("g     F", ".text", "a_b") LINE("l     F", ".text", "c"));
    assert_int_equal(t.found[RULE_UNUSED], 1);
    assert_int_equal(tidy_total(&t), 1);
    static const char objects[] = "base/CMakeFiles/b.dir/a.c.o\nbase/CMakeFiles/b.dir/x/b.c.o\n";
    assert_true(symbols_built(objects, "base/a.c"));
    assert_true(symbols_built(objects, "base/x/b.c"));
    assert_false(symbols_built(objects, "base/b.c"));
}

static void test_exceptions(void **state)
{
    (void)state;
    static const struct exception two[] = {
        {RULE_BANNED, "base/", "atoi", "planted"}, {RULE_BANNED, "model/", "atoi", "planted"}};
    struct tidy t;
    tidy_begin(&t, NULL);
    t.exceptions = two;
    t.n_exceptions = 2;
    tidy_report(&t, RULE_BANNED, "base/a.c", 1, "atoi");
    assert_int_equal(tidy_total(&t), 0);
    tidy_report(&t, RULE_BANNED, "base/a.c", 1, "atol");
    tidy_report(&t, RULE_NAME, "base/a.c", 1, "atoi");
    assert_int_equal(tidy_total(&t), 2);
    tidy_stale(&t, RULE_LICENCE, RULE_TYPEDEF); // the second excused nothing
    assert_int_equal(t.found[RULE_STALE], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_letters),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_functions),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_includes),
        cmocka_unit_test(test_symbols),
        cmocka_unit_test(test_exceptions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
