"""SP107: a start that changed the base, left out of the update."""

import pytest


@pytest.mark.parametrize(
    ("start", "name"),
    [("pissa", "PiSSA"), ("olora", "OLoRA"), ("corda", "CorDA"), ("loftq", "LoftQ"), ("lora_ga", "LoRA-GA")],
)
def test_a_start_that_was_left_out_is_a_warning(start, name, base, lora, raised):
    (found,) = raised("SP107", base, lora(init_lora_weights=start), as_stored=True)
    assert (found.severity, found.numbers, len(found.keys)) == ("warning", {"start": name}, 8)
    assert f"started as {name}" in found.message


def test_a_start_that_nobody_knows_is_named_as_it_is(base, lora, raised):
    (found,) = raised("SP107", base, lora(init_lora_weights="my\x1bown"), as_stored=True)
    assert "started as my\\x1bown" in found.message


def test_a_start_that_was_subtracted_is_none(tmp_path, base, lora, raised):
    adapter = lora(init_lora_weights="pissa")
    assert raised("SP107", base, adapter) == []
    before = adapter.rename(tmp_path / "before")
    assert raised("SP107", base, lora(init_lora_weights="loftq", strength=0.1), initial=before) == []


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal"])
def test_a_start_that_leaves_the_base_alone_is_none(start, base, lora, raised):
    assert raised("SP107", base, lora(init_lora_weights=start), as_stored=True) == []
