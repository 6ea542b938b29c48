// SPDX-License-Identifier: Apache-2.0
// What every source of a tokenizer (tokenizer.json, tokenizer.model, vocab.json with merges.txt,
// vocab.txt, tiktoken files, our cache) is read into: plain lists, and a small JSON document for
// all that is neither vocabulary nor merges. Building a tokenizer from it checks every number.
//
//   source file -> tokenizer_read_*.c -> draft -> tokenizer_build.c -> struct tokenizer
//                                          ^ tokenizer_cache.c writes and reads it
#ifndef PHALANX_MODEL_TOKENIZER_DRAFT_H
#define PHALANX_MODEL_TOKENIZER_DRAFT_H

#include "model/tokenizer_internal.h"

#include <jansson.h>

// SentencePiece's kinds of pieces; the numbers are those of its files. Other sources have NORMAL.
enum tokenizer_token_type {
    TOKENIZER_NORMAL = 1,
    TOKENIZER_UNKNOWN = 2,
    TOKENIZER_CONTROL = 3,
    TOKENIZER_USER_DEFINED = 4,
    TOKENIZER_UNUSED = 5,
    TOKENIZER_BYTE = 6,
};

struct tokenizer_draft_token {
    struct tokenizer_bytes content; // borrowed from the source, or of the draft's arena
    uint32_t id;
    enum tokenizer_token_type type;
    double score; // Unigram
};

struct tokenizer_draft {
    struct arena arena;
    json_t *source; // owned; contents may be borrowed from it,
    void *file;     // owned; or from this
    json_t *rest;   // owned; as tokenizer.json, but without model.vocab and model.merges
    struct tokenizer_draft_token *tokens;
    size_t n_tokens;
    struct tokenizer_merge *merges; // of tokens by id; equal ranks go by place, the leftmost first
    size_t n_merges;
    // Where tokenizer_config.json says nothing: the special tokens, and whether BOS is added.
    struct tokenizer_bytes bos, eos;
    bool add_bos;
    bool explicit_ids; // added tokens have the ids that `rest` says
    // From a tokenizer.model: text is normalized, segmented and decoded as SentencePiece does it.
    bool sentencepiece;
    struct tokenizer_sentencepiece normalizer;
};

// The files beside the tokenizer's; each may be missing (NULL).
struct tokenizer_side {
    json_t *config; // tokenizer_config.json
    json_t *map;    // special_tokens_map.json
    json_t *added;  // added_tokens.json
};

void tokenizer_draft_init(struct tokenizer_draft *d);
void tokenizer_draft_deinit(struct tokenizer_draft *d);
// Room for `n` tokens and for `n` merges. TOO_LARGE or NO_MEMORY.
enum status tokenizer_draft_reserve_tokens(struct tokenizer_draft *d, size_t n, struct error *err);
enum status tokenizer_draft_reserve_merges(struct tokenizer_draft *d, size_t n, struct error *err);
// Copies bytes into the draft's arena.
enum status tokenizer_draft_keep(
    struct tokenizer_draft *d, struct tokenizer_bytes *bytes, struct error *err);
// A table from contents to places in `tokens`, in the draft's arena; of two equal contents the
// first one.
enum status tokenizer_draft_index(
    struct tokenizer_draft *d, struct tokenizer_texts *table, struct error *err);
// Sources whose merges are not written down: any two neighbours may become the token that they
// spell, the one with the lowest rank first. `rank` is by place in `tokens`; UINT32_MAX keeps a
// token from being merged or made.
enum status tokenizer_draft_merge_all(
    struct tokenizer_draft *d, const uint32_t *rank, struct error *err);

// ---- sources: each fills in an empty draft -------------------------------------------------

// Parts that two sources share: an object from contents to ids; one merge, whose tokens are looked
// up in `table` (n_prefix bytes of the second are left out of what it makes); "a b".
enum status tokenizer_read_vocab_object(struct tokenizer_draft *d, json_t *vocab, bool nul_hidden,
    const char *where, struct error *err);
enum status tokenizer_read_merge(struct tokenizer_draft *d, const struct tokenizer_texts *table,
    const struct tokenizer_bytes pair[2], size_t n_prefix, struct error *err);
// The rest of a byte-level BPE: split by `pattern` (NULL: GPT-2's), then bytes. Takes `added`; NULL
// without memory.
json_t *tokenizer_read_byte_level(
    const char *pattern, bool nfc, bool prefix_space, bool ignore_merges, json_t *added);
bool tokenizer_read_pair(const uint8_t *text, size_t n, struct tokenizer_bytes pair[2]);

enum status tokenizer_read_json(
    struct tokenizer_draft *d, const void *text, size_t n, struct error *err);
// `merges` is a merges.txt: pairs of tokens, line by line.
enum status tokenizer_read_bpe(struct tokenizer_draft *d, const struct tokenizer_side *side,
    struct tokenizer_bytes vocab, struct tokenizer_bytes merges, struct error *err);
// A vocab.txt: one token of WordPiece a line, as BERT has them.
enum status tokenizer_read_word_piece(struct tokenizer_draft *d, const struct tokenizer_side *side,
    struct tokenizer_bytes vocab, struct error *err);
// A SentencePiece model.
enum status tokenizer_read_sentencepiece(struct tokenizer_draft *d,
    const struct tokenizer_side *side, struct tokenizer_bytes model, struct error *err);
// Lines of base64 and rank; `name` is the file's.
enum status tokenizer_read_tiktoken(struct tokenizer_draft *d, const struct tokenizer_side *side,
    const char *name, struct tokenizer_bytes ranks, struct error *err);
bool tokenizer_read_is_tiktoken(struct tokenizer_bytes file);

// Fills in a zeroed `struct tokenizer` whose arena and key are ready. On failure it holds what was
// made so far, for tokenizer_free. The draft is not needed afterwards.
enum status tokenizer_build(
    struct tokenizer *t, const struct tokenizer_draft *d, struct error *err);
// Parts of it: the model's tables, behind tokens and pre-tokenizer; SentencePiece's user-defined
// pieces.
enum status tokenizer_build_model(
    struct tokenizer *t, const struct tokenizer_draft *d, size_t content_bytes, struct error *err);
enum status tokenizer_build_frozen(
    struct tokenizer *t, const struct tokenizer_draft *d, struct error *err);

#endif
