// SPDX-License-Identifier: Apache-2.0
// Whether a well-formed plan fits what the slots hold. Changes nothing but the mark of slots that
// the plan itself releases.
#include "worker/session_internal.h"

#include <inttypes.h>

static enum status check_step(
    const struct session *s, const struct plan_header *plan, struct error *err)
{
    if (plan->epoch < s->epoch)
        return status_fail(err, STATUS_CONFLICT,
            "step plan %" PRIu64 " is of epoch %" PRIu64 ", the group serves epoch %" PRIu64,
            plan->step_id, plan->epoch, s->epoch);
    if (plan->epoch > s->epoch || plan->step_id != s->next_step)
        return status_fail(err, STATUS_MISMATCH,
            "step plan %" PRIu64 " of epoch %" PRIu64 " came, expected step %" PRIu64
            " of epoch %" PRIu64,
            plan->step_id, plan->epoch, s->next_step, s->epoch);
    return STATUS_OK;
}

// Tables must reach every position that the rows read or write.
static enum status check_tables(const struct session *s, const struct plan_seq *seq,
    const struct slot *slot, bool first, struct error *err)
{
    uint32_t last = seq->first_position + seq->n_tokens;
    uint32_t need = (last + s->a.limits.block_tokens - 1) / s->a.limits.block_tokens;
    for (uint32_t g = 0; g < s->a.limits.n_kv_groups; g++) {
        uint32_t have = first ? 0 : slot->n_blocks[g];
        if (seq->block_begin[g] > have)
            return status_fail(err, STATUS_MISMATCH,
                "step plan: slot %" PRIu32 " sets blocks from %" PRIu32 " on, it has %" PRIu32,
                seq->slot, seq->block_begin[g], have);
        if (seq->block_begin[g] + seq->n_blocks[g] > have)
            have = seq->block_begin[g] + seq->n_blocks[g];
        if (have < need)
            return status_fail(err, STATUS_MISMATCH,
                "step plan: slot %" PRIu32 " has %" PRIu32 " blocks of KV group %" PRIu32
                " for rows up to %" PRIu32 ", which need %" PRIu32,
                seq->slot, have, g, last, need);
    }
    return STATUS_OK;
}

static enum status check_seq(const struct session *s, const struct plan_seq *seq, struct error *err)
{
    const struct slot *slot = &s->slot[seq->slot];
    bool first = seq->flags & PLAN_SEQ_FIRST;
    if (!first && (!slot->used || slot->releasing || slot->generation != seq->generation ||
                      slot->attempt != seq->attempt))
        return status_fail(err, STATUS_MISMATCH,
            "step plan: slot %" PRIu32 " does not hold generation %" PRIu32 ", attempt %" PRIu32,
            seq->slot, seq->generation, seq->attempt);
    uint32_t n_ids = first ? seq->n_ids : slot->n_ids;
    uint32_t last = seq->first_position + seq->n_tokens;
    if (last > n_ids || (!first && seq->first_position > slot->n_computed))
        return status_fail(err, STATUS_MISMATCH,
            "step plan: slot %" PRIu32 " has %" PRIu32 " ids, rows %" PRIu32 " to %" PRIu32
            " do not follow them",
            seq->slot, n_ids, seq->first_position, last);
    if (seq->flags & PLAN_SEQ_SAMPLE && last != n_ids)
        return status_fail(err, STATUS_MISMATCH,
            "step plan: slot %" PRIu32 " samples behind position %" PRIu32 " of %" PRIu32,
            seq->slot, last, n_ids);
    // What was sampled may not be on the host yet.
    uint32_t n_given = first ? seq->n_ids : slot->n_given;
    if (seq->flags & PLAN_SEQ_SCORE && seq->score_begin + seq->score_count >= n_given)
        return status_fail(err, STATUS_MISMATCH,
            "step plan: slot %" PRIu32 " scores position %" PRIu32 ", whose next id was not given",
            seq->slot, seq->score_begin + seq->score_count - 1);
    return check_tables(s, seq, slot, first, err);
}

static enum status check_releases(
    struct session *s, const struct plan_header *plan, struct error *err)
{
    const struct plan_release *release = plan_releases(plan);
    for (uint32_t i = 0; i < plan->n_releases; i++) {
        struct slot *slot = &s->slot[release[i].slot];
        if (!slot->used || slot->generation != release[i].generation)
            return status_fail(err, STATUS_MISMATCH,
                "step plan: slot %" PRIu32 " does not hold generation %" PRIu32 " to release",
                release[i].slot, release[i].generation);
        slot->releasing = true;
    }
    return STATUS_OK;
}

enum status session_check(struct session *s, const struct plan_header *plan, struct error *err)
{
    TRY(check_step(s, plan, err));
    for (uint32_t i = 0; i < s->a.limits.n_slots; i++)
        s->slot[i].releasing = false;
    TRY(check_releases(s, plan, err));
    struct plan_cursor c = plan_seqs(plan);
    struct plan_seq_view v;
    while (plan_next_seq(&c, &v))
        TRY(check_seq(s, v.head, err));
    return STATUS_OK;
}
