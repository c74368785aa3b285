"""`spikemesh inspect`: what is in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.filesize import decimal

from spikemesh.cli.names import counted, encoded, shown
from spikemesh.cli.progress import shown_progress

if TYPE_CHECKING:
    from spikemesh.checkpoint import InspectReport, TensorReport

HEADINGS = ("tensor", "type", "shape", "not zero", "smallest", "largest", "NaN", "infinite")
LEFT = 3
"""So many columns are aligned to the left."""


def inspect(
    path: Annotated[Path, typer.Argument(help="A checkpoint: .safetensors, .pt, .bin, an index, or a folder.")],
    recipe: Annotated[
        bool, typer.Option("--recipe", help="Print what it was merged from as TOML, for `merge --recipe`.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Tensors, types, densities, value ranges, what is not finite, and what it was merged from."""
    from spikemesh.checkpoint import inspect as run

    if recipe:
        _print_recipe(path)
        return
    with shown_progress(hidden=as_json) as progress:
        report = run(path, progress=progress)
    if as_json:
        print(msgspec.json.encode(_facts(report), enc_hook=encoded).decode())
    else:
        _print(report)


def _print_recipe(path: Path) -> None:
    from spikemesh.checkpoint import recipe_of, seen_names, to_toml

    recipe = recipe_of(path)
    print(to_toml(recipe, seen_names(recipe)), end="")


def _facts(report: InspectReport) -> dict[str, object]:
    from spikemesh.checkpoint import Recipe

    recipe = report.recipe
    return {
        "path": report.path,
        "content": report.content,
        "checksum": report.checksum,
        "size_bytes": report.size_bytes,
        "num_elements": report.num_elements,
        "density": report.density,
        "non_finite": report.num_non_finite,
        "tensors": [
            {
                "name": tensor.name,
                "type": tensor.element,
                "shape": tensor.shape,
                "density": tensor.density,
                "non_finite": tensor.num_non_finite,
                "nan": tensor.num_nan,
                "infinite": tensor.num_infinite,
                "smallest": tensor.smallest,
                "largest": tensor.largest,
            }
            for tensor in report.tensors
        ],
        "left_out": report.left_out,
        "merged": None
        if recipe is None
        else {
            "rule": recipe.rule,
            "dtype": recipe.dtype,
            "base": recipe.base,
            "mask": recipe.mask,
            **(recipe.options() if isinstance(recipe, Recipe) else {}),
            "unchanged": report.unchanged,
            "leaves": [
                {"content": leaf.content, "weight": leaf.weight, "path": report.found[leaf.content]}
                for leaf in report.leaves
            ],
        },
    }


def _table(report: InspectReport) -> Iterator[str]:
    """As wide as it is: a terminal folds it, and 20,000 rows are no more work than their facts."""
    rows = [HEADINGS, *map(_row, report.tensors)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = zip(row, widths, strict=True)
        cells = [cell.ljust(width) if i < LEFT else cell.rjust(width) for i, (cell, width) in enumerate(padded)]
        yield "  ".join(cells).rstrip()


def _row(tensor: TensorReport) -> tuple[str, ...]:
    return (
        shown(tensor.name),
        tensor.element,
        "x".join(map(str, tensor.shape)) or "one",
        f"{tensor.density:.2%}",
        f"{tensor.smallest:.4g}",
        f"{tensor.largest:.4g}",
        str(tensor.num_nan or ""),
        str(tensor.num_infinite or ""),
    )


def _print(report: InspectReport) -> None:
    from spikemesh.checkpoint import Recipe

    for line in _table(report):
        print(line)
    print(
        f"{shown(report.path)}: {counted(len(report.tensors), 'tensor')}, {counted(report.num_elements, 'element')}, "
        f"{decimal(report.size_bytes)}, {report.density:.2%} not zero, "
        f"{report.num_non_finite} not finite; content {report.content}."
    )
    if report.left_out:
        print(f"Beside them {len(report.left_out)} values that are no tensors of the checkpoint.")
    recipe = report.recipe
    if recipe is None:
        return
    print(
        f"Merged by {recipe.rule} from {counted(len(recipe.leaves), 'checkpoint')}"
        + (f" against the base {recipe.base[:16]}" if recipe.base else "")
        + (", rows matched by tokens" if isinstance(recipe, Recipe) and recipe.vocab else "")
        + (":" if report.unchanged else ", and changed since then:")
    )
    for leaf in report.leaves:
        where = shown(report.found[leaf.content] or "not seen on this machine")
        print(f"  weight {leaf.weight}  content {leaf.content[:16]}  {where}")
