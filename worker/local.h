// SPDX-License-Identifier: Apache-2.0
// A whole group in one process, its ranks as threads: for tests, benches and replays. The caller is
// rank 0. The same code as under mpirun runs, but for the bootstrap and the sockets.
#ifndef PHALANX_WORKER_LOCAL_H
#define PHALANX_WORKER_LOCAL_H

#include "worker/rank.h"

struct local_group;

// Brings up `degree` ranks (1 .. COLL_RANKS_MAX). The group begins at epoch 1, step 1.
enum status local_open(const struct rank_options *options, uint32_t degree,
    struct local_group **out, struct error *err);
// Stops and joins all ranks; returns what the first of them failed with, if any did.
enum status local_close(struct local_group *g, struct error *err);
// Rank 0: rank_execute(), rank_reset(), rank_info().
struct rank *local_rank(struct local_group *g);

#endif
