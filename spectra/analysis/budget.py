"""The spike budget: how far each adapted module may be scaled before a direction of its own leads.

It is written as PEFT's `alpha_pattern`: in `adapter_config.json` an alpha for every module, which LoRA multiplies into
its update as `alpha / r` (rsLoRA: `alpha / sqrt(r)`), so that scaling an update scales its alpha.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import ROUND_DOWN, Context, Decimal

from spectra.errors import UsageError
from spectra.metrics.phase import PhaseCurve
from spectra.text import count, show

LINEAR = "low rank"
_DIGITS = Context(prec=9, rounding=ROUND_DOWN)  # of an alpha: a budget has six, so that at margin 0 none is lost


def require_alphas(alphas: Mapping[str, Mapping[str, float]], margin: float) -> None:
    """Refuse a margin outside [0, 1), and a model without an alpha."""
    if not 0 <= margin < 1:
        raise UsageError(f"margin is {margin}: a share of the budget lies from 0 to below 1.")
    if not alphas:
        raise UsageError("there is no alpha to write: only an adapter has one, and this is a fully tuned model.")


def alpha_pattern(
    rows: Sequence[PhaseCurve], alphas: Mapping[str, Mapping[str, float]], *, margin: float = 0.0
) -> dict[str, float]:
    """Return an alpha for every adapted module that keeps it below the first crossing found.

    Parameters
    ----------
    rows : the phase curves. alphas : for each base key, the alpha of the modules that adapt it.
    margin : share of the budget to stay below it, in [0, 1). 0, the default, is the budget itself: a scale that was
        looked at and has no intruder, as has none of those looked at below it (see `crossing.Search`).

    Returns
    -------
    dict of pattern -> alpha, `^` and the escaped name of the module: matches that module alone. It takes the place
    of the adapter's own alpha_pattern, whatever that and lora_alpha are (PEFT gives lora_alpha to a module that no
    pattern matches): so every adapted module is in it. One that has no intruders as trained keeps its alpha, as do
    those that were not swept; the others' are rounded towards zero. Nothing is ever scaled up.

    Raises
    ------
    UsageError
        The margin is out of its range, the model is no adapter, or an update to be lowered is not linear in alpha.
    """
    require_alphas(alphas, margin)
    factors: dict[str, Decimal] = {}
    for row in rows:
        if row.budget is not None:  # the experts of a stack share their alpha: the least budget binds
            budget = _decimal(row.budget) * (1 - _decimal(margin))
            factors[row.key] = min(factors.get(row.key, Decimal(1)), budget)
    bent = [row for row in rows if row.update_kind != LINEAR and row.key in alphas and factors.get(row.key, 1) < 1]
    if bent:
        raise UsageError(
            f"the update of '{show(bent[0].key)}' is {bent[0].update_kind} (as that of DoRA or PiSSA): not all "
            f"of it scales with alpha, so no alpha_pattern keeps {count(len(bent), 'matrix', 'matrices')} below the "
            "threshold."
        )
    own = {module: alpha for modules in alphas.values() for module, alpha in modules.items()}
    share = dict.fromkeys(own, Decimal(1))
    for key, modules in alphas.items():
        for module in modules:
            share[module] = min(share[module], factors.get(key, Decimal(1)))
    return {"^" + re.escape(module): _lowered(alpha, share[module]) for module, alpha in own.items()}


def _lowered(alpha: float, share: Decimal) -> float:
    return alpha if share == 1 else float(_DIGITS.multiply(_decimal(alpha), share))


def _decimal(number: float) -> Decimal:
    """The shortest decimal that is this float: what a person wrote, not its binary neighbour."""
    return Decimal(repr(number))
