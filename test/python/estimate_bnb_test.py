# SPDX-License-Identifier: Apache-2.0
"""`unstick estimate` against the libraries themselves: what bitsandbytes really allocates on the CPU, what diffusers
and transformers really write, which modules they really make. UNSTICK_EXE names another command than the installed one.
"""

import json
import os
import struct
import subprocess
import sysconfig

import pytest

torch = pytest.importorskip("torch")
bnb = pytest.importorskip("bitsandbytes")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.torch

UNSTICK = os.environ.get("UNSTICK_EXE") or os.path.join(sysconfig.get_path("scripts"), "unstick")

QUANTS = ("8-bit", "4-bit", "4-bit-dq")
CODES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}


@pytest.fixture(autouse=True)
def state_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def estimate(path, *options):
    done = subprocess.run([UNSTICK, "estimate", str(path), "--json", *options], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def component(path, *options):
    (only,) = estimate(path, *options)["components"]
    return only


def close(figure, truth, share=0.001):
    return abs(figure - truth) <= share * truth


# --- what is really allocated ---


def linear_of(old, quant):
    """The bitsandbytes layer that stands for a Linear, quantized."""
    has_bias = old.bias is not None
    if quant == "8-bit":
        new = bnb.nn.Linear8bitLt(old.in_features, old.out_features, has_bias, has_fp16_weights=False)
        new.weight = bnb.nn.Int8Params(old.weight.data.clone(), requires_grad=False, has_fp16_weights=False)
    else:
        new = bnb.nn.Linear4bit(old.in_features, old.out_features, has_bias, compute_dtype=torch.bfloat16,
                                compress_statistics=quant == "4-bit-dq", quant_type="nf4")
        new.weight = bnb.nn.Params4bit(old.weight.data.clone(), requires_grad=False, quant_type="nf4",
                                       compress_statistics=quant == "4-bit-dq", module=new)
    if has_bias:
        new.bias = torch.nn.Parameter(old.bias.data.clone(), requires_grad=False)
    return new.to("cpu")


def quantize(model, quant, keep=()):
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear and name.rpartition(".")[2] not in keep:
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], linear_of(module, quant))
    return model


def tensors_of(model):
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        for holder in (weight, getattr(module, "state", None)):
            for name in ("CB", "SCB"):
                if isinstance(getattr(holder, name, None), torch.Tensor):
                    yield getattr(holder, name)
        state = getattr(weight, "quant_state", None)
        while state is not None:
            yield from (x for x in (state.absmax, state.code, state.offset) if x is not None)
            state = state.state2


def bytes_of(model):
    """Every storage once: 8-bit weights are held under two names, and some builds share tables between layers."""
    storages = {}
    for tensor in tensors_of(model):
        key = tensor.untyped_storage().data_ptr()
        storages[key] = max(storages.get(key, 0), tensor.numel() * tensor.element_size())
    return sum(storages.values())


def tiny_flux():
    torch.manual_seed(1)
    return diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=3, attention_head_dim=128, num_attention_heads=4,
        joint_attention_dim=512, pooled_projection_dim=256, guidance_embeds=True, axes_dims_rope=(16, 56, 56),
    ).to(torch.bfloat16).eval().requires_grad_(False)


def tiny_t5():
    torch.manual_seed(2)
    return transformers.T5EncoderModel(transformers.T5Config(
        d_model=512, d_kv=64, d_ff=1024, num_layers=3, num_heads=8, vocab_size=1000, feed_forward_proj="gated-gelu",
    )).to(torch.bfloat16).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def flux_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux")
    tiny_flux().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    tiny_t5().save_pretrained(folder)
    return folder


def test_flux_plain(flux_folder):
    found, model = component(flux_folder), tiny_flux()
    assert found["class"] == "FluxTransformer2DModel"
    assert found["basis"] == "rules"
    assert found["params"] == sum(p.numel() for p in model.parameters())
    assert found["bytes"]["none"] == bytes_of(model)
    assert found["linears"] == sum(type(m) is torch.nn.Linear for m in model.modules())


@pytest.mark.parametrize("quant", QUANTS)
def test_flux_quantized_while_loading(flux_folder, quant):
    truth = bytes_of(quantize(tiny_flux(), quant))
    assert close(component(flux_folder)["bytes"][quant], truth)


@pytest.mark.parametrize("quant", QUANTS)
def test_flux_quantized_checkpoint(tmp_path, flux_folder, quant):
    """A checkpoint with the tensors of real layers: the estimate is that of what loads, not of the file."""
    model = quantize(tiny_flux(), quant)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": quant == "8-bit",
                                     "load_in_4bit": quant != "8-bit", "llm_int8_skip_modules": [None]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = component(tmp_path, "--quant", quant)
    assert (found["stored"], found["basis"]) == (quant, "files")
    assert found["params"] == sum(p.numel() for p in tiny_flux().parameters())
    assert close(found["bytes"][quant], bytes_of(model))
    # The other columns are those of the model that is not quantized.
    plain = component(flux_folder)
    found = component(tmp_path)
    for other in ("none", *QUANTS):
        if other != quant:
            low, high = found["interval"][other]
            assert low <= plain["bytes"][other] <= high


@pytest.mark.parametrize("quant", QUANTS)
def test_t5_by_transformers(tmp_path, t5_folder, quant):
    """transformers quantizes and writes by itself: `wo` stays, and the estimate of both folders is what it holds."""
    settings = transformers.BitsAndBytesConfig(
        load_in_8bit=quant == "8-bit", load_in_4bit=quant != "8-bit", bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quant == "4-bit-dq", bnb_4bit_compute_dtype=torch.bfloat16)
    try:
        model = transformers.T5EncoderModel.from_pretrained(t5_folder, quantization_config=settings, device_map="cpu",
                                                            dtype=torch.bfloat16)
    except (ImportError, ValueError, RuntimeError) as error:
        pytest.skip(f"this transformers does not quantize on the CPU: {error}")
    truth = bytes_of(model)
    kept = [m for n, m in model.named_modules() if n.endswith(".wo")]
    assert kept and all(type(m) is torch.nn.Linear for m in kept)
    assert close(component(t5_folder)["bytes"][quant], truth)
    model.save_pretrained(tmp_path)
    found = component(tmp_path, "--quant", quant)
    assert (found["stored"], found["class"]) == (quant, "T5EncoderModel")
    assert close(found["bytes"][quant], truth)


@pytest.mark.parametrize("is_tied", (False, True))
@pytest.mark.parametrize("quant", QUANTS)
def test_language_model_by_transformers(tmp_path, quant, is_tied):
    """A class that is in no table: the head stays, and the truth lies in the interval."""
    torch.manual_seed(3)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=512, intermediate_size=1408, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4,
        vocab_size=2000, tie_word_embeddings=is_tied)).to(torch.bfloat16).save_pretrained(tmp_path)
    settings = transformers.BitsAndBytesConfig(
        load_in_8bit=quant == "8-bit", load_in_4bit=quant != "8-bit", bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quant == "4-bit-dq")
    try:
        model = transformers.LlamaForCausalLM.from_pretrained(tmp_path, quantization_config=settings, device_map="cpu",
                                                              dtype=torch.bfloat16)
    except (ImportError, ValueError, RuntimeError) as error:
        pytest.skip(f"this transformers does not quantize on the CPU: {error}")
    found, truth = component(tmp_path), bytes_of(model)
    low, high = found["interval"][quant]
    assert low <= truth <= high
    assert high - low <= 0.1 * truth
    assert close(found["bytes"][quant], truth, 0.002)
    assert found["linears"] == sum(isinstance(m, (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)) for m in model.modules())


def test_t5_dtypes(t5_folder):
    for name, dtype in {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}.items():
        model = transformers.T5EncoderModel.from_pretrained(t5_folder, dtype=dtype)
        assert component(t5_folder, "--dtype", name)["bytes"]["none"] == bytes_of(model), name


def test_skip_modules(tmp_path, flux_folder):
    """What the configuration leaves out is left out, as diffusers matches it."""
    keep = ["proj_out", "x_embedder", "transformer_blocks.0.attn"]
    config = json.loads((flux_folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True,
                                     "llm_int8_skip_modules": keep}
    (tmp_path / "config.json").write_text(json.dumps(config))
    os.link(flux_folder / "diffusion_pytorch_model.safetensors", tmp_path / "diffusion_pytorch_model.safetensors")
    from diffusers.quantizers.bitsandbytes import utils
    model = tiny_flux()
    settings = diffusers.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=keep)
    replaced = utils.replace_with_bnb_linear(tiny_flux(), modules_to_not_convert=list(keep),
                                             quantization_config=settings)
    converted = {n for n, m in replaced.named_modules() if isinstance(m, bnb.nn.Linear8bitLt)}
    for name in converted:
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], linear_of(model.get_submodule(name), "8-bit"))
    found = component(tmp_path)
    assert found["linears"] == len(converted)
    assert close(found["bytes"]["8-bit"], bytes_of(model))


# --- architectures that are not in the table ---


def write_header(path, tensors):
    """A safetensors file with a hole for the data. tensors: {name: (dtype, shape, bytes)}"""
    header, at = {}, 0
    for name, (dtype, shape, size) in sorted(tensors.items()):
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)


def ceil(a, b):
    return -(-a // b)


def linear_bytes(count, out, quant):
    blocks = ceil(count, 64)
    return {"none": 2 * count, "8-bit": count + 4 * out, "4-bit": ceil(count, 2) + 64 + 4 * blocks,
            "4-bit-dq": ceil(count, 2) + 68 + 1024 + blocks + 4 * ceil(blocks, 256)}[quant]


def truth_of(model, quant, is_quantized, keep=()):
    """What the modules of the real class say: Linears are converted, everything else is 16 bits wide."""
    converted = {}
    if is_quantized and quant != "none":
        converted = {f"{name}.weight": module for name, module in model.named_modules()
                     if type(module) is torch.nn.Linear and name.rpartition(".")[2] not in keep}
    total = 0
    for name, tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
        if name in converted:
            total += linear_bytes(tensor.numel(), converted[name].out_features, quant)
        else:
            total += tensor.numel() * (2 if tensor.is_floating_point() else tensor.element_size())
    return total


def write_model(folder, model, class_key, class_name, config=None):
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump({**(config or {}), **({class_key: class_name} if class_key == "_class_name" else
                                        {class_key: [class_name]})}, file)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "encoder.embed_tokens.weight"}
    write_header(os.path.join(folder, "model.safetensors"), {
        name: ("F16", tuple(t.shape), 2 * t.numel()) if t.is_floating_point() else
        (CODES[t.dtype], tuple(t.shape), t.numel() * t.element_size()) for name, t in state.items()})


def clip(class_name, width, layers, heads, inner, projection):
    config = transformers.CLIPTextConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                                         intermediate_size=inner, projection_dim=projection)
    return getattr(transformers, class_name)(config)


def t5_xxl():
    return transformers.T5EncoderModel(transformers.T5Config(
        d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, vocab_size=32128,
        feed_forward_proj="gated-gelu"))


def vae(latent):
    return diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=latent)


def sdxl_unet():
    return diffusers.UNet2DConditionModel(
        sample_size=128, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        use_linear_projection=True)


def sd15_unet():
    return diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def sd3_transformer():
    return diffusers.SD3Transformer2DModel(
        sample_size=128, patch_size=2, in_channels=16, num_layers=24, attention_head_dim=64, num_attention_heads=24,
        joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048, out_channels=16,
        pos_embed_max_size=192)


def pixart_transformer():
    return diffusers.PixArtTransformer2DModel(
        sample_size=128, num_layers=28, attention_head_dim=72, num_attention_heads=16, in_channels=4, out_channels=8,
        patch_size=2, cross_attention_dim=1152, caption_channels=4096, norm_type="ada_norm_single")


PIPELINES = {
    "sdxl": {
        "unet": ("UNet2DConditionModel", sdxl_unet, True),
        "text_encoder": ("CLIPTextModel", lambda: clip("CLIPTextModel", 768, 12, 12, 3072, 768), False),
        "text_encoder_2": ("CLIPTextModelWithProjection",
                           lambda: clip("CLIPTextModelWithProjection", 1280, 32, 20, 5120, 1280), False),
        "vae": ("AutoencoderKL", lambda: vae(4), False),
    },
    "sd15": {
        "unet": ("UNet2DConditionModel", sd15_unet, True),
        "text_encoder": ("CLIPTextModel", lambda: clip("CLIPTextModel", 768, 12, 12, 3072, 768), False),
        "vae": ("AutoencoderKL", lambda: vae(4), False),
    },
    "sd3": {
        "transformer": ("SD3Transformer2DModel", sd3_transformer, True),
        "text_encoder": ("CLIPTextModelWithProjection",
                         lambda: clip("CLIPTextModelWithProjection", 768, 12, 12, 3072, 768), False),
        "text_encoder_3": ("T5EncoderModel", t5_xxl, True),
        "vae": ("AutoencoderKL", lambda: vae(16), False),
    },
    "pixart": {
        "transformer": ("PixArtTransformer2DModel", pixart_transformer, True),
        "text_encoder": ("T5EncoderModel", t5_xxl, True),
        "vae": ("AutoencoderKL", lambda: vae(4), False),
    },
}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_unknown_architectures(tmp_path, pipeline):
    folder = tmp_path / pipeline
    index, truth = {"_class_name": "Pipeline"}, dict.fromkeys(("none", *QUANTS), 0)
    parts = {}
    for name, (class_name, make, is_quantized) in PIPELINES[pipeline].items():
        with torch.device("meta"):
            model = make()
        is_transformers = hasattr(transformers, class_name)
        index[name] = ["transformers" if is_transformers else "diffusers", class_name]
        write_model(folder / name, model, "architectures" if is_transformers else "_class_name", class_name)
        keep = ("wo",) if class_name == "T5EncoderModel" else ()
        parts[name] = {q: truth_of(model, q, is_quantized, keep) for q in truth}
        for q in truth:
            truth[q] += parts[name][q]
    (folder / "model_index.json").write_text(json.dumps(index))
    found = estimate(folder)
    assert {c["name"] for c in found["components"]} == set(parts)
    for part in found["components"]:
        for q, bytes_ in parts[part["name"]].items():
            low, high = part["interval"][q]
            assert low <= bytes_ <= high, (part["name"], q, low, bytes_, high)
            assert high - low <= 0.1 * bytes_, (part["name"], q, low, high)
    for q, bytes_ in truth.items():
        low, high = found["interval"][q]
        assert low <= bytes_ <= high
        assert high - low <= 0.1 * bytes_
        assert close(found["total"]["bytes"][q], bytes_, 0.05)
    assert found["total"]["basis"] == "generic"
