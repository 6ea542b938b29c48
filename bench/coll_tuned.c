// SPDX-License-Identifier: Apache-2.0
// MPI reads its settings when it starts, so the tuned variants are jobs of their own: this program
// once more under another mpirun, with one setting each. A job sleeps until it gets a line
// "operation bytes samples verify" and answers with the times of all ranks.
#include "bench/coll_bench.h"

#include "base/check.h"
#include "collectives/bootstrap.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const char *const settings[TUNED_MAX][4] = {
    {"--mca", "btl_vader_single_copy_mechanism", "none", NULL},
    {"--mca", "coll_sm_priority", "90", NULL},
};

// What tells a process that it belongs to a job already; permissions stay.
static bool of_this_job(const char *entry)
{
    static const char *const prefix[] = {"OMPI_", "PMIX_", "ORTE_", "OPAL_", "PMI_"};
    if (strncmp(entry, "OMPI_ALLOW_RUN_AS_ROOT", 22) == 0)
        return false;
    for (size_t i = 0; i < COUNT_OF(prefix); i++)
        if (strncmp(entry, prefix[i], strlen(prefix[i])) == 0)
            return true;
    return false;
}

static void run_job(int job, const char *self, uint32_t size, size_t most)
{
    enum { ENTRIES = 1024 };
    static char *env[ENTRIES];
    size_t n = 0;
    char ranks[16], bytes[32];
    cpu_set_t mine, all;
    static char *root[] = {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"};
    for (char **e = environ; *e != NULL && n + COUNT_OF(root) + 1 < ENTRIES; e++)
        if (!of_this_job(*e))
            env[n++] = *e;
    // This job runs, so whoever started it has allowed what root may do.
    for (size_t i = 0; i < COUNT_OF(root) && geteuid() == 0; i++)
        env[n++] = root[i];
    environ = env;
    // Bound as this job is, but not to the one core of rank 0.
    bool bound = sched_getaffinity(0, sizeof mine, &mine) == 0 && CPU_COUNT(&mine) == 1 &&
                 sysconf(_SC_NPROCESSORS_ONLN) >= (long)size;
    memset(&all, 0xff, sizeof all);
    (void)sched_setaffinity(0, sizeof all, &all);
    (void)snprintf(ranks, sizeof ranks, "%u", (unsigned)size);
    (void)snprintf(bytes, sizeof bytes, "%zu", most);
    execlp("mpirun", "mpirun", "--oversubscribe", "--bind-to", bound ? "core" : "none", "-np",
        ranks, settings[job][0], settings[job][1], settings[job][2], self, "--serve", bytes,
        (char *)NULL);
    _exit(127);
}

static bool start(struct tuned *t, int job, const char *self, uint32_t size, size_t most)
{
    int to[2], from[2];
    if (pipe(to) != 0 || pipe(from) != 0)
        return false;
    int pid = fork();
    if (pid == 0) {
        // A signal for this job's processes is none for that one: it would leave Open MPI's shared
        // memory behind. The end of its input ends it, however this job ends.
        (void)setsid();
        dup2(to[0], 0);
        dup2(from[1], 1);
        for (int fd = 3; fd < 1024; fd++)
            close(fd);
        run_job(job, self, size, most);
    }
    close(to[0]);
    close(from[1]);
    t->pid[job] = pid;
    t->to[job] = fdopen(to[1], "w");
    t->from[job] = fdopen(from[0], "r");
    char line[32];
    return pid > 0 && t->to[job] != NULL && t->from[job] != NULL &&
           fgets(line, sizeof line, t->from[job]) != NULL && strcmp(line, "ready\n") == 0;
}

void coll_tuned_start(struct tuned *t, uint32_t size, size_t most)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGPIPE, &ignore, NULL);
    if (n <= 0)
        return;
    self[n] = '\0';
    while (t->n < TUNED_MAX && start(t, t->n, self, size, most))
        t->n++;
}

void coll_tuned_stop(struct tuned *t)
{
    for (int i = 0; i < TUNED_MAX; i++) {
        if (t->to[i] != NULL)
            fclose(t->to[i]); // the end of its input ends it
        if (t->from[i] != NULL)
            fclose(t->from[i]);
        if (t->pid[i] > 0)
            waitpid(t->pid[i], NULL, 0);
    }
    *t = (struct tuned){0};
}

bool coll_tuned_turn(struct tuned *t, int job, const struct turn *turn)
{
    unsigned long long bad = 0;
    fprintf(t->to[job], "%s %zu %d %d\n", turn->op, turn->bytes, turn->n, turn->verify);
    fflush(t->to[job]);
    for (int i = 0; i < (int)turn->size * turn->n; i++)
        if (fscanf(t->from[job], "%lf", &turn->us[i]) != 1)
            return false;
    if (fscanf(t->from[job], "%llu", &bad) != 1)
        return false;
    *turn->wrong += bad;
    return true;
}

struct command {
    char op[32];
    uint64_t bytes;
    int n, verify, go;
};

// Everybody but rank 0 sleeps at a socket meanwhile.
static struct command next_command(struct bench *s)
{
    struct command mine = {0}, all[COLL_RANKS_MAX];
    unsigned long long bytes = 0;
    if (s->rank == 0 && scanf("%31s %llu %d %d", mine.op, &bytes, &mine.n, &mine.verify) == 4 &&
        mine.n > 0 && mine.n <= TURN && coll_ops_find(mine.op, strlen(mine.op)) != NULL)
        mine.go = 1;
    mine.bytes = bytes;
    check(s->b->all_gather(s->b, &mine, sizeof mine, all, NULL) == STATUS_OK);
    return all[0];
}

int coll_tuned_serve(struct bench *s)
{
    struct samples x;
    struct {
        double us[TURN];
        uint64_t wrong;
    } mine, all[COLL_RANKS_MAX];
    if (s->rank == 0)
        printf("ready\n");
    fflush(stdout);
    for (struct command c = next_command(s); c.go; c = next_command(s)) {
        const struct op *o = coll_ops_find(c.op, strlen(c.op));
        uint64_t wrong = 0;
        x.n = 0;
        x.wrong = 0;
        coll_bench_shape(s, o, c.bytes);
        for (int i = 0; i < c.n; i++)
            coll_bench_sample(s, o, VARIANT_MPI, c.verify != 0 && i == 0, &x);
        memcpy(mine.us, x.us, sizeof mine.us);
        mine.wrong = x.wrong;
        check(s->b->all_gather(s->b, &mine, sizeof mine, all, NULL) == STATUS_OK);
        for (uint32_t r = 0; s->rank == 0 && r < s->size; r++) {
            for (int i = 0; i < c.n; i++)
                printf("%.3f ", all[r].us[i]);
            wrong += all[r].wrong;
        }
        if (s->rank == 0)
            printf("%llu\n", (unsigned long long)wrong);
        fflush(stdout);
    }
    return 0;
}
