// SPDX-License-Identifier: Apache-2.0
// Rank 0's connection to the coordinator: registers the group, takes plans, sends answers and signs
// of life. ZeroMQ reconnects by itself; a coordinator that does not know the group (it has been
// restarted) answers a heartbeat with a WELCOME of epoch 0, and the group registers again.
#ifndef PHALANX_WORKER_UPLINK_H
#define PHALANX_WORKER_UPLINK_H

#include "worker/rank.h"

#include <signal.h>

struct uplink;

struct uplink_args {
    const char *endpoint; // borrowed, as are all texts
    const char *model_name;
    uint32_t copy;
    uint32_t degree;
};

enum status uplink_open(const struct uplink_args *args, struct uplink **out, struct error *err);
void uplink_close(struct uplink *u); // sends what is queued, for at most three seconds
void uplink_progress(struct uplink *u, uint64_t done, uint64_t total);
// The group ends. With a reason the model has failed for good; NULL: another group will come.
void uplink_failed(struct uplink *u, const char *reason);

// Serves until the coordinator sends SHUTDOWN or *stop becomes true (both STATUS_OK), refuses the
// group (STATUS_DENIED), or the group fails. Sleeps while there is nothing to do.
enum status uplink_serve(
    struct uplink *u, struct rank *r, const volatile sig_atomic_t *stop, struct error *err);

#endif
