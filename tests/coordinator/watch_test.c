// SPDX-License-Identifier: Apache-2.0
// A group that hangs is told from one that is slow, starved or comes back; and the processor time
// of another process is really read.
#include "tests/test_support.h"

#include "coordinator/watch.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RANKS = 3, SECOND = 1000000, TICK = 500000, NEVER = 1000 * SECOND };

static struct watch w;
static uint64_t now, cpu[RANKS];

static int begin(void **state)
{
    (void)state;
    w = (struct watch){.n_ranks = RANKS, .n_plans = 1};
    now = 77 * (uint64_t)SECOND;
    memset(cpu, 0, sizeof cpu);
    watch_heard(&w, now);
    return 0;
}

// Lets `us` pass in which rank r uses share[r] thousandths of a processor; returns how much of it
// had passed when the group was found to hang.
static uint64_t pass(uint64_t us, const unsigned share[RANKS], uint32_t *rank)
{
    for (uint64_t passed = 0; passed < us; passed += TICK) {
        now += TICK;
        for (int r = 0; r < RANKS; r++)
            cpu[r] += (uint64_t)TICK / 1000 * share[r];
        if (watch_due(&w, now) && watch_judge(&w, cpu, now, rank))
            return passed + TICK;
    }
    return NEVER;
}

static void test_stopped(void **state)
{
    (void)state;
    for (uint32_t stopped = 0; stopped < RANKS; stopped++) {
        unsigned share[RANKS] = {900, 10, 900}; // one spins, one sleeps while it waits
        uint32_t rank;
        begin(NULL);
        share[stopped] = 0;
        uint64_t after = pass(60 * (uint64_t)SECOND, share, &rank);
        assert_true(after <= 10 * (uint64_t)SECOND);
        assert_int_equal(rank, stopped);
    }
}

// A layer that takes a minute, on a machine that gives a rank little.
static void test_slow(void **state)
{
    (void)state;
    const unsigned share[RANKS] = {1, 900, 5};
    uint32_t rank;
    assert_int_equal(pass(60 * (uint64_t)SECOND, share, &rank), NEVER);
    watch_heard(&w, now);
    assert_int_equal(pass(110 * (uint64_t)SECOND, share, &rank), NEVER);
}

// An endless loop.
static void test_for_ever(void **state)
{
    (void)state;
    const unsigned share[RANKS] = {900, 900, 900};
    uint32_t rank;
    uint64_t after = pass(300 * (uint64_t)SECOND, share, &rank);
    assert_true(after >= WATCH_SLOW_US && after <= WATCH_SLOW_US + 10 * (uint64_t)SECOND);
    assert_int_equal(rank, RANKS);
}

// Idle: only rank 0 runs, and it speaks. Silent, it matters whether it runs; and a plan that goes
// out in the end finds ranks that have not run for long, and do not hang.
static void test_idle(void **state)
{
    (void)state;
    const unsigned share[RANKS] = {1, 0, 0}, well[RANKS] = {5, 5, 5}, stopped[RANKS] = {0};
    uint32_t rank;
    watch_answered(&w);
    watch_answered(&w); // a repeated one
    for (int i = 0; i < 100; i++) {
        assert_int_equal(pass(SECOND, share, &rank), NEVER);
        watch_heard(&w, now);
    }
    assert_int_equal(pass(66 * (uint64_t)SECOND, share, &rank), NEVER);
    watch_planned(&w);
    assert_int_equal(pass(10 * (uint64_t)SECOND, well, &rank), NEVER);
    watch_answered(&w);
    watch_heard(&w, now);
    assert_true(pass(60 * (uint64_t)SECOND, stopped, &rank) <= 10 * (uint64_t)SECOND);
    assert_int_equal(rank, 0);
}

// Stopped for a while, time and again, and a machine that sleeps for an hour: nobody hangs.
static void test_comes_back(void **state)
{
    (void)state;
    const unsigned stopped[RANKS] = {500, 0, 500}, well[RANKS] = {500, 500, 500};
    uint32_t rank;
    for (int i = 0; i < 20; i++) {
        assert_int_equal(pass(4 * (uint64_t)SECOND, stopped, &rank), NEVER);
        assert_int_equal(pass(SECOND, well, &rank), NEVER);
    }
    watch_heard(&w, now);
    now += 3600 * (uint64_t)SECOND;
    assert_false(watch_judge(&w, cpu, now, &rank));
    assert_int_equal(pass(60 * (uint64_t)SECOND, well, &rank), NEVER);
}

static void test_reads_other_processes(void **state)
{
    (void)state;
    uint64_t before[3], after[3];
    pid_t child = fork();
    if (child == 0)
        for (prctl(PR_SET_PDEATHSIG, SIGKILL);;)
            ;
    struct watch three = {.n_ranks = 3, .pid = {(uint32_t)child, 0x7fffffff, 0}};
    struct timespec t = {0, 50000000};
    watch_read(&three, before);
    for (int i = 0; i < 200; i++) {
        nanosleep(&t, NULL);
        watch_read(&three, after);
        if (after[0] > before[0] + WATCH_RUN_US)
            break;
    }
    assert_true(after[0] > before[0] + WATCH_RUN_US);
    assert_true(after[1] == 0 && after[2] == 0); // there are no such processes
    int wait_status;
    kill(child, SIGSTOP);
    assert_int_equal(waitpid(child, &wait_status, WUNTRACED), child);
    for (int i = 0; i < 200 && before[0] != after[0]; i++) { // it is told before it is so
        watch_read(&three, before);
        nanosleep(&t, NULL);
        watch_read(&three, after);
    }
    assert_int_equal(after[0], before[0]);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_stopped, begin),
        cmocka_unit_test_setup(test_slow, begin),
        cmocka_unit_test_setup(test_for_ever, begin),
        cmocka_unit_test_setup(test_idle, begin),
        cmocka_unit_test_setup(test_comes_back, begin),
        cmocka_unit_test(test_reads_other_processes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
