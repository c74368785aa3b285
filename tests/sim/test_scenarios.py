"""What users of other volunteer systems reported, told with real nodes; and the storm with everything at once."""

from __future__ import annotations

import pytest

from spikemesh.sim import SCENARIOS, simulate

STORIES = [name for name in SCENARIOS if name != "chaos"]


def test_every_report_has_its_story() -> None:
    assert set(STORIES) >= {
        "only-peer-leaves",
        "everybody-leaves-during-join",
        "flapping-peer",
        "newcomer-storm",
        "week-offline",
        "split-brain",
        "hot-duplicate",
        "slow-blob-owner-dies",
    }


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", STORIES)
def test_a_story_ends_well(name: str, seed: int) -> None:
    """Each story checks its own promises, and ends with everybody equal and nothing acknowledged missing."""
    outcome = simulate(name, num_nodes=min(60, SCENARIOS[name].num_nodes), seed=seed)
    assert outcome.num_acknowledged > 0
    assert outcome.virtual_s > 0


def test_a_week_takes_a_week() -> None:
    assert simulate("week-offline").virtual_s > 7 * 24 * 3600


@pytest.mark.long
def test_a_thousand_nodes_weather_the_storm() -> None:
    """30 % loss, 30 % duplication, reordering, two partitions, 10 % churn: one digest, as the story checks."""
    outcome = simulate("chaos", seed=1)
    assert outcome.num_nodes == 1000
    assert outcome.num_crashes == 100
    assert outcome.num_lost_messages > 0.3 * outcome.num_requests
    assert outcome.num_acknowledged == 10
