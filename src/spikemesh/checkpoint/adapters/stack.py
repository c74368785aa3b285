"""Adapters merged with each other: their ranks side by side, which is the sum of what they add.

A module's factors get one common scale, and what differs from it goes into B, where it must be exact. So weights that
are sums of few powers of two are held, and a third is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from math import lcm, nextafter
from pathlib import Path

import msgspec
import numpy as np

from spikemesh.checkpoint.adapters.adapter import PREFIX, WEIGHT_NAMES, Adapter, Pair, read_matrix
from spikemesh.checkpoint.adapters.config import CONFIG_NAME
from spikemesh.checkpoint.adapters.gather import Gathered, Library
from spikemesh.checkpoint.adapters.recipe import StackRecipe, require_known, weights_of
from spikemesh.checkpoint.companions import Carried, choose, survey
from spikemesh.checkpoint.content import CHECKSUM, TreeHash
from spikemesh.checkpoint.known import KnownFiles
from spikemesh.checkpoint.options import Place
from spikemesh.checkpoint.output import Output
from spikemesh.checkpoint.place import check_free, check_space
from spikemesh.checkpoint.recipe import CHECKSUM_KEY, STACK_KEY
from spikemesh.checkpoint.source import Tensor, TensorInfo
from spikemesh.checkpoint.windows import Bytes
from spikemesh.errors import CheckpointError
from spikemesh.kernels import ELEMENTS, Reals
from spikemesh.progress import SILENT, Progress


@dataclass(frozen=True, kw_only=True)
class StackReport:
    """One adapter, made of several."""

    out: Path
    recipe: StackRecipe
    adapters: Mapping[str, Fraction]
    """By path: the weights."""
    copies: Mapping[str, str]
    companions: Carried
    """What stands beside it: from which one adapter, and what was left behind."""
    rank: int
    """The largest of a module."""
    num_modules: int


@dataclass(frozen=True, kw_only=True)
class Stacked:
    """The factors of one module, and the scale that is common to them."""

    a: Reals
    b: Reals
    scale: float
    alpha: float
    """What gives this scale, divided by the rank."""
    kind: str

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])


@dataclass(frozen=True)
class Part:
    adapter: Adapter
    pair: Pair
    coefficient: Fraction = field(default=Fraction(1))


def stack_adapters(
    inputs: Sequence[str | Path],
    *,
    out: str | Path,
    weights: Sequence[str | float | Fraction] | None = None,
    rule: str = "sum",
    force: bool = False,
    progress: Progress = SILENT,
) -> StackReport:
    """One adapter that adds, exactly, the weighted sum of what `inputs` add, into the folder `out`.

    What stands beside it comes from the adapter of the largest weight. Whole, or not at all: `out` is then as it was.

    `CheckpointError` if that cannot be held exactly, or tensors that were trained in full differ.
    """
    target = Path(out)
    require_known(rule)
    require_folder(target)
    factors = weights_of(weights, len(inputs), rule)
    check_free(target, force=force)
    with ExitStack() as stack:
        library = Library(stack=stack, known=KnownFiles(), progress=progress)
        gathered = library.gather([Path(path) for path in inputs], factors, add_up=weights is not None)
        return stack_gathered(library, gathered, Place(out=target, force=force))


def stack_gathered(library: Library, gathered: Gathered, place: Place) -> StackReport:
    """One adapter of those that were found; what this machine learns of them is remembered."""
    modules = modules_of(gathered)
    companions = companions_of(gathered)
    recipe = StackRecipe(leaves=frozenset(gathered.leaves))
    _write(place, recipe, modules, gathered, companions, library.progress)
    for leaf, adapter in zip(gathered.leaves, gathered.adapters, strict=True):
        library.known.remember(adapter.checkpoint, leaf.content)
    return StackReport(
        out=place.out,
        recipe=recipe,
        adapters={str(a.path): leaf.weight for leaf, a in zip(gathered.leaves, gathered.adapters, strict=True)},
        copies=gathered.copies,
        companions=companions,
        rank=max((module.rank for module in modules.values()), default=0),
        num_modules=len(modules),
    )


def modules_of(gathered: Gathered) -> dict[str, Stacked]:
    """What each target gets. `CheckpointError` if that does not fit together, or cannot be held exactly."""
    return {target: _stacked(target, parts) for target, parts in parts_of(gathered).items()}


def require_folder(out: Path) -> None:
    """`ValueError` for a place where no adapter can be."""
    if out.suffix == ".safetensors":
        raise ValueError(f"an adapter is a folder: expected {out} without .safetensors")


def parts_of(gathered: Gathered) -> dict[str, list[Part]]:
    """What is put side by side, by target. `CheckpointError` if that does not fit together."""
    parts: dict[str, list[Part]] = {}
    for leaf, adapter in zip(gathered.leaves, gathered.adapters, strict=True):
        for target, pair in adapter.pairs.items():
            parts.setdefault(target, []).append(Part(adapter, pair, leaf.weight * Fraction(pair.scale)))
    flags = {adapter.config.fan_in_fan_out for adapter in gathered.adapters}
    if len(flags) > 1:
        raise CheckpointError("some of the adapters have fan_in_fan_out and some not, so they are of different models.")
    for target, found in parts.items():
        shapes = {(part.pair.kind, part.pair.a.shape[1], part.pair.b.shape[0]) for part in found}
        if len(shapes) > 1:
            raise CheckpointError(
                f"the adapters do not fit together in {target[:200]!r}: they are of different models."
            )
    saved_of(gathered)
    return dict(sorted(parts.items()))


def _stacked(target: str, parts: Sequence[Part]) -> Stacked:
    a = [read_matrix(part.pair.a, part.adapter.path) for part in parts]
    b = [read_matrix(part.pair.b, part.adapter.path) for part in parts]
    rank = sum(part.pair.rank for part in parts)
    scale, alpha = _common_scale([part.coefficient for part in parts], rank)
    folded = [_times(matrix, part.coefficient / Fraction(scale), target) for matrix, part in zip(b, parts, strict=True)]
    return Stacked(
        a=np.concatenate(a), b=np.concatenate(folded, axis=1), scale=scale, alpha=alpha, kind=parts[0].pair.kind
    )


def _common_scale(coefficients: Sequence[Fraction], rank: int) -> tuple[float, float]:
    """A scale of which all coefficients are, if they can be, short multiples; and the alpha that PEFT makes it from."""
    first = abs(coefficients[0])
    odd = [abs(c) / first for c in coefficients]
    candidates = [float(first)] if all(_is_power_of_two(ratio) for ratio in odd) else []
    shared = lcm(*(ratio.denominator for ratio in odd))
    candidates += [float(first / shared), 1.0]
    for scale in candidates:
        alpha = next(
            (
                x
                for x in (scale * rank, nextafter(scale * rank, 0), nextafter(scale * rank, np.inf))
                if x / rank == scale
            ),
            None,
        )
        if alpha is not None and all((c / Fraction(scale)).denominator.bit_count() == 1 for c in coefficients):
            return scale, alpha
    return 1.0, float(rank)


def _is_power_of_two(x: Fraction) -> bool:
    return x.numerator.bit_count() == x.denominator.bit_count() == 1


def _times(matrix: Reals, factor: Fraction, target: str) -> Reals:
    """Exactly, in the same type or, from bits that are free in it, else not at all."""
    if factor == 1:
        return matrix
    exact = factor.denominator.bit_count() == 1 and abs(factor.numerator) < 1 << 53
    product = matrix.astype(np.float64) * float(factor) if exact else matrix
    if not exact or not _is_exact(matrix, factor, product):
        raise CheckpointError(
            f"an adapter in {matrix.dtype} cannot hold {target[:200]!r} times {factor} exactly. Choose weights such as "
            "1, 0.5 or 0.75, or merge into the base with --base, which is exact with any weights."
        )
    return product.astype(matrix.dtype)


def _is_exact(matrix: Reals, factor: Fraction, product: Reals) -> bool:
    narrow = product.astype(matrix.dtype).astype(np.float64)
    if not np.array_equal(narrow, product) or not np.isfinite(narrow).all():
        return False
    if _is_power_of_two(abs(factor)):  # only small values can have lost bits
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.array_equal(narrow / float(factor), matrix)
    significands = np.frexp(matrix.astype(np.float64))[0]
    bits = 53 - factor.numerator.bit_length()
    return bool((np.ldexp(significands, bits) % 1 == 0).all())


def saved_of(gathered: Gathered) -> dict[str, Tensor]:
    """What was trained in full, where that is the same, or in one adapter alone and of weight 1."""
    found: dict[str, Tensor] = {}
    for leaf, adapter in zip(gathered.leaves, gathered.adapters, strict=True):
        for name, tensor in adapter.saved.items():
            if name in found or leaf.weight != 1:
                raise CheckpointError(
                    f"{name[:200]!r} was trained in full in {adapter.path}, and its sum with others needs the base. "
                    "Merge with --base."
                )
            found[name] = tensor
    return found


def stack_metadata(recipe: StackRecipe, checksum: str) -> dict[str, str]:
    """What the result says of itself."""
    return {"format": "pt", STACK_KEY: recipe.to_metadata(), CHECKSUM_KEY: checksum}


def _write(
    place: Place,
    recipe: StackRecipe,
    modules: Mapping[str, Stacked],
    gathered: Gathered,
    companions: Carried,
    progress: Progress,
) -> None:
    """Whole, or not at all."""
    tensors = dict(tensors_of(modules, gathered))
    config = msgspec.json.format(msgspec.json.encode(_config(modules, gathered, companions)), indent=2)
    num_bytes = sum(info.size_bytes for info, _ in tensors.values())
    check_space(place.out.parent, num_bytes + companions.size_bytes)
    progress.begin("writing an adapter", num_bytes)
    output = Output(
        place.out,
        sorted((info for info, _ in tensors.values()), key=lambda info: (-info.element.size_bytes, info.name)),
        stack_metadata(recipe, "0" * 32),
        stem=Path(WEIGHT_NAMES[0]).stem,
        companions=companions.files,
        force=place.force,
    )
    checksum = TreeHash({name: info for name, (info, _) in tensors.items()}, CHECKSUM)
    try:
        for name, (info, read) in tensors.items():
            data = read()
            checksum.add(name, 0, data)
            output.write(name, 0, data)
            progress.advance(info.size_bytes)
        gathered.require_untouched()
        output.finish(stack_metadata(recipe, checksum.hexdigest()), {CONFIG_NAME: config})
    finally:
        output.discard()


def tensors_of(
    modules: Mapping[str, Stacked], gathered: Gathered
) -> Iterator[tuple[str, tuple[TensorInfo, Callable[[], Bytes]]]]:
    """By name: what each is, and its bytes when they are asked for."""
    names = (name for adapter in gathered.adapters for name in adapter.checkpoint.tensors)
    prefix = PREFIX if any(name.startswith(PREFIX) for name in names) else ""
    for target, module in modules.items():
        name = prefix + target.removesuffix(".weight")
        for side, matrix in (("A", module.a), ("B", module.b)):
            full = f"{name}.lora_embedding_{side}" if module.kind == "embedding" else f"{name}.lora_{side}.weight"
            element = ELEMENTS["F64" if matrix.dtype == np.float64 else "F32"]
            yield full, (TensorInfo(name=full, element=element, shape=matrix.shape), partial(_bytes, matrix))
    for name, tensor in saved_of(gathered).items():
        full = prefix + name
        yield full, (TensorInfo(name=full, element=tensor.element, shape=tensor.shape), partial(_read, tensor))


def _bytes(matrix: Reals) -> Bytes:
    return np.ascontiguousarray(matrix).astype(f"<f{matrix.dtype.itemsize}").reshape(-1).view(np.uint8)


def _read(tensor: Tensor) -> Bytes:
    data = np.empty(tensor.size_bytes, np.uint8)
    tensor.read(0, data.data)
    return data


def companions_of(gathered: Gathered) -> Carried:
    """What stands beside the adapters, of one of them: that of the largest weight, as with whole checkpoints.

    Without adapter_config.json, which is computed anew from that adapter's.
    """
    weighed = zip(gathered.leaves, gathered.adapters, strict=True)
    seen = choose([(leaf.weight, survey(a.path, [f.path.name for f in a.checkpoint.files])) for leaf, a in weighed])
    files = {name: file for name, file in seen.files.items() if name != CONFIG_NAME}
    return replace(
        seen,
        source=None if seen.source is None else replace(seen.source, files=files),
        differing=tuple(name for name in seen.differing if name != CONFIG_NAME),
    )


def _config(modules: Mapping[str, Stacked], gathered: Gathered, companions: Carried) -> dict[str, object]:
    """That of the adapter whose files come along, with the new ranks and scales by the full names of modules."""
    source = None if companions.source is None else companions.source.folder
    chosen = next((adapter for adapter in gathered.adapters if adapter.path == source), gathered.adapters[0])
    said: dict[str, object] = msgspec.json.decode(chosen.config_text)
    ranks = {target.removesuffix(".weight"): module.rank for target, module in modules.items()}
    alphas = {target.removesuffix(".weight"): _plain(module.alpha) for target, module in modules.items()}
    rank, alpha = max(ranks.values(), default=1), max(alphas.values(), default=1)
    saved = sorted({name for adapter in gathered.adapters for name in adapter.config.saved})
    said |= {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": False,
        "rank_pattern": {_escaped(name): value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {_escaped(name): value for name, value in alphas.items() if value != alpha},
        "target_modules": sorted(ranks),
        "modules_to_save": saved or None,
        "inference_mode": True,
        "init_lora_weights": True,
    }
    return said


def _plain(alpha: float) -> float:
    return int(alpha) if alpha == int(alpha) else alpha


def _escaped(name: str) -> str:
    """Patterns are regular expressions, and a name's dots stand for themselves."""
    return name.replace(".", "\\.")
