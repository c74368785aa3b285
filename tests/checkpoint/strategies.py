"""Small random checkpoints, and merges of them, with everything that a rule may look at."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from spikemesh.checkpoint import RULES, MergeReport, merge
from spikemesh.checkpoint.recipe import DTYPES
from spikemesh.kernels import ELEMENTS
from tests.checkpoint.files import Raw, Tensors, write_safetensors
from tests.checkpoint.reference import FORMATS

FLOATS = sorted(FORMATS)
OTHERS = sorted(name for name, element in ELEMENTS.items() if element.kind != "float")
SHAPES: Sequence[tuple[int, ...]] = [(), (0,), (1,), (3, 0), (2, 3), (8,), (11,), (3, 1, 2)]
WEIGHTS = [Fraction(1), Fraction(2), Fraction(1, 2), Fraction("0.3"), Fraction("0.7"), Fraction(1, 3)]


def patterns(element: str, *, huge: bool) -> list[int]:
    """Bits worth merging: zeros of both signs, the smallest and the largest of each kind, halves that cancel."""
    form = FORMATS[element]
    sign = 1 << (8 * form.num_bytes - 1)
    one = form.nearest(Fraction(1))
    sizes = [1, 2, (1 << form.mantissa) - 1, 1 << form.mantissa, one, one + 1, one - 1]
    sizes += [form.nearest(Fraction(text)) for text in ("0.5", "0.3", "0.1", "3", "5.5")]
    if huge:
        sizes += [form.largest, form.largest - 1]
    return [0, 0, 0, 0, 0, 0, sign, *sizes, *(sign | size for size in sizes)]


@st.composite
def raws(draw: st.DrawFn, element: str, shape: tuple[int, ...], *, huge: bool = True) -> Raw:
    count, width = math.prod(shape), ELEMENTS[element].size_bytes
    if element in FORMATS:
        known = st.sampled_from(patterns(element, huge=huge))
        anything = st.integers(0, (1 << (8 * width)) - 1).filter(FORMATS[element].is_finite)
        one = st.one_of(known, known, anything) if huge else known
    else:
        one = st.integers(0, 1 if element == "BOOL" else (1 << (8 * width)) - 1)
    bits = draw(st.lists(one, min_size=count, max_size=count))
    return Raw(element, shape, b"".join(x.to_bytes(width, "little") for x in bits))


def negated(raw: Raw) -> Raw:
    """A float tensor with the other signs; any other as it is."""
    if raw.element not in FORMATS:
        return raw
    width = FORMATS[raw.element].num_bytes
    data = bytearray(raw.data)
    for at in range(width - 1, len(data), width):
        data[at] ^= 0x80
    return Raw(raw.element, raw.shape, bytes(data))


@dataclass(frozen=True)
class Case:
    """What goes into one merge; `weights` are None where the rule takes none."""

    inputs: Sequence[Tensors]
    rule: str
    base: Tensors | None = None
    mask: Tensors | None = None
    weights: Sequence[Fraction] | None = None
    dtype: str = "keep"


@st.composite
def cases(draw: st.DrawFn, *, min_inputs: int = 1, max_inputs: int = 5, huge: bool = True) -> Case:
    """Not `huge`: any part of the inputs can be merged, so there is a tensor in each and no value near the largest."""
    num_inputs = draw(st.integers(min_inputs, max_inputs))
    elements = st.sampled_from([*FLOATS, *FLOATS, *OTHERS])
    table = draw(st.lists(st.tuples(elements, st.sampled_from(SHAPES)), min_size=1, max_size=3))
    fixed = {
        f"t.{number}": draw(raws(element, shape)) for number, (element, shape) in enumerate(table) if element in OTHERS
    }

    made: dict[str, Raw] = {}  # so that some numbers cancel

    def checkpoint(least: int = 0) -> dict[str, Raw]:
        chosen = draw(st.lists(st.integers(0, len(table) - 1), min_size=least, unique=True))
        tensors = {}
        for number in chosen:
            name, (element, shape) = f"t.{number}", table[number]
            if name in made and draw(st.integers(0, 3)) == 0:
                tensors[name] = negated(made[name])
            else:
                tensors[name] = fixed[name] if name in fixed else draw(raws(element, shape, huge=huge))
                made[name] = tensors[name]
        return tensors

    inputs = [checkpoint(least=1 if number == 0 or not huge else 0) for number in range(num_inputs)]
    rule = draw(st.sampled_from(sorted(RULES)))
    weighted = rule != "max-magnitude" and draw(st.booleans())
    return Case(
        inputs=inputs,
        rule=rule,
        base=draw(st.none() | st.builds(checkpoint)),
        mask=draw(st.none() | masks(table)),
        weights=[draw(st.sampled_from(WEIGHTS)) for _ in inputs] if weighted else None,
        dtype=draw(st.sampled_from(["keep", "keep", *DTYPES])),
    )


@st.composite
def masks(draw: st.DrawFn, table: Sequence[tuple[str, tuple[int, ...]]]) -> Tensors:
    """Of any type, under any of the names that masks go by, for some of the tensors; and one that is of no use."""
    found: dict[str, Raw] = {"stranger": Raw("I32", (), b"\1\0\0\0")}
    for number, (_, shape) in enumerate(table):
        form = draw(st.sampled_from(["", "{}", "{}_mask", "{}.mask"]))
        if form:
            element = draw(st.sampled_from(["BOOL", "U8", "I64", "F32", "BF16", "F8_E4M3"]))
            found[form.format(f"t.{number}")] = draw(raws(element, shape, huge=False))
    return found


Tree = int | list[tuple["Tree", Fraction]]
"""A leaf's number, or what a merge is of, each with its weight."""


@st.composite
def trees(draw: st.DrawFn, leaves: Sequence[int], *, weighted: bool) -> Tree:
    """A way to merge the leaves two or more at a time."""
    parts: list[Tree] = list(leaves)
    weight = st.sampled_from(WEIGHTS) if weighted else st.just(Fraction(1))
    while True:
        size = draw(st.integers(2, len(parts)))
        start = draw(st.integers(0, len(parts) - size))
        node = [(part, draw(weight)) for part in parts[start : start + size]]
        parts[start : start + size] = [node]
        if len(parts) == 1:
            return parts[0]


def leaf_weights(tree: Tree, *, rule: str, by_leaves: bool) -> dict[int, Fraction]:
    """A branch's weight is divided over its leaves; by leaves it is that of each; for a sum it multiplies theirs."""
    if isinstance(tree, int):
        return {tree: Fraction(1)}
    found = {}
    for part, weight in tree:
        inner = leaf_weights(part, rule=rule, by_leaves=by_leaves)
        total = sum(inner.values(), Fraction()) / (len(inner) if by_leaves else 1)
        found |= {leaf: w * weight / (1 if rule == "sum" else total) for leaf, w in inner.items()}
    return found


class Bench:
    """A folder with the files of one case, merged in any way."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.folder = folder
        self.case = case
        self._numbers = itertools.count()
        self.inputs = [self.write(tensors) for tensors in case.inputs]
        self.base = None if case.base is None else self.write(case.base)
        self.mask = None if case.mask is None else self.write(case.mask)

    def new_path(self, ending: str = ".safetensors") -> Path:
        return self.folder / f"file{next(self._numbers)}{ending}"

    def write(self, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
        return write_safetensors(self.new_path(), tensors, metadata)

    def merge(self, paths: Iterable[Path], weights: Sequence[Fraction] | None = None, **changed: Any) -> MergeReport:
        arguments: dict[str, Any] = {
            "out": self.new_path(),
            "base": self.base,
            "mask_from": self.mask,
            "rule": self.case.rule,
            "dtype": self.case.dtype,
            "weights": weights,
            "disjoint": True,
        }
        return merge(list(paths), **arguments | changed)

    def merge_all(self, **changed: Any) -> MergeReport:
        return self.merge(self.inputs, self.case.weights, **changed)

    def merge_tree(self, tree: Tree, weighted: bool, **changed: Any) -> MergeReport:
        assert not isinstance(tree, int)
        paths = [self.part(part, weighted, **changed) for part, _ in tree]
        return self.merge(paths, [weight for _, weight in tree] if weighted else None, **changed)

    def part(self, part: Tree, weighted: bool, **changed: Any) -> Path:
        if isinstance(part, int):
            return self.inputs[part]
        out = self.merge_tree(part, weighted, **changed).out
        assert out is not None
        return out
