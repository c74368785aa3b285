"""`spikemesh verify`: is a merged file what its inputs give, to the bit?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.filesize import decimal

from spikemesh.cli.names import counted, shown
from spikemesh.cli.progress import shown_progress
from spikemesh.errors import Divergence

SHOWN = 5


def verify(
    out: Annotated[Path, typer.Argument(help="The merged checkpoint.")],
    inputs: Annotated[
        list[Path] | None, typer.Argument(help="What it was merged from; left out ones are looked for where they were.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="The base, if there was one.")] = None,
    mask_from: Annotated[Path | None, typer.Option(help="The file of masks, if there was one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Merge again what OUT says it was merged from, and compare every bit. Nothing is written."""
    from spikemesh.checkpoint import verify as run
    from spikemesh.cli.model import calibrated_thresholds

    with shown_progress(hidden=as_json) as progress:
        report = run(out, inputs or [], base=base, mask_from=mask_from, progress=progress)
    thresholds = calibrated_thresholds(out)
    wrong = [d for d in report.differences if d.tensor not in thresholds]
    if as_json:
        facts = {"equal": not wrong, "differences": wrong, "calibrated": sorted(thresholds)}
        print(msgspec.json.encode(facts).decode())
    elif not wrong:
        apart = f", apart from {len(thresholds)} tensors of thresholds that were calibrated" if thresholds else ""
        num = len(report.recipe.leaves)
        print(
            f"{shown(out)} is what its {counted(num, 'input')} {'gives' if num == 1 else 'give'} by "
            f"{report.recipe.rule}: {counted(report.num_tensors, 'tensor')}, {decimal(report.num_bytes)}, "
            f"every bit{apart}."
        )
    if wrong:
        found = "; ".join(
            f"{d.tensor[:200]!r} from element {d.element} on (expected {d.expected[:200]!r}, found {d.seen[:200]!r})"
            for d in wrong[:SHOWN]
        )
        more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise Divergence(f"{out} is not what its inputs give: {found}{more}. Merge again, and do not use this file.")
