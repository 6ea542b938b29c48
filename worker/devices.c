// SPDX-License-Identifier: Apache-2.0
// phalanx-devices: what `phalanx devices` prints. A program of its own, since the command line
// knows no kernels.
#include "kernels/plugin.h"

#include <stdio.h>
#include <string.h>

static void print_cpu(void)
{
    const struct kernels *k = kernels_cpu();
    struct device *d;
    struct error err;
    struct device_args args = {.n_threads = 1, .isa = "auto"};
    char text[128];
    if (k->device_open(&args, &d, &err) != STATUS_OK) {
        printf("cpu: %s\n", err.text);
        return;
    }
    k->device_describe(d, text, sizeof text);
    k->device_close(d);
    const char *isa = strrchr(text, ' ');
    printf("cpu:%s\n", isa ? isa : text);
}

static double gib(uint64_t bytes)
{
    return (double)bytes / (1 << 30);
}

static void print_gpus(void)
{
    const struct plugin *p;
    struct plugin_device d[PLUGIN_DEVICES_MAX];
    uint32_t n = 0;
    struct error err;
    enum status s = plugin_load("cuda", &p, &err);
    if (s == STATUS_OK)
        s = p->devices(d, &n, &err);
    if (s != STATUS_OK)
        printf("cuda: %s\n", err.text);
    for (uint32_t i = 0; i < n; i++)
        printf("cuda %u: %s, compute capability %u.%u, %u SMs, %.1f GiB, %.1f GiB free (%s)\n", i,
            d[i].name, d[i].cc_major, d[i].cc_minor, d[i].n_sms, gib(d[i].memory_bytes),
            gib(d[i].free_bytes), p->built_for);
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1) {
        fprintf(stderr, "usage: phalanx devices\n");
        return 2;
    }
    print_cpu();
    print_gpus();
    return fflush(stdout) == 0 ? 0 : 1;
}
