"""Base and tuned that do not belong together, or only in part: shapes, vocabularies, ties, names."""

import json

import pytest
import torch
from safetensors.torch import save_file

from spectra.errors import InputError, MatchError, UnsupportedError
from spectra.loaders.pairing import open_pairs

Q = "model.layers.0.self_attn.q_proj"


def reasons(opened):
    return dict(opened.skipped)


SHAPES = {
    "another width": ((16, 16), (16, 24), ""),
    "another height": ((16, 16), (24, 16), ""),
    "transposed": ((16, 24), (24, 16), "Transposed they would fit"),
    "another number of dimensions": ((16, 16), (16, 16, 1), ""),
    "a kernel of another size": ((8, 4, 3, 3), (8, 4, 1, 1), ""),
}


@pytest.mark.parametrize(("before", "after", "hint"), SHAPES.values(), ids=SHAPES)
def test_shapes_that_disagree_are_both_named_before_anything_is_measured(tmp_path, craft, refused, before, after, hint):
    base = craft.model(tmp_path / "b", {f"{Q}.weight": torch.randn(before)})
    tuned = craft.model(tmp_path / "t", {f"{Q}.weight": torch.randn(after)})
    refused(
        lambda: open_pairs(base, tuned), f"'{Q}.weight'", str(list(before)), str(list(after)), hint, kind=MatchError
    )


FACTORS = {
    "A for another width": ((16, 4), (4, 24), ""),
    "B for another height": ((24, 4), (4, 16), ""),
    "both for another matrix": ((24, 4), (4, 8), ""),
    "B A transposed": ((32, 4), (4, 16), "Transposed they would fit"),
}


@pytest.mark.parametrize(("B", "A", "hint"), FACTORS.values(), ids=FACTORS)
def test_factors_that_do_not_fit_their_weight_are_refused_with_both_shapes(tmp_path, craft, refused, B, A, hint):
    shape = (16, 32) if hint else (16, 16)
    config = {"model_type": "llama"}  # where the architecture is known, a transposed fit is no layout
    base = craft.model(tmp_path / "b", {f"{Q}.weight": torch.randn(shape)}, config)
    adapter = craft.adapter(
        tmp_path / "a", {f"{Q}.lora_B.weight": torch.randn(B), f"{Q}.lora_A.weight": torch.randn(A)}
    )
    refused(
        lambda: open_pairs(base, adapter), f"'{Q}.weight'", str(list(shape)), str([B[0], A[1]]), hint, kind=MatchError
    )


MISSING = {"lora_A": "lora_B", "lora_B": "lora_A"}


@pytest.mark.parametrize(("gone", "left"), MISSING.items())
def test_a_lone_factor_is_refused(tmp_path, base, craft, refused, gone, left):
    factors = craft.factors(craft.modules[:2])
    del factors[f"{craft.modules[0]}.{gone}.weight"]
    adapter = craft.adapter(tmp_path / "a", factors)
    refused(lambda: open_pairs(base, adapter), f"'{craft.modules[0]}'", f"missing ({left} is there)", kind=MatchError)


def test_two_random_models_of_one_shape_are_said_not_to_be_base_and_fine_tune(tmp_path, base, craft, diagnose):
    report = diagnose(base, craft.model(tmp_path / "t", craft.weights(seed=9)))
    (finding,) = [finding for finding in report.findings if finding.code == "SP103"]
    assert finding.severity == "warning"
    assert "do not look like base and fine-tune" in finding.message
    assert len(finding.keys) == 12


def test_a_true_fine_tune_is_not_said_to_be_of_another_base(tmp_path, base, craft, diagnose):
    moved = craft.weights(seed=9)
    near = {name: weight + 0.02 * moved[name] for name, weight in craft.weights(seed=0).items()}
    assert not [one for one in diagnose(base, craft.model(tmp_path / "t", near)).findings if one.code == "SP103"]


def test_an_adapter_of_a_model_of_other_names_is_refused(tmp_path, base, craft, refused):
    adapter = craft.adapter(tmp_path / "a", craft.factors(("encoder.block.0.SelfAttention.q",)))
    refused(lambda: open_pairs(base, adapter), "encoder.block.0.SelfAttention.q", "the nearest there", lines=3)


def test_base_and_adapter_swapped_are_refused_with_a_word_on_it(tmp_path, base, craft, refused):
    adapter = craft.adapter(tmp_path / "a", craft.factors(craft.modules))
    for given in (adapter, adapter / "adapter_model.safetensors"):
        refused(lambda given=given: open_pairs(given, base), "is an adapter. Give the base first", kind=MatchError)


@pytest.fixture(params=["full", "lora"])
def resized(request, tmp_path, craft):
    """Make a base and a tuned model whose embedding and head have other numbers of rows."""

    def _resized(before, after):
        names = ("model.embed_tokens", "lm_head")
        base = {f"{name}.weight": torch.randn(before, 8) for name in names}
        folder = craft.model(tmp_path / "b", base, {"model_type": "llama", "tie_word_embeddings": False})
        if request.param == "full":
            tuned = {key: torch.cat([weight, torch.ones(3, 8)])[:after] + 0.01 for key, weight in base.items()}
            return folder, craft.model(tmp_path / "t", tuned), base
        factors = {
            "model.embed_tokens.lora_embedding_A": torch.randn(2, after),
            "model.embed_tokens.lora_embedding_B": torch.randn(8, 2),
            "lm_head.lora_A.weight": torch.randn(2, 8),
            "lm_head.lora_B.weight": torch.randn(after, 2),
        }
        return folder, craft.adapter(tmp_path / "t", factors, r=2), base

    return _resized


@pytest.mark.parametrize(("before", "after", "who"), [(20, 23, "the tuned side"), (20, 17, "the base")])
def test_a_resized_vocabulary_is_compared_on_its_common_rows(resized, pairs, diagnose, before, after, who):
    base, tuned, weights = resized(before, after)
    for key, pair in pairs(base, tuned).items():
        common = min(before, after)
        assert pair.shape == (common, 8)
        assert torch.equal(pair.base, weights[key][:common])
        assert pair.update.dense().shape == (common, 8)
        assert f"3 rows that only {who} has are left out (vocabulary)" in pair.notes
    report = diagnose(base, tuned)
    assert [row.status for row in report.rows] == ["ok", "ok"]
    assert all(any("left out (vocabulary)" in note for note in row.notes) for row in report.rows)


def test_an_embedding_saved_whole_beside_an_adapter_is_compared_on_its_common_rows(tmp_path, craft, pairs):
    base = craft.model(tmp_path / "b", {"model.embed_tokens.weight": torch.zeros(20, 16), f"{Q}.weight": torch.eye(16)})
    factors = {**craft.factors((Q,)), "model.embed_tokens.weight": torch.ones(23, 16)}
    read = pairs(base, craft.adapter(tmp_path / "a", factors))
    assert torch.equal(read["model.embed_tokens.weight"].update.dense(), torch.ones(20, 16))


def test_an_embedding_of_another_width_is_refused(tmp_path, craft, refused):
    base = craft.model(tmp_path / "b", {"model.embed_tokens.weight": torch.zeros(20, 16)})
    tuned = craft.model(tmp_path / "t", {"model.embed_tokens.weight": torch.zeros(23, 8)})
    refused(lambda: open_pairs(base, tuned), "[20, 16]", "[23, 8]", kind=MatchError)


def tied_bin(folder, embedding, **more):
    """A torch file where the head is the embedding: two names on one storage."""
    folder.mkdir()
    torch.save(
        {"model.embed_tokens.weight": embedding, **more, "lm_head.weight": embedding}, folder / "pytorch_model.bin"
    )
    return folder


def test_a_weight_tied_in_a_torch_file_is_measured_and_counted_once(tmp_path, craft, diagnose):
    embedding, q = torch.randn(20, 16), torch.randn(16, 16)
    base = tied_bin(tmp_path / "b", embedding, **{f"{Q}.weight": q})
    tuned = tied_bin(tmp_path / "t", embedding + 0.1 * torch.randn(20, 16), **{f"{Q}.weight": q + 0.1})
    report = diagnose(base, tuned)
    assert [row.key for row in report.rows] == ["model.embed_tokens.weight", f"{Q}.weight"]
    assert "tied: it shares its storage with 'model.embed_tokens.weight'" in dict(report.skipped)["lm_head.weight"]
    assert report.summary["parameters"]["base"] == 20 * 16 + 16 * 16
    assert report.summary["parameters"]["tuned"] == 20 * 16 + 16 * 16


def test_a_tied_head_is_the_same_in_a_torch_file_and_in_safetensors(tmp_path, craft, diagnose):
    embedding = torch.randn(20, 16)
    config = {"model_type": "llama", "tie_word_embeddings": True}
    (tied_bin(tmp_path / "b1", embedding) / "config.json").write_text(json.dumps(config))
    craft.model(tmp_path / "b2", {"model.embed_tokens.weight": embedding}, config)
    changed = embedding + 0.1 * torch.randn(20, 16)
    tied_bin(tmp_path / "t1", changed)
    craft.model(tmp_path / "t2", {"model.embed_tokens.weight": changed})
    rows = [diagnose(tmp_path / base, tmp_path / tuned).rows for base in ("b1", "b2") for tuned in ("t1", "t2")]
    assert [len(found) for found in rows] == [1, 1, 1, 1]
    assert len({found[0].rank.effective for found in rows}) == 1


@pytest.mark.parametrize("container", ["bin", "safetensors"])
def test_an_adapter_of_a_tied_head_is_read_on_the_embedding(tmp_path, craft, pairs, container):
    embedding, config = torch.randn(20, 16), {"model_type": "llama", "tie_word_embeddings": True}
    base = craft.model(tmp_path / "b", {"model.embed_tokens.weight": embedding}, config)
    if container == "bin":
        (tied_bin(tmp_path / "b1", embedding) / "config.json").write_text(json.dumps(config))
        base = tmp_path / "b1"
    read = pairs(base, craft.adapter(tmp_path / "a", craft.factors(("lm_head",), m=20)))
    assert list(read) == ["model.embed_tokens.weight"]


def test_a_misspelt_module_is_named_with_the_nearest(tmp_path, base, craft, refused):
    factors = craft.factors((*craft.modules[:2], "model.layers.1.self_attn.q_porj"))
    adapter = craft.adapter(tmp_path / "a", factors)
    message = refused(lambda: open_pairs(base, adapter), "'a' cannot be read", kind=MatchError)
    assert (
        "'model.layers.1.self_attn.q_porj' matches nothing in the base (the nearest there: 'model.layers.1.self_attn.q_proj')"
        in message
    )


def test_what_is_unmatched_is_skipped_by_name_when_that_is_allowed(tmp_path, base, craft):
    factors = craft.factors((*craft.modules[:2], "model.layers.1.self_attn.q_porj"))
    opened = open_pairs(base, craft.adapter(tmp_path / "a", factors), allow_unmatched=True)
    assert set(opened.keys) == set(craft.names[:2])
    skipped = {key for key, reason in opened.skipped if "matches nothing" in reason}
    assert len(skipped) == 2
    assert all("q_porj" in key for key in skipped)


def test_of_many_unmatched_the_first_ten_are_listed(tmp_path, base, craft, refused):
    adapter = craft.adapter(tmp_path / "a", craft.factors(tuple(f"other.{number}.proj" for number in range(14))))
    message = refused(lambda: open_pairs(base, adapter), "14 reasons", "and 4 more", kind=MatchError, lines=13)
    assert message.count("the nearest there") <= 10


def test_an_error_about_ten_thousand_names_takes_no_time(tmp_path, craft, refused):
    tensors = {f"model.layers.{layer}.mlp.experts.{expert}.w{number}.weight": torch.zeros(1, 1) for layer in range(20) for expert in range(100) for number in range(5)}  # fmt: skip
    base = craft.model(tmp_path / "b", tensors)
    adapter = craft.adapter(tmp_path / "a", craft.factors(tuple(f"odd.{number}.q_proj" for number in range(20))))
    refused(lambda: open_pairs(base, adapter), "20 reasons", kind=MatchError, lines=13)


def test_thousands_of_names_that_begin_differently_take_no_time(tmp_path, craft, refused):
    base = craft.model(tmp_path / "b", {f"x{number}.y.z.weight": torch.zeros(1, 1) for number in range(3000)})
    tuned = craft.model(tmp_path / "t", {f"q{number}.y.z.weight": torch.zeros(1, 1) for number in range(3000)})
    refused(lambda: open_pairs(base, tuned), "3,000 reasons", kind=MatchError, lines=13)


SPELLINGS = {
    "as PEFT writes it": "base_model.model.{module}.{factor}.weight",
    "with the adapter's name": "base_model.model.{module}.{factor}.default.weight",
    "with a name of its own": "base_model.model.{module}.{factor}.my-adapter.weight",
    "without PEFT's prefix": "{module}.{factor}.weight",
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("module", ["model.layers.0.self_attn.q_proj", "model.weight_net.0.weights", "weight"])
def test_names_are_read_in_every_spelling_whatever_the_module_is_called(tmp_path, craft, pairs, spelling, module):
    base = craft.model(tmp_path / "b", {f"{module}.weight": torch.eye(16), "other.weight": torch.eye(16)})
    folder = craft.adapter(tmp_path / "a", craft.factors((module,)))
    factors = craft.factors((module,))
    B, A = factors[f"{module}.lora_B.weight"], factors[f"{module}.lora_A.weight"]
    named = {spelling.format(module=module, factor=factor): tensor for factor, tensor in (("lora_A", A), ("lora_B", B))}
    save_file(named, folder / "adapter_model.safetensors")
    (pair,) = pairs(base, folder).values()
    assert pair.key == f"{module}.weight"
    assert torch.allclose(pair.update.dense(), 2 * B @ A)


MIXED = {
    "two names": ("first", "second"),
    "a name and none": ("default", None),
}


@pytest.mark.parametrize("names", MIXED.values(), ids=MIXED)
def test_two_adapters_in_one_file_are_refused(tmp_path, base, craft, refused, names):
    factors = {}
    for key, tensor in craft.factors(craft.modules[:2]).items():
        for name in names:
            factors[key.replace(".weight", f".{name}.weight") if name else key] = tensor.clone()
    adapter = craft.adapter(tmp_path / "a", factors)
    refused(lambda: open_pairs(base, adapter), "mixes several adapters", *filter(None, names), kind=UnsupportedError)


def test_one_factor_under_two_spellings_is_refused(tmp_path, base, craft, refused):
    folder = craft.adapter(tmp_path / "a", craft.factors(craft.modules[:1]))
    tensors = {
        f"{prefix}{key}": tensor
        for key, tensor in craft.factors(craft.modules[:1]).items()
        for prefix in ("base_model.model.", "")
    }
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    refused(lambda: open_pairs(base, folder), "name the same factor", kind=InputError)


def test_tensors_of_a_tuned_model_that_the_base_lacks_are_listed(tmp_path, base, craft):
    tuned = {**craft.weights(seed=1), "extra.weight": torch.eye(4), "extra.bias": torch.ones(4)}
    skipped = reasons(open_pairs(base, craft.model(tmp_path / "t", tuned)))
    assert {"extra.weight", "extra.bias"} <= skipped.keys()


def test_weights_the_tuned_model_lacks_are_listed(tmp_path, base, craft):
    tuned = craft.weights(seed=1)
    del tuned[craft.names[4]]
    opened = open_pairs(base, craft.model(tmp_path / "t", tuned))
    assert reasons(opened)[craft.names[4]] == "not in the tuned checkpoint"
    assert len(opened) == 11
