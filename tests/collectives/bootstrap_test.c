// SPDX-License-Identifier: Apache-2.0
// All ways to meet behave alike: gathering, descriptors, process handles, splitting, failures.
#include "collectives/star.h"
#include "tests/test_support.h"

#include "tests/collectives/bootstrap_cases.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_threads(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= 8; n++)
        assert_int_equal(ranks_threads(n, bootstrap_cases, NULL), 0);
}

static void test_fork(void **state)
{
    (void)state;
    int yes = 1;
    for (uint32_t n = 1; n <= 8; n++)
        assert_int_equal(ranks_fork(n, bootstrap_cases, &yes, 0), 0);
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
    int rc = bootstrap_cases(b, &yes);
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

enum { MEMBER, SAYS_NOTHING, ENDS, SAYS_NONSENSE, CONNECTIONS };

// A member that came but takes long to say who it is, as one that gets no processor time does.
static int slow_member(int fd)
{
    struct bootstrap *b = NULL;
    struct error err = {0};
    int yes = 1;
    usleep(2500 * 1000);
    if (star_join(fd, 1, 2, STAR_TIMEOUT_MS, &b, &err) != STATUS_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    int rc = bootstrap_cases(b, &yes);
    b->close(b);
    return rc;
}

// Nobody who connects keeps the others from meeting, nor is hung up on for being slow.
static void test_slow_member(void **state)
{
    (void)state;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    socklen_t n = sizeof a.sun_family; // the system chooses a name
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), fd[CONNECTIONS], yes = 1;
    assert_int_equal(bind(listener, (struct sockaddr *)&a, n), 0);
    assert_int_equal(listen(listener, COLL_RANKS_MAX), 0);
    n = sizeof a;
    assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &n), 0);
    for (int i = 0; i < CONNECTIONS; i++) {
        fd[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd[i], (struct sockaddr *)&a, n), 0);
    }
    assert_int_equal(write(fd[SAYS_NONSENSE], "hello", 5), 5);
    close(fd[ENDS]);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        _exit(slow_member(fd[MEMBER]));
    struct bootstrap *b = NULL;
    struct error err = {0};
    int st = 1;
    close(fd[MEMBER]);
    assert_int_equal(star_accept(listener, 2, STAR_TIMEOUT_MS, &b, &err), STATUS_OK);
    assert_int_equal(bootstrap_cases(b, &yes), 0);
    b->close(b);
    assert_int_equal(waitpid(pid, &st, 0), pid);
    assert_int_equal(st, 0);
    close(fd[SAYS_NOTHING]);
    close(fd[SAYS_NONSENSE]);
    close(listener);
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
        cmocka_unit_test(test_slow_member),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
