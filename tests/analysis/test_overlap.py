"""Two models of one base beside each other: what both change, what one of them does, and matrices with a fault."""

import json
from dataclasses import replace

import pytest
import torch

import spectra
from spectra import testing
from spectra.analysis.overlap import overlap
from spectra.analysis.settings import Settings
from spectra.errors import InputError, UsageError
from spectra.updates import LowRank


def adapted(base, factors):
    updates = {f"{module}.weight": LowRank(*each).dense() for module, each in factors.items()}
    return {key: tensor + updates[key] if key in updates else tensor for key, tensor in base.items()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two adapters of one base, ranks 4 and 8, the first one's directions within the second's on both sides."""
    folder, base = tmp_path_factory.mktemp("pair"), testing.llama(seed=1)
    testing.save_checkpoint(folder / "base", base)
    small = testing.lora(base, ("q_proj", "v_proj"), rank=4, seed=2)
    more = testing.lora(base, ("q_proj", "v_proj", "o_proj"), rank=4, seed=3)
    large = {
        name: (torch.cat([small[name][0], B], 1), torch.cat([small[name][1], A])) if name in small else (B, A)
        for name, (B, A) in more.items()
    }
    testing.save_lora(folder / "small", small, alpha=4)
    testing.save_lora(folder / "large", {name: each for name, each in large.items() if name in small}, alpha=8)
    testing.save_lora(folder / "more", more, alpha=4)
    return folder


def test_a_run_within_another_is_seen(pair):
    found = overlap(pair / "base", pair / "small", pair / "large")
    assert len(found.measured) == len(found.rows) == 4
    for row in found.rows:
        assert (row.k, row.rank, row.gap[0]) == (4, (4, 8), 1.0)
        for side in row.sides:
            assert side.phi[3][7] == pytest.approx(1, abs=1e-6)
            assert side.shared < 1
            assert side.chance == pytest.approx(4 / 32)


def test_a_model_with_itself_shares_all(pair):
    found = overlap(pair / "base", pair / "small", pair / "small", settings=Settings(k=2))
    assert found.cosine == pytest.approx(1)
    assert found.summary["left"]["shared"] == pytest.approx(1)
    assert max(angle for row in found.rows for side in row.sides for angle in side.angles) < 1e-6
    assert found.summary["k"] == 2


def test_swapping_the_two_swaps_the_answer(pair):
    one, other = (overlap(pair / "base", *pair_) for pair_ in (
        (pair / "small", pair / "more"), (pair / "more", pair / "small"),
    ))  # fmt: skip
    assert one.only == tuple(reversed(other.only))
    assert one.cosine == pytest.approx(other.cosine)
    for row, turned in zip(one.rows, other.rows, strict=True):
        assert torch.allclose(torch.tensor(row.sides[0].phi), torch.tensor(turned.sides[0].phi).T)


def test_a_matrix_that_one_alone_changes_is_listed(pair):
    found = overlap(pair / "base", pair / "small", pair / "more")
    assert found.only == ((), tuple(f"model.layers.{block}.self_attn.o_proj.weight" for block in range(2)))
    assert found.summary["only_second"] == 2


def test_adapters_and_what_they_merge_to_agree(pair):
    """A full fine-tune has no factors: its directions come from a decomposition of dW."""
    base = testing.llama(seed=1)
    merged = adapted(base, testing.lora(base, ("q_proj", "v_proj"), rank=4, seed=2))
    found = overlap(pair / "base", pair / "small", merged)
    for row in found.rows:
        assert row.alignment.cosine == pytest.approx(1, abs=1e-5)
        assert row.sides[0].shared == pytest.approx(1, abs=1e-5)


def test_a_zero_update_is_a_row_that_says_so(pair, tmp_path):
    base = testing.llama(seed=1)
    factors = testing.lora(base, ("q_proj", "v_proj"), rank=4, seed=2)
    dead = {name: (torch.zeros_like(B) if ".0." in name else B, A) for name, (B, A) in factors.items()}
    testing.save_lora(tmp_path / "dead", dead, alpha=4)
    found = overlap(pair / "base", pair / "small", tmp_path / "dead")
    assert [row.status for row in found.rows] == ["zero_update", "zero_update", "ok", "ok"]
    assert "the second model is zero" in found.rows[0].reason
    assert (found.failed, len(found.measured)) == (0, 2)
    assert found.rows[0]["left"] is None


def test_nan_is_a_row_that_failed(pair):
    base = testing.llama(seed=1)
    broken = adapted(base, testing.lora(base, ("q_proj",), rank=2, seed=4))
    broken["model.layers.0.self_attn.q_proj.weight"][0, 0] = float("nan")
    found = overlap(pair / "base", pair / "small", broken)
    assert [row.status for row in found.rows] == ["nonfinite", "zero_update", "ok", "zero_update"]
    assert found.failed == 1


def test_models_with_nothing_in_common_are_refused(pair, tmp_path):
    base = testing.llama(seed=1)
    testing.save_lora(tmp_path / "k", testing.lora(base, ("k_proj",), seed=5), alpha=4)
    with pytest.raises(UsageError, match="no matrix in common"):
        overlap(pair / "base", pair / "small", tmp_path / "k")


def test_a_missing_model_is_refused(pair):
    with pytest.raises(InputError):
        overlap(pair / "base", pair / "small", pair / "nowhere")


def test_blocks_are_summed_up_in_order(pair):
    found = overlap(pair / "base", pair / "small", pair / "more")
    numbers = {"layers.0": "layers.10", "layers.1": "layers.9"}
    rows = [replace(row, name=row.name.replace(old := row.name[6:14], numbers[old])) for row in found.rows]
    assert [block for block, _, _ in replace(found, rows=tuple(rows)).by_block("left")] == [9, 10]


def test_the_result_prints_and_is_data(pair, tmp_path):
    found = spectra.overlap(pair / "base", pair / "small", pair / "large", k=3)
    assert "share" in str(found)
    assert repr(found).startswith("<Overlap of 4 matrices")
    document = json.loads(found.to_json())
    assert document["summary"]["measured"] == 4
    assert [document["provenance"][name]["label"] for name in ("first", "second")] == ["small", "large"]
    assert "phi" not in found.to_csv(tmp_path / "rows.csv").splitlines()[0]
    assert [path.name for path in found.save_figures(tmp_path, ["svg"])] == ["overlap.svg", "overlap-by-block.svg"]


def test_two_stages_of_one_run_are_nearly_one_update(real_data, real_bases):
    base = real_bases / "gemma-3-270m-q4_k_m.gguf"
    stages = [real_data / "pairs" / "gemma3_270m" / f"aowei_stage{stage}_seed42" for stage in (1, 2)]
    found = overlap(base, *stages, include=["blk.3."])
    assert found.cosine > 0.9
    assert found.summary["left"]["shared"] > 0.8


def test_two_strangers_of_one_seed_share_the_start_of_a(real_data, real_bases):
    """Their input directions agree because PEFT drew the same A for both: the output directions do not."""
    base = real_bases / "gemma-3-270m-q4_k_m.gguf"
    folder = real_data / "pairs" / "gemma3_270m"
    found = spectra.overlap(base, folder / "aowei_stage1_seed42", folder / "zouhe0_r4_qkvo", include=["blk.3."])
    assert found.summary["right"]["shared"] > 0.8
    assert found.summary["left"]["shared"] < 0.15
    assert "Input directions alone agree" in " ".join(str(found).split())
