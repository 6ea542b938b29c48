// SPDX-License-Identifier: Apache-2.0
// Who may connect: CURVE keys of clients, and ZeroMQ's authentication protocol (RFC 27, ZAP).
#include "coordinator/shell.h"

#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zmq.h>

#define ZAP_ENDPOINT "inproc://zeromq.zap.01"
#define ZAP_DOMAIN "phalanx"

enum {
    // Declared in zmq.h for its draft builds only: without a handler nobody is let in.
    OPTION_ZAP_ENFORCE_DOMAIN = 93,
    KEYS_MAX = LIMIT_TENANTS - 1, // tenant 0 has no name
    ZAP_FRAMES_MAX = 8,
    ZAP_FRAME_BYTES = 256,
};

// ---- the keys that are let in ------------------------------------------------------------------

static const char *const option = "--curve-authorized-clients";

const struct shell_key *shell_keys_find(const struct shell *s, const char *name)
{
    for (uint32_t i = 0; i < s->n_keys; i++)
        if (strcmp(s->key[i].name, name) == 0)
            return &s->key[i];
    return NULL;
}

// A file without a name in it is named by what it is called: alice.pub is alice.
static enum status name_by_file(
    const char *path, char name[CERTIFICATE_NAME_BYTES + 1], struct error *err)
{
    const char *slash = strrchr(path, '/');
    const char *base = slash ? slash + 1 : path;
    const char *dot = strrchr(base, '.');
    size_t n = dot ? (size_t)(dot - base) : strlen(base);
    snprintf(name, CERTIFICATE_NAME_BYTES + 1, "%.*s", (int)(n > 64 ? 64 : n), base);
    if (!certificate_name_valid(name))
        return status_fail(err, STATUS_INVALID,
            "%s: %.200s has no name of letters and digits, neither inside nor as a file", option,
            path);
    return STATUS_OK;
}

static enum status add_key(struct shell *s, const char *path, struct error *err)
{
    struct certificate c;
    struct shell_key *k = &s->key[s->n_keys];
    if (s->n_keys == KEYS_MAX)
        return status_fail(err, STATUS_TOO_LARGE, "%s has more than %d keys", option, KEYS_MAX);
    TRY(certificate_read(option, path, false, &c, err));
    if (!c.name[0])
        TRY(name_by_file(path, c.name, err));
    if (shell_keys_find(s, c.name))
        return status_fail(err, STATUS_INVALID, "%s has two keys of the name %s", option, c.name);
    *k = (struct shell_key){.admin = c.admin};
    snprintf(k->name, sizeof k->name, "%s", c.name);
    zmq_z85_decode(k->public_key, c.public_key);
    s->n_keys++;
    return STATUS_OK;
}

static int is_public_half(const struct dirent *e)
{
    size_t n = strlen(e->d_name);
    return e->d_name[0] != '.' && n > 4 && strcmp(e->d_name + n - 4, ".pub") == 0;
}

static enum status add_folder(struct shell *s, const char *dir, struct error *err)
{
    struct dirent **list;
    int n = scandir(dir, &list, is_public_half, alphasort);
    if (n < 0)
        return status_fail(err, STATUS_INVALID, "%s: %.200s: %s", option, dir, strerror(errno));
    enum status status = STATUS_OK;
    for (int i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%.3800s/%s", dir, list[i]->d_name);
        if (status == STATUS_OK)
            status = add_key(s, path, err);
        free(list[i]);
    }
    free(list);
    if (status == STATUS_OK && n == 0)
        return status_fail(err, STATUS_INVALID,
            "%s: %.200s has no .pub file, expected one for each client (phalanx keygen)", option,
            dir);
    return status;
}

enum status shell_keys_open(struct shell *s, struct error *err)
{
    const char *clients = s->settings.curve_authorized_clients;
    if (!s->settings.curve_server_key && !clients)
        return STATUS_OK;
    if (!s->settings.curve_server_key || !clients)
        return status_fail(err, STATUS_INVALID,
            "expected --curve-server-key and --curve-authorized-clients together");
    TRY(certificate_available(err));
    s->key = calloc(KEYS_MAX, sizeof *s->key);
    if (!s->key)
        return status_fail(err, STATUS_NO_MEMORY, "out of memory for keys");
    struct stat st;
    bool folder = stat(clients, &st) == 0 && S_ISDIR(st.st_mode);
    TRY(folder ? add_folder(s, clients, err) : add_key(s, clients, err));
    s->zap = zmq_socket(s->context, ZMQ_REP);
    if (!s->zap || zmq_bind(s->zap, ZAP_ENDPOINT) != 0)
        return status_fail(err, STATUS_IO, "authentication: %s", zmq_strerror(errno));
    return STATUS_OK;
}

enum status shell_keys_secure(struct shell *s, void *socket, struct error *err)
{
    struct certificate c;
    if (!s->zap)
        return STATUS_OK;
    TRY(certificate_read("--curve-server-key", s->settings.curve_server_key, true, &c, err));
    int one = 1;
    bool set =
        zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &one, sizeof one) == 0 &&
        zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, c.secret_key, CERTIFICATE_KEY_CHARS) == 0 &&
        zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, ZAP_DOMAIN, strlen(ZAP_DOMAIN)) == 0 &&
        zmq_setsockopt(socket, OPTION_ZAP_ENFORCE_DOMAIN, &one, sizeof one) == 0;
    explicit_bzero(&c, sizeof c);
    if (!set)
        return status_fail(err, STATUS_IO, "CURVE: %s", zmq_strerror(errno));
    return STATUS_OK;
}

// ---- ZAP ---------------------------------------------------------------------------------------

// version, request id, domain, address, identity, mechanism, then what the mechanism has.
enum zap_frame {
    ZAP_VERSION,
    ZAP_REQUEST,
    ZAP_DOMAIN_NAME,
    ZAP_ADDRESS,
    ZAP_IDENTITY,
    ZAP_MECHANISM,
    ZAP_KEY,
    ZAP_FRAMES
};

struct zap_request {
    uint32_t n_frames;
    size_t size[ZAP_FRAMES_MAX];
    uint8_t data[ZAP_FRAMES_MAX][ZAP_FRAME_BYTES];
};

// Takes one question whole; false when there is none.
static bool receive(void *socket, struct zap_request *out)
{
    int more = 1;
    *out = (struct zap_request){0};
    while (more) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&part);
            return false;
        }
        more = zmq_msg_more(&part);
        size_t n = zmq_msg_size(&part);
        if (out->n_frames < ZAP_FRAMES_MAX && n <= ZAP_FRAME_BYTES) {
            memcpy(out->data[out->n_frames], zmq_msg_data(&part), n);
            out->size[out->n_frames] = n;
        }
        out->n_frames++;
        zmq_msg_close(&part);
    }
    return true;
}

static bool is_text(const struct zap_request *q, enum zap_frame frame, const char *text)
{
    return q->size[frame] == strlen(text) && memcmp(q->data[frame], text, strlen(text)) == 0;
}

// The key that asks to be let in; NULL if we do not know it.
static const struct shell_key *judge(const struct shell *s, const struct zap_request *q)
{
    if (q->n_frames != ZAP_FRAMES || !is_text(q, ZAP_VERSION, "1.0") ||
        !is_text(q, ZAP_DOMAIN_NAME, ZAP_DOMAIN) || !is_text(q, ZAP_MECHANISM, "CURVE") ||
        q->size[ZAP_KEY] != sizeof s->key[0].public_key)
        return NULL;
    for (uint32_t i = 0; i < s->n_keys; i++)
        if (memcmp(s->key[i].public_key, q->data[ZAP_KEY], sizeof s->key[i].public_key) == 0)
            return &s->key[i];
    return NULL;
}

static void send_text(void *socket, const char *text, int flags)
{
    zmq_send(socket, text, strlen(text), flags | ZMQ_DONTWAIT);
}

void shell_keys_answer(struct shell *s)
{
    struct zap_request q;
    while (s->zap && receive(s->zap, &q)) {
        const struct shell_key *k = judge(s, &q);
        if (!k)
            log_warn("a client at %.*s is refused: its key is not among the authorized ones",
                (int)q.size[ZAP_ADDRESS], (const char *)q.data[ZAP_ADDRESS]);
        send_text(s->zap, "1.0", ZMQ_SNDMORE);
        zmq_send(s->zap, q.data[ZAP_REQUEST], q.size[ZAP_REQUEST], ZMQ_SNDMORE | ZMQ_DONTWAIT);
        send_text(s->zap, k ? "200" : "400", ZMQ_SNDMORE);
        send_text(s->zap, k ? "OK" : "unknown key", ZMQ_SNDMORE);
        send_text(s->zap, k ? k->name : "", ZMQ_SNDMORE);
        send_text(s->zap, "", 0);
    }
}
