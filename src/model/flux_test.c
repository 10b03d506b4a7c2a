/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/flux.h"

static struct usk_flux_inventory *inventory_make(const struct usk_flux_shape *shape,
                                                 enum usk_flux_quant quant)
{
    struct usk_flux_inventory *inventory;
    struct unstick_error error;

    assert_int_equal(usk_flux_inventory_new(shape, quant, &inventory, &error), UNSTICK_OK);
    return inventory;
}

/* Memory after load at full size, as measured, and what double quantization has more in its files. */
static const struct {
    enum usk_flux_variant variant;
    enum usk_flux_quant quant;
    uint64_t transformer, t5, nested_tables;
} totals[] = {
    { USK_FLUX_DEV, USK_FLUX_NONE, UINT64_C(23802816640), UINT64_C(9524621312), 0 },
    { USK_FLUX_DEV, USK_FLUX_INT8, UINT64_C(11916757376), UINT64_C(5904281600), 0 },
    { USK_FLUX_DEV, USK_FLUX_NF4_DQ, UINT64_C(6144182656), UINT64_C(4146320960), 1020 },
    { USK_FLUX_DEV, USK_FLUX_NF4, UINT64_C(6699009664), UINT64_C(4315304960), 0 },
    { USK_FLUX_SCHNELL, USK_FLUX_NONE, UINT64_C(23782357120), UINT64_C(9524621312), 0 },
    { USK_FLUX_SCHNELL, USK_FLUX_INT8, UINT64_C(11906496896), UINT64_C(5904281600), 0 },
    { USK_FLUX_SCHNELL, USK_FLUX_NF4_DQ, UINT64_C(6138896184), UINT64_C(4146320960), 1020 },
    { USK_FLUX_SCHNELL, USK_FLUX_NF4, UINT64_C(6693246464), UINT64_C(4315304960), 0 },
};

static void test_totals_at_full_size(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(totals) / sizeof(totals[0]); i++) {
        uint64_t linears = totals[i].variant == USK_FLUX_DEV ? 504 : 502, t5_linears = 144;
        struct usk_flux_inventory *inventory;
        const struct usk_flux_component *parts;
        struct usk_flux_shape shape;

        usk_flux_shape_full(totals[i].variant, &shape);
        inventory = inventory_make(&shape, totals[i].quant);
        parts = inventory->parts;
        assert_int_equal(parts[USK_FLUX_TRANSFORMER].memory_bytes, totals[i].transformer);
        assert_int_equal(parts[USK_FLUX_TRANSFORMER].device_bytes,
                         totals[i].transformer + linears * totals[i].nested_tables);
        assert_int_equal(parts[USK_FLUX_TEXT_ENCODER_2].memory_bytes, totals[i].t5);
        assert_int_equal(parts[USK_FLUX_TEXT_ENCODER_2].device_bytes,
                         totals[i].t5 + t5_linears * totals[i].nested_tables);
        assert_int_equal(parts[USK_FLUX_TEXT_ENCODER].memory_bytes, UINT64_C(246120960));
        assert_int_equal(parts[USK_FLUX_VAE].memory_bytes, UINT64_C(167639366));
        if (totals[i].quant == USK_FLUX_NONE)
            linears = t5_linears = 0;
        assert_int_equal(parts[USK_FLUX_TRANSFORMER].n_quantized, linears);
        assert_int_equal(parts[USK_FLUX_TEXT_ENCODER_2].n_quantized, t5_linears);
        assert_int_equal(parts[USK_FLUX_TRANSFORMER].elements,
                         totals[i].variant == USK_FLUX_DEV ? UINT64_C(11901408320) : UINT64_C(11891178560));
        assert_int_equal(parts[USK_FLUX_TEXT_ENCODER_2].elements, UINT64_C(4762310656));
        usk_flux_inventory_free(inventory);
    }
}

static const struct usk_flux_shape tiny_shape = {
    .variant = USK_FLUX_DEV,
    .heads = 1,
    .double_blocks = 1,
    .single_blocks = 1,
    .t5_width = 128,
    .t5_heads = 3,
    .t5_inner = 192,
    .t5_layers = 2,
    .t5_vocab = 64,
    .clip_heads = 1,
    .clip_layers = 2,
    .clip_vocab = 64,
    .vae_width = 8,
};

struct row {
    enum usk_flux_part part;
    enum usk_flux_quant quant;
    enum usk_writer_dtype dtype;
    const char *name;
    unsigned int n_dims;
    uint64_t shape[USK_WRITER_DIMS_MAX];
};

#define ROW(_part, _quant, _dtype, _name, _n_dims, ...)                                                      \
    { USK_FLUX_##_part, USK_FLUX_##_quant, USK_WRITER_##_dtype, _name, _n_dims, { __VA_ARGS__ } },

static const struct row rows[] = {
#include "model/flux_test.inc"
};

static size_t rows_compare(const struct usk_flux_component *component, enum usk_flux_part part, size_t first)
{
    const struct usk_writer_tensor **tensors = calloc(component->n_tensors, sizeof(*tensors));

    for (size_t i = 0; i < component->n_tensors; i++)
        tensors[i] = &component->tensors[i].file;
    usk_writer_sort(tensors, component->n_tensors);
    for (size_t i = 0; i < component->n_tensors; i++) {
        const struct row *row = &rows[first + i];

        assert_string_equal(tensors[i]->name, row->name);
        assert_int_equal(part, row->part);
        assert_int_equal(component->quant, row->quant);
        assert_int_equal(tensors[i]->dtype, row->dtype);
        assert_int_equal(tensors[i]->n_dims, row->n_dims);
        for (unsigned int k = 0; k < row->n_dims && row->shape[0]; k++)
            assert_int_equal(tensors[i]->shape[k], row->shape[k]);
    }
    free(tensors);
    return first + component->n_tensors;
}

static void test_tensors_are_those_that_the_libraries_save(void **state)
{
    static const enum usk_flux_quant quants[] = { USK_FLUX_INT8, USK_FLUX_NF4, USK_FLUX_NF4_DQ };
    struct usk_flux_inventory *inventory = inventory_make(&tiny_shape, USK_FLUX_NONE);
    size_t next = 0;

    (void)state;
    for (enum usk_flux_part part = 0; part < USK_FLUX_N_PARTS; part++)
        next = rows_compare(&inventory->parts[part], part, next);
    usk_flux_inventory_free(inventory);
    for (size_t i = 0; i < 3; i++) {
        inventory = inventory_make(&tiny_shape, quants[i]);
        next = rows_compare(&inventory->parts[USK_FLUX_TEXT_ENCODER_2], USK_FLUX_TEXT_ENCODER_2, next);
        usk_flux_inventory_free(inventory);
    }
    assert_int_equal(next, sizeof(rows) / sizeof(rows[0]));
}

static const struct usk_flux_tensor *tensor_find(const struct usk_flux_component *component, const char *name)
{
    for (size_t i = 0; i < component->n_tensors; i++) {
        if (!strcmp(component->tensors[i].file.name, name))
            return &component->tensors[i];
    }
    return NULL;
}

/* What bitsandbytes reads back from a packed Linear. */
static void test_quant_state_describes_its_linear(void **state)
{
    struct usk_flux_inventory *inventory = inventory_make(&tiny_shape, USK_FLUX_NF4_DQ);
    const struct usk_flux_component *transformer = &inventory->parts[USK_FLUX_TRANSFORMER];
    const struct usk_flux_tensor *tensor =
        tensor_find(transformer, "proj_out.weight.quant_state.bitsandbytes__nf4");
    int out, in, block, nested_block;
    const char *type, *dtype;
    char text[256] = { 0 };
    double offset;
    json_t *root;

    (void)state;
    assert_non_null(tensor);
    assert_true(tensor->is_metadata);
    assert_in_range(tensor->file.bytes, 1, sizeof(text) - 1);
    usk_flux_fill(tensor, 1, 0, text, 10);
    usk_flux_fill(tensor, 1, 10, text + 10, tensor->file.bytes - 10);
    root = json_loads(text, 0, NULL);
    assert_int_equal(json_unpack(root, "{s:s,s:i,s:s,s:[i,i],s:i,s:f}", "quant_type", &type, "blocksize",
                                 &block, "dtype", &dtype, "shape", &out, &in, "nested_blocksize",
                                 &nested_block, "nested_offset", &offset),
                     0);
    assert_string_equal(type, "nf4");
    assert_string_equal(dtype, "bfloat16");
    assert_int_equal(block, 64);
    assert_int_equal(nested_block, 256);
    assert_int_equal(out, 64);
    assert_int_equal(in, 128);
    assert_int_equal(tensor_find(transformer, "proj_out.weight")->file.shape[0], out * in / 2);
    json_decref(root);
    usk_flux_inventory_free(inventory);
}

/* Every dimension, so that "no dimension grows" can be said in one loop. */
#define N_DIMENSIONS 12

static void shape_list(const struct usk_flux_shape *shape, uint32_t *ret_dimensions)
{
    const uint32_t dimensions[N_DIMENSIONS] = {
        shape->heads,      shape->double_blocks, shape->single_blocks, shape->t5_width,
        shape->t5_heads,   shape->t5_inner,      shape->t5_layers,     shape->t5_vocab,
        shape->clip_heads, shape->clip_layers,   shape->clip_vocab,    shape->vae_width,
    };

    memcpy(ret_dimensions, dimensions, sizeof(dimensions));
}

static uint64_t shape_sum(const struct usk_flux_shape *shape)
{
    uint64_t elements = 0;

    for (enum usk_flux_part part = 0; part < USK_FLUX_N_PARTS; part++)
        elements += usk_flux_elements(shape, part);
    return elements;
}

static void test_scale_is_exact_at_one(void **state)
{
    struct usk_flux_shape full, scaled;

    (void)state;
    usk_flux_shape_full(USK_FLUX_SCHNELL, &full);
    usk_flux_shape_scaled(USK_FLUX_SCHNELL, 1, &scaled);
    assert_memory_equal(&full, &scaled, sizeof(full));
}

static void test_scale_is_monotone_and_near(void **state)
{
    uint32_t before[N_DIMENSIONS], now[N_DIMENSIONS];
    struct usk_flux_shape shape;
    double full;

    (void)state;
    usk_flux_shape_full(USK_FLUX_DEV, &shape);
    full = (double)shape_sum(&shape);
    shape_list(&shape, before);
    for (uint64_t divide = 1; divide <= USK_FLUX_SCALE_MAX; divide += divide < 16 ? 1 : divide / 8) {
        double ratio, distance;

        usk_flux_shape_scaled(USK_FLUX_DEV, divide, &shape);
        shape_list(&shape, now);
        for (size_t i = 0; i < N_DIMENSIONS; i++) {
            assert_in_range(now[i], 1, before[i]);
            before[i] = now[i];
        }
        ratio = (double)shape_sum(&shape) * (double)divide / full;
        distance = ratio < 1 ? 1 / ratio : ratio;
        assert_true(distance < (divide <= 100 ? 1.15 : divide <= 1000 ? 1.4 : 2));
    }
}

static void test_linears_fit_the_kernels_at_any_scale(void **state)
{
    static const uint64_t divides[] = { 2, 3, 7, 30, 64, 100, 333, 1000, 2048, 4096 };
    size_t n_checked = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(divides) / sizeof(divides[0]); i++) {
        struct usk_flux_inventory *inventory;
        struct usk_flux_shape shape;

        usk_flux_shape_scaled(USK_FLUX_DEV, divides[i], &shape);
        assert_int_equal(shape.vae_width % usk_flux_vae_groups(&shape), 0);
        inventory = inventory_make(&shape, USK_FLUX_INT8);
        for (enum usk_flux_part part = 0; part < USK_FLUX_N_PARTS; part++) {
            for (size_t k = 0; k < inventory->parts[part].n_tensors; k++) {
                const struct usk_writer_tensor *tensor = &inventory->parts[part].tensors[k].file;

                if (tensor->dtype == USK_WRITER_I8) {
                    assert_int_equal(tensor->shape[0] % 32, 0);
                    assert_int_equal(tensor->shape[1] % 64, 0);
                    n_checked++;
                }
            }
        }
        usk_flux_inventory_free(inventory);
    }
    assert_true(n_checked > 500);
}

static bool bf16_is_small(const unsigned char *bytes)
{
    uint32_t word = (uint32_t)bytes[0] << 16 | (uint32_t)bytes[1] << 24;
    float value;

    memcpy(&value, &word, sizeof(value));
    return fabsf(value) >= 0x1p-7f && fabsf(value) < 0x1p-3f;
}

static void test_contents_are_numbers(void **state)
{
    struct usk_flux_inventory *inventory = inventory_make(&tiny_shape, USK_FLUX_NF4_DQ);
    const struct usk_flux_component *t5 = &inventory->parts[USK_FLUX_TEXT_ENCODER_2];
    const char *linear = "encoder.block.0.layer.0.SelfAttention.q.weight";
    unsigned char weights[1024];
    float table[256], scales[2];
    size_t n_negative = 0;
    char name[128];

    (void)state;
    usk_flux_fill(tensor_find(t5, "shared.weight"), 1, 0, weights, sizeof(weights));
    for (size_t i = 0; i < sizeof(weights); i += 2) {
        assert_true(bf16_is_small(weights + i));
        n_negative += weights[i + 1] >> 7;
    }
    assert_in_range(n_negative, 200, 312);
    snprintf(name, sizeof(name), "%s.nested_quant_map", linear);
    usk_flux_fill(tensor_find(t5, name), 1, 0, table, sizeof(table));
    assert_true(table[0] < -0.99f && table[126] == -5.5e-7f && table[127] == 0.0f && table[255] == 1.0f);
    for (size_t i = 1; i < 256; i++)
        assert_true(table[i] > table[i - 1]);
    snprintf(name, sizeof(name), "%s.quant_map", linear);
    usk_flux_fill(tensor_find(t5, name), 1, 0, table, 16 * sizeof(float));
    assert_true(table[0] == -1.0f && table[7] == 0.0f && table[15] == 1.0f);
    snprintf(name, sizeof(name), "%s.nested_absmax", linear);
    usk_flux_fill(tensor_find(t5, name), 1, 0, scales, sizeof(scales));
    assert_true(scales[0] > 0 && scales[0] < 0.125f && scales[1] > 0 && scales[1] != scales[0]);
    usk_flux_inventory_free(inventory);
    inventory = inventory_make(&tiny_shape, USK_FLUX_INT8);
    usk_flux_fill(tensor_find(&inventory->parts[USK_FLUX_TRANSFORMER], "proj_out.weight_format"), 1, 0,
                  weights, 1);
    assert_int_equal(weights[0], 0);
    usk_flux_inventory_free(inventory);
}

static void test_contents_do_not_depend_on_pieces(void **state)
{
    struct usk_flux_inventory *inventory = inventory_make(&tiny_shape, USK_FLUX_NONE);
    const struct usk_flux_component *t5 = &inventory->parts[USK_FLUX_TEXT_ENCODER_2];
    const struct usk_flux_tensor *tensor = tensor_find(t5, "shared.weight");
    unsigned char whole[512], pieces[512], other[512];

    (void)state;
    usk_flux_fill(tensor, 7, 0, whole, sizeof(whole));
    for (size_t step = 1; step < 40; step++) {
        memset(pieces, 0, sizeof(pieces));
        for (size_t offset = 0; offset < sizeof(pieces); offset += step) {
            size_t bytes = offset + step < sizeof(pieces) ? step : sizeof(pieces) - offset;

            usk_flux_fill(tensor, 7, offset, pieces + offset, bytes);
        }
        assert_memory_equal(pieces, whole, sizeof(whole));
    }
    usk_flux_fill(tensor, 8, 0, other, sizeof(other));
    assert_memory_not_equal(other, whole, sizeof(whole));
    usk_flux_fill(tensor_find(t5, "encoder.block.1.layer.0.SelfAttention.q.weight"), 7, 0, other,
                  sizeof(other));
    assert_memory_not_equal(other, whole, sizeof(whole));
    usk_flux_inventory_free(inventory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_totals_at_full_size),
        cmocka_unit_test(test_tensors_are_those_that_the_libraries_save),
        cmocka_unit_test(test_quant_state_describes_its_linear),
        cmocka_unit_test(test_scale_is_exact_at_one),
        cmocka_unit_test(test_scale_is_monotone_and_near),
        cmocka_unit_test(test_linears_fit_the_kernels_at_any_scale),
        cmocka_unit_test(test_contents_are_numbers),
        cmocka_unit_test(test_contents_do_not_depend_on_pieces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
