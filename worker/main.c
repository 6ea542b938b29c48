// SPDX-License-Identifier: Apache-2.0
// phalanx-worker: one rank, started by mpirun. Rank 0 speaks with the coordinator.
#include "worker/uplink.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/log.h"
#include "collectives/bootstrap.h"

#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum {
    EXIT_AFTER_RANK_0_US = 300000,
    EXIT_USAGE = 2,
    EXIT_FINAL = 3, // starting the group again would fail again
};

struct worker_settings {
    const char *coordinator, *model, *model_name, *kv_cache_dtype, *dtype, *isa, *log_level;
    int device;
    int64_t copy, max_model_len, max_num_seqs, max_num_batched_tokens, block_size, threads, seed;
    uint64_t kv_cache_memory;
    bool random_weights;
};

#define AT(field) offsetof(struct worker_settings, field)
// clang-format off
static const struct config_row rows[] = {
    {"coordinator", CONFIG_TEXT, AT(coordinator), NULL, 0, 0, NULL, "E", "The coordinator's endpoint for workers."},
    {"model", CONFIG_TEXT, AT(model), NULL, 0, 0, NULL, "DIR", "Model directory."},
    {"model-name", CONFIG_TEXT, AT(model_name), NULL, 0, 0, NULL, "NAME", "Name it is served as."},
    {"copy", CONFIG_INT, AT(copy), "0", 0, 1023, NULL, "N", "Number of this copy of the model."},
    {"device", CONFIG_ENUM, AT(device), "cpu", 0, 0, "cpu", NULL, "What computes."},
    {"isa", CONFIG_TEXT, AT(isa), "auto", 0, 0, NULL, "auto|plain|avx2|avx512", "Instruction set of the CPU kernels."},
    {"threads-per-rank", CONFIG_INT, AT(threads), "0", 0, 1024, NULL, "N", "CPU threads; 0: the host's cores divided among its ranks."},
    {"max-model-len", CONFIG_INT, AT(max_model_len), "0", 0, LIMIT_CONTEXT_TOKENS, NULL, "N", "Context in tokens; 0: what the model declares."},
    {"max-num-seqs", CONFIG_INT, AT(max_num_seqs), "0", 0, LIMIT_SLOTS, NULL, "N", "Sequences in one batch; 0: 256."},
    {"max-num-batched-tokens", CONFIG_INT, AT(max_num_batched_tokens), "0", 0, LIMIT_STEP_TOKENS, NULL, "N", "Rows of one step; 0: 512."},
    {"kv-cache-memory", CONFIG_BYTES, AT(kv_cache_memory), "0", 0, 0, NULL, "BYTES", "KV cache of each rank; 0: chosen."},
    {"kv-cache-dtype", CONFIG_TEXT, AT(kv_cache_dtype), "auto", 0, 0, NULL, "auto|f32|f16|bf16", "auto is f32 on CPUs."},
    {"block-size", CONFIG_INT, AT(block_size), "16", 8, LIMIT_BLOCK_TOKENS, NULL, "N", "Tokens per KV block, a power of two."},
    {"random-weights", CONFIG_FLAG, AT(random_weights), NULL, 0, 0, NULL, NULL, "Make up weights; only config.json is read."},
    {"dtype", CONFIG_TEXT, AT(dtype), "auto", 0, 0, NULL, "auto|f32|f16|bf16", "Of random weights."},
    {"seed", CONFIG_INT, AT(seed), "0", 0, 9007199254740992.0, NULL, "N", "Of random weights."},
    {"log-level", CONFIG_TEXT, AT(log_level), "warn", 0, 0, NULL, "LEVEL", "error, warn, info or debug."},
};
// clang-format on

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

static struct rank_options options_of(const struct worker_settings *o)
{
    return (struct rank_options){
        .model_dir = o->model,
        .device = "cpu",
        .isa = o->isa,
        .threads = (uint32_t)o->threads,
        .max_model_len = (uint32_t)o->max_model_len,
        .max_num_seqs = (uint32_t)o->max_num_seqs,
        .max_num_batched_tokens = (uint32_t)o->max_num_batched_tokens,
        .block_tokens = (uint32_t)o->block_size,
        .kv_cache_bytes = o->kv_cache_memory,
        .kv_cache_dtype = o->kv_cache_dtype,
        .random_weights = o->random_weights,
        .seed = (uint64_t)o->seed,
        .dtype = o->dtype,
    };
}

static enum status lead(struct uplink *u, struct rank *r, struct error *err)
{
    enum status s = uplink_serve(u, r, &stop_asked, err);
    return s == STATUS_OK ? rank_stop(r, err) : s;
}

static enum status run(
    const struct worker_settings *o, struct bootstrap *b, bool *ready, struct error *err)
{
    uint64_t begin_us = clock_now_us();
    struct uplink *u = NULL;
    struct rank *r = NULL;
    struct uplink_args args = {o->coordinator, o->model_name, (uint32_t)o->copy, b->size};
    enum status s = b->rank == 0 ? uplink_open(&args, &u, err) : STATUS_OK;
    struct rank_options options = options_of(o);
    struct weights_progress progress = {report, u};
    if (s == STATUS_OK)
        s = rank_open(&options, b, &progress, &r, err);
    if (s == STATUS_OK) {
        *ready = true;
        log_info("ready after %.0f ms", (double)(clock_now_us() - begin_us) / 1e3);
        s = b->rank == 0 ? lead(u, r, err) : rank_follow(r, err);
    }
    // A group that could not start gives its model up; one that served is started again.
    // It is said at once: closing may take a second, and mpirun ends this rank with the others.
    if (s != STATUS_OK && b->rank == 0)
        log_error("%s", err->text);
    if (s != STATUS_OK && u)
        uplink_failed(u, *ready ? NULL : err->text);
    rank_close(r);
    uplink_close(u);
    return s;
}

static int serve(const struct worker_settings *o)
{
    struct error err = {0};
    struct bootstrap *b = NULL;
    bool ready = false;
    enum status s = bootstrap_mpi(&b, &err);
    char name[32] = "rank ?";
    if (s == STATUS_OK) {
        snprintf(name, sizeof name, "rank %u", b->rank);
        log_open(name, log_level_parse(o->log_level));
        // Only rank 0 decides to stop; the others end when it does.
        struct sigaction action = {.sa_handler = b->rank == 0 ? on_term : SIG_IGN};
        sigaction(SIGTERM, &action, NULL);
        s = run(o, b, &ready, &err);
    }
    if (!b)
        log_error("%s", err.text);
    int code = s == STATUS_OK ? 0 : ready ? 1 : EXIT_FINAL;
    if (code) {
        // mpirun ends all ranks with the first one; rank 0 is the one that says why.
        if (b && b->rank != 0 && !ready)
            clock_sleep_us(EXIT_AFTER_RANK_0_US);
        // Finalizing would wait for peers that may be gone.
        fflush(NULL);
        _exit(code);
    }
    b->close(b);
    return 0;
}

int main(int argc, char **argv)
{
    static struct worker_settings settings;
    struct error err = {0};
    bool help = false;
    enum status s = config_parse(rows, COUNT_OF(rows), argc, argv, &settings, NULL, &help, &err);
    if (help) {
        printf("usage: mpirun -np N phalanx-worker --coordinator E --model DIR --model-name NAME\n"
               "One rank of a group that computes a model. phalanx serve starts it.\n\n");
        config_help(rows, COUNT_OF(rows), stdout);
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
