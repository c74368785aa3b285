"""`spikemesh merge`: several checkpoints into one."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.filesize import decimal

from spikemesh.cli.adapters import are_adapters, merge_adapters, repeat_adapters, require_base_for
from spikemesh.cli.companions import carried_facts, print_carried
from spikemesh.cli.foresight import foresee, foresee_adapters
from spikemesh.cli.names import counted, encoded, shown, some
from spikemesh.cli.progress import shown_progress
from spikemesh.cli.rows import rows_said
from spikemesh.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from spikemesh.checkpoint import Choices, MergeReport
    from spikemesh.checkpoint.options import Place
    from spikemesh.train import CalibrationReport

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_size(text: str) -> int:
    """ "5GB" -> 5,000,000,000 bytes."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?B)?", text.strip().upper())
    size = int(float(match[1]) * UNITS[match[2] or ""]) if match else 0
    if size <= 0:
        raise typer.BadParameter(f"expected a size such as 5GB or 500MB, got {text!r}")
    return size


def merge(
    out: Annotated[Path, typer.Option("--out", "-o", help="Ends in .safetensors: a file. Else a folder.")],
    inputs: Annotated[
        list[Path] | None, typer.Argument(help="Checkpoints: .safetensors, .pt, .bin, an index, or a folder.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="What all inputs started from: merge what they changed.")] = None,
    weight: Annotated[
        list[str] | None, typer.Option(help="One per input, in their order; relative, such as 0.7 and 0.3.")
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            help="active-mean (default), mean, sum, trimmed-mean, sign-elect, max-magnitude, slerp or passthrough; of "
            "adapters sum or mean."
        ),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Type of the result: keep (default), bf16, f16 or f32.")] = None,
    mask_from: Annotated[
        Path | None, typer.Option(help="A file with masks: where they are not zero, a zero is held as well.")
    ] = None,
    companions_from: Annotated[
        Path | None,
        typer.Option(help="The folder that configuration and tokenizer come from; else the base, else one input."),
    ] = None,
    shard_size: Annotated[str | None, typer.Option(help="Cut the result into files of at most this, as 5GB.")] = None,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Take merged inputs as files, not as what they were merged from.")
    ] = False,
    by_leaves: Annotated[
        bool, typer.Option("--by-leaves", help="A weight of a merged input is that of each file it was merged from.")
    ] = False,
    skip: Annotated[list[str] | None, typer.Option(help="PATTERN: leave out such tensors, as '*.mem'.")] = None,
    take: Annotated[
        list[str] | None, typer.Option(help="PATTERN=INPUT: take such tensors from one input (or `base`) as they are.")
    ] = None,
    weight_of: Annotated[
        list[str] | None, typer.Option(help="INPUT:PATTERN=0.7: another weight of one input in such tensors.")
    ] = None,
    integers: Annotated[
        str | None,
        typer.Option(
            help="Integers that differ: counters (default: the larger of single numbers, else refuse), max, first "
            "(by content hash) or refuse."
        ),
    ] = None,
    allow_non_finite: Annotated[
        bool, typer.Option("--allow-non-finite", help="Let NaN and infinity spread that not all inputs have.")
    ] = False,
    disjoint: Annotated[
        bool, typer.Option("--disjoint", help="Put inputs side by side that share no tensor's name.")
    ] = False,
    vocab: Annotated[
        str | None,
        typer.Option(help="Match rows of embeddings by their tokens: base keeps the base's, union all of them."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe in TOML, as `inspect --recipe` prints it: says all but the files.")
    ] = None,
    again: Annotated[Path | None, typer.Option(help="A merged file, whose merge is to be repeated.")] = None,
    from_folder: Annotated[
        Path | None, typer.Option(help="Where the inputs of --recipe or --again are looked for, by what is in them.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be merged, kept and left out; write nothing.")
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Text on which to refit the thresholds of our own models to their parents' firing rates."),
    ] = None,
    keep_remainder: Annotated[
        bool, typer.Option("--keep-remainder", help="Of adapters: keep what takes them out again without the base.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Merge checkpoints, exactly: any order, repetition and grouping of the same files gives the same bytes.

    Zeros say nothing, so nothing that one input alone has is diluted. Every input is read once, in bounded memory.
    LoRA adapters are added to their BASE, or, without one, to each other.
    """
    end_as_interrupted()
    shard_bytes = None if shard_size is None else parse_size(shard_size)
    inputs = inputs or []
    choices: Choices = {
        "rule": rule,
        "dtype": dtype,
        "as_is": as_is,
        "by_leaves": by_leaves,
        "skip": skip or (),
        "take": take or (),
        "weight_of": weight_of or (),
        "integers": integers,
        "allow_non_finite": allow_non_finite,
        "disjoint": disjoint,
        "vocab": vocab,
    }
    beside = {"mask_from": mask_from, "dry_run": dry_run, "calibrate": calibrate}
    if recipe is not None or again is not None:
        from spikemesh.checkpoint.options import Place

        if recipe is not None and again is not None:
            raise typer.BadParameter("--recipe and --again each say what to merge: give one of them")
        refuse(
            {**choices, **beside, "base": base, "weight": weight, "keep_remainder": keep_remainder},
            "a recipe says everything. Beside it give files or --from-folder, OUT and how it is written",
        )
        written = Place(out=out, companions_from=companions_from, shard_bytes=shard_bytes, force=force)
        repeat(recipe, again, inputs, from_folder, written, as_json=as_json)
        return
    if from_folder is not None:
        raise typer.BadParameter("--from-folder is for --recipe and --again; else name the inputs themselves")
    if are_adapters(inputs):
        refuse(
            {**choices, **beside, "companions_from": companions_from, "rule": None, "dtype": None, "dry_run": None},
            "not for adapters. They take --base, --weight, --rule, --dtype, --shard-size and --keep-remainder",
        )
        if base is None:
            require_base_for({"keep_remainder": keep_remainder, "dtype": dtype, "shard_size": shard_bytes})
        if dry_run:
            foresee_adapters(inputs, out, base=base, weights=weight, rule=rule, dtype=dtype, as_json=as_json)
            return
        merge_adapters(
            inputs,
            out,
            base=base,
            weights=weight,
            rule=rule,
            dtype=dtype,
            shard_bytes=shard_bytes,
            keep_remainder=keep_remainder,
            force=force,
            as_json=as_json,
        )
        return
    if keep_remainder:
        raise typer.BadParameter("--keep-remainder is for adapters; whole checkpoints are merged again from the others")
    if dry_run:
        foresee(inputs, out, base, mask_from, weight, companions_from, choices, as_json=as_json)
        return
    from spikemesh.checkpoint import check_free
    from spikemesh.checkpoint import merge as run

    check_free(out, force=force)
    if calibrate is not None:
        check_calibration(inputs, out, calibrate)
    # What is still to be calibrated does not stand at OUT yet.
    place = out if calibrate is None else out.with_name(f"{out.stem}.{os.getpid()}.uncalibrated.safetensors")
    with shown_progress(hidden=as_json) as progress:
        try:
            report = run(
                inputs,
                out=place,
                base=base,
                mask_from=mask_from,
                weights=weight,
                companions_from=companions_from,
                shard_bytes=shard_bytes,
                force=force,
                progress=progress,
                **choices,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    calibration = None
    if calibrate is not None:
        from spikemesh.cli.model import calibrate_model_file

        weights = {report.leaves[leaf.content]: float(leaf.weight) for leaf in sorted(report.recipe.leaves)}
        try:
            with shown_progress(hidden=as_json) as progress:
                calibration = calibrate_model_file(place, weights, calibrate, progress)
            place.replace(out)
        finally:
            place.unlink(missing_ok=True)
        report = replace(report, out=out)
    if as_json:
        print(msgspec.json.encode(_facts(report, calibration), enc_hook=encoded).decode())
    else:
        _print(report, calibration)


def refuse(options: Mapping[str, object], why: str) -> None:
    """An option that has no part in what is done is an error, not a silence."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if given:
        raise typer.BadParameter(f"{', '.join(given)}: {why}")


def repeat(
    recipe: Path | None,
    again: Path | None,
    inputs: list[Path],
    from_folder: Path | None,
    place: Place,
    *,
    as_json: bool,
) -> None:
    """Merge as a recipe says, of a file or of a merged file."""
    from spikemesh.checkpoint import Recipe, merge_again, read_recipe_file, recipe_of

    said = recipe_of(again) if again is not None else read_recipe_file(recipe or Path())
    if not isinstance(said, Recipe):
        refuse(
            {"companions_from": place.companions_from},
            "not for adapters. It is the base's, or that of the adapter of the largest weight",
        )
        repeat_adapters(said, inputs, from_folder, place, as_json=as_json)
        return
    with shown_progress(hidden=as_json) as progress:
        report = merge_again(
            said,
            inputs,
            out=place.out,
            from_folder=from_folder,
            companions_from=place.companions_from,
            shard_bytes=place.shard_bytes,
            force=place.force,
            progress=progress,
        )
    if as_json:
        print(msgspec.json.encode(_facts(report, None), enc_hook=encoded).decode())
    else:
        _print(report, None)


def end_as_interrupted() -> None:
    """Being told to end is as Ctrl-C: no half file stays behind."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def check_calibration(inputs: list[Path], out: Path, data: Path) -> None:
    """What can be known about `--calibrate` before the long work: that these are our models, and that there is text."""
    from spikemesh.checkpoint import open_checkpoint
    from spikemesh.snn import MODEL_KEY

    if out.suffix != ".safetensors":
        raise typer.BadParameter(f"expected OUT to end in .safetensors with --calibrate, got {out}")
    if not data.exists():
        raise DataError(f"{data} is not there. Expected a text file or a folder of them for --calibrate.")
    for path in inputs:
        with closing(open_checkpoint(path)) as checkpoint:
            if MODEL_KEY not in checkpoint.metadata:
                raise CheckpointError(
                    f"{path} is not one of our models, and --calibrate needs their neurons. Leave it out."
                )


def _facts(report: MergeReport, calibration: CalibrationReport | None) -> dict[str, object]:
    return {
        "out": report.out,
        "checksum": report.checksum,
        "rule": report.recipe.rule,
        "base": report.recipe.base,
        "mask": report.recipe.mask,
        "dtype": report.recipe.dtype,
        "leaves": [
            {"content": leaf.content, "weight": leaf.weight, "path": report.leaves[leaf.content]}
            for leaf in sorted(report.recipe.leaves)
        ],
        **report.recipe.options(),
        "matched": report.matched,
        "weights_rounded": report.weights_rounded,
        "copies": report.copies,
        "respelled": report.respelled,
        "num_tensors": report.num_tensors,
        "density": report.density,
        "partly_held": report.partly_held,
        "from_base": report.from_base,
        "skipped": report.skipped,
        "chosen_integers": report.chosen_integers,
        "non_finite": report.non_finite,
        "left_out": report.left_out,
        "vanished": report.vanished,
        **carried_facts(report.companions, report.config_changes),
        "bytes_read": report.bytes_read,
        "bytes_written": report.bytes_written,
        "seconds": report.seconds,
        "calibration": None if calibration is None else [asdict(refit) for refit in calibration.refits],
    }


def _print(report: MergeReport, calibration: CalibrationReport | None) -> None:
    rate = (report.bytes_read + report.bytes_written) / 1e9 / max(report.seconds, 1e-9)
    print(
        f"{shown(str(report.out))}: {counted(report.num_tensors, 'tensor')}, {decimal(report.bytes_written)}, "
        f"{report.density:.1%} not zero; {report.recipe.rule} of {counted(len(report.leaves), 'checkpoint')} in "
        f"{report.seconds:.1f} s ({rate:.1f} GB/s)."
    )
    for leaf in sorted(report.recipe.leaves):
        print(f"  weight {leaf.weight}  content {leaf.content[:16]}  {shown(report.leaves[leaf.content])}")
    for line in remarks(report):
        print(line)
    print_carried(report.companions, report.config_changes)
    if calibration is not None:
        print(
            f"Calibrated: firing rates were up to {calibration.shift_before:.1%} from the inputs' mean, now "
            f"{calibration.shift_after:.1%}."
        )
        if calibration.unreached:
            print(f"No threshold reaches the mean rate in {some(calibration.unreached)}.")


def remarks(report: MergeReport) -> Iterator[str]:
    """What else its user should know, a line each."""
    from spikemesh.checkpoint.recipe import BASE

    recipe = report.recipe
    for path, original in report.copies.items():
        yield f"{shown(path)} is a copy of {shown(original)} and counts once (given weights add up)."
    for path, respelling in report.respelled.items():
        how = f"{respelling.old!r} taken off" if respelling.old else "nothing taken off"
        put = f", {respelling.new!r} put before them" if respelling.new else ""
        yield f"Names in {shown(path)}: {how}{put}."
    if report.matched is not None:
        yield from rows_said(report.matched)
    if report.weights_rounded:
        yield "The weights have more digits than fit together, and were rounded to those above."
    if report.partly_held:
        num, of = len(report.partly_held), report.num_tensors
        yield f"Not in all inputs, and kept ({num} of {counted(of, 'tensor')}): {some(report.partly_held)}."
    if report.from_base:
        yield f"As in the base ({counted(len(report.from_base), 'tensor')}): {some(report.from_base)}."
    paths = {BASE: "the base", **{content: str(path) for content, path in report.leaves.items()}}
    for take in recipe.take:
        yield f"Taken as they are from {some([paths[content] for content in take.contents])}: {shown(take.pattern)}."
    for weight in recipe.weight_of:
        yield f"In {shown(weight.pattern)} the weight of {shown(paths[weight.content])} is {weight.weight}."
    if report.skipped:
        yield f"Left out, as was asked for ({counted(len(report.skipped), 'tensor')}): {some(report.skipped)}."
    if report.chosen_integers:
        chosen = {"first": "those of the input with the smallest content hash"}.get(recipe.integers, "the larger")
        yield f"Integers that differ, of which {chosen} were taken: {some(report.chosen_integers)}."
    for path, names in report.left_out.items():
        yield f"Left out of {shown(path)}, as no tensor of the checkpoint: {some(names)}."
    if report.non_finite:
        total = sum(report.non_finite.values())
        yield f"{total} values are NaN or infinite, in {some(report.non_finite)}."
    if report.vanished:
        total = sum(report.vanished.values())
        yield f"{total} values were too small for {recipe.dtype} and became zero, in {some(report.vanished)}."
    if recipe.rule == "slerp":
        yield "slerp is a rule for two: what was merged by it cannot be regrouped, only repeated."
