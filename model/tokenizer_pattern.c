// SPDX-License-Identifier: Apache-2.0
#include "model/tokenizer_pattern.h"

#include "model/tokenizer.h"
#include "model/tokenizer_regex.h"
#include "model/unicode.h"

#include <string.h>

enum {
    REGEX_PARENS_MAX = 100,
    REGEX_MATCH_STEPS_MAX = 10000000,
    JIT_STACK_BYTES = 64 * 1024,
    JIT_STACK_BYTES_MAX = 4 * 1024 * 1024,
};

static pcre2_code *compile(const struct buf *text, int *code, size_t *offset)
{
    pcre2_compile_context *c = pcre2_compile_context_create(NULL);
    if (!c) {
        *code = PCRE2_ERROR_NOMEMORY;
        return NULL;
    }
    pcre2_set_newline(c, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(c, REGEX_PARENS_MAX);
    // Oniguruma's ^ and $ match at every line.
    pcre2_code *p = pcre2_compile(text->data, text->size,
        PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, code, offset, c);
    pcre2_compile_context_free(c);
    return p;
}

enum status tokenizer_pattern_regex(
    struct tokenizer_pattern *p, const char *regex, size_t n, const char *where, struct error *err)
{
    struct buf text;
    buf_init(&text, TOKENIZER_TOKEN_BYTES_MAX * 16);
    enum status st = tokenizer_regex_translate(regex, n, where, &text, err);
    int code = 0;
    size_t offset = 0;
    if (st == STATUS_OK) {
        p->code = compile(&text, &code, &offset);
        if (!p->code) {
            char reason[128];
            pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
            st = status_fail(err, STATUS_UNSUPPORTED,
                "%s: the regular expression cannot be used: %s (near byte %zu of it)", where,
                reason, offset);
        } else {
            // Where there is no JIT compiler, the interpreter gives the same matches.
            pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE);
        }
    }
    buf_deinit(&text);
    return st;
}

void tokenizer_pattern_deinit(struct tokenizer_pattern *p)
{
    pcre2_code_free(p->code);
    *p = (struct tokenizer_pattern){0};
}

void tokenizer_pattern_matcher_deinit(struct tokenizer_matcher *m)
{
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    *m = (struct tokenizer_matcher){0};
}

static bool matcher_ready(struct tokenizer_matcher *m)
{
    if (m->data)
        return true;
    m->context = pcre2_match_context_create(NULL);
    if (!m->context)
        return false;
    pcre2_set_match_limit(m->context, REGEX_MATCH_STEPS_MAX);
    m->data = pcre2_match_data_create(1, NULL);
    return m->data != NULL;
}

struct tokenizer_scan tokenizer_pattern_scan(
    const struct tokenizer_pattern *p, struct tokenizer_matcher *m, const uint8_t *text, size_t n)
{
    return (struct tokenizer_scan){
        .pattern = p, .matcher = m, .text = text, .n = n, .last_end = SIZE_MAX};
}

static int search(struct tokenizer_scan *s)
{
    struct tokenizer_matcher *m = s->matcher;
    int rc = pcre2_match(
        s->pattern->code, s->text, s->n, s->at, PCRE2_NO_UTF_CHECK, m->data, m->context);
    if (rc != PCRE2_ERROR_JIT_STACKLIMIT || m->stack)
        return rc;
    // Few patterns need more than the machine's stack lends, so this one is made when asked for.
    m->stack = pcre2_jit_stack_create(JIT_STACK_BYTES, JIT_STACK_BYTES_MAX, NULL);
    if (!m->stack)
        return PCRE2_ERROR_NOMEMORY;
    pcre2_jit_stack_assign(m->context, NULL, m->stack);
    return pcre2_match(
        s->pattern->code, s->text, s->n, s->at, PCRE2_NO_UTF_CHECK, m->data, m->context);
}

static enum status next_regex(
    struct tokenizer_scan *s, bool *found, size_t *start, size_t *end, struct error *err)
{
    if (!matcher_ready(s->matcher))
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for a regular expression");
    *found = false;
    while (s->at <= s->n) {
        int rc = search(s);
        if (rc == PCRE2_ERROR_NOMATCH)
            return STATUS_OK;
        if (rc < 0)
            return status_fail(err, STATUS_INVALID,
                "a regular expression of the tokenizer fails on this text: error %d (%s)", rc,
                rc == PCRE2_ERROR_MATCHLIMIT ? "too many steps" : "limit reached");
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(s->matcher->data);
        if (v[0] > v[1]) // \K in a lookahead can do this
            return status_fail(err, STATUS_INVALID,
                "a regular expression of the tokenizer gives a match that ends before it begins");
        if (v[0] == v[1] && v[1] == s->last_end) {
            size_t k = 1;
            if (s->at < s->n)
                unicode_decode(s->text + s->at, s->n - s->at, &k);
            s->at += k;
            continue;
        }
        *found = true;
        *start = v[0];
        *end = s->at = s->last_end = v[1];
        return STATUS_OK;
    }
    return STATUS_OK;
}

static bool next_member(struct tokenizer_scan *s, size_t *start, size_t *end)
{
    while (s->at < s->n) {
        size_t k;
        uint32_t c = unicode_decode(s->text + s->at, s->n - s->at, &k);
        s->at += k;
        if (s->pattern->is_member(c)) {
            *start = s->at - k;
            *end = s->at;
            return true;
        }
    }
    return false;
}

enum status tokenizer_pattern_next(
    struct tokenizer_scan *s, bool *found, size_t *start, size_t *end, struct error *err)
{
    const struct tokenizer_pattern *p = s->pattern;
    if (p->code)
        return next_regex(s, found, start, end, err);
    if (p->is_member) {
        *found = next_member(s, start, end);
        return STATUS_OK;
    }
    const uint8_t *hit =
        s->at < s->n ? memmem(s->text + s->at, s->n - s->at, p->literal, p->n_literal) : NULL;
    *found = hit != NULL;
    if (hit) {
        *start = (size_t)(hit - s->text);
        *end = s->at = *start + p->n_literal;
    }
    return STATUS_OK;
}

enum status tokenizer_pattern_replace(struct tokenizer_scan *s, const uint8_t *content,
    size_t n_content, struct buf *out, struct error *err)
{
    size_t done = 0;
    for (;;) {
        bool found;
        size_t start = 0, end = 0;
        TRY(tokenizer_pattern_next(s, &found, &start, &end, err));
        if (!found)
            break;
        if (start < done) // \K or a lookbehind reaching back
            return status_fail(err, STATUS_INVALID,
                "a regular expression of the tokenizer gives matches that overlap");
        if (start == 0)
            s->first_end = end;
        buf_append(out, s->text + done, start - done);
        buf_append(out, content, n_content);
        done = end;
        if (buf_failed(out))
            break;
    }
    if (!buf_append(out, s->text + done, s->n - done))
        return status_fail(err, STATUS_TOO_LARGE,
            "the normalized text is over the limit of %zu bytes", out->size_max);
    return STATUS_OK;
}
