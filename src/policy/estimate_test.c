/* SPDX-License-Identifier: Apache-2.0 */
/* The rules, tensor by tensor: what a quantization makes of each, and what an unknown class leaves open. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "policy/estimate.h"
#include "policy/working.h"

#define TENSORS_MAX 8

struct list {
    struct unstick_tensor tensors[TENSORS_MAX];
    uint64_t shapes[TENSORS_MAX][4];
    size_t n;
};

static void list_add(struct list *list, const char *name, const char *dtype, uint64_t element_bytes, uint64_t a,
                     uint64_t b, uint64_t c, uint64_t d)
{
    const uint64_t shape[] = { a, b, c, d };
    struct unstick_tensor *tensor = &list->tensors[list->n];

    *tensor = (struct unstick_tensor){ .name = name, .dtype = dtype, .shape = list->shapes[list->n] };
    tensor->bytes = element_bytes;
    for (unsigned int i = 0; i < 4 && shape[i]; i++) {
        list->shapes[list->n][tensor->n_dims++] = shape[i];
        tensor->bytes *= shape[i];
    }
    list->n++;
}

static struct unstick_component_estimate estimate(const struct list *list, const char *name,
                                                  const struct usk_estimate_world *world)
{
    struct unstick_component_estimate out = { 0 };

    assert_int_equal(usk_estimate_component(list->tensors, list->n, name, world, &out, NULL), UNSTICK_OK);
    for (enum unstick_quantization q = 0; q < UNSTICK_QUANTIZATIONS; q++) {
        assert_true(out.figures[q].low_bytes <= out.figures[q].bytes);
        assert_true(out.figures[q].bytes <= out.figures[q].high_bytes);
        assert_true(out.figures[q].bytes <= out.figures[q].aligned_bytes);
        assert_int_equal(out.figures[q].aligned_bytes % 512, 0);
        assert_int_equal(out.figures[q].region_bytes % (2 << 20), 0);
        assert_true(out.figures[q].region_bytes >= out.figures[q].aligned_bytes);
    }
    return out;
}

static void test_linear(void **state)
{
    const struct usk_estimate_world world = { .class_name = "FluxTransformer2DModel" };
    struct list list = { 0 };
    struct unstick_component_estimate out;

    (void)state;
    list_add(&list, "x_embedder.weight", "BF16", 2, 128, 64, 0, 0);
    list_add(&list, "x_embedder.bias", "BF16", 2, 128, 0, 0, 0);
    list_add(&list, "norm.weight", "F32", 4, 64, 0, 0, 0);
    out = estimate(&list, "transformer", &world);
    assert_int_equal(out.n_params, 8192 + 128 + 64);
    assert_int_equal(out.n_linears, 1);
    assert_true(out.is_quantized);
    assert_string_equal(out.stored, "none");
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_NONE].bytes, 2 * (8192 + 128 + 64));
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_FP32].bytes, 4 * (8192 + 128 + 64));
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_FP8].bytes, 8192 + 2 * (128 + 64));
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_8BIT].bytes, 8192 + 4 * 128 + 2 * (128 + 64));
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_4BIT].bytes, 4096 + 64 + 4 * 128 + 2 * (128 + 64));
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_4BIT_DQ].bytes,
                     4096 + 64 + 128 + 4 + 4 + 1024 + 2 * (128 + 64));
    /* Each of the five tensors rounded by itself: weight, code, absmax, bias, norm. */
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_4BIT].aligned_bytes, 4096 + 512 + 512 + 512 + 512);
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_4BIT].region_bytes, 2 << 20);
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_4BIT].basis, UNSTICK_BASIS_RULES);
}

static void test_odd_sizes(void **state)
{
    const struct usk_estimate_world world = { .class_name = "FluxTransformer2DModel" };
    struct list list = { 0 };

    (void)state;
    list_add(&list, "a.weight", "BF16", 2, 3, 43, 0, 0); /* 129 weights: 65 bytes, 3 blocks */
    assert_int_equal(estimate(&list, "transformer", &world).figures[UNSTICK_QUANTIZATION_4BIT].bytes, 65 + 64 + 12);
    assert_int_equal(estimate(&list, "transformer", &world).figures[UNSTICK_QUANTIZATION_4BIT_DQ].bytes,
                     65 + 64 + 3 + 4 + 4 + 1024);
}

static void test_t5(void **state)
{
    struct usk_estimate_world world = { .class_name = "T5EncoderModel", .is_transformers = true };
    struct list list = { 0 };
    struct unstick_component_estimate out;

    (void)state;
    list_add(&list, "shared.weight", "F32", 4, 100, 64, 0, 0);
    list_add(&list, "encoder.embed_tokens.weight", "F32", 4, 100, 64, 0, 0);
    list_add(&list, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "F32", 4, 32, 64, 0, 0);
    list_add(&list, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", "F32", 4, 128, 64, 0, 0);
    list_add(&list, "encoder.block.0.layer.1.DenseReluDense.wo.weight", "F32", 4, 64, 128, 0, 0);
    list_add(&list, "decoder.block.0.layer.1.DenseReluDense.wo.weight", "F32", 4, 64, 128, 0, 0);
    list_add(&list, "lm_head.weight", "F32", 4, 100, 64, 0, 0);
    out = estimate(&list, "text_encoder_2", &world);
    assert_int_equal(out.n_params, 6400 + 2048 + 8192 + 8192);
    assert_int_equal(out.n_linears, 1);
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_8BIT].bytes, 2 * (6400 + 2048 + 8192) + 8192 + 4 * 128);
    world.dtype = UNSTICK_LOAD_FP16;
    assert_int_equal(estimate(&list, "text_encoder_2", &world).figures[UNSTICK_QUANTIZATION_NONE].bytes,
                     2 * (6400 + 2048 + 8192) + 4 * 8192);
    world.dtype = UNSTICK_LOAD_FP32;
    assert_int_equal(estimate(&list, "text_encoder_2", &world).figures[UNSTICK_QUANTIZATION_NONE].bytes,
                     4 * (6400 + 2048 + 8192 + 8192));
    assert_string_equal(usk_estimate_class(list.tensors, list.n), "T5EncoderModel");
}

static void test_left_alone(void **state)
{
    struct usk_estimate_world world = { .class_name = "CLIPTextModel", .is_transformers = true };
    struct list list = { 0 };
    struct unstick_component_estimate out;

    (void)state;
    list_add(&list, "encoder.layers.0.mlp.fc1.weight", "F16", 2, 256, 64, 0, 0);
    out = estimate(&list, "text_encoder", &world);
    assert_false(out.is_quantized);
    for (enum unstick_quantization q = 0; q < UNSTICK_QUANTIZATION_FP32; q++)
        assert_int_equal(out.figures[q].bytes, 2 * 16384);
    /* By itself it is what is meant. */
    world.is_alone = true;
    out = estimate(&list, "model", &world);
    assert_true(out.is_quantized);
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_8BIT].bytes, 16384 + 1024);
    world = (struct usk_estimate_world){ .class_name = NULL };
    assert_false(estimate(&list, "vae", &world).is_quantized);
}

static void test_skip(void **state)
{
    static const char *const skip[] = { "proj_out", "blocks.0" };
    struct usk_estimate_world world = { .class_name = "FluxTransformer2DModel", .skip = skip, .n_skip = 2 };
    struct list list = { 0 };

    (void)state;
    list_add(&list, "proj_out.weight", "BF16", 2, 64, 64, 0, 0);
    list_add(&list, "blocks.1.proj_out.weight", "BF16", 2, 64, 64, 0, 0);
    list_add(&list, "blocks.0.attn.to_q.weight", "BF16", 2, 64, 64, 0, 0);
    list_add(&list, "blocks.10.attn.to_q.weight", "BF16", 2, 64, 64, 0, 0);
    list_add(&list, "proj_out_2.weight", "BF16", 2, 64, 64, 0, 0);
    assert_int_equal(estimate(&list, "transformer", &world).n_linears, 2);
    /* The other library matches from the start, and at the end of a name. */
    world.class_name = NULL;
    world.is_transformers = true;
    list_add(&list, "x.blocks.0.fc.weight", "BF16", 2, 64, 64, 0, 0);
    list_add(&list, "a_proj_out.weight", "BF16", 2, 64, 64, 0, 0);
    assert_int_equal(estimate(&list, "transformer", &world).n_linears, 3);
}

static void test_unknown_class(void **state)
{
    const struct usk_estimate_world world = { .class_name = "SomethingNew" };
    const struct unstick_figure *figure;
    struct unstick_component_estimate out;
    struct list list = { 0 };

    (void)state;
    list_add(&list, "blocks.0.fc.weight", "BF16", 2, 1024, 1024, 0, 0);
    list_add(&list, "context_embedder.weight", "BF16", 2, 64, 64, 0, 0);
    list_add(&list, "label_embedding.weight", "BF16", 2, 10, 64, 0, 0);
    list_add(&list, "conv_shortcut.weight", "BF16", 2, 64, 64, 1, 1);
    list_add(&list, "conv.weight", "BF16", 2, 64, 64, 3, 3);
    list_add(&list, "scale_shift_table", "BF16", 2, 6, 64, 0, 0);
    list_add(&list, "norm.weight", "BF16", 2, 64, 0, 0, 0);
    list_add(&list, "num_batches_tracked", "I64", 8, 1, 0, 0, 0);
    out = estimate(&list, "unet", &world);
    figure = &out.figures[UNSTICK_QUANTIZATION_8BIT];
    assert_int_equal(out.n_linears, 2);
    assert_int_equal(figure->basis, UNSTICK_BASIS_GENERIC);
    assert_int_equal(figure->bytes, 1048576 + 4096 + 4096 + 256 + 2 * (640 + 4096 + 36864 + 384 + 64) + 8);
    /* The embedding and the 1x1 convolution may be Linears, the norm may be fp32, and buffers are not in the file. */
    assert_int_equal(figure->low_bytes, figure->bytes - 640 - 4096);
    assert_int_equal(figure->high_bytes, figure->bytes + 2 * 64 + out.n_params / 100 * 2);
    assert_true(figure->high_bytes - figure->low_bytes <= figure->bytes / 10);
}

static void test_stored_8bit(void **state)
{
    const struct usk_estimate_world world = { .class_name = "FluxTransformer2DModel" };
    struct unstick_component_estimate out;
    struct list list = { 0 };

    (void)state;
    list_add(&list, "a.weight", "I8", 1, 128, 64, 0, 0);
    list_add(&list, "a.SCB", "F32", 4, 128, 0, 0, 0);
    list_add(&list, "a.weight_format", "U8", 1, 0, 0, 0, 0);
    list.tensors[2].is_metadata = true;
    list_add(&list, "a.bias", "F16", 2, 128, 0, 0, 0);
    out = estimate(&list, "transformer", &world);
    assert_string_equal(out.stored, "8-bit");
    assert_int_equal(out.n_params, 8192 + 128);
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_8BIT].bytes, 8192 + 512 + 256);
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_8BIT].basis, UNSTICK_BASIS_FILES);
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_NONE].bytes, 2 * 8192 + 256);
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_4BIT].bytes, 4096 + 64 + 512 + 256);
}

static void test_stored_4bit(void **state)
{
    const struct usk_estimate_world world = { .class_name = "FluxTransformer2DModel" };
    struct unstick_component_estimate out;
    struct list list = { 0 };

    (void)state;
    list_add(&list, "a.weight", "U8", 1, 4096, 1, 0, 0);
    list_add(&list, "a.weight.absmax", "U8", 1, 128, 0, 0, 0);
    list_add(&list, "a.weight.quant_map", "F32", 4, 16, 0, 0, 0);
    list_add(&list, "a.weight.nested_absmax", "F32", 4, 1, 0, 0, 0);
    list_add(&list, "a.weight.nested_quant_map", "F32", 4, 256, 0, 0, 0);
    list_add(&list, "a.weight.quant_state.bitsandbytes__nf4", "U8", 1, 120, 0, 0, 0);
    list.tensors[5].is_metadata = true;
    out = estimate(&list, "transformer", &world);
    assert_string_equal(out.stored, "4-bit-dq");
    assert_int_equal(out.n_params, 8192);
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_4BIT_DQ].bytes, 4096 + 128 + 64 + 4 + 1024 + 4);
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_4BIT_DQ].basis, UNSTICK_BASIS_FILES);
    assert_int_equal(out.figures[UNSTICK_QUANTIZATION_NONE].bytes, 2 * 8192);
    /* How many outputs there were is not in the file: between 64 and 512 of 8192 weights here. */
    assert_true(out.figures[UNSTICK_QUANTIZATION_8BIT].low_bytes <= 8192 + 4 * 64);
    assert_true(out.figures[UNSTICK_QUANTIZATION_8BIT].high_bytes >= 8192 + 4 * 128);
}

static void test_foreign(void **state)
{
    const struct usk_estimate_world world = { .class_name = "LlamaForCausalLM", .foreign = "gptq" };
    struct unstick_component_estimate out;
    struct list list = { 0 };

    (void)state;
    list_add(&list, "a.qweight", "I32", 4, 64, 64, 0, 0);
    list_add(&list, "b.weight", "F16", 2, 64, 64, 0, 0);
    out = estimate(&list, "model", &world);
    assert_string_equal(out.stored, "gptq");
    for (enum unstick_quantization q = 0; q < UNSTICK_QUANTIZATIONS; q++) {
        assert_int_equal(out.figures[q].bytes, 4 * 4096 + 2 * 4096);
        assert_int_equal(out.figures[q].basis, UNSTICK_BASIS_FILES);
    }
}

static void test_too_large(void **state)
{
    const struct usk_estimate_world world = { .class_name = NULL };
    struct unstick_component_estimate out;
    struct unstick_error error = { 0 };
    struct list list = { 0 };

    (void)state;
    list_add(&list, "a.weight", "F8_E4M3", 1, UINT64_C(1) << 32, UINT64_C(1) << 30, 0, 0);
    assert_int_equal(usk_estimate_component(list.tensors, 1, "unet", &world, &out, &error), UNSTICK_BAD_FORMAT);
    assert_non_null(strstr(error.text, "unet"));
    /* Nothing at all, beside a dimension that would not fit. */
    list = (struct list){ 0 };
    list_add(&list, "a.weight", "F16", 2, 1, 1, 0, 0);
    list.shapes[0][0] = 0;
    list.shapes[0][1] = UINT64_MAX;
    list.tensors[0].bytes = 0;
    assert_int_equal(usk_estimate_component(list.tensors, 1, "unet", &world, &out, &error), UNSTICK_OK);
    assert_int_equal(out.n_params, 0);
}

/* The seed: "4-bit quantization: 8.0GB conservative estimate, 8-bit quantization: 12.0GB [...], Full precision: 20.0GB
 * [...]". */
static void test_guesses(void **state)
{
    const uint64_t gib = UINT64_C(1) << 30;

    (void)state;
    assert_int_equal(unstick_estimate_guess(UNSTICK_QUANTIZATION_4BIT).bytes, 8 * gib);
    assert_int_equal(unstick_estimate_guess(UNSTICK_QUANTIZATION_8BIT).bytes, 12 * gib);
    assert_int_equal(unstick_estimate_guess(UNSTICK_QUANTIZATION_NONE).bytes, 20 * gib);
    for (enum unstick_quantization q = 0; q < UNSTICK_QUANTIZATIONS; q++) {
        assert_int_equal(unstick_estimate_guess(q).basis, UNSTICK_BASIS_GUESS);
        assert_int_equal(unstick_estimate_guess(q).high_bytes, UINT64_MAX);
    }
    assert_string_equal(unstick_basis_name(UNSTICK_BASIS_GUESS), "guess");
    assert_string_equal(unstick_basis_name((enum unstick_basis)99), "unknown");
}

static void test_working(void **state)
{
    const struct usk_working_shape flux = { .width = 3072, .patch = 2, .text_tokens = 512, .vae_channels = 256,
                                            .vae_scale = 8, .element_bytes = 2, .vae_element_bytes = 2 };
    struct usk_working_shape unet = { .unet_channels = 320, .has_guidance_batch = true, .vae_scale = 8,
                                      .element_bytes = 2 };
    struct unstick_working_memory working, larger;

    (void)state;
    usk_working_memory(&flux, 1024, 1024, 1, &working);
    assert_int_equal(working.denoise_bytes, (4096 + 512) * UINT64_C(3072) * 2 * 32);
    assert_int_equal(working.decode_bytes, UINT64_C(3) << 30);
    assert_int_equal(working.bytes, working.decode_bytes);
    usk_working_memory(&flux, 1025, 1024, 3, &larger);
    assert_int_equal(larger.denoise_bytes, (65 * 64 + 512) * UINT64_C(3072) * 2 * 32 * 3);
    assert_true(larger.decode_bytes > 3 * working.decode_bytes);
    usk_working_memory(&unet, 1024, 512, 1, &working);
    assert_int_equal(working.denoise_bytes, UINT64_C(128) * 64 * 2 * 320 * 2 * 20);
    assert_int_equal(working.decode_bytes, 0);
    unet.unet_channels = UINT64_MAX / 2;
    usk_working_memory(&unet, 1024, 512, 1, &working);
    assert_int_equal(working.bytes, UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),        cmocka_unit_test(test_odd_sizes),   cmocka_unit_test(test_t5),
        cmocka_unit_test(test_left_alone),    cmocka_unit_test(test_skip),        cmocka_unit_test(test_unknown_class),
        cmocka_unit_test(test_stored_8bit),   cmocka_unit_test(test_stored_4bit), cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_too_large),     cmocka_unit_test(test_guesses),     cmocka_unit_test(test_working),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
