// SPDX-License-Identifier: Apache-2.0
// All ways to meet behave alike: gathering, descriptors, process handles, splitting, failures.
#include "tests/test_support.h"

#include "tests/collectives/ranks.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static int gather(struct bootstrap *b)
{
    // Large enough to fill a socket's buffer several times.
    enum { N = 300 * 1024 };
    uint8_t *mine = malloc(N), *all = malloc((size_t)N * b->size);
    WANT(mine != NULL && all != NULL);
    for (size_t n = 1; n <= N; n = n == 1 ? 1000 : n == 1000 ? N : N + 1) {
        memset(mine, (int)(b->rank + n), n);
        memset(all, 0xee, n * b->size);
        WANT_OK(b->all_gather(b, mine, n, all, NULL));
        for (uint32_t r = 0; r < b->size; r++)
            for (size_t i = 0; i < n; i++)
                WANT(all[r * n + i] == (uint8_t)(r + n));
    }
    free(mine);
    free(all);
    WANT_OK(b->barrier(b, NULL));
    return 0;
}

// Every rank in turn shares a memfd into which it has written its rank.
static int share(struct bootstrap *b)
{
    for (uint32_t root = 0; root < b->size; root++) {
        int fd = -1;
        uint32_t v = 1000 + b->rank;
        if (b->rank == root) {
            fd = memfd_create("test", MFD_CLOEXEC);
            WANT(fd >= 0 && pwrite(fd, &v, sizeof v, 0) == sizeof v);
        }
        WANT_OK(b->share_fd(b, root, &fd, NULL));
        WANT(fd >= 0 && pread(fd, &v, sizeof v, 0) == sizeof v && v == 1000 + root);
        WANT((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
        close(fd);
    }
    return 0;
}

static int split(struct bootstrap *b)
{
    struct bootstrap *half = NULL;
    uint32_t colour = b->rank % 3 == 0 ? 7 : 9;
    WANT_OK(b->split(b, colour, &half, NULL));
    uint32_t all[COLL_RANKS_MAX], n = 0;
    WANT_OK(half->all_gather(half, &b->rank, sizeof b->rank, all, NULL));
    for (uint32_t r = 0; r < b->size; r++)
        if ((r % 3 == 0) == (b->rank % 3 == 0)) {
            WANT(n < half->size && all[n] == r);
            WANT((n == half->rank) == (r == b->rank));
            n++;
        }
    WANT(n == half->size);
    if (share(half) != 0)
        return 1;
    half->close(half);
    return 0;
}

static int all_of_it(struct bootstrap *b, void *processes)
{
    if (gather(b) != 0 || share(b) != 0 || split(b) != 0 || gather(b) != 0)
        return 1;
    for (uint32_t r = 0; r < b->size; r++) {
        int fd = b->peer_pidfd(b, r);
        WANT((fd >= 0) == (processes != NULL && r != b->rank));
        struct pollfd p = {.fd = fd, .events = POLLIN};
        WANT(fd < 0 || poll(&p, 1, 0) == 0);
    }
    // Nobody leaves before all have looked.
    WANT_OK(b->barrier(b, NULL));
    return 0;
}

static void test_threads(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= 8; n++)
        assert_int_equal(ranks_threads(n, all_of_it, NULL), 0);
}

static void test_fork(void **state)
{
    (void)state;
    int yes = 1;
    for (uint32_t n = 1; n <= 8; n++)
        assert_int_equal(ranks_fork(n, all_of_it, &yes, 0), 0);
}

static int files_rank(const char *dir, uint32_t rank, uint32_t n)
{
    struct bootstrap *b = NULL;
    struct error err = {0};
    int yes = 1;
    if (bootstrap_files(dir, rank, n, 10000, &b, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    int rc = all_of_it(b, &yes);
    b->close(b);
    return rc;
}

static void test_files(void **state)
{
    (void)state;
    // Longer than a socket's path may be.
    char dir[256] = "/tmp/phalanx-test-a-directory-whose-name-alone-is-longer-than-what-fits-into-"
                    "the-path-of-a-unix-socket-XXXXXX";
    assert_non_null(mkdtemp(dir));
    enum { N = 5 };
    pid_t pid[N];
    fflush(NULL);
    for (uint32_t r = 0; r < N; r++) {
        pid[r] = fork();
        if (pid[r] == 0)
            _exit(files_rank(dir, N - 1 - r, N)); // rank 0 comes last
    }
    for (uint32_t r = 0; r < N; r++) {
        int st = 1;
        waitpid(pid[r], &st, 0);
        assert_int_equal(st, 0);
    }
    assert_int_equal(rmdir(dir), 0); // nothing was left in it
}

static void test_files_alone(void **state)
{
    (void)state;
    char dir[] = "/tmp/phalanx-test-XXXXXX";
    struct bootstrap *b = NULL;
    struct error err = {0};
    assert_non_null(mkdtemp(dir));
    assert_int_equal(bootstrap_files(dir, 0, 2, 50, &b, &err), STATUS_TIMEOUT);
    assert_non_null(strstr(err.text, "rank 1 is missing"));
    assert_int_equal(bootstrap_files(dir, 1, 2, 50, &b, &err), STATUS_TIMEOUT);
    assert_int_equal(bootstrap_files(dir, 2, 2, 50, &b, &err), STATUS_INVALID);
    assert_int_equal(bootstrap_files("/nonexistent", 0, 2, 50, &b, &err), STATUS_IO);
    assert_int_equal(rmdir(dir), 0);
    assert_null(b);
}

// One rank gathers another number of bytes, or calls something else: all get an error at once.
static int disagree(struct bootstrap *b, void *context)
{
    (void)context;
    char out[64];
    struct error err = {0};
    enum status s =
        b->rank == 2 ? b->all_gather(b, "ab", 2, out, &err) : b->all_gather(b, "a", 1, out, &err);
    WANT(s == STATUS_MISMATCH || s == STATUS_PEER_GONE);
    WANT(b->barrier(b, &err) == s);
    return 0;
}

static int one_dies(struct bootstrap *b, void *context)
{
    (void)context;
    char out[64];
    struct error err = {0};
    WANT_OK(b->barrier(b, &err));
    if (b->rank == 1)
        raise(SIGKILL);
    WANT(b->all_gather(b, "a", 1, out, &err) == STATUS_PEER_GONE);
    return 0;
}

static void test_failures(void **state)
{
    (void)state;
    assert_int_equal(ranks_threads(4, disagree, NULL), 0);
    assert_int_equal(ranks_fork(4, disagree, NULL, 0), 0);
    assert_int_equal(ranks_fork(4, one_dies, NULL, 2), 0);
}

static void test_limits(void **state)
{
    (void)state;
    struct bootstrap *b[1];
    struct error err;
    assert_int_equal(bootstrap_threads(0, b, &err), STATUS_INVALID);
    assert_int_equal(bootstrap_threads(COLL_RANKS_MAX + 1, b, &err), STATUS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_files_alone),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
