// SPDX-License-Identifier: Apache-2.0
#include "tests/test_support.h"

#include "model/serving_properties.h"
#include "tests/model/scratch_dir.h"

#include <stdlib.h>
#include <string.h>

static void test_good(void **state)
{
    (void)state;
    static const char text[] = "# a model\n! too\r\n\n"
                               "engine=MPI\n"
                               "  option.model_id = /models/llama = 2\r\n"
                               "option.tensor_parallel_degree: 4\n"
                               "option.max_rolling_batch_size=32\n"
                               "option.dtype=bf16\n"
                               "option.rolling_batch=disable\n"
                               "option.model_loading_timeout=1800\n"
                               "option.max_model_len=4096\n"
                               "option.batch_scheduler_policy=guaranteed_no_evict\n"
                               "option.rope_scaling={\"type\": \"linear\", \"factor\": 2}\n"
                               "option.trust_remote_code=False\n"
                               "job_queue_size=7";
    struct serving_properties p;
    struct error err = {0};
    if (serving_properties_parse(text, sizeof text - 1, "f", &p, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    assert_string_equal(p.model_id, "/models/llama = 2");
    assert_int_equal(p.tensor_parallel_degree, 4);
    assert_false(p.tensor_parallel_max);
    assert_int_equal(p.max_rolling_batch_size, 32);
    assert_int_equal(p.dtype, SERVING_DTYPE_BF16);
    assert_int_equal(p.rolling_batch, SERVING_ROLLING_BATCH_DISABLE);
    assert_int_equal(p.model_loading_timeout_s, 1800);
    assert_int_equal(p.max_model_len, 4096);
    assert_int_equal(p.batch_scheduler_policy, SERVING_POLICY_GUARANTEED_NO_EVICT);
    assert_string_equal(p.rope_scaling, "{\"type\": \"linear\", \"factor\": 2}");
    assert_int_equal(p.job_queue_size, 7);
    assert_int_equal(p.quantize, SERVING_QUANTIZE_NONE);
    static const char max[] = "option.tensor_parallel_degree=max";
    assert_int_equal(serving_properties_parse(max, sizeof max - 1, "f", &p, &err), STATUS_OK);
    assert_true(p.tensor_parallel_max && p.tensor_parallel_degree == 0 && !p.model_id[0]);
}

static const struct {
    const char *text;
    enum status status;
    const char *sentence;
} bad[] = {
    {"engine=MPI\nhello", STATUS_INVALID, "f, line 2: expected \"key = value\""},
    {"=5", STATUS_INVALID, "expected \"key = value\""},
    {"option.modelid=x", STATUS_UNSUPPORTED, "f, line 1: the key \"option.modelid\" is not known"},
    {"\n\noption.tensor_parallel_degree=0", STATUS_INVALID, "f, line 3: option.tensor_parallel"},
    {"option.tensor_parallel_degree=-1", STATUS_INVALID, "a number from 1 to 1024 or max"},
    {"option.tensor_parallel_degree=2.0", STATUS_INVALID, "= 2.0, but"},
    {"option.tensor_parallel_degree=", STATUS_INVALID, "a number from 1 to 1024 or max"},
    {"option.tensor_parallel_degree=99999999999999999999", STATUS_INVALID, "from 1 to 1024"},
    {"option.max_rolling_batch_size=0", STATUS_INVALID, "a number from 1 to 65536"},
    {"option.max_rolling_batch_size=65537", STATUS_INVALID, "a number from 1 to 65536"},
    {"option.dtype=int4", STATUS_INVALID, "auto|fp32|fp16|bf16"},
    {"option.model_id=", STATUS_INVALID, "a text of 1 to 1023 bytes"},
    {"option.model_id=a\noption.model_id=b", STATUS_INVALID, "f, line 2: option.model_id is given"},
    {"option.model_id=a\\", STATUS_UNSUPPORTED, "goes on behind"},
    {"option.trust_remote_code=true", STATUS_INVALID, "never run"},
    {"option.rolling_batch=fast", STATUS_INVALID, "= fast, but auto|scheduler"},
    {"option.model_id=\xff", STATUS_INVALID, "not a UTF-8 text"},
};

static void test_bad(void **state)
{
    (void)state;
    struct serving_properties p = {.job_queue_size = 77};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct error err = {0};
        const char *t = bad[i].text;
        enum status got = serving_properties_parse(t, strlen(t), "f", &p, &err);
        if (got != bad[i].status || !strstr(err.text, bad[i].sentence))
            fail_msg("%s: %s: %s", t, status_name(got), err.text);
        assert_int_equal(p.job_queue_size, 77);
    }
    struct error err;
    assert_int_equal(serving_properties_parse("a=b\0c", 5, "f", &p, &err), STATUS_INVALID);
    char *large = calloc(1, SERVING_PROPERTIES_BYTES_MAX + 1);
    memset(large, '\n', SERVING_PROPERTIES_BYTES_MAX + 1);
    size_t n = SERVING_PROPERTIES_BYTES_MAX;
    assert_int_equal(serving_properties_parse(large, n + 1, "f", &p, &err), STATUS_TOO_LARGE);
    assert_int_equal(serving_properties_parse(large, n, "f", &p, &err), STATUS_OK);
    free(large);
}

static void test_read(void **state)
{
    (void)state;
    struct serving_properties p = {.job_queue_size = 77};
    struct error err;
    const char *dir = scratch_dir_make();
    assert_int_equal(serving_properties_read(dir, &p, &err), STATUS_OK);
    assert_int_equal(p.job_queue_size, 0);
    scratch_dir_write("serving.properties", "job_queue_size=5\n", 17);
    assert_int_equal(serving_properties_read(dir, &p, &err), STATUS_OK);
    assert_int_equal(p.job_queue_size, 5);
    scratch_dir_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
