"""What will be merged into what, checked as far as tables of tensors can tell, before a byte of data is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

from spikemesh.checkpoint.names import Respelling, Table, aligned, as_they_are, following, matcher
from spikemesh.checkpoint.recipe import DTYPES, PASSTHROUGH, RULES, SLERP
from spikemesh.checkpoint.rows import Holders, MatchedRows, Matching, holders_of
from spikemesh.checkpoint.source import Checkpoint, Tensor, TensorInfo
from spikemesh.checkpoint.weights import integer_weights
from spikemesh.errors import CheckpointError
from spikemesh.kernels import ELEMENTS, Element, Rule

MASK_NAMES = ("{}", "{}_mask", "{}.mask")
"""How a mask file may name the mask of a tensor; `weight_mask` is what torch's pruning writes."""
MASK_ENDINGS = tuple(form.removeprefix("{}") for form in MASK_NAMES[1:])
SHOWN = 5
BASE_NUMBER = -1
"""In the place of an input's number."""
ONLY_BASE = frozenset({BASE_NUMBER})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was asked for, with inputs by their numbers."""

    rule: str = "active-mean"
    dtype: str = "keep"
    weights: Sequence[Fraction]
    skip: Sequence[str] = ()
    take: Sequence[tuple[str, frozenset[int]]] = ()
    """(pattern, the inputs that tensors of such names come from); of those that match the last one counts."""
    weight_of: Sequence[tuple[str, int, Fraction]] = ()
    """(pattern, input, weight)."""
    integers: str = "counters"
    ranks: Sequence[int] = ()
    """Of the inputs by their content hashes, where `integers` asks for the first."""
    allow_non_finite: bool = False
    disjoint: bool = False
    matching: Matching | None = None
    """How rows of embeddings and heads are matched; without one by place."""
    version: int = 2

    @cached_property
    def _skipped(self) -> re.Pattern[str]:
        return matcher(self.skip)

    @cached_property
    def _taken(self) -> Sequence[tuple[re.Pattern[str], frozenset[int]]]:
        return [(matcher([pattern]), numbers) for pattern, numbers in self.take]

    @cached_property
    def _weighed(self) -> Sequence[tuple[re.Pattern[str], int, Fraction]]:
        return [(matcher([pattern]), number, weight) for pattern, number, weight in self.weight_of]

    @cached_property
    def integer_weights(self) -> tuple[list[int], int]:
        return integer_weights(self.weights)

    def skips(self, name: str) -> bool:
        return self._skipped.match(name) is not None

    def taken(self, name: str) -> frozenset[int] | None:
        """The only inputs that a tensor may come from, if that was said."""
        return next((numbers for pattern, numbers in reversed(self._taken) if pattern.match(name)), None)

    def weights_in(self, name: str, numbers: Sequence[int]) -> tuple[list[int], int]:
        """The weights of these inputs in one tensor, as integers over a divisor; 0 is no part."""
        special = {number: weight for pattern, number, weight in self._weighed if pattern.match(name)}
        if not special:
            integers, divisor = self.integer_weights
            return [integers[number] for number in numbers], divisor
        return integer_weights([special.get(number, self.weights[number]) for number in numbers])


@dataclass(frozen=True, kw_only=True)
class MergedTensor:
    """One tensor of the result and where its values come from."""

    result: TensorInfo
    element: Element
    """That the inputs are merged in: their own, or one that holds the numbers of all of theirs."""
    sources: tuple[tuple[int, Tensor], ...]
    """(number of the input, its tensor); inputs without this tensor have no part in it. Exactly one if `copied`."""
    weights: Sequence[int] = ()
    """One per source, over `divisor`."""
    divisor: int = 1
    rule: Rule = Rule.ACTIVE_MEAN
    base: Tensor | None = None
    mask: Tensor | None = None
    rows: Holders | None = None
    """Who has which row, where not all have all."""
    copied: bool = False
    """Taken as it is, `BASE_NUMBER` for the base."""
    slerp: bool = False
    """By weights that are found out from the values first."""
    integers: str | int = "refuse"
    """Of what is no float: max, refuse, or the number of the input to take."""

    @property
    def name(self) -> str:
        return self.result.name

    @property
    def smallest_element_bytes(self) -> int:
        """Of everything that is read or written for it: a stretch that is whole pieces of that is so of all."""
        beside = (tensor for tensor in (self.base, self.mask) if tensor is not None)
        elements = (
            self.element,
            self.result.element,
            *(t.element for _, t in self.sources),
            *(t.element for t in beside),
        )
        return min(int(element.size_bytes) for element in elements)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every tensor of the result, in name order, and what its user should know of how it came about."""

    tensors: Sequence[MergedTensor]
    inputs: Sequence[Table]
    base: Table | None = None
    mask: Table | None = None
    skipped: tuple[str, ...] = ()
    from_base: tuple[str, ...] = ()
    """Tensors that the base alone has, or that were asked for from it."""
    respelled: Mapping[str, Respelling] = field(default_factory=dict)
    """By path."""
    matched: MatchedRows | None = None
    """Rows that were matched by their tokens, if that was asked for."""

    @property
    def partly_held(self) -> Mapping[str, tuple[str, ...]]:
        """Tensors that only some inputs have, and the paths of those that have them."""
        found = {}
        for tensor in self.tensors:
            holders = [table for table in self.inputs if tensor.name in table.tensors]
            if 0 < len(holders) < len(self.inputs):
                found[tensor.name] = tuple(str(table.checkpoint.path) for table in holders)
        return found


def plan(
    inputs: Sequence[Checkpoint], settings: Settings, *, base: Checkpoint | None = None, mask: Checkpoint | None = None
) -> Plan:
    """Every tensor of the result. `CheckpointError` names the tensors that clash."""
    if settings.version == 1:
        tables, known = [as_they_are(checkpoint) for checkpoint in inputs], None
    else:
        tables = aligned(inputs)
        known = {name for table in tables for name in table.tensors}
    follow = as_they_are if known is None else lambda checkpoint, *rest: following(checkpoint, known, *rest)
    base_table = None if base is None else follow(base)
    mask_table = None if mask is None else _mask_table(mask, known)
    matched = None
    if settings.matching is not None:
        tables, base_table, matched = settings.matching.matched(tables, base_table, settings.skips)
    planning = _Planning(tables, base_table, mask_table, settings)
    merged = planning.tensors()
    everything = [table for table in (*tables, base_table, mask_table) if table is not None]
    return Plan(
        tensors=merged,
        inputs=tables,
        base=base_table,
        mask=mask_table,
        skipped=tuple(planning.skipped),
        from_base=tuple(t.name for t in merged if t.sources[0][0] == BASE_NUMBER),
        respelled={str(table.checkpoint.path): table.respelling for table in everything if table.respelling},
        matched=matched,
    )


def _mask_table(mask: Checkpoint, known: set[str] | None) -> Table:
    return as_they_are(mask) if known is None else following(mask, known, MASK_ENDINGS)


class _Planning:
    """Goes through the names; what does not fit is collected, so that one error names it all."""

    def __init__(self, inputs: Sequence[Table], base: Table | None, mask: Table | None, settings: Settings) -> None:
        self._inputs = inputs
        self._base = base
        self._mask = mask
        self._settings = settings
        self._clashes: list[str] = []
        self._needs_dtype = False
        self.skipped: list[str] = []

    def tensors(self) -> list[MergedTensor]:
        names = {name for table in self._inputs for name in table.tensors}
        if self._base is not None and self._settings.version > 1:
            names |= self._base.tensors.keys()
        _require_matches(self._settings, names)
        merged = [tensor for name in sorted(names) for tensor in self._tensor(name)]
        self._raise_clashes()
        if not merged:
            raise CheckpointError("there are no tensors to merge.")
        return merged

    def _tensor(self, name: str) -> Iterator[MergedTensor]:
        """One, or none if it is left out or does not fit."""
        settings = self._settings
        if settings.skips(name):
            self.skipped.append(name)
            return
        sources = [(i, table.tensors[name]) for i, table in enumerate(self._inputs) if name in table.tensors]
        reference = self._base.tensors.get(name) if self._base is not None else None
        taken = settings.taken(name)
        if taken is not None:
            sources = [(number, tensor) for number, tensor in sources if number in taken]
        if reference is not None and (taken == ONLY_BASE or (not sources and taken is None)):
            if not self._lacks_rows(name, [(BASE_NUMBER, reference)], None):
                yield self._copy(name, BASE_NUMBER, reference)
            return
        weights, divisor = settings.weights_in(name, [number for number, _ in sources])
        sources = [source for source, weight in zip(sources, weights, strict=True) if weight]
        weights = [weight for weight in weights if weight]
        if not sources:
            self._clashes.append(f"{name[:200]!r} is to come from an input that does not have it")
        elif self._lacks_rows(name, sources, None if taken is not None else reference):
            return
        elif len(sources) == 1 and (taken is not None or settings.rule == PASSTHROUGH):
            yield self._copy(name, *sources[0])
        elif settings.rule == PASSTHROUGH:
            self._clashes.append(f"{name[:200]!r} is in {len(sources)} inputs, and passthrough takes each from one")
        elif self._fits(name, sources, reference):
            yield self._merged(name, sources, reference, weights, divisor)

    def _lacks_rows(self, name: str, sources: Sequence[tuple[int, Tensor]], reference: Tensor | None) -> bool:
        """Some token of the result is in none of them. Rows that stand for no token may be zero."""
        matching = self._settings.matching
        holders = None if matching is None else holders_of([tensor for _, tensor in sources], reference)
        missing = [] if matching is None or holders is None else matching.tokens_of(holders.nowhere)
        if missing:
            token = missing[0][:50]
            self._clashes.append(f"{name[:200]!r} is to come from where there is no row for {token!r}")
        return bool(missing)

    def _copy(self, name: str, number: int, tensor: Tensor) -> MergedTensor:
        result = TensorInfo(name=name, element=self._result_element(tensor.element), shape=tensor.shape)
        return MergedTensor(result=result, element=tensor.element, sources=((number, tensor),), copied=True)

    def _merged(
        self,
        name: str,
        sources: Sequence[tuple[int, Tensor]],
        reference: Tensor | None,
        weights: Sequence[int],
        divisor: int,
    ) -> MergedTensor:
        settings, first = self._settings, sources[0][1]
        is_float = first.element.kind == "float"
        beside = (reference,) if reference is not None and is_float else ()
        element = _common([*(tensor.element for _, tensor in sources), *(tensor.element for tensor in beside)])
        kept = element if is_float else first.element
        is_slerp = settings.rule == SLERP and is_float and len(sources) == 2
        return MergedTensor(
            result=TensorInfo(name=name, element=self._result_element(kept), shape=first.shape),
            element=kept,
            sources=tuple(sources),
            weights=weights,
            divisor=divisor,
            rule=Rule.SUM if is_slerp else RULES.get(settings.rule, Rule.ACTIVE_MEAN),
            base=reference if is_float else None,
            rows=holders_of([tensor for _, tensor in sources], reference) if is_float else None,
            mask=self._mask_of(name, first) if is_float and self._mask is not None else None,
            slerp=is_slerp,
            integers=self._integers(first, sources),
        )

    def _result_element(self, element: Element) -> Element:
        dtype = self._settings.dtype
        return ELEMENTS[DTYPES[dtype]] if element.kind == "float" and dtype != "keep" else element

    def _integers(self, tensor: Tensor, sources: Sequence[tuple[int, Tensor]]) -> str | int:
        """A single number is taken for a counter: nothing else that is kept as one integer differs after training."""
        settings = self._settings
        if settings.integers == "counters":
            return "max" if tensor.num_elements == 1 and settings.version > 1 else "refuse"
        if settings.integers == "first":
            return min((number for number, _ in sources), key=settings.ranks.__getitem__)
        return settings.integers

    def _fits(self, name: str, sources: Sequence[tuple[int, Tensor]], reference: Tensor | None) -> bool:
        beside = [(self._inputs[i].checkpoint, tensor) for i, tensor in sources]
        if self._base is not None and reference is not None:
            beside.append((self._base.checkpoint, reference))
        if len({tensor.describe() for _, tensor in beside}) == 1:
            return True
        is_alike = len({tensor.shape for _, tensor in beside}) == 1
        if is_alike and all(tensor.element.kind == "float" for _, tensor in beside):
            if self._settings.dtype != "keep":
                return True
            self._needs_dtype = True
        self._clashes.append(f"{name[:200]!r} is " + ", ".join(f"{t.describe()} in {c.path}" for c, t in beside))
        return False

    def _mask_of(self, name: str, tensor: Tensor) -> Tensor | None:
        assert self._mask is not None
        masks = self._mask.tensors
        found = next((masks[n] for form in MASK_NAMES if (n := form.format(name)) in masks), None)
        if found is not None and found.shape != tensor.shape:
            raise CheckpointError(
                f"the mask of {name[:200]!r} in {self._mask.checkpoint.path} is {found.describe()}, the tensor "
                f"{tensor.describe()}."
            )
        return found

    def _raise_clashes(self) -> None:
        if not self._clashes:
            return
        more = f" And {len(self._clashes) - SHOWN} more." if len(self._clashes) > SHOWN else ""
        advice = "Merge checkpoints of one model, or leave tensors out (--skip PATTERN) or take them from one input "
        if self._needs_dtype:
            advice = "Say the type of the result (--dtype f32), or leave tensors out (--skip PATTERN), or take them "
        raise CheckpointError(
            f"these tensors do not fit together: {'; '.join(self._clashes[:SHOWN])}.{more} {advice}"
            "(--take PATTERN=INPUT)."
        )


def _common(elements: Sequence[Element]) -> Element:
    """A float type that holds every number of these exactly."""
    if len(set(elements)) == 1:
        return elements[0]
    return ELEMENTS["F64" if any(element.name == "F64" for element in elements) else "F32"]


def _require_matches(settings: Settings, names: set[str]) -> None:
    """A pattern that no name matches is a slip of the keyboard."""
    patterns = [*settings.skip, *(take[0] for take in settings.take), *(weight[0] for weight in settings.weight_of)]
    for pattern in dict.fromkeys(patterns):
        match = matcher([pattern]).match
        if not any(map(match, names)):
            first = ", ".join(sorted(names)[:SHOWN])
            raise CheckpointError(f"no tensor's name matches {pattern[:200]!r}. The first names are {first}.")
