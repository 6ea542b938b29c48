// SPDX-License-Identifier: Apache-2.0
// core_mutants SEEDS [FIRST_SEED]: plants each bug of core_mutants.def in turn and demands that the
// simulation finds it within so many seeds; without a bug all of them must pass. Each bug runs in a
// process of its own, for a failed check() and a loop without end are finds, too.
#include "base/config.h"
#include "coordinator/core_mutant.h"
#include "sim.h"

#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum core_mutant_name core_mutant;

enum { SECONDS_MAX = 20, NOT_FOUND = 0, FOUND = 1 };

static const struct {
    const char *name, *what;
} mutants[] = {
    {"NONE", "the core as it is"},
#define X(name, what) {#name, what},
#include "coordinator/core_mutants.def"
#undef X
};

// What a find looks like, written by the child before it ends.
struct find {
    uint64_t seed;
    char why[200];
};

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static _Noreturn void child(int out, enum core_mutant_name mutant, uint64_t first, uint64_t seeds)
{
    core_mutant = mutant;
    int null = open("/dev/null", O_WRONLY);
    dup2(null, 2); // a failed check is expected here
    struct find find = {.why = "the process ends (check, signal or endless loop)"};
    for (uint64_t i = 0; i < seeds; i++) {
        alarm(SECONDS_MAX); // for one seed
        find.seed = first + i;
        struct find now = {.seed = find.seed};
        if (write(out, &find, sizeof find) < 0)
            _exit(NOT_FOUND);
        if (!sim_run(now.seed, now.why, sizeof now.why, NULL))
            _exit(write(out, &now, sizeof now) < 0 ? NOT_FOUND : FOUND);
    }
    _exit(NOT_FOUND);
}

// Fills `find` with the last that the child wrote; true if it found the bug or died of it.
static bool hunt(enum core_mutant_name mutant, uint64_t first, uint64_t seeds, struct find *find)
{
    int ends[2], status = 0;
    if (pipe(ends) != 0)
        return false;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        child(ends[1], mutant, first, seeds);
    }
    close(ends[1]);
    struct find one;
    while (pid > 0 && read(ends[0], &one, sizeof one) == (ssize_t)sizeof one)
        *find = one;
    close(ends[0]);
    return pid > 0 && waitpid(pid, &status, 0) == pid &&
           !(WIFEXITED(status) && WEXITSTATUS(status) == NOT_FOUND);
}

int main(int argc, char **argv)
{
    int64_t seeds = 0, first = 1;
    if (argc < 2 || !config_int_parse(argv[1], &seeds) ||
        (argc > 2 && !config_int_parse(argv[2], &first)) || seeds < 1 || first < 0) {
        fprintf(stderr, "usage: core_mutants SEEDS [FIRST_SEED]\n");
        return 2;
    }
    int wrong = 0;
    for (enum core_mutant_name m = CORE_MUTANT_NONE; m < CORE_MUTANT_COUNT; m++) {
        struct find find = {0};
        double begin = seconds();
        bool found = hunt(m, (uint64_t)first, (uint64_t)seeds, &find);
        bool right = found == (m != CORE_MUTANT_NONE);
        wrong += !right;
        printf("%-7s %-28s seed %-6llu %5.2f s  %s\n",
            right   ? "ok"
            : found ? "FAILS"
                    : "LIVES",
            mutants[m].name, (unsigned long long)find.seed, seconds() - begin,
            found ? find.why : mutants[m].what);
    }
    printf("%d of %d are not as expected\n", wrong, CORE_MUTANT_COUNT);
    return wrong ? 1 : 0;
}
