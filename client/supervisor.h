// SPDX-License-Identifier: Apache-2.0
// What `phalanx serve` does once everything is decided: it starts the coordinator and the mpirun of
// the model's ranks, restarts each alone with back-off, shows how loading goes, and takes all of it
// down. It parses nothing that comes from clients.
//
// Event driven: it sleeps on signals (a child's end is one) and asks the coordinator how far it is
// only while a model loads, so an idle cluster finds it asleep. One thread.
//
//              start                asks, says ready          SIGTERM
//   children ---------> loading ------------------> ready ---------------> draining ---> ended
//                          ^                          |
//                          '---- a child has ended ---'
//
// Ranks that end while the coordinator drains are started again, since requests were accepted;
// those that hang, as the coordinator finds out, are killed.
#ifndef PHALANX_CLIENT_SUPERVISOR_H
#define PHALANX_CLIENT_SUPERVISOR_H

#include "client/cmd.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    SUPERVISOR_ARGS_MAX = 96,
    SUPERVISOR_EXIT_USAGE = 2, // of a child: it does not understand its options
    SUPERVISOR_EXIT_FINAL = 3, // of a child: starting it again would fail again
};

struct supervisor_child {
    pid_t pid; // 0: not running
    int n_args;
    char *args[SUPERVISOR_ARGS_MAX];
    uint64_t start_at_us; // when to start it (again)
    uint32_t backoff_ms, failures;
    bool finished; // ended and not to be started again
};

// Zeroed, then filled in by the caller as far as `client`.
struct supervisor {
    const char *name, *endpoint; // what `ready:` says
    const char *worker_endpoint;
    const char *ask_endpoint; // where the coordinator answers the supervisor
    uint32_t block_tokens;    // for the bill of memory
    struct supervisor_child coordinator, group;

    struct phalanx_client *client; // while loading
    sigset_t signals_before;       // what children start with
    int signal_fd;
    int hang_fd[2];   // pipe on which the coordinator tells the number of a copy that hangs
    int stop_signals; // SIGTERM, SIGINT or SIGHUP so far
    bool ready, was_ready, stopping, failed, drain_asked;
    uint64_t stop_us;
    uint32_t shown_percent;
};

// Adds words to a child's command line; a NULL value adds nothing. The words are copied.
void supervisor_add(struct supervisor_child *c, const char *word);
void supervisor_add_text(struct supervisor_child *c, const char *name, const char *value);
void supervisor_add_number(struct supervisor_child *c, const char *name, int64_t value);

// Blocks the signals that supervisor_run waits for, and opens the pipe. Called before any thread
// exists.
enum status supervisor_open(struct supervisor *s, struct error *err);
// Returns when all children have ended; whether the cluster ended well.
bool supervisor_run(struct supervisor *s);
void supervisor_close(struct supervisor *s);

#endif
