"""docs/formats.md is the one table: nothing that is read is missing from it."""

from pathlib import Path

import pytest

from spectra.loaders.adapters.dialects.table import DIALECTS
from spectra.loaders.adapters.families.table import FAMILIES
from spectra.loaders.formats import CONTAINERS
from spectra.loaders.quantization.schemes import SCHEMES

PAGE = (Path(__file__).parents[1] / "docs" / "formats.md").read_text()


@pytest.mark.parametrize("method", FAMILIES)
def test_every_family_has_a_row(method):
    assert f"`{method}`" in PAGE


@pytest.mark.parametrize("name", [dialect.name for dialect in DIALECTS])
def test_every_dialect_has_a_row(name):
    assert name in PAGE


@pytest.mark.parametrize("name", list(SCHEMES))
def test_every_scheme_has_a_row(name):
    assert name in PAGE


@pytest.mark.parametrize("name", [container.name for container in CONTAINERS if container.name != "NumPy archive"])
def test_every_container_has_a_row(name):
    assert name.removesuffix(" pickle") in PAGE
