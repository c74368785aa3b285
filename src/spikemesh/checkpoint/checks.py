"""Merges that would end well and mean nothing: refused by what the tables say, with the names and a way round."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

import msgspec

from spikemesh.checkpoint.names import EMBEDDINGS, HEADS, Table, guess_prefix
from spikemesh.checkpoint.plan import MASK_ENDINGS, SHOWN, MergedTensor, Plan
from spikemesh.checkpoint.source import Checkpoint, Tensor
from spikemesh.errors import CheckpointError, StoreError
from spikemesh.files.rim import os_errors

FACTOR = re.compile(r"(?P<module>.+)\.lora[_.](embedding_)?(?P<side>A|B|down|up)(\..*)?", re.S)
"""Of a LoRA, as PEFT, diffusers and kohya call them: only their product means anything."""
MAX_SCALE_BYTES = 64 << 20
MAX_CONFIG_BYTES = 1 << 20


def check(plan: Plan, *, disjoint: bool) -> None:
    """`CheckpointError` for inputs that would have no part in the result, factors without their configuration, scales
    that differ, heads that are tied in one input and not in another.
    """
    if not disjoint:
        _require_shared_names(plan)
    _require_no_factors(plan)
    _require_equal_scales(plan)
    _require_alike_heads(plan)


def _require_shared_names(plan: Plan) -> None:
    for table in plan.inputs:
        if not table.tensors:
            raise CheckpointError(f"{table.checkpoint.path} holds no tensors. Leave it out.")
    alone = _without_company(plan.inputs)
    if alone is not None:
        others = {name for table in plan.inputs if table is not alone for name in table.tensors}
        raise CheckpointError(_no_names(alone, others, "the other inputs", "(--disjoint puts them side by side)"))
    known = {name for table in plan.inputs for name in table.tensors}
    for extra, option, endings in ((plan.base, "--base", ("",)), (plan.mask, "--mask-from", ("", *MASK_ENDINGS))):
        if extra is not None and not any(name + ending in extra.tensors for name in known for ending in endings):
            raise CheckpointError(_no_names(extra, known, "the inputs", f"(or leave out {option})"))


def _without_company(tables: Sequence[Table]) -> Table | None:
    """An input with no tensor to merge with another's. One that is the only one needs none."""
    if len(tables) < 2:
        return None
    seen: dict[str, int] = {}
    for table in tables:
        for name in _mergeable(table):
            seen[name] = seen.get(name, 0) + 1
    return next((table for table in tables if all(seen[name] < 2 for name in _mergeable(table))), None)


def _mergeable(table: Table) -> Collection[str]:
    """Where there are floats, they are what is merged: a counter in common is not enough."""
    floats = [name for name, tensor in table.tensors.items() if tensor.element.kind == "float"]
    return floats or table.tensors.keys()


def _no_names(table: Table, others: Collection[str], whose: str, way: str) -> str:
    prefix = guess_prefix(table.tensors, others)
    guess = f" Is {prefix[:100]!r} a prefix that one of them has and the other has not?" if prefix else ""
    return (
        f"{table.checkpoint.path} shares no tensor's name with {whose}: it has {_first(table.tensors)}; they have "
        f"{_first(others)}.{guess} Give checkpoints of one model {way}."
    )


def _first(names: Collection[str]) -> str:
    return ", ".join(name[:200] for name in sorted(names)[:3]) + (", …" if len(names) > 3 else "")


# ---- factors of adapters ---------------------------------------------------------------------------------------------


def _require_no_factors(plan: Plan) -> None:
    """Where both factors of a product differ, a mean of each has not the mean of the products for its product."""
    sides: dict[str, tuple[str, str]] = {}
    for tensor in plan.tensors:
        found = FACTOR.fullmatch(tensor.name)
        if found is None or tensor.copied or len(tensor.sources) < 2:
            continue
        side, first = sides.setdefault(found["module"], (found["side"], tensor.name))
        if side != found["side"]:
            raise CheckpointError(
                f"{first[:200]!r} and {tensor.name[:200]!r} are factors of a LoRA, and a mean of factors is not the "
                "mean of adapters. Give the folders of the adapters, each with its adapter_config.json; or take these "
                "tensors from one input (--take PATTERN=INPUT) or leave them out (--skip)."
            )


# ---- scaled 8-bit floats ---------------------------------------------------------------------------------------------


def _require_equal_scales(plan: Plan) -> None:
    """The codes of an 8-bit float mean nothing without their scale: under different ones they have no mean."""
    if not any(tensor.element.name.startswith("F8") for tensor in plan.tensors):
        return
    differing = [
        f"{tensor.name[:200]!r} by {name[:200]!r}"
        for tensor in plan.tensors
        for name in _differing_scales(tensor, plan)
    ]
    if differing:
        more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        raise CheckpointError(
            f"8-bit floats that are scaled, by scales that are not the same in all inputs: "
            f"{', '.join(differing[:SHOWN])}{more}. The mean of such codes means nothing. Merge the models as they "
            "were before, or take these tensors from one input (--take PATTERN=INPUT) or leave them out (--skip)."
        )


def _differing_scales(tensor: MergedTensor, plan: Plan) -> Iterator[str]:
    if not tensor.element.name.startswith("F8") or tensor.copied:
        return
    tables = [plan.inputs[number] for number, _ in tensor.sources]
    if tensor.base is not None and plan.base is not None:
        tables.append(plan.base)
    module = tensor.name.rpartition(".")[0]
    names = {name for table in tables for name in table.tensors if _is_scale_of(name, tensor.name, module)}
    for name in sorted(names):
        if len({_bytes(table.tensors.get(name)) for table in tables}) > 1:
            yield name


def _is_scale_of(name: str, tensor: str, module: str) -> bool:
    """`p.weight_scale`, `p.weight_scale_inv`, `p.scale_weight`, `p.weight.scale`, … for `p.weight`."""
    return (
        name != tensor
        and name.startswith(module)
        and "scale" in name[len(module) :].lower()
        and (name.rpartition(".")[0] in (module, tensor))
    )


def _bytes(tensor: Tensor | None) -> bytes | None:
    """What a scale is; so long a one is not compared and counts as different from all others."""
    if tensor is None or tensor.size_bytes > MAX_SCALE_BYTES:
        return None if tensor is None else str(id(tensor)).encode()
    data = bytearray(tensor.size_bytes)
    tensor.read(0, memoryview(data))
    return tensor.describe().encode() + data


# ---- heads that are tied to embeddings -------------------------------------------------------------------------------


def _require_alike_heads(plan: Plan) -> None:
    """Where one input has a head of its own and another takes its embedding for it, both have one, and only the first
    would be merged.
    """
    for tensor in plan.tensors:
        if not HEADS.fullmatch(tensor.name) or tensor.copied:
            continue
        for table in plan.inputs:
            embedding = None if tensor.name in table.tensors else _embedding_like(tensor, table)
            if embedding is not None and not _says_untied(table.checkpoint):
                raise CheckpointError(
                    f"{tensor.name[:200]!r} is not in {table.checkpoint.path}, whose head seems to be tied to "
                    f"{embedding[:200]!r} (tie_word_embeddings), while other inputs have one of their own. Leave the "
                    f"heads out for a tied result (--skip '{tensor.name[:200]}'), take one "
                    f"(--take '{tensor.name[:200]}=INPUT'), or save that input untied."
                )


def _embedding_like(head: MergedTensor, table: Table) -> str | None:
    same = (name for name in table.tensors if EMBEDDINGS.fullmatch(name))
    return next((name for name in same if table.tensors[name].shape == head.result.shape), None)


def _says_untied(checkpoint: Checkpoint) -> bool:
    """Its config.json says that its head is its own."""
    path = checkpoint.path / "config.json"
    if not path.is_file():
        return False
    try:
        with os_errors("reading", path):
            config = msgspec.json.decode(path.read_bytes()) if path.stat().st_size <= MAX_CONFIG_BYTES else None
    except (StoreError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("tie_word_embeddings") is False
