/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAKECUDA_PROCESS_H
#define FAKECUDA_PROCESS_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/*
 * How processes on the fake driver reach each other, as those on the real one do through a thread that the driver keeps
 * in each. A process listens on DIR/PID; one connection carries one request and its answer.
 */
enum process_verb { PROCESS_STATE, PROCESS_LOCK, PROCESS_SAVE, PROCESS_RESTORE, PROCESS_UNLOCK, PROCESS_USE };

struct process_request {
    int32_t verb;
    uint32_t timeout_ms;
};

struct process_answer {
    int32_t result; /* CUresult */
    int32_t state;
    uint64_t used_bytes; /* of all devices */
};

/* 0, or -1 if nobody listens there or the answer does not come. */
static inline int process_ask(const char *dir, int pid, const struct process_request *request,
                              struct process_answer *ret_answer)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int r = -1;

    if (fd < 0)
        return -1;
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/%d", dir, pid);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
        send(fd, request, sizeof(*request), MSG_NOSIGNAL) == (ssize_t)sizeof(*request) &&
        recv(fd, ret_answer, sizeof(*ret_answer), MSG_WAITALL) == (ssize_t)sizeof(*ret_answer))
        r = 0;
    close(fd);
    return r;
}

#endif
