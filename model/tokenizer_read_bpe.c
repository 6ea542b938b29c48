// SPDX-License-Identifier: Apache-2.0
// The oldest kinds of tokenizer files: vocab.json with merges.txt as GPT-2 has them, and BERT's
// vocab.txt. What surrounds the model is what Hugging Face's library builds for such files.
#include "base/check.h"
#include "model/tokenizer_json.h"
#include "model/tokenizer_load.h"
#include "model/tokenizer_split_patterns.h"

#include <string.h>

static enum status no_memory(struct error *err)
{
    return status_fail(err, STATUS_NO_MEMORY, "out of memory for the tokenizer");
}

// The next line of a text without its end; false behind the last one.
static bool next_line(struct tokenizer_bytes *text, struct tokenizer_bytes *line)
{
    if (text->n == 0)
        return false;
    const uint8_t *end = memchr(text->data, '\n', text->n);
    size_t n = end ? (size_t)(end - text->data) : text->n;
    *line = (struct tokenizer_bytes){text->data, n};
    if (n > 0 && line->data[n - 1] == '\r')
        line->n--;
    text->data += end ? n + 1 : n;
    text->n -= end ? n + 1 : n;
    return true;
}

static size_t count_lines(struct tokenizer_bytes text)
{
    struct tokenizer_bytes line;
    size_t n = 0;
    while (next_line(&text, &line))
        n++;
    return n;
}

// ---- GPT-2's kind --------------------------------------------------------------------------

static enum status read_merges(
    struct tokenizer_draft *d, struct tokenizer_bytes text, struct error *err)
{
    static const char VERSION[] = "#version";
    struct tokenizer_texts table;
    struct tokenizer_bytes line, pair[2];
    TRY(tokenizer_draft_reserve_merges(d, count_lines(text), err));
    TRY(tokenizer_draft_index(d, &table, err));
    for (size_t number = 1; next_line(&text, &line); number++) {
        if (line.n == 0 ||
            (line.n >= sizeof VERSION - 1 && memcmp(line.data, VERSION, sizeof VERSION - 1) == 0))
            continue;
        if (!tokenizer_read_pair(line.data, line.n, pair))
            return status_fail(err, STATUS_INVALID,
                "merges.txt: line %zu must be two tokens with a space between them", number);
        TRY(tokenizer_read_merge(d, &table, pair, 0, err));
    }
    return STATUS_OK;
}

static json_t *byte_level(bool prefix_space, bool use_regex)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", prefix_space,
        "trim_offsets", true, "use_regex", use_regex);
}

json_t *tokenizer_read_byte_level(
    const char *pattern, bool nfc, bool prefix_space, bool ignore_merges, json_t *added)
{
    json_t *split =
        !pattern ? byte_level(prefix_space, true)
                 : json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, o]}", "type", "Sequence",
                       "pretokenizers", "type", "Split", "pattern", "Regex", pattern, "behavior",
                       "Isolated", "invert", false, byte_level(prefix_space, false));
    return json_pack("{s:o?, s:o?, s:o, s:o, s:{s:s, s:b}}", "added_tokens", added, "normalizer",
        nfc ? json_pack("{s:s}", "type", "NFC") : NULL, "pre_tokenizer", split, "decoder",
        byte_level(true, true), "model", "type", "BPE", "ignore_merges", ignore_merges);
}

enum status tokenizer_read_bpe(struct tokenizer_draft *d, const struct tokenizer_side *side,
    struct tokenizer_bytes vocab, struct tokenizer_bytes merges, struct error *err)
{
    static const char END_OF_TEXT[] = "<|endoftext|>";
    char class[64];
    json_t *added;
    TRY(tokenizer_json_parse("vocab.json", vocab.data, vocab.n, 0, &d->source, err));
    TRY(tokenizer_read_vocab_object(d, d->source, false, "vocab.json", err));
    TRY(read_merges(d, merges, err));
    TRY(tokenizer_side_added(side, &added, err));
    bool named = tokenizer_side_field(side, "eos_token") != NULL;
    if (!named && json_object_get(d->source, END_OF_TEXT)) {
        d->bos = d->eos =
            (struct tokenizer_bytes){(const uint8_t *)END_OF_TEXT, sizeof END_OF_TEXT - 1};
        json_array_append_new(
            added, json_pack("{s:s, s:b}", "content", END_OF_TEXT, "special", true));
    }
    tokenizer_side_class(side, class);
    bool qwen = strcmp(class, "Qwen2Tokenizer") == 0;
    d->rest = tokenizer_read_byte_level(qwen ? TOKENIZER_SPLIT_QWEN : NULL, qwen,
        tokenizer_side_bool(side, "add_prefix_space", false), false, added);
    d->explicit_ids = true;
    return d->rest ? STATUS_OK : no_memory(err);
}

// ---- BERT's kind ---------------------------------------------------------------------------

// The special tokens that BERT has unless tokenizer_config.json names others.
static const char *const BERT_TOKENS[][2] = {{"unk_token", "[UNK]"}, {"sep_token", "[SEP]"},
    {"pad_token", "[PAD]"}, {"cls_token", "[CLS]"}, {"mask_token", "[MASK]"}};

static const char *bert_token(const struct tokenizer_side *side, size_t i)
{
    const char *named = tokenizer_side_token(side, BERT_TOKENS[i][0]);
    return named ? named : BERT_TOKENS[i][1];
}

// [CLS] text [SEP], where the vocabulary has both.
static json_t *bert_post(const struct tokenizer_draft *d, const struct tokenizer_texts *table,
    const char *cls, const char *sep)
{
    uint32_t c = tokenizer_table_texts_get(table, cls, strlen(cls));
    uint32_t s = tokenizer_table_texts_get(table, sep, strlen(sep));
    if (c == TOKENIZER_NONE || s == TOKENIZER_NONE)
        return NULL;
    return json_pack("{s:s, s:[s, i], s:[s, i]}", "type", "BertProcessing", "cls", cls,
        (int)d->tokens[c].id, "sep", sep, (int)d->tokens[s].id);
}

static json_t *bert_normalizer(const struct tokenizer_side *side)
{
    const json_t *accents = json_object_get(side->config, "strip_accents");
    json_t *n = json_pack("{s:s, s:b, s:b, s:b}", "type", "BertNormalizer", "clean_text", true,
        "handle_chinese_chars", tokenizer_side_bool(side, "tokenize_chinese_chars", true),
        "lowercase", tokenizer_side_bool(side, "do_lower_case", true));
    if (n && json_is_boolean(accents))
        json_object_set_new(n, "strip_accents", json_boolean(json_is_true(accents)));
    return n;
}

static enum status bert_rest(
    struct tokenizer_draft *d, const struct tokenizer_side *side, struct error *err)
{
    struct tokenizer_texts table;
    json_t *added;
    TRY(tokenizer_draft_index(d, &table, err));
    TRY(tokenizer_side_added(side, &added, err));
    for (size_t i = 0; i < COUNT_OF(BERT_TOKENS); i++) {
        const char *content = bert_token(side, i);
        if (tokenizer_table_texts_get(&table, content, strlen(content)) != TOKENIZER_NONE)
            json_array_append_new(
                added, json_pack("{s:s, s:b}", "content", content, "special", true));
    }
    d->rest = json_pack("{s:o, s:o, s:{s:s}, s:o?, s:{s:s}, s:{s:s, s:s}}", "added_tokens", added,
        "normalizer", bert_normalizer(side), "pre_tokenizer", "type", "BertPreTokenizer",
        "post_processor", bert_post(d, &table, bert_token(side, 3), bert_token(side, 1)), "decoder",
        "type", "WordPiece", "model", "type", "WordPiece", "unk_token", bert_token(side, 0));
    return d->rest ? STATUS_OK : no_memory(err);
}

enum status tokenizer_read_word_piece(struct tokenizer_draft *d, const struct tokenizer_side *side,
    struct tokenizer_bytes vocab, struct error *err)
{
    struct tokenizer_bytes line;
    TRY(tokenizer_draft_reserve_tokens(d, count_lines(vocab), err));
    while (next_line(&vocab, &line)) {
        d->tokens[d->n_tokens] = (struct tokenizer_draft_token){
            .content = line, .id = (uint32_t)d->n_tokens, .type = TOKENIZER_NORMAL};
        d->n_tokens++;
    }
    d->explicit_ids = true;
    return bert_rest(d, side, err);
}
