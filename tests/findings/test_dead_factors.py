"""SP105: an update that is zero, and not because training has not begun."""

import pytest
import torch


def zeroed(*names, modules=("q_proj",)):
    def change(factors):
        return {
            module: tuple(
                torch.zeros_like(factor) if name in names and module.endswith(modules) else factor
                for name, factor in zip("BA", pair, strict=True)
            )
            for module, pair in factors.items()
        }

    return change


@pytest.mark.parametrize(("names", "what"), [(("B", "A"), "can never learn"), (("A",), "the reverse of LoRA's start")])
def test_factors_that_are_dead_in_some_modules_are_a_warning(names, what, base, lora, raised):
    (found,) = raised("SP105", base, lora(zeroed(*names)))
    assert found.severity == "warning"
    assert what in found.message
    assert found.message.startswith("The update of 4 matrices of 8 is zero")
    assert found.numbers == {"reason": found.numbers["reason"], "dead": 4, "matrices": 8}
    assert found.keys == tuple(f"model.layers.{block}.self_attn.q_proj.weight" for block in range(4))


def test_an_adapter_that_is_dead_as_a_whole_is_an_error(base, lora, raised):
    (found,) = raised("SP105", base, lora(zeroed("A", "B", modules=("q_proj", "v_proj"))))
    assert (found.severity, found.numbers["dead"]) == ("error", 8)


def test_a_scale_of_zero_is_told_from_factors_of_zero(base, lora, raised):
    (found,) = raised("SP105", base, lora(alpha=0))
    assert found.severity == "error"
    assert "the scale is zero" in found.message
    assert "Set alpha" in found.advice
    (untrained,) = raised("SP101", base, lora(alpha=0))
    assert untrained.message == "Every update is zero: see SP105 for the reason."


def test_modules_dead_in_two_ways_are_said_apart(base, lora, raised):
    def change(factors):
        return zeroed("A", "B")(zeroed("A", modules=("v_proj",))(factors))

    assert {found.numbers["reason"] for found in raised("SP105", base, lora(change))} == {
        "both factors zero",
        "A zero, B not",
    }


def test_an_adapter_before_training_is_not_dead(base, lora, raised):
    adapter = lora(zeroed("B", modules=("q_proj", "v_proj")))
    assert raised("SP105", base, adapter) == []
    (untrained,) = raised("SP101", base, adapter)
    assert (untrained.severity, "B is still zero" in untrained.message) == ("error", True)


def test_pieces_that_are_zero_on_both_sides_are_a_remark(base, lora, raised):
    def padded(factors):
        return {
            module: (torch.nn.functional.pad(B, (0, 3)), torch.nn.functional.pad(A, (0, 0, 0, 3)))
            for module, (B, A) in factors.items()
        }

    (found,) = raised("SP105", base, lora(padded))
    assert (found.severity, found.numbers) == ("info", {"matrices": 8, "most_pieces": 3})


def test_trained_factors_are_alive(base, lora, full, raised):
    assert raised("SP105", base, lora()) == []
    assert raised("SP105", base, full(lambda tuned: tuned)) == []
    assert raised("SP105", base, base) == []
