"""SP401: a scale that does not go with the rank."""

import pytest


@pytest.mark.parametrize(("rank", "alpha", "says"), [(32, 8, 1), (32, 16, 0), (64, 16, 1), (16, 1, 0), (8, 1, 0)])
def test_a_fixed_alpha_at_a_high_rank_is_a_remark(rank, alpha, says, base, lora, raised):
    found = raised("SP401", base, lora(rank=rank, alpha=alpha))
    assert [one.severity for one in found] == ["info"] * says
    if found:
        assert found[0].numbers == {"median_rank": rank, "median_scaling": alpha / rank, "rows": 8}
        assert f"alpha / r = {alpha / rank:.3g} at r = {rank}" in found[0].message


@pytest.mark.parametrize(("rank", "alpha", "says"), [(1, 32, 1), (2, 32, 1), (1, 15, 0), (4, 32, 0)])
def test_a_scale_of_sixteen_or_more_is_a_remark(rank, alpha, says, base, lora, raised):
    found = raised("SP401", base, lora(rank=rank, alpha=alpha, strength=1e-3))
    assert [one.severity for one in found] == ["info"] * says
    if found:
        assert f"A strong scale for the rank: alpha / r = {alpha / rank:g} at r = {rank}" in found[0].message


@pytest.mark.parametrize(
    ("rank", "alpha", "severity"),
    [(16, 32, "info"), (64, 128, "info"), (64, 512, "warning"), (64, 127, None), (64, 16, None), (8, 16, None)],
)
def test_rslora_with_alpha_of_twice_the_rank_makes_up_for_it_twice(rank, alpha, severity, base, lora, raised):
    found = raised("SP401", base, lora(rank=rank, alpha=alpha, strength=1e-3, use_rslora=True))
    assert [one.severity for one in found] == ([severity] if severity else [])
    if found:
        assert found[0].numbers["median_scaling"] == pytest.approx(alpha / rank**0.5)
        assert f"rsLoRA with alpha = {alpha / rank:g} r" in found[0].message


@pytest.mark.parametrize(("rank", "alpha"), [(4, 8), (8, 16), (16, 16), (16, 32), (64, 64), (64, 128)])
def test_ordinary_settings_say_nothing(rank, alpha, base, lora, raised):
    assert raised("SP401", base, lora(rank=rank, alpha=alpha, strength=0.02)) == []


def test_modules_are_judged_by_their_own_alpha(base, lora, raised):
    (found,) = raised("SP401", base, lora(rank=32, alpha=32, alpha_pattern={"v_proj": 4}))
    assert found.keys == tuple(f"model.layers.{block}.self_attn.v_proj.weight" for block in range(4))
    assert found.numbers["median_scaling"] == 0.125


def test_a_full_fine_tune_has_no_alpha(base, full, raised):
    assert raised("SP401", base, full()) == []
