"""What PEFT's `adapter_config.json` says that a merge must know; what it cannot do justice to is refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from spikemesh.errors import CheckpointError, InvalidData
from spikemesh.files.rim import os_errors

Value = TypeVar("Value")

CONFIG_NAME = "adapter_config.json"
MAX_CONFIG_BYTES = 1 << 20
MAX_PATTERN = 200

PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Ways to start a LoRA that leave the base as it is. With the others the adapter fits only a base that was changed."""
UNSUPPORTED: Mapping[str, str] = {
    "use_dora": "DoRA, which divides by the norm of every row",
    "use_qalora": "QALoRA, which averages what goes in",
    "use_bdlora": "block-diagonal LoRA",
    "lora_bias": "LoRA with a bias of its own",
    "layer_replication": "replicated layers, which the base does not have",
    "trainable_token_indices": "single tokens that were trained",
    "target_parameters": "LoRA on bare parameters",
    "alora_invocation_tokens": "activated LoRA, which is switched on by tokens",
    "arrow_config": "Arrow, which chooses adapters by token",
    "monteclora_config": "LoRA with sampled weights",
    "kasa_config": "KaSA, which has singular values of its own",
}
"""Fields that must not be set, and what they would mean."""


class _Config(msgspec.Struct):
    peft_type: str = "LORA"
    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    bias: str = "none"
    init_lora_weights: bool | str | None = True
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    modules_to_save: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """How strongly which module is changed."""

    rank: int
    alpha: float
    use_rslora: bool
    fan_in_fan_out: bool
    """Says of a square weight that it lies as [in, out]; any other shows it by its shape."""
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    """By pattern of the module's name, as in PEFT."""
    saved: tuple[str, ...] = ()
    """`modules_to_save`: last parts of names of modules that were trained in full."""

    def rank_of(self, module: str) -> int:
        return _matching(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """What PEFT multiplies B @ A with, in its own float64: alpha / r, or alpha / sqrt(r) for rsLoRA."""
        rank, alpha = self.rank_of(module), _matching(self.alphas, module, self.alpha)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def _matching(patterns: Mapping[str, Value], module: str, otherwise: Value) -> Value:
    """The first pattern that the end of the module's name matches, from a dot on, counts."""
    return next((v for p, v in patterns.items() if re.match(rf"(.*\.)?({p})$", module)), otherwise)


def read_config(folder: Path) -> tuple[AdapterConfig, bytes]:
    """The configuration in an adapter's folder, and its bytes."""
    path = folder / CONFIG_NAME
    with os_errors("reading", path):
        text = path.read_bytes() if path.stat().st_size <= MAX_CONFIG_BYTES else b""
    return parse_config(text, path), text


def parse_config(text: bytes, path: Path) -> AdapterConfig:
    """`InvalidData` if it is none, `CheckpointError` if it says what cannot be merged exactly."""
    try:
        said = msgspec.json.decode(text, type=dict[str, object])
        raw = msgspec.convert(said, _Config)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidData(f"{path} is not the configuration of an adapter ({error!s:.200}).") from error
    _require_supported(raw, said, path)
    patterns = [*(raw.rank_pattern or {}), *(raw.alpha_pattern or {})]
    numbers = [raw.r, *(raw.rank_pattern or {}).values()]
    alphas = [raw.lora_alpha, *(raw.alpha_pattern or {}).values()]
    if not all(map(_is_plain, patterns)):
        raise InvalidData(
            f"{path}: expected rank_pattern and alpha_pattern to hold names or short regular expressions."
        )
    if not all(0 < number <= 1 << 20 for number in numbers) or not all(map(math.isfinite, alphas)):
        raise InvalidData(f"{path}: expected ranks above 0 and finite alphas.")
    return AdapterConfig(
        rank=raw.r,
        alpha=raw.lora_alpha,
        use_rslora=raw.use_rslora,
        fan_in_fan_out=raw.fan_in_fan_out,
        ranks=raw.rank_pattern or {},
        alphas=raw.alpha_pattern or {},
        saved=tuple(raw.modules_to_save or ()),
    )


def _require_supported(raw: _Config, said: Mapping[str, object], path: Path) -> None:
    refused = next((text for name, text in UNSUPPORTED.items() if said.get(name)), None)
    if raw.peft_type != "LORA":
        refused = f"an adapter of the kind {raw.peft_type[:50]}"
    elif raw.bias != "none":
        refused = f"trained biases (bias={raw.bias[:50]!r})"
    elif raw.init_lora_weights is not None and raw.init_lora_weights not in PLAIN_STARTS:
        refused = f"a start that changes the base (init_lora_weights={raw.init_lora_weights!r:.50})"
    if refused is not None:
        raise CheckpointError(
            f"{path} says: {refused}. LoRA adapters alone can be merged exactly. For one of PiSSA, OLoRA or CorDA, "
            "save it with path_initial_model_for_weight_conversion; for others, merge_and_unload in PEFT."
        )


def _is_plain(pattern: str) -> bool:
    """A regular expression that cannot take long: few groups, none repeated, and few repetitions."""
    is_short = 0 < len(pattern) <= MAX_PATTERN and len(re.findall(r"[*+{?]", pattern)) <= 2 and pattern.count("(") <= 2
    if not is_short or re.search(r"\)[*+?{]|\(\?|\\[0-9]", pattern):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
