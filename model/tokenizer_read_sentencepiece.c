// SPDX-License-Identifier: Apache-2.0
// A tokenizer.model of SentencePiece: a protobuf message (sentencepiece_model.proto). The few
// fields that matter are read where they lie, so that a hostile file costs no memory of its own.
#include "base/check.h"
#include "base/utf8.h"
#include "model/tokenizer_load.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static enum status no_memory(struct error *err)
{
    return status_fail(err, STATUS_NO_MEMORY, "out of memory for the tokenizer");
}

// ---- protobuf's wire format ----------------------------------------------------------------

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

struct field {
    uint32_t number;
    enum wire wire;
    uint64_t value;              // of a number
    struct tokenizer_bytes text; // of bytes and messages
};

static bool read_varint(struct tokenizer_bytes *in, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 64 && in->n > 0; shift += 7) {
        uint8_t b = *in->data++;
        in->n--;
        *out |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80)
            return true;
    }
    return false;
}

static bool read_fixed(struct tokenizer_bytes *in, size_t n, uint64_t *out)
{
    if (in->n < n)
        return false;
    *out = 0;
    memcpy(out, in->data, n); // little-endian hosts only
    in->data += n;
    in->n -= n;
    return true;
}

// Takes the next field; false for what is none.
static bool next_field(struct tokenizer_bytes *in, struct field *f)
{
    uint64_t key, n;
    if (!read_varint(in, &key) || key >> 3 == 0 || key >> 3 > UINT32_MAX)
        return false;
    *f = (struct field){.number = (uint32_t)(key >> 3), .wire = (enum wire)(key & 7)};
    switch (f->wire) {
    case WIRE_VARINT:
        return read_varint(in, &f->value);
    case WIRE_64:
        return read_fixed(in, 8, &f->value);
    case WIRE_32:
        return read_fixed(in, 4, &f->value);
    case WIRE_BYTES:
        if (!read_varint(in, &n) || n > in->n)
            return false;
        f->text = (struct tokenizer_bytes){in->data, (size_t)n};
        in->data += n;
        in->n -= (size_t)n;
        return true;
    }
    return false;
}

static float as_float(const struct field *f)
{
    float v;
    uint32_t bits = (uint32_t)f->value;
    memcpy(&v, &bits, sizeof v);
    return v;
}

// ---- the messages --------------------------------------------------------------------------

enum { MODEL_UNIGRAM = 1, MODEL_BPE = 2 };

// What of the trainer's settings matters here, with the defaults of the format.
struct trainer {
    uint64_t type;
    bool byte_fallback, space_is_suffix;
    int32_t bos, eos;
    struct tokenizer_bytes unk_surface;
};

static enum status damaged(const char *what, struct error *err)
{
    return status_fail(err, STATUS_INVALID,
        "tokenizer.model is neither a tiktoken file nor a SentencePiece model: its %s cannot be "
        "read",
        what);
}

static enum status read_trainer(struct tokenizer_bytes in, struct trainer *t, struct error *err)
{
    struct field f;
    while (in.n > 0) {
        if (!next_field(&in, &f))
            return damaged("trainer_spec", err);
        switch (f.number) {
        case 3:
            t->type = f.value;
            break;
        case 24:
            t->space_is_suffix = f.value != 0;
            break;
        case 35:
            t->byte_fallback = f.value != 0;
            break;
        case 41:
            t->bos = (int32_t)f.value;
            break;
        case 42:
            t->eos = (int32_t)f.value;
            break;
        case 44:
            t->unk_surface = f.text;
            break;
        default:
            break;
        }
    }
    return STATUS_OK;
}

static enum status read_normalizer(
    struct tokenizer_bytes in, struct tokenizer_sentencepiece *how, struct error *err)
{
    struct field f;
    while (in.n > 0) {
        if (!next_field(&in, &f))
            return damaged("normalizer_spec", err);
        switch (f.number) {
        case 2:
            how->charsmap = f.text;
            break;
        case 3:
            how->add_dummy_prefix = f.value != 0;
            break;
        case 4:
            how->remove_extra_whitespaces = f.value != 0;
            break;
        case 5:
            how->escape_whitespaces = f.value != 0;
            break;
        default:
            break;
        }
    }
    return STATUS_OK;
}

// A text is normalized back only by models that were made for it; a table there is refused.
static enum status check_denormalizer(struct tokenizer_bytes in, struct error *err)
{
    struct tokenizer_sentencepiece how = {0};
    TRY(read_normalizer(in, &how, err));
    if (how.charsmap.n > 0)
        return status_fail(err, STATUS_UNSUPPORTED,
            "tokenizer.model: a denormalizer_spec with a precompiled_charsmap is not supported");
    return STATUS_OK;
}

static enum status read_piece(
    struct tokenizer_draft *d, struct tokenizer_bytes in, struct error *err)
{
    struct tokenizer_draft_token k = {
        .id = (uint32_t)d->n_tokens, .type = TOKENIZER_NORMAL, .content = {in.data, 0}};
    struct field f;
    while (in.n > 0) {
        if (!next_field(&in, &f))
            return damaged("pieces", err);
        if (f.number == 1)
            k.content = f.text;
        else if (f.number == 2)
            k.score = (double)as_float(&f);
        else if (f.number == 3)
            k.type = (enum tokenizer_token_type)(f.value & 0xff);
    }
    bool good = k.content.data && k.content.n > 0 && utf8_valid(k.content.data, k.content.n) &&
                isfinite(k.score) && k.type >= TOKENIZER_NORMAL && k.type <= TOKENIZER_BYTE;
    if (!good)
        return status_fail(err, STATUS_INVALID,
            "tokenizer.model: piece %zu must have a text in UTF-8, a finite score and a known type",
            d->n_tokens);
    d->tokens[d->n_tokens++] = k;
    return STATUS_OK;
}

static enum status read_message(struct tokenizer_draft *d, struct tokenizer_bytes model,
    struct trainer *trainer, struct error *err)
{
    struct tokenizer_bytes in = model;
    struct field f;
    size_t n = 0;
    while (in.n > 0) {
        if (!next_field(&in, &f))
            return damaged("fields", err);
        n += f.number == 1;
    }
    TRY(tokenizer_draft_reserve_tokens(d, n, err));
    for (in = model; in.n > 0;) {
        next_field(&in, &f); // has been checked
        if (f.number <= 5 && f.wire != WIRE_BYTES)
            return damaged("fields", err);
        if (f.number == 1)
            TRY(read_piece(d, f.text, err));
        else if (f.number == 2)
            TRY(read_trainer(f.text, trainer, err));
        else if (f.number == 3)
            TRY(read_normalizer(f.text, &d->normalizer, err));
        else if (f.number == 5)
            TRY(check_denormalizer(f.text, err));
    }
    return STATUS_OK;
}

// ---- the model -----------------------------------------------------------------------------

static int by_score(const void *a, const void *b)
{
    const struct tokenizer_draft_token *x = *(struct tokenizer_draft_token *const *)a;
    const struct tokenizer_draft_token *y = *(struct tokenizer_draft_token *const *)b;
    return (x->score < y->score) - (x->score > y->score);
}

// The highest score merges first; equal scores have equal ranks and go from left to right.
static enum status merge_by_score(struct tokenizer_draft *d, struct error *err)
{
    uint32_t *rank = arena_array(&d->arena, d->n_tokens + 1, sizeof *rank);
    struct tokenizer_draft_token **order =
        arena_array(&d->arena, d->n_tokens + 1, sizeof(struct tokenizer_draft_token *));
    if (!rank || !order)
        return no_memory(err);
    for (size_t i = 0; i < d->n_tokens; i++)
        order[i] = &d->tokens[i];
    qsort(order, d->n_tokens, sizeof(struct tokenizer_draft_token *), by_score);
    uint32_t next = 0;
    for (size_t i = 0; i < d->n_tokens; i++) {
        if (i > 0 && order[i]->score < order[i - 1]->score)
            next = (uint32_t)i;
        if (order[i]->type == TOKENIZER_UNUSED)
            return status_fail(err, STATUS_UNSUPPORTED,
                "tokenizer.model: unused pieces in a BPE model are not supported");
        rank[order[i]->id] = order[i]->type == TOKENIZER_NORMAL ? next : UINT32_MAX;
    }
    return tokenizer_draft_merge_all(d, rank, err);
}

// Byte pieces and the unknown piece: what the format demands of a model.
static enum status check_pieces(
    const struct tokenizer_draft *d, bool byte_fallback, int64_t *unk, struct error *err)
{
    size_t bytes = 0, unknown = 0;
    for (size_t i = 0; i < d->n_tokens; i++) {
        bytes += d->tokens[i].type == TOKENIZER_BYTE;
        if (d->tokens[i].type == TOKENIZER_UNKNOWN) {
            unknown++;
            *unk = (int64_t)i;
        }
    }
    if (unknown != 1 || bytes != (byte_fallback ? 256 : 0))
        return status_fail(err, STATUS_INVALID,
            "tokenizer.model has %zu unknown pieces and %zu byte pieces, expected 1 and %d",
            unknown, bytes, byte_fallback ? 256 : 0);
    return STATUS_OK;
}

// ---- what surrounds it ---------------------------------------------------------------------

static const char *const CHATGLM_TOKENS[] = {"[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"};

static bool append_special(json_t *list, struct tokenizer_bytes content, json_int_t id)
{
    json_t *row = json_pack("{s:s%, s:I, s:b}", "content", (const char *)content.data, content.n,
        "id", id, "special", true);
    return json_array_append_new(list, row) == 0;
}

// Control pieces become special tokens, and those that ChatGLM has in its code only.
static bool add_specials(json_t *list, const struct tokenizer_draft *d, bool chatglm)
{
    bool ok = true;
    for (size_t i = 0; i < d->n_tokens && ok; i++) {
        const struct tokenizer_draft_token *k = &d->tokens[i];
        if (k->type == TOKENIZER_CONTROL || k->type == TOKENIZER_UNKNOWN)
            ok = append_special(list, k->content, k->id);
    }
    for (size_t i = 0; chatglm && i < COUNT_OF(CHATGLM_TOKENS) && ok; i++) {
        struct tokenizer_bytes content = {
            (const uint8_t *)CHATGLM_TOKENS[i], strlen(CHATGLM_TOKENS[i])};
        ok = append_special(list, content, (json_int_t)(d->n_tokens + i));
    }
    return ok;
}

// ChatGLM puts [gMASK] and sop before every text.
static json_t *chatglm_post(const struct tokenizer_draft *d)
{
    json_int_t first = (json_int_t)d->n_tokens;
    return json_pack("{s:s, s:[{s:{s:s}}, {s:{s:s}}, {s:{s:s}}], s:{s:{s:[I]}, s:{s:[I]}}}", "type",
        "TemplateProcessing", "single", "SpecialToken", "id", "[gMASK]", "SpecialToken", "id",
        "sop", "Sequence", "id", "A", "special_tokens", "[gMASK]", "ids", first + 1, "sop", "ids",
        first + 3);
}

static enum status make_rest(struct tokenizer_draft *d, const struct tokenizer_side *side,
    const struct trainer *trainer, int64_t unk, struct error *err)
{
    char class[64];
    json_t *added;
    TRY(tokenizer_side_added(side, &added, err));
    tokenizer_side_class(side, class);
    bool chatglm = strcmp(class, "ChatGLMTokenizer") == 0;
    const char *unk_piece = (const char *)d->tokens[unk].content.data;
    json_t *model =
        trainer->type == MODEL_BPE
            ? json_pack("{s:s, s:b, s:b, s:s%}", "type", "BPE", "fuse_unk", true, "byte_fallback",
                  trainer->byte_fallback, "unk_token", unk_piece, d->tokens[unk].content.n)
            : json_pack("{s:s, s:I, s:b}", "type", "Unigram", "unk_id", (json_int_t)unk,
                  "byte_fallback", trainer->byte_fallback);
    bool ok = add_specials(added, d, chatglm);
    d->rest = json_pack("{s:o, s:o, s:o?}", "added_tokens", added, "model", model, "post_processor",
        chatglm ? chatglm_post(d) : NULL);
    return ok && d->rest ? STATUS_OK : no_memory(err);
}

static struct tokenizer_bytes piece_at(const struct tokenizer_draft *d, int32_t id)
{
    return id >= 0 && (size_t)id < d->n_tokens ? d->tokens[id].content
                                               : (struct tokenizer_bytes){0};
}

enum status tokenizer_read_sentencepiece(struct tokenizer_draft *d,
    const struct tokenizer_side *side, struct tokenizer_bytes model, struct error *err)
{
    static const char UNKNOWN[] = " \xe2\x81\x87 ";
    struct trainer trainer = {.type = MODEL_UNIGRAM, .bos = 1, .eos = 2};
    trainer.unk_surface = (struct tokenizer_bytes){(const uint8_t *)UNKNOWN, sizeof UNKNOWN - 1};
    int64_t unk = 0;
    d->sentencepiece = d->explicit_ids = true;
    d->normalizer = (struct tokenizer_sentencepiece){
        .add_dummy_prefix = true, .remove_extra_whitespaces = true, .escape_whitespaces = true};
    TRY(read_message(d, model, &trainer, err));
    if (trainer.type != MODEL_UNIGRAM && trainer.type != MODEL_BPE)
        return status_fail(err, STATUS_UNSUPPORTED,
            "tokenizer.model: SentencePiece models of type %llu (WORD or CHAR) are not supported",
            (unsigned long long)trainer.type);
    if (!utf8_valid(trainer.unk_surface.data, trainer.unk_surface.n))
        return damaged("unk_surface", err);
    TRY(check_pieces(d, trainer.byte_fallback, &unk, err));
    d->normalizer.space_is_suffix = trainer.space_is_suffix;
    // With a Hugging Face configuration, the unknown token is shown by its name, as there.
    d->normalizer.unknown =
        tokenizer_side_token(side, "unk_token") ? d->tokens[unk].content : trainer.unk_surface;
    d->normalizer.add_dummy_prefix &= tokenizer_side_bool(side, "add_prefix_space", true);
    d->normalizer.prefix_once = !tokenizer_side_bool(side, "legacy", true);
    d->bos = piece_at(d, trainer.bos);
    d->eos = piece_at(d, trainer.eos);
    d->add_bos = true;
    TRY(make_rest(d, side, &trainer, unk, err));
    return trainer.type == MODEL_BPE ? merge_by_score(d, err) : STATUS_OK;
}
