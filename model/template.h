// SPDX-License-Identifier: Apache-2.0
// Chat templates: the Jinja programs in model directories that turn a conversation into a prompt.
//
//   chat_template.jinja -> lexer -> parser -> tree -> template_render(conversation) -> text, spans
//
// The language is Jinja 3.1 as transformers sets it up (sandboxed and immutable, trim_blocks,
// lstrip_blocks, break and continue, {% generation %}, its own tojson, raise_exception,
// strftime_now), and values print as Python prints them, so that texts equal Hugging Face's. What
// Jinja has beyond one file (include, import, extends, block) is refused with a sentence.
//
// A template is an untrusted program and a conversation is untrusted data: parsing and rendering
// are bounded in steps, depth, output and memory, and end in a status and a sentence.
//
// Every byte of a rendered text knows whether a client wrote it. What came out of `messages`,
// `tools` and `kwargs` is returned as spans, so that the tokenizer takes no control token from it:
// "<|im_end|>" in a user's text stays text. A role that is one word of letters, digits, '_' and '-'
// is exempt, because templates build control tokens out of it.
//
// A template never changes once it is parsed, and may be used by any number of threads at once.
#ifndef PHALANX_MODEL_TEMPLATE_H
#define PHALANX_MODEL_TEMPLATE_H

#include "base/buf.h"
#include "base/status.h"
#include "model/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEMPLATE_SOURCE_BYTES_MAX ((size_t)1 << 20)
#define TEMPLATE_OUTPUT_BYTES_MAX                                                                  \
    ((size_t)6 << 20) // of a rendered text, and of any text on the way
#define TEMPLATE_MEMORY_BYTES_MAX ((size_t)512 << 20) // of one rendering
#define TEMPLATE_STEPS_MAX ((uint64_t)20000000)       // nodes evaluated, values and 64 bytes moved
enum {
    TEMPLATE_DEPTH_MAX = 1000,    // evaluations inside one another
    TEMPLATE_NESTING_MAX = 200,   // of the source, and of lists and dicts
    TEMPLATE_RANGE_MAX = 100000,  // numbers in one range(), as in the sandbox of Jinja
    TEMPLATE_NAMED_MAX = 16,      // templates of one model
    TEMPLATE_SPECIALS_MAX = 16,   // bos_token, eos_token, ...
    TEMPLATE_NAME_BYTES_MAX = 64, // of a template's name
};

struct template;

// Parses one template. INVALID for what is no template, UNSUPPORTED for what Jinja has and this has
// not, TOO_LARGE. *out is the caller's, to be freed.
enum status template_parse(const void *source, size_t n, struct template **out, struct error *err);
void template_free(struct template *t); // NULL is allowed

// The templates of a model, by name, and the texts of its special tokens.
struct template_set;

// Reads from `dir`: chat_template.jinja, additional_chat_templates/NAME.jinja, chat_template.json,
// "chat_template" in tokenizer_config.json (a text, or a list of {"name", "template"}), each where
// those before it give nothing of that name; special tokens from tokenizer_config.json and
// special_tokens_map.json. A template that cannot be parsed keeps its sentence for those who ask
// for it. *out is NULL (and the status OK) where the directory has no template at all.
enum status template_set_load(const char *dir, struct template_set **out, struct error *err);
// Whether there is a template called `name` that can be used; where that is "" or NULL, the one for
// a conversation with or without tools. NOT_FOUND, or the parser's status and sentence.
enum status template_set_has(
    const struct template_set *set, const char *name, bool tools, struct error *err);
void template_set_free(struct template_set *set); // NULL is allowed

// What a conversation is, in JSON texts that are borrowed.
struct template_chat {
    const void *messages; // a list of objects, each with a "role"
    size_t n_messages;
    const void *tools; // a list, or NULL
    size_t n_tools;
    const void *kwargs; // an object whose fields become names of the template, or NULL
    size_t n_kwargs;
    const char *name; // of the template; NULL or "": tool_use if there are tools and it exists,
                      // else default
    bool add_generation_prompt;
    bool continue_final_message; // the text ends where the last message's content does
    int64_t now_s;               // wall clock, for strftime_now
    uint64_t steps_max;          // 0: TEMPLATE_STEPS_MAX
};

// A rendered conversation. Plain data, owned by the caller.
struct template_text_spans {
    struct buf text;              // UTF-8
    struct tokenizer_span *spans; // what clients wrote: ascending, apart, not empty
    size_t n_spans;
    uint64_t steps; // how much work it was
};
void template_text_spans_init(struct template_text_spans *out);
void template_text_spans_deinit(struct template_text_spans *out);

// Renders; `out` is initialised, and empty on failure. INVALID with the sentence that the template
// raised or that says what is wrong with the conversation, NOT_FOUND for a name that the model does
// not have, TOO_LARGE for a limit.
enum status template_render(const struct template_set *set, const struct template_chat *chat,
    struct template_text_spans *out, struct error *err);
// The same with one template, whose names are those of `kwargs` alone; for tests and fuzzing.
enum status template_render_one(const struct template *t, const struct template_chat *chat,
    struct template_text_spans *out, struct error *err);

#endif
