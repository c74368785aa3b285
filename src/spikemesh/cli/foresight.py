"""`spikemesh merge --dry-run`: what a merge would do, before it is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.filesize import decimal

from spikemesh.cli.adapters import print_stacked_companions
from spikemesh.cli.companions import carried_facts, folder_facts, print_carried, print_folder
from spikemesh.cli.names import counted, encoded, shown, some
from spikemesh.cli.rows import rows_said

if TYPE_CHECKING:
    from spikemesh.checkpoint import Choices, PlannedTensor, Preview
    from spikemesh.checkpoint.adapters import AdapterPreview, StackPreview


def foresee(
    inputs: list[Path],
    out: Path,
    base: Path | None,
    mask_from: Path | None,
    weights: list[str] | None,
    companions_from: Path | None,
    choices: Choices,
    *,
    as_json: bool,
) -> None:
    """Print it; refused is what the merge would refuse, as far as tables of tensors tell."""
    from spikemesh.checkpoint import preview

    try:
        found = preview(
            inputs,
            out=out,
            base=base,
            mask_from=mask_from,
            weights=weights,
            companions_from=companions_from,
            **choices,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if as_json:
        facts = {field.name: getattr(found, field.name) for field in fields(found)} | carried_facts(found.companions)
        print(msgspec.json.encode(facts, enc_hook=encoded).decode())
    else:
        _print(found)


def foresee_adapters(
    inputs: list[Path],
    out: Path,
    *,
    base: Path | None,
    weights: list[str] | None,
    rule: str | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """The same of adapters, for their base or, without one, for each other."""
    from spikemesh.checkpoint.adapters import preview_adapters, preview_stack

    found: AdapterPreview | StackPreview
    try:
        if base is None:
            found = preview_stack(inputs, out=out, weights=weights, rule=rule or "sum")
        else:
            found = preview_adapters(
                inputs, base=base, out=out, weights=weights, rule=rule or "sum", dtype=dtype or "keep"
            )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if as_json:
        facts = {field.name: getattr(found, field.name) for field in fields(found)} | _companion_facts(found)
        print(msgspec.json.encode(facts, enc_hook=encoded).decode())
    else:
        _print_adapters(found)


def _companion_facts(found: AdapterPreview | StackPreview) -> dict[str, object]:
    from spikemesh.checkpoint.adapters import StackPreview

    if isinstance(found, StackPreview):
        return carried_facts(found.companions)
    return {"companions": folder_facts(found.companions)}


def _print_adapters(found: AdapterPreview | StackPreview) -> None:
    from spikemesh.checkpoint.adapters import StackPreview

    if isinstance(found, StackPreview):
        print(
            f"Would be one adapter of rank {found.rank} for {counted(found.num_modules, 'module')}, the sum of "
            f"{counted(len(found.adapters), 'adapter')}, if it can be held exactly. Nothing was written."
        )
        _print_inputs(found.adapters, found.copies)
        print_stacked_companions(found.companions)
        return
    print(
        f"Would be {counted(len(found.tensors), 'tensor')}, {decimal(found.result_bytes)}; {shown(found.base)} and "
        f"{counted(len(found.adapters), 'adapter')}. Nothing was written."
    )
    _print_inputs(found.adapters, found.copies)
    _print_tensors(found.tensors)
    print_folder(found.companions)


def _print_inputs(weights: Mapping[str, Fraction], copies: Mapping[str, str]) -> None:
    for path, weight in weights.items():
        print(f"  weight {weight}  {shown(path)}")
    for path, original in copies.items():
        print(f"{shown(path)} looks like a copy of {shown(original)}.")


def _print_tensors(tensors: Sequence[PlannedTensor]) -> None:
    for (how, sources), count in Counter((tensor.how, tensor.sources) for tensor in tensors).items():
        names = [tensor.name for tensor in tensors if (tensor.how, tensor.sources) == (how, sources)]
        print(f"{count} {how}, from {', '.join(map(shown, sources))}: {some(names)}.")


def _print(found: Preview) -> None:
    print(
        f"Would be {counted(len(found.tensors), 'tensor')}, {decimal(found.result_bytes)}; {found.rule} of "
        f"{counted(len(found.weights), 'checkpoint')}. Nothing was written."
    )
    _print_inputs(found.weights, found.copies)
    for path, respelling in found.respelled.items():
        print(f"Names in {shown(path)}: {respelling.old!r} would become {respelling.new!r}.")
    _print_tensors(found.tensors)
    if found.skipped:
        print(f"{len(found.skipped)} left out, as was asked for: {some(found.skipped)}.")
    for path, left in found.left_out.items():
        print(f"Left out of {shown(path)}, as no tensor of the checkpoint: {some(left)}.")
    if found.matched is not None:
        print(*rows_said(found.matched), sep="\n")
    print_carried(found.companions)
