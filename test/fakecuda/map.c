/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ordered map: two arrays, sorted by key. Ids only grow and go to the end; addresses come and go in runs. A test
 * holds some thousand objects at most, so moving the tail of an array is cheaper than anything cleverer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"

void *fake_allocate(size_t bytes)
{
    void *memory = calloc(1, bytes);

    if (!memory) {
        fputs("fakecuda: out of host memory\n", stderr);
        abort();
    }
    return memory;
}

size_t fake_map_place(const struct fake_map *map, uint64_t key)
{
    size_t low = 0, high = map->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (map->keys[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void *fake_map_find(const struct fake_map *map, uint64_t key)
{
    size_t place = fake_map_place(map, key);

    return place < map->n && map->keys[place] == key ? map->values[place] : NULL;
}

void *fake_map_floor(const struct fake_map *map, uint64_t key)
{
    size_t place = fake_map_place(map, key);

    if (place < map->n && map->keys[place] == key)
        return map->values[place];
    return place ? map->values[place - 1] : NULL;
}

void fake_map_put(struct fake_map *map, uint64_t key, void *value)
{
    size_t place = fake_map_place(map, key);

    if (map->n == map->n_allocated) {
        size_t n = map->n ? 2 * map->n : 64;
        uint64_t *keys = fake_allocate(n * sizeof(*keys));
        void **values = fake_allocate(n * sizeof(*values));

        if (map->n) {
            memcpy(keys, map->keys, map->n * sizeof(*keys));
            memcpy(values, map->values, map->n * sizeof(*values));
        }
        free(map->keys);
        free(map->values);
        map->keys = keys;
        map->values = values;
        map->n_allocated = n;
    }
    memmove(map->keys + place + 1, map->keys + place, (map->n - place) * sizeof(*map->keys));
    memmove(map->values + place + 1, map->values + place, (map->n - place) * sizeof(*map->values));
    map->keys[place] = key;
    map->values[place] = value;
    map->n++;
}

void fake_map_remove(struct fake_map *map, uint64_t key)
{
    size_t place = fake_map_place(map, key);

    if (place == map->n || map->keys[place] != key)
        return;
    map->n--;
    memmove(map->keys + place, map->keys + place + 1, (map->n - place) * sizeof(*map->keys));
    memmove(map->values + place, map->values + place + 1, (map->n - place) * sizeof(*map->values));
}
