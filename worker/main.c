// SPDX-License-Identifier: Apache-2.0
// phalanx-worker: one rank, started by mpirun. Rank 0 speaks with the coordinator.
#include "worker/uplink.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "collectives/bootstrap.h"
#include "proto/settings.h"

#include <mpi.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum {
    // Longer than rank 0 takes to say why and to close its connection.
    AWAIT_RANK_0_MS = 10000,
    EXIT_USAGE = 2,
    EXIT_FINAL = 3, // starting the group again would fail again
};

static volatile sig_atomic_t stop_asked;

static void on_term(int number)
{
    (void)number;
    stop_asked = 1;
}

static void report(void *user, uint64_t done, uint64_t total)
{
    if (user)
        uplink_progress(user, done, total);
}

// The words of the choices, which the options of a rank borrow.
struct words {
    char device[SETTINGS_WORD_BYTES], isa[SETTINGS_WORD_BYTES], dtype[SETTINGS_WORD_BYTES],
        kv_cache_dtype[SETTINGS_WORD_BYTES];
};

static struct rank_options options_of(const struct settings *o, struct words *words)
{
    settings_word(o, "device", words->device);
    settings_word(o, "isa", words->isa);
    settings_word(o, "dtype", words->dtype);
    settings_word(o, "kv_cache_dtype", words->kv_cache_dtype);
    return (struct rank_options){
        .model_dir = o->model,
        .device = words->device,
        .isa = words->isa,
        .threads = (uint32_t)o->threads_per_rank,
        .max_model_len = (uint32_t)o->max_model_len,
        .max_num_seqs = (uint32_t)o->max_num_seqs,
        .max_num_batched_tokens = (uint32_t)o->max_num_batched_tokens,
        .block_tokens = (uint32_t)o->block_size,
        .kv_cache_bytes = o->kv_cache_memory,
        .kv_cache_percent = (uint32_t)o->kv_cache_percent,
        .enforce_eager = o->enforce_eager,
        .no_kernel_overlap = o->no_kernel_overlap,
        .expert_parallel = o->enable_expert_parallel,
        .determinism = (enum determinism)o->determinism,
        .kv_cache_dtype = words->kv_cache_dtype,
        .random_weights = o->random_weights,
        .seed = (uint64_t)o->seed,
        .dtype = words->dtype,
    };
}

static enum status lead(struct uplink *u, struct rank *r, struct error *err)
{
    enum status s = uplink_serve(u, r, &stop_asked, err);
    return s == STATUS_OK ? rank_stop(r, err) : s;
}

// Whether the failure of a rank that served began here, so that no other one can tell of it.
static bool own_fault(enum status s)
{
    return s != STATUS_PEER_GONE && s != STATUS_ABORTED;
}

static enum status run(
    const struct settings *o, struct bootstrap *b, bool *ready, struct error *err)
{
    uint64_t begin_us = clock_now_us();
    struct uplink *u = NULL;
    struct rank *r = NULL;
    struct uplink_args args = {o->coordinator, o->model_name, (uint32_t)o->copy, b->size};
    enum status s = b->rank == 0 ? uplink_open(&args, &u, err) : STATUS_OK;
    struct words words;
    struct rank_options options = options_of(o, &words);
    struct weights_progress progress = {report, u};
    if (s == STATUS_OK)
        s = rank_open(&options, b, &progress, &r, err);
    if (s == STATUS_OK) {
        *ready = true;
        log_info("ready after %.0f ms", (double)(clock_now_us() - begin_us) / 1e3);
        if (b->rank == 0 && rank_info(r)->memory[0])
            fprintf(stderr, "%s\n%s\n", rank_info(r)->device, rank_info(r)->memory);
        s = b->rank == 0 ? lead(u, r, err) : rank_follow(r, err);
    }
    // A group that could not start gives its model up; one that served is started again.
    // It is said at once: closing may take a second, and mpirun ends this rank with the others.
    if (s != STATUS_OK && (b->rank == 0 || (*ready && own_fault(s))))
        log_error("%s", err->text);
    if (s != STATUS_OK && u)
        uplink_failed(u, *ready && s != STATUS_DENIED ? NULL : err->text);
    // The others end when they miss a rank. Of one that is refused they miss the process, so that
    // it is the first to end, and mpirun's code is its own.
    if (s != STATUS_DENIED)
        rank_close(r);
    uplink_close(u);
    return s;
}

// mpirun ends all ranks with the first one that fails, and rank 0 is the one that says why: the
// others stay until its process has ended.
static void await_rank_0(struct bootstrap *b)
{
    struct pollfd item = {.fd = b->peer_pidfd(b, 0), .events = POLLIN};
    if (item.fd >= 0)
        poll(&item, 1, AWAIT_RANK_0_MS);
}

static int serve(const struct settings *o)
{
    struct error err = {0};
    struct bootstrap *b = NULL;
    bool ready = false;
    enum status s = bootstrap_mpi(&b, &err);
    char name[32] = "rank ?";
    if (s == STATUS_OK) {
        snprintf(name, sizeof name, "rank %u", b->rank);
        log_open(name, (enum log_level)o->log_level);
        // Only rank 0 decides to stop; the others end when it does.
        struct sigaction action = {.sa_handler = b->rank == 0 ? on_term : SIG_IGN};
        sigaction(SIGTERM, &action, NULL);
        s = run(o, b, &ready, &err);
    }
    if (!b)
        log_error("%s", err.text);
    int code = s == STATUS_OK ? 0 : ready && s != STATUS_DENIED ? 1 : EXIT_FINAL;
    if (code) {
        if (b && b->rank != 0 && !ready)
            await_rank_0(b);
        // Finalizing would wait for peers that may be gone.
        fflush(NULL);
        _exit(code);
    }
    b->close(b);
    return 0;
}

int main(int argc, char **argv)
{
    static struct settings settings;
    struct error err = {0};
    bool help = false;
    enum status s = settings_parse(SETTINGS_WORKER, argc, argv, &settings, NULL, &help, &err);
    if (help) {
        printf("usage: mpirun -np N phalanx-worker --coordinator E --model DIR --model-name NAME\n"
               "One rank of a group that computes a model. phalanx serve starts it.\n\n");
        settings_help(SETTINGS_WORKER, stdout);
        return 0;
    }
    if (s == STATUS_OK && (!settings.coordinator || !settings.model || !settings.model_name))
        s = status_fail(&err, STATUS_INVALID,
            "--coordinator, --model and --model-name are required, see --help");
    if (s != STATUS_OK) {
        fprintf(stderr, "phalanx-worker: %s\n", err.text);
        return EXIT_USAGE;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    MPI_Init(&argc, &argv);
    int code = serve(&settings);
    MPI_Finalize();
    return code;
}
