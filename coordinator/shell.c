// SPDX-License-Identifier: Apache-2.0
#include "coordinator/shell.h"

#include <errno.h>
#include <string.h>
#include <zmq.h>

enum { ROUTING_ID_BYTES = 5 };

uint64_t shell_peer(const void *id, size_t n)
{
    const uint8_t *p = id;
    if (n != ROUTING_ID_BYTES || p[0] != 0)
        return 0;
    uint32_t number;
    memcpy(&number, p + 1, 4);
    return (uint64_t)1 << 32 | number;
}

enum status shell_send(
    void *socket, uint64_t peer, const void *first, size_t n_first, const void *body, size_t n)
{
    uint8_t id[ROUTING_ID_BYTES] = {0};
    uint32_t number = (uint32_t)peer;
    memcpy(id + 1, &number, 4);
    if (zmq_send(socket, id, sizeof id, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
        return errno == EAGAIN ? STATUS_BUSY : STATUS_PEER_GONE;
    // Once the routing id is taken the other parts of the message are taken too.
    zmq_send(socket, first, n_first, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    if (zmq_send(socket, body, n, ZMQ_DONTWAIT) < 0)
        return STATUS_BUSY;
    return STATUS_OK;
}
