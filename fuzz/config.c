/* SPDX-License-Identifier: Apache-2.0 */
/* A config.json: whatever is accepted has numbers in their bounds, and names that are not empty. */
#include <stdlib.h>
#include <string.h>

#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(int is_true)
{
    if (!is_true)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct usk_config config = { 0 };
    struct unstick_error error = { 0 };

    if (usk_config_parse((const char *)data, n, "fuzz", &config, &error) < 0) {
        require(error.status == UNSTICK_BAD_FORMAT && error.text[0] && !strchr(error.text, '\n'));
        require(!config.class_name && !config.skip);
        return 0;
    }
    require(!config.class_name || config.class_name[0]);
    require(strlen(config.method) < USK_CONFIG_METHOD_MAX && !strchr(config.method, '\n'));
    for (size_t i = 0; i < config.n_skip; i++)
        require(config.skip[i] && config.skip[i][0]);
    require(config.n_heads <= USK_CONFIG_NUMBER_MAX && config.head_width <= USK_CONFIG_NUMBER_MAX &&
            config.patch <= USK_CONFIG_NUMBER_MAX && config.block_channels[1] <= USK_CONFIG_NUMBER_MAX);
    usk_config_fini(&config);
    return 0;
}
