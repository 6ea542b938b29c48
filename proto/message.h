// SPDX-License-Identifier: Apache-2.0
// Packing and unpacking of protobuf messages with bounds: a message is unpacked into an arena with
// a limit (protobuf-c's own heap can grow to 37 times a hostile message), and packed into a buf.
#ifndef PHALANX_PROTO_MESSAGE_H
#define PHALANX_PROTO_MESSAGE_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/status.h"

#include <protobuf-c/protobuf-c.h>

// Unpacks `n` bytes as `type`; everything lives in `arena` until its reset. Refuses more than 64
// unknown fields. The result is never freed by itself.
enum status message_unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t n,
    struct arena *arena, ProtobufCMessage **out, struct error *err);

// Appends the packed message. Failure to grow shows in buf_failed(b).
void message_pack(const ProtobufCMessage *message, struct buf *b);

#endif
