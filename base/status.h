// SPDX-License-Identifier: Apache-2.0
// What a function can return, and the sentence that explains it to a person.
//
// A function that can fail returns `enum status` and, where a person will read the reason, takes a
// `struct error *`. The first one that detects a failure writes the sentence with status_fail();
// callers forward it with TRY() and do not rewrite it. Outputs are set only on success.
#ifndef PHALANX_BASE_STATUS_H
#define PHALANX_BASE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

enum status {
#define X(NAME, name, class, text) STATUS_##NAME,
#include "base/status.def"
#undef X
    STATUS_COUNT
};

enum status_class {
    STATUS_CLASS_OK,
    STATUS_CLASS_CALLER,
    STATUS_CLASS_PEER,
    STATUS_CLASS_BUSY,
    STATUS_CLASS_DEVICE,
    STATUS_CLASS_BUG,
};

enum { ERROR_TEXT_BYTES = 512 };

// One sentence: what happened, where, and what was expected. Plain data, owned by the caller.
struct error {
    enum status status;
    char text[ERROR_TEXT_BYTES];
};

// Lower-case name ("not_found"); "unknown" for a value that is no status.
const char *status_name(enum status s);
// Generic text ("not found").
const char *status_text(enum status s);
enum status_class status_class(enum status s);

// Writes the sentence into `err` (which may be NULL) and returns `s`. Control characters from the
// outside are replaced by '?', so that a sentence can go to a terminal or a log.
enum status status_fail(struct error *err, enum status s, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Returns from the calling function with the status of `call` unless it is STATUS_OK.
#define TRY(call)                                                                                  \
    do {                                                                                           \
        enum status try_status_ = (call);                                                          \
        if (try_status_ != STATUS_OK)                                                              \
            return try_status_;                                                                    \
    } while (0)

#ifdef __cplusplus
}
#endif

#endif
