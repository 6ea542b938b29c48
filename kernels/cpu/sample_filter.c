// SPDX-License-Identifier: Apache-2.0
// One row from logits to a choice, in time linear in the vocabulary: borders are found by radix
// selection on the floats' bits (three passes of 11, 11 and 10 bits), never by sorting.
#include "base/check.h"
#include "kernels/cpu/canon.h"
#include "kernels/cpu/sample.h"

#include <math.h>

enum { RADIX_BITS = 11, KTH_BUFFER_MIN = 4096 };

static const float TEMPERATURE_GREEDY = 1e-5f, TEMPERATURE_MIN = 1e-2f;

uint32_t sample_key(float x)
{
    float y = x + 0.0f; // -0 becomes +0
    uint32_t u;
    memcpy(&u, &y, 4);
    return u & 0x80000000u ? u : ~(u | 0x80000000u);
}

// ---- selection ---------------------------------------------------------------------------------

// Where a border falls: keys below `key` weigh `before` together, less than was asked for; with
// those equal to `key` they reach it.
struct border {
    uint32_t key;
    double before;
};

// Ascending by key, the first border at which the sum of weights (1 each where `weight` is NULL)
// reaches `target`; the last key where rounding keeps it below.
static struct border select_border(
    double *bucket, const uint32_t *key, const float *weight, uint32_t n, double target)
{
    struct border b = {0};
    for (int shift = 32 - RADIX_BITS, done = 0; done < 32; shift -= RADIX_BITS) {
        int bits = shift >= 0 ? RADIX_BITS : RADIX_BITS + shift;
        shift = shift >= 0 ? shift : 0;
        uint32_t mask = (1u << bits) - 1, last = 0;
        memset(bucket, 0, sizeof *bucket * SAMPLE_BUCKETS);
        for (uint32_t i = 0; i < n; i++) {
            // Only keys that agree with the bits found so far.
            if (done > 0 && (key[i] ^ b.key) >> (32 - done) != 0)
                continue;
            uint32_t digit = key[i] >> shift & mask;
            bucket[digit] += weight != NULL ? (double)weight[i] : 1.0;
            last = digit > last ? digit : last;
        }
        uint32_t digit = 0;
        while (digit < last && (b.before + bucket[digit] < target || bucket[digit] == 0)) {
            b.before += bucket[digit];
            digit++;
        }
        b.key |= digit << shift;
        done += bits;
    }
    return b;
}

// Keeps a buffer of keys that may be among the k smallest and a limit that only falls; a row in
// random order passes few of its logits beyond the first comparison.
uint32_t sample_kth_key(struct sample_work *w, const float *x, uint32_t n, uint32_t k)
{
    uint32_t capacity = k > n / 4 ? n : 4 * k;
    capacity = capacity < KTH_BUFFER_MIN ? KTH_BUFFER_MIN : capacity;
    capacity = capacity < n ? capacity : n;
    float limit = -INFINITY;
    uint32_t m = 0;
    bool limited = false;
    for (uint32_t i = 0; i < n; i++) {
        if (limited && !(x[i] > limit))
            continue;
        w->key[m++] = sample_key(x[i]);
        if (m < capacity || i + 1 == n)
            continue;
        struct border b = select_border(w->bucket, w->key, NULL, m, k);
        uint32_t kept = 0;
        for (uint32_t j = 0; j < m; j++)
            if (w->key[j] < b.key)
                w->key[kept++] = w->key[j];
        while (kept < k)
            w->key[kept++] = b.key;
        m = kept;
        uint32_t bits = b.key & 0x80000000u ? b.key : ~b.key & 0x7fffffffu;
        memcpy(&limit, &bits, 4);
        limited = true;
    }
    return select_border(w->bucket, w->key, NULL, m, k).key;
}

// ---- logits ------------------------------------------------------------------------------------

static bool changes_logits(const struct sample_slot *s)
{
    const struct sampling_params *p = &s->params;
    return (s->n_output < p->min_tokens && p->n_stop_ids > 0) || p->n_logit_bias > 0 ||
           (s->counted && s->counts.n > 0);
}

static void penalize(const struct sample_slot *s, float *x)
{
    const struct sampling_params *p = &s->params;
    for (uint32_t i = 0; i < s->counts.n; i++) {
        const struct sample_count *c = &s->counts.list[i];
        float y = x[c->id];
        y = y > 0 ? y / p->repetition_penalty : y * p->repetition_penalty;
        if (c->n_output > 0) {
            y -= p->frequency_penalty * (float)c->n_output;
            y -= p->presence_penalty;
        }
        x[c->id] = y;
    }
}

static void change_logits(const struct sample_slot *s, float *x, uint32_t vocab_size)
{
    const struct sampling_params *p = &s->params;
    if (s->n_output < p->min_tokens)
        for (uint32_t i = 0; i < p->n_stop_ids; i++)
            if (s->stop_ids[i] < vocab_size)
                x[s->stop_ids[i]] = -INFINITY;
    for (uint32_t i = 0; i < p->n_logit_bias; i++)
        x[s->bias[i].id] += s->bias[i].bias;
    if (s->counted)
        penalize(s, x);
}

// ---- the list of ids that are kept -------------------------------------------------------------

static void list_one(struct sample_work *w, const float *x, uint32_t n, float value)
{
    uint32_t id = 0;
    while (id + 1 < n && x[id] != value)
        id++;
    w->list_id[0] = id;
    w->list_x[0] = value;
    w->list_w[0] = 1.0f;
    w->n_list = 1;
}

static void list_top_k(
    struct sample_work *w, const float *x, uint32_t n, uint32_t k, float max, float temperature)
{
    uint32_t border = sample_kth_key(w, x, n, k);
    w->n_list = 0;
    for (uint32_t i = 0; i < n; i++) {
        w->list_id[w->n_list] = i;
        w->list_x[w->n_list] = x[i];
        w->n_list += sample_key(x[i]) <= border && x[i] > -INFINITY;
    }
    w->isa->weights(w->list_x, w->list_w, w->sums, w->n_list, max, temperature);
}

// All ids of at least the weight `least`, and of a weight at all.
static void list_by_weight(struct sample_work *w, const float *x, uint32_t n, float least)
{
    w->n_list = 0;
    for (uint32_t i = 0; i < n; i++) {
        w->list_id[w->n_list] = i;
        w->list_x[w->n_list] = x[i];
        w->list_w[w->n_list] = w->w[i];
        w->n_list += w->w[i] >= least && w->w[i] > 0;
    }
}

static void keep(struct sample_work *w, uint32_t *n, uint32_t i)
{
    w->list_id[*n] = w->list_id[i];
    w->list_x[*n] = w->list_x[i];
    w->list_w[*n] = w->list_w[i];
    ++*n;
}

static double list_total(const struct sample_work *w)
{
    double total = 0;
    for (uint32_t i = 0; i < w->n_list; i++)
        total += (double)w->list_w[i];
    return total;
}

static void keep_min_p(struct sample_work *w, float min_p)
{
    // The best id's weight is exactly 1.
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n_list; i++)
        if (w->list_w[i] >= min_p)
            keep(w, &n, i);
    w->n_list = n;
}

// In falling order of logits, equal ones by ascending id, an id stays while the sum before it is
// below top_p. `total` includes ids too light to be in the list.
static void keep_top_p(struct sample_work *w, float top_p, double total)
{
    double target = (double)top_p * total;
    for (uint32_t i = 0; i < w->n_list; i++)
        w->key[i] = sample_key(w->list_x[i]);
    struct border b = select_border(w->bucket, w->key, w->list_w, w->n_list, target);
    uint32_t n = 0;
    double sum = b.before;
    for (uint32_t i = 0; i < w->n_list; i++) {
        bool stays = w->key[i] < b.key;
        if (w->key[i] == b.key) {
            stays = sum < target;
            sum += (double)w->list_w[i];
        }
        if (stays)
            keep(w, &n, i);
    }
    w->n_list = n;
}

// In rising order of |surprise - entropy| ids stay until their sum reaches typical_p; those at the
// same distance as the last one stay too.
static void keep_typical_p(struct sample_work *w, float typical_p, float max, float temperature)
{
    double total = list_total(w), log_total = log(total), entropy = 0;
    for (uint32_t i = 0; i < w->n_list; i++) {
        double surprise = log_total - ((double)w->list_x[i] - (double)max) / (double)temperature;
        entropy += (double)w->list_w[i] / total * surprise;
    }
    for (uint32_t i = 0; i < w->n_list; i++) {
        double surprise = log_total - ((double)w->list_x[i] - (double)max) / (double)temperature;
        float distance = (float)fabs(surprise - entropy);
        memcpy(&w->key[i], &distance, 4); // not negative: ordered as its bits
    }
    double target = (double)typical_p * total;
    struct border b = select_border(w->bucket, w->key, w->list_w, w->n_list, target);
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n_list; i++)
        if (w->key[i] <= b.key)
            keep(w, &n, i);
    w->n_list = n;
}

// The least weight that can be kept. Ids below (1 - top_p) / n of the total weigh less than
// 1 - top_p together, so top_p drops them all; half of that leaves room for rounding.
static float least_weight(const struct sampling_params *p, double total, uint32_t n)
{
    if (p->min_p > 0 || p->top_p >= 1.0f)
        return p->min_p;
    return (float)(0.5 * (1.0 - (double)p->top_p) * total / n);
}

bool sample_filter(const struct sample_slot *s, struct sample_work *w, const float *logits,
    uint32_t vocab_size, float max)
{
    const struct sampling_params *p = &s->params;
    const float *x = logits;
    if (changes_logits(s)) {
        memcpy(w->x, logits, sizeof *w->x * vocab_size);
        change_logits(s, w->x, vocab_size);
        x = w->x;
        max = w->isa->max(x, vocab_size);
    }
    if (!isfinite(max))
        return false;
    if (p->temperature < TEMPERATURE_GREEDY) {
        list_one(w, x, vocab_size, max);
        return true;
    }
    float t = p->temperature < TEMPERATURE_MIN ? TEMPERATURE_MIN : p->temperature;
    bool top_k = p->top_k > 0 && (uint32_t)p->top_k < vocab_size;
    double total = 0;
    if (top_k) {
        list_top_k(w, x, vocab_size, (uint32_t)p->top_k, max, t);
    } else {
        w->isa->weights(x, w->w, w->sums, vocab_size, max, t);
        total = sample_total(w->sums, vocab_size);
        list_by_weight(w, x, vocab_size, least_weight(p, total, vocab_size));
    }
    if (p->min_p > 0)
        keep_min_p(w, p->min_p);
    if (p->top_p < 1.0f)
        keep_top_p(w, p->top_p, top_k || p->min_p > 0 ? list_total(w) : total);
    if (p->typical_p < 1.0f)
        keep_typical_p(w, p->typical_p, max, t);
    check(w->n_list > 0);
    return true;
}

uint32_t sample_draw(const struct sample_work *w, double u)
{
    double target = u * list_total(w), sum = 0;
    uint32_t last = 0;
    for (uint32_t i = 0; i < w->n_list; i++) {
        if (w->list_w[i] == 0)
            continue;
        sum += (double)w->list_w[i];
        last = i;
        if (sum > target)
            break;
    }
    return w->list_id[last];
}
