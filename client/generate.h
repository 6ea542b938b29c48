// SPDX-License-Identifier: Apache-2.0
// What the files of phalanx generate, score and chat share: generate_options.c turns options into a
// SUBMIT, generate_stream.c sends it and waits, generate_print.c prints what comes back;
// cmd_generate.c and cmd_chat.c are the way from one to the other.
#ifndef PHALANX_CLIENT_GENERATE_H
#define PHALANX_CLIENT_GENERATE_H

#include "base/buf.h"
#include "base/config.h"
#include "client/cmd.h"
#include "proto/limits.h"

struct generate_settings {
    struct cmd_connection connection;
    const char *model, *prompt, *prompt_file, *tokens, *tokens_file, *seed, *prompt_logprobs;
    const char *tenant, *cache_salt;
    const char *messages, *tools, *chat_template_kwargs, *chat_template; // generate; chat but for
                                                                         // the first one
    const char *system, *message;                                        // chat
    struct config_list stop, stop_token_id, logit_bias;
    int output;
    bool stats;
    int64_t timeout_ms, patience_ms;
#define INT(name, type, min, max, value, help) int64_t name;
#define REAL(name, open, min, max, value, help) double name;
#define FLAG(name, value, help) bool name;
#include "proto/params.def"
#undef INT
#undef REAL
#undef FLAG
};

// What the statistics of a request need, over its samples.
struct generate_stats {
    uint32_t n_samples, prompt_tokens, completion_tokens;
    uint64_t first_token_us, total_us; // the earliest and the latest
};

struct generate {
    struct generate_settings settings;
    bool scoring, chatting; // the command; neither: generate
    struct buf prompt;      // bytes, packed u32 ids, or messages as JSON
    struct buf tools, kwargs;
    uint32_t stop_ids[LIMIT_STOP_IDS];
    ProtobufCBinaryData stop[CONFIG_LIST_MAX];
    Phalanx__LogitBias bias[CONFIG_LIST_MAX], *bias_list[CONFIG_LIST_MAX];
    Phalanx__Submit submit;
    // What the server has said, and what becomes of it.
    uint64_t seed;
    bool ids_as_text; // the model has no tokenizer
    int exit_code;
    struct generate_stats stats;
    struct buf *answer; // not NULL: the text of the samples is kept here
    // Text of several samples is printed one after the other: the first one that has not ended
    // streams, what comes of the later ones is held back.
    uint32_t showing;
    struct buf held[LIMIT_SAMPLES];
    bool ended[LIMIT_SAMPLES];
};

// ---- generate_options.c ------------------------------------------------------------------------

// Reads options into g->settings and g->submit; the command is set. Texts are borrowed from argv.
enum status generate_options_parse(
    struct generate *g, int argc, char **argv, bool *help, struct error *err);
void generate_options_help(const struct generate *g);
// "generate", "score" or "chat".
const char *generate_options_command(const struct generate *g);

// ---- generate_stream.c -------------------------------------------------------------------------

// Sets the submit's model, by asking where none is named.
enum status generate_stream_model(struct generate *g, struct phalanx_client *c, struct error *err);
// Sends g->submit and prints until it has ended. Ctrl-C cancels it, a second one ends the program.
enum status generate_stream_run(struct generate *g, struct phalanx_client *c, struct error *err);
// From now on a first Ctrl-C is remembered.
void generate_stream_catch(void);
// Whether one was; it is forgotten.
bool generate_stream_interrupted(void);

// ---- generate_print.c --------------------------------------------------------------------------

// A token of the prompt or of a sample.
void generate_print_token(struct generate *g, const struct phalanx_event *e);
// The end of a sample; sets g->exit_code where it did not end well.
void generate_print_finish(struct generate *g, const struct phalanx_event *e);
// The end of the request: --stats.
void generate_print_stats(const struct generate *g);

#endif
