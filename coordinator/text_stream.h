// SPDX-License-Identifier: Apache-2.0
// The text of one sample while its tokens arrive: decodes ids, finds stop strings, and holds back
// what may be the beginning of one. What comes out is final, ends at whole characters, and is the
// same however the text is cut into tokens.
//
// A stop string is found with Knuth, Morris and Pratt's automaton: after each byte, `matched[i]`
// is the length of the longest beginning of stop string i that the text ends with. The bytes held
// back are thus the beginning of a stop string and need no copy.
#ifndef PHALANX_COORDINATOR_TEXT_STREAM_H
#define PHALANX_COORDINATOR_TEXT_STREAM_H

#include "base/buf.h"
#include "proto/limits.h"

#include <stdbool.h>
#include <stdint.h>

enum { TEXT_DECODER_STATE_BYTES = 128 };

// Turns ids into bytes. The state is plain data: copying it forks the text. push and finish append
// whole UTF-8 characters to `out` and allocate nothing (`out` has room for 64 KiB).
struct text_decoder {
    const void *user; // borrowed
    void (*begin)(const void *user, void *state, bool skip_special);
    void (*push)(const void *user, void *state, uint32_t id, struct buf *out);
    void (*finish)(const void *user, void *state, struct buf *out);
};

struct text_stop {
    const uint8_t *text; // [size]
    const uint8_t *fail; // [size]: made by text_stream_prepare
    uint32_t size;       // 1 .. LIMIT_STOP_STRING_BYTES
};

struct text_stops {
    uint32_t n;
    struct text_stop stop[LIMIT_STOP_STRINGS];
};

struct text_stream {
    _Alignas(8) uint8_t decoder[TEXT_DECODER_STATE_BYTES];
    uint8_t matched[LIMIT_STOP_STRINGS]; // less than the size of its string
};

// fail[k]: length of the longest proper beginning of `text` that ends at text[k].
void text_stream_prepare(const uint8_t *text, uint32_t size, uint8_t *fail);

// `decoder` may be NULL in all calls: then there is no text.
void text_stream_begin(
    struct text_stream *s, const struct text_decoder *decoder, bool skip_special);

enum { TEXT_STREAM_GOES_ON = -1 };
// Appends to `out` the bytes that became final with token `id`. Returns the index of the stop
// string that the text now contains, or TEXT_STREAM_GOES_ON; with `match` false none is looked for.
// The text then ends before the stop string, or after it with `include`. `scratch` is overwritten.
int text_stream_push(struct text_stream *s, const struct text_decoder *decoder,
    const struct text_stops *stops, uint32_t id, bool match, bool include, struct buf *scratch,
    struct buf *out);

// Appends what was held back: the text ends here without a stop string.
void text_stream_finish(struct text_stream *s, const struct text_decoder *decoder,
    const struct text_stops *stops, struct buf *scratch, struct buf *out);

#endif
