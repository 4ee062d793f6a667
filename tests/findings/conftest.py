"""A small model and what may be trained on it, written to disk and diagnosed as a user would."""

import pytest

from spectra import testing
from spectra.analysis.diagnosis import diagnose


@pytest.fixture(scope="session")
def tensors():
    """A Llama of four blocks, whose matrices are wide enough for a count of intruders to mean something."""
    return testing.llama(seed=3, blocks=4, width=128, vocabulary=160)


@pytest.fixture(scope="session")
def base(tmp_path_factory, tensors):
    return testing.save_checkpoint(tmp_path_factory.mktemp("base") / "base", tensors)


@pytest.fixture
def lora(tmp_path, tensors):
    """Write an adapter of q_proj and v_proj; `change` may edit its factors (B, A) by module first."""

    def write(change=None, *, targets=("q_proj", "v_proj"), rank=4, strength=0.05, alpha=None, **config):
        factors = testing.lora(tensors, targets, rank=rank, strength=strength, seed=11)
        if change is not None:
            factors = change(factors)
        return testing.save_lora(tmp_path / "adapter", factors, alpha=rank if alpha is None else alpha, **config)

    return write


@pytest.fixture
def full(tmp_path, tensors):
    """Write a full fine-tune: every matrix a little moved, then `change` on its tensors."""

    def write(change=None, *, strength=0.05, dtype=None):
        tuned = {
            key: W0 + testing.noise(*W0.shape, level=strength, seed=at).float() if W0.ndim > 1 else W0
            for at, (key, W0) in enumerate(tensors.items())
        }
        tuned = tuned if change is None else change(tuned)
        kept = {key: tensor if dtype is None else tensor.to(dtype) for key, tensor in tuned.items()}
        return testing.save_checkpoint(tmp_path / "full", kept)

    return write


@pytest.fixture
def raised():
    """Diagnose a pair; return what was found under one code."""

    def find(code, base, tuned, **reading):
        return [finding for finding in diagnose(base, tuned, **reading).findings if finding.code == code]

    return find
