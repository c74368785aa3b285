"""`spikemesh simulate` prints what happened, and ends with an error when a promise was broken."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from spikemesh.cli import build_app
from spikemesh.errors import PromiseBroken
from spikemesh.sim import SCENARIOS


def run(*arguments: str) -> str:
    result = CliRunner().invoke(build_app("simulate"), ["simulate", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_it_names_the_scenarios() -> None:
    assert set(json.loads(run("--list", "--json"))) == set(SCENARIOS)
    assert all(name.split("-")[0] in run("--list") for name in SCENARIOS)


def test_it_prints_facts() -> None:
    arguments = ("--scenario", "only-peer-leaves", "--nodes", "3", "--seed", "4")
    facts = json.loads(run(*arguments, "--json"))
    assert (facts["num_nodes"], facts["seed"], facts["num_acknowledged"]) == (3, 4, 8)
    told = run(*arguments)
    assert facts["trace"] in told and "equal after s" in told and "{" not in told
    assert facts["set_digest"] in "".join(told.split())


@pytest.mark.parametrize("arguments", [("--scenario", "sunshine"), ("--scenario", "chaos", "--nodes", "2")])
def test_what_cannot_be_told_is_a_clear_error(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(build_app("simulate"), ["simulate", *arguments])
    assert result.exit_code == 2
    assert "scenario" in result.output


def test_a_broken_promise_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spikemesh.sim.history.History._oracle", lambda self, replica: 0)
    with pytest.raises(PromiseBroken):
        run("--scenario", "only-peer-leaves")
