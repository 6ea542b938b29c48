// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer_load.h"

#include "model/tokenizer_json.h"
#include "model/tokenizer_parse.h"
#include "model/unicode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum status no_memory(struct error *err)
{
    return status_fail(err, STATUS_NO_MEMORY, "out of memory for the tokenizer");
}

// ---- tokens --------------------------------------------------------------------------------

// Keeps a key of the vocabulary, with U+0000 as it was in the file.
static enum status keep_content(struct tokenizer *t, struct tokenizer_bytes *b, struct error *err)
{
    if (!t->nul_hidden || !memmem(b->data, b->n, TOKENIZER_JSON_NUL, 3))
        return tokenizer_json_keep(t, b, err);
    uint8_t *copy = arena_take(&t->arena, b->n);
    if (!copy)
        return no_memory(err);
    size_t n = 0;
    for (size_t i = 0; i < b->n; i++) {
        bool hidden = b->n - i >= 3 && memcmp(b->data + i, TOKENIZER_JSON_NUL, 3) == 0;
        copy[n++] = hidden ? 0 : b->data[i];
        i += hidden ? 2 : 0;
    }
    *b = (struct tokenizer_bytes){copy, n};
    return STATUS_OK;
}

// "vocab" is an object from contents to ids. *n_ids becomes one more than the highest id.
static enum status read_vocab(
    struct tokenizer *t, json_t *vocab, uint32_t *n_ids, struct error *err)
{
    const char *content;
    json_t *id;
    if (!json_is_object(vocab))
        return status_fail(
            err, STATUS_INVALID, "tokenizer.json: model: \"vocab\" must be an object");
    t->n_vocab = json_object_size(vocab);
    if (t->n_vocab > TOKENIZER_VOCAB_MAX)
        return status_fail(err, STATUS_TOO_LARGE,
            "tokenizer.json: the vocabulary has %zu tokens, at most %u are supported", t->n_vocab,
            TOKENIZER_VOCAB_MAX);
    if (!tokenizer_table_texts_init(&t->vocab, &t->arena, t->key, t->n_vocab))
        return no_memory(err);
    json_object_foreach(vocab, content, id)
    {
        struct tokenizer_bytes b = {(const uint8_t *)content, strlen(content)};
        json_int_t v = json_is_integer(id) ? json_integer_value(id) : -1;
        if (v < 0 || v >= (json_int_t)TOKENIZER_VOCAB_MAX || b.n > TOKENIZER_TOKEN_BYTES_MAX)
            return status_fail(err, STATUS_INVALID,
                "tokenizer.json: the id of token \"%.32s\" must be an integer below %u, and the "
                "token at most %zu bytes long",
                content, TOKENIZER_VOCAB_MAX, TOKENIZER_TOKEN_BYTES_MAX);
        TRY(keep_content(t, &b, err));
        tokenizer_table_texts_put(&t->vocab, b.data, b.n, (uint32_t)v);
        if ((uint32_t)v >= *n_ids)
            *n_ids = (uint32_t)v + 1;
    }
    return STATUS_OK;
}

static enum status read_added(
    struct tokenizer *t, const json_t *value, struct tokenizer_added *out, struct error *err)
{
    static const char WHERE[] = "tokenizer.json: added_tokens";
    struct tokenizer_added a = {0};
    TRY(tokenizer_json_text(value, "content", WHERE, &a.content, err));
    TRY(tokenizer_json_bool(value, "special", WHERE, false, &a.special, err));
    TRY(tokenizer_json_bool(value, "single_word", WHERE, false, &a.single_word, err));
    TRY(tokenizer_json_bool(value, "lstrip", WHERE, false, &a.lstrip, err));
    TRY(tokenizer_json_bool(value, "rstrip", WHERE, false, &a.rstrip, err));
    TRY(tokenizer_json_bool(value, "normalized", WHERE, !a.special, &a.normalized, err));
    if (a.content.n > TOKENIZER_ADDED_BYTES_MAX)
        return status_fail(err, STATUS_TOO_LARGE, "%s: a content is longer than %d bytes", WHERE,
            TOKENIZER_ADDED_BYTES_MAX);
    TRY(tokenizer_json_keep(t, &a.content, err));
    *out = a;
    return STATUS_OK;
}

// The id of an added token is that of the vocabulary or, as in the reference, the next one above
// everything so far, whatever the file says (files that it wrote say the same).
static uint32_t added_id(
    const struct tokenizer *t, struct tokenizer_bytes content, uint32_t highest)
{
    uint32_t id = tokenizer_table_texts_get(&t->vocab, content.data, content.n);
    if (id != TOKENIZER_NONE)
        return id;
    if (highest != TOKENIZER_NONE && (highest >= t->n_vocab || t->n_vocab == 0))
        return highest + 1;
    return (uint32_t)t->n_vocab;
}

// A content that comes twice is one token with the last one's properties; it stays special.
static void added_put(
    struct tokenizer *t, const struct tokenizer_added *a, uint32_t *highest, uint32_t *n_ids)
{
    struct tokenizer_added_set *set = &t->added;
    uint32_t at = tokenizer_table_texts_get(&set->by_content, a->content.data, a->content.n);
    if (at != TOKENIZER_NONE) {
        struct tokenizer_added *old = &set->items[at];
        uint32_t id = old->id;
        bool special = old->special || a->special;
        *old = *a;
        old->id = id;
        old->special = special;
        return;
    }
    uint32_t id = added_id(t, a->content, *highest);
    tokenizer_table_texts_put(
        &set->by_content, a->content.data, a->content.n, (uint32_t)set->n_items);
    set->items[set->n_items] = *a;
    set->items[set->n_items++].id = id;
    if (*highest == TOKENIZER_NONE || id > *highest)
        *highest = id;
    if (id >= *n_ids)
        *n_ids = id + 1;
}

static enum status read_added_tokens(
    struct tokenizer *t, const json_t *list, uint32_t *n_ids, struct error *err)
{
    size_t n = json_array_size(list);
    uint32_t highest = TOKENIZER_NONE;
    if (list && !json_is_null(list) && !json_is_array(list))
        return status_fail(err, STATUS_INVALID, "tokenizer.json: \"added_tokens\" must be a list");
    if (n > TOKENIZER_VOCAB_MAX - *n_ids)
        return status_fail(err, STATUS_TOO_LARGE,
            "tokenizer.json: more than %u tokens with the %zu added ones", TOKENIZER_VOCAB_MAX, n);
    t->added.items = arena_array(&t->arena, n + 1, sizeof *t->added.items);
    if (!t->added.items || !tokenizer_table_texts_init(&t->added.by_content, &t->arena, t->key, n))
        return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        struct tokenizer_added a;
        TRY(read_added(t, json_array_get(list, i), &a, err));
        if (a.content.n > 0)
            added_put(t, &a, &highest, n_ids);
    }
    return STATUS_OK;
}

// The array by id, from both tables.
static enum status make_tokens(struct tokenizer *t, uint32_t n_ids, struct error *err)
{
    t->tokens = arena_array(&t->arena, (size_t)n_ids + 1, sizeof *t->tokens);
    if (!t->tokens)
        return no_memory(err);
    t->n_ids = n_ids;
    for (size_t i = 0; i <= t->vocab.mask; i++) {
        const struct tokenizer_table_key *k = &t->vocab.slots[i];
        if (!k->text)
            continue;
        if (t->tokens[k->id].content.data)
            return status_fail(err, STATUS_INVALID,
                "tokenizer.json: two tokens of the vocabulary have the id %u", k->id);
        t->tokens[k->id].content = (struct tokenizer_bytes){k->text, k->n};
    }
    for (size_t i = 0; i < t->added.n_items; i++) {
        const struct tokenizer_added *a = &t->added.items[i];
        t->tokens[a->id].content = a->content;
        t->tokens[a->id].special = a->special;
    }
    return STATUS_OK;
}

// ---- words ---------------------------------------------------------------------------------

// ByteLevel's characters to bytes; false if one is none of the 256 (no word ever has it).
static bool to_bytes(const struct tokenizer_table_key *k, uint8_t *out, size_t *n)
{
    *n = 0;
    for (size_t i = 0, length; i < k->n; i += length) {
        int byte =
            tokenizer_split_char_byte(unicode_decode(k->text + i, (size_t)k->n - i, &length));
        if (byte < 0)
            return false;
        out[(*n)++] = (uint8_t)byte;
    }
    return true;
}

static enum status add_byte_word(
    struct tokenizer *t, const struct tokenizer_table_key *k, struct error *err)
{
    struct tokenizer_bpe *b = &t->bpe;
    uint8_t bytes[TOKENIZER_TOKEN_BYTES_MAX];
    struct tokenizer_bytes word = {bytes, 0};
    if (!to_bytes(k, bytes, &word.n))
        return STATUS_OK;
    if (word.n == 1)
        b->byte_id[bytes[0]] = k->id;
    if (word.n > b->word_bytes_max)
        b->word_bytes_max = word.n;
    TRY(tokenizer_json_keep(t, &word, err));
    tokenizer_table_texts_put(&b->words, word.data, word.n, k->id);
    return STATUS_OK;
}

static void add_char_word(struct tokenizer *t, const struct tokenizer_table_key *k)
{
    struct tokenizer_bpe *b = &t->bpe;
    size_t length = 0;
    uint32_t c = k->n > 0 ? unicode_decode(k->text, k->n, &length) : 0;
    if (k->n > 0 && length == k->n && c < 0x10000)
        b->char_id[c] = k->id;
    if (k->n > b->word_bytes_max)
        b->word_bytes_max = k->n;
}

// The vocabulary as the model sees it. A last stage that only spells bytes as characters is left
// out: the model then works on bytes.
static enum status make_words(struct tokenizer *t, struct error *err)
{
    struct tokenizer_bpe *b = &t->bpe;
    memset(b->byte_id, 0xff, sizeof b->byte_id);
    b->raw_bytes = t->n_stages > 0 && t->stages[t->n_stages - 1].kind == TOKENIZER_STAGE_BYTES;
    b->char_id = arena_array(&t->arena, 0x10000, sizeof *b->char_id);
    b->whole = arena_array(&t->arena, (size_t)t->n_ids + 1, sizeof *b->whole);
    if (!b->char_id || !b->whole)
        return no_memory(err);
    memset(b->char_id, 0xff, 0x10000 * sizeof *b->char_id);
    b->words = t->vocab;
    if (b->raw_bytes) {
        t->n_stages--;
        if (!tokenizer_table_texts_init(&b->words, &t->arena, t->key, t->n_vocab))
            return no_memory(err);
    }
    for (size_t i = 0; i <= t->vocab.mask; i++) {
        const struct tokenizer_table_key *k = &t->vocab.slots[i];
        if (!k->text)
            continue;
        if (b->raw_bytes)
            TRY(add_byte_word(t, k, err));
        else
            add_char_word(t, k);
    }
    return STATUS_OK;
}

// ---- merges --------------------------------------------------------------------------------

// "a b" or ["a", "b"].
static bool read_pair(const json_t *value, struct tokenizer_bytes pair[2])
{
    if (json_is_array(value) && json_array_size(value) == 2) {
        for (size_t i = 0; i < 2; i++) {
            const json_t *v = json_array_get(value, i);
            if (!json_is_string(v))
                return false;
            pair[i] = (struct tokenizer_bytes){
                (const uint8_t *)json_string_value(v), json_string_length(v)};
        }
        return true;
    }
    const char *text = json_string_value(value);
    if (!text)
        return false;
    size_t n = json_string_length(value);
    const char *space = memchr(text, ' ', n);
    if (!space)
        return false;
    size_t at = (size_t)(space - text);
    if (memchr(space + 1, ' ', n - at - 1))
        return false;
    pair[0] = (struct tokenizer_bytes){(const uint8_t *)text, at};
    pair[1] = (struct tokenizer_bytes){(const uint8_t *)space + 1, n - at - 1};
    return true;
}

// Notes the bytes before each U+2581 that stands inside of a token, unless it continues a run.
static void note_glue(struct tokenizer_bpe *b, const uint8_t *text, size_t n)
{
    static const uint8_t META[] = TOKENIZER_META;
    for (size_t i = 1; i + 3 <= n; i++) {
        if (memcmp(text + i, META, 3) == 0 && (i < 3 || memcmp(text + i - 3, META, 3) != 0))
            b->glue[text[i - 1]] = true;
    }
}

static bool is_stand_in(const struct tokenizer_bpe *b, uint32_t id)
{
    if (id == b->unk && id != TOKENIZER_NONE)
        return true;
    for (size_t i = 0; b->byte_fallback && i < 256; i++) {
        if (b->fallback_id[i] == id)
            return true;
    }
    return false;
}

static enum status read_merge(
    struct tokenizer *t, const json_t *value, size_t rank, struct error *err)
{
    struct tokenizer_bytes pair[2];
    uint8_t both[2 * TOKENIZER_TOKEN_BYTES_MAX];
    if (!read_pair(value, pair))
        return status_fail(err, STATUS_INVALID,
            "tokenizer.json: merge %zu must be two tokens, \"a b\" or [\"a\", \"b\"]", rank);
    size_t n = pair[0].n + pair[1].n;
    if (pair[0].n > TOKENIZER_TOKEN_BYTES_MAX || pair[1].n > TOKENIZER_TOKEN_BYTES_MAX)
        return status_fail(err, STATUS_TOO_LARGE,
            "tokenizer.json: merge %zu is longer than %zu bytes", rank, TOKENIZER_TOKEN_BYTES_MAX);
    memcpy(both, pair[0].data, pair[0].n);
    memcpy(both + pair[0].n, pair[1].data, pair[1].n);
    struct tokenizer_merge m = {
        .a = tokenizer_table_texts_get(&t->vocab, pair[0].data, pair[0].n),
        .b = tokenizer_table_texts_get(&t->vocab, pair[1].data, pair[1].n),
        .id = tokenizer_table_texts_get(&t->vocab, both, n),
        .rank = (uint32_t)rank,
    };
    if (m.a == TOKENIZER_NONE || m.b == TOKENIZER_NONE || m.id == TOKENIZER_NONE)
        return status_fail(err, STATUS_INVALID,
            "tokenizer.json: merge %zu (\"%.32s\") names a token, or makes one, that is not in the "
            "vocabulary",
            rank, json_is_string(value) ? json_string_value(value) : (const char *)pair[0].data);
    tokenizer_table_pairs_put(&t->bpe.pairs, &m);
    note_glue(&t->bpe, both, n);
    if (t->bpe.cut_meta && (is_stand_in(&t->bpe, m.a) || is_stand_in(&t->bpe, m.b)))
        t->bpe.cut_meta = false; // such a token's content says nothing about the text
    return STATUS_OK;
}

// True if no character of a text is lost: what is lost brings its neighbours together.
static bool keeps_all(const struct tokenizer_bpe *b)
{
    bool all_bytes = b->byte_fallback;
    for (size_t i = 0; i < 256; i++)
        all_bytes = all_bytes && b->fallback_id[i] != TOKENIZER_NONE;
    return all_bytes || b->unk != TOKENIZER_NONE;
}

static enum status read_merges(struct tokenizer *t, const json_t *merges, struct error *err)
{
    struct tokenizer_bpe *b = &t->bpe;
    if (!json_is_array(merges))
        return status_fail(err, STATUS_INVALID, "tokenizer.json: model: \"merges\" must be a list");
    size_t n = json_array_size(merges), rank = 0;
    if (!tokenizer_table_pairs_init(&b->pairs, &t->arena, t->key, n))
        return no_memory(err);
    b->cut_meta = !b->raw_bytes && b->char_id[0x2581] != TOKENIZER_NONE && keeps_all(b);
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_array_get(merges, i);
        const char *text = json_string_value(value);
        if (!text || strncmp(text, "#version", 8) != 0)
            TRY(read_merge(t, value, rank++, err));
    }
    for (uint32_t id = 0; b->ignore_merges && id < t->n_ids; id++)
        note_glue(b, t->tokens[id].content.data, t->tokens[id].content.n);
    return STATUS_OK;
}

// ---- the model -----------------------------------------------------------------------------

static bool is_set(const json_t *model, const char *field)
{
    const json_t *v = json_object_get(model, field);
    return v && !json_is_null(v) && !(json_is_string(v) && json_string_length(v) == 0);
}

static enum status check_model(const json_t *model, struct error *err)
{
    const json_t *type = json_object_get(model, "type");
    const char *name = json_is_string(type)                              ? json_string_value(type)
                       : json_is_object(json_object_get(model, "vocab")) ? "BPE"
                                                                         : "Unigram";
    if (!json_is_object(model))
        return status_fail(err, STATUS_INVALID, "tokenizer.json: \"model\" must be an object");
    if (strcmp(name, "BPE") != 0)
        return status_fail(err, STATUS_UNSUPPORTED,
            "tokenizer.json: models of type \"%.64s\" are not supported, only BPE is", name);
    if (is_set(model, "continuing_subword_prefix") || is_set(model, "end_of_word_suffix"))
        return status_fail(err, STATUS_UNSUPPORTED,
            "tokenizer.json: \"continuing_subword_prefix\" and \"end_of_word_suffix\" are not "
            "supported");
    if (json_number_value(json_object_get(model, "dropout")) != 0.0)
        return status_fail(err, STATUS_UNSUPPORTED,
            "tokenizer.json: \"dropout\" makes results random and is not supported");
    return STATUS_OK;
}

static enum status read_model_flags(struct tokenizer *t, const json_t *model, struct error *err)
{
    static const char WHERE[] = "tokenizer.json: model";
    struct tokenizer_bpe *b = &t->bpe;
    TRY(tokenizer_json_bool(model, "fuse_unk", WHERE, false, &b->fuse_unk, err));
    TRY(tokenizer_json_bool(model, "byte_fallback", WHERE, false, &b->byte_fallback, err));
    TRY(tokenizer_json_bool(model, "ignore_merges", WHERE, false, &b->ignore_merges, err));
    const json_t *unk = json_object_get(model, "unk_token");
    b->unk = TOKENIZER_NONE;
    b->unk_named = json_is_string(unk);
    if (b->unk_named)
        b->unk =
            tokenizer_table_texts_get(&t->vocab, json_string_value(unk), json_string_length(unk));
    for (unsigned i = 0; i < 256; i++) {
        char name[8];
        int n = snprintf(name, sizeof name, "<0x%02X>", i);
        b->fallback_id[i] = tokenizer_table_texts_get(&t->vocab, name, (size_t)n);
    }
    return STATUS_OK;
}

static enum status load_document(struct tokenizer *t, const json_t *root, struct error *err)
{
    const json_t *model = json_object_get(root, "model");
    uint32_t n_ids = 0;
    TRY(check_model(model, err));
    TRY(read_vocab(t, json_object_get(model, "vocab"), &n_ids, err));
    TRY(read_added_tokens(t, json_object_get(root, "added_tokens"), &n_ids, err));
    TRY(make_tokens(t, n_ids, err));
    TRY(tokenizer_parse_normalizer(t, json_object_get(root, "normalizer"), err));
    TRY(tokenizer_parse_pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), err));
    TRY(read_model_flags(t, model, err));
    TRY(make_words(t, err));
    TRY(read_merges(t, json_object_get(model, "merges"), err));
    TRY(tokenizer_parse_post_processor(t, json_object_get(root, "post_processor"), err));
    TRY(tokenizer_parse_decoder(t, json_object_get(root, "decoder"), err));
    struct tokenizer_work w;
    tokenizer_work_init(&w, t, NULL, err);
    enum status st = tokenizer_added_build(t, &w);
    tokenizer_work_deinit(&w);
    return st;
}

enum status tokenizer_load_json(struct tokenizer *t, const void *json, size_t n, struct error *err)
{
    json_t *root;
    char *copy;
    TRY(tokenizer_json_hide_nul(json, n, &copy, err));
    t->nul_hidden = copy != NULL;
    enum status st =
        tokenizer_json_parse("tokenizer.json", copy ? copy : json, n, JSON_ALLOW_NUL, &root, err);
    free(copy);
    TRY(st);
    st = load_document(t, root, err);
    json_decref(root);
    return st;
}
