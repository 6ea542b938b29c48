// SPDX-License-Identifier: Apache-2.0
// Golden models of the repository through the whole chain, each on as many ranks as it can be cut
// into; with --all every one of them, on one rank too; with --zoo those of the shared oracle whose
// family is served; with --emu one of them on an emulated device.
#include "tests/e2e/golden_check.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_model(const char *dir, bool widest_only)
{
    uint32_t degrees[8], n = golden_degrees(dir, degrees);
    struct golden *g = golden_open(dir);
    assert_true(n >= 2);
    for (uint32_t i = widest_only ? n - 1 : 0; i < n; i += n - 1) {
        char degree[16];
        snprintf(degree, sizeof degree, "%u", degrees[i]);
        golden_check(dir, g, degree);
    }
    golden_close(g);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int not_hidden(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

// A family that is not served is refused by serve, with a sentence that names it.
static void check_refused(const char *dir)
{
    struct cluster c;
    cluster_spawn(&c, dir, NULL);
    assert_int_equal(cluster_wait(&c), 1);
    if (!strstr(c.serve.err, "not supported"))
        fail_msg("%s: %s", dir, c.serve.err);
    command_free(&c.serve);
}

static int check_folder(const char *path, bool refused_too)
{
    char folder[512];
    snprintf(folder, sizeof folder, "%s", path);
    struct dirent **list;
    int n = scandir(folder, &list, not_hidden, by_name), done = 0;
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        char dir[1024];
        uint32_t degrees[8];
        snprintf(dir, sizeof dir, "%s/%s", folder, list[i]->d_name);
        free(list[i]);
        if (golden_degrees(dir, degrees) > 0) {
            check_model(dir, false);
            done++;
        } else if (refused_too) {
            check_refused(dir);
        }
    }
    free(list);
    return done;
}

static void test_own_models(void **state)
{
    (void)state;
    assert_true(check_folder(test_path(test_source_dir(), "tests/golden/models"), false) >= 18);
}

// One model of each kind of weights and of positions.
static void test_some_models(void **state)
{
    static const char *const names[] = {"llama-bias", "llama-gqa-sharded", "llama-mha-bf16",
        "llama-mqa-f16", "llama-tied-headdim", "mistral-window24", "rope-dynamic", "rope-llama3",
        "rope-yarn"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char dir[512];
        snprintf(dir, sizeof dir, "%s/tests/golden/models/%s", test_source_dir(), names[i]);
        check_model(dir, true);
    }
}

// A served model on the emulated device, its sums over two ranks too.
static void test_emulated(void **state)
{
    (void)state;
    char dir[512];
    snprintf(dir, sizeof dir, "%s/tests/golden/models/llama-gqa-sharded", test_source_dir());
    setenv("PHALANX_DEVICE", "emu", 1);
    struct golden *g = golden_open(dir);
    g->n_prompts = 3; // the last one is long
    golden_check(dir, g, "1");
    golden_check(dir, g, "2");
    golden_close(g);
}

static void test_zoo(void **state)
{
    (void)state;
    const char *shared = test_shared_dir();
    if (shared)
        assert_true(check_folder(test_path(shared, "oracle/zoo"), true) >= 9);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest some[] = {cmocka_unit_test(test_some_models)};
    const struct CMUnitTest own[] = {cmocka_unit_test(test_own_models)};
    const struct CMUnitTest zoo[] = {cmocka_unit_test(test_zoo)};
    const struct CMUnitTest emulated[] = {cmocka_unit_test(test_emulated)};
    if (argc > 1 && strcmp(argv[1], "--emu") == 0)
        return cmocka_run_group_tests(emulated, NULL, NULL);
    if (argc > 1 && strcmp(argv[1], "--all") == 0)
        return cmocka_run_group_tests(own, NULL, NULL);
    if (argc > 1 && strcmp(argv[1], "--zoo") == 0)
        return cmocka_run_group_tests(zoo, NULL, NULL);
    return cmocka_run_group_tests(some, NULL, NULL);
}
