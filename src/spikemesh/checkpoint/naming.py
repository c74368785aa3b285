"""What files of weights are called: by which names loaders find them, and what that makes of a result."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from spikemesh.errors import CheckpointError

WEIGHT_SUFFIXES = frozenset(
    ".safetensors .bin .pt .pth .ckpt .gguf .ggml .onnx .h5 .msgpack .npz .pkl .pickle .pb .tflite".split()  # noqa: SIM905
)
SUFFIX = ".safetensors"
INDEX = re.compile(r"(?P<stem>.+)\.(?P<kind>safetensors|bin)\.index(\.(?P<variant>[^.]+))?\.json|.*\.index\.json", re.S)
DEFAULT_STEM = "model"
STEMS = ("model", "pytorch_model", "diffusion_pytorch_model", "adapter_model", "consolidated", "open_clip_model")
"""By which loaders find weights, in the order in which one folder's are looked for."""
KNOWN = re.compile(rf"({'|'.join(STEMS)})(\.[A-Za-z0-9_]+)?")
VARIANT = re.compile(rf"(?P<stem>{'|'.join(STEMS)})\.(?P<variant>[A-Za-z_][A-Za-z0-9_]*)")
SHARD = re.compile(r"(?P<stem>.+)-(\d{5})-of-(\d{5})\.safetensors", re.S)


def is_index(name: str) -> bool:
    return INDEX.fullmatch(name) is not None


def index_rank(name: str) -> tuple[int, bool, bool, str]:
    """The index of the model itself comes before those of its variants, safetensors before PyTorch."""
    found = INDEX.fullmatch(name)
    stem = found["stem"] if found is not None else None
    rank = STEMS.index(stem) if stem in STEMS else len(STEMS)
    return rank, found is None or found["variant"] is not None, "safetensors" not in name, name


def single_names(stems: Sequence[str]) -> tuple[str, ...]:
    """Of files that hold all weights: safetensors before PyTorch."""
    return tuple(stem + suffix for suffix in (SUFFIX, ".bin") for stem in stems)


def require_name(out: Path) -> None:
    """`CheckpointError` for a name that promises another format than the result has."""
    if out.suffix != SUFFIX and out.suffix.lower() in WEIGHT_SUFFIXES:
        raise CheckpointError(
            f"the result is written as safetensors, and {out} ends in {out.suffix}. Choose a name that ends in "
            f"{SUFFIX} for one file, such as {out.with_suffix(SUFFIX)}, or one without {out.suffix} for a folder."
        )


def stem_of(name: str) -> str:
    """What names a checkpoint's files in common: `model` of `model.safetensors.index.json`, or of a shard."""
    if (index := INDEX.fullmatch(name)) is not None:
        name = (index["stem"] or DEFAULT_STEM) + (f".{index['variant']}" if index["variant"] else "")
    elif (shard := SHARD.fullmatch(name)) is not None:
        name = shard["stem"]
    else:
        name = Path(name).stem
    return name.replace("pytorch_model", DEFAULT_STEM, 1) if name.startswith("pytorch_model") else name


def common_stem(names: Iterable[tuple[str, bool]]) -> str:
    """The stem of a result of files called so, each with whether its folder was the input: kept where all agree, and
    where a loader would look for it, or a folder named it.
    """
    stems = {(stem_of(name), is_folder) for name, is_folder in names}
    agreed = {stem for stem, _ in stems}
    if len(agreed) != 1:
        return DEFAULT_STEM
    (stem,) = agreed
    return stem if KNOWN.fullmatch(stem) or all(is_folder for _, is_folder in stems) else DEFAULT_STEM


def file_names(stem: str, num_files: int) -> list[str]:
    """Of one file, or of shards."""
    if num_files == 1:
        return [stem + SUFFIX]
    return [f"{stem}-{number + 1:05}-of-{num_files:05}{SUFFIX}" for number in range(num_files)]


def index_name(stem: str) -> str:
    """Of the index of shards. A variant such as `model.fp16` has its own way, that of transformers and diffusers."""
    if (variant := VARIANT.fullmatch(stem)) is not None:
        return f"{variant['stem']}{SUFFIX}.index.{variant['variant']}.json"
    return f"{stem}{SUFFIX}.index.json"
