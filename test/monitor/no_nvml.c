/* SPDX-License-Identifier: Apache-2.0 */
/* A library without any of NVML's functions. */
int nothing_of_nvml(void);

int nothing_of_nvml(void)
{
    return 0;
}
