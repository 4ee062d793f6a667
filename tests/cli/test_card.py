"""`spectra card`: a model card kept up to date, and nothing else of it touched."""

import io
import os
import stat

import pytest

from spectra.reports.card import BEGIN, END

HEAD = b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\n# My adapter"


@pytest.fixture
def adapter(models, tmp_path):
    """A copy of the adapter, beside which a README may be written."""
    folder = tmp_path / "lora"
    folder.mkdir()
    for path in (models / "lora").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "README.md").write_bytes(HEAD)
    return folder


def test_the_adapters_own_readme_gets_the_summary(run, models, adapter):
    readme = adapter / "README.md"
    readme.chmod(0o640)
    code, out, err = run("card", models / "base", adapter)
    assert (code, out) == (0, "")
    assert f"wrote {readme}" in err
    text = readme.read_bytes()
    assert text.startswith(HEAD)
    assert text.count(b"\n") == text.count(b"\r\n")
    assert stat.S_IMODE(readme.stat().st_mode) == 0o640
    assert b"leading directions" in text
    before = readme.stat().st_mtime_ns
    code, _, err = run("card", models / "base", adapter)
    assert (code, "up to date" in err) == (0, True)
    assert readme.stat().st_mtime_ns == before


def test_check_and_dry_run_change_nothing(run, models, adapter):
    code, out, _ = run("card", models / "base", adapter, "--dry-run")
    assert code == 0
    assert f"+{BEGIN}" in out.splitlines()
    code, out, err = run("card", models / "base", adapter, "--check")
    assert (code, out) == (1, "")
    assert "out of date" in err
    assert (adapter / "README.md").read_bytes() == HEAD
    run("card", models / "base", adapter)
    assert run("card", models / "base", adapter, "--check")[0] == 0
    assert run("card", models / "base", adapter, "--check", "--k", "3")[0] == 1


def test_findings_can_be_left_out(run, models, adapter):
    def said(*options):
        return run("card", models / "base", adapter, "--dry-run", *options)[1]

    assert "SP2" in said()
    assert "SP" not in said("--ignore", "SP")
    code, out, err = run("card", models / "base", adapter, "--select", "SP999")
    assert (code, out) == (2, "")
    assert "SP999" in err
    assert (adapter / "README.md").read_bytes() == HEAD


def test_a_symlink_stays_one_and_its_target_is_written(run, models, adapter, tmp_path):
    real = tmp_path / "real.md"
    real.write_bytes(HEAD)
    (adapter / "README.md").unlink()
    (adapter / "README.md").symlink_to(real)
    code, _, err = run("card", models / "base", adapter)
    assert (code, "'README.md' is a link that leaves 'lora'" in err) == (3, True)
    assert real.read_bytes() == HEAD
    assert run("card", models / "base", adapter, "--readme", adapter / "README.md")[0] == 0
    assert (adapter / "README.md").is_symlink()
    assert BEGIN.encode() in real.read_bytes()
    real.write_bytes(HEAD)
    assert run("card", models / "base", adapter, "--follow-symlinks")[0] == 0
    assert BEGIN.encode() in real.read_bytes()


def test_a_readme_that_is_missing_is_made_with_the_summary_alone(run, models, adapter):
    readme = adapter / "README.md"
    readme.unlink()
    code, out, _ = run("card", models / "base", adapter, "--dry-run")
    assert (code, f"+{BEGIN}" in out.splitlines()) == (0, True)
    code, _, err = run("card", models / "base", adapter, "--check")
    assert (code, "README.md is missing" in err) == (1, True)
    assert not readme.exists()
    code, _, err = run("card", models / "base", adapter)
    assert code == 0
    assert "which was not there: license and base_model" in err
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"{BEGIN}\n## What fine-tuning changed: ")
    assert text.endswith(f"{END}\n")
    assert "---\n" not in text.replace("| --- |", "")
    assert run("card", models / "base", adapter, "--check")[0] == 0


def test_a_link_to_nothing_is_no_missing_readme(run, models, adapter):
    (adapter / "README.md").unlink()
    (adapter / "README.md").symlink_to(adapter / "elsewhere.md")
    code, _, err = run("card", models / "base", adapter)
    assert (code, "is no file" in err) == (3, True)


@pytest.mark.parametrize("text", [b"", b"\r\n \n"])
def test_an_empty_summary_takes_no_one_s_place(run, models, adapter, monkeypatch, text):
    assert run("card", models / "base", adapter)[0] == 0
    before = (adapter / "README.md").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    code, _, err = run("card", "--from", "-", "--readme", adapter / "README.md")
    assert (code, "'-' is empty" in err) == (3, True)
    assert (adapter / "README.md").read_bytes() == before


def test_what_is_no_text_of_a_readers_size_is_refused_at_once(run, adapter, tmp_path, monkeypatch):
    readme, large = adapter / "README.md", tmp_path / "large.md"
    with large.open("wb") as file:
        file.truncate(2**33)
    os.mkfifo(tmp_path / "pipe")
    cases = {tmp_path: "not a regular file", tmp_path / "pipe": "not a regular file", "/dev/zero": "not a regular file"}
    for source, words in {**cases, large: "too large"}.items():
        code, _, err = run("card", "--from", source, "--readme", readme)
        assert (code, words in err) == (3, True), source
    with large.open("rb") as file:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(file))
        code, _, err = run("card", "--from", "-", "--readme", readme)
    assert (code, "too large" in err) == (3, True)
    code, _, err = run("card", "--from", "-", "--readme", large)
    assert (code, "too large" in err) == (3, True)
    assert readme.read_bytes() == HEAD


def test_a_summary_written_before_is_taken_as_it_is(run, models, adapter, tmp_path):
    summary = tmp_path / "summary.md"
    words = ("compare", models / "base", "--lora", models / "lora", "--full", models / "full", "--markdown", summary)
    assert run(*words)[0] == 0
    assert run("card", "--from", summary, "--readme", adapter / "README.md")[0] == 0
    text = (adapter / "README.md").read_text(encoding="utf-8").replace("\r\n", "\n")
    assert summary.read_text(encoding="utf-8") in text


def test_a_summary_comes_in_through_stdin_with_any_line_ends(run, models, adapter, monkeypatch):
    summary = run("diagnose", models / "base", adapter, "--markdown", "-")[1].encode()
    given = summary.replace(b"\n", b"\r\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert run("card", "--from", "-", "--readme", adapter / "README.md")[0] == 0
    assert (adapter / "README.md").read_bytes().endswith(f"{BEGIN}\r\n".encode() + given + END.encode())


SUMMARY = "## What fine-tuning changed: `x`\n\ntext\n\n<sub>Measured 2026-01-01 with spectra 1</sub>\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (SUMMARY.replace("text", END).encode(), "marks of a card"),
        (b"# A project\n\nIts README.\n", "no summary that spectra wrote"),
        (f"# A project\n\n{SUMMARY}".encode(), "no summary that spectra wrote"),
        (SUMMARY.replace("<sub>", "<p>").encode(), "no summary that spectra wrote"),
        (b"## 3 ways of fine-tuning\n", "no summary that spectra wrote"),
    ],
)
def test_a_summary_that_is_none_is_refused(run, adapter, tmp_path, content, said):
    (tmp_path / "summary.md").write_bytes(content)
    code, _, err = run("card", "--from", tmp_path / "summary.md", "--readme", adapter / "README.md")
    assert code == 3
    assert said in err
    assert (adapter / "README.md").read_bytes() == HEAD


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("card",), 2, "give BASE and TUNED"),
        (("card", "{base}"), 2, "give BASE and TUNED"),
        (("card", "{base}", "{lora}", "--from", "{lora}"), 2, "give one or the other"),
        (("card", "--from", "{adapter}/README.md"), 2, "--readme"),
        (("card", "{base}", "{nowhere}"), 3, "nowhere"),
        (("card", "{base}", "{lora}", "--readme", "{nowhere}/README.md"), 4, "does not exist"),
        (("card", "{base}", "{lora}", "--readme", "{lora}"), 3, "is no file"),
    ],
)
def test_what_cannot_be_done_is_said(run, models, adapter, words, code, said):
    places = {name: models / name for name in ("base", "lora", "nowhere")} | {"adapter": adapter}
    found, out, err = run(*(word.format(**places) for word in words))
    assert (found, out) == (code, "")
    assert said in err


def test_half_a_pair_of_marks_is_refused_before_measuring(run, models, adapter, monkeypatch):
    monkeypatch.setattr("spectra.diagnose", lambda *_, **__: pytest.fail("measured first"), raising=False)
    (adapter / "README.md").write_text(f"{END}\n")
    code, _, err = run("card", models / "base", adapter)
    assert code == 3
    assert "leave one of each, or none" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_readme_that_cannot_be_written_is_said_before_measuring(run, models, adapter):
    (adapter / "README.md").chmod(0o444)
    code, _, err = run("card", models / "base", adapter)
    assert code == 4
    assert "permission denied" in err


def test_markdown_goes_to_stdout_alone(run, models):
    code, out, _ = run("diagnose", models / "base", models / "lora", "--markdown", "-")
    assert code == 0
    assert out.startswith("## What fine-tuning changed: `lora`\n")
    assert run("diagnose", models / "base", models / "lora", "--markdown", "-", "--json", "-")[0] == 2
