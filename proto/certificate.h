// SPDX-License-Identifier: Apache-2.0
// CURVE keys in text files, laid out as CZMQ and pyzmq write and read them:
//
//   # comment
//   metadata
//       name = "alice"
//       role = "admin"
//   curve
//       public-key = "40 characters of Z85"
//       secret-key = "40 characters of Z85"
//
// Files of the public half (.pub) have no secret-key. A file with a secret must not be open to
// others (mode 0600, or 0640 for a group). Sections and unknown names are not looked at.
#ifndef PHALANX_PROTO_CERTIFICATE_H
#define PHALANX_PROTO_CERTIFICATE_H

#include "base/status.h"

#include <stdbool.h>

enum { CERTIFICATE_KEY_CHARS = 40, CERTIFICATE_NAME_BYTES = 64 };

struct certificate {
    char name[CERTIFICATE_NAME_BYTES + 1]; // of a client; "" where the file names none
    bool admin;                            // may stop the server from another machine
    char public_key[CERTIFICATE_KEY_CHARS + 1];
    char secret_key[CERTIFICATE_KEY_CHARS + 1]; // "" in the public half
};

// Whether this libzmq can do CURVE at all; UNSUPPORTED and what to do otherwise.
enum status certificate_available(struct error *err);

// A fresh pair; name and role are the caller's to fill in.
enum status certificate_make(struct certificate *out, struct error *err);

// Reads one file. With `secret` the secret key must be there, fit the public one, and be unreadable
// for others. `option` names the setting in the sentence ("--curve-key").
enum status certificate_read(
    const char *option, const char *path, bool secret, struct certificate *out, struct error *err);

// Writes a new file of mode 0600 (with `secret`) or 0644; CONFLICT when there is one already.
enum status certificate_write(
    const char *path, const struct certificate *c, bool secret, struct error *err);

// `text` is a file or the public key itself.
enum status certificate_public_key(
    const char *option, const char *text, char out[CERTIFICATE_KEY_CHARS + 1], struct error *err);

// Letters, digits, '-', '_' and '.', 1 to 64 of them, no '.' first: fit for a file name.
bool certificate_name_valid(const char *name);

#endif
