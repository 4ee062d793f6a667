"""What `spectra demo` says of its own numbers follows from them."""

import pytest

from spectra.cli.demo import what_it_shows

BASE = {"python": 2.0, "wikipedia": 1.0}


def losses(**models):
    return {"base": BASE} | {
        name: {"python": python, "wikipedia": wikipedia} for name, (python, wikipedia) in models.items()
    }


@pytest.mark.parametrize(("python", "word"), [(1.2, "more"), (1.9, "less")])
def test_fewer_intruders_and_more_forgotten_is_said_with_both_numbers(python, word):
    found = what_it_shows(losses(few=(python, 1.9), many=(1.5, 1.4)), {"few": 2, "many": 30})
    assert found == (
        "Here few has fewer intruders than many (2 against 30), yet it forgot more (1.90 against 1.40 on Wikipedia) and "
        f"learnt {word} ({python:.2f} against 1.50 on Python): the count alone does not say what was forgotten."
    )


def test_of_several_such_pairs_the_one_with_the_largest_difference_is_named():
    models = losses(none=(1.2, 1.9), some=(1.5, 1.6), many=(1.5, 1.4))
    assert what_it_shows(models, {"many": 30, "none": 0, "some": 5}).startswith(
        "Here none has fewer intruders than many "
    )


def test_where_more_intruders_went_with_more_forgotten_no_rule_is_made_of_it():
    found = what_it_shows(losses(few=(1.2, 1.1), many=(1.5, 1.4)), {"few": 2, "many": 30})
    assert found == "Here the models with more intruders forgot more; three models prove no rule."


def test_as_many_intruders_say_nothing_of_which_forgot_more():
    assert "prove no rule" in what_it_shows(losses(a=(1.2, 1.1), b=(1.5, 1.4)), {"a": 2, "b": 2})


def test_the_demo_says_it_below_its_losses(run, tmp_path):
    code, out, _ = run("demo", "--into", tmp_path / "demo")
    assert code == 0
    table, said = out.split("Held-out loss")[1].split("\n\n")[:2]
    assert "lora-r32" in table
    assert said.startswith(
        "Here full has fewer intruders than lora-r2 (0 against 31), yet it forgot more (2.12 against 1.95 "
    )
