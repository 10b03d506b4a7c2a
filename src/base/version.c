/* SPDX-License-Identifier: Apache-2.0 */
#include <unstick/version.h>

const char *unstick_version(void)
{
    return UNSTICK_VERSION;
}
