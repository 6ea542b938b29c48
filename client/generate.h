// SPDX-License-Identifier: Apache-2.0
// What the files of phalanx generate and phalanx score share: generate_options.c turns options into
// a SUBMIT, generate_print.c prints what comes back, cmd_generate.c is the way from one to the
// other.
#ifndef PHALANX_CLIENT_GENERATE_H
#define PHALANX_CLIENT_GENERATE_H

#include "base/buf.h"
#include "base/config.h"
#include "client/cmd.h"
#include "proto/limits.h"

struct generate_settings {
    struct cmd_connection connection;
    const char *model, *prompt, *prompt_file, *tokens, *seed, *prompt_logprobs;
    const char *tenant, *cache_salt;
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
    bool scoring;
    struct buf prompt; // bytes, or packed u32 ids
    uint32_t stop_ids[LIMIT_STOP_IDS];
    ProtobufCBinaryData stop[CONFIG_LIST_MAX];
    Phalanx__LogitBias bias[CONFIG_LIST_MAX], *bias_list[CONFIG_LIST_MAX];
    Phalanx__Submit submit;
    // What the server has said, and what becomes of it.
    uint64_t seed;
    bool ids_as_text; // the model has no tokenizer
    int exit_code;
    struct generate_stats stats;
    // Text of several samples is printed one after the other: the first one that has not ended
    // streams, what comes of the later ones is held back.
    uint32_t showing;
    struct buf held[LIMIT_SAMPLES];
    bool ended[LIMIT_SAMPLES];
};

// ---- generate_options.c ------------------------------------------------------------------------

// Reads options into g->settings and g->submit; g->scoring is set. Texts are borrowed from argv.
enum status generate_options_parse(
    struct generate *g, int argc, char **argv, bool *help, struct error *err);
void generate_options_help(bool scoring);

// ---- generate_print.c --------------------------------------------------------------------------

// A token of the prompt or of a sample.
void generate_print_token(struct generate *g, const struct phalanx_event *e);
// The end of a sample; sets g->exit_code where it did not end well.
void generate_print_finish(struct generate *g, const struct phalanx_event *e);
// The end of the request: --stats.
void generate_print_stats(const struct generate *g);

#endif
