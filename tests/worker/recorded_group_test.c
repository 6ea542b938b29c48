// SPDX-License-Identifier: Apache-2.0
// Steps that a group of ranks has recorded, with the sums over ranks in them: the same bits as op
// by op, one or two plans under way; and what becomes of the others when a rank dies or stops while
// a recorded step runs.
#include "tests/test_support.h"

#include "tests/collectives/ranks.h"
#include "tests/worker/drive.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { DEGREE = 2, OUTPUT = 6 };

static const uint32_t prompt[3] = {1, 44, 91};

static struct rank_options options(bool eager)
{
    static char dir[512];
    snprintf(dir, sizeof dir, "%s/tests/golden/models/llama-gqa-sharded", test_source_dir());
    return (struct rank_options){.model_dir = dir,
        .device = "emu",
        .threads = 1,
        .no_spin = true,
        .max_model_len = 32,
        .max_num_seqs = 2,
        .max_num_batched_tokens = 16,
        .enforce_eager = eager,
        .kv_cache_bytes = 1 << 20};
}

static void run(bool eager, uint32_t depth, struct drive_request r[2])
{
    struct rank_options o = options(eager);
    struct drive d;
    for (uint32_t i = 0; i < 2; i++)
        r[i] = (struct drive_request){
            .prompt = prompt, .n_prompt = 2 + i, .n_output = OUTPUT + i, .slot = i};
    drive_open(&d, &o, DEGREE);
    d.depth = depth;
    drive_run(&d, (struct drive_request *[]){&r[0], &r[1]}, 2);
    drive_close(&d);
}

static void test_same_bits(void **state)
{
    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip(); // the threads of both ranks are more mappings in one process than the system allows
#endif
    static struct drive_request eager[2], recorded[2];
    run(true, 1, eager);
    for (uint32_t depth = 1; depth <= SESSION_STEPS_MAX; depth++) {
        run(false, depth, recorded);
        for (uint32_t i = 0; i < 2; i++)
            assert_true(drive_same(&eager[i], &recorded[i]));
    }
}

// ---- ranks that are processes ------------------------------------------------------------------

enum trouble { FOLLOWER_DIES, FOLLOWER_STOPS, LEADER_DIES };

// What the ranks of a test have in common.
struct scene {
    enum trouble kind;
    uint32_t timeout_ms;
    _Atomic int follower; // its process
};

static uint32_t write_plan(struct buf *b, uint64_t step, uint32_t n_ids)
{
    static const uint32_t table[2] = {0, 1};
    static const struct sampling_params greedy = {
        .top_p = 1, .typical_p = 1, .repetition_penalty = 1};
    struct plan_seq_parts p = {.head = {.flags = PLAN_SEQ_SAMPLE,
                                   .generation = 1,
                                   .attempt = 1,
                                   .first_position = n_ids - 1,
                                   .n_tokens = 1}};
    if (step == 1)
        p = (struct plan_seq_parts){.head = {.flags = PLAN_SEQ_SAMPLE | PLAN_SEQ_FIRST,
                                        .generation = 1,
                                        .attempt = 1,
                                        .n_tokens = n_ids,
                                        .n_ids = n_ids,
                                        .n_blocks = {2}},
            .ids = prompt,
            .blocks = {table},
            .params = &greedy,
            .prompt_length = n_ids};
    plan_begin(b, 1, step);
    plan_add_seq(b, &p);
    plan_end(b);
    return n_ids + 1;
}

// Prefill, a step op by op, one that is recorded, and one that is the recording; then the last one
// is under way when it happens. The follower is stopped first, so that it cannot have finished.
static int lead(struct rank *r, struct scene *s)
{
    struct error err = {0};
    struct buf b;
    const struct buf *answer;
    bool repeats;
    uint32_t n_ids = 3;
    buf_init(&b, LIMIT_PLAN_BYTES);
    WANT_OK(rank_reset(r, 1, 1, &err));
    for (uint64_t step = 1; step <= 4; step++) {
        n_ids = write_plan(&b, step, n_ids);
        WANT_OK(rank_execute(r, b.data, b.size, NULL, &answer, &err));
    }
    kill(s->follower, SIGSTOP);
    write_plan(&b, 5, n_ids);
    WANT_OK(rank_begin(r, b.data, b.size, NULL, &repeats, &err));
    for (int i = 0; i < 200; i++)
        WANT(rank_finish(r, false, &err) == STATUS_AGAIN);
    if (s->kind == LEADER_DIES) {
        kill(s->follower, SIGCONT);
        raise(SIGKILL);
    }
    if (s->kind == FOLLOWER_DIES)
        kill(s->follower, SIGKILL);
    enum status status = rank_finish(r, true, &err);
    fprintf(stderr, "rank 0: %s: %s\n", status_name(status), err.text);
    WANT(status == (s->kind == FOLLOWER_DIES ? STATUS_PEER_GONE : STATUS_TIMEOUT));
    kill(s->follower, SIGKILL);
    buf_deinit(&b);
    return 0;
}

static int rank_main(struct bootstrap *b, void *context)
{
    struct scene *s = context;
    struct rank_options o = options(false);
    struct rank *r = NULL;
    struct error err = {0};
    o.collective_timeout_ms = s->timeout_ms;
    if (b->rank == 1)
        s->follower = getpid();
    enum status status = rank_open(&o, b, NULL, &r, &err);
    if (status != STATUS_OK)
        fprintf(stderr, "rank %u: %s\n", b->rank, err.text);
    WANT_OK(status);
    int rc = 0;
    if (b->rank == 0)
        rc = lead(r, s);
    else
        rc = rank_follow(r, &err) == STATUS_OK; // it may not end well
    rank_close(r);
    return rc;
}

static void play(enum trouble kind, uint32_t timeout_ms)
{
    struct scene *s =
        mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(s != MAP_FAILED);
    s->kind = kind;
    s->timeout_ms = timeout_ms;
    assert_int_equal(ranks_fork(DEGREE, rank_main, s, kind == LEADER_DIES ? 1 : 2), 0);
    munmap(s, sizeof *s);
}

static void test_a_rank_dies(void **state)
{
    (void)state;
    play(FOLLOWER_DIES, 100000);
}

static void test_a_rank_stops(void **state)
{
    (void)state;
    play(FOLLOWER_STOPS, 4000);
}

static void test_rank_0_dies(void **state)
{
    (void)state;
    play(LEADER_DIES, 100000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_rank_dies),
        cmocka_unit_test(test_rank_0_dies),
        cmocka_unit_test(test_a_rank_stops),
        cmocka_unit_test(test_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
