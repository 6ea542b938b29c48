// SPDX-License-Identifier: Apache-2.0
// Real processes for the end-to-end tests: starts and stops `phalanx serve`, runs other commands of
// `phalanx`, and reads the jsonl that they print.
//
//   struct cluster c;
//   cluster_start(&c, model_dir, (const char *const[]){"--tensor-parallel-degree", "2", NULL});
//   struct command g;
//   cluster_run(&c, &g, (const char *const[]){"generate", "--tokens", "1,2", NULL});
//   ... g.code, g.out, g.err, cluster_answer(&g, 0, &answer) ...
//   command_free(&g);
//   cluster_stop(&c);
//
// Each cluster lives in a scratch folder that is also its TMPDIR. The test process adopts orphans,
// so that the end of a cluster can prove that nothing is left: no process, no file, no socket, no
// shared memory. A test that fails half-way has its clusters ended when its program exits. One
// thread only. Everything here fails the test instead of returning an error.
#ifndef PHALANX_TESTS_E2E_CLUSTER_H
#define PHALANX_TESTS_E2E_CLUSTER_H

#include "tests/test_support.h"

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

enum { CLUSTER_PATHS_MAX = 64, CLUSTER_PIDS_MAX = 64, ANSWER_TOKENS_MAX = 2048 };

// The name under which every cluster serves its model.
#define CLUSTER_MODEL "golden"

// A running command of `phalanx`; output is kept in memory files, so nothing blocks on a pipe.
struct command {
    pid_t pid;
    int out_fd, err_fd;
    int code;        // exit code, or 128 + the signal
    char *out, *err; // what it printed, zero-terminated; after command_wait
    json_t *lines;   // `out` as an array of JSON objects, if all its lines are such; else NULL
};

struct cluster {
    struct command serve;
    char dir[40], endpoint[64]; // the scratch folder; "ipc://DIR/client.ipc"
    int n_shm;
    char shm[CLUSTER_PATHS_MAX][128]; // files in /dev/shm that its processes had mapped
};

// ---- server ------------------------------------------------------------------------------------

// Starts `phalanx serve --model MODEL --model-name golden --endpoint ipc://...` and `words`, which
// end with NULL (or are NULL). Given --endpoint among the words, that one is used instead.
void cluster_spawn(struct cluster *c, const char *model, const char *const *words);
// The same through `bash -c SCRIPT`, which must `exec "$0" "$@"` with other files or limits.
void cluster_spawn_shell(
    struct cluster *c, const char *script, const char *model, const char *const *words);
// Waits for `ready:`; fails the test with the server's log when it ends before.
void cluster_wait_ready(struct cluster *c);
// Both.
void cluster_start(struct cluster *c, const char *model, const char *const *words);

// Waits until serve has ended by itself or by a signal sent before; returns its exit code, also
// left in c->serve with its output. Fails when anything of the cluster is left behind.
int cluster_wait(struct cluster *c);
// SIGTERM, then cluster_wait(); the exit code must be 0.
void cluster_stop(struct cluster *c);

// Waits until `phalanx models` says that the model is in this state.
void cluster_wait_state(const struct cluster *c, const char *state, int seconds);

// What serve has written on standard error up to now; to be freed.
char *cluster_log(const struct cluster *c);
// What a command has written on standard output up to now; to be freed.
char *command_peek(const struct command *m);
// Waits until the log contains `text`; fails after `seconds`.
void cluster_wait_log(const struct cluster *c, const char *text, int seconds);

// Processes below serve whose program is `name` ("phalanx-worker"); returns how many.
int cluster_pids(const struct cluster *c, const char *name, pid_t out[CLUSTER_PIDS_MAX]);

// ---- commands ----------------------------------------------------------------------------------

// Starts `phalanx WORDS...`; with a cluster, --endpoint is added behind the first word. Standard
// input is closed.
void command_spawn(struct command *m, const struct cluster *c, const char *const *words);
// The same through `bash -c SCRIPT`, where "$0" is the program and "$@" are the words.
void command_spawn_shell(
    struct command *m, const struct cluster *c, const char *script, const char *const *words);
// Waits for its end and reads what it printed.
void command_wait(struct command *m);
// Both.
void cluster_run(const struct cluster *c, struct command *m, const char *const *words);
void cluster_run_shell(
    const struct cluster *c, struct command *m, const char *script, const char *const *words);
void command_free(struct command *m);

// The first line of `phalanx models --output jsonl`; to be released with json_decref().
json_t *cluster_model(const struct cluster *c);
// Integer field of it.
int64_t cluster_stat(const struct cluster *c, const char *name);

// ---- answers -----------------------------------------------------------------------------------

// One sample as `generate --output jsonl` printed it.
struct answer {
    uint32_t n;
    uint32_t ids[ANSWER_TOKENS_MAX];
    float logprobs[ANSWER_TOKENS_MAX];
    char text[16384]; // of tokens and last line together; zero-terminated, may hold zeros
    size_t n_text;
    char reason[16];
    char stop[64]; // stop_reason as JSON text: "null", "\"x\"", "5"
    int prompt_tokens, completion_tokens, cached_tokens;
};

// Reads sample `index` of a command that must have ended with 0.
void cluster_answer(const struct command *m, int index, struct answer *out);
// Equal ids, equal logprobs bit for bit, equal text and reason.
bool cluster_answer_same(const struct answer *a, const struct answer *b);

// "1,2,3" from ids; static storage, one of sixteen.
const char *cluster_answer_ids(const uint32_t *ids, size_t n);

void cluster_sleep_ms(int ms);

#endif
