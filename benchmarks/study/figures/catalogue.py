"""The table of figures: what draws each, and what a reader is told under it."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from benchmarks.study.figures.counting import by_epsilon, by_k
from benchmarks.study.figures.forgetting import predictors, scatter
from benchmarks.study.figures.intervention import beside_the_paper, exchange, intervention
from benchmarks.study.figures.phase import phase
from benchmarks.study.figures.ranks import by_learning_rate, by_rank, effective_rank, trade_off
from benchmarks.study.figures.similarity import profile, similarity
from benchmarks.study.figures.steps import steps
from benchmarks.study.figures.tables import Tables
from benchmarks.study.figures.tasks import budget, sequence
from benchmarks.study.figures.variants import variants


@dataclass(frozen=True)
class Drawing:
    """draw : its function; caption : what it shows. figures/README.md says which figure of the paper it answers to."""

    draw: Callable[[Tables], Figure]
    caption: str


FIGURES: dict[str, Drawing] = {
    "similarity": Drawing(
        similarity,
        "Similarity of the leading directions, tuned against base, in four matrices of the middle block. Full "
        "fine-tuning keeps the diagonal; a pale column is an intruder.",
    ),
    "profile": Drawing(
        profile,
        "One intruder and the next direction that is none: their cosines with each of the 64 leading base directions.",
    ),
    "epsilon": Drawing(
        by_epsilon,
        "Intruders among the ten leading directions of every matrix, by threshold: mean over seeds, shade from least "
        "to most. The vertical axis is linear up to 10.",
    ),
    "k": Drawing(
        by_k,
        "Intruders at epsilon = 0.5 by the number of leading directions examined; mean over seeds, shade from least to "
        "most. The vertical axis is linear up to 10.",
    ),
    "steps": Drawing(
        steps, "Intruders and the largest value of the update over the steps of a run, and what it forgot and learnt."
    ),
    "rank": Drawing(
        by_rank,
        "Intruders, forgetting and task loss by rank, for two rules for alpha and two learning rates, beside full "
        "fine-tuning. Points are seeds.",
    ),
    "rank-second-task": Drawing(
        lambda tables: by_rank(tables.second),
        "The same on the second task, mathematics, where alpha = 2r alone was run.",
    ),
    "effective-rank": Drawing(effective_rank, "How many directions an update uses of the rank it was given."),
    "learning-rate": Drawing(
        by_learning_rate, "Intruders, forgetting and size of the update by learning rate, alpha = 2r."
    ),
    "trade-off": Drawing(
        trade_off, "Forgetting against task loss; numbers are ranks, for full fine-tuning the learning rate."
    ),
    "predictors": Drawing(
        predictors,
        "Rank correlation with forgetting of each number of a run, with 95 % intervals from resampled configurations: "
        "alone, with the task loss held fixed, and with the size of the update held fixed as well.",
    ),
    "scatter": Drawing(scatter, "Forgetting against four of those numbers, one point a run."),
    "intervention": Drawing(
        intervention,
        "Change of both losses when the top intruder of each matrix is scaled, beside another leading direction, and "
        "beside the whole update changed by as much. Points are seeds.",
    ),
    "exchange": Drawing(
        exchange,
        "The same as a trade: further left is forgetting taken back, further up is task loss paid for it; scales from "
        "0.25 to 1.",
    ),
    "intervention-paper": Drawing(
        beside_the_paper, "Share of the forgetting that goes with the top intruders, ours and the paper's."
    ),
    "sequence": Drawing(
        sequence, "Two tasks in one model, one after the other and added: intruders and losses. Dotted: the base."
    ),
    "budget": Drawing(
        budget, "Alphas set before training so that each module stays below its first intruder, beside one alpha."
    ),
    "variants": Drawing(variants, "Other methods beside LoRA of the same rank. Points are seeds."),
    "phase": Drawing(
        phase,
        "Intruders as each update is scaled from nothing to twice, and the critical scale of each matrix beside the "
        "threshold law's.",
    ),
    "real-model": Drawing(
        lambda tables: by_rank(tables.real),
        "SmolLM2 with 135 million parameters, made by others: intruders of 2,100 directions, forgetting and loss on "
        "Python by rank, beside full fine-tuning. Points are seeds.",
    ),
    "real-model-exchange": Drawing(
        lambda tables: exchange(tables.real),
        "The same model at rate 4e-3, its intruders scaled, as a trade: further left is forgetting taken back, further "
        "up is task loss paid for it; scales from 0.25 to 1.",
    ),
}
