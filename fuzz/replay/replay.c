/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a fuzz target over its corpus with any compiler: `replay FOLDER`. A file that broke it once stays in there. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* The input lies in a block of its own length, so that reading past it is seen. */
static int input_run(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = NULL;
    long n = -1;

    if (file && fseek(file, 0, SEEK_END) == 0)
        n = ftell(file);
    if (n >= 0)
        data = malloc((size_t)n + !n);
    if (!data || fseek(file, 0, SEEK_SET) != 0 || fread(data, 1, (size_t)n, file) != (size_t)n) {
        perror(path);
        return 0;
    }
    fclose(file);
    LLVMFuzzerTestOneInput(data, (size_t)n);
    free(data);
    return 1;
}

int main(int argc, char **argv)
{
    DIR *folder = argc == 2 ? opendir(argv[1]) : NULL;
    const struct dirent *entry;
    unsigned int n_inputs = 0;
    char path[4096];

    if (!folder) {
        fprintf(stderr, "usage: replay FOLDER\n");
        return 2;
    }
    while ((entry = readdir(folder))) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", argv[1], entry->d_name);
        if (!input_run(path))
            return 1;
        n_inputs++;
    }
    closedir(folder);
    printf("%u inputs\n", n_inputs);
    return n_inputs ? 0 : 1;
}
