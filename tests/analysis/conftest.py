"""A pico model, an adapter of it and a full fine-tune of it, in memory and on disk."""

import pytest

from spectra import testing

TARGETS = ("q_proj", "v_proj", "down_proj")


@pytest.fixture(scope="session")
def base():
    return testing.llama(seed=1)


@pytest.fixture(scope="session")
def tuned(base):
    """Every matrix moved a little, so that some leading directions give way."""
    return {
        key: tensor + testing.noise(*tensor.shape, level=0.4, seed=at).float() if tensor.ndim == 2 else tensor
        for at, (key, tensor) in enumerate(base.items())
    }


@pytest.fixture(scope="session")
def folders(base, tuned, tmp_path_factory):
    """Paths: "base", "full" (a fine-tune), "lora" and "other" (adapters)."""
    folder = tmp_path_factory.mktemp("models")
    testing.save_checkpoint(folder / "base", base)
    testing.save_checkpoint(folder / "full", tuned)
    testing.save_lora(folder / "lora", testing.lora(base, TARGETS, strength=0.6, seed=2), alpha=8)
    testing.save_lora(folder / "other", testing.lora(base, ("q_proj",), rank=2, strength=0.9, seed=3), alpha=2)
    return folder
