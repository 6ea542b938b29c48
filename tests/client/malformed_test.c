// SPDX-License-Identifier: Apache-2.0
#include "tests/client/malformed.h"

#include <stdio.h>

enum { ROWS_MIN = 200 };

const struct cluster *malformed_cluster;
int malformed_rows;

// ---- the server --------------------------------------------------------------------------------

static int start(void **state)
{
    static struct cluster cluster;
    (void)state;
    cluster_start(
        &cluster, test_path(test_source_dir(), "tests/golden/models/llama-mqa-f16"), NULL);
    malformed_cluster = &cluster;
    return 0;
}

static int stop(void **state)
{
    (void)state;
    struct cluster *c = (struct cluster *)(uintptr_t)malformed_cluster;
    cluster_stop(c);
    return 0;
}

static void test_enough(void **state)
{
    (void)state;
    printf("%d malformed inputs\n", malformed_rows);
    assert_true(malformed_rows >= ROWS_MIN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_frames),
        cmocka_unit_test(malformed_protobuf),
        cmocka_unit_test(malformed_requests),
        cmocka_unit_test(malformed_scalars),
        cmocka_unit_test(malformed_fields),
        cmocka_unit_test(malformed_prompts),
        cmocka_unit_test(malformed_tenants),
        cmocka_unit_test(malformed_words),
        cmocka_unit_test(malformed_files),
        cmocka_unit_test(test_enough),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
