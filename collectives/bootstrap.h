// SPDX-License-Identifier: Apache-2.0
// The ways in which ranks meet; see struct bootstrap in collectives/collectives.h.
#ifndef PHALANX_COLLECTIVES_BOOTSTRAP_H
#define PHALANX_COLLECTIVES_BOOTSTRAP_H

#include "collectives/collectives.h"

// `size` members in one process (threads) or in processes forked after this call: fills
// members[size], each to be used by one thread or child. Freed by each member's close.
enum status bootstrap_threads(uint32_t size, struct bootstrap **members, struct error *err);

// Members meet in an empty directory that all can reach on one host; rank and size are given.
enum status bootstrap_files(const char *dir, uint32_t rank, uint32_t size, uint32_t timeout_ms,
    struct bootstrap **out, struct error *err);

// MPI_COMM_WORLD; in its own library (phalanx_bootstrap_mpi), the only one that links MPI.
// MPI_Init must have been called. Calls no MPI function after the exchanges are done.
enum status bootstrap_mpi(struct bootstrap **out, struct error *err);

#endif
