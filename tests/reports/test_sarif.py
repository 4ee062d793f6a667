"""The SARIF log: valid by the standard's structure, one result a finding, harmless whatever the names."""

import json
import re
from dataclasses import replace

import pytest

import spectra
from spectra import testing

HOSTILE = "h.0.[x](http:evil){0}<b>%0A\n::error::\x1b[31m\u202e\udcff.weight"
LEVELS = {"error": "error", "warning": "warning", "info": "note"}
# Of the 2.1.0 schema, of the objects used here: what each may hold, with `*` what it must.
SCHEMA = {
    "log": {"$schema": str, "version*": str, "runs*": list},
    "run": {"tool*": dict, "results": list},
    "tool": {"driver*": dict},
    "driver": {"name*": str, "version": str, "rules": list},
    "rule": {
        "id*": str, "name": str, "shortDescription": dict, "fullDescription": dict, "help": dict,
        "defaultConfiguration": dict,
    },
    "text": {"text*": str, "markdown": str},
    "configuration": {"level": str},
    "result": {
        "ruleId": str, "ruleIndex": int, "level": str, "message*": dict, "locations": list,
        "partialFingerprints": dict, "properties": dict,
    },
    "location": {"physicalLocation": dict, "logicalLocations": list},
    "physical": {"artifactLocation": dict, "region": dict},
    "artifact": {"uri": str, "uriBaseId": str},
    "region": {"startLine": int},
    "logical": {"name": str, "fullyQualifiedName": str, "kind": str},
}  # fmt: skip


def require(value, kind):
    """Check one object against the schema: nothing unknown, nothing missing, every type."""
    known = {name.removesuffix("*"): of for name, of in SCHEMA[kind].items()}
    assert {name.removesuffix("*") for name in SCHEMA[kind] if name.endswith("*")} <= set(value) <= set(known), kind
    for name, of in known.items():
        assert isinstance(value.get(name, of()), of), (kind, name)


def require_valid(log):
    require(log, "log")
    assert log["version"] == "2.1.0"
    for run in log["runs"]:
        require(run, "run")
        require(run["tool"], "tool")
        driver = run["tool"]["driver"]
        require(driver, "driver")
        for rule in driver["rules"]:
            require(rule, "rule")
            for part in ("shortDescription", "fullDescription", "help"):
                require(rule[part], "text")
            require(rule["defaultConfiguration"], "configuration")
        ids = [rule["id"] for rule in driver["rules"]]
        assert len(set(ids)) == len(ids)
        for result in run["results"]:
            require(result, "result")
            assert ids[result["ruleIndex"]] == result["ruleId"]
            assert result["level"] in LEVELS.values()
            require(result["message"], "text")
            assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
            for location in result["locations"]:
                require_location(location)


def require_location(location):
    require(location, "location")
    require(location["physicalLocation"], "physical")
    require(location["physicalLocation"]["region"], "region")
    artifact = location["physicalLocation"]["artifactLocation"]
    require(artifact, "artifact")
    assert re.fullmatch(r"(?!/)[A-Za-z0-9._~/%-]+", artifact["uri"])
    for logical in location.get("logicalLocations", []):
        require(logical, "logical")


def tuned_of(names):
    """A base and a fine-tune with two planted intruders in every matrix."""
    base = {name: testing.decaying(96, 96, seed=seed).float() for seed, name in enumerate(names)}
    moved = {
        name: W + testing.plant_intruders(W, 2, seed=seed).dense().float()
        for seed, (name, W) in enumerate(base.items())
    }
    return base, moved


@pytest.fixture(scope="module")
def report():
    return spectra.diagnose(*tuned_of([f"h.{block}.mlp.weight" for block in range(4)]))


def the_run(result, **options):
    log = json.loads(result.to_sarif(**options))
    require_valid(log)
    (run,) = log["runs"]
    return run


def test_there_is_one_result_a_finding_with_its_numbers_and_matrices(report):
    run = the_run(report, file="models/tuned/model.safetensors")
    assert len(run["results"]) == len(report.findings) > 0
    for result, finding in zip(run["results"], report.findings, strict=True):
        assert (result["ruleId"], result["level"]) == (finding.code, LEVELS[finding.severity])
        assert result["message"]["text"] == f"{finding.message} {finding.advice}"
        names = [location["logicalLocations"][0]["fullyQualifiedName"] for location in result["locations"]]
        assert tuple(names) == finding.keys
        assert result["properties"]["numbers"] == json.loads(json.dumps(finding.numbers))


def test_the_rules_are_those_that_were_looked_for():
    found = spectra.diagnose(*tuned_of(["h.0.a.weight"]), select=["SP2", "wrong-base"])
    assert [rule["id"] for rule in the_run(found)["tool"]["driver"]["rules"]] == found.provenance["looked_for"]
    assert found.provenance["looked_for"][0] == "SP103"


def test_fingerprints_stay_whatever_the_numbers_are(report):
    def fingerprints(result, file="adapters/r8"):
        return [entry["partialFingerprints"]["finding/v1"] for entry in the_run(result, file=file)["results"]]

    assert fingerprints(report) == fingerprints(
        spectra.diagnose(*tuned_of([f"h.{block}.mlp.weight" for block in range(4)]))
    )
    fewer = spectra.diagnose(*tuned_of([f"h.{block}.mlp.weight" for block in range(4)]), k=8)
    assert [finding.code for finding in fewer.findings] == [finding.code for finding in report.findings]
    assert fewer.findings != report.findings
    assert fingerprints(fewer) == fingerprints(report)
    assert len(set(fingerprints(report))) == len(report.findings)
    assert set(fingerprints(report)).isdisjoint(fingerprints(report, file="adapters/r16"))


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        ("demo/lora-r2", "demo/lora-r2/adapter_model.safetensors"),
        ("demo/lora-r2/adapter_model.safetensors", "demo/lora-r2/adapter_model.safetensors"),
        (None, "lora-r2/adapter_model.safetensors"),
        ("my models/é:r 2", "my%20models/%C3%A9%3Ar%202/adapter_model.safetensors"),
    ],
)
def test_a_result_lies_in_the_tuned_file(trio, given, uri):
    found = spectra.diagnose(trio / "base", trio / "lora-r2", include=["layers.0"])
    places = {
        location["physicalLocation"]["artifactLocation"]["uri"]
        for result in the_run(found, file=given)["results"]
        for location in result["locations"]
    }
    assert places == {uri}


def test_two_findings_of_one_code_have_a_fingerprint_each(report):
    twice = replace(report, findings=(report.findings[0],) * 2)
    first, second = (result["partialFingerprints"]["finding/v1"] for result in the_run(twice)["results"])
    assert first != second


def test_a_finding_without_matrices_lies_in_the_file_alone(report):
    bare = replace(report, findings=(replace(report.findings[0], keys=()),))
    (result,) = the_run(bare)["results"]
    assert len(result["locations"]) == 1
    assert "logicalLocations" not in result["locations"][0]


def test_hostile_names_are_text_and_nothing_else():
    """No control character, no placeholder and no link is left of a name."""
    base, tuned = tuned_of([HOSTILE])
    tuned["untouched.weight"] = base["untouched.weight"] = testing.decaying(96, 96, seed=7).float()
    found = spectra.diagnose(base, tuned)
    text = found.to_sarif(file=HOSTILE)
    assert text.isascii()
    run = the_run(found, file=HOSTILE)
    messages = [result["message"]["text"] for result in run["results"]]
    assert any("http:evil" in message for message in messages)
    for message in messages:
        assert message.isprintable()
        assert "](" not in message
        assert not re.search(r"(?<!{){\d+}(?!})", message)
    for result in run["results"]:
        for location in result["locations"]:
            assert location["logicalLocations"][0]["name"].isprintable()


def test_a_comparison_names_the_model_of_each_result():
    base, tuned = tuned_of(["h.0.a.weight", "h.1.a.weight"])
    untouched = {name: weight.clone() for name, weight in base.items()}
    found = spectra.compare(base, {"spiked": tuned, "same": untouched})
    run = the_run(found, files={"spiked": "models/spiked.safetensors"})
    named = {(result["properties"]["model"], result["ruleId"]) for result in run["results"]}
    assert named == {
        (name, finding.code) for name, model in found.models.items() for finding in model.findings
    }  # fmt: skip
    for result in run["results"]:
        assert result["message"]["text"].startswith(f"{result['properties']['model']}: ")
    files = {result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in run["results"]}
    assert "models/spiked.safetensors" in files


def test_numbers_that_are_not_finite_are_null(report):
    odd = replace(report, findings=(replace(report.findings[0], numbers={"ratio": float("inf")}),))
    assert the_run(odd)["results"][0]["properties"]["numbers"] == {"ratio": None}


def test_it_is_written_whole(report, tmp_path):
    text = report.to_sarif(tmp_path / "findings.sarif")
    assert (tmp_path / "findings.sarif").read_text() == text


def test_help_is_markdown_without_html(report):
    for rule in the_run(report)["tool"]["driver"]["rules"]:
        assert rule["help"]["markdown"].startswith(f"## {rule['id']} {rule['name']}\n")
        assert not re.search(r"(?<!\\)<", rule["help"]["markdown"])


def test_a_planted_fault_of_the_log_is_seen(report):
    """The check of structure itself can fail."""
    log = json.loads(report.to_sarif())
    log["runs"][0]["results"][0]["severity"] = "error"
    with pytest.raises(AssertionError):
        require_valid(log)
