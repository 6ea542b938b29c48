// SPDX-License-Identifier: Apache-2.0
// What the files of the tokenizer share; nobody else includes this.
//
//   tokenizer.c            life cycle, lookups, the way of a text through the parts below
//   tokenizer_load.c       which files of a directory make the tokenizer; their way into a draft
//   tokenizer_read_*.c     each kind of file -> draft (tokenizer_draft.h)
//   tokenizer_cache.c      drafts that were read before, in a folder of the user's
//   tokenizer_build.c      draft -> struct tokenizer
//   tokenizer_config.c     tokenizer_config.json, special_tokens_map.json
//   tokenizer_added.c      added tokens: a trie that finds them in a text
//   tokenizer_spans.c      parts of a text in which no special token is found
//   tokenizer_normalize.c  normalizers, as a flat list of steps over a whole piece of text
//   tokenizer_split.c      pre-tokenizers, as a flat list of stages; pieces run depth first
//   tokenizer_sentencepiece.c, tokenizer_charsmap.c    SentencePiece's normalization by a table
//   tokenizer_bpe.c, tokenizer_unigram.c, tokenizer_words.c    models: words to ids
//   tokenizer_decode.c     decoders: ids to text, one at a time
//   tokenizer_pattern.c, tokenizer_regex.c, tokenizer_table.c, tokenizer_prefix.c,
//   tokenizer_json.c, unicode.c
//
// Memory: everything of a tokenizer lies in its arena, but for compiled patterns. A call to encode
// owns a `struct tokenizer_work`, freed when the call ends.
#ifndef PHALANX_MODEL_TOKENIZER_INTERNAL_H
#define PHALANX_MODEL_TOKENIZER_INTERNAL_H

#include "base/arena.h"
#include "base/hash.h"
#include "model/tokenizer.h"
#include "model/tokenizer_charsmap.h"
#include "model/tokenizer_pattern.h"
#include "model/tokenizer_prefix.h"
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
    TOKENIZER_AFFIX_BYTES_MAX = 64,   // of what a model writes before or behind characters
};
#define TOKENIZER_ARENA_BYTES_MAX ((size_t)1 << 30)
#define TOKENIZER_JSON_VALUES_MAX ((size_t)8 << 20) // in one file, so that it cannot fill memory
#define TOKENIZER_MERGES_MAX ((size_t)4 << 20)

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
    uint32_t head;                  // of BPEDecoder's `bytes`: what comes before the first suffix
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
    TOKENIZER_STEP_STRIP_NONSPACING,
    TOKENIZER_STEP_BERT_CLEAN,
    TOKENIZER_STEP_BERT_CHINESE,
    TOKENIZER_STEP_NMT,
    TOKENIZER_STEP_BYTES,         // ByteLevel's 256 characters
    TOKENIZER_STEP_PRECOMPILED,   // a table, as Hugging Face's library applies it
    TOKENIZER_STEP_SENTENCEPIECE, // a table and white space, as SentencePiece does it
};

// How SentencePiece normalizes; also what its files say about white space.
struct tokenizer_sentencepiece {
    bool add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces, space_is_suffix;
    bool prefix_once; // only where the whole text begins, not behind each special token
    struct tokenizer_bytes charsmap; // as in the file; none where n is 0
    struct tokenizer_bytes unknown;  // what the unknown token decodes to
};

struct tokenizer_step {
    enum tokenizer_step_kind kind;
    struct tokenizer_pattern pattern;     // REPLACE
    struct tokenizer_bytes content;       // REPLACE, PREPEND
    bool left, right;                     // STRIP
    struct tokenizer_charsmap map;        // PRECOMPILED, SENTENCEPIECE
    struct tokenizer_sentencepiece white; // SENTENCEPIECE, but for its charsmap
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

enum tokenizer_model {
    TOKENIZER_BPE,
    TOKENIZER_UNIGRAM,
    TOKENIZER_WORD_PIECE,
    TOKENIZER_WORD_LEVEL
};

struct tokenizer_bpe {
    struct tokenizer_texts words; // by the bytes that the last stage gives; see `raw_bytes`
    struct tokenizer_pairs pairs;
    size_t word_bytes_max; // no word longer than this is in `words`
    // Words are plain bytes, not ByteLevel's characters: true if that stage is the last one.
    bool raw_bytes;
    uint32_t byte_id[256]; // raw_bytes: the token of one byte
    uint32_t *char_id;     // otherwise: of each character below U+10000
    bool fuse_unk, ignore_merges;
    // Written before each character of a word but the first, and behind its last one.
    struct tokenizer_bytes prefix, suffix;
    // Words may be cut before U+2581 unless the byte before it is one of `glue`: no merge reaches
    // over such a place.
    bool cut_meta;
    bool glue[256];
    // Per id: does encoding its own content give just this id? Found out when first asked for;
    // each thread finds the same, so relaxed atomics do.
    _Atomic uint8_t *whole;
};

// The likeliest way to cut a word into tokens: the sum of their scores is the highest.
struct tokenizer_unigram {
    struct tokenizer_prefixes pieces;
    double *score;      // by id
    double unk_score;   // of one unknown character
    bool sentencepiece; // sums in float, and fallback without a second look at the vocabulary
};

// Word by word: the longest token that the rest of the word begins with.
struct tokenizer_words {
    struct tokenizer_prefixes pieces;
    uint32_t continued; // the node where pieces that continue a word begin; NONE: there are none
    size_t chars_max;   // longer words are unknown
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
    bool each_byte; // in a run of byte tokens, each wrong byte becomes U+FFFD, and only those
    // SentencePiece: the space before the first text is left out (`drops_space`), or all of them.
    bool sentencepiece, drops_space, all_spaces;
    struct tokenizer_bytes unknown;
    bool words;                    // WordPiece: the first token differs from the others
    struct tokenizer_bytes prefix; // of the others
    bool cleanup;
    struct tokenizer_bytes suffix; // BPEDecoder: a space, or nothing at the end
    bool ctc;                      // equal neighbours count once
    struct tokenizer_bytes pad, delimiter;
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
    uint32_t n_ids; // one more than the highest id
    struct tokenizer_token *tokens;
    struct tokenizer_texts vocab; // of the model, by content
    size_t n_vocab;
    struct tokenizer_added_set added;
    struct tokenizer_step steps[TOKENIZER_STEPS_MAX];
    size_t n_steps;
    struct tokenizer_stage stages[TOKENIZER_STEPS_MAX];
    size_t n_stages;
    enum tokenizer_model model;
    bool byte_fallback;
    uint32_t fallback_id[256]; // <0x00>..<0xFF>
    bool unk_named;            // there is an unknown token,
    uint32_t unk;              // which may be missing from the vocabulary
    // Found in normalized text before the model sees it, and never merged (SentencePiece).
    struct tokenizer_prefixes frozen;
    struct tokenizer_bpe bpe;
    struct tokenizer_unigram unigram;
    struct tokenizer_words words;
    struct tokenizer_around before, after;
    struct tokenizer_decoder decoder;
    uint32_t bos, eos;
    bool add_bos; // unless tokenizer_config.json says otherwise
};

// One symbol of a word while it is merged.
struct tokenizer_symbol {
    uint32_t id;
    uint32_t rank;   // of the merge with the next one; UINT32_MAX: none
    uint32_t merged; // what that merge gives
    uint32_t previous, next;
};

// The best way to a place in a word: its last token and where that begins.
struct tokenizer_path {
    double score;
    uint32_t id;
    uint32_t start; // UINT32_MAX: not reached
};

// Scratch memory of one call.
struct tokenizer_work {
    const struct tokenizer *t;
    struct tokenizer_ids *ids;
    struct error *err;
    bool parse_special;
    const uint8_t *text;                // of the whole call,
    const struct tokenizer_span *plain; // and its parts in which no special token is found
    size_t n_plain;
    bool at_start;   // the text to be normalized begins where the whole text does
    bool start_gone; // the last normalization removed what the text began with
    struct tokenizer_matcher matcher;
    struct buf normal[2];
    struct buf stage[TOKENIZER_STEPS_MAX];
    struct tokenizer_symbol *symbols;
    size_t n_symbols_max;
    uint64_t *heap;
    size_t n_heap_max;
    struct tokenizer_path *path; // Unigram
    size_t n_path_max;
};

// An empty tokenizer, for building; NULL without memory.
struct tokenizer *tokenizer_new(void);

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
bool tokenizer_added_next(const struct tokenizer_work *w, bool normalized, const uint8_t *text,
    size_t n, size_t *at, struct tokenizer_found *found);

// tokenizer_spans.c: how many bytes from `at` on may belong to a special token.
size_t tokenizer_spans_room(const struct tokenizer_work *w, const uint8_t *at);
// Encodes a piece of the text by `rest`, in parts if special tokens that are found in normalized
// text would otherwise touch plain parts of it.
typedef enum status (*tokenizer_spans_rest)(
    struct tokenizer_work *w, const uint8_t *text, size_t n, bool at_start);
enum status tokenizer_spans_encode(struct tokenizer_work *w, const uint8_t *text, size_t n,
    bool at_start, tokenizer_spans_rest rest);

// tokenizer_normalize.c: *out is `in` itself or lies in `w`, until the next call.
enum status tokenizer_normalize(
    struct tokenizer_work *w, struct tokenizer_bytes in, struct tokenizer_bytes *out);

// tokenizer_sentencepiece.c: two of those steps.
void tokenizer_charsmap_run(
    const struct tokenizer_step *s, struct tokenizer_bytes in, struct buf *out);
void tokenizer_sentencepiece_run(struct tokenizer_work *w, const struct tokenizer_step *s,
    struct tokenizer_bytes in, struct buf *out);

// tokenizer_split.c: splits one piece (n > 0) from stage `i` on and encodes its words. `at_start`
// is whether the piece begins where the whole text does.
enum status tokenizer_split(
    struct tokenizer_work *w, size_t i, const uint8_t *text, size_t n, bool at_start);
// ByteLevel's character for a byte, and back (-1 if it is none of the 256).
uint32_t tokenizer_split_byte_char(uint8_t byte);
int tokenizer_split_char_byte(uint32_t c);

// The models: one word (n > 0) to ids.
enum status tokenizer_bpe_encode(struct tokenizer_work *w, const uint8_t *text, size_t n);
enum status tokenizer_unigram_encode(struct tokenizer_work *w, const uint8_t *text, size_t n);
enum status tokenizer_words_encode(struct tokenizer_work *w, const uint8_t *text, size_t n);
// The unknown token, once; INVALID if the vocabulary has none.
enum status tokenizer_words_unknown(struct tokenizer_work *w);

// tokenizer_decode.c: appends `in` with its characters replaced as the decoder does in the middle
// of a text.
void tokenizer_decode_mapped(
    const struct tokenizer_decoder *d, struct tokenizer_bytes in, struct buf *out);
// tokenizer_decode_prepare.c: fills in `piece`, `bytes` and `byte` of every token. The decoder's
// first steps, `replace`, see one token's content at a time.
enum status tokenizer_decode_prepare(
    struct tokenizer *t, const struct tokenizer_step *replace, size_t n_replace, struct error *err);

#endif
