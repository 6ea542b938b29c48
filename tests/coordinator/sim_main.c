// SPDX-License-Identifier: Apache-2.0
// core_sim [FIRST_SEED [COUNT]]: runs the simulation for each seed; every tenth runs twice and
// must end in the same state. A seed that fails is printed, and replays as core_sim SEED.
#include "base/config.h"
#include "tests/coordinator/sim.h"

#include <time.h>

static bool number(const char *text, int64_t *out)
{
    return !text || config_int_parse(text, out);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    int64_t first = 1, count = 1;
    if (!number(config_env("SIM_SEED"), &first) || !number(argc > 1 ? argv[1] : NULL, &first) ||
        !number(argc > 2 ? argv[2] : NULL, &count)) {
        fprintf(stderr, "usage: core_sim [FIRST_SEED [COUNT]]\n");
        return 2;
    }
    double begin = seconds();
    for (int64_t i = 0; i < count; i++) {
        char why[256];
        uint64_t seed = (uint64_t)(first + i), digest, again;
        bool ok = sim_run(seed, why, sizeof why, &digest);
        if (ok && i % 10 == 0)
            ok = sim_run(seed, why, sizeof why, &again) && digest == again;
        if (!ok) {
            printf("seed %llu fails: %s\n", (unsigned long long)seed,
                why[0] ? why : "two runs end in different states");
            return 1;
        }
    }
    printf("%lld seeds from %lld: all invariants hold (%.1f s)\n", (long long)count,
        (long long)first, seconds() - begin);
    return 0;
}
