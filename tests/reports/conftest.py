"""Reports that several outputs are tried on: an ordinary one, one with hostile names, one of five hundred matrices."""

from dataclasses import replace

import pytest
import torch

import spectra

HOSTILE = "</script><img src=x onerror=alert(1)>.layers.3.$\\bad{$\x1b[31m\u202e.weight"


def spiked(names, *, strength=6.0, width=48):
    """A base of noise and the same with one strong direction added to every weight."""
    generator = torch.Generator().manual_seed(1)
    base = {name: torch.randn(width, width, generator=generator) for name in names}
    spike = torch.randn(width, 1, generator=generator) @ torch.randn(1, width, generator=generator)
    return base, {name: weight + strength * spike / 8 for name, weight in base.items()}


@pytest.fixture(scope="session", name="spiked")
def spiked_models():
    return spiked


@pytest.fixture(scope="session")
def hostile_name():
    return HOSTILE


@pytest.fixture(scope="session")
def report():
    """Six matrices, in one of which the spike is weaker: three blocks of two kinds."""
    names = [f"model.layers.{block}.mlp.{kind}.weight" for block in range(3) for kind in ("up", "down")]
    base, tuned = spiked(names)
    tuned[names[3]] = base[names[3]] + 0.02 * (tuned[names[3]] - base[names[3]])
    return spectra.diagnose(base, tuned)


@pytest.fixture(scope="session")
def hostile():
    """A tensor name that would end the script element, start another, colour a terminal and turn text around."""
    base, tuned = spiked([HOSTILE, "model.layers.0.mlp.up.weight"])
    tuned["=cmd|' /C calc'!A0"] = torch.ones(3)
    return spectra.diagnose(base, tuned)


@pytest.fixture(scope="session")
def troubled():
    """One matrix that is not finite, one that did not change, one that did."""
    base, tuned = spiked(["a.0.x.weight", "a.1.x.weight", "a.2.x.weight"])
    tuned["a.0.x.weight"] = tuned["a.0.x.weight"].clone()
    tuned["a.0.x.weight"][3, 5] = float("nan")
    tuned["a.1.x.weight"] = base["a.1.x.weight"].clone()
    return spectra.diagnose(base, tuned)


@pytest.fixture(scope="session")
def many(report):
    """504 matrices in 72 blocks: the six measured ones under other names."""
    names = [f"model.layers.{block}.m.{kind}.weight" for block in range(72) for kind in "abcdefg"]
    rows = [replace(report.rows[place % 6], key=name, name=name) for place, name in enumerate(names)]
    return replace(report, rows=tuple(rows))


@pytest.fixture(scope="session")
def comparison():
    """Two models of one base, the second a hundredth of the first, under a name that is no element."""
    base, tuned = spiked(["model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"])
    small = {name: weight + 0.01 * (tuned[name] - weight) for name, weight in base.items()}
    return spectra.compare(base, {"strong": tuned, "small <b>": small})
