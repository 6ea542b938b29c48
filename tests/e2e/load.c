// SPDX-License-Identifier: Apache-2.0
#include "tests/e2e/load.h"

#include <signal.h>
#include <stdlib.h>

void load_make(struct load *l, int n, unsigned seed)
{
    assert_in_range(n, 1, LOAD_MAX);
    l->n = n;
    srand(seed);
    for (int k = 0; k < n; k++)
        for (int i = 0; i < LOAD_PROMPT; i++)
            l->prompt[k][i] = 3 + (uint32_t)rand() % 500;
}

void load_send(const struct load *l, struct crowd *w, struct answer *out)
{
    for (uint32_t k = 0; k < (uint32_t)l->n; k++) {
        Phalanx__Submit s = crowd_request(l->prompt[k], 1 + k, LOAD_OUTPUT);
        s.temperature = (float)(k % 2);
        s.has_seed = 1;
        s.seed = k;
        crowd_send(w, &s, &out[k]);
    }
}

void load_wait_under_way(const struct load *l, struct crowd *w, const struct answer *out)
{
    for (int tries = 0; tries < 20000; tries++) {
        int begun = 0;
        assert_int_equal(crowd_poll(w), l->n);
        for (int k = 0; k < l->n; k++)
            begun += out[k].n >= 5;
        if (begun == l->n)
            return;
        cluster_sleep_ms(1);
    }
    fail_msg("the requests do not begin");
}

void load_expect_same(const struct load *l, const struct answer *got)
{
    for (int k = 0; k < l->n; k++)
        if (!cluster_answer_same(&l->expected[k], &got[k]))
            fail_msg("request %d differs from itself in peace", k);
}

void load_signal_rank(const struct cluster *c, uint32_t rank, int number)
{
    pid_t workers[CLUSTER_PIDS_MAX];
    assert_int_equal(cluster_pids(c, "phalanx-worker", workers), 2);
    assert_int_equal(kill(workers[rank], number), 0);
}
