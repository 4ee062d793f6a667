"""The rank of an update, in every sense that people mean, each under its own name."""

from dataclasses import dataclass

import torch

from spectra.engine.quadrature import Quadrature

ENERGY_SHARES = (0.90, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class RankErrors:
    """Half widths of the intervals around estimated ranks, of the same names: 99 % for what is random in them."""

    effective: float
    stable: float
    participation: float
    energy_90: int
    energy_95: int
    energy_99: int
    numerical: int
    above_floor: int | None
    utilisation: float | None


@dataclass(frozen=True, slots=True)
class Ranks:
    """Ranks of dW from its singular values s, descending.

    effective : `exp(-sum p ln p)`, `p = s / sum s` (Roy and Vetterli 2007), the report's intrinsic rank.
    stable : `||dW||_F^2 / s_1^2`. participation : `(sum s^2)^2 / sum s^4`.
    energy_90, energy_95, energy_99 : fewest directions that hold that share of `sum s^2`.
    numerical : values above `eps max(m, n) s_1`, eps of float32. above_floor : values above the edge of the
    rounding floor, of the files and of the computation (see `noise.Floor`), None where that is unknown.
    allotted : the rank the method was given, None for full fine-tuning.
    utilisation : effective / allotted. error : None where all values are known, else how far the estimates may be off.
    """

    effective: float
    stable: float
    participation: float
    energy_90: int
    energy_95: int
    energy_99: int
    numerical: int
    above_floor: int | None
    allotted: int | None
    utilisation: float | None
    error: RankErrors | None = None

    def interval(self, name: str) -> tuple[float, float]:
        """Return the least and the most that the rank of this name can be: the same where all values are known.

        Not of a rank that is None.
        """
        value = getattr(self, name)
        error = 0 if self.error is None else getattr(self.error, name)
        return max(value - error, 0), value + error


def ranks(
    values: torch.Tensor, shape: tuple[int, int], *, floor: float | None = None, allotted: int | None = None
) -> Ranks:
    """Measure all ranks of an update from its singular values.

    values : [q], descending. shape : of dW. floor : singular values at or below it may be rounding; None where that is
    unknown. A zero update has rank 0 in every sense.
    """
    s = values.double()
    top = s[0].item() if len(s) else 0.0
    if top == 0.0:
        return Ranks(0.0, 0.0, 0.0, 0, 0, 0, 0, 0, allotted, 0.0 if allotted else None)
    s = s / top
    share = s / s.sum()
    present = share[share > 0]
    effective = torch.exp(-(present * present.log()).sum()).item()
    energy = s.square()
    held = energy.cumsum(0) / energy.sum()
    at_share = [int((held < wanted - 1e-12).sum()) + 1 for wanted in ENERGY_SHARES]
    tolerance = torch.finfo(torch.float32).eps * max(shape)
    return Ranks(
        effective=effective,
        stable=energy.sum().item(),
        participation=(energy.sum().square() / energy.square().sum()).item(),
        energy_90=at_share[0],
        energy_95=at_share[1],
        energy_99=at_share[2],
        numerical=int((s > tolerance).sum()),
        above_floor=None if floor is None else int((s > floor / top).sum()),
        allotted=allotted,
        utilisation=effective / allotted if allotted else None,
    )


def estimated_ranks(
    found: Quadrature, shape: tuple[int, int], *, floor: float | None = None, allotted: int | None = None
) -> Ranks:
    """Return all ranks of an update from a quadrature of its spectrum, with their errors. See `ranks`."""
    effective, stable, participation = found.effective(), found.stable(), found.participation()
    energy_90, energy_95, energy_99 = (found.energy_rank(share) for share in ENERGY_SHARES)
    numerical = found.count(torch.finfo(torch.float32).eps * max(shape) * found.values[0].item())
    above_floor = None if floor is None else found.count(floor)
    return Ranks(
        effective=effective.value,
        stable=stable.value,
        participation=participation.value,
        energy_90=energy_90.value,
        energy_95=energy_95.value,
        energy_99=energy_99.value,
        numerical=numerical.value,
        above_floor=above_floor.value if above_floor else None,
        allotted=allotted,
        utilisation=effective.value / allotted if allotted else None,
        error=RankErrors(
            effective=effective.error,
            stable=stable.error,
            participation=participation.error,
            energy_90=energy_90.error,
            energy_95=energy_95.error,
            energy_99=energy_99.error,
            numerical=numerical.error,
            above_floor=above_floor.error if above_floor else None,
            utilisation=effective.error / allotted if allotted else None,
        ),
    )
