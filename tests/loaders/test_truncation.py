"""DyLoRA at one of its ranks."""

import pytest
import torch

from spectra import open_pairs, testing
from spectra.errors import UsageError


@pytest.fixture
def models(tmp_path):
    base = testing.llama(seed=1, blocks=1, width=32, vocabulary=48)
    folder = testing.save_checkpoint(tmp_path / "base", base)
    factors = testing.lora(base, ("q_proj", "up_proj"), rank=4, strength=0.6, seed=2)
    return folder, testing.save_lora(tmp_path / "lora", factors, alpha=8)


@pytest.mark.parametrize("rank", [1, 3, 4])
def test_a_truncation_is_the_first_pieces_with_the_scale_of_the_whole(models, rank):
    with open_pairs(*models) as whole, open_pairs(*models, truncate=rank) as cut:
        assert cut.info.ranks == (rank,)
        assert any(f"rank {rank}" in note for note in cut.notes)
        for full, pair in zip(whole, cut, strict=True):
            B, A = full.update.factors
            torch.testing.assert_close(pair.update.dense(), B[:, :rank] @ A[:rank])
            assert pair.allotted == rank


@pytest.mark.parametrize(("rank", "said"), [(0, "above zero"), (-1, "above zero"), (1.5, "whole"), (5, "at most 4")])
def test_a_rank_that_is_not_there_is_refused(models, rank, said):
    with pytest.raises(UsageError, match=said):
        open_pairs(*models, truncate=rank)


@pytest.mark.parametrize("case", ["lora_dora", "loha", "hra", "vblora"])
def test_factors_that_are_no_row_of_pieces_are_not_cut(oracle, case):
    with pytest.raises(UsageError, match="plain LoRA"):
        open_pairs(oracle / case / "base", oracle / case / "adapter", truncate=1)


@pytest.mark.parametrize("case", ["kohya_dylora", "lycoris_dylora"])
def test_dylora_files_are_cut(oracle, case):
    with open_pairs(oracle / case / "base", oracle / case / "adapter", truncate=1) as pairs:
        assert {pair.update.factors[0].shape[1] for pair in pairs} == {1}
