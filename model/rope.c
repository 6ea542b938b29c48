// SPDX-License-Identifier: Apache-2.0
// The formulas are those of transformers/modeling_rope_utils.py. Where it computes in float32
// tensors so do we, in the same order; where it computes in Python floats we use double.
#include "model/rope.h"

#include <math.h>
#include <string.h>

static const double PI = 3.14159265358979323846;

// Dynamic NTK has a factor for any length, so only positions themselves are a bound.
enum { LENGTH_MAX = 1 << 24 };

static uint32_t scaled(uint32_t length, double factor)
{
    double v = length * factor;
    return v >= LENGTH_MAX ? LENGTH_MAX : (uint32_t)v;
}

static uint32_t length_max_of(const struct model_config *m, const struct rope_config *r)
{
    uint32_t stretched;
    switch (r->rule) {
    case ROPE_DYNAMIC:
        return LENGTH_MAX;
    case ROPE_LINEAR:
        stretched = scaled(m->max_position, r->factor);
        break;
    case ROPE_YARN:
        stretched = scaled(r->original_max_position, r->factor);
        break;
    case ROPE_DEFAULT:
    case ROPE_LLAMA3:
    case ROPE_LONGROPE:
    default:
        stretched = m->max_position;
    }
    // Many published configs already declare the stretched length in max_position_embeddings.
    return stretched > m->max_position ? stretched : m->max_position;
}

uint32_t rope_length_max(const struct model_config *m)
{
    if (m->position_kind != POSITION_ROPE)
        return m->max_position;
    uint32_t least = LENGTH_MAX;
    for (uint32_t i = 0; i < m->n_ropes; i++) {
        uint32_t length = length_max_of(m, &m->rope[i]);
        if (length < least)
            least = length;
    }
    return least;
}

uint32_t rope_length_default(const struct model_config *m)
{
    uint32_t most = rope_length_max(m);
    for (uint32_t i = 0; i < m->n_ropes && m->position_kind == POSITION_ROPE; i++)
        if (m->rope[i].rule == ROPE_DYNAMIC && m->max_position < most)
            most = m->max_position;
    return most;
}

// theta^(2i/dim), as torch computes base ** (arange(0, dim, 2).float() / dim).
static float period(double theta, uint32_t i, uint32_t dim)
{
    return powf((float)theta, (float)(2 * i) / (float)dim);
}

static void plain(struct rope_config *r, double theta, double divisor)
{
    for (uint32_t i = 0; i < r->rotary_dim / 2; i++)
        r->inv_freq[i] = 1.0f / period(theta, i, r->rotary_dim) / (float)divisor;
}

static void dynamic(struct rope_config *r, uint32_t max_position, uint32_t max_model_len)
{
    double length = max_model_len > max_position ? max_model_len : max_position;
    double dim = r->rotary_dim;
    double stretch = r->factor * length / max_position - (r->factor - 1);
    plain(r, r->theta * pow(stretch, dim / (dim - 2)), 1);
}

static void llama3(struct rope_config *r)
{
    double old = r->original_max_position;
    float low = (float)(old / r->low_freq_factor), high = (float)(old / r->high_freq_factor);
    float low_factor = (float)r->low_freq_factor;
    float width = (float)(r->high_freq_factor - r->low_freq_factor);
    float factor = (float)r->factor;
    plain(r, r->theta, 1);
    for (uint32_t i = 0; i < r->rotary_dim / 2; i++) {
        float freq = r->inv_freq[i];
        float wavelength = (float)(2 * PI) / freq;
        if (wavelength > low) {
            r->inv_freq[i] = freq / factor;
        } else if (!(wavelength < high)) {
            float smooth = ((float)old / wavelength - low_factor) / width;
            r->inv_freq[i] = (1.0f - smooth) * freq / factor + smooth * freq;
        }
    }
}

static double yarn_mscale(double scale, double mscale)
{
    return scale <= 1 ? 1 : 0.1 * mscale * log(scale) + 1;
}

static double yarn_attention_factor(const struct rope_config *r)
{
    if (r->attention_factor_given != 0)
        return r->attention_factor_given;
    if (r->mscale != 0 && r->mscale_all_dim != 0)
        return yarn_mscale(r->factor, r->mscale) / yarn_mscale(r->factor, r->mscale_all_dim);
    return yarn_mscale(r->factor, 1);
}

// The dimension whose wave turns `rotations` times within the original length.
static double yarn_dimension(const struct rope_config *r, double rotations)
{
    return r->rotary_dim * log(r->original_max_position / (rotations * 2 * PI)) /
           (2 * log(r->theta));
}

static void yarn(struct rope_config *r)
{
    double low = yarn_dimension(r, r->beta_fast), high = yarn_dimension(r, r->beta_slow);
    if (!r->no_truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, r->rotary_dim - 1.0);
    if (low == high)
        high += 0.001;
    for (uint32_t i = 0; i < r->rotary_dim / 2; i++) {
        float p = period(r->theta, i, r->rotary_dim);
        float ramp = ((float)i - (float)low) / (float)(high - low);
        float keep = 1.0f - fminf(fmaxf(ramp, 0.0f), 1.0f);
        r->inv_freq[i] = 1.0f / ((float)r->factor * p) * (1.0f - keep) + 1.0f / p * keep;
    }
    r->attention_factor = (float)yarn_attention_factor(r);
}

static void longrope(struct rope_config *r, uint32_t max_position, uint32_t max_model_len)
{
    double original = r->original_max_position;
    const float *by = max_model_len > original ? r->long_factor : r->short_factor;
    double factor = r->factor != 0 ? r->factor : max_position / original;
    for (uint32_t i = 0; i < r->rotary_dim / 2; i++)
        r->inv_freq[i] = 1.0f / (by[i] * period(r->theta, i, r->rotary_dim));
    if (r->attention_factor_given != 0)
        r->attention_factor = (float)r->attention_factor_given;
    else if (factor > 1)
        r->attention_factor = (float)sqrt(1 + log(factor) / log(original));
}

static void prepare(struct rope_config *r, uint32_t max_position, uint32_t max_model_len)
{
    memset(r->inv_freq, 0, sizeof r->inv_freq);
    r->attention_factor = 1;
    switch (r->rule) {
    case ROPE_DEFAULT:
        plain(r, r->theta, 1);
        break;
    case ROPE_LINEAR:
        plain(r, r->theta, r->factor);
        break;
    case ROPE_DYNAMIC:
        dynamic(r, max_position, max_model_len);
        break;
    case ROPE_YARN:
        yarn(r);
        break;
    case ROPE_LLAMA3:
        llama3(r);
        break;
    case ROPE_LONGROPE:
        longrope(r, max_position, max_model_len);
        break;
    }
}

static enum status check_finite(const struct rope_config *r, struct error *err)
{
    bool good = isfinite(r->attention_factor) && r->attention_factor > 0;
    for (uint32_t i = 0; i < r->rotary_dim / 2; i++)
        good = good && isfinite(r->inv_freq[i]);
    if (good)
        return STATUS_OK;
    return status_fail(err, STATUS_INVALID,
        "config.json: the rope parameters give frequencies that are not finite");
}

enum status rope_prepare(struct model_config *m, uint32_t max_model_len, struct error *err)
{
    uint32_t most = rope_length_max(m);
    if (max_model_len < 1 || max_model_len > most)
        return status_fail(err, STATUS_INVALID,
            "a context length of %u was asked for, but the model has 1 to %u", max_model_len, most);
    if (m->position_kind != POSITION_ROPE)
        return STATUS_OK;
    for (uint32_t i = 0; i < m->n_ropes; i++) {
        struct rope_config r = m->rope[i];
        prepare(&r, m->max_position, max_model_len);
        TRY(check_finite(&r, err));
        m->rope[i] = r;
    }
    return STATUS_OK;
}
