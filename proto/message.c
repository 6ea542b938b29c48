// SPDX-License-Identifier: Apache-2.0
#include "proto/message.h"

enum { UNKNOWN_FIELDS_MAX = 64 };

static void *take(void *arena, size_t bytes)
{
    return arena_take(arena, bytes);
}

static void give(void *arena, void *p)
{
    (void)arena;
    (void)p;
}

enum status message_unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t n,
    struct arena *arena, ProtobufCMessage **out, struct error *err)
{
    ProtobufCAllocator allocator = {take, give, arena};
    ProtobufCMessage *m = protobuf_c_message_unpack(type, &allocator, n, data);
    if (!m)
        return status_fail(err, STATUS_INVALID,
            "%zu bytes are not a valid %s, or need more than %zu bytes of memory", n,
            type->short_name, arena->limit_bytes);
    if (m->n_unknown_fields > UNKNOWN_FIELDS_MAX)
        return status_fail(err, STATUS_INVALID, "%s has %u unknown fields, expected at most %d",
            type->short_name, m->n_unknown_fields, UNKNOWN_FIELDS_MAX);
    *out = m;
    return STATUS_OK;
}

void message_pack(const ProtobufCMessage *message, struct buf *b)
{
    size_t n = protobuf_c_message_get_packed_size(message);
    uint8_t *p = buf_extend(b, n);
    if (p)
        protobuf_c_message_pack(message, p);
}
