// SPDX-License-Identifier: Apache-2.0
// What an endpoint of clients may be, and when it needs keys: ipc://PATH and loopback are this
// machine's; everything else is served with CURVE only.
#ifndef PHALANX_PROTO_ENDPOINT_H
#define PHALANX_PROTO_ENDPOINT_H

#include "base/status.h"

#include <stdbool.h>

enum { ENDPOINT_BYTES_MAX = 255 };

// Whether nobody on another machine can reach it.
bool endpoint_is_local(const char *endpoint);

// Whether a server may listen there: the form, and keys where it is not local. INVALID and what to
// do otherwise.
enum status endpoint_check(const char *endpoint, bool has_keys, struct error *err);

#endif
