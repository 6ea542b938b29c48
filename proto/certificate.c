// SPDX-License-Identifier: Apache-2.0
#include "proto/certificate.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

enum { FILE_BYTES_MAX = 4096, KEY_BYTES = 32 };

enum status certificate_available(struct error *err)
{
    if (zmq_has("curve"))
        return STATUS_OK;
    return status_fail(err, STATUS_UNSUPPORTED,
        "this libzmq was built without CURVE, expected one with libsodium (Debian's has it)");
}

enum status certificate_make(struct certificate *out, struct error *err)
{
    TRY(certificate_available(err));
    if (zmq_curve_keypair(out->public_key, out->secret_key) != 0)
        return status_fail(err, STATUS_IO, "no CURVE key pair: %s", zmq_strerror(errno));
    return STATUS_OK;
}

bool certificate_name_valid(const char *name)
{
    size_t n = strlen(name);
    if (n < 1 || n > CERTIFICATE_NAME_BYTES || name[0] == '.')
        return false;
    for (const char *p = name; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("-_.", *p))
            return false;
    return true;
}

// ---- reading -----------------------------------------------------------------------------------

static bool key_valid(const char *key)
{
    uint8_t bytes[KEY_BYTES];
    return strlen(key) == CERTIFICATE_KEY_CHARS && zmq_z85_decode(bytes, key) != NULL;
}

static enum status read_text(const char *option, const char *path, char text[FILE_BYTES_MAX + 1],
    unsigned *mode, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (fd < 0)
        return status_fail(err, STATUS_INVALID, "%s: %.200s: %s", option, path, strerror(errno));
    ssize_t n = -1;
    bool regular = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    if (regular)
        n = read(fd, text, FILE_BYTES_MAX + 1);
    close(fd);
    if (!regular || n < 0 || n > FILE_BYTES_MAX)
        return status_fail(err, STATUS_INVALID,
            "%s: %.200s is not a file of at most %d bytes, expected a key file of phalanx keygen",
            option, path, FILE_BYTES_MAX);
    text[n] = '\0';
    *mode = st.st_mode & 07777;
    return STATUS_OK;
}

// Takes `name = "value"` apart; false for other lines.
static bool read_pair(char *line, char **name, char **value)
{
    while (isspace((unsigned char)*line))
        line++;
    char *equals = strchr(line, '=');
    char *quote = equals ? strchr(equals, '"') : NULL;
    char *end = quote ? strrchr(quote, '"') : NULL;
    if (*line == '#' || !end || end == quote)
        return false;
    *end = '\0';
    *value = quote + 1;
    while (equals > line && isspace((unsigned char)equals[-1]))
        equals--;
    *equals = '\0';
    *name = line;
    return true;
}

static bool take_pair(struct certificate *c, const char *name, const char *value)
{
    char *key = strcmp(name, "public-key") == 0   ? c->public_key
                : strcmp(name, "secret-key") == 0 ? c->secret_key
                                                  : NULL;
    if (key) {
        if (!key_valid(value))
            return false;
        snprintf(key, CERTIFICATE_KEY_CHARS + 1, "%s", value);
    } else if (strcmp(name, "name") == 0) {
        if (!certificate_name_valid(value))
            return false;
        snprintf(c->name, sizeof c->name, "%s", value);
    } else if (strcmp(name, "role") == 0) {
        c->admin = strcmp(value, "admin") == 0;
        return c->admin || strcmp(value, "client") == 0;
    }
    return true;
}

// Whether the two halves belong together.
static bool is_pair(const struct certificate *c)
{
    char derived[CERTIFICATE_KEY_CHARS + 1];
    return zmq_curve_public(derived, c->secret_key) == 0 && strcmp(derived, c->public_key) == 0;
}

enum status certificate_read(
    const char *option, const char *path, bool secret, struct certificate *out, struct error *err)
{
    char text[FILE_BYTES_MAX + 1];
    TRY(certificate_available(err));
    unsigned mode = 0;
    TRY(read_text(option, path, text, &mode, err));
    struct certificate c = {0};
    int number = 0;
    for (char *line = text, *next; line; line = next) {
        char *name, *value;
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        number++;
        if (read_pair(line, &name, &value) && !take_pair(&c, name, value))
            return status_fail(err, STATUS_INVALID,
                "%s: line %d of %.200s is not understood, expected keys of 40 characters of Z85, a "
                "name of letters and digits, and role client or admin",
                option, number, path);
    }
    if (!c.public_key[0] || (secret && !c.secret_key[0]))
        return status_fail(err, STATUS_INVALID,
            "%s: %.200s has no %s, expected a key file of phalanx keygen", option, path,
            c.public_key[0] ? "secret-key" : "public-key");
    if (secret && (mode & 07) != 0)
        return status_fail(err, STATUS_INVALID,
            "%s: %.200s is open to other users (mode %04o), expected mode 0600 (chmod 600)", option,
            path, mode);
    if (secret && !is_pair(&c))
        return status_fail(
            err, STATUS_INVALID, "%s: the two keys of %.200s do not belong together", option, path);
    *out = c;
    return STATUS_OK;
}

enum status certificate_public_key(
    const char *option, const char *text, char out[CERTIFICATE_KEY_CHARS + 1], struct error *err)
{
    struct certificate c;
    if (access(text, F_OK) != 0 && key_valid(text)) {
        snprintf(out, CERTIFICATE_KEY_CHARS + 1, "%s", text);
        return STATUS_OK;
    }
    if (access(text, F_OK) != 0)
        return status_fail(err, STATUS_INVALID,
            "%s is \"%.200s\", expected a file or a public key of 40 characters of Z85", option,
            text);
    TRY(certificate_read(option, text, false, &c, err));
    snprintf(out, CERTIFICATE_KEY_CHARS + 1, "%s", c.public_key);
    return STATUS_OK;
}

// ---- writing -----------------------------------------------------------------------------------

enum status certificate_write(
    const char *path, const struct certificate *c, bool secret, struct error *err)
{
    char text[1024];
    int n = snprintf(text, sizeof text,
        "# Phalanx CURVE certificate, %s.\nmetadata\n%s%s%s    role = \"%s\"\ncurve\n"
        "    public-key = \"%s\"\n%s%s%s",
        secret ? "SECRET: whoever has it is the one it names" : "public half",
        c->name[0] ? "    name = \"" : "", c->name, c->name[0] ? "\"\n" : "",
        c->admin ? "admin" : "client", c->public_key, secret ? "    secret-key = \"" : "",
        secret ? c->secret_key : "", secret ? "\"\n" : "");
    if (n < 0 || (size_t)n >= sizeof text)
        return status_fail(err, STATUS_TOO_LARGE, "%.200s: the certificate is too long", path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 && errno == EEXIST)
        return status_fail(err, STATUS_CONFLICT,
            "%.200s is there already, expected none: keys are never overwritten", path);
    if (fd < 0)
        return status_fail(err, STATUS_IO, "%.200s: %s", path, strerror(errno));
    bool ok = fchmod(fd, secret ? 0600 : 0644) == 0 && write(fd, text, (size_t)n) == n;
    ok = close(fd) == 0 && ok;
    if (!ok)
        return status_fail(err, STATUS_IO, "%.200s: writing failed", path);
    return STATUS_OK;
}
