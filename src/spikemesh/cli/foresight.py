"""`spikemesh merge --dry-run`: what a merge would do, before it is done."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.filesize import decimal

from spikemesh.cli.companions import carried_facts, print_carried
from spikemesh.cli.names import counted, encoded, shown, some
from spikemesh.cli.rows import rows_said

if TYPE_CHECKING:
    from spikemesh.checkpoint import Choices, Preview


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


def _print(found: Preview) -> None:
    print(
        f"Would be {counted(len(found.tensors), 'tensor')}, {decimal(found.result_bytes)}; {found.rule} of "
        f"{counted(len(found.weights), 'checkpoint')}. Nothing was written."
    )
    for path, weight in found.weights.items():
        print(f"  weight {weight}  {shown(path)}")
    for path, original in found.copies.items():
        print(f"{shown(path)} looks like a copy of {shown(original)}.")
    for path, respelling in found.respelled.items():
        print(f"Names in {shown(path)}: {respelling.old!r} would become {respelling.new!r}.")
    for (how, sources), count in Counter((tensor.how, tensor.sources) for tensor in found.tensors).items():
        names = [tensor.name for tensor in found.tensors if (tensor.how, tensor.sources) == (how, sources)]
        print(f"{count} {how}, from {', '.join(map(shown, sources))}: {some(names)}.")
    if found.skipped:
        print(f"{len(found.skipped)} left out, as was asked for: {some(found.skipped)}.")
    for path, left in found.left_out.items():
        print(f"Left out of {shown(path)}, as no tensor of the checkpoint: {some(left)}.")
    if found.matched is not None:
        print(*rows_said(found.matched), sep="\n")
    print_carried(found.companions)
