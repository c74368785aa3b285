"""`spikemesh demo`: the main job on one machine. Four volunteers train one model; one is killed, one joins late."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich import print as show

from spikemesh.cli.demo.length import Work, fit, measure_step_s
from spikemesh.cli.demo.live import LiveDisplay
from spikemesh.cli.demo.report import HistoryNode, HistoryPoint, Length, read_report, show_report
from spikemesh.cli.demo.stage import Stage
from spikemesh.cli.demo.swarm import POLL_S, Swarm, Volunteer, agree
from spikemesh.cli.demo.wording import length_text
from spikemesh.cli.folder import RunFolder
from spikemesh.cli.init import create_run
from spikemesh.cli.presets import PRESET_OPTION, find_preset
from spikemesh.cli.progress import shown_progress
from spikemesh.codec import read_tensor_file
from spikemesh.errors import SpikemeshError
from spikemesh.node import NodeStatistics
from spikemesh.store import Store

NUM_VOLUNTEERS = 4
KILL_AT, LATE_AT = 0.4, 0.6
"""Progress of the run at which one volunteer is killed, and at which another one joins."""

KILLED, LATE = 1, NUM_VOLUNTEERS
"""Positions of the two among the volunteers."""

AGREE_TIMEOUT_S = 120.0
HISTORY_PERIOD_S = 2.0


def demo(
    folder: Annotated[
        Path | None, typer.Option(help="Where everything goes. Default: runs/demo, with the seed if not 0.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Text to train on: .txt, .jsonl or a folder. Default: Python's own standard library."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another start and other batches.")] = 0,
    preset: Annotated[str, PRESET_OPTION] = "demo",
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what is in the folder and start over.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Train all rounds, also where that takes more than 20 minutes.")
    ] = False,
) -> None:
    """Train one model with four volunteers and no server, here and now. Ctrl-C stops; the same command goes on."""
    place = folder or Path("runs") / ("demo" if seed == 0 else f"demo-{seed}")
    if fresh:
        _delete(place)
    stage = Stage.load(place, seed=seed, command=" ".join(["spikemesh", *sys.argv[1:]]))
    if full and stage.length is not None and stage.length.shortened:
        raise SpikemeshError(
            f"{place} holds a demo of {stage.length.num_rounds} of {stage.length.whole_rounds} rounds, which cannot be "
            "made longer. `spikemesh demo --fresh --full` starts over, or choose another --folder."
        )
    if (place / "report.json").exists():
        show_report(place, read_report(place))
        show(f"This demo is complete. `spikemesh demo --fresh --seed {seed}` runs it again.")
        return
    place.mkdir(parents=True, exist_ok=True)
    stage.save(place)
    for number in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal must not leave volunteers behind
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        _run(place, stage, data, preset, full=full)
    except KeyboardInterrupt:
        show(f"Stopped in order. The same command goes on where this left off (in {place}).")
        raise


def _run(place: Path, stage: Stage, data: Path | None, preset: str, *, full: bool) -> None:
    from spikemesh.cli.demo.baselines import train_baselines
    from spikemesh.cli.demo.verdict import make_report, node_report

    founder = RunFolder(place / "volunteer-1")
    if not founder.has_genesis:
        show("Making a run: model, masks, and a start calibrated on the text ...")
        with shown_progress() as progress:
            progress.begin("making the start", 0)
            create_run(founder, data=data, name="demo", preset=preset, seed=stage.seed, progress=progress)
    if stage.length is None:
        stage.length = _fit_to_this_machine(founder, preset, full=full)
        stage.save(place)
    print(length_text(stage.length), flush=True)
    volunteers = [_volunteer(place, number, data, stage.seed) for number in range(NUM_VOLUNTEERS + 1)]
    if not stage.trained:
        with Swarm(volunteers) as swarm:
            _train(swarm, place, stage)
        stage.trained = True
        stage.save(place)
    print("Training what to compare with: a volunteer alone, a joint run with four times the batch ...", flush=True)
    baselines = train_baselines(place, founder, data, seed=stage.seed, num_shards=NUM_VOLUNTEERS)
    nodes = [
        node_report(v.name, v.statistics(), killed=number == KILLED, late=number == LATE)
        for number, v in enumerate(volunteers)
    ]
    with shown_progress() as progress:
        report = make_report(place, stage, nodes, founder, baselines, data, progress)
    show_report(place, report)


def _fit_to_this_machine(founder: RunFolder, preset: str, *, full: bool) -> Length:
    """Measure a training step. Where all rounds would take too long, rewrite the run for fewer: nobody has it yet."""
    genesis = founder.genesis()
    with shown_progress() as progress:
        progress.begin("measuring a training step", 0)
        with Store.open(founder.path, create=False) as store:
            start = read_tensor_file(store.blobs.get(genesis.init_hash))
        step_s = measure_step_s(genesis, start)
    recipe = find_preset(preset)[1]
    work = Work(recipe.num_rounds, recipe.steps_per_round, len(os.sched_getaffinity(0)))
    length = fit(step_s, work, full=full)
    rounds = {"num_rounds": length.num_rounds}
    founder.set_genesis(msgspec.structs.replace(genesis, recipe={**genesis.recipe, **rounds}))
    return length


def _volunteer(place: Path, number: int, data: Path | None, seed: int) -> Volunteer:
    """Volunteer `number` from 0. The late one reads the same quarter as the first, in another order."""
    shard = f"{number % NUM_VOLUNTEERS + 1}/{NUM_VOLUNTEERS}"
    options = ["--shard", shard, "--seed", str(seed * 1000 + number), "--bind", "127.0.0.1:0", "--threads", "1"]
    if data is not None:
        options += ["--data", str(data)]
    return Volunteer(RunFolder(place / f"volunteer-{number + 1}"), options)


def _train(swarm: Swarm, place: Path, stage: Stage) -> None:
    """From the first start to equal digests everywhere."""
    clock = _Stopwatch(stage.swarm_seconds)
    _start_all(swarm, stage, clock)
    agreed = 0
    deadline: float | None = None
    next_sample_s = 0.0
    with LiveDisplay() as display:
        while agreed < 2:
            time.sleep(POLL_S)
            running = swarm.volunteers[: NUM_VOLUNTEERS + stage.late]
            for volunteer in running:
                volunteer.check()
            seen = [volunteer.statistics() for volunteer in running]
            stage.swarm_seconds = clock.seconds()
            if stage.train_start_s is None and any(s.volunteer and s.volunteer.step for s in seen if s):
                stage.train_start_s = stage.swarm_seconds
            if stage.late and all(s and s.volunteer and s.volunteer.state == "done" for s in seen):
                stage.train_end_s = stage.train_end_s or stage.swarm_seconds
            _disturb(swarm, stage, _progress(seen))
            if stage.swarm_seconds >= next_sample_s:
                stage.history.append(_sample(stage.swarm_seconds, running, seen))
                next_sample_s = stage.swarm_seconds + HISTORY_PERIOD_S
                stage.save(place)
            display.update(
                [(v.name, s, "") for v, s in zip(running, seen, strict=True)], stage.swarm_seconds, stage.events
            )
            agreed = agreed + 1 if stage.late and agree(seen) else 0
            if _progress(seen) >= 1.0:
                deadline = deadline or stage.swarm_seconds + AGREE_TIMEOUT_S
                if stage.swarm_seconds > deadline:
                    raise SpikemeshError(_disagreement(running, seen))


def _start_all(swarm: Swarm, stage: Stage, clock: _Stopwatch) -> None:
    """The founder from its folder, everybody else by the ticket of the one before: any peer's will do."""
    members = swarm.volunteers[: NUM_VOLUNTEERS + stage.late]
    ticket = str(members[0].folder.path)
    with shown_progress() as progress:
        progress.begin("starting", len(members), "volunteers")
        for volunteer in members:
            volunteer.start(ticket)
            ticket = volunteer.wait_for_ticket()
            progress.advance(1)
    stage.swarm_seconds = clock.seconds()
    stage.note(f"{len(members)} volunteers started")


def _disturb(swarm: Swarm, stage: Stage, progress: float) -> None:
    """Mid-way: kill one without warning and start it again; let another one join from a peer's snapshot."""
    if not stage.killed and progress >= KILL_AT:
        victim = swarm.volunteers[KILLED]
        victim.kill()
        victim.start(str(victim.folder.path))
        stage.killed = True
        stage.note(f"{victim.name} killed (SIGKILL) and started again")
    if not stage.late and progress >= LATE_AT:
        newcomer = swarm.volunteers[LATE]
        newcomer.start(swarm.volunteers[2].folder.ticket_path.read_text().strip())
        stage.late = True
        stage.note(f"{newcomer.name} joins late, by volunteer-3's ticket")


def _progress(seen: list[NodeStatistics | None]) -> float:
    return max((s.volunteer.progress for s in seen if s is not None and s.volunteer is not None), default=0.0)


def _sample(t_s: float, volunteers: list[Volunteer], seen: list[NodeStatistics | None]) -> HistoryPoint:
    nodes = [HistoryNode.of(v.name, s) for v, s in zip(volunteers, seen, strict=True) if s is not None]
    return HistoryPoint(t_s=t_s, nodes=nodes)


def _disagreement(volunteers: list[Volunteer], seen: list[NodeStatistics | None]) -> str:
    states = ", ".join(
        f"{v.name}: {'nothing' if s is None else f'{s.num_contributions} contributions, {s.digest[:12]}'}"
        for v, s in zip(volunteers, seen, strict=True)
    )
    return f"the volunteers did not come to the same digest within {AGREE_TIMEOUT_S:.0f} s ({states})"


class _Stopwatch:
    """Seconds of this start on top of those of earlier ones."""

    def __init__(self, before_s: float) -> None:
        self._before_s, self._start_s = before_s, time.monotonic()

    def seconds(self) -> float:
        return self._before_s + time.monotonic() - self._start_s


def _delete(place: Path) -> None:
    """Only what a demo makes: never a folder that holds anything else."""
    if place.exists():
        if not (place / "demo.json").exists() and any(place.iterdir()):
            raise SpikemeshError(
                f"{place} does not look like a demo's folder, so it is not deleted. Choose another --folder."
            )
        shutil.rmtree(place)
