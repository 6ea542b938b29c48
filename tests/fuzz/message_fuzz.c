// SPDX-License-Identifier: Apache-2.0
// Messages of all three planes from an enemy. The first byte says which plane; what unpacks is
// packed again, and a SUBMIT goes through the validator, whose result must be in range.
#include "base/check.h"
#include "proto/client.pb-c.h"
#include "proto/message.h"
#include "proto/validate.h"
#include "proto/worker.pb-c.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { ARENA_BYTES = 1 << 22, PACKED_MAX = 1 << 24, VOCAB = 1000, CONTEXT = 4096 };

static void prove(const struct request *r)
{
    struct sampling_params params;
    struct error err = {0};
#define INT(name, type, min, max, value, help)                                                     \
    check((double)r->name >= (double)(min) && (double)r->name <= (double)(max));
#define REAL(name, open, min, max, value, help) check(r->name >= (min) && r->name <= (max));
#define FLAG(name, value, help)
#include "proto/params.def"
#undef INT
#undef REAL
#undef FLAG
    check(r->model && r->tenant && r->min_tokens <= r->max_tokens);
    check(r->n_stop <= LIMIT_STOP_STRINGS && r->n_bias <= LIMIT_LOGIT_BIAS);
    check(r->prompt.size || r->n_prompt_ids);
    request_sampling(r, &params);
    if (request_check_ids(r, VOCAB, CONTEXT, &err) != STATUS_OK)
        check(err.text[0]);
    else
        for (uint32_t i = 0; i < r->n_prompt_ids; i++)
            check(r->prompt_ids[i] < VOCAB);
}

static void submit(const Phalanx__Submit *m)
{
    struct error err = {0};
    struct request *r = malloc(sizeof *r);
    check(r);
    enum status s = request_from_submit(m, r, &err);
    if (s == STATUS_OK)
        prove(r);
    else
        check(err.text[0] && err.status == s);
    free(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const ProtobufCMessageDescriptor *const planes[] = {&phalanx__client_message__descriptor,
        &phalanx__server_message__descriptor, &phalanx__worker__worker_message__descriptor};
    if (n < 1)
        return 0;
    struct arena arena;
    struct error err = {0};
    struct buf packed;
    ProtobufCMessage *m = NULL;
    size_t plane = data[0] % COUNT_OF(planes);
    arena_init(&arena, ARENA_BYTES);
    buf_init(&packed, PACKED_MAX);
    if (message_unpack(planes[plane], data + 1, n - 1, &arena, &m, &err) != STATUS_OK) {
        check(!m && err.text[0]);
    } else {
        message_pack(m, &packed);
        check(!buf_failed(&packed));
        if (plane == 0 && ((Phalanx__ClientMessage *)m)->submit)
            submit(((Phalanx__ClientMessage *)m)->submit);
    }
    buf_deinit(&packed);
    arena_reset(&arena);
    return 0;
}
