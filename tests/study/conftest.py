"""A study small enough for a test: two made-up texts, prepared, and a base trained on the first in seconds."""

import pytest

from benchmarks.study import vocabulary
from benchmarks.study.prepare import prepare
from benchmarks.study.pretrain import pretrain
from benchmarks.study.state import State
from benchmarks.study.texts import Text

LINES = b"".join(b"%d plus %d is %d\n" % (a, b, a + b) for a in range(40) for b in range(20))
WORDS = Text("words", "made up", "none", b"the cat saw the dog and ran away\n" * 900, b"the dog saw a cat\n" * 90)


@pytest.fixture(scope="session")
def sums():
    """The task "sums"; the general text is "words"."""
    return Text("sums", "made up", "none", LINES[: len(LINES) * 4 // 5], LINES[len(LINES) * 4 // 5 :])


@pytest.fixture(scope="session")
def new_state(tmp_path_factory, sums):
    """Return a function from a plan to a state of its own, with the texts and the base of that plan."""

    def make(plan):
        folder = tmp_path_factory.mktemp("study")
        prepare(folder / "texts", WORDS, [sums], vocabulary.train_vocabulary(WORDS.train, 256))
        state = State(folder, folder / "results", plan, "cpu")
        pretrain(state, compiled=False)
        return state

    return make
