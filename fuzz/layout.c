/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layouts from a caller who makes any number of mistakes. What is accepted is loaded, in every tier, and the region
 * holds what the layout says; what is refused has no effect. An input is the region's size and then extents.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <unstick/unstick.h>

#define FILE_BYTES (96 << 10)
#define MAX_BYTES (UINT64_C(320) << 10)
#define MAX_EXTENTS 32

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static char path[] = "/tmp/unstick-fuzz-XXXXXX";
static uint8_t contents[FILE_BYTES], expected[MAX_BYTES], found[MAX_BYTES];
static struct unstick_context *ctx;
static struct unstick_device *dev;

static void require(int is_true)
{
    if (!is_true)
        abort();
}

static void finish(void)
{
    unstick_device_close(dev, NULL);
    unstick_context_free(ctx);
    unlink(path);
}

static void begin(void)
{
    struct unstick_context_options context_options = { .size = sizeof(context_options), .n_threads = 1,
                                                       .host_bytes = UINT64_C(64) << 20 };
    struct unstick_device_options options = { .size = sizeof(options), .granule_bytes = 64 << 10 };
    int fd = mkstemp(path);

    for (size_t i = 0; i < sizeof(contents); i++)
        contents[i] = (uint8_t)(i * 2654435761u >> 13 | 1);
    require(fd >= 0 && write(fd, contents, sizeof(contents)) == sizeof(contents));
    close(fd);
    require(unstick_context_new(&context_options, &ctx, NULL) == UNSTICK_OK);
    require(unstick_device_open(ctx, "host:4MiB", &options, &dev, NULL) == UNSTICK_OK);
    require(!atexit(finish));
}

static uint64_t take(const uint8_t **data, size_t *n, size_t bytes)
{
    uint64_t value = 0;

    for (; bytes && *n; bytes--, (*data)++, (*n)--)
        value = value << 8 | **data;
    return value;
}

static int load(struct unstick_region *region, const struct unstick_layout *layout, enum unstick_tier tier)
{
    struct unstick_task_options options = { .size = sizeof(options), .tier = tier };
    struct unstick_error error = { .text = "" };
    struct unstick_task *task;
    int r = unstick_region_load(region, layout, &options, &task, &error);

    if (r == UNSTICK_OK) {
        r = unstick_task_wait(task, &error);
        unstick_task_free(task);
    }
    require(r == UNSTICK_OK || error.text[0]);
    return r;
}

static void check(const struct unstick_layout *layout, enum unstick_tier tier)
{
    struct unstick_region *region;
    struct unstick_region_info info = { .size = sizeof(info) };

    require(unstick_region_new(dev, "r", layout->bytes, NULL, &region, NULL) == UNSTICK_OK);
    if (load(region, layout, tier) == UNSTICK_OK) {
        memset(expected, 0, sizeof(expected));
        for (size_t i = 0; i < layout->n_extents; i++) {
            const struct unstick_extent *extent = &layout->extents[i];

            require(extent->region_offset <= layout->bytes && extent->bytes <= layout->bytes - extent->region_offset);
            require(extent->file_offset <= FILE_BYTES && extent->bytes <= FILE_BYTES - extent->file_offset);
            memcpy(expected + extent->region_offset, contents + extent->file_offset, extent->bytes);
        }
        require(unstick_region_read(region, 0, found, layout->bytes, NULL) == UNSTICK_OK);
        require(!memcmp(found, expected, layout->bytes));
    } else {
        unstick_region_info(region, &info);
        require(info.state == UNSTICK_REGION_EMPTY && !info.resident_bytes);
    }
    unstick_region_unref(region);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct unstick_extent extents[MAX_EXTENTS];
    const char *const paths[] = { path, "/nonexistent" };
    struct unstick_layout layout = { .paths = paths, .extents = extents };

    if (!dev)
        begin();
    layout.bytes = 1 + take(&data, &n, 3) % MAX_BYTES;
    layout.n_paths = 1 + take(&data, &n, 1) % 32 / 31;
    while (n && layout.n_extents < MAX_EXTENTS) {
        uint64_t sizes = take(&data, &n, 1);

        /* Mostly numbers in range, some of eight bytes. */
        extents[layout.n_extents++] = (struct unstick_extent){
            .file = (uint32_t)take(&data, &n, sizes & 1 && !(sizes & 0xe0)),
            .file_offset = take(&data, &n, (sizes >> 1 & 3) == 3 ? 8 : 2),
            .region_offset = take(&data, &n, (sizes >> 3 & 3) == 3 ? 8 : 2),
            .bytes = take(&data, &n, (sizes & 0xc0) == 0xc0 ? 8 : 2),
        };
    }
    check(&layout, UNSTICK_TIER_PINNED);
    check(&layout, UNSTICK_TIER_FILE);
    return 0;
}
