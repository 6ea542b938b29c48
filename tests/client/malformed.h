// SPDX-License-Identifier: Apache-2.0
// Malformed input against a real server, in groups: each row gets a status and a sentence (or the
// answer that docs/protocol.md names), and the server answers a good request after it.
#ifndef PHALANX_TESTS_CLIENT_MALFORMED_H
#define PHALANX_TESTS_CLIENT_MALFORMED_H

#include "tests/client/wire.h"

extern const struct cluster *malformed_cluster;
extern int malformed_rows; // that have been tried

// The groups.
void malformed_frames(void **state);
void malformed_protobuf(void **state);
void malformed_requests(void **state);
void malformed_scalars(void **state);
void malformed_fields(void **state);
void malformed_prompts(void **state);
void malformed_tenants(void **state);
void malformed_words(void **state);
void malformed_files(void **state);

#endif
