// SPDX-License-Identifier: Apache-2.0
// The whole forward pass against Hugging Face's numbers: every log-probability that comes back,
// of scored prompt tokens and of sampled ones, and the greedy ids, at every degree.
// With --shared it runs over the shared oracles instead of the repository's own models, with --emu
// over the repository's own ones on the emulated device, with --emu-few over some of them.
// docs/models.md must have the table of what was seen; --table FILE writes that file's table anew.
#include "tests/test_support.h"

#include "base/check.h"
#include "model/arch.h"
#include "model/shard.h"
#include "tests/model/scratch_dir.h"
#include "tests/worker/drive.h"
#include "tests/worker/golden.h"
#include "tests/worker/models_page.h"

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// A scored or first sampled row against the whole row of logits.
static void compare_row(struct golden_worst *w, const struct golden *g,
    const struct golden_prompt *p, const struct drive_result *r)
{
    const double *expected = golden_row(g, p, r->position - 1);
    if (!expected)
        return;
    golden_compare(w, (double)r->logprob, expected[r->id]);
    uint32_t rank = 1;
    for (uint32_t i = 0; i < g->vocab_size; i++)
        rank += expected[i] > expected[r->id] + 1e-3;
    assert_true(r->rank >= rank);
    for (uint32_t i = 0; i < r->n_top; i++)
        golden_compare(w, (double)r->top[i].logprob, expected[r->top[i].id]);
}

static void compare_step(
    struct golden_worst *w, const struct golden_prompt *p, const struct drive_result *r)
{
    if (r->kind == ANSWER_SCORED && p->nll)
        golden_compare(w, (double)r->logprob, -p->nll[r->position - 1]);
    if (r->kind != ANSWER_SAMPLED)
        return;
    uint32_t step = r->position - p->n_ids;
    if (p->greedy_logprob)
        golden_compare(w, (double)r->logprob, p->greedy_logprob[step]);
    // Log-probabilities are given to 5 digits; tops that nearly tie may come in another order.
    for (uint32_t k = 0; p->top && k < GOLDEN_TOPS; k++)
        for (uint32_t i = 0; i < r->n_top; i++)
            if (r->top[i].id == p->top[step][k].id)
                golden_compare(w, (double)r->top[i].logprob, (double)p->top[step][k].logprob);
}

static void check_prompt(struct golden_worst *w, const struct golden *g,
    const struct golden_prompt *p, const struct drive_request *r)
{
    assert_int_equal(r->n_results, p->n_ids - 1 + r->n_output);
    for (uint32_t i = 0; i < r->n_results; i++) {
        compare_row(w, g, p, &r->result[i]);
        compare_step(w, p, &r->result[i]);
    }
    for (uint32_t i = 0; i < r->n_output; i++)
        if (r->ids[p->n_ids + i] != p->greedy[i])
            fail_msg("%s: greedy id %u is %u, expected %u", g->dir, i, r->ids[p->n_ids + i],
                p->greedy[i]);
}

enum { BRIEF_PROMPTS = 1, BRIEF_OUTPUT = 4 };

// Where it is computed, and by how many ranks; degrees that a model cannot be cut into are left
// out.
struct run {
    const char *device;
    uint32_t degree[8], n_degrees;
    struct models_page *page; // NULL: nobody writes it down
    const char *files;        // of the model, if they are not where the numbers are
    bool brief;               // few prompts and steps
};

static struct drive_request *new_request(const struct golden *g, const struct run *run, uint32_t k)
{
    struct drive_request *r = calloc(1, sizeof *r);
    r->prompt = g->prompt[k].ids;
    r->n_prompt = g->prompt[k].n_ids;
    r->n_output = run->brief ? BRIEF_OUTPUT : g->prompt[k].n_greedy;
    r->slot = k;
    r->score = true;
    return r;
}

// All prompts in one batch, and then each alone and in pieces: the same bits.
static void check_prompts(
    const struct golden *g, const struct run *run, struct drive *d, struct golden_worst *w)
{
    struct drive_request *r[GOLDEN_PROMPTS_MAX];
    uint32_t n = run->brief ? BRIEF_PROMPTS : g->n_prompts;
    for (uint32_t k = 0; k < n; k++)
        r[k] = new_request(g, run, k);
    drive_run(d, r, n);
    for (uint32_t k = 0; k < n; k++) {
        check_prompt(w, g, &g->prompt[k], r[k]);
        struct drive_request *alone = new_request(g, run, k);
        alone->chunk = 5 + k;
        drive_run_one(d, alone);
        if (!drive_same(r[k], alone))
            fail_msg("%s: prompt %u alone and in pieces differs", g->dir, k);
        free(alone);
    }
    for (uint32_t k = 0; k < n; k++)
        free(r[k]);
}

// At one degree; `whole`: experts are placed whole.
static void check_degree(const struct golden *g, const struct run *run, uint32_t degree, bool whole)
{
    struct rank_options o = {.model_dir = run->files ? run->files : g->dir,
        .device = run->device,
        .threads = 1,
        .no_spin = true,
        .max_model_len = g->max_model_len,
        .max_num_seqs = GOLDEN_PROMPTS_MAX,
        .kv_cache_bytes = 64 << 20,
        .expert_parallel = whole};
    struct drive d;
    struct golden_worst w = {0};
    drive_open(&d, &o, degree);
    check_prompts(g, run, &d, &w);
    drive_close(&d);
    print_message("%-28s degree %u%s: %6u log-probabilities, worst %.1e\n",
        strrchr(g->dir, '/') + 1, degree, whole ? ", experts whole" : "", w.n, w.error);
    assert_true(w.n > (run->brief ? 20 : 100));
    assert_true(w.error <= 1e-3);
    if (run->page)
        models_page_add(run->page, g->dir, degree, w.error);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int not_hidden(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

// The model with activations of 32 bits, for a device that takes them from the config: its files
// under the same names, but for that.
static const char *write_wide(const char *dir)
{
    const char *scratch = scratch_dir_make();
    struct dirent **list;
    int n = scandir(dir, &list, not_hidden, by_name);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        const char *name = list[i]->d_name;
        if (strcmp(name, "config.json") != 0)
            assert_int_equal(symlink(test_path(dir, name), test_path(scratch, name)), 0);
        free(list[i]);
    }
    free(list);
    json_t *config = json_load_file(test_path(dir, "config.json"), 0, NULL);
    assert_non_null(config);
    json_object_set_new(config, "dtype", json_string("float32"));
    assert_int_equal(json_dump_file(config, test_path(scratch, "config.json"), 0), 0);
    json_decref(config);
    return scratch;
}

static void check_model(const char *dir, const struct run *run)
{
    struct golden *g = golden_open(dir);
    struct model_config m;
    arch_read(dir, &m, NULL, NULL);
    for (uint32_t i = 0; i < run->n_degrees; i++) {
        struct shard s = {.tp_size = run->degree[i]};
        if (shard_check(&m, s.tp_size, NULL) != STATUS_OK)
            continue;
        check_degree(g, run, s.tp_size, false);
        if (s.tp_size > 1 && shard_place_experts(&m, &s, NULL) == STATUS_OK)
            check_degree(g, run, s.tp_size, true);
    }
    golden_close(g);
}

// Every model of a folder whose architecture is known. Returns how many there were.
static uint32_t check_folder(const char *path, const struct run *run)
{
    char folder[256]; // the path lies in a ring of buffers that is used again
    snprintf(folder, sizeof folder, "%s", path);
    struct dirent **list;
    int n = scandir(folder, &list, not_hidden, by_name);
    assert_true(n > 0);
    uint32_t done = 0;
    for (int i = 0; i < n; i++) {
        char dir[512];
        snprintf(dir, sizeof dir, "%s/%s", folder, list[i]->d_name);
        struct model_config m;
        struct error err = {0};
        if (arch_read(dir, &m, NULL, &err) == STATUS_OK) {
            check_model(dir, run);
            done++;
        } else {
            print_message("%-28s left out: %s\n", list[i]->d_name, err.text);
        }
        free(list[i]);
    }
    free(list);
    return done;
}

static const struct run on_cpu = {.device = "cpu", .degree = {1, 2, 3, 4, 6, 8}, .n_degrees = 6};

static void test_own_models(void **state)
{
    struct run run = on_cpu;
    run.page = *state;
    assert_true(check_folder(test_path(test_source_dir(), "tests/golden/models"), &run) >= 15);
}

static void test_own_families(void **state)
{
    struct run run = on_cpu;
    run.page = *state;
    assert_true(check_folder(test_path(test_source_dir(), "tests/golden/families"), &run) >= 49);
}

static char *page_text(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *text = calloc(1, 65536);
    assert_true(f && text && fread(text, 1, 65535, f) > 0);
    fclose(f);
    return text;
}

// Comes behind the two tests above.
static void test_page_is_current(void **state)
{
    struct buf table;
    buf_init(&table, 65536);
    models_page_print(*state, &table);
    char *page = page_text(test_path(test_source_dir(), "docs/models.md"));
    size_t n = 0;
    const char *old = models_page_find(page, &n);
    assert_false(buf_failed(&table));
    if (!old || n != table.size || memcmp(old, table.data, n) != 0)
        fail_msg("docs/models.md is not current: worker_golden_test --table docs/models.md");
    free(page);
    buf_deinit(&table);
}

static void write_table(const struct models_page *p, const char *path)
{
    struct buf table;
    buf_init(&table, 65536);
    models_page_print(p, &table);
    char *page = page_text(path);
    size_t n = 0;
    const char *old = models_page_find(page, &n);
    assert_non_null(old);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(page, 1, (size_t)(old - page), f);
    fwrite(table.data, 1, table.size, f);
    fputs(old + n, f);
    assert_int_equal(fclose(f), 0);
    free(page);
    buf_deinit(&table);
}

static void test_shared_zoo(void **state)
{
    (void)state;
    if (!test_shared_dir()) {
        print_message("skipped: no ../shared\n");
        return;
    }
    assert_true(check_folder(test_path(test_shared_dir(), "oracle/zoo"), &on_cpu) >= 34);
}

static void test_shared_models(void **state)
{
    (void)state;
    if (!test_shared_dir()) {
        print_message("skipped: no ../shared\n");
        return;
    }
    assert_true(check_folder(test_path(test_shared_dir(), "oracle/models"), &on_cpu) == 3);
}

// ---- the emulated device -----------------------------------------------------------------------

static const struct run on_emu = {.device = "emu", .degree = {1, 2}, .n_degrees = 2, .brief = true};
// To the thread sanitizer each emulated thread is nine mappings, of which the system allows a
// process about 65,000: the sums over ranks, with many blocks of 512 threads at once on each, do
// not fit. Their own tests do.
#if defined(__SANITIZE_THREAD__)
static const struct run on_emu_few = {
    .device = "emu", .degree = {1}, .n_degrees = 1, .brief = true};
#else
static const struct run on_emu_few = {
    .device = "emu", .degree = {2}, .n_degrees = 1, .brief = true};
#endif

static void check_emulated(const char *folder, const char *name, struct run run)
{
    char dir[512];
    snprintf(dir, sizeof dir, "%s/tests/golden/%s/%s", test_source_dir(), folder, name);
    run.files = write_wide(dir);
    check_model(dir, &run);
    scratch_dir_remove();
}

static void check_emulated_folder(const char *folder)
{
    char path[512];
    struct dirent **list;
    snprintf(path, sizeof path, "%s/tests/golden/%s", test_source_dir(), folder);
    int n = scandir(path, &list, not_hidden, by_name);
    assert_true(n >= 15);
    for (int i = 0; i < n; i++) {
        check_emulated(folder, list[i]->d_name, on_emu);
        free(list[i]);
    }
    free(list);
}

static void test_emulated_models(void **state)
{
    (void)state;
    check_emulated_folder("models");
}

static void test_emulated_families(void **state)
{
    (void)state;
    check_emulated_folder("families");
}

// Between them: learned positions, an embedding of another width, ALiBi, norms over all heads,
// clipped projections, windows, mixtures of experts with and without a shared one.
static void test_emulated_few(void **state)
{
    (void)state;
    static const char *const few[] = {
        "mixtral-window", "mpt-6heads-options", "olmo2-gqa", "opt-350m", "qwen2-moe-layers"};
    for (size_t i = 0; i < COUNT_OF(few); i++)
        check_emulated("families", few[i], on_emu_few);
}

int main(int argc, char **argv)
{
    struct models_page *page = models_page_open();
    const struct CMUnitTest own[] = {
        cmocka_unit_test_prestate(test_own_models, page),
        cmocka_unit_test_prestate(test_own_families, page),
        cmocka_unit_test_prestate(test_page_is_current, page),
    };
    const struct CMUnitTest shared[] = {
        cmocka_unit_test(test_shared_zoo), cmocka_unit_test(test_shared_models)};
    const struct CMUnitTest emulated[] = {
        cmocka_unit_test(test_emulated_models), cmocka_unit_test(test_emulated_families)};
    const struct CMUnitTest few[] = {cmocka_unit_test(test_emulated_few)};
    int failed;
    if (argc > 1 && strcmp(argv[1], "--shared") == 0)
        failed = cmocka_run_group_tests(shared, NULL, NULL);
    else if (argc > 1 && strcmp(argv[1], "--emu") == 0)
        failed = cmocka_run_group_tests(emulated, NULL, NULL);
    else if (argc > 1 && strcmp(argv[1], "--emu-few") == 0)
        failed = cmocka_run_group_tests(few, NULL, NULL);
    else
        failed = cmocka_run_group_tests(own, NULL, NULL);
    if (argc > 2 && strcmp(argv[1], "--table") == 0)
        write_table(page, argv[2]);
    models_page_close(page);
    return failed;
}
