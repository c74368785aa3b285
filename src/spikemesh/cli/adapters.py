"""What `merge` and `unmerge` of adapters say of their result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.filesize import decimal

from spikemesh.allocator import return_freed_memory
from spikemesh.cli.companions import carried_facts, folder_facts, print_carried, print_folder
from spikemesh.cli.names import counted, encoded, shown
from spikemesh.cli.progress import shown_progress
from spikemesh.errors import CheckpointError

if TYPE_CHECKING:
    from spikemesh.checkpoint.adapters import AdapterRecipe, AdapterReport, StackRecipe, StackReport
    from spikemesh.checkpoint.companions import Carried
    from spikemesh.checkpoint.options import Place

NAMES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def are_adapters(inputs: list[Path]) -> bool:
    """Whether the inputs are LoRA adapters. `CheckpointError` if some are and some are not."""
    found = [(path.parent if path.name in NAMES[1:] else path).joinpath(NAMES[0]).is_file() for path in inputs]
    if any(found) and not all(found):
        other = inputs[found.index(False)]
        if not other.exists():
            raise CheckpointError(f"{other} is not there. Expected an adapter: a folder with {NAMES[0]}.")
        if any(path.is_file() for path in (other / NAMES[1], other / NAMES[2])):
            raise CheckpointError(f"{other} has weights of an adapter and no {NAMES[0]}. Download or copy it again.")
        raise CheckpointError(
            f"{inputs[found.index(True)]} is an adapter and {other} is not. Give the model that "
            "adapters are merged into with --base."
        )
    return bool(found) and all(found)


def require_base_for(options: Mapping[str, object]) -> None:
    """What only a result that has a base in it can be asked for."""
    if any(options.values()):
        raise typer.BadParameter("adapters without --base stay one small adapter: leave out the other options")


def merge_adapters(
    inputs: list[Path],
    out: Path,
    *,
    base: Path | None,
    weights: list[str] | None,
    rule: str | None,
    dtype: str | None,
    shard_bytes: int | None,
    keep_remainder: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Into their base, if there is one; else into one adapter."""
    from spikemesh.checkpoint.adapters import merge_adapters as onto_base
    from spikemesh.checkpoint.adapters import stack_adapters

    return_freed_memory()
    with shown_progress(hidden=as_json) as progress:
        try:
            if base is not None:
                say(
                    onto_base(
                        inputs,
                        base=base,
                        out=out,
                        weights=weights,
                        rule=rule or "sum",
                        dtype=dtype or "keep",
                        shard_bytes=shard_bytes,
                        keep_remainder=keep_remainder,
                        force=force,
                        progress=progress,
                    ),
                    as_json=as_json,
                )
            else:
                say_stacked(
                    stack_adapters(
                        inputs, out=out, weights=weights, rule=rule or "sum", force=force, progress=progress
                    ),
                    as_json=as_json,
                )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error


def repeat_adapters(
    recipe: AdapterRecipe | StackRecipe,
    inputs: list[Path],
    from_folder: Path | None,
    place: Place,
    *,
    as_json: bool,
) -> None:
    """Merge as a recipe of adapters says."""
    from spikemesh.checkpoint.adapters import StackRecipe, merge_adapters_again, stack_adapters_again

    return_freed_memory()
    if isinstance(recipe, StackRecipe):
        require_base_for({"shard_size": place.shard_bytes})
        with shown_progress(hidden=as_json) as progress:
            try:
                stacked = stack_adapters_again(
                    recipe, inputs, out=place.out, from_folder=from_folder, force=place.force, progress=progress
                )
            except ValueError as error:
                raise typer.BadParameter(str(error)) from error
        say_stacked(stacked, as_json=as_json)
        return
    with shown_progress(hidden=as_json) as progress:
        report = merge_adapters_again(
            recipe,
            inputs,
            out=place.out,
            from_folder=from_folder,
            shard_bytes=place.shard_bytes,
            force=place.force,
            progress=progress,
        )
    say(report, as_json=as_json)


def say(report: AdapterReport, *, as_json: bool) -> None:
    """One result that has a base in it."""
    recipe = report.recipe
    leaves = [] if recipe is None else sorted(recipe.leaves)
    if as_json:
        facts = {
            "out": report.out,
            "checksum": report.checksum,
            "base": None if recipe is None else recipe.base,
            "dtype": None if recipe is None else recipe.dtype,
            "adapters": [
                {"content": leaf.content, "weight": leaf.weight, "path": report.adapters[leaf.content]}
                for leaf in leaves
            ],
            "copies": report.copies,
            "companions": folder_facts(report.companions),
            "remainder": report.remainder,
            "remainder_bytes": report.remainder_bytes,
            "num_tensors": report.num_tensors,
            "num_changed": report.num_changed,
            "num_elements": report.num_elements,
            "num_wide": report.num_wide,
            "bytes_read": report.bytes_read,
            "bytes_written": report.bytes_written,
            "seconds": report.seconds,
        }
        print(msgspec.json.encode(facts, enc_hook=encoded).decode())
        return
    what = f"the base and {counted(len(leaves), 'adapter')}" if leaves else "the base"
    print(
        f"{shown(report.out)}: {what}; {counted(report.num_tensors, 'tensor')}, {report.num_changed} of them changed, "
        f"{decimal(report.bytes_written)}, in {report.seconds:.1f} s."
    )
    for leaf in leaves:
        print(f"  weight {leaf.weight}  content {leaf.content[:16]}  {shown(report.adapters[leaf.content])}")
    for path, first in report.copies.items():
        print(f"{shown(path)} is a copy of {shown(first)}, and counts once, or adds its weight if weights are given.")
    print_folder(report.companions)
    if report.remainder_bytes:
        print(f"What rounding lost is in {shown(report.remainder or '')}: {decimal(report.remainder_bytes)}.")


def print_stacked_companions(carried: Carried) -> None:
    """What stands beside an adapter made of several."""
    if carried.source is not None:
        print(f"Its {NAMES[0]} is that of {shown(carried.source.folder)}, with the ranks, scales and modules of all.")
    print_carried(carried)


def say_stacked(report: StackReport, *, as_json: bool) -> None:
    """One adapter made of several."""
    if as_json:
        facts = {
            "out": report.out,
            "adapters": [{"path": path, "weight": weight} for path, weight in report.adapters.items()],
            "copies": report.copies,
            **carried_facts(report.companions),
            "rank": report.rank,
            "num_modules": report.num_modules,
        }
        print(msgspec.json.encode(facts, enc_hook=encoded).decode())
        return
    print(
        f"{shown(report.out)}: one adapter of rank {report.rank} for {counted(report.num_modules, 'module')}, "
        f"the sum of {counted(len(report.adapters), 'adapter')}, exactly."
    )
    for path, weight in report.adapters.items():
        print(f"  weight {weight}  {shown(path)}")
    for path, first in report.copies.items():
        print(f"{shown(path)} is a copy of {shown(first)}, and counts once, or adds its weight if weights are given.")
    print_stacked_companions(report.companions)
