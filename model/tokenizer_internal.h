// SPDX-License-Identifier: Apache-2.0
// What the files of the tokenizer share; nobody else includes this.
//
//   tokenizer.c            life cycle, lookups, the way of a text through the parts below
//   tokenizer_load.c       tokenizer.json -> struct tokenizer
//   tokenizer_config.c     tokenizer_config.json, special_tokens_map.json
//   tokenizer_added.c      added tokens: a trie that finds them in a text
//   tokenizer_normalize.c  normalizers, as a flat list of steps over a whole piece of text
//   tokenizer_split.c      pre-tokenizers, as a flat list of stages; pieces run depth first
//   tokenizer_bpe.c        the BPE model: words to ids
//   tokenizer_post.c       post-processors: the ids around a text
//   tokenizer_decode.c     decoders: ids to text, one at a time
//   tokenizer_pattern.c, tokenizer_regex.c, tokenizer_table.c, tokenizer_json.c, unicode.c
//
// Memory: everything of a tokenizer lies in its arena, but for compiled patterns. A call to encode
// owns a `struct tokenizer_work`, freed when the call ends.
#ifndef PHALANX_MODEL_TOKENIZER_INTERNAL_H
#define PHALANX_MODEL_TOKENIZER_INTERNAL_H

#include "base/arena.h"
#include "base/hash.h"
#include "model/tokenizer.h"
#include "model/tokenizer_pattern.h"
#include "model/tokenizer_table.h"

#include <stdatomic.h>

enum {
    TOKENIZER_STEPS_MAX = 32,         // normalizers, or stages of the pre-tokenizer
    TOKENIZER_NESTING_MAX = 8,        // Sequences in Sequences
    TOKENIZER_AROUND_MAX = 16,        // ids that a post-processor adds on one side
    TOKENIZER_ADDED_BYTES_MAX = 1024, // of an added token's content
    TOKENIZER_MAPS_MAX = 8,           // characters that a decoder replaces
    TOKENIZER_MAP_BYTES_MAX = 16,     // what one of them becomes
    TOKENIZER_STRIP_MAX = 32,         // characters that a decoder strips at an end
};
#define TOKENIZER_ARENA_BYTES_MAX ((size_t)1 << 30)
#define TOKENIZER_JSON_VALUES_MAX ((size_t)8 << 20) // in one file, so that it cannot fill memory

// U+2581, which SentencePiece writes for a space.
#define TOKENIZER_META "\xe2\x96\x81"

// Bytes that do not move: of the arena or of a JSON document.
struct tokenizer_bytes {
    const uint8_t *data; // NULL: there are none
    size_t n;
};

// ---- tokens --------------------------------------------------------------------------------

struct tokenizer_token {
    struct tokenizer_bytes content; // as in tokenizer.json; added tokens take precedence
    struct tokenizer_bytes piece;   // what the decoder makes of the content alone,
    struct tokenizer_bytes bytes;   // and of that in the middle of a text
    int16_t byte;                   // 0..255 for a byte token of a ByteFallback decoder, else -1
    bool special;
};

struct tokenizer_added {
    struct tokenizer_bytes content;
    uint32_t id;
    bool special, lstrip, rstrip, single_word, normalized;
};

// A trie over the bytes of some added tokens; node 0 is the root.
struct tokenizer_trie {
    struct tokenizer_trie_node *nodes;
    size_t n_nodes;
    uint32_t root[256]; // the root's children; 0: none
};

struct tokenizer_added_set {
    struct tokenizer_added *items;
    size_t n_items;
    struct tokenizer_texts by_content;
    struct tokenizer_trie raw;        // looked for before normalization
    struct tokenizer_trie normalized; // and after it
};

// ---- the steps of encoding -----------------------------------------------------------------

enum tokenizer_step_kind {
    TOKENIZER_STEP_PREPEND,
    TOKENIZER_STEP_REPLACE,
    TOKENIZER_STEP_NFC,
    TOKENIZER_STEP_NFD,
    TOKENIZER_STEP_NFKC,
    TOKENIZER_STEP_NFKD,
    TOKENIZER_STEP_LOWERCASE,
    TOKENIZER_STEP_STRIP,
    TOKENIZER_STEP_STRIP_ACCENTS,
};

struct tokenizer_step {
    enum tokenizer_step_kind kind;
    struct tokenizer_pattern pattern; // REPLACE
    struct tokenizer_bytes content;   // REPLACE, PREPEND
    bool left, right;                 // STRIP
};

enum tokenizer_stage_kind {
    TOKENIZER_STAGE_SPLIT,
    TOKENIZER_STAGE_PREFIX_SPACE, // ByteLevel's add_prefix_space
    TOKENIZER_STAGE_BYTES,        // ByteLevel's 256 characters
    TOKENIZER_STAGE_META,         // Metaspace's replacement and prefix
};

enum tokenizer_behavior {
    TOKENIZER_REMOVED,
    TOKENIZER_ISOLATED,
    TOKENIZER_MERGED_WITH_PREVIOUS,
    TOKENIZER_MERGED_WITH_NEXT,
    TOKENIZER_CONTIGUOUS,
};

enum tokenizer_prepend { TOKENIZER_NEVER, TOKENIZER_FIRST, TOKENIZER_ALWAYS };

struct tokenizer_stage {
    enum tokenizer_stage_kind kind;
    struct tokenizer_pattern pattern; // SPLIT
    enum tokenizer_behavior behavior;
    bool invert;
    struct tokenizer_bytes content; // META: the replacement
    enum tokenizer_prepend prepend;
};

// ---- the model -----------------------------------------------------------------------------

// Other kinds of models (Unigram, WordPiece) would stand beside this one in struct tokenizer.
struct tokenizer_bpe {
    struct tokenizer_texts words; // by the bytes that the last stage gives; see `raw_bytes`
    struct tokenizer_pairs pairs;
    size_t word_bytes_max; // no word longer than this is in `words`
    // Words are plain bytes, not ByteLevel's characters: true if that stage is the last one.
    bool raw_bytes;
    uint32_t byte_id[256]; // raw_bytes: the token of one byte
    uint32_t *char_id;     // otherwise: of each character below U+10000
    bool fuse_unk, byte_fallback, ignore_merges;
    uint32_t fallback_id[256]; // <0x00>..<0xFF>
    bool unk_named;            // there is an unknown token,
    uint32_t unk;              // which may be missing from the vocabulary
    // Words may be cut before U+2581 unless the byte before it is one of `glue`: no merge reaches
    // over such a place.
    bool cut_meta;
    bool glue[256];
    // Per id: does encoding its own content give just this id? Found out when first asked for;
    // each thread finds the same, so relaxed atomics do.
    _Atomic uint8_t *whole;
};

struct tokenizer_around {
    uint32_t ids[TOKENIZER_AROUND_MAX];
    size_t n;
};

// ---- decoding ------------------------------------------------------------------------------

// A character and what it becomes.
struct tokenizer_map {
    uint8_t from[4], to[TOKENIZER_MAP_BYTES_MAX];
    uint8_t n_from, n_to;
    bool drop_in_first; // Metaspace leaves it out of the first token
};

struct tokenizer_decoder {
    bool present; // without a decoder, tokens are joined by spaces
    bool bytes;   // ByteLevel: pieces are bytes, joined before they are read as UTF-8
    bool byte_fallback;
    struct tokenizer_map maps[TOKENIZER_MAPS_MAX];
    size_t n_maps;
    uint8_t strip_char[4];
    uint8_t n_strip_char;
    uint8_t strip_left, strip_right;
};

// ---- all of it -----------------------------------------------------------------------------

struct tokenizer {
    struct arena arena;
    struct hash_key key;
    bool nul_hidden; // while loading: keys have U+FDD0 for U+0000
    uint32_t n_ids;  // one more than the highest id
    struct tokenizer_token *tokens;
    struct tokenizer_texts vocab; // of the model, by content
    size_t n_vocab;
    struct tokenizer_added_set added;
    struct tokenizer_step steps[TOKENIZER_STEPS_MAX];
    size_t n_steps;
    struct tokenizer_stage stages[TOKENIZER_STEPS_MAX];
    size_t n_stages;
    struct tokenizer_bpe bpe;
    struct tokenizer_around before, after;
    struct tokenizer_decoder decoder;
    uint32_t bos, eos;
};

// One symbol of a word while it is merged.
struct tokenizer_symbol {
    uint32_t id;
    uint32_t rank;   // of the merge with the next one; UINT32_MAX: none
    uint32_t merged; // what that merge gives
    uint32_t previous, next;
};

// Scratch memory of one call.
struct tokenizer_work {
    const struct tokenizer *t;
    struct tokenizer_ids *ids;
    struct error *err;
    bool parse_special;
    bool start_gone; // the last normalization removed what the text began with
    struct tokenizer_matcher matcher;
    struct buf normal[2];
    struct buf stage[TOKENIZER_STEPS_MAX];
    struct tokenizer_symbol *symbols;
    size_t n_symbols_max;
    uint64_t *heap;
    size_t n_heap_max;
};

void tokenizer_work_init(struct tokenizer_work *w, const struct tokenizer *t,
    struct tokenizer_ids *ids, struct error *err);
void tokenizer_work_deinit(struct tokenizer_work *w);
// Appends one id; TOO_LARGE when the list is full.
enum status tokenizer_work_emit(struct tokenizer_work *w, uint32_t id);

// tokenizer_added.c: builds both tries.
enum status tokenizer_added_build(struct tokenizer *t, struct tokenizer_work *w);
// The next added token in valid UTF-8 from *at on, or false; `normalized` tells which trie. The
// range found includes the white space that the token strips; *at is moved behind the token.
struct tokenizer_found {
    size_t start, end;
    uint32_t id;
    bool lstrip; // the white space at the start may be another token's already
};
bool tokenizer_added_next(const struct tokenizer *t, bool normalized, bool parse_special,
    const uint8_t *text, size_t n, size_t *at, struct tokenizer_found *found);

// tokenizer_normalize.c: *out is `in` itself or lies in `w`, until the next call.
enum status tokenizer_normalize(
    struct tokenizer_work *w, struct tokenizer_bytes in, struct tokenizer_bytes *out);

// tokenizer_split.c: splits one piece (n > 0) from stage `i` on and encodes its words. `at_start`
// is whether the piece begins where the whole text does.
enum status tokenizer_split(
    struct tokenizer_work *w, size_t i, const uint8_t *text, size_t n, bool at_start);
// ByteLevel's character for a byte, and back (-1 if it is none of the 256).
uint32_t tokenizer_split_byte_char(uint8_t byte);
int tokenizer_split_char_byte(uint32_t c);

// tokenizer_bpe.c
enum status tokenizer_bpe_encode(struct tokenizer_work *w, const uint8_t *text, size_t n);

// tokenizer_decode.c: fills in `piece`, `bytes` and `byte` of every token. The decoder's first
// steps, `replace`, see one token's content at a time.
enum status tokenizer_decode_prepare(
    struct tokenizer *t, const struct tokenizer_step *replace, size_t n_replace, struct error *err);

#endif
