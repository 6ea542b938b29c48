// SPDX-License-Identifier: Apache-2.0
// {% for %} and its `loop`. Items are tested one at a time, just before they are used, because a
// test may read what the body has changed; `loop.last` and the like look one item ahead, and
// `loop.length` of a loop with a test looks at all.
#include "model/template_internal.h"

#include <string.h>

struct template_loop {
    const struct template_node *node;
    struct template_scope *outer; // of the for itself
    struct template_list *source;
    size_t next; // of the source
    bool tested; // items from `next` on have passed the test
    bool ahead;  // `after` is the item that follows
    struct template_value before, current, after;
    size_t index; // of the current one, from 0
    size_t length;
    bool has_length;
    struct template_value changed; // what loop.changed() was last given
    bool has_changed;
};

// One item from the source that passes the test.
static enum status take(
    struct template_run *r, struct template_loop *loop, bool *found, struct template_value *out)
{
    *found = false;
    while (loop->next < loop->source->n && !*found) {
        *out = loop->source->items[loop->next++];
        *found = true;
        if (!loop->node->c || loop->tested)
            continue;
        struct template_scope *scope = r->scope;
        TRY(template_scope_push(r, loop->outer));
        TRY(template_exec_assign(r, loop->node->a, out));
        TRY(template_eval_truth(r, loop->node->c, found));
        r->scope = scope;
    }
    return STATUS_OK;
}

static enum status look_ahead(struct template_run *r, struct template_loop *loop)
{
    return loop->ahead ? STATUS_OK : take(r, loop, &loop->ahead, &loop->after);
}

static enum status know_length(struct template_run *r, struct template_loop *loop)
{
    if (loop->has_length)
        return STATUS_OK;
    struct template_value rest, item;
    size_t n = 0;
    TRY(template_make_list(r, loop->source->n - loop->next, TEMPLATE_FORM_LIST, &rest));
    for (bool found = true; found;) {
        TRY(take(r, loop, &found, &item));
        if (found)
            rest.list->items[n++] = item;
    }
    rest.list->n = n;
    loop->source = rest.list;
    loop->next = 0;
    loop->tested = true;
    loop->length = loop->index + 1 + n + loop->ahead;
    loop->has_length = true;
    return STATUS_OK;
}

// ---- fields ------------------------------------------------------------------------------------

static enum status neighbour(
    struct template_run *r, struct template_loop *loop, bool before, struct template_value *out)
{
    if (before && loop->index > 0) {
        *out = loop->before;
        return STATUS_OK;
    }
    if (!before) {
        TRY(look_ahead(r, loop));
        if (loop->ahead) {
            *out = loop->after;
            return STATUS_OK;
        }
    }
    return template_make_undefined(
        r, out, before ? "there is no previous item" : "there is no next item");
}

static enum status from_the_end(
    struct template_run *r, struct template_loop *loop, size_t plus, struct template_value *out)
{
    TRY(know_length(r, loop));
    *out = template_int(
        (int64_t)(plus == SIZE_MAX ? loop->length : loop->length - loop->index - 1 + plus));
    return STATUS_OK;
}

enum status template_loop_attr(struct template_run *r, struct template_loop *loop,
    struct template_text name, bool *found, struct template_value *out)
{
    *found = true;
    if (template_text_is(name, "index"))
        *out = template_int((int64_t)loop->index + 1);
    else if (template_text_is(name, "index0"))
        *out = template_int((int64_t)loop->index);
    else if (template_text_is(name, "first"))
        *out = template_bool(loop->index == 0);
    else if (template_text_is(name, "depth"))
        *out = template_int(1);
    else if (template_text_is(name, "depth0"))
        *out = template_int(0);
    else if (template_text_is(name, "length"))
        return from_the_end(r, loop, SIZE_MAX, out);
    else if (template_text_is(name, "revindex"))
        return from_the_end(r, loop, 1, out);
    else if (template_text_is(name, "revindex0"))
        return from_the_end(r, loop, 0, out);
    else if (template_text_is(name, "previtem"))
        return neighbour(r, loop, true, out);
    else if (template_text_is(name, "nextitem"))
        return neighbour(r, loop, false, out);
    else if (template_text_is(name, "last")) {
        TRY(look_ahead(r, loop));
        *out = template_bool(!loop->ahead);
    } else {
        *found = false;
    }
    return STATUS_OK;
}

enum status template_loop_method(struct template_run *r, struct template_loop *loop, bool changed,
    const struct template_call *call, struct template_value *out)
{
    if (!changed) {
        if (call->n_args == 0)
            return status_fail(r->err, STATUS_INVALID, "loop.cycle: no items were given");
        *out = call->args[loop->index % call->n_args];
        return STATUS_OK;
    }
    struct template_value now;
    bool equal = false;
    TRY(template_make_list(r, call->n_args, TEMPLATE_FORM_TUPLE, &now));
    if (call->n_args)
        memcpy(now.list->items, call->args, call->n_args * sizeof now);
    if (loop->has_changed)
        TRY(template_equal(r, &now, &loop->changed, &equal));
    loop->changed = now;
    loop->has_changed = true;
    *out = template_bool(!equal);
    return STATUS_OK;
}

// ---- running -----------------------------------------------------------------------------------

static enum status one_turn(struct template_run *r, struct template_loop *loop)
{
    const struct template_node *n = loop->node;
    struct template_value self = {.kind = TEMPLATE_LOOP, .loop = loop};
    TRY(template_scope_push(r, loop->outer));
    TRY(template_exec_set(r, r->t->names.loop, &self));
    TRY(template_exec_assign(r, n->a, &loop->current));
    TRY(template_exec(r, n->list));
    if (r->flow == TEMPLATE_FLOW_CONTINUE)
        r->flow = TEMPLATE_FLOW_ON;
    return STATUS_OK;
}

static enum status turns(struct template_run *r, struct template_loop *loop, bool *any)
{
    for (*any = false; r->flow == TEMPLATE_FLOW_ON; *any = true) {
        bool found = loop->ahead;
        struct template_value item = loop->after;
        loop->ahead = false;
        if (!found)
            TRY(take(r, loop, &found, &item));
        if (!found)
            break;
        loop->before = loop->current;
        loop->current = item;
        loop->index += *any;
        TRY(one_turn(r, loop));
    }
    if (r->flow == TEMPLATE_FLOW_BREAK)
        r->flow = TEMPLATE_FLOW_ON;
    return STATUS_OK;
}

enum status template_loop_run(struct template_run *r, const struct template_node *n)
{
    struct template_value over;
    bool any;
    struct template_loop *loop = arena_take(&r->arena, sizeof *loop);
    if (!loop)
        return template_no_memory(r);
    TRY(template_eval(r, n->b, &over));
    *loop = (struct template_loop){.node = n, .outer = r->scope};
    TRY(template_items(r, &over, &loop->source));
    if (!n->c) {
        loop->length = loop->source->n;
        loop->has_length = true;
    }
    TRY(turns(r, loop, &any));
    r->scope = loop->outer;
    if (any || !n->orelse)
        return STATUS_OK;
    TRY(template_scope_push(r, loop->outer));
    TRY(template_exec(r, n->orelse));
    r->scope = loop->outer;
    return STATUS_OK;
}
