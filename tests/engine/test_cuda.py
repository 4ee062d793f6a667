"""On CUDA the answers are those of the CPU, in batches and streamed. Skipped where there is no device."""

import pytest
import torch

from spectra import testing
from spectra.analysis import batches
from spectra.analysis.batches import in_batches
from spectra.analysis.diagnosis import diagnose
from spectra.analysis.settings import Settings
from spectra.engine import basis, dense
from spectra.engine.choose import Request, certified_batch
from spectra.engine.feed import Feed
from spectra.engine.krylov import Krylov, Operator, random_rows
from spectra.engine.update_directions import update_directions
from spectra.updates import Dense

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(300, 400), (400, 300)])
def test_products_have_the_accuracy_of_float32(dtype, shape):
    """In thirds as well: three bfloat16 numbers hold a float32 one."""
    base = torch.stack([testing.decaying(*shape, seed=seed).to(dtype) for seed in range(3)]).cuda()
    for of in (Operator(base), Operator(base).transposed):
        x = random_rows(3, 12, of.shape[2], of.like, seed=1)
        expected = x.double() @ of.base.double().mT
        torch.testing.assert_close(of(x).double(), expected, rtol=0, atol=2e-6 * float(expected.abs().max()))


def test_a_space_is_orthonormal_there_too():
    base = torch.stack([testing.decaying(400, 300, seed=seed).float() for seed in range(2)]).cuda()
    space = Krylov(Operator(base), random_rows(2, 12, 400, base, 0), 10)
    space.grow(10)
    Q = space.basis.double()
    eye = torch.eye(Q.shape[1], dtype=Q.dtype, device=Q.device).expand(2, -1, -1)
    torch.testing.assert_close(Q @ Q.mT, eye, rtol=0, atol=2e-6)


def pairs(dtype, count=4):
    made = []
    for seed in range(count):
        base = testing.rounded(testing.decaying(1200, 1100, seed=seed, exponent=0.5), torch.bfloat16)
        made.append(
            testing.weight_pair(base, testing.plant_intruders(base, 2 + seed, strength=0.7, seed=seed), dtype=dtype)
        )
    return made


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_batch_decides_as_the_cpu_does(dtype):
    given = pairs(dtype)
    there = certified_batch(given, Request(method="certified", device="cuda", sides=("left", "right")))
    here = [certified_batch([pair], Request(method="certified", sides=("left", "right")))[0] for pair in given]
    for one, other in zip(there, here, strict=True):
        torch.testing.assert_close(one.tuned_values[:10], other.tuned_values[:10], rtol=1e-4, atol=0)
        torch.testing.assert_close(one.moved, other.moved, rtol=0, atol=1e-3)
        for mine, theirs in zip(one.resemblances, other.resemblances, strict=True):
            assert bool(((mine.found < 0.5) == (theirs.found < 0.5)).all())
            assert bool((mine.found <= theirs.bound + 1e-4).all())
            assert bool((theirs.found <= mine.bound + 1e-4).all())


def test_adapters_on_one_base_share_its_basis():
    base = testing.decaying(600, 600, seed=1, exponent=0.5)
    svd = dense.svd(base)
    updates = [testing.plant_intruders(base, 3, strength=0.5, seed=seed) for seed in range(5)]
    B, A = torch.stack([u.B for u in updates]), torch.stack([u.A for u in updates])
    on_device = type(svd)(
        svd.U.cuda(), svd.S.cuda(), svd.Vh.cuda(), svd.residual, svd.orthogonality, svd.method, "cuda"
    )
    there = basis.coordinates(on_device, B.cuda(), A.cuda())
    here = basis.coordinates(svd, B, A)
    one, other = basis.top(there, 8), basis.top(here, 8)
    torch.testing.assert_close(one.S.cpu()[:, :8], other.S[:, :8], rtol=1e-6, atol=1e-9)
    assert bool((one.missed.cpu() == 0).all())
    for mine, theirs in zip(
        basis.resemblances(there, one, "left"), basis.resemblances(here, other, "left"), strict=True
    ):
        assert bool((mine.found <= theirs.bound + 1e-9).all())
        assert bool((theirs.found <= mine.bound + 1e-9).all())


def test_matrices_arrive_whole_and_in_order():
    given = [[torch.full((64, 48), float(10 * at + place)) for place in range(3)] for at in range(7)]
    for at, batch in enumerate(Feed("cuda")(iter(given))):
        assert batch.shape == (3, 64, 48)
        assert batch[:, 0, 0].tolist() == [10.0 * at, 10.0 * at + 1, 10.0 * at + 2]
        assert bool((batch == batch[:, :1, :1]).all())


def test_a_diagnosis_has_the_counts_of_the_cpu(tmp_path):
    base = testing.llama(seed=1, blocks=2, width=128, vocabulary=160)
    folder = testing.save_checkpoint(tmp_path / "base", base)
    factors = testing.lora(base, ("q_proj", "up_proj", "down_proj"), rank=4, strength=0.6, seed=2)
    adapter = testing.save_lora(tmp_path / "lora", factors, alpha=8)
    for method in ("auto", "certified", "basis"):
        there = diagnose(folder, adapter, settings=Settings(method=method, device="cuda"))
        here = diagnose(folder, adapter, settings=Settings(method="exact", device="cpu"))
        assert [row.key for row in there.rows] == [row.key for row in here.rows]
        assert [row.found for row in there.rows if row.intruders[0].margin > 1e-3] == [
            mine.found for mine, row in zip(here.rows, there.rows, strict=True) if row.intruders[0].margin > 1e-3
        ]


def test_a_batch_that_does_not_fit_is_halved_until_it_does(monkeypatch):
    given = pairs("float32", count=8)
    request = Request(method="certified", device="cuda")
    whole = [found for _, found in in_batches(given, request)]
    sizes, plain = [], batches.certified_batch

    def counted(members, *rest):
        sizes.append(len(members))
        return plain(members, *rest)

    monkeypatch.setattr(batches, "certified_batch", counted)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 260 * 2**20) / total)
    try:
        parts = [found for _, found in in_batches(given, request)]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert max(sizes) == 8
    assert min(sizes) < 8
    for one, other in zip(whole, parts, strict=True):
        assert one is not None
        assert other is not None
        torch.testing.assert_close(one.tuned_values[:10], other.tuned_values[:10], rtol=1e-5, atol=0)


@pytest.mark.parametrize("method", ["auto", "certified", "basis"])
def test_a_full_fine_tune_has_the_counts_of_the_cpu(method):
    base = {f"layers.{at}.weight": testing.decaying(260, 240, seed=at, exponent=0.5).float() for at in range(3)}
    tuned = {
        key: W + testing.plant_intruders(W, 2, strength=0.7, seed=at).dense().float()
        for at, (key, W) in enumerate(base.items())
    }
    there = diagnose(base, tuned, settings=Settings(method=method, device="cuda", side="both"))
    here = diagnose(base, tuned, settings=Settings(method="exact", device="cpu", side="both"))
    assert [row.found for row in there.rows] == [row.found for row in here.rows]
    assert all(row.status == "ok" for row in there.rows)


@pytest.mark.parametrize("p", [300, 1100])
def test_the_directions_of_a_dense_update_are_those_of_the_cpu(p):
    matrix = (
        testing.with_spectrum([9.0, 7.0, 5.0, 4.0], p, p + 40, seed=1) + testing.noise(p, p + 40, level=1.0, seed=2)
    ).float()
    there, here = (update_directions(Dense(matrix), device=device) for device in ("cuda", "cpu"))
    rebuilt = [(found.left[:, :4] * found.values[:4]) @ found.right[:, :4].T for found in (there, here)]
    torch.testing.assert_close(*rebuilt, rtol=0, atol=1e-3)
    assert "on cuda" in there.how
