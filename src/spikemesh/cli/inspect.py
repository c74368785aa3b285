"""`spikemesh inspect`: what is in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from spikemesh.cli.names import encoded, shown
from spikemesh.cli.progress import shown_progress

if TYPE_CHECKING:
    from spikemesh.checkpoint import InspectReport

PIPE_WIDTH = 160


def inspect(
    path: Annotated[Path, typer.Argument(help="A checkpoint: .safetensors, .pt, .bin, an index, or a folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Tensors, types, densities, value ranges, what is not finite, and what it was merged from."""
    from spikemesh.checkpoint import inspect as run

    with shown_progress(hidden=as_json) as progress:
        report = run(path, progress=progress)
    if as_json:
        print(msgspec.json.encode(_facts(report), enc_hook=encoded).decode())
    else:
        _print(report)


def _facts(report: InspectReport) -> dict[str, object]:
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
            "unchanged": report.unchanged,
            "leaves": [
                {"content": leaf.content, "weight": leaf.weight, "path": report.found[leaf.content]}
                for leaf in report.leaves
            ],
        },
    }


def _print(report: InspectReport) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    table = Table("tensor", "type", "shape", box=None, pad_edge=False)
    for heading in ("not zero", "smallest", "largest", "not finite"):
        table.add_column(heading, justify="right")
    for tensor in report.tensors:
        table.add_row(
            Text(shown(tensor.name)),
            tensor.element,
            "x".join(map(str, tensor.shape)) or "one",
            f"{tensor.density:.2%}",
            f"{tensor.smallest:.4g}",
            f"{tensor.largest:.4g}",
            str(tensor.num_non_finite or ""),
        )
    console.print(table)
    print(
        f"{shown(report.path)}: {len(report.tensors)} tensors, {report.num_elements} elements, "
        f"{decimal(report.size_bytes)}, {report.density:.2%} not zero, "
        f"{report.num_non_finite} not finite; content {report.content}."
    )
    if report.left_out:
        print(f"Beside them {len(report.left_out)} values that are no tensors.")
    recipe = report.recipe
    if recipe is None:
        return
    print(
        f"Merged by {recipe.rule} from {len(recipe.leaves)} checkpoints"
        + (f" against the base {recipe.base[:16]}" if recipe.base else "")
        + (":" if report.unchanged else ", and changed since then:")
    )
    for leaf in report.leaves:
        where = shown(report.found[leaf.content] or "not seen on this machine")
        print(f"  weight {leaf.weight}  content {leaf.content[:16]}  {where}")
