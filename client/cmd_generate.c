// SPDX-License-Identifier: Apache-2.0
// phalanx generate, phalanx score: submit what the options say and print what comes, until it ends
// or Ctrl-C cancels it.
#include "client/generate.h"

#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum status go(struct generate *g, struct phalanx_client **c, struct error *err)
{
    const struct generate_settings *o = &g->settings;
    TRY(cmd_connect(&o->connection, (uint32_t)o->timeout_ms, (uint32_t)o->patience_ms, c, err));
    TRY(generate_stream_model(g, *c, err));
    return generate_stream_run(g, *c, err);
}

static void free_generate(struct generate *g)
{
    if (!g->settings.model)
        free(g->submit.model);
    buf_deinit(&g->prompt);
    buf_deinit(&g->tools);
    buf_deinit(&g->kwargs);
    for (int i = 0; i < LIMIT_SAMPLES; i++)
        buf_deinit(&g->held[i]);
    free(g);
}

static int run(int argc, char **argv, bool scoring)
{
    struct generate *g = calloc(1, sizeof *g);
    struct error err = {0};
    bool help = false;
    struct phalanx_client *c = NULL;
    if (!g)
        return CMD_FAILED;
    phalanx__submit__init(&g->submit);
    g->scoring = scoring;
    for (int i = 0; i < LIMIT_SAMPLES; i++)
        buf_init(&g->held[i], LIMIT_MESSAGE_UNPACK_BYTES);
    enum status s = generate_options_parse(g, argc, argv, &help, &err);
    if (help)
        generate_options_help(g);
    else if (s == STATUS_OK)
        s = go(g, &c, &err);
    int code = g->exit_code;
    if (s != STATUS_OK) {
        int from_status = cmd_fail(argv[0], &err);
        code = code ? code : from_status;
    }
    phalanx_client_close(c);
    free_generate(g);
    return code;
}

int cmd_generate(int argc, char **argv)
{
    return run(argc, argv, false);
}

int cmd_score(int argc, char **argv)
{
    return run(argc, argv, true);
}
