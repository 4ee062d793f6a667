"""One model stored in two layouts has the same intruders: Conv1D, convolutions, embeddings, odd ranks."""

import json

import pytest
import torch

from spectra.loaders.pairing import open_pairs

GPT2 = {"model_type": "gpt2"}
SHAPES = {  # [out, in]
    "h.0.attn.c_attn": (72, 24),
    "h.0.attn.c_proj": (24, 24),
    "h.0.mlp.c_fc": (96, 24),
    "h.0.mlp.c_proj": (24, 96),
}


def gpt2(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {module: scale * torch.randn(shape, generator=generator) for module, shape in SHAPES.items()}


def measured(report):
    return {row.key: (row.shape, row.intruders[0].count, [round(value, 4) for value in row.intruders[0].similarity]) for row in report.rows}  # fmt: skip


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_gpt2_stored_as_conv1d_and_as_linear_has_the_same_intruders(tmp_path, craft, kind, side):
    from spectra.analysis.diagnosis import diagnose
    from spectra.analysis.settings import Settings

    base, moved = gpt2(0), gpt2(1, 3.0)
    found = []
    for name, config in (("conv1d", GPT2), ("linear", {"model_type": "llama"})):

        def stored(matrices, turned=name == "conv1d"):
            return {f"{module}.weight": matrix.T if turned else matrix for module, matrix in matrices.items()}

        folder = craft.model(tmp_path / name, stored(base), config)
        tuned = craft.model(tmp_path / f"{name}-t", stored({key: base[key] + moved[key] for key in base}))
        if kind == "lora":
            factors = {}
            for module, (m, n) in SHAPES.items():
                factors |= craft.factors((module,), m=m, n=n)
            tuned = craft.adapter(tmp_path / f"{name}-a", {key: 3 * tensor for key, tensor in factors.items()})
        found.append(measured(diagnose(folder, tuned, settings=Settings(side=side))))
    conv1d, linear = found
    assert conv1d == linear
    assert {key: shape for key, (shape, _, _) in conv1d.items()} == {
        f"{key}.weight": shape for key, shape in SHAPES.items()
    }
    assert any(count for _, count, _ in conv1d.values())


def test_pairs_of_conv1d_have_rows_of_outputs_and_go_back_to_the_file_s_layout(tmp_path, craft, pairs):
    stored = {f"{module}.weight": matrix.T for module, matrix in gpt2(0).items()}
    base = craft.model(tmp_path / "b", stored, GPT2)
    tuned = craft.model(tmp_path / "t", {key: tensor + 1 for key, tensor in stored.items()})
    for key, pair in pairs(base, tuned).items():
        assert pair.shape == SHAPES[key.removesuffix(".weight")]
        assert torch.equal(pair.to_stored(pair.base), stored[key])


def test_without_a_configuration_a_fused_attention_tells_conv1d(tmp_path, craft, pairs):
    stored = {f"{module}.weight": matrix.T for module, matrix in gpt2(0).items()}
    base = craft.model(tmp_path / "b", stored)
    read = pairs(base, craft.model(tmp_path / "t", {key: tensor + 1 for key, tensor in stored.items()}))
    assert read["h.0.attn.c_proj.weight"].layout.kind == "transposed"


def test_a_convolution_is_read_as_outputs_by_everything_else(tmp_path, craft, pairs):
    kernel = torch.randn(8, 4, 3, 3)
    base = craft.model(tmp_path / "b", {"conv.weight": kernel})
    (pair,) = pairs(base, craft.model(tmp_path / "t", {"conv.weight": kernel + 1})).values()
    assert pair.shape == (8, 36)
    assert torch.equal(pair.base, kernel.reshape(8, 36))
    assert torch.equal(pair.to_stored(pair.base), kernel)


def test_lora_of_a_convolution_is_the_product_of_its_kernels(tmp_path, craft, pairs):
    A, B = torch.randn(2, 4, 3, 3), torch.randn(8, 2, 1, 1)
    base = craft.model(tmp_path / "b", {"conv.weight": torch.randn(8, 4, 3, 3)})
    adapter = craft.adapter(tmp_path / "a", {"conv.lora_A.weight": A, "conv.lora_B.weight": B}, r=2, lora_alpha=2)
    (pair,) = pairs(base, adapter).values()
    expected = torch.einsum("or,rikl->oikl", B[:, :, 0, 0], A)
    assert torch.allclose(pair.to_stored(pair.update.dense()), expected, atol=1e-5)


def test_lora_of_an_embedding_has_rows_of_tokens(tmp_path, craft, pairs):
    A, B = torch.randn(2, 20), torch.randn(8, 2)
    base = craft.model(tmp_path / "b", {"model.embed_tokens.weight": torch.randn(20, 8)})
    factors = {"model.embed_tokens.lora_embedding_A": A, "model.embed_tokens.lora_embedding_B": B}
    (pair,) = pairs(base, craft.adapter(tmp_path / "a", factors, r=2, lora_alpha=2)).values()
    assert torch.allclose(pair.update.dense(), (B @ A).T, atol=1e-5)


def test_vectors_and_scalars_are_listed_as_skipped(tmp_path, craft, diagnose):
    more = {"model.norm.weight": torch.ones(16), "logit_scale": torch.tensor(1.0), "q.bias": torch.ones(16)}
    base = craft.model(tmp_path / "b", {**craft.weights(seed=0), **more})
    report = diagnose(base, craft.model(tmp_path / "t", {**craft.weights(seed=1), **more}))
    assert set(more) <= dict(report.skipped).keys()
    assert all("vector or scalar" in dict(report.skipped)[key] for key in more)
    assert len(report.rows) == 12


ODD = {
    "a three-dimensional Conv1D": ("h.0.attn.c_attn.weight", (4, 4, 12)),
    "sixty-four dimensions": ("deep.weight", (1,) * 63 + (4,)),
    "one by one": ("tiny.weight", (1, 1)),
    "one row": ("row.weight", (1, 50)),
    "one column": ("column.weight", (50, 1)),
    "no columns": ("none.weight", (4, 0)),
}


@pytest.mark.parametrize(("key", "shape"), ODD.values(), ids=ODD)
def test_weights_of_odd_shapes_are_measured_or_skipped_and_break_nothing(tmp_path, craft, diagnose, key, shape):
    tensors = {"w.weight": torch.randn(8, 8), key: torch.randn(shape)}
    base = craft.model(tmp_path / "b", tensors, GPT2)
    tuned = craft.model(
        tmp_path / "t", {name: tensor + 0.1 * torch.randn(tensor.shape) for name, tensor in tensors.items()}
    )
    report = diagnose(base, tuned)
    assert key in {row.key for row in report.rows} | dict(report.skipped).keys()
    assert report.failed == 0
    json.loads(report.to_json())


def test_every_tensor_of_both_sides_is_a_row_or_skipped(tmp_path, craft):
    tensors = {**craft.weights(seed=0), "norm.weight": torch.ones(4), "ids": torch.arange(4), "s": torch.tensor(1.0)}
    base = craft.model(tmp_path / "b", {**tensors, "only_base.weight": torch.eye(4)})
    opened = open_pairs(base, craft.model(tmp_path / "t", {**tensors, "only_tuned.weight": torch.eye(4)}))
    accounted = set(opened.keys) | {key for key, _ in opened.skipped}
    assert accounted == {*tensors, "only_base.weight", "only_tuned.weight"}
