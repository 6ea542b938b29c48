// SPDX-License-Identifier: Apache-2.0
// tiktoken files: lines of a token in base64, a space and its rank, which is also its id. Any two
// neighbours whose bytes together are a token may be merged; the lowest rank goes first.
#include "base/check.h"
#include "model/tokenizer_json.h"
#include "model/tokenizer_load.h"
#include "model/tokenizer_split_patterns.h"
#include "model/unicode.h"

#include <stdio.h>
#include <string.h>

static enum status no_memory(struct error *err)
{
    return status_fail(err, STATUS_NO_MEMORY, "out of memory for the tokenizer");
}

// ---- lines ---------------------------------------------------------------------------------

// Splits "base64 rank\n"; false for anything else. *text is moved behind the line.
static bool next_row(
    struct tokenizer_bytes *text, struct tokenizer_bytes *token, uint32_t *rank, bool *blank)
{
    const uint8_t *end = memchr(text->data, '\n', text->n);
    size_t n = end ? (size_t)(end - text->data) : text->n, i = 0;
    const uint8_t *line = text->data;
    text->data += end ? n + 1 : n;
    text->n -= end ? n + 1 : n;
    if (n > 0 && line[n - 1] == '\r')
        n--;
    *blank = n == 0;
    while (i < n && line[i] != ' ')
        i++;
    *token = (struct tokenizer_bytes){line, i};
    uint64_t value = 0;
    size_t digits = i + 1;
    while (digits < n && line[digits] >= '0' && line[digits] <= '9' && value < TOKENIZER_VOCAB_MAX)
        value = value * 10 + (uint64_t)(line[digits++] - '0');
    *rank = (uint32_t)value;
    return i > 0 && digits > i + 1 && digits == n && value < TOKENIZER_VOCAB_MAX;
}

bool tokenizer_read_is_tiktoken(struct tokenizer_bytes file)
{
    struct tokenizer_bytes token;
    uint32_t rank;
    bool blank;
    uint8_t bytes[16];
    size_t n;
    return file.n > 0 && next_row(&file, &token, &rank, &blank) && token.n < 16 &&
           tokenizer_charsmap_base64((const char *)token.data, token.n, bytes, &n);
}

// The token's bytes as ByteLevel's characters, in the draft's arena.
static enum status keep_row(struct tokenizer_draft *d, struct tokenizer_bytes base64, uint32_t rank,
    size_t line, struct error *err)
{
    uint8_t bytes[TOKENIZER_TOKEN_BYTES_MAX], chars[TOKENIZER_TOKEN_BYTES_MAX];
    size_t n = 0, length = 0;
    // Every byte may become two, and four characters of base64 are three bytes.
    if (base64.n / 4 * 3 > TOKENIZER_TOKEN_BYTES_MAX / 2 ||
        !tokenizer_charsmap_base64((const char *)base64.data, base64.n, bytes, &n) || n == 0)
        return status_fail(err, STATUS_INVALID,
            "line %zu of the tiktoken file is not a token of at most %zu bytes in base64", line,
            TOKENIZER_TOKEN_BYTES_MAX / 2);
    for (size_t i = 0; i < n; i++)
        length += unicode_encode(tokenizer_split_byte_char(bytes[i]), chars + length);
    struct tokenizer_bytes content = {chars, length};
    TRY(tokenizer_draft_keep(d, &content, err));
    d->tokens[d->n_tokens++] =
        (struct tokenizer_draft_token){.content = content, .id = rank, .type = TOKENIZER_NORMAL};
    return STATUS_OK;
}

static enum status read_rows(
    struct tokenizer_draft *d, struct tokenizer_bytes file, struct error *err)
{
    size_t lines = 1;
    for (size_t i = 0; i < file.n; i++)
        lines += file.data[i] == '\n';
    TRY(tokenizer_draft_reserve_tokens(d, lines, err));
    for (size_t line = 1; file.n > 0; line++) {
        struct tokenizer_bytes token;
        uint32_t rank;
        bool blank;
        bool good = next_row(&file, &token, &rank, &blank);
        if (blank)
            continue;
        if (!good)
            return status_fail(err, STATUS_INVALID,
                "line %zu of the tiktoken file must be a token in base64, a space and a rank below "
                "%u",
                line, TOKENIZER_VOCAB_MAX);
        TRY(keep_row(d, token, rank, line, err));
    }
    return STATUS_OK;
}

static enum status merge_by_rank(struct tokenizer_draft *d, struct error *err)
{
    uint32_t *rank = arena_array(&d->arena, d->n_tokens + 1, sizeof *rank);
    if (!rank)
        return no_memory(err);
    for (size_t i = 0; i < d->n_tokens; i++)
        rank[i] = d->tokens[i].id;
    return tokenizer_draft_merge_all(d, rank, err);
}

// ---- what surrounds the model --------------------------------------------------------------

static bool append_special(json_t *list, const char *content, json_int_t id)
{
    return json_array_append_new(list,
               json_pack("{s:s, s:I, s:b}", "content", content, "id", id, "special", true)) == 0;
}

static bool append_numbered(
    json_t *list, const char *format_begin, unsigned first, unsigned last, json_int_t id)
{
    bool ok = true;
    for (unsigned i = first; i <= last && ok; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s%u|>", format_begin, i);
        ok = append_special(list, name, id + (i - first));
    }
    return ok;
}

// Qwen's special tokens stand in its code, not in a file.
static bool add_qwen(json_t *list, json_int_t id)
{
    return append_special(list, "<|endoftext|>", id) &&
           append_special(list, "<|im_start|>", id + 1) &&
           append_special(list, "<|im_end|>", id + 2) &&
           append_numbered(list, "<|extra_", 0, 204, id + 3);
}

// So do those of Llama 3, where no tokenizer_config.json lists them.
static bool add_llama3(json_t *list, json_int_t id)
{
    return append_special(list, "<|begin_of_text|>", id) &&
           append_special(list, "<|end_of_text|>", id + 1) &&
           append_numbered(list, "<|reserved_special_token_", 0, 3, id + 2) &&
           append_special(list, "<|start_header_id|>", id + 6) &&
           append_special(list, "<|end_header_id|>", id + 7) &&
           append_numbered(list, "<|reserved_special_token_", 4, 4, id + 8) &&
           append_special(list, "<|eot_id|>", id + 9) &&
           append_numbered(list, "<|reserved_special_token_", 5, 250, id + 10);
}

enum family { FAMILY_CL100K, FAMILY_QWEN, FAMILY_LLAMA3, FAMILY_O200K, FAMILY_GPT2 };

// What the configuration says decides; then the file's name; then the size of the vocabulary.
static enum family find_family(const struct tokenizer_side *side, const char *name, size_t n_tokens)
{
    enum { LLAMA3_TOKENS = 128000 };
    static const struct {
        const char *part;
        enum family family;
    } PARTS[] = {{"QWen", FAMILY_QWEN}, {"qwen", FAMILY_QWEN}, {"o200k", FAMILY_O200K},
        {"cl100k", FAMILY_CL100K}, {"r50k", FAMILY_GPT2}, {"p50k", FAMILY_GPT2},
        {"gpt2", FAMILY_GPT2}};
    static const char *const FIELDS[] = {"tokenizer_class", "encoding_name", "model_name"};
    for (size_t f = 0; f <= COUNT_OF(FIELDS); f++) {
        const char *said = name;
        if (f < COUNT_OF(FIELDS))
            said = json_string_value(json_object_get(side->config, FIELDS[f]));
        for (size_t i = 0; said && i < COUNT_OF(PARTS); i++) {
            if (strstr(said, PARTS[i].part))
                return PARTS[i].family;
        }
    }
    bool listed = json_object_get(side->config, "added_tokens_decoder") != NULL;
    return n_tokens == LLAMA3_TOKENS && !listed ? FAMILY_LLAMA3 : FAMILY_CL100K;
}

static const char *split_of(enum family family)
{
    switch (family) {
    case FAMILY_QWEN:
        return TOKENIZER_SPLIT_QWEN;
    case FAMILY_O200K:
        return TOKENIZER_SPLIT_O200K;
    case FAMILY_GPT2:
        return TOKENIZER_SPLIT_GPT2;
    case FAMILY_CL100K:
    case FAMILY_LLAMA3:
        break;
    }
    return TOKENIZER_SPLIT_CL100K;
}

enum status tokenizer_read_tiktoken(struct tokenizer_draft *d, const struct tokenizer_side *side,
    const char *name, struct tokenizer_bytes ranks, struct error *err)
{
    static const char QWEN_END[] = "<|endoftext|>", LLAMA_BEGIN[] = "<|begin_of_text|>",
                      LLAMA_END[] = "<|end_of_text|>";
    json_t *added;
    TRY(read_rows(d, ranks, err));
    TRY(merge_by_rank(d, err));
    TRY(tokenizer_side_added(side, &added, err));
    enum family family = find_family(side, name, d->n_tokens);
    bool ok = true;
    if (family == FAMILY_QWEN) {
        ok = add_qwen(added, (json_int_t)d->n_tokens);
        d->eos = (struct tokenizer_bytes){(const uint8_t *)QWEN_END, sizeof QWEN_END - 1};
    } else if (family == FAMILY_LLAMA3) {
        ok = add_llama3(added, (json_int_t)d->n_tokens);
        d->bos = (struct tokenizer_bytes){(const uint8_t *)LLAMA_BEGIN, sizeof LLAMA_BEGIN - 1};
        d->eos = (struct tokenizer_bytes){(const uint8_t *)LLAMA_END, sizeof LLAMA_END - 1};
        d->add_bos = true;
    }
    d->explicit_ids = true;
    d->rest = tokenizer_read_byte_level(split_of(family), family == FAMILY_QWEN,
        tokenizer_side_bool(side, "add_prefix_space", false), true, added);
    return ok && d->rest ? STATUS_OK : no_memory(err);
}
