"""The scale that a configuration of MLX gives its updates. Torch-free."""

from collections.abc import Mapping
from typing import Any

from spectra.errors import FormatError, UnsupportedError
from spectra.loaders.adapters.config import CONFIG_NAME, number_in, rank_in
from spectra.loaders.options import given_as
from spectra.text import show


def scale_of(raw: Mapping[str, Any], *, told: bool = False) -> float | None:
    """Return the factor of every update, None where the configuration has none or the caller tells it.

    Before `fine_tune_type` came (September 2024) mlx-lm went from `scale alpha / rank` to `scale` alone, and its
    configurations kept the alpha: of those files nobody can tell, unless alpha is the rank. Raises UnsupportedError
    for one of them that the caller has not `told` about, FormatError for impossible values.
    """
    parameters = raw.get("lora_parameters", {})
    if not isinstance(parameters, Mapping):
        raise FormatError(f"{CONFIG_NAME}: lora_parameters is {show(repr(parameters), 40)}; it must be a mapping.")
    alpha, rank = parameters.get("alpha"), parameters.get("rank")
    undated = "fine_tune_type" not in raw and alpha is not None and alpha != rank
    if "scale" not in parameters or (told and undated):
        return None
    scale = number_in(parameters, "scale", 1.0)
    if undated:
        raise UnsupportedError(
            f"{CONFIG_NAME} is of an mlx-lm that multiplied by scale alpha / rank, or by scale alone: it does not say "
            f"which. Give {given_as('alpha')} as scale alpha ({scale * number_in(parameters, 'alpha', 0):g}) for the "
            f"first, as scale rank ({scale * rank_in(parameters, 'rank', 8):g}) for the second."
        )
    return scale
