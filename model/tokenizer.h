// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back, as the files of a model directory describe it: tokenizer.json (the
// format of Hugging Face's tokenizers library, whose results are matched id for id) or, where there
// is none, the older kinds of files (SentencePiece's and tiktoken's results are matched).
//
//   text -> special tokens cut out -> normalizer -> pre-tokenizer -> model -> post-processor
//   ids  -> token texts -> decoder -> text
//
// A tokenizer is loaded once, never changes its answers afterwards, and may be used by any number
// of threads at once. Decoding one id at a time goes through `struct tokenizer_stream`, plain data
// of a few bytes; decoding a whole list runs the same code, so both always agree.
#ifndef PHALANX_MODEL_TOKENIZER_H
#define PHALANX_MODEL_TOKENIZER_H

#include "base/buf.h"
#include "base/status.h"
#include "model/text_file.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOKENIZER_FILE_BYTES_MAX ((size_t)64 << 20)
#define TOKENIZER_TEXT_BYTES_MAX ((size_t)8 << 20) // of one call to tokenizer_encode
#define TOKENIZER_VOCAB_MAX ((uint32_t)1 << 20)    // ids are below this
#define TOKENIZER_TOKEN_BYTES_MAX ((size_t)4096)   // of one token's content
#define TOKENIZER_NONE UINT32_MAX                  // "there is no such id"

struct tokenizer;

// A growable list of ids with a fixed maximum; plain data, owned by the caller.
struct tokenizer_ids {
    uint32_t *data; // owned
    size_t count;
    size_t capacity;
    size_t count_max;
};

void tokenizer_ids_init(struct tokenizer_ids *ids, size_t count_max);
void tokenizer_ids_deinit(struct tokenizer_ids *ids);

// Loads the tokenizer of a model directory from the first of these that it has: tokenizer.json;
// tokenizer.model (SentencePiece, or tiktoken under that name); vocab.json with merges.txt (GPT-2's
// kind); a .tiktoken file; vocab.txt (BERT's kind). Beside it, as far as they exist:
// tokenizer_config.json, special_tokens_map.json, added_tokens.json (names of the BOS and EOS
// tokens, and whether they are added; and, where there is no tokenizer.json, the added tokens).
// NOT_FOUND without a tokenizer, UNSUPPORTED for a part that Phalanx does not know, INVALID,
// TOO_LARGE or IO, with a sentence. *out is the caller's, to be freed.
enum status tokenizer_load(const char *dir, struct tokenizer **out, struct error *err);
// The same, faster where it was loaded before: what was read is kept in a file of `cache_dir` (made
// if it does not exist; NULL: no cache), named and checked by hashes of all source files. A cache
// that is damaged, or that cannot be read or written, changes nothing but the time.
enum status tokenizer_load_cached(
    const char *dir, const char *cache_dir, struct tokenizer **out, struct error *err);
// Where caches of this user go: $XDG_CACHE_HOME/phalanx or ~/.cache/phalanx; false if there is no
// such place.
bool tokenizer_cache_default_dir(char path[TEXT_FILE_PATH_BYTES]);
// The same for files in memory, which are told apart by their names.
struct tokenizer_file {
    const char *name;
    const void *data;
    size_t n;
};
enum status tokenizer_load_files(
    const struct tokenizer_file *files, size_t n_files, struct tokenizer **out, struct error *err);
// The same for the text of a tokenizer.json alone.
enum status tokenizer_load_memory(
    const void *json, size_t n, struct tokenizer **out, struct error *err);
void tokenizer_free(struct tokenizer *t); // NULL is allowed

// One more than the highest id.
uint32_t tokenizer_vocab_size(const struct tokenizer *t);
// TOKENIZER_NONE where the model directory names no such token.
uint32_t tokenizer_bos(const struct tokenizer *t);
uint32_t tokenizer_eos(const struct tokenizer *t);

// The id of a token by its content as written in tokenizer.json ("<|im_end|>", "\u0120the"), added
// tokens first; TOKENIZER_NONE if there is none.
uint32_t tokenizer_id(const struct tokenizer *t, const void *content, size_t n);
// The content as written in tokenizer.json, borrowed from `t`; NULL for an id without a token.
const char *tokenizer_content(const struct tokenizer *t, uint32_t id, size_t *n);
// The bytes that the token stands for in the middle of a text, borrowed from `t`: byte-level
// characters and byte tokens resolved, U+2581 replaced where the decoder does so. They need not
// be whole UTF-8 characters. NULL for an id without a token.
const uint8_t *tokenizer_bytes(const struct tokenizer *t, uint32_t id, size_t *n);
// True for control tokens: those added with "special": true.
bool tokenizer_is_special(const struct tokenizer *t, uint32_t id);

enum tokenizer_flags {
    // Adds what the post-processor adds around a single text (BOS, EOS).
    TOKENIZER_ADD_SPECIAL = 1 << 0,
    // The text of a special token, found in the input, becomes that token. Without it, it is
    // ordinary text: what clients send must not turn into control tokens.
    TOKENIZER_PARSE_SPECIAL = 1 << 1,
};

// Appends the ids of `text` to `ids`; on failure `ids` has what it had. INVALID for text that is
// not UTF-8, TOO_LARGE when the text or the ids exceed their maximum.
enum status tokenizer_encode(const struct tokenizer *t, const void *text, size_t n, unsigned flags,
    struct tokenizer_ids *ids, struct error *err);

// A part of a text, in bytes.
struct tokenizer_span {
    size_t begin, end;
};

// A text with parts (ascending, apart) in which special tokens are not looked for: with
// TOKENIZER_PARSE_SPECIAL, one is found only where no byte of it lies in such a part. The ids are
// those of the same text without parts, unless that has a special token which touches one.
struct tokenizer_marked {
    const void *data;
    size_t n;
    const struct tokenizer_span *plain;
    size_t n_plain;
};
enum status tokenizer_encode_marked(const struct tokenizer *t, const struct tokenizer_marked *text,
    unsigned flags, struct tokenizer_ids *ids, struct error *err);

// Appends the text of `ids` to `out`, always valid UTF-8: what cannot be part of it appears as
// U+FFFD. Ids without a token are skipped, special ones too if `skip_special`. TOO_LARGE when
// `out` is full.
enum status tokenizer_decode(
    const struct tokenizer *t, const uint32_t *ids, size_t n, bool skip_special, struct buf *out);

// A run of byte tokens is held back until it ends, because an invalid one turns each of its bytes
// into U+FFFD; a longer run than this is judged piece by piece.
enum { TOKENIZER_STREAM_HELD_MAX = 56 };

// The state of one text while it is decoded id by id. Plain data: copying it forks the text.
struct tokenizer_stream {
    uint8_t held[TOKENIZER_STREAM_HELD_MAX]; // bytes that are not final yet
    uint8_t n_held;
    uint8_t strip_left;  // characters that may still be stripped at the beginning
    uint8_t strip_right; // characters held back because they may be stripped at the end
    bool skip_special;
    bool begun;       // a token has been seen
    bool in_run;      // the last token was a byte token
    bool bad_run;     // and its run is known to be invalid
    uint32_t waiting; // a token of which a part waits for the next one, or the last token
};

// `continued` begins in the middle of a text: nothing that decoders do to the very first token
// (leaving out its space) is done.
void tokenizer_stream_begin(
    const struct tokenizer *t, struct tokenizer_stream *s, bool skip_special, bool continued);
// Appends the bytes that became final; whole UTF-8 characters only. TOO_LARGE when `out` is full
// (the stream is then of no more use).
enum status tokenizer_stream_push(
    const struct tokenizer *t, struct tokenizer_stream *s, uint32_t id, struct buf *out);
// Appends what was held back. The stream may be begun anew.
enum status tokenizer_stream_finish(
    const struct tokenizer *t, struct tokenizer_stream *s, struct buf *out);

#endif
