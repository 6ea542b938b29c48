// SPDX-License-Identifier: Apache-2.0
// A chat template from an enemy, then the byte FF, then messages, FF, kwargs (both may be missing):
// parsing and rendering give a text or a sentence, the same when asked twice; the text is UTF-8,
// and what clients wrote are whole characters of it, in order.
#include "base/check.h"
#include "base/utf8.h"
#include "model/template.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char usual_messages[] =
    "[{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": \"Hello <b> "
    "'x'\"},"
    "{\"role\": \"assistant\", \"content\": [{\"type\": \"text\", \"text\": \"\\u00e9 \\n\"}],"
    "\"n\": 3, \"f\": 1.5, \"t\": true, \"d\": {\"a\": [1, 2, null]}}]";
static const char usual_kwargs[] = "{\"bos_token\": \"<s>\", \"x\": \"caf\\u00e9 a,b\", \"k\": 7}";

static void check_text(const struct template_text_spans *out)
{
    size_t end = 0;
    check(out->text.size <= TEMPLATE_OUTPUT_BYTES_MAX);
    check(out->text.size == 0 || utf8_valid(out->text.data, out->text.size));
    for (size_t i = 0; i < out->n_spans; i++) {
        struct tokenizer_span s = out->spans[i];
        check(s.begin < s.end && s.end <= out->text.size && (i == 0 || s.begin > end));
        check(utf8_valid(out->text.data + s.begin, s.end - s.begin));
        end = s.end;
    }
}

static void render(const struct template *t, const struct template_chat *chat)
{
    struct template_text_spans a, b;
    struct error err = {0};
    template_text_spans_init(&a);
    template_text_spans_init(&b);
    enum status st = template_render_one(t, chat, &a, &err);
    check(st == STATUS_OK || (err.text[0] != '\0' && a.text.size == 0));
    check(st == template_render_one(t, chat, &b, &err));
    check(a.text.size == b.text.size && a.n_spans == b.n_spans && a.steps == b.steps);
    check(a.text.size == 0 || memcmp(a.text.data, b.text.data, a.text.size) == 0);
    check_text(&a);
    template_text_spans_deinit(&a);
    template_text_spans_deinit(&b);
}

// The part up to the next FF; *data and *n are moved behind it. NULL: there is none.
static const uint8_t *part(const uint8_t **data, size_t *n, size_t *n_part)
{
    const uint8_t *begin = *data, *end = *n ? memchr(begin, 0xff, *n) : NULL;
    if (!begin)
        return NULL;
    *n_part = end ? (size_t)(end - begin) : *n;
    *data = end ? end + 1 : NULL;
    *n -= *n_part + (end != NULL);
    return begin;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    size_t n_source = 0;
    struct template_chat chat = {.messages = usual_messages,
        .n_messages = sizeof usual_messages - 1,
        .kwargs = usual_kwargs,
        .n_kwargs = sizeof usual_kwargs - 1,
        .add_generation_prompt = true,
        .steps_max = 20000};
    const uint8_t *source = part(&data, &n, &n_source);
    size_t n_messages = 0, n_kwargs = 0;
    const uint8_t *messages = part(&data, &n, &n_messages), *kwargs = part(&data, &n, &n_kwargs);
    if (n_messages > 0) {
        chat.messages = messages;
        chat.n_messages = n_messages;
    }
    if (n_kwargs > 0) {
        chat.kwargs = kwargs;
        chat.n_kwargs = n_kwargs;
    }
    struct template *t = NULL;
    struct error err = {0};
    if (template_parse(source ? source : (const uint8_t *)"", n_source, &t, &err) != STATUS_OK) {
        check(!t && err.text[0] != '\0');
        return 0;
    }
    render(t, &chat);
    chat.add_generation_prompt = false;
    chat.continue_final_message = true;
    render(t, &chat);
    template_free(t);
    return 0;
}
