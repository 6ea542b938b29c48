// SPDX-License-Identifier: Apache-2.0
// Key files: what is written is read again, by anybody's rules; what is wrong gets a sentence.
#include "tests/test_support.h"

#include "proto/certificate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// A pair made by another program (RFC 26's test keys).
#define PUBLIC_KEY "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
#define SECRET_KEY "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"

struct scratch {
    char dir[64], path[96];
};

static int make_scratch(void **state)
{
    struct scratch *s = calloc(1, sizeof *s);
    snprintf(s->dir, sizeof s->dir, "/tmp/phalanx-keys-XXXXXX");
    if (!mkdtemp(s->dir))
        return -1;
    snprintf(s->path, sizeof s->path, "%s/a.key", s->dir);
    *state = s;
    return 0;
}

static int remove_scratch(void **state)
{
    struct scratch *s = *state;
    unlink(s->path);
    int rc = rmdir(s->dir);
    free(s);
    return rc;
}

static void put(const struct scratch *s, const char *text, mode_t mode)
{
    FILE *f = fopen(s->path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(chmod(s->path, mode), 0);
}

static void test_round_trip(void **state)
{
    struct scratch *s = *state;
    struct certificate a = {.name = "alice", .admin = true}, b;
    struct error err;
    struct stat st;
    assert_int_equal(certificate_make(&a, &err), STATUS_OK);
    assert_int_equal(certificate_write(s->path, &a, true, &err), STATUS_OK);
    assert_int_equal(stat(s->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(certificate_read("--k", s->path, true, &b, &err), STATUS_OK);
    assert_string_equal(b.name, "alice");
    assert_true(b.admin);
    assert_string_equal(a.public_key, b.public_key);
    assert_string_equal(a.secret_key, b.secret_key);
    assert_int_equal(certificate_write(s->path, &a, true, &err), STATUS_CONFLICT);
    unlink(s->path);
    assert_int_equal(certificate_write(s->path, &a, false, &err), STATUS_OK);
    assert_int_equal(certificate_read("--k", s->path, false, &b, &err), STATUS_OK);
    assert_string_equal(b.secret_key, "");
    assert_int_equal(certificate_read("--k", s->path, true, &b, &err), STATUS_INVALID);
}

// As zmq.auth.create_certificates of pyzmq lays them out.
static void test_other_programs(void **state)
{
    struct scratch *s = *state;
    struct certificate c;
    struct error err;
    put(s,
        "#   ****  Generated on 2026-01-01 by pyzmq  ****\n"
        "#   ZeroMQ CURVE **Secret** Certificate\n\n"
        "metadata\n\n"
        "curve\n"
        "    public-key = \"" PUBLIC_KEY "\"\n"
        "    secret-key = \"" SECRET_KEY "\"\n",
        0640);
    enum status status = certificate_read("--k", s->path, true, &c, &err);
    if (status != STATUS_OK)
        print_error("%s\n", err.text);
    assert_int_equal(status, STATUS_OK);
    assert_string_equal(c.public_key, PUBLIC_KEY);
    assert_string_equal(c.secret_key, SECRET_KEY);
    char key[CERTIFICATE_KEY_CHARS + 1];
    assert_int_equal(certificate_public_key("--p", s->path, key, &err), STATUS_OK);
    assert_string_equal(key, PUBLIC_KEY);
    assert_int_equal(certificate_public_key("--p", PUBLIC_KEY, key, &err), STATUS_OK);
    assert_string_equal(key, PUBLIC_KEY);
    assert_int_equal(certificate_public_key("--p", "nothing", key, &err), STATUS_INVALID);
}

static void expect_refusal(const struct scratch *s, const char *text, mode_t mode, const char *part)
{
    struct certificate c;
    struct error err = {0};
    put(s, text, mode);
    assert_int_equal(certificate_read("--k", s->path, true, &c, &err), STATUS_INVALID);
    if (!strstr(err.text, part))
        print_error("\"%s\" has no \"%s\"\n", err.text, part);
    assert_non_null(strstr(err.text, part));
    assert_non_null(strstr(err.text, "--k"));
    unlink(s->path);
}

#define PAIR "public-key = \"" PUBLIC_KEY "\"\nsecret-key = \"" SECRET_KEY "\"\n"

static void test_refusals(void **state)
{
    struct scratch *s = *state;
    struct certificate c;
    struct error err;
    static char large[8192];
    memset(large, '#', sizeof large - 1);
    expect_refusal(s, "", 0600, "public-key");
    expect_refusal(s, "public-key = \"" PUBLIC_KEY "\"\n", 0600, "secret-key");
    expect_refusal(s, "# public-key = \"" PUBLIC_KEY "\"\n", 0600, "public-key");
    expect_refusal(s, "public-key = \"short\"\n", 0600, "line 1");
    expect_refusal(s, "\n\npublic-key = \"" PUBLIC_KEY "x\"\n", 0600, "line 3");
    expect_refusal(s, "public-key = \"" SECRET_KEY "\"\nsecret-key = \"" SECRET_KEY "\"\n", 0600,
        "do not belong together");
    expect_refusal(s, PAIR "name = \"../x\"\n", 0600, "line 3");
    expect_refusal(s, PAIR "role = \"king\"\n", 0600, "line 3");
    expect_refusal(s, PAIR, 0604, "0604");
    expect_refusal(s, large, 0600, "at most");
    assert_int_equal(certificate_read("--k", s->dir, false, &c, &err), STATUS_INVALID);
    assert_int_equal(certificate_read("--k", "/nowhere/a", false, &c, &err), STATUS_INVALID);
}

static void test_names(void **state)
{
    (void)state;
    char name[80];
    memset(name, 'a', sizeof name);
    name[65] = '\0';
    assert_false(certificate_name_valid(name));
    name[64] = '\0';
    assert_true(certificate_name_valid(name));
    assert_true(certificate_name_valid("a-b_c.1"));
    assert_false(certificate_name_valid(""));
    assert_false(certificate_name_valid("."));
    assert_false(certificate_name_valid("..x"));
    assert_false(certificate_name_valid("a/b"));
    assert_false(certificate_name_valid("a b"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, make_scratch, remove_scratch),
        cmocka_unit_test_setup_teardown(test_other_programs, make_scratch, remove_scratch),
        cmocka_unit_test_setup_teardown(test_refusals, make_scratch, remove_scratch),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
