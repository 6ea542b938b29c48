// SPDX-License-Identifier: Apache-2.0
// Loading of back ends: where they are looked for, and what is said where there is none, none that
// fits, or no GPU.
#include "tests/test_support.h"

#include "kernels/plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// The folder that plugins are built into.
static const char *bin(void)
{
    const char *dir = getenv("PHALANX_BIN");
    assert_non_null(dir);
    return dir;
}

static void test_unknown(void **state)
{
    (void)state;
    const struct kernels *k = NULL;
    struct error err = {0};
    assert_int_equal(kernels_find("tpu", &k, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "cpu, cuda or emu"));
    assert_null(k);
}

static void test_absent(void **state)
{
    (void)state;
    const struct kernels *k = NULL;
    struct error err = {0};
    setenv("PHALANX_PLUGIN_DIR", "/nowhere", 1);
    assert_int_equal(kernels_find("emu", &k, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "libphalanx_emu.so"));
    unsetenv("PHALANX_PLUGIN_DIR"); // beside this program there is none either
    assert_int_equal(kernels_find("cuda", &k, &err), STATUS_UNSUPPORTED);
    assert_null(k);
}

// A file of that name that is no library, and a library that is no plugin.
static void test_no_plugin(void **state)
{
    (void)state;
    const struct kernels *k = NULL;
    struct error err = {0};
    char dir[] = "/tmp/phalanx-plugin-XXXXXX", path[128];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/libphalanx_emu.so", dir);
    FILE *f = fopen(path, "w");
    fputs("not a library", f);
    fclose(f);
    setenv("PHALANX_PLUGIN_DIR", dir, 1);
    assert_int_equal(kernels_find("emu", &k, &err), STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "cannot be loaded"));
    unlink(path);
    rmdir(dir);
    assert_null(k);
}

static void test_emulated(void **state)
{
    (void)state;
    const struct plugin *p;
    struct error err = {0};
    struct plugin_device d[PLUGIN_DEVICES_MAX];
    uint32_t n = 0;
    setenv("PHALANX_PLUGIN_DIR", bin(), 1);
    if (plugin_load("emu", &p, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    assert_string_equal(p->kernels->name, "emu");
    assert_int_equal(p->devices(d, &n, &err), STATUS_OK);
    assert_int_equal(n, 1);
    assert_int_equal(d[0].cc_major, 8);
}

// The library loads without a driver, and says what is missing; with a GPU it is used.
static void test_cuda(void **state)
{
    (void)state;
    const struct kernels *k = NULL;
    struct error err = {0};
    char path[4096];
    snprintf(path, sizeof path, "%s/libphalanx_cuda.so", bin());
    if (access(path, R_OK) != 0) {
        print_message("skipped: this build has no libphalanx_cuda.so\n");
        return;
    }
    setenv("PHALANX_PLUGIN_DIR", bin(), 1);
    enum status s = kernels_find("cuda", &k, &err);
    if (s == STATUS_OK) {
        assert_string_equal(k->name, "cuda");
        return;
    }
    print_message("%s\n", err.text);
    assert_int_equal(s, STATUS_UNSUPPORTED);
    assert_non_null(strstr(err.text, "no GPU can be used: "));
    assert_null(strchr(err.text, '\n'));
    assert_null(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_absent), cmocka_unit_test(test_no_plugin),
        cmocka_unit_test(test_emulated), cmocka_unit_test(test_cuda)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
