"""The table of runs: what is trained, in the order in which it matters."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

FULL, LORA = "full", "lora"
BUDGET_MARGIN = 0.1


@dataclass(frozen=True)
class Run:
    """One fine-tuning.

    task : name of a text. method : "full" or a key of `methods.METHODS`. rank, alpha : None for full fine-tuning.
    after : id of a run whose merged weights are the start, instead of the base (tasks in sequence). budget_of : id of a
    pilot whose `alpha_pattern` is trained with, instead of one alpha for all modules. saved : steps whose weights are
    kept and measured beside the last ones.
    """

    task: str
    method: str
    rank: int | None
    alpha: float | None
    learning_rate: float
    seed: int
    steps: int
    batch: int
    after: str = ""
    budget_of: str = ""
    saved: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        parts = [self.task, self.method]
        if self.rank is not None:
            parts += [f"r{self.rank}", f"a{self.alpha:g}"]
        parts += [f"lr{self.learning_rate:g}", f"s{self.seed}"]
        parts += ["after-" + self.after] if self.after else []
        parts += ["budget"] if self.budget_of else []
        return "_".join(parts)

    @property
    def parent(self) -> str:
        """The run that has to be there first, "" for none."""
        return self.after or self.budget_of

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, **asdict(self), "saved": list(self.saved)}


@dataclass(frozen=True)
class Plan:
    """The grid of one study.

    tasks : the first is the main one. lora_rates, full_rates : learning rates, the main one first. high_rates : for
    methods that need another order of learning rate. others : (method, rank, alpha) beside plain LoRA. pretrain_* : how
    the base is trained, and stored : in which dtype it is kept; unused where it is given. windows : held-out windows
    scored of each text. draws : bootstrap.

    Of the main curve's ranks (None is full fine-tuning): sequence learn a second task on top; budgeted are trained
    again under a spike budget; traced are kept at every look; intervened have their intruders scaled.
    """

    size: str
    context: int
    pretrain_steps: int
    pretrain_batch: int
    pretrain_rate: float
    steps: int
    batch: int
    seeds: int
    ranks: tuple[int, ...]
    lora_rates: tuple[float, ...]
    full_rates: tuple[float, ...]
    windows: int
    tasks: tuple[str, ...]
    general: str
    fixed_alpha: float | None = None
    high_rates: dict[str, tuple[float, ...]] = field(default_factory=dict)
    others: tuple[tuple[str, int, float], ...] = ()
    sequence: tuple[int | None, ...] = ()
    budgeted: tuple[int, ...] = ()
    traced: tuple[int | None, ...] = ()
    intervened: tuple[int | None, ...] = ()
    draws: int = 1000
    stored: str = "bfloat16"

    def is_main(self, run: Run) -> bool:
        """Whether a run is of the main curve: the first task, alpha = 2r, LoRA at its main rate.

        Of full fine-tuning both the main rate and the last are: only at a high one does it have intruders to ask about.
        """
        full = run.method == FULL and run.learning_rate in (self.full_rates[0], self.full_rates[-1])
        lora = run.method == LORA and run.learning_rate == self.lora_rates[0] and run.alpha == 2.0 * (run.rank or 0)
        return run.task == self.tasks[0] and not run.parent and (full or lora)

    @property
    def looks(self) -> tuple[int, ...]:
        """The steps after which the losses are taken: half a decade apart, and the last."""
        early = [step for step in (10, 30, 100, 300, 1000) if step < self.steps]
        return (*early, self.steps)


def grid(plan: Plan) -> list[Run]:
    """Return every run of a plan once, the main curve first."""
    return list({run.id: run for run in _grid(plan)}.values())


def _grid(plan: Plan) -> Iterator[Run]:
    main = plan.tasks[0]
    yield from main_curve(plan, main, plan.lora_rates[0], plan.full_rates[0])
    yield from fixed_alpha(plan, main, plan.lora_rates[:1])
    yield from other_rates(plan, main)
    yield from in_sequence(plan)
    yield from under_budget(plan)
    yield from other_methods(plan, main)
    yield from second_task(plan)
    yield from fixed_alpha(plan, main, plan.lora_rates[1:])


def main_curve(plan: Plan, task: str, lora_rate: float, full_rate: float) -> Iterator[Run]:
    """Rank by seed with alpha = 2r, and full fine-tuning."""
    yield from _seeds(plan, task, FULL, None, None, full_rate)
    for rank in plan.ranks:
        yield from _seeds(plan, task, LORA, rank, 2.0 * rank, lora_rate)


def fixed_alpha(plan: Plan, task: str, rates: Sequence[float]) -> Iterator[Run]:
    """The same ranks with one alpha for all, so that a higher rank is scaled down."""
    for rate in rates:
        for rank in plan.ranks if plan.fixed_alpha is not None else ():
            yield from _seeds(plan, task, LORA, rank, plan.fixed_alpha, rate)


def other_rates(plan: Plan, task: str) -> Iterator[Run]:
    """The main curve at the learning rates that are not the main ones."""
    for rate in plan.full_rates[1:]:
        yield from _seeds(plan, task, FULL, None, None, rate)
    for rate in plan.lora_rates[1:]:
        for rank in plan.ranks:
            yield from _seeds(plan, task, LORA, rank, 2.0 * rank, rate)


def other_methods(plan: Plan, task: str) -> Iterator[Run]:
    """Each method beside plain LoRA, every one at its first learning rate before any at its second."""
    for at in range(2):
        for method, rank, alpha in plan.others:
            for rate in plan.high_rates.get(method, plan.lora_rates)[at : at + 1]:
                yield from _seeds(plan, task, method, rank, alpha, rate)


def second_task(plan: Plan) -> Iterator[Run]:
    """The main curve and its other rates for the tasks after the first."""
    for task in plan.tasks[1:]:
        yield from main_curve(plan, task, plan.lora_rates[0], plan.full_rates[0])
        yield from other_rates(plan, task)


def in_sequence(plan: Plan) -> Iterator[Run]:
    """The second task from the base, and then on top of the first, whose update is merged before."""
    for task in plan.tasks[1:]:
        for rank in plan.sequence:
            yield from _recipe(plan, task, rank)
        for rank in plan.sequence:
            for first in _recipe(plan, plan.tasks[0], rank):
                for run in _recipe(plan, task, rank):
                    if run.seed == first.seed:
                        yield _changed(run, after=first.id, saved=())


def under_budget(plan: Plan) -> Iterator[Run]:
    """Each pilot trained anew with the alphas that kept its modules below their first intruder."""
    for rank in plan.budgeted:
        for pilot in _recipe(plan, plan.tasks[0], rank):
            yield _changed(pilot, budget_of=pilot.id, saved=())


def _recipe(plan: Plan, task: str, rank: int | None) -> Iterator[Run]:
    """The main curve's runs of one rank, None for full fine-tuning."""
    if rank is None:
        return _seeds(plan, task, FULL, None, None, plan.full_rates[0])
    return _seeds(plan, task, LORA, rank, 2.0 * rank, plan.lora_rates[0])


def _seeds(plan: Plan, task: str, method: str, rank: int | None, alpha: float | None, rate: float) -> Iterator[Run]:
    """The run with every seed. The first seed of the traced ranks is kept at every step that is looked at."""
    for seed in range(plan.seeds):
        run = Run(task, method, rank, alpha, rate, seed, plan.steps, plan.batch)
        traced = seed == 0 and plan.is_main(run) and rank in plan.traced
        yield _changed(run, saved=plan.looks[:-1]) if traced else run


def _changed(run: Run, **changes: Any) -> Run:
    return Run(**{field.name: getattr(run, field.name) for field in fields(run)} | changes)


def waves(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Cut the runs where the first one needs another: all that are needed come before it."""
    cut = next((at for at, run in enumerate(runs) if run.parent), len(runs))
    return list(runs[:cut]), list(runs[cut:])


PLANS = {
    "study": Plan(
        size="study",
        context=512,
        pretrain_steps=7000,
        pretrain_batch=64,
        pretrain_rate=1.5e-3,
        steps=300,
        batch=16,
        seeds=3,
        ranks=(1, 2, 4, 8, 16, 64, 256),
        fixed_alpha=16.0,
        lora_rates=(1e-3, 4e-3),
        full_rates=(3e-4, 1e-4, 1e-3),
        high_rates={"vera": (1e-2, 4e-2)},
        others=(
            ("dora", 8, 16.0),
            ("pissa", 8, 16.0),
            ("rslora", 8, 16.0),
            ("b-only", 8, 16.0),
            ("rslora", 64, 16.0),
            ("rslora", 256, 16.0),
            ("adalora", 8, 16.0),
            ("vera", 256, 1.0),
            ("dora", 64, 128.0),
            ("pissa", 64, 128.0),
            ("b-only", 64, 128.0),
        ),
        windows=64,
        tasks=("python", "mathematics"),
        general="wikipedia",
        sequence=(1, 8, 64, None),
        budgeted=(8, 64),
        traced=(1, 8, 64, None),
        intervened=(1, 8, 64, None),
    ),
    "real": Plan(
        size="",
        context=512,
        pretrain_steps=0,
        pretrain_batch=0,
        pretrain_rate=0.0,
        steps=300,
        batch=8,
        seeds=3,
        ranks=(1, 2, 4, 8, 16, 64),
        lora_rates=(4e-3, 1e-3),
        full_rates=(3e-4, 1e-4, 1e-3),
        windows=32,
        tasks=("python",),
        general="wikipedia",
        intervened=(1, 8, 64, None),
    ),
    "demo": Plan(
        size="small",
        context=512,
        pretrain_steps=10000,
        pretrain_batch=128,
        pretrain_rate=4e-3,
        steps=1000,
        batch=32,
        seeds=3,
        ranks=(2, 32),
        lora_rates=(1e-3, 3e-4),
        full_rates=(3e-4, 1e-4),
        windows=256,
        tasks=("python",),
        general="wikipedia",
        stored="float16",
    ),
    "smoke": Plan(
        size="tiny",
        context=64,
        pretrain_steps=150,
        pretrain_batch=16,
        pretrain_rate=3e-3,
        steps=12,
        batch=8,
        seeds=2,
        ranks=(1, 8),
        fixed_alpha=16.0,
        lora_rates=(5e-3,),
        full_rates=(1e-3,),
        high_rates={"vera": (5e-2,)},
        others=(
            ("dora", 4, 8.0),
            ("pissa", 4, 8.0),
            ("rslora", 4, 8.0),
            ("b-only", 4, 8.0),
            ("adalora", 4, 8.0),
            ("vera", 16, 1.0),
        ),
        windows=8,
        tasks=("python", "sums"),
        general="documentation",
        sequence=(8,),
        budgeted=(8,),
        traced=(8,),
        intervened=(8, None),
        draws=100,
    ),
}
