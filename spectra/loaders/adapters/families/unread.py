"""What of a method is not read, told by its configuration alone. One row a method. Torch-free."""

from collections.abc import Callable, Mapping
from typing import Any

from spectra.text import listing, show

AGAIN = "Merge it where it was trained and diagnose the merged model as a full fine-tune."
# The order of the Daubechies wavelets. The first symlets are those of their order; above 10 PEFT has no filters.
WAVELETS = {**{f"db{order}": order for order in range(1, 11)}, "sym2": 2, "sym3": 3}
ACTIVATIONS = (
    "relu", "relu2", "relu6", "leaky_relu", "gelu", "gelu_python", "gelu_10", "gelu_new", "gelu_fast", "gelu_accurate",
    "gelu_pytorch_tanh", "gelu_python_tanh", "quick_gelu", "silu", "swish", "mish", "hardswish", "sigmoid", "tanh",
    "sqrtsoftplus", "laplace", "linear",
)  # fmt: skip

Raw = Mapping[str, Any]


def _deft(raw: Raw) -> str | None:
    method = raw.get("decomposition_method", "relu")
    return None if method in ("relu", "qr") else f"DEFT with decomposition_method='{show(method)}' is not read."


def _frod(raw: Raw) -> str | None:
    lost = raw.get("save_projection") is False
    return f"this FRoD adapter was saved without its bases (save_projection=False). {AGAIN}" if lost else None


def _peanut(raw: Raw) -> str | None:
    name = raw.get("act_fn", "relu")
    return None if name in ACTIVATIONS else f"PEANuT with act_fn='{show(name)}' is not read. {AGAIN}"


def _poly(raw: Raw) -> str | None:
    tasks = raw.get("n_tasks", 1)
    if tasks == 1:
        return None
    return (
        f"this POLY adapter has another weight update for each of its {show(tasks)} tasks. Keep one task: its row of "
        "every poly_router.module_logits, and n_tasks=1 in the configuration."
    )


def _psoft(raw: Raw) -> str | None:
    svd, start = raw.get("psoft_svd", "full"), raw.get("ab_svd_init", "psoft_init")
    if svd != "full":
        return (
            f"this PSOFT adapter starts from psoft_svd='{show(svd)}', an approximate SVD of the base that is another "
            f"one on every machine. {AGAIN}"
        )
    return None if start in ("psoft_init", "pissa_init") else f"PSOFT with ab_svd_init='{show(start)}' is not read."


def _randlora(raw: Raw) -> str | None:
    if raw.get("save_projection") is not False:
        return None
    return (
        "this RandLoRA adapter was saved without its random bases (save_projection=False), and another machine may "
        "draw others. Load it where it was trained and save it with save_projection=True."
    )


def _unilora(raw: Raw) -> str | None:
    if raw.get("save_indices") is True or isinstance(raw.get("peft_version"), str):
        return None
    return (
        "this UniLoRA adapter was written by a PEFT before 0.20 (it has no peft_version), and how that drew the "
        "indices is not known. Load it where it was trained and save it with save_indices=True."
    )


def _waveft(raw: Raw) -> str | None:
    name = str(raw.get("wavelet_family", "db1"))
    if raw.get("use_idwt") is False or name in WAVELETS:
        return None
    return f"WaveFT with the wavelet '{show(name)}' is not read ({listing(WAVELETS, 20)} are). {AGAIN}"


_UNREAD: Mapping[str, Callable[[Raw], str | None]] = {
    "DEFT": _deft,
    "FROD": _frod,
    "PEANUT": _peanut,
    "POLY": _poly,
    "PSOFT": _psoft,
    "RANDLORA": _randlora,
    "UNILORA": _unilora,
    "WAVEFT": _waveft,
}


def reason_against(method: str, raw: Raw) -> str | None:
    """Return the sentence that refuses a configuration of PEFT, None where nothing speaks against it."""
    check = _UNREAD.get(method)
    return check(raw) if check is not None else None
