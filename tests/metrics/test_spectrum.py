"""Spectra thinned to what a figure can show, without losing their ends."""

import pytest
import torch

from spectra.metrics.spectrum import spectrum


@pytest.mark.parametrize("length", [0, 1, 32, 33, 95, 96])
def test_a_short_spectrum_is_kept_whole(length):
    values = torch.arange(length, 0, -1.0)
    found = spectrum(values, values + 1, values[: length // 2])
    assert found.index == tuple(range(1, length + 1))
    assert found.base == tuple(values.tolist())
    assert found.tuned == tuple((values + 1).tolist())
    assert found.update == tuple(values[: length // 2].tolist())


@pytest.mark.parametrize("length", [97, 128, 500, 4096, 100_000])
def test_a_long_spectrum_keeps_its_first_32_its_last_and_at_most_96_points(length):
    values = torch.arange(length, 0, -1.0)
    found = spectrum(values, values, values)
    assert found.index[:33] == tuple(range(1, 34))
    assert found.index[-1] == length
    assert 60 < len(found.index) <= 96
    assert list(found.index) == sorted(set(found.index))
    assert found.base == found.tuned == found.update == tuple(length + 1.0 - index for index in found.index)


def test_the_update_ends_where_its_rank_does():
    values = torch.arange(200, 0, -1.0)
    found = spectrum(values, values, torch.tensor([3.0, 2.0, 1.0]))
    assert found.update == (3.0, 2.0, 1.0)
    assert len(found.base) == len(found.index)
