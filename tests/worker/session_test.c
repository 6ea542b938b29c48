// SPDX-License-Identifier: Apache-2.0
// Plans that do not fit what a slot holds, repeats, epochs, damaged plans, copies of pages, logits
// that are no numbers; and how many pages a rank takes.
#include "tests/test_support.h"

#include "tests/worker/drive.h"
#include "worker/kv_cache.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint32_t prompt[20] = {
    1, 44, 91, 203, 17, 8, 99, 300, 12, 45, 76, 21, 333, 14, 65, 7, 400, 23, 9, 11};
static const uint32_t table[8] = {3, 9, 4, 0, 7, 1, 2, 5};
static const struct sampling_params greedy = {
    .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .n_logprobs = 3};

static struct rank_options options(const char *dir)
{
    return (struct rank_options){.model_dir = dir,
        .threads = 1,
        .no_spin = true,
        .max_num_seqs = 8,
        .max_num_batched_tokens = 64,
        .max_model_len = 96,
        .kv_cache_bytes = 4 << 20};
}

static const char *model_dir(void)
{
    return test_path(test_source_dir(), "tests/golden/models/llama-gqa-sharded");
}

// A group, and plans of one sequence in slot 2 for it.
struct fixture {
    struct local_group *group;
    struct rank *rank;
    struct buf plan;
    struct error err;
};

static void open_fixture(struct fixture *f, const char *dir, uint32_t degree)
{
    *f = (struct fixture){0};
    struct rank_options o = options(dir);
    if (local_open(&o, degree, &f->group, &f->err) != STATUS_OK)
        fail_msg("%s", f->err.text);
    f->rank = local_rank(f->group);
    buf_init(&f->plan, LIMIT_PLAN_BYTES);
}

static void close_fixture(struct fixture *f)
{
    if (local_close(f->group, &f->err) != STATUS_OK)
        fail_msg("%s", f->err.text);
    buf_deinit(&f->plan);
}

static struct plan_seq_parts first_parts(void)
{
    return (struct plan_seq_parts){.head = {.flags = PLAN_SEQ_FIRST | PLAN_SEQ_SAMPLE,
                                       .slot = 2,
                                       .generation = 5,
                                       .attempt = 1,
                                       .n_tokens = 20,
                                       .n_ids = 20,
                                       .n_blocks = {2}},
        .ids = prompt,
        .blocks = {table},
        .params = &greedy,
        .prompt_length = 20};
}

static struct plan_seq_parts next_parts(uint32_t position)
{
    return (struct plan_seq_parts){.head = {.flags = PLAN_SEQ_SAMPLE,
                                       .slot = 2,
                                       .generation = 5,
                                       .attempt = 1,
                                       .first_position = position,
                                       .n_tokens = 1},
        .blocks = {table + 2}};
}

static enum status run(struct fixture *f, uint64_t epoch, uint64_t step,
    const struct plan_seq_parts *parts, const struct buf **answer)
{
    plan_begin(&f->plan, epoch, step);
    if (parts)
        plan_add_seq(&f->plan, parts);
    plan_end(&f->plan);
    return rank_execute(f->rank, f->plan.data, f->plan.size, NULL, answer, &f->err);
}

static uint32_t only_id(const struct buf *answer)
{
    struct plan_cursor c = answer_seqs((const void *)answer->data), results;
    const struct answer_seq *seq;
    const struct answer_result *result;
    const struct answer_top *top;
    assert_true(answer_next_seq(&c, &seq, &results));
    assert_int_equal(seq->status, ANSWER_SEQ_OK);
    assert_true(answer_next_result(&results, &result, &top));
    return result->id;
}

static void test_repeat_and_gap(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, model_dir(), 2);
    const struct buf *answer;
    struct plan_seq_parts first = first_parts(), next = next_parts(20);
    assert_int_equal(run(&f, 1, 1, &first, &answer), STATUS_OK);
    uint8_t copy[4096];
    size_t n = answer->size;
    assert_true(n < sizeof copy);
    memcpy(copy, answer->data, n);
    assert_int_equal(run(&f, 1, 1, &first, &answer), STATUS_OK);
    assert_int_equal(answer->size, n);
    assert_memory_equal(answer->data, copy, n); // timings too: it is the stored one
    assert_int_equal(rank_last_step(f.rank), 1);
    assert_int_equal(run(&f, 1, 1, &next, &answer), STATUS_MISMATCH);
    assert_int_equal(run(&f, 1, 3, &next, &answer), STATUS_MISMATCH);
    assert_int_equal(run(&f, 2, 2, &next, &answer), STATUS_MISMATCH);
    assert_int_equal(run(&f, 0, 2, &next, &answer), STATUS_CONFLICT);
    assert_int_equal(run(&f, 1, 2, &next, &answer), STATUS_OK);
    uint32_t id = only_id(answer);
    // A new epoch knows nothing of the old one's sequences; the same request gives the same ids.
    assert_int_equal(rank_reset(f.rank, 7, 100, &f.err), STATUS_OK);
    assert_int_equal(run(&f, 7, 100, &next, &answer), STATUS_MISMATCH);
    assert_int_equal(run(&f, 7, 100, &first, &answer), STATUS_OK);
    assert_int_equal(run(&f, 1, 3, &next, &answer), STATUS_CONFLICT);
    assert_int_equal(run(&f, 7, 101, &next, &answer), STATUS_OK);
    assert_int_equal(only_id(answer), id);
    close_fixture(&f);
}

// Spoils a plan of the second step in way `which`; false behind the last one.
static bool spoil(uint32_t which, struct plan_seq_parts *p)
{
    switch (which) {
    case 0:
        p->head.slot = 3;
        return true;
    case 1:
        p->head.generation = 6;
        return true;
    case 2:
        p->head.attempt = 2;
        return true;
    case 3:
        p->head.first_position = 21;
        return true;
    case 4:
        p->head.n_tokens = 2;
        return true;
    case 5:
        p->head.first_position = 19;
        return true;
    case 6:
        p->head.block_begin[0] = 3;
        p->head.n_blocks[0] = 1;
        return true;
    case 7:
        p->head.flags |= PLAN_SEQ_SCORE;
        p->head.score_begin = 20;
        p->head.score_count = 1;
        return true;
    default:
        return false;
    }
}

static void test_misfits(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, model_dir(), 1);
    const struct buf *answer;
    struct plan_seq_parts p = first_parts();
    p.head.n_blocks[0] = 1;
    assert_int_equal(run(&f, 1, 1, &p, &answer), STATUS_MISMATCH); // 20 rows in one page of 16
    p = first_parts();
    assert_int_equal(run(&f, 1, 1, &p, &answer), STATUS_OK);
    uint32_t which = 0;
    for (;; which++) {
        p = next_parts(20);
        if (!spoil(which, &p))
            break;
        enum status s = run(&f, 1, 2, &p, &answer);
        if (s != STATUS_MISMATCH)
            fail_msg("misfit %u: %s", which, status_name(s));
    }
    assert_int_equal(which, 8);
    plan_begin(&f.plan, 1, 2);
    plan_add_release(&f.plan, 2, 4);
    plan_end(&f.plan);
    assert_int_equal(
        rank_execute(f.rank, f.plan.data, f.plan.size, NULL, &answer, &f.err), STATUS_MISMATCH);
    plan_begin(&f.plan, 1, 2);
    p = next_parts(20);
    plan_add_seq(&f.plan, &p);
    plan_add_release(&f.plan, 2, 5);
    plan_end(&f.plan);
    assert_int_equal(
        rank_execute(f.rank, f.plan.data, f.plan.size, NULL, &answer, &f.err), STATUS_MISMATCH);
    p = next_parts(20);
    assert_int_equal(run(&f, 1, 2, &p, &answer), STATUS_OK);
    // A slot that is released may begin again in the same plan.
    plan_begin(&f.plan, 1, 3);
    p = first_parts();
    p.head.generation = 6;
    plan_add_seq(&f.plan, &p);
    plan_add_release(&f.plan, 2, 5);
    plan_end(&f.plan);
    assert_int_equal(
        rank_execute(f.rank, f.plan.data, f.plan.size, NULL, &answer, &f.err), STATUS_OK);
    close_fixture(&f);
}

// A copy of a sequence's pages continues as the sequence itself does.
static void test_copies(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, model_dir(), 2);
    const struct buf *answer;
    struct plan_seq_parts p = first_parts();
    assert_int_equal(run(&f, 1, 1, &p, &answer), STATUS_OK);
    uint32_t id = only_id(answer);
    static const uint32_t copies[] = {20, 21};
    plan_begin(&f.plan, 1, 2);
    p.head.slot = 3;
    p.head.first_position = 19;
    p.head.n_tokens = 1;
    p.blocks[0] = copies;
    plan_add_seq(&f.plan, &p);
    plan_add_copy(&f.plan, 0, table[0], copies[0]);
    plan_add_copy(&f.plan, 0, table[1], copies[1]);
    plan_end(&f.plan);
    assert_int_equal(
        rank_execute(f.rank, f.plan.data, f.plan.size, NULL, &answer, &f.err), STATUS_OK);
    assert_int_equal(only_id(answer), id);
    close_fixture(&f);
}

// Words of a good plan are replaced at random under a valid hash. Whatever is let through must
// execute on both ranks; the group must live to the end.
static void test_damage(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, model_dir(), 2);
    const struct buf *answer;
    srand(3);
    uint32_t n_ok = 0, n_refused = 0;
    uint64_t step = 1;
    for (int i = 0; i < 4000; i++) {
        struct plan_seq_parts first = first_parts(), other = first_parts();
        plan_begin(&f.plan, 1, step);
        first.head.slot = (uint32_t)rand() % 8;
        other.head.slot = (first.head.slot + 1) % 8;
        other.head.flags = (uint32_t)rand() % 8;
        other.head.n_tokens = 1 + (uint32_t)rand() % 20;
        if (!(other.head.flags & PLAN_SEQ_FIRST))
            other.head.n_ids = 0;
        plan_add_seq(&f.plan, &first);
        plan_add_seq(&f.plan, &other);
        plan_end(&f.plan);
        struct plan_header *h = (void *)f.plan.data;
        uint32_t *word = (void *)(h + 1);
        for (int k = rand() % 4; k > 0; k--)
            word[rand() % (int)((f.plan.size - sizeof *h) / 4)] = (uint32_t)rand() % 64;
        h->hash = plan_hash(h);
        enum status s = rank_execute(f.rank, f.plan.data, f.plan.size, NULL, &answer, &f.err);
        if (s == STATUS_OK) {
            assert_int_equal(
                answer_check(answer->data, answer->size, &rank_info(f.rank)->limits, NULL),
                STATUS_OK);
            n_ok++;
            step++;
        } else {
            assert_true(s == STATUS_INVALID || s == STATUS_UNSUPPORTED || s == STATUS_MISMATCH);
            n_refused++;
        }
    }
    assert_true(n_ok > 100 && n_refused > 1000);
    close_fixture(&f);
}

// ---- a model that computes NaN for one token id ------------------------------------------------

static void copy_file(const char *from, const char *to)
{
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    assert_non_null(in);
    assert_non_null(out);
    char block[65536];
    size_t n;
    while ((n = fread(block, 1, sizeof block, in)) > 0)
        assert_int_equal(fwrite(block, 1, n, out), n);
    fclose(in);
    fclose(out);
}

// Makes the embedding of token 300 a NaN in a copy of a model with bf16 weights.
static void make_broken_model(const char *dir)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    const char *from = test_path(test_source_dir(), "tests/golden/models/llama-mha-bf16");
    for (int i = 0; i < 2; i++)
        copy_file(test_path(from, files[i]), test_path(dir, files[i]));
    FILE *f = fopen(test_path(dir, "model.safetensors"), "r+b");
    uint64_t header_bytes;
    assert_int_equal(fread(&header_bytes, 8, 1, f), 1);
    char *text = calloc(1, header_bytes + 1);
    assert_int_equal(fread(text, 1, header_bytes, f), header_bytes);
    json_t *header = json_loads(text, 0, NULL);
    const json_t *tensor = json_object_get(header, "model.embed_tokens.weight");
    json_int_t begin =
        json_integer_value(json_array_get(json_object_get(tensor, "data_offsets"), 0));
    json_int_t dim = json_integer_value(json_array_get(json_object_get(tensor, "shape"), 1));
    assert_true(dim > 0);
    const uint16_t nan_bf16 = 0x7fc0;
    fseek(f, (long)(8 + header_bytes) + (long)(begin + 300 * dim * 2), SEEK_SET);
    assert_int_equal(fwrite(&nan_bf16, 2, 1, f), 1);
    fclose(f);
    json_decref(header);
    free(text);
}

static void test_bad_logits(void **state)
{
    (void)state;
    char dir[] = "/tmp/phalanx-worker-test-XXXXXX";
    assert_non_null(mkdtemp(dir));
    make_broken_model(dir);
    for (uint32_t degree = 1; degree <= 2; degree++) {
        struct rank_options o = options(dir);
        struct drive d;
        drive_open(&d, &o, degree);
        static const uint32_t good[] = {1, 5, 9}, bad[] = {1, 300, 9};
        struct drive_request alone = {.prompt = good, .n_prompt = 3, .n_output = 6};
        struct drive_request with = alone, broken = {.prompt = bad, .n_prompt = 3, .n_output = 6};
        broken.slot = 1;
        with.slot = 2;
        drive_run_one(&d, &alone);
        struct drive_request *both[] = {&broken, &with};
        drive_run(&d, both, 2);
        assert_true(broken.bad_logits);
        assert_int_equal(broken.n_results, 0);
        assert_false(with.bad_logits);
        assert_true(drive_same(&alone, &with));
        drive_close(&d);
    }
    unlink(test_path(dir, "config.json"));
    unlink(test_path(dir, "model.safetensors"));
    rmdir(dir);
}

// ---- start-up ----------------------------------------------------------------------------------

static void test_sizes(void **state)
{
    (void)state;
    struct bill_kv bill = {.dtype = DTYPE_F32,
        .block_tokens = 16,
        .n_groups = 1,
        .block_bytes = {1000},
        .block_bytes_all = 1000};
    struct kv_cache_wish w = {.available_bytes = 1000000,
        .default_percent = 50,
        .n_sharing = 2,
        .max_num_seqs = 4,
        .default_model_len = 64};
    uint32_t blocks = 0, len = 0;
    struct error err = {0};
    // What four sequences of 64 tokens need.
    assert_int_equal(kv_cache_size(&bill, &w, &blocks, &len, &err), STATUS_OK);
    assert_int_equal(blocks, 16);
    assert_int_equal(len, 64);
    // A rank's share of half of the memory is less than one sequence of full length.
    w.default_model_len = 100000;
    assert_int_equal(kv_cache_size(&bill, &w, &blocks, &len, &err), STATUS_OK);
    assert_int_equal(blocks, 250);
    assert_int_equal(len, 4000);
    w.percent = 80;
    assert_int_equal(kv_cache_size(&bill, &w, &blocks, &len, &err), STATUS_OK);
    assert_int_equal(blocks, 400);
    w.percent = 0;
    w.max_model_len = 4001;
    assert_int_equal(kv_cache_size(&bill, &w, &blocks, &len, &err), STATUS_NO_MEMORY);
    w.budget_bytes = 251000;
    assert_int_equal(kv_cache_size(&bill, &w, &blocks, &len, &err), STATUS_OK);
    assert_int_equal(blocks, 251);
    w.budget_bytes = 999;
    w.max_model_len = 0;
    assert_int_equal(kv_cache_size(&bill, &w, &blocks, &len, &err), STATUS_NO_MEMORY);
    assert_true(strstr(err.text, "--kv-cache-memory") != NULL);
}

// Every rank fails with the sentence of the one that found the fault, and none is left waiting.
static void test_refused_starts(void **state)
{
    (void)state;
    struct local_group *g;
    struct error err = {0};
    struct rank_options o = options("/nonexistent");
    assert_int_not_equal(local_open(&o, 4, &g, &err), STATUS_OK);
    assert_true(strstr(err.text, "/nonexistent") != NULL);
    o = options(model_dir());
    assert_int_equal(local_open(&o, 3, &g, &err), STATUS_INVALID);
    assert_true(strstr(err.text, "1, 2, 4, 8") != NULL);
    o.block_tokens = 12;
    assert_int_equal(local_open(&o, 2, &g, &err), STATUS_INVALID);
    o = options(model_dir());
    o.max_model_len = 100000;
    assert_int_equal(local_open(&o, 2, &g, &err), STATUS_TOO_LARGE);
    o = options(model_dir());
    o.kv_cache_bytes = 1000;
    assert_int_equal(local_open(&o, 2, &g, &err), STATUS_NO_MEMORY);
    o = options(model_dir());
    o.dtype = "f8";
    assert_int_equal(local_open(&o, 2, &g, &err), STATUS_INVALID);
    o = options(model_dir());
    o.isa = "sse9";
    assert_int_not_equal(local_open(&o, 2, &g, &err), STATUS_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_repeat_and_gap),
        cmocka_unit_test(test_misfits),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_bad_logits),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_refused_starts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
