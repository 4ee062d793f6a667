"""The pass over the matrices: what cannot be read is a row, and nothing else changes."""

from dataclasses import replace

import pytest
import torch

from spectra import open_pairs
from spectra.analysis.settings import Settings
from spectra.analysis.stream import stream
from spectra.errors import FormatError


def _broken(pairs, keys):
    """Make some pairs of an open model unreadable, as a file that is cut while it is read."""
    for place, planned in list(pairs._plan.pairs.items()):
        if place[0] in keys:

            def fail(key=place[0]):
                raise FormatError(f"'{key}' cannot be read")

            pairs._plan.pairs[place] = replace(planned, build=fail)


@pytest.mark.parametrize("broken", [[0], [1], [2], [0, 2], [1, 2]])
def test_a_pair_that_cannot_be_read_is_a_row_and_the_others_are_as_ever(broken):
    torch.manual_seed(0)
    base = {f"layers.{at}.weight": torch.randn(24, 20) for at in range(3)}
    tuned = {key: weight + 0.1 * torch.randn(24, 20) for key, weight in base.items()}
    settings = Settings(device="cpu")
    keys = list(base)
    with open_pairs(base, tuned) as pairs:
        clean = dict(zip(keys, [row for _, row in stream({"m": pairs}, settings)], strict=True))
        _broken(pairs, [keys[at] for at in broken])
        rows = [row for _, row in stream({"m": pairs}, settings)]
    assert [row.key for row in rows] == keys
    for at, row in enumerate(rows):
        if at in broken:
            assert (row.status, row.reason) == ("failed", f"'{row.key}' cannot be read")
            assert row.shape == (24, 20)
        else:
            assert row.to_dict() == clean[row.key].to_dict()


def test_where_nothing_can_be_read_that_is_the_answer():
    base = {"a.weight": torch.eye(4)}
    with open_pairs(base, {"a.weight": 2 * torch.eye(4)}) as pairs:
        _broken(pairs, ["a.weight"])
        with pytest.raises(FormatError, match="cannot be read"):
            list(stream({"m": pairs}, Settings(device="cpu")))
