// SPDX-License-Identifier: Apache-2.0
#include "model/arch_internal.h"

#include <string.h>

static void read_layer_types(struct config_json *c, uint32_t window, struct model_config *m)
{
    const json_t *list = config_json_get(c, "layer_types");
    if (!list)
        return;
    if (!json_is_array(list) || json_array_size(list) != m->n_layers) {
        config_json_fail(
            c, STATUS_INVALID, "\"layer_types\" is not a list of %u names", m->n_layers);
        return;
    }
    for (uint32_t i = 0; i < m->n_layers; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        bool sliding = name && strcmp(name, "sliding_attention") == 0;
        if (!sliding && (!name || strcmp(name, "full_attention") != 0))
            config_json_fail(c, STATUS_UNSUPPORTED,
                "\"layer_types\" has \"%s\"; expected full_attention or sliding_attention",
                name ? name : "?");
        if (sliding && window == 0)
            config_json_fail(c, STATUS_UNSUPPORTED,
                "\"layer_types\" asks for sliding windows, but there is no window for them");
        m->layer[i].window = sliding ? window : 0;
    }
}

// Each so many-th layer has no window; 0: all have.
static uint32_t read_pattern(struct config_json *c, const struct arch_row *row)
{
    if (!(row->features & ARCH_WINDOW_PATTERN))
        return 0;
    uint32_t pattern = config_json_u32(c, "_sliding_window_pattern", row->pattern, 1, 1 << 20);
    return config_json_u32(c, "sliding_window_pattern", pattern, 1, 1 << 20);
}

// Layers of one window share a group; groups are numbered as they first occur.
static void group_layers(struct config_json *c, struct model_config *m)
{
    uint32_t windows[MODEL_KV_GROUPS_MAX];
    for (uint32_t i = 0; i < m->n_layers; i++) {
        uint32_t g = 0;
        while (g < m->n_kv_groups && windows[g] != m->layer[i].window)
            g++;
        if (g == MODEL_KV_GROUPS_MAX) {
            config_json_fail(c, STATUS_UNSUPPORTED,
                "layers of more than %d different windows are not supported",
                (int)MODEL_KV_GROUPS_MAX);
            return;
        }
        if (g == m->n_kv_groups)
            windows[m->n_kv_groups++] = m->layer[i].window;
        m->layer[i].kv_group = (uint8_t)g;
    }
}

void arch_windows_read(struct config_json *c, const struct arch_row *row, struct model_config *m)
{
    bool absent = !json_object_get(c->object, "sliding_window");
    bool per_layer = row->features & (ARCH_WINDOW_LAYERS | ARCH_WINDOW_EVEN);
    bool even = row->features & ARCH_WINDOW_EVEN;
    bool asked = per_layer || row->features & ARCH_WINDOW_ASKED;
    bool wanted = config_json_bool(c, "use_sliding_window", !asked);
    // 0 has been written for "none".
    uint32_t window =
        config_json_u32(c, "sliding_window", absent ? row->window : 0, 0, ARCH_POSITION_MAX);
    uint32_t border = 0;
    if (per_layer)
        border = config_json_u32(c, "max_window_layers", 28, 0, 1 << 20);
    if (!wanted)
        window = 0;
    if (!(row->features & (ARCH_WINDOW | ARCH_WINDOW_ASKED | ARCH_WINDOW_LAYERS | ARCH_WINDOW_EVEN |
                              ARCH_WINDOW_PATTERN))) {
        if (window && window < m->max_position)
            config_json_fail(c, STATUS_UNSUPPORTED, "\"sliding_window\" %u is not supported for %s",
                window, row->model_type);
        window = 0;
    }
    uint32_t pattern = read_pattern(c, row);
    for (uint32_t i = 0; i < m->n_layers; i++) {
        bool slides = even ? i < border && i % 2 == 0 : i >= border;
        m->layer[i].window = slides && (!pattern || (i + 1) % pattern != 0) ? window : 0;
    }
    read_layer_types(c, window, m);
    for (uint32_t i = 0; i < m->n_layers; i++)
        m->layer[i].rope = row->features & ARCH_ROPE_LOCAL && m->layer[i].window;
    if (c->status == STATUS_OK)
        group_layers(c, m);
}
