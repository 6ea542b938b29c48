// SPDX-License-Identifier: Apache-2.0
// What every unit test includes: cmocka in its required order, and where test data lies.
#ifndef PHALANX_TESTS_TEST_SUPPORT_H
#define PHALANX_TESTS_TEST_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

// The repository's root, for tests/golden and deploy/demo-model. Static storage.
const char *test_source_dir(void);

// The folder of shared oracles beside the repository, or the one that PHALANX_SHARED names;
// NULL when there is none: the test then prints "skipped: no ../shared" and passes.
const char *test_shared_dir(void);

// Joins with '/' into a static ring of eight buffers.
const char *test_path(const char *dir, const char *name);

#endif
