// SPDX-License-Identifier: Apache-2.0
// Every version of linear against canon.h's dot product bit for bit, and that against fp64.
#include "base/clock.h"
#include "kernels/cpu/canon.h"
#include "kernels/cpu/cpu.h"
#include "tests/test_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t seed, state;

static uint32_t next_u32(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) ^ (uint32_t)(state >> 20);
}

static uint32_t below(uint32_t n)
{
    return next_u32() % n;
}

static float next_float(void)
{
    return (float)(int32_t)next_u32() * 0x1.0p-31f;
}

// A device without the other ops: what cpu_linear uses of it.
static void device_begin(struct device *d, enum cpu_isa isa, uint32_t n_threads)
{
    struct error err;
    *d = (struct device){.isa = isa, .n_threads = n_threads};
    assert_int_equal(team_open(n_threads, false, &d->team, &err), STATUS_OK);
    d->scratch = aligned_alloc(4096, (size_t)n_threads * CPU_SCRATCH_BYTES);
    d->shared = aligned_alloc(4096, CPU_SHARED_BYTES);
    assert_non_null(d->scratch);
    assert_non_null(d->shared);
    memset(d->scratch, 0xff, (size_t)n_threads * CPU_SCRATCH_BYTES); // NaN where nobody wrote
    memset(d->shared, 0xff, CPU_SHARED_BYTES);
}

static void device_end(struct device *d)
{
    team_close(d->team);
    free(d->scratch);
    free(d->shared);
}

// One product: weights in up to three parts of different strides, each ending where the next page
// must not be touched.
struct product {
    enum dtype dtype;
    uint32_t m, n, k, x_stride, out_stride, n_x;
    struct weight w, bias;
    bool has_bias;
    uint8_t *map[KERNELS_WEIGHT_PARTS_MAX];
    size_t map_bytes[KERNELS_WEIGHT_PARTS_MAX];
    uint8_t bias_data[4 * 512];
    float *x, *out;
    uint32_t *row_ids;
};

static void put(uint8_t *at, enum dtype t, float v)
{
    uint16_t h = t == DTYPE_BF16 ? dtype_bf16_from_f32(v) : dtype_f16_from_f32(v);
    if (t == DTYPE_F32)
        memcpy(at, &v, 4);
    else
        memcpy(at, &h, 2);
}

static float minus_quarter(void)
{
    return -0.25f;
}

static void part_make(struct product *p, uint32_t i, uint32_t n_rows, float (*draw)(void))
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), row = (size_t)p->k * dtype_bytes(p->dtype);
    size_t stride = row + below(3) * 26 + below(2); // odd strides: rows lie unaligned
    size_t bytes = n_rows > 0 ? (n_rows - 1) * stride + row : 0;
    size_t pages = (bytes + page - 1) / page * page;
    p->map_bytes[i] = pages + page;
    p->map[i] =
        mmap(NULL, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(p->map[i], MAP_FAILED);
    uint8_t *data = p->map[i] + pages - bytes;
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t k = 0; k < p->k; k++)
            put(data + r * stride + (size_t)k * dtype_bytes(p->dtype), p->dtype, draw());
    assert_int_equal(mprotect(p->map[i] + pages, page, PROT_NONE), 0);
    p->w.part[i] = (struct weight_part){data, stride, n_rows};
}

static void product_make_from(
    struct product *p, enum dtype t, uint32_t m, uint32_t n, uint32_t k, float (*draw)(void))
{
    *p = (struct product){.dtype = t, .m = m, .n = n, .k = k};
    p->x_stride = k + below(5);
    p->out_stride = n + below(5);
    p->n_x = m + 3;
    p->w = (struct weight){.dtype = t, .n = n, .k = k, .n_parts = 1 + below(3)};
    uint32_t left = n;
    for (uint32_t i = 0; i + 1 < p->w.n_parts; i++) {
        uint32_t rows = below(left + 1);
        part_make(p, i, rows, draw);
        left -= rows;
    }
    part_make(p, p->w.n_parts - 1, left, draw);
    p->has_bias = below(2) == 0 && n <= 512;
    p->bias = (struct weight){.dtype = t, .n = 1, .k = n, .n_parts = 1};
    p->bias.part[0] = (struct weight_part){p->bias_data, sizeof p->bias_data, 1};
    for (uint32_t i = 0; i < n && n <= 512; i++)
        put(p->bias_data + (size_t)i * dtype_bytes(t), t, next_float());
    p->x = malloc(sizeof *p->x * p->n_x * p->x_stride);
    p->out = malloc(sizeof *p->out * (m + 1) * p->out_stride);
    assert_non_null(p->x);
    assert_non_null(p->out);
    for (size_t i = 0; i < (size_t)p->n_x * p->x_stride; i++)
        p->x[i] = next_float();
    if (below(3) == 0) {
        p->row_ids = malloc(sizeof *p->row_ids * (m + 1));
        assert_non_null(p->row_ids);
        for (uint32_t i = 0; i < m; i++)
            p->row_ids[i] = below(p->n_x);
    }
}

static void product_make(struct product *p, enum dtype t, uint32_t m, uint32_t n, uint32_t k)
{
    product_make_from(p, t, m, n, k, next_float);
}

static void product_free(struct product *p)
{
    for (uint32_t i = 0; i < p->w.n_parts; i++)
        munmap(p->map[i], p->map_bytes[i]);
    free(p->x);
    free(p->out);
    free(p->row_ids);
}

static void widen_row(const struct product *p, uint32_t n, float *to)
{
    for (uint32_t part = 0; part < p->w.n_parts; part++) {
        const struct weight_part *s = &p->w.part[part];
        if (n < s->n_rows) {
            const uint8_t *row = (const uint8_t *)s->data + n * s->row_stride_bytes;
            for (uint32_t k = 0; k < p->k; k++)
                to[k] = weight_load(row, p->dtype, k);
            return;
        }
        n -= s->n_rows;
    }
    fail();
}

static const float *row_of_x(const struct product *p, uint32_t m)
{
    return p->x + (size_t)(p->row_ids != NULL ? p->row_ids[m] : m) * p->x_stride;
}

static void run(struct device *d, struct product *p)
{
    const uint32_t sentinel = 0x7fc01234u;
    for (size_t i = 0; i < (size_t)(p->m + 1) * p->out_stride; i++)
        memcpy(&p->out[i], &sentinel, 4);
    struct linear_args a = {
        .n_rows = p->m,
        .x = p->x,
        .x_stride = p->x_stride,
        .w = &p->w,
        .bias = p->has_bias ? &p->bias : NULL,
        .out = p->out,
        .out_stride = p->out_stride,
        .row_ids = p->row_ids,
    };
    cpu_linear(d, &a);
    for (uint32_t m = 0; m <= p->m; m++)
        for (uint32_t n = m < p->m ? p->n : 0; n < p->out_stride; n++)
            if (memcmp(&p->out[(size_t)m * p->out_stride + n], &sentinel, 4) != 0)
                fail_msg("row %u: column %u was written, there are %u", m, n, p->n);
}

// want[n][m] as canon.h has it.
static float *oracle(const struct product *p)
{
    float *w = malloc(sizeof *w * p->k), *want = malloc(sizeof *want * (p->m + 1) * p->n);
    assert_non_null(w);
    assert_non_null(want);
    for (uint32_t n = 0; n < p->n; n++) {
        widen_row(p, n, w);
        for (uint32_t m = 0; m < p->m; m++) {
            float v = canon_dot(row_of_x(p, m), w, p->k);
            want[(size_t)n * p->m + m] =
                p->has_bias ? v + weight_load(p->bias_data, p->dtype, n) : v;
        }
    }
    free(w);
    return want;
}

static void compare(const struct product *p, const float *want, const struct device *d)
{
    for (uint32_t n = 0; n < p->n; n++)
        for (uint32_t m = 0; m < p->m; m++)
            if (memcmp(&want[(size_t)n * p->m + m], &p->out[(size_t)m * p->out_stride + n], 4) != 0)
                fail_msg("%s %s, %u threads, M %u N %u K %u: out[%u, %u] is %a, want %a",
                    cpuid_name(d->isa), dtype_name(p->dtype), d->n_threads, p->m, p->n, p->k, m, n,
                    (double)p->out[(size_t)m * p->out_stride + n],
                    (double)want[(size_t)n * p->m + m]);
}

static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
static struct device devices[2 * CPU_ISA_COUNT];
static size_t n_devices;

static int open_devices(void **unused)
{
    (void)unused;
    for (int isa = 0; isa <= (int)cpuid_best(); isa++)
        for (uint32_t threads = 1; threads <= 3; threads += 2)
            device_begin(&devices[n_devices++], (enum cpu_isa)isa, threads);
    return 0;
}

static int close_devices(void **unused)
{
    (void)unused;
    while (n_devices > 0)
        device_end(&devices[--n_devices]);
    return 0;
}

static void check_product(enum dtype t, uint32_t m, uint32_t n, uint32_t k)
{
    struct product p;
    product_make(&p, t, m, n, k);
    float *want = oracle(&p);
    for (size_t i = 0; i < n_devices; i++) {
        run(&devices[i], &p);
        compare(&p, want, &devices[i]);
    }
    free(want);
    product_free(&p);
}

static void test_chosen_shapes(void **unused)
{
    (void)unused;
    static const uint32_t ms[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 31, 32, 33, 40, 70};
    static const uint32_t nks[][2] = {{1, 1}, {5, 16}, {3, 15}, {4, 17}, {13, 48}, {25, 100},
        {12, 511}, {24, 512}, {7, 513}, {37, 544}, {14, 1030}, {2, 1537}};
    for (size_t t = 0; t < sizeof dtypes / sizeof *dtypes; t++)
        for (size_t m = 0; m < sizeof ms / sizeof *ms; m++)
            for (size_t i = 0; i < sizeof nks / sizeof *nks; i++)
                check_product(dtypes[t], ms[m], nks[i][0], nks[i][1]);
}

static void test_random_shapes(void **unused)
{
    (void)unused;
    state = seed;
    printf("seed %llu; the program takes it as its argument\n", (unsigned long long)seed);
    for (int i = 0; i < 150; i++) {
        uint32_t m = 1 + below(below(4) == 0 ? 90 : 12);
        check_product(dtypes[below(3)], m, 1 + below(90), 1 + below(700));
    }
}

// More rows than fit in one pass, and rows too long to be prepared.
static void test_passes(void **unused)
{
    (void)unused;
    check_product(DTYPE_BF16, 530, 3, 40);
    check_product(DTYPE_BF16, 70, 2, 60000);
    check_product(DTYPE_F32, 9, 2, 80000);
    check_product(DTYPE_F16, 2, 1, (CPU_SHARED_BYTES >> 2) + 1);
}

// The row alone gives what it gives among 200, on every device.
static void test_row_invariance(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < n_devices; i++) {
        struct product p;
        product_make(&p, DTYPE_BF16, 200, 45, 600);
        run(&devices[i], &p);
        float *all = malloc(sizeof *all * 200 * p.out_stride);
        assert_non_null(all);
        memcpy(all, p.out, sizeof *all * 200 * p.out_stride);
        for (uint32_t n_rows = 1; n_rows <= 40; n_rows++) {
            uint32_t first = below(200 - n_rows);
            struct linear_args a = {.n_rows = n_rows,
                .x = p.row_ids != NULL ? p.x : p.x + (size_t)first * p.x_stride,
                .x_stride = p.x_stride,
                .w = &p.w,
                .bias = p.has_bias ? &p.bias : NULL,
                .out = p.out,
                .out_stride = p.out_stride,
                .row_ids = p.row_ids != NULL ? p.row_ids + first : NULL};
            cpu_linear(&devices[i], &a);
            for (uint32_t m = 0; m < n_rows; m++)
                assert_memory_equal(p.out + (size_t)m * p.out_stride,
                    all + (size_t)(first + m) * p.out_stride, sizeof(float) * p.n);
        }
        free(all);
        product_free(&p);
    }
}

// Signed zeros, denormals and infinities go through all versions alike.
static void test_special_values(void **unused)
{
    (void)unused;
    static const float special[] = {
        0.0f, -0.0f, 0x1p-149f, -0x1p-149f, 0x1p-130f, INFINITY, 3e38f, -1.0f, 0x1p-100f};
    for (uint32_t round = 0; round < 200; round++) {
        struct product p;
        // With weights of -1/4 every product of the smallest float rounds to -0, and so does the
        // sum.
        bool minus_zero = round % 4 == 0;
        product_make_from(&p, dtypes[round % 3], 1 + below(20), 5, 1 + below(40),
            minus_zero ? minus_quarter : next_float);
        p.has_bias = false;
        uint32_t n_special = round % 2 ? 5 : sizeof special / sizeof *special;
        for (size_t i = 0; i < (size_t)p.n_x * p.x_stride; i++)
            p.x[i] = minus_zero ? 0x1p-149f : special[below(n_special)];
        float *want = oracle(&p);
        for (size_t i = 0; i < n_devices; i++) {
            run(&devices[i], &p);
            for (size_t m = 0; m < p.m; m++)
                for (size_t n = 0; n < p.n; n++) {
                    float got = p.out[m * p.out_stride + n], expected = want[n * p.m + m];
                    if (isnan(expected))
                        assert_true(isnan(got));
                    else
                        assert_memory_equal(&got, &expected, 4);
                }
        }
        free(want);
        product_free(&p);
    }
}

// canon.h itself: sixteen sums of K / 16 rounded steps and a tree of depth 4.
static void test_plain_against_fp64(void **unused)
{
    (void)unused;
    for (int round = 0; round < 60; round++) {
        struct product p;
        product_make(&p, dtypes[below(3)], 1 + below(4), 1 + below(20), 1 + below(3000));
        run(&devices[0], &p);
        float *w = malloc(sizeof *w * p.k);
        assert_non_null(w);
        for (uint32_t n = 0; n < p.n; n++) {
            widen_row(&p, n, w);
            double b = p.has_bias ? (double)weight_load(p.bias_data, p.dtype, n) : 0;
            for (uint32_t m = 0; m < p.m; m++) {
                double sum = b, size = fabs(b);
                for (uint32_t k = 0; k < p.k; k++) {
                    sum += (double)row_of_x(&p, m)[k] * (double)w[k];
                    size += fabs((double)row_of_x(&p, m)[k] * (double)w[k]);
                }
                double error = fabs(sum - (double)p.out[(size_t)m * p.out_stride + n]);
                assert_true(error <= (p.k / 16 + 6) * 0x1p-24 * size);
            }
        }
        free(w);
        product_free(&p);
    }
}

int main(int argc, char **argv)
{
    seed = argc > 1 ? strtoull(argv[1], NULL, 10) : clock_now_us();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chosen_shapes),
        cmocka_unit_test(test_random_shapes),
        cmocka_unit_test(test_passes),
        cmocka_unit_test(test_row_invariance),
        cmocka_unit_test(test_special_values),
        cmocka_unit_test(test_plain_against_fp64),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
