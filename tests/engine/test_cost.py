"""The cost model predicts what is possible, and its choice is the one that a person would make."""

import pytest

from spectra.engine.cost import MACHINES, MOST_STEPS, Machine, predicted, space_amounts, svd_amounts

CPU = Machine.of("cpu")


def cheapest(shape, *, rank=16, has_base=False, sides=1, machine=CPU):
    costs = predicted(machine, shape, k=10, sides=sides, rank=rank, has_base=has_base)
    return min(costs, key=costs.get)


def test_small_matrices_are_decomposed_and_large_ones_certified():
    assert cheapest((128, 128)) == "exact"
    assert cheapest((1024, 1024)) == "certified"
    for device in MACHINES:
        assert cheapest((4096, 4096), machine=Machine.of(device)) == "certified"
        assert cheapest((11008, 4096), rank=None, machine=Machine.of(device)) == "certified"


@pytest.mark.parametrize("rank", [16, None])
def test_a_known_base_is_used_from_some_size_on(rank):
    assert cheapest((64, 64), rank=rank, has_base=True) == "exact"
    assert cheapest((4096, 4096), rank=rank, has_base=True) == "basis"


def test_the_basis_is_possible_only_where_it_is_known():
    shape = (512, 512)
    assert set(predicted(CPU, shape, k=10, sides=1, rank=16, has_base=False)) == {"exact", "certified"}
    known = predicted(CPU, shape, k=10, sides=1, rank=16, has_base=True)
    unknown = predicted(CPU, shape, k=10, sides=1, rank=16, has_base=False)
    assert known["exact"] == unknown["exact"] / 2


@pytest.mark.parametrize("device", MACHINES)
@pytest.mark.parametrize("has_base", [False, True])
@pytest.mark.parametrize("rank", [1, 64, None])
def test_cost_grows_with_the_shape_and_the_sides_and_not_with_orientation(device, has_base, rank):
    def costs(shape, sides=1):
        return predicted(Machine.of(device), shape, k=10, sides=sides, rank=rank, has_base=has_base)

    small, large, both = costs((512, 256)), costs((1024, 512)), costs((512, 256), sides=2)
    assert small == pytest.approx(costs((256, 512)))
    for method in small:
        assert 0 < small[method] < large[method]
        assert both[method] >= small[method]
    assert both["certified"] > small["certified"]


def test_a_certificate_is_given_up_before_it_costs_more_than_half_of_what_it_spares():
    allowed = [CPU.most_steps((n, n), 10) for n in (64, 256, 512, 1024, 4096)]
    assert allowed == sorted(allowed)
    assert allowed[0] == 1
    assert allowed[-1] == MOST_STEPS
    steps = CPU.most_steps((512, 512), 10)
    assert CPU.bounds + CPU.space((512, 512), 12, steps) <= CPU.exact((512, 512))
    assert CPU.bounds + CPU.space((512, 512), 12, steps + 1) > CPU.exact((512, 512))


def test_units_of_work():
    assert svd_amounts((3, 2)) == (8, 12, 4)
    assert space_amounts((3, 2), width=5, steps=2) == (2 * 3 * 2 * 10, 2 * 100, 2)
