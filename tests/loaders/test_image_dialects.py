"""The dialects of image models: kohya and LyCORIS, diffusers, cloneofsimo, and bases that are pipelines.

Each update is written out here once more from its definition, entry by entry, and compared with what is read.
"""

import json

import pytest
import torch
from safetensors.torch import save_file

from spectra import open_pairs
from spectra.errors import FormatError, InputError, MatchError, UnsupportedError
from spectra.loaders.adapters.dialects.image_names import _diffusers_names, _original_names
from spectra.loaders.pipeline import components_of
from spectra.loaders.source import open_source

LAYERS = {"blocks.0.lin": (16, 24), "blocks.0.conv": (16, 6, 3, 3), "blocks.1.one": (8, 12, 1, 1), "line": (8, 10, 5)}


def random(*shape, scale=1.0):
    return torch.randn(*shape, dtype=torch.float64) * scale


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(5)


def weights(layers=LAYERS):
    found = {f"{name}.weight": random(*shape).float() for name, shape in layers.items()}
    return found | {f"{name}.bias": random(shape[0]).float() for name, shape in layers.items()}


def saved(path, tensors, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    return path


def stored(tensors):
    """The values as a file has them: float32."""
    return {key: value.float().double() for key, value in tensors.items()}


def read(base, adapter, **options):
    with open_pairs(base, adapter, **options) as pairs:
        return {pair.key: pair for pair in pairs}, pairs


def require_law(update):
    x, y = torch.randn(update.shape[1], 2), torch.randn(update.shape[0], 2)
    torch.testing.assert_close(update.matmul(x), update.dense() @ x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(update.rmatmul(y), update.dense().T @ y, rtol=1e-4, atol=1e-4)


# ---- every parameterisation, by its definition: parts of a weight W0, and dW


def full_kernel(product, W0):
    return product.reshape(W0.shape)


def locon(W0, r=3, alpha=2.0):
    up = random(W0.shape[0], r, *[1] * (W0.ndim - 2))
    down = random(r, *W0.shape[1:])
    parts = stored({"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(alpha)})
    dW = torch.einsum("or,r...->o...", parts["lora_up.weight"].flatten(1), parts["lora_down.weight"])
    return parts, alpha / r * dW


def locon_tucker(W0, r=2):
    k = W0.shape[2:]
    parts = stored(
        {
            "lora_up.weight": random(W0.shape[0], r, *[1] * len(k)),
            "lora_down.weight": random(r, W0.shape[1], *[1] * len(k)),
            "lora_mid.weight": random(r, r, *k),
            "alpha": torch.tensor(3.0),
        }
    )
    up, down = parts["lora_up.weight"].flatten(1), parts["lora_down.weight"].flatten(1)
    return parts, 3 / r * torch.einsum("op,pq...,qi->oi...", up, parts["lora_mid.weight"], down)


def locon_scalar(W0):
    parts, dW = locon(W0)
    return parts | {"scalar": torch.tensor(0.5)}, 0.5 * dW


def locon_without_alpha(W0):
    parts, dW = locon(W0, r=3, alpha=3.0)
    return {name: part for name, part in parts.items() if name != "alpha"}, dW


def decomposed(W0, dW, scale, over):
    V = W0 + dW
    return scale * V / V.pow(2).sum(over, keepdim=True).sqrt() - W0


def dora_rows(W0):
    parts, dW = locon(W0)
    scale = random(W0.shape[0], *[1] * (W0.ndim - 1)).abs().float().double()
    return parts | {"dora_scale": scale}, decomposed(W0, dW, scale, tuple(range(1, W0.ndim)))


def dora_columns(W0):
    parts, dW = loha(W0)
    scale = random(1, W0.shape[1], *[1] * (W0.ndim - 2)).abs().float().double()
    return parts | {"dora_scale": scale}, decomposed(W0, dW, scale, (0, *range(2, W0.ndim)))


def loha(W0, r=3):
    m, n = W0.flatten(1).shape
    parts = stored({f"hada_w{i}_a": random(m, r) for i in "12"} | {f"hada_w{i}_b": random(r, n) for i in "12"})
    first, second = (parts[f"hada_w{i}_a"] @ parts[f"hada_w{i}_b"] for i in "12")
    return parts | {"alpha": torch.tensor(1.5)}, 1.5 / r * full_kernel(first * second, W0)


def loha_tucker(W0, r=2):
    m, n, *k = W0.shape
    parts = stored(
        {f"hada_w{i}_a": random(r, m) for i in "12"}
        | {f"hada_w{i}_b": random(r, n) for i in "12"}
        | {f"hada_t{i}": random(r, r, *k) for i in "12"}
    )
    first, second = (
        torch.einsum("pq...,po,qi->oi...", parts[f"hada_t{i}"], parts[f"hada_w{i}_a"], parts[f"hada_w{i}_b"])
        for i in "12"
    )
    return parts | {"alpha": torch.tensor(1.0)}, 1 / r * first * second


def kron(w1, w2):
    """The Kronecker product over outputs and inputs; the places of the kernel are w2's."""
    product = torch.einsum("ac,bd...->abcd...", w1, w2)
    return product.flatten(0, 1).flatten(1, 2)


def lokr(W0, r=2):
    m, n, *k = W0.shape
    w1, w2 = random(4, 2), (random(m // 4, r), random(r, n // 2 * torch.Size(k).numel()))
    parts = stored({"lokr_w1": w1, "lokr_w2_a": w2[0], "lokr_w2_b": w2[1], "alpha": torch.tensor(5.0)})
    second = (parts["lokr_w2_a"] @ parts["lokr_w2_b"]).reshape(m // 4, n // 2, *k)
    return parts, 5 / r * kron(parts["lokr_w1"], second)


def lokr_both(W0, r=1):
    m, n, *k = W0.shape
    parts = stored(
        {
            "lokr_w1_a": random(4, r), "lokr_w1_b": random(r, 2), "lokr_w2_a": random(m // 4, r),
            "lokr_w2_b": random(r, n // 2 * torch.Size(k).numel()), "alpha": torch.tensor(0.5),
        }
    )  # fmt: skip
    second = (parts["lokr_w2_a"] @ parts["lokr_w2_b"]).reshape(m // 4, n // 2, *k)
    return parts, 0.5 / r * kron(parts["lokr_w1_a"] @ parts["lokr_w1_b"], second)


def lokr_full(W0):
    m, n, *k = W0.shape
    parts = stored({"lokr_w1": random(2, 2), "lokr_w2": random(m // 2, n // 2, *k), "alpha": torch.tensor(1e5)})
    return parts, kron(parts["lokr_w1"], parts["lokr_w2"])


def lokr_tucker(W0, r=3):
    m, n, *k = W0.shape
    parts = stored(
        {
            "lokr_w1": random(2, 2), "lokr_t2": random(r, r, *k), "lokr_w2_a": random(r, m // 2),
            "lokr_w2_b": random(r, n // 2), "alpha": torch.tensor(1.0),
        }
    )  # fmt: skip
    second = torch.einsum("pq...,po,qi->oi...", parts["lokr_t2"], parts["lokr_w2_a"], parts["lokr_w2_b"])
    return parts, 1 / r * kron(parts["lokr_w1"], second)


def glora(W0, r=2):
    m, n, *k = W0.shape
    one = [1] * len(k)
    parts = stored(
        {
            "a1.weight": random(n, r, *one), "a2.weight": random(r, n, *one), "b1.weight": random(m, r, *one),
            "b2.weight": random(r, n, *k), "alpha": torch.tensor(3.0),
        }
    )  # fmt: skip
    mixing = parts["a1.weight"].flatten(1) @ parts["a2.weight"].flatten(1)
    second = torch.einsum("or,r...->o...", parts["b1.weight"].flatten(1), parts["b2.weight"])
    return parts, 3 / r * (torch.einsum("oi...,ij->oj...", W0, mixing) + second)


def glora_tucker(W0, r=2):
    parts, _ = glora(W0, r)
    _, n, *k = W0.shape
    parts |= stored({"b2.weight": random(r, n, *[1] * len(k)), "bm.weight": random(r, r, *k)})
    mixing = parts["a1.weight"].flatten(1) @ parts["a2.weight"].flatten(1)
    b1, b2 = parts["b1.weight"].flatten(1), parts["b2.weight"].flatten(1)
    second = torch.einsum("op,pq...,qi->oi...", b1, parts["bm.weight"], b2)
    return parts, 3 / r * (torch.einsum("oi...,ij->oj...", W0, mixing) + second)


def ia3(W0):
    w = random(W0.shape[0]).float().double()
    shaped = w if W0.ndim == 2 else w.view(1, -1, *[1] * (W0.ndim - 2))
    return {"weight": shaped, "on_input": torch.tensor(0)}, torch.einsum("o,o...->o...", w, W0)


def ia3_inputs(W0):
    w = random(W0.shape[1]).float().double()
    shaped = w if W0.ndim == 2 else w.view(1, -1, *[1] * (W0.ndim - 2))
    return {"weight": shaped, "on_input": torch.tensor(1)}, torch.einsum("i,oi...->oi...", w, W0)


def difference(W0):
    dW = random(*W0.shape).float().double()
    return {"diff": dW, "diff_b": random(W0.shape[0])}, dW


def turned(M, size, bound):
    Q = M - M.mT
    norm = Q.pow(2).sum().sqrt()
    if bound is not None and norm > bound * size:
        Q = Q * (bound * size / norm)
    eye = torch.eye(Q.shape[-1], dtype=torch.float64)
    return (eye + Q) @ torch.linalg.inv(eye - Q)


def diag_oft(W0, bound=None, rescale=False):
    m, b = W0.shape[0], 4
    M = random(m // b, b, b, scale=0.3).float().double()
    R = torch.block_diag(*(block.T for block in turned(M, m, bound)))
    parts = {"oft_blocks": M, "alpha": torch.tensor(bound or 0.0)}
    W = torch.einsum("po,o...->p...", R, W0)
    if rescale:
        parts["rescale"] = random(m, *[1] * (W0.ndim - 1)).float().double()
        W = parts["rescale"] * W
    return parts, W - W0


def boft(W0, stages=2, b=2, bound=None, rescale=False):
    m = W0.shape[0]
    M = random(stages, m // b, b, b, scale=0.3).float().double()
    R, W = turned(M, m, bound), W0
    for stage in range(stages):
        step = 2**stage * b // 2
        # Rows lie (group, pair, place); a block holds rows of the order (group, place, pair).
        order = [
            group * 2 * step + pair * step + place
            for group in range(m // (2 * step))
            for place in range(step)
            for pair in range(2)
        ]
        P = torch.eye(m, dtype=torch.float64)[order]
        W = torch.einsum("po,o...->p...", P.T @ torch.block_diag(*R[stage]) @ P, W)
    parts = {"oft_blocks": M, "alpha": torch.tensor(bound or 0.0)}
    if rescale:
        parts["rescale"] = random(m, *[1] * (W0.ndim - 1)).float().double()
        W = parts["rescale"] * W
    return parts, W - W0


DEFINITIONS = {
    "LoCon": locon,
    "LoCon, Tucker": locon_tucker,
    "LoCon with a stored scalar": locon_scalar,
    "LoCon without alpha": locon_without_alpha,
    "DoRA by outputs": dora_rows,
    "LoHa with DoRA by input channels": dora_columns,
    "LoHa": loha,
    "LoHa, Tucker": loha_tucker,
    "LoKr": lokr,
    "LoKr, both factored": lokr_both,
    "LoKr, both full": lokr_full,
    "LoKr, Tucker": lokr_tucker,
    "GLoRA": glora,
    "GLoRA, Tucker": glora_tucker,
    "IA3": ia3,
    "IA3 on inputs": ia3_inputs,
    "differences": difference,
    "diag-OFT": diag_oft,
    "diag-OFT, bounded": lambda W0: diag_oft(W0, bound=0.02),
    "diag-OFT, rescaled": lambda W0: diag_oft(W0, rescale=True),
    "BOFT": boft,
    "BOFT of three stages, bounded and rescaled": lambda W0: boft(W0, stages=3, bound=0.05, rescale=True),
    "BOFT of larger blocks": lambda W0: boft(W0, stages=2, b=4),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_parameterisation_is_its_definition(tmp_path, name):
    base = weights()
    saved(tmp_path / "base" / "model.safetensors", base)
    tensors, true = {}, {}
    for layer in LAYERS:
        W0 = base[f"{layer}.weight"].double()
        parts, true[f"{layer}.weight"] = DEFINITIONS[name](W0)
        tensors |= {f"lycoris_{layer.replace('.', '_')}.{part}": value for part, value in parts.items()}
    pairs, _ = read(tmp_path / "base", saved(tmp_path / "a" / "x.safetensors", tensors))
    assert pairs.keys() == true.keys()
    for key, pair in pairs.items():
        found = pair.to_stored(pair.update.dense()).double()
        assert (found - true[key]).abs().max() <= 4e-6 * max(1, true[key].abs().max()), key
        require_law(pair.update)


def test_glora_on_a_wide_convolution_stays_in_factors(tmp_path):
    base = weights({"wide": (40, 12, 3)})
    saved(tmp_path / "base" / "model.safetensors", base)
    parts, dW = glora(base["wide.weight"].double())
    adapter = saved(tmp_path / "x.safetensors", {f"lycoris_wide.{part}": value for part, value in parts.items()})
    pair = read(tmp_path / "base", adapter)[0]["wide.weight"]
    assert (pair.update.kind, pair.allotted, pair.update.factors[0].shape) == ("low rank", 8, (40, 8))
    torch.testing.assert_close(pair.to_stored(pair.update.dense()).double(), dW, rtol=1e-5, atol=1e-4)


def test_several_parameterisations_in_one_file_are_each_read(tmp_path):
    base = weights()
    saved(tmp_path / "base" / "model.safetensors", base)
    tensors, true = {}, {}
    for layer, definition in zip(LAYERS, (loha, locon_tucker, diag_oft, lokr), strict=True):
        parts, true[f"{layer}.weight"] = definition(base[f"{layer}.weight"].double())
        tensors |= {f"lora_unet_{layer.replace('.', '_')}.{part}": value for part, value in parts.items()}
    pairs, opened = read(tmp_path / "base", saved(tmp_path / "x.safetensors", tensors))
    for key, pair in pairs.items():
        torch.testing.assert_close(pair.to_stored(pair.update.dense()).double(), true[key], rtol=1e-5, atol=1e-5)
    assert set(opened.info.method.split(" and ")) == {"LoHa", "LoRA", "diag-OFT", "LoKr"}
    assert set(opened.info.alphas) == {1.5, 3.0, 5.0}


@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_kohya_bounds_the_rotation_even_by_zero(tmp_path, alpha):
    base = weights({"lin": (16, 24)})
    saved(tmp_path / "base" / "model.safetensors", base)
    M = random(4, 4, 4).float().double()
    tensors = {"oft_unet_lin.oft_blocks": M, "oft_unet_lin.alpha": torch.tensor(alpha)}
    pairs, _ = read(tmp_path / "base", saved(tmp_path / "x.safetensors", tensors))
    W0 = base["lin.weight"].double()
    R = torch.block_diag(*(block.T for block in turned(M, 16, alpha)))
    torch.testing.assert_close(pairs["lin.weight"].update.dense().double(), R @ W0 - W0, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("start", ["first", "last", "middle"])
def test_t_lora_is_the_factors_less_the_singular_vectors_they_began_at(tmp_path, start):
    base, r = weights({"lin": (16, 24)}), 4
    saved(tmp_path / "base" / "model.safetensors", base)
    U, S, Vh = torch.linalg.svd(base["lin.weight"].double(), full_matrices=False)
    at = {"first": 0, "last": 12, "middle": 6}[start]
    began = U[:, at : at + r], S[at : at + r], Vh[at : at + r]
    P, values, Q = (factor + 0.05 * torch.randn_like(factor) for factor in began)
    parts = stored(
        {"p_layer.weight": -P, "q_layer.weight": -Q, "lambda_layer": values[None], "alpha": torch.tensor(2.0)}
    )
    tensors = {f"lycoris_lin.{part}": value for part, value in parts.items()}
    pairs, opened = read(tmp_path / "base", saved(tmp_path / "x.safetensors", tensors))
    true = 2 / r * (P @ torch.diag(values) @ Q - began[0] @ torch.diag(began[1]) @ began[2])
    torch.testing.assert_close(pairs["lin.weight"].update.dense().double(), true, rtol=1e-4, atol=1e-5)
    assert opened.info.method == "T-LoRA"
    assert any("does not save its start" in note for note in opened.notes)


def test_t_lora_that_began_at_random_is_refused_when_it_is_read(tmp_path):
    saved(tmp_path / "base" / "model.safetensors", weights({"lin": (16, 24)}))
    parts = {"p_layer.weight": random(16, 4), "q_layer.weight": random(4, 24), "lambda_layer": random(1, 4)}
    adapter = saved(tmp_path / "x.safetensors", {f"lycoris_lin.{part}": value for part, value in parts.items()})
    with open_pairs(tmp_path / "base", adapter) as pairs, pytest.raises(UnsupportedError, match="not in the file"):
        pairs.pair("lin.weight")


def test_t_lora_on_a_base_of_equal_singular_values_is_refused(tmp_path):
    saved(tmp_path / "base" / "model.safetensors", {"lin.weight": torch.eye(16)})
    eye = torch.eye(16)
    U, _, Vh = torch.linalg.svd(eye.double())
    parts = {"p_layer.weight": U[:, :4], "q_layer.weight": Vh[:4], "lambda_layer": torch.ones(1, 4)}
    adapter = saved(tmp_path / "x.safetensors", {f"lycoris_lin.{part}": value for part, value in parts.items()})
    with (
        open_pairs(tmp_path / "base", adapter) as pairs,
        pytest.raises(UnsupportedError, match="equal singular values"),
    ):
        pairs.pair("lin.weight")


def test_glora_trained_with_rs_lora_is_scaled_by_the_root(tmp_path):
    base = weights({"lin": (16, 24)})
    saved(tmp_path / "base" / "model.safetensors", base)
    parts, dW = glora(base["lin.weight"].double(), r=4)
    args = {"ss_network_args": json.dumps({"algo": "glora", "rs_lora": "True"})}
    adapter = saved(tmp_path / "x.safetensors", {f"lycoris_lin.{part}": v for part, v in parts.items()}, args)
    pairs, _ = read(tmp_path / "base", adapter)
    torch.testing.assert_close(pairs["lin.weight"].update.dense().double(), 2 * dW, rtol=1e-4, atol=1e-4)


def test_a_fused_projection_trained_apart_says_which_scaling_is_taken(tmp_path):
    base = weights({"img_attn.qkv": (12, 8)})
    saved(tmp_path / "base" / "model.safetensors", base)
    parts, dW = locon(base["img_attn.qkv.weight"].double(), r=6)
    args = {"ss_network_args": json.dumps({"split_qkv": "True"})}
    tensors = {f"lora_unet_img_attn_qkv.{part}": value for part, value in parts.items()}
    pairs, opened = read(tmp_path / "base", saved(tmp_path / "x.safetensors", tensors, args))
    torch.testing.assert_close(pairs["img_attn.qkv.weight"].update.dense().double(), dW, rtol=1e-5, atol=1e-5)
    assert any("split_qkv" in note for note in opened.notes)


# ---- names


def adapter_of(path, modules, metadata=None):
    """A LoRA of rank 2 and alpha 1 for modules of given shapes, by flattened name, and what it makes of each."""
    tensors, true = {}, {}
    for name, (m, n) in modules.items():
        up, down = random(m, 2).float(), random(2, n).float()
        tensors |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(1.0)}
        true[name] = up @ down / 2
    return saved(path, tensors, metadata), true


def pipeline(folder, components, index=None):
    for component, (tensors, config) in components.items():
        name = "model.safetensors" if component.startswith("text") else "diffusion_pytorch_model.safetensors"
        saved(folder / component / name, tensors)
        (folder / component / "config.json").write_text(json.dumps(config))
    if index is not None:
        (folder / "model_index.json").write_text(json.dumps(index))
    return folder


CLIP = {"model_type": "clip_text_model"}


def text_encoder(front="", size=8):
    return {f"{front}encoder.layers.0.self_attn.q_proj.weight": random(size, size).float()}, CLIP


@pytest.mark.parametrize("in_base", ["", "text_model."])
@pytest.mark.parametrize("in_file", ["", "text_model_"])
def test_text_model_may_be_there_or_not_on_either_side(tmp_path, in_base, in_file):
    base = pipeline(tmp_path / "base", {"text_encoder": text_encoder(in_base), "unet": (weights({"mid": (4, 4)}), {})})
    name = f"lora_te_{in_file}encoder_layers_0_self_attn_q_proj"
    adapter, true = adapter_of(tmp_path / "x.safetensors", {name: (8, 8)})
    pairs, _ = read(base, adapter)
    (pair,) = pairs.values()
    assert pair.key == f"text_encoder.{in_base}encoder.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(pair.update.dense(), true[name])


def test_two_text_encoders_are_told_apart_by_their_prefix(tmp_path):
    parts = {"text_encoder": text_encoder(), "text_encoder_2": text_encoder(), "unet": (weights({"mid": (4, 4)}), {})}
    base = pipeline(tmp_path / "base", parts)
    names = [f"lora_te{number}_text_model_encoder_layers_0_self_attn_q_proj" for number in (1, 2)]
    adapter, true = adapter_of(tmp_path / "x.safetensors", dict.fromkeys(names, (8, 8)))
    pairs, _ = read(base, adapter)
    for component, name in zip(("text_encoder", "text_encoder_2"), names, strict=True):
        pair = pairs[f"{component}.encoder.layers.0.self_attn.q_proj.weight"]
        torch.testing.assert_close(pair.update.dense(), true[name])


def test_updates_of_two_text_encoders_are_not_laid_on_one(tmp_path):
    saved(tmp_path / "base" / "model.safetensors", text_encoder()[0])
    names = [f"lora_te{number}_encoder_layers_0_self_attn_q_proj" for number in (1, 2)]
    adapter, _ = adapter_of(tmp_path / "x.safetensors", dict.fromkeys(names, (8, 8)))
    with pytest.raises(MatchError, match=r"(?s)lora_te1_.*lora_te2_.*pipeline"):
        open_pairs(tmp_path / "base", adapter)


def test_a_flattened_name_that_can_be_two_modules_is_refused(tmp_path):
    saved(tmp_path / "base" / "model.safetensors", weights({"a.b_c": (8, 8), "a_b.c": (8, 8), "d": (8, 8)}))
    clear, _ = adapter_of(tmp_path / "clear.safetensors", {"lora_unet_d": (8, 8)})
    assert list(read(tmp_path / "base", clear)[0]) == ["d.weight"]
    adapter, _ = adapter_of(tmp_path / "x.safetensors", {"lora_unet_a_b_c": (8, 8)})
    with pytest.raises(MatchError, match=r"a\.b_c\.weight, a_b\.c\.weight"):
        open_pairs(tmp_path / "base", adapter)


def test_a_module_that_the_base_lacks_is_listed_or_skipped(tmp_path):
    saved(tmp_path / "base" / "model.safetensors", weights({"d": (8, 8)}))
    adapter, _ = adapter_of(tmp_path / "x.safetensors", {"lora_unet_d": (8, 8), "lora_unet_elsewhere": (8, 8)})
    with pytest.raises(MatchError, match="lora_unet_elsewhere"):
        open_pairs(tmp_path / "base", adapter)
    pairs, opened = read(tmp_path / "base", adapter, allow_unmatched=True)
    assert list(pairs) == ["d.weight"]
    assert len(opened.skipped) == 3


def test_names_that_keep_their_dots_are_read_too(tmp_path):
    base = weights({"double_blocks.0.img_attn.qkv": (12, 8)})
    saved(tmp_path / "base" / "model.safetensors", base)
    parts, dW = lokr(base["double_blocks.0.img_attn.qkv.weight"].double())
    tensors = {f"diffusion_model.double_blocks.0.img_attn.qkv.{part}": value for part, value in parts.items()}
    pairs, _ = read(tmp_path / "base", saved(tmp_path / "x.safetensors", tensors))
    (pair,) = pairs.values()
    torch.testing.assert_close(pair.update.dense().double(), dW, rtol=1e-5, atol=1e-5)


UNET = (  # two levels of two resnets, attention in the second and in the middle: diffusers' names, the original ones
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("down_blocks.0.resnets.1.conv1", "input_blocks.2.0.in_layers.2"),
    ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
    ("down_blocks.1.resnets.0.conv_shortcut", "input_blocks.4.0.skip_connection"),
    ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "input_blocks.4.1.transformer_blocks.0.attn1.to_q"),
    ("mid_block.attentions.0.proj_in", "middle_block.1.proj_in"),
    ("mid_block.resnets.1.conv2", "middle_block.2.out_layers.3"),
    ("up_blocks.0.attentions.2.proj_out", "output_blocks.2.1.proj_out"),
    ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
    ("up_blocks.1.resnets.2.time_emb_proj", "output_blocks.5.0.emb_layers.1"),
    ("conv_out", "out.2"),
)


@pytest.mark.parametrize("of_base", [0, 1])
def test_a_unet_is_found_by_the_names_of_diffusers_and_by_the_original_ones(tmp_path, of_base):
    layers = {names[of_base]: (8, 8) for names in UNET}
    base = tmp_path / "model.safetensors"
    front = "model.diffusion_model." if of_base else ""
    saved(base, weights({front + name: shape for name, shape in layers.items()}))
    if not of_base:
        base = pipeline(tmp_path / "base", {"unet": (weights(layers), {"_class_name": "UNet2DConditionModel"})})
    flat = {f"lora_unet_{names[1 - of_base].replace('.', '_')}": names[of_base] for names in UNET}
    adapter, true = adapter_of(tmp_path / "x.safetensors", dict.fromkeys(flat, (8, 8)))
    pairs, _ = read(base, adapter)
    assert len(pairs) == len(UNET)
    for name, module in flat.items():
        key = f"{front}{module}.weight" if of_base else f"unet.{module}.weight"
        torch.testing.assert_close(pairs[key].update.dense(), true[name])


@pytest.mark.filterwarnings("ignore")
def test_the_names_of_a_unet_are_those_that_diffusers_converts():
    diffusers = pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    model = diffusers.UNet2DConditionModel(
        block_out_channels=(16, 32), cross_attention_dim=8, attention_head_dim=8, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    state = model.state_dict()
    modules = dict.fromkeys(key.rpartition(".")[0] for key in state)
    original = _original_names(list(modules))
    converted = {
        f"model.diffusion_model.{original(key.rpartition('.')[0])}.{key.rpartition('.')[2]}": key for key in state
    }
    assert convert_ldm_unet_checkpoint(converted, dict(model.config)) == {key: key for key in state}
    back = _diffusers_names([original(module) for module in modules])
    assert [back(original(module)) for module in modules] == list(modules)


# ---- what is refused


def test_an_alpha_of_zero_is_refused(tmp_path):
    saved(tmp_path / "base" / "model.safetensors", weights({"d": (8, 8)}))
    tensors = {"lora_unet_d.lora_up.weight": random(8, 2), "lora_unet_d.lora_down.weight": random(2, 8)}
    adapter = saved(tmp_path / "x.safetensors", tensors | {"lora_unet_d.alpha": torch.tensor(0.0)})
    with pytest.raises(UnsupportedError, match="alpha is 0"):
        open_pairs(tmp_path / "base", adapter)


def test_an_alpha_that_is_given_is_for_modules_without_one(tmp_path):
    base = weights({"d": (8, 8)})
    saved(tmp_path / "base" / "model.safetensors", base)
    up, down = random(8, 2).float(), random(2, 8).float()
    adapter = saved(
        tmp_path / "x.safetensors", {"lora_unet_d.lora_up.weight": up, "lora_unet_d.lora_down.weight": down}
    )
    pairs, opened = read(tmp_path / "base", adapter, alpha=6.0)
    torch.testing.assert_close(pairs["d.weight"].update.dense(), 3 * up @ down)
    assert opened.info.scalings == (3.0,)
    assert any("without an alpha" in note for note in opened.notes)


UP, DOWN = torch.zeros(8, 2), torch.zeros(2, 8)
FAULTS = {
    "a factor missing": ({"lora_up.weight": UP}, MatchError, "one of its factors is missing"),
    "ranks that disagree": ({"lora_up.weight": UP, "lora_down.weight": torch.zeros(3, 8)}, MatchError, "do not chain"),
    "another shape": ({"lora_up.weight": UP, "lora_down.weight": torch.zeros(2, 9)}, MatchError, r"\[8, 9\]"),
    "no factors": ({"alpha": torch.tensor(1.0), "dora_scale": torch.ones(8, 1)}, MatchError, "not those of one method"),
    "two methods": ({"lora_up.weight": UP, "hada_w1_a": UP}, MatchError, "not those of one method"),
    "an unknown tensor": ({"lora_up.weight": UP, "lora_down.weight": DOWN, "extra": UP}, UnsupportedError, "extra"),
    "pieces of a list": ({"lora_up.0.weight": UP, "lora_down.weight": DOWN}, UnsupportedError, r"lora_up\.0"),
    "old diag-OFT": ({"oft_diag": torch.zeros(2, 4, 4)}, UnsupportedError, "oft_diag"),
    "alpha of two": (
        {"lora_up.weight": UP, "lora_down.weight": DOWN, "alpha": torch.ones(2)}, FormatError, "no finite number",
    ),
    "alpha that is none": (
        {"lora_up.weight": UP, "lora_down.weight": DOWN, "alpha": torch.tensor(float("nan"))}, FormatError, "no finite",
    ),
    "whole numbers": (
        {"lora_up.weight": UP.int(), "lora_down.weight": DOWN}, UnsupportedError, "no floating-point factor",
    ),
    "dora of another size": (
        {"lora_up.weight": UP, "lora_down.weight": DOWN, "dora_scale": torch.ones(5, 1)}, MatchError, "dora_scale",
    ),
    "half of LoHa": ({"hada_w1_a": UP, "hada_w1_b": DOWN}, MatchError, "one of its factors is missing"),
    "half of LoKr": ({"lokr_w1": UP}, MatchError, "do not make w1 and w2"),
    "LoKr of two ranks": (
        {"lokr_w1_a": torch.zeros(4, 1), "lokr_w1_b": torch.zeros(1, 4), "lokr_w2_a": torch.zeros(2, 2),
         "lokr_w2_b": torch.zeros(2, 2)}, MatchError, "do not make w1 and w2",
    ),
    "IA3 of unknown side": ({"weight": torch.ones(8)}, MatchError, "on_input"),
    "blocks of another size": ({"oft_blocks": torch.zeros(3, 4, 4)}, MatchError, r"\[12, 8\]"),
    "blocks that are none": ({"oft_blocks": torch.zeros(2, 4, 3)}, MatchError, "no square blocks"),
    "too many stages": ({"oft_blocks": torch.zeros(3, 2, 4, 4)}, MatchError, "no square blocks"),
    "GLoRA in part": ({"a1.weight": UP, "a2.weight": DOWN}, MatchError, "b1, b2"),
    "a difference that is a vector": ({"diff": torch.zeros(8)}, MatchError, "no matrix"),
    "biases alone": ({"diff_b": torch.zeros(8)}, MatchError, "no update of a weight matrix"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_update_is_refused_with_its_reason(tmp_path, name):
    parts, kind, message = FAULTS[name]
    saved(tmp_path / "base" / "model.safetensors", weights({"d": (8, 8)}))
    adapter = tmp_path / "x.safetensors"
    save_file({f"lora_unet_d.{part}": value.clone() for part, value in parts.items()}, adapter)
    with pytest.raises(kind, match=message):
        open_pairs(tmp_path / "base", adapter)


def test_ia3_of_another_length_is_refused_when_it_is_read(tmp_path):
    saved(tmp_path / "base" / "model.safetensors", weights({"d": (8, 6)}))
    tensors = {"lycoris_d.weight": torch.ones(8), "lycoris_d.on_input": torch.tensor(1)}
    adapter = saved(tmp_path / "x.safetensors", tensors)
    with open_pairs(tmp_path / "base", adapter) as pairs, pytest.raises(MatchError, match="8 values for the inputs"):
        pairs.pair("d.weight")


def test_full_lokr_trained_with_rs_lora_is_refused(tmp_path):
    base = weights({"lin": (16, 24)})
    saved(tmp_path / "base" / "model.safetensors", base)
    parts, _ = lokr_full(base["lin.weight"].double())
    args = {"ss_network_args": json.dumps({"rs_lora": True})}
    adapter = saved(tmp_path / "x.safetensors", {f"lycoris_lin.{part}": v for part, v in parts.items()}, args)
    with pytest.raises(UnsupportedError, match="rs_lora"):
        open_pairs(tmp_path / "base", adapter)


def test_vectors_and_bundled_embeddings_are_skipped_with_their_reason(tmp_path):
    saved(tmp_path / "base" / "model.safetensors", weights({"d": (8, 8)}))
    tensors = {"lora_unet_d.lora_up.weight": UP, "lora_unet_d.lora_down.weight": DOWN, "lora_unet_d.diff_b": random(8)}
    tensors |= {"lora_unet_n.w_norm": random(8), "bundle_emb.token.string_to_param.*": random(1, 8)}
    _, opened = read(tmp_path / "base", saved(tmp_path / "x.safetensors", tensors))
    assert {key: reason.partition(":")[0] for key, reason in opened.skipped} == {
        "lora_unet_d.diff_b": "an update of a bias or of a norm",
        "lora_unet_n.w_norm": "an update of a bias or of a norm",
        "bundle_emb.token.string_to_param.*": "an embedding of a new token bundled with the adapter",
    }


# ---- pipelines


def test_a_pipeline_is_read_with_or_without_its_index(tmp_path):
    parts = {"unet": (weights({"mid": (4, 4)}), {}), "text_encoder": text_encoder()}
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
             "text_encoder": [None, None], "scheduler": ["diffusers", "DDIMScheduler"]}  # fmt: skip
    bare = pipeline(tmp_path / "bare", parts)
    assert components_of(bare) == ("text_encoder", "unet")
    assert components_of(pipeline(tmp_path / "indexed", parts, index)) == ("unet",)
    saved(bare / "model.safetensors", weights({"own": (4, 4)}))
    assert components_of(bare) == ()  # weights of its own and no index: a checkpoint


def test_checkpoints_side_by_side_are_no_pipeline(tmp_path):
    for name in ("checkpoint-500", "checkpoint-1000"):
        saved(tmp_path / name / "model.safetensors", weights({"own": (4, 4)}))
    assert components_of(tmp_path) == ()
    with pytest.raises(InputError, match="holds no weights"):
        open_source(tmp_path)


def test_weights_beside_an_index_are_not_read_and_said_so(tmp_path):
    index = {"unet": ["diffusers", "UNet2DConditionModel"]}
    folder = pipeline(tmp_path / "base", {"unet": (weights({"mid": (4, 4)}), {})}, index)
    saved(folder / "v1-5.safetensors", weights({"own": (4, 4)}))
    source = open_source(folder)
    assert set(source.header.tensors) == {"unet.mid.weight", "unet.mid.bias"}
    assert any("v1-5.safetensors" in note for note in source.header.notes)


def test_each_component_keeps_its_own_orientation(tmp_path):
    gpt2 = {"h.0.attn.c_proj.weight": random(4, 6).float()}
    clip = {"resblocks.0.mlp.c_proj.weight": random(4, 6).float()}
    parts = {"prior": (gpt2, {"model_type": "gpt2"}), "image_encoder": (clip, {"model_type": "clip_vision_model"})}
    base = pipeline(tmp_path / "base", parts)
    with open_pairs(base, base) as pairs:
        kinds = {pair.key: pair.layout.kind for pair in pairs}
    assert kinds == {
        "image_encoder.resblocks.0.mlp.c_proj.weight": "linear",
        "prior.h.0.attn.c_proj.weight": "transposed",
    }


def test_a_tuned_pipeline_is_compared_component_by_component(tmp_path):
    before = {"unet": (weights({"mid": (4, 4)}), {}), "text_encoder": text_encoder()}
    after = {
        name: ({key: value + 1 for key, value in tensors.items()}, config) for name, (tensors, config) in before.items()
    }
    pairs, opened = read(pipeline(tmp_path / "a", before), pipeline(tmp_path / "b", after))
    assert opened.info.method == "full fine-tuning"
    assert len(pairs) == 2
    for pair in pairs.values():
        torch.testing.assert_close(pair.update.dense(), torch.ones(pair.shape))


# ---- diffusers


def named_lora(path, modules, spelling, metadata=None, extra=None):
    tensors, true = {}, {}
    for name, (m, n) in modules.items():
        down, up = random(2, n).float(), random(m, 2).float()
        tensors |= {f"{name}{spelling[0]}": down, f"{name}{spelling[1]}": up}
        true[name] = up @ down
    return saved(path, tensors | (extra or {}), metadata), true


LORA_AB = (".lora_A.weight", ".lora_B.weight")
LORA_DOWN_UP = (".lora.down.weight", ".lora.up.weight")
METADATA = "lora_adapter_metadata"


@pytest.fixture
def attention(tmp_path):
    return pipeline(tmp_path / "base", {"unet": (weights({"a.attn1.to_q": (8, 8), "a.attn1.to_out.0": (8, 8)}), {})})


def test_patterns_and_rs_lora_of_the_metadata_are_followed(tmp_path, attention):
    config = {"unet.r": 2, "unet.lora_alpha": 4, "unet.alpha_pattern": {"attn1.to_q": 10}, "unet.use_rslora": True}
    modules = {"unet.a.attn1.to_q": (8, 8), "unet.a.attn1.to_out.0": (8, 8)}
    path = tmp_path / "a" / "pytorch_lora_weights.safetensors"
    _, true = named_lora(path, modules, LORA_AB, {METADATA: json.dumps(config)})
    pairs, opened = read(attention, path.parent)
    for name, scaling in zip(modules, (10 / 2**0.5, 4 / 2**0.5), strict=True):
        torch.testing.assert_close(pairs[f"{name}.weight"].update.dense(), scaling * true[name])
    assert opened.info.alphas == (4.0, 10.0)
    assert opened.info.scalings == pytest.approx((4 / 2**0.5, 10 / 2**0.5))


def test_without_any_alpha_the_scaling_is_one_and_said_so(tmp_path, attention):
    modules = {"unet.a.attn1.to_q": (8, 8)}
    path, true = named_lora(tmp_path / "x.safetensors", modules, LORA_DOWN_UP)
    pairs, opened = read(attention, path)
    torch.testing.assert_close(pairs["unet.a.attn1.to_q.weight"].update.dense(), true["unet.a.attn1.to_q"])
    assert any("no alpha" in note for note in opened.notes)
    pairs, _ = read(attention, path, alpha=6.0)
    torch.testing.assert_close(pairs["unet.a.attn1.to_q.weight"].update.dense(), 3 * true["unet.a.attn1.to_q"])


@pytest.mark.parametrize("ending", [".alpha", ".lora.alpha"])
def test_an_alpha_beside_the_factors_is_followed(tmp_path, attention, ending):
    extra = {f"unet.a.attn1.to_q{ending}": torch.tensor(8.0)}
    path, true = named_lora(tmp_path / "x.safetensors", {"unet.a.attn1.to_q": (8, 8)}, LORA_DOWN_UP, extra=extra)
    pairs, _ = read(attention, path)
    torch.testing.assert_close(pairs["unet.a.attn1.to_q.weight"].update.dense(), 4 * true["unet.a.attn1.to_q"])
    config = {METADATA: json.dumps({"unet.r": 2, "unet.lora_alpha": 4})}
    path, _ = named_lora(tmp_path / "y.safetensors", {"unet.a.attn1.to_q": (8, 8)}, LORA_DOWN_UP, config, extra)
    with pytest.raises(MatchError, match="its alpha is 8, the metadata says 4"):
        open_pairs(attention, path)


OLD = ("_lora.down.weight", "_lora.up.weight")


def test_names_of_the_first_versions_without_a_component(tmp_path, attention):
    modules = {"a.attn1.processor.to_q": (8, 8), "a.attn1.processor.to_out": (8, 8)}
    path, true = named_lora(tmp_path / "x.safetensors", modules, OLD)
    pairs, _ = read(attention, path)
    torch.testing.assert_close(pairs["unet.a.attn1.to_q.weight"].update.dense(), true["a.attn1.processor.to_q"])
    torch.testing.assert_close(pairs["unet.a.attn1.to_out.0.weight"].update.dense(), true["a.attn1.processor.to_out"])


@pytest.mark.parametrize("front", ["", "text_model."])
@pytest.mark.parametrize(
    "spelling", [("q_proj", ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"), ("to_q", *OLD)]
)
def test_text_encoders_of_old_and_new_files(tmp_path, front, spelling):
    base = pipeline(tmp_path / "base", {"text_encoder": text_encoder(), "unet": (weights({"mid": (4, 4)}), {})})
    name = f"text_encoder.{front}encoder.layers.0.self_attn.{spelling[0]}"
    path, true = named_lora(tmp_path / "x.safetensors", {name: (8, 8)}, spelling[1:])
    (pair,) = read(base, path)[0].values()
    torch.testing.assert_close(pair.update.dense(), true[name])


def test_a_component_alone_is_a_base_too(tmp_path):
    saved(tmp_path / "base" / "model.safetensors", weights({"single_blocks.0.proj_out": (8, 12)}))
    for front in ("transformer.", "diffusion_model."):
        path, true = named_lora(tmp_path / "x.safetensors", {f"{front}single_blocks.0.proj_out": (8, 12)}, LORA_AB)
        pairs, _ = read(tmp_path / "base", path)
        (made,) = true.values()
        torch.testing.assert_close(pairs["single_blocks.0.proj_out.weight"].update.dense(), made)


def test_dora_of_diffusers_is_rescaled(tmp_path, attention):
    magnitude = random(8).abs().float()
    extra = {"unet.a.attn1.to_q.lora_magnitude_vector": magnitude}
    path, true = named_lora(tmp_path / "x.safetensors", {"unet.a.attn1.to_q": (8, 8)}, LORA_AB, extra=extra)
    pair = read(attention, path)[0]["unet.a.attn1.to_q.weight"]
    V = pair.base + true["unet.a.attn1.to_q"]
    expected = magnitude[:, None] * V / V.norm(dim=1, keepdim=True) - pair.base
    torch.testing.assert_close(pair.update.dense(), expected, rtol=1e-5, atol=1e-5)


def test_a_start_that_the_metadata_names_is_subtracted(tmp_path, attention):
    config = {METADATA: json.dumps({"unet.r": 2, "unet.lora_alpha": 2, "unet.init_lora_weights": "pissa"})}
    path, true = named_lora(tmp_path / "x.safetensors", {"unet.a.attn1.to_q": (8, 8)}, LORA_AB, config)
    pairs, opened = read(attention, path)
    pair = pairs["unet.a.attn1.to_q.weight"]
    U, S, Vh = torch.linalg.svd(pair.base.double())
    expected = true["unet.a.attn1.to_q"].double() - U[:, :2] * S[:2] @ Vh[:2]
    torch.testing.assert_close(pair.update.dense().double(), expected, rtol=1e-4, atol=1e-5)
    assert "PiSSA" in opened.info.method
    plain, _ = read(attention, path, as_stored=True)
    torch.testing.assert_close(plain["unet.a.attn1.to_q.weight"].update.dense(), true["unet.a.attn1.to_q"])


def test_what_diffusers_cannot_have_written_is_refused(tmp_path, attention):
    modules = {"unet.a.attn1.to_q": (8, 8)}
    path, _ = named_lora(tmp_path / "x.safetensors", modules, LORA_AB, extra={"unet.strange": random(2, 2)})
    with pytest.raises(UnsupportedError, match=r"unet\.strange"):
        open_pairs(attention, path)
    path, _ = named_lora(
        tmp_path / "y.safetensors", modules, LORA_AB, {METADATA: '{"unet.r": 2, "unet.lora_alpha": "x"}'}
    )
    with pytest.raises(FormatError, match="lora_alpha"):
        open_pairs(attention, path)
    start = {METADATA: json.dumps({"unet.r": 2, "unet.lora_alpha": 2, "unet.init_lora_weights": "corda"})}
    path, _ = named_lora(tmp_path / "z.safetensors", modules, LORA_AB, start)
    with pytest.raises(UnsupportedError, match="corda"):
        open_pairs(attention, path)


# ---- cloneofsimo

TO = ("to_q", "to_k", "to_v", "to_out.0")
BLOCKS = (
    "down_blocks.0.attentions.0",
    "down_blocks.1.attentions.0",
    "up_blocks.0.attentions.0",
    "mid_block.attentions.0",
)
SIZES = (8, 12, 12, 12)


def crossed(between, text=6):
    """A U-Net's attentions, in the order in which torch passes them: the feed-forward between or after them."""
    shapes = {}
    for block, size in zip(BLOCKS, SIZES, strict=True):
        front = f"{block}.transformer_blocks.0"
        own = {f"{front}.attn1.{leaf}": (size, size) for leaf in TO}
        other = {f"{front}.attn2.{leaf}": (size, text if leaf in ("to_k", "to_v") else size) for leaf in TO}
        gate = {f"{front}.ff.net.0.proj": (4 * size, size)}
        shapes |= own | gate | other if between else own | other | gate
    return shapes


def numbered(path, shapes, classes, model="unet"):
    tensors, true = {}, {}
    for index, (name, (m, n)) in enumerate(shapes.items()):
        up, down = random(m, 2).half(), random(2, n).half()
        tensors |= {f"{model}:{index}:up": up, f"{model}:{index}:down": down}
        true[name] = up.float() @ down.float()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {model: json.dumps(classes)} if classes else None)
    return path, true


@pytest.mark.parametrize("between", [True, False])
def test_numbers_are_counted_as_torch_passes_the_modules(tmp_path, between):
    shapes = crossed(between)
    others = {f"{BLOCKS[0]}.transformer_blocks.0.ff.net.2": (8, 32), "conv_in": (8, 4, 3, 3)}
    base = pipeline(tmp_path / "base", {"unet": (weights(shapes | others), {}), "text_encoder": text_encoder()})
    path, true = numbered(tmp_path / "x.safetensors", shapes, ["GEGLU", "CrossAttention"])
    pairs, opened = read(base, path)
    assert len(pairs) == len(shapes)
    for name, dW in true.items():
        torch.testing.assert_close(pairs[f"unet.{name}.weight"].update.dense(), dW)
    assert opened.info.scalings == (1.0,)


def test_an_order_that_shapes_leave_open_is_refused(tmp_path):
    shapes = {f"a.transformer_blocks.0.{name}": (8, 8) for name in ("attn1.to_q", "ff.net.0.proj", "attn2.to_q")}
    saved(tmp_path / "base" / "model.safetensors", weights(shapes))
    path, _ = numbered(tmp_path / "x.safetensors", shapes, ["CrossAttention", "GEGLU"])
    with pytest.raises(MatchError, match="2 orders"):
        open_pairs(tmp_path / "base", path)


def test_a_shape_that_does_not_fit_is_refused_with_its_number(tmp_path):
    shapes = crossed(between=False)
    saved(tmp_path / "base" / "model.safetensors", weights(shapes))
    wrong = dict(shapes) | {list(shapes)[5]: (8, 7)}
    path, _ = numbered(tmp_path / "x.safetensors", wrong, ["CrossAttention", "GEGLU"])
    with pytest.raises(MatchError, match=r"module \d+ makes"):
        open_pairs(tmp_path / "base", path)


def test_the_list_of_a_pickle_has_the_same_numbers(tmp_path):
    shapes = {name: shape for name, shape in crossed(between=True).items() if ".ff." not in name}
    base = pipeline(tmp_path / "base", {"unet": (weights(crossed(between=True)), {}), "text_encoder": text_encoder()})
    factors = [torch.nn.Parameter(random(extent, 2).float() if up else random(2, extent).float())
               for m, n in shapes.values() for up, extent in ((True, m), (False, n))]  # fmt: skip
    torch.save([factor.detach() for factor in factors], tmp_path / "lora.pt")
    pairs, _ = read(base, tmp_path / "lora.pt")
    for index, name in enumerate(shapes):
        torch.testing.assert_close(
            pairs[f"unet.{name}.weight"].update.dense(), factors[2 * index] @ factors[2 * index + 1]
        )


def test_text_encoders_are_counted_by_the_order_of_their_class(tmp_path):
    leaves = ("k_proj", "v_proj", "q_proj", "out_proj")
    shapes = {f"text_model.encoder.layers.{layer}.self_attn.{leaf}": (8, 8) for layer in (0, 2, 10) for leaf in leaves}
    base = pipeline(tmp_path / "base", {"text_encoder": (weights(shapes), CLIP)})
    path, true = numbered(tmp_path / "x.safetensors", shapes, ["CLIPAttention"], "text_encoder")
    pairs, _ = read(base, path)
    for name, dW in true.items():
        torch.testing.assert_close(pairs[f"text_encoder.{name}.weight"].update.dense(), dW)


def test_what_cannot_be_counted_is_refused(tmp_path):
    shapes = {f"a.attn1.{leaf}": (8, 8) for leaf in TO}
    saved(tmp_path / "base" / "model.safetensors", weights(shapes))
    path, _ = numbered(tmp_path / "x.safetensors", shapes, ["LatentTransformer"])
    with pytest.raises(UnsupportedError, match="LatentTransformer"):
        open_pairs(tmp_path / "base", path)
    path, _ = numbered(tmp_path / "y.safetensors", shapes, None)
    with pytest.raises(FormatError, match="does not list the classes"):
        open_pairs(tmp_path / "base", path)
    tensors = {"unet:0:up": UP, "unet:0:down": DOWN, "unet:2:up": UP.clone(), "unet:2:down": DOWN.clone()}
    save_file(tensors, tmp_path / "z.safetensors", {"unet": '["CrossAttention"]'})
    with pytest.raises(MatchError, match="without gaps"):
        open_pairs(tmp_path / "base", tmp_path / "z.safetensors")


# ---- LyCORIS itself, where it is installed


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("LoConModule", {"use_tucker": True}), ("LoConModule", {"weight_decompose": True, "wd_on_out": False}),
        ("LohaModule", {"use_tucker": True}), ("LokrModule", {"factor": 2, "use_tucker": True, "lora_dim": 2}),
        ("GLoRAModule", {}), ("DiagOFTModule", {"constraint": 0.01, "rescaled": True}),
        ("ButterflyOFTModule", {"rescaled": True}),
    ],
)  # fmt: skip
def test_what_lycoris_computes_is_read(tmp_path, module, options):
    lycoris = pytest.importorskip("lycoris.modules")
    layer = torch.nn.Conv2d(8, 16, 3, bias=False)
    made = getattr(lycoris, module)("x", layer, 1.0, **({"lora_dim": 4, "alpha": 1.0} | options))
    for parameter in made.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    impulses = torch.eye(72).view(72, 8, 3, 3)
    with torch.no_grad():
        true = made.eval()(impulses).flatten(1).T.view(16, 8, 3, 3) - layer.weight
        tensors = {f"lycoris_conv.{part}": value.detach().clone() for part, value in made.state_dict().items()}
    saved(tmp_path / "base" / "model.safetensors", {"conv.weight": layer.weight.detach()})
    pairs, _ = read(tmp_path / "base", saved(tmp_path / "x.safetensors", tensors))
    pair = pairs["conv.weight"]
    torch.testing.assert_close(pair.to_stored(pair.update.dense()), true, rtol=1e-4, atol=2e-5)
