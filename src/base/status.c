/* SPDX-License-Identifier: Apache-2.0 */
#include <unstick/status.h>

const char *unstick_status_name(int status)
{
    switch (status) {
#define STATUS_NAME(_name, _value, _text)                                                                    \
    case UNSTICK_##_name:                                                                                    \
        return #_name;
        UNSTICK_STATUS_MAP(STATUS_NAME)
#undef STATUS_NAME
    default:
        return "UNKNOWN";
    }
}

const char *unstick_status_text(int status)
{
    switch (status) {
#define STATUS_TEXT(_name, _value, _text)                                                                    \
    case UNSTICK_##_name:                                                                                    \
        return _text;
        UNSTICK_STATUS_MAP(STATUS_TEXT)
#undef STATUS_TEXT
    default:
        return "unknown status";
    }
}
