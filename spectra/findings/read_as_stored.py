"""SP107: an adapter whose start took a part of the base away, read as if it had not."""

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.text import show


def _check(evidence: Evidence) -> list[Raised]:
    info = evidence.info
    if not info.as_stored:
        return []
    return [
        Raised(
            "warning",
            f"Read as stored: this adapter was started as {show(info.start)}, not as plain LoRA, so that a part of the "
            "base may lie in its factors. What is measured is s B A against the whole base, not what training changed.",
            "Give the adapter as it was before training (--initial PATH), or the base without that part as the base; "
            "or have it saved as plain LoRA (PEFT: path_initial_model_for_weight_conversion).",
            [layer for layer in evidence.layers if layer.update_kind != "dense"],
            {"start": show(info.start)},
        )
    ]


READ_AS_STORED = Rule(
    code="SP107",
    name="read-as-stored",
    summary="An adapter whose start took a part of the base away, read as if it had not.",
    severities=("warning",),
    meaning="The adapter's configuration names a start that changes the base (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA, "
    "KaSA, or one that is not known here), and it was read with --as-stored: s B A alone, without what the start took "
    "out of the base. The update holds the start as well as what was learnt. An untrained PiSSA adapter, whose true "
    "update is zero, so reads as 0.45 of its base.",
    advice="Give the adapter as it was before training with --initial, so that its start is subtracted. PiSSA and "
    "OLoRA by exact SVD or QR need neither option: their start is computed from the base. Or give the residual base "
    "that was trained on, as the base.",
    doubts="Against the residual base itself (the base without the part that was taken) s B A is the true update, and "
    "reading as stored is right.",
    source="Meng et al. 2024, arXiv:2404.02948 (PiSSA); PEFT's LoRA guide on path_initial_model_for_weight_conversion",
    check=_check,
)
