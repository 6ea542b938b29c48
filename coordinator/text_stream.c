// SPDX-License-Identifier: Apache-2.0
// Knuth, Morris, Pratt: "Fast pattern matching in strings", SIAM J. Comput. 6 (1977).
#include "coordinator/text_stream.h"

#include "coordinator/core_mutant.h"

#include <string.h>

void text_stream_prepare(const uint8_t *text, uint32_t size, uint8_t *fail)
{
    uint32_t k = 0;
    fail[0] = 0;
    for (uint32_t i = 1; i < size; i++) {
        while (k > 0 && text[i] != text[k])
            k = fail[k - 1];
        k += text[i] == text[k];
        fail[i] = (uint8_t)k;
    }
}

void text_stream_begin(struct text_stream *s, const struct text_decoder *decoder, bool skip_special)
{
    memset(s, 0, sizeof *s);
    if (decoder)
        decoder->begin(decoder->user, s->decoder, skip_special);
}

// The stop string that explains most of what is held back; the held bytes are its beginning.
static uint32_t longest(const struct text_stream *s, const struct text_stops *stops)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < stops->n; i++)
        if (s->matched[i] > s->matched[best])
            best = i;
    return best;
}

// Feeds one byte to every automaton. Returns the first stop string that ends here, or -1.
static int feed(struct text_stream *s, const struct text_stops *stops, uint8_t byte)
{
    int found = TEXT_STREAM_GOES_ON;
    for (uint32_t i = 0; i < stops->n; i++) {
        const struct text_stop *stop = &stops->stop[i];
        uint32_t k = s->matched[i];
        while (k > 0 && stop->text[k] != byte)
            k = stop->fail[k - 1];
        k += stop->text[k] == byte;
        if (k == stop->size) {
            if (found < 0)
                found = (int)i;
            k = stop->fail[k - 1];
        }
        s->matched[i] = (uint8_t)k;
    }
    return found;
}

// Moves the first `n` bytes of held + text to `out`; `held` bytes are the beginning of `stop`.
static void release(
    struct buf *out, const struct text_stop *stop, uint32_t held, const uint8_t *text, size_t n)
{
    size_t from_held = n < held ? n : held;
    if (from_held)
        buf_append(out, stop->text, from_held);
    buf_append(out, text, n - from_held);
}

// Runs the automata over new text and releases what is final.
static int search(struct text_stream *s, const struct text_stops *stops, const uint8_t *text,
    size_t n, bool match, bool include, struct buf *out)
{
    if (MUTANT(STOP_STRING_CUT_BY_TOKEN))
        memset(s->matched, 0, sizeof s->matched);
    uint32_t before = longest(s, stops);
    uint32_t held = s->matched[before];
    const struct text_stop *held_stop = &stops->stop[before];
    for (size_t i = 0; i < n; i++) {
        int found = feed(s, stops, text[i]);
        if (found < 0 || !match)
            continue;
        size_t size = held + i + 1;
        if (!include)
            size -= stops->stop[found].size;
        release(out, held_stop, held, text, size);
        memset(s->matched, 0, sizeof s->matched);
        return found;
    }
    uint32_t hold = MUTANT(HELD_TEXT_SENT) ? 0 : s->matched[longest(s, stops)];
    release(out, held_stop, held, text, held + n - hold);
    return TEXT_STREAM_GOES_ON;
}

int text_stream_push(struct text_stream *s, const struct text_decoder *decoder,
    const struct text_stops *stops, uint32_t id, bool match, bool include, struct buf *scratch,
    struct buf *out)
{
    if (!decoder)
        return TEXT_STREAM_GOES_ON;
    if (stops->n == 0) {
        decoder->push(decoder->user, s->decoder, id, out);
        return TEXT_STREAM_GOES_ON;
    }
    buf_clear(scratch);
    decoder->push(decoder->user, s->decoder, id, scratch);
    return search(s, stops, scratch->data, scratch->size, match, include, out);
}

void text_stream_finish(struct text_stream *s, const struct text_decoder *decoder,
    const struct text_stops *stops, struct buf *scratch, struct buf *out)
{
    if (!decoder)
        return;
    buf_clear(scratch);
    decoder->finish(decoder->user, s->decoder, scratch);
    if (stops->n && !MUTANT(HELD_TEXT_LOST)) {
        uint32_t i = longest(s, stops);
        buf_append(out, stops->stop[i].text, s->matched[i]);
        memset(s->matched, 0, sizeof s->matched);
    }
    buf_append(out, scratch->data, scratch->size);
}
