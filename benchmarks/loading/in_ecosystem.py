"""Runs where transformers, diffusers and PEFT are, and nothing of ours: makes tiny models, and loads what was merged.

    python in_ecosystem.py make FOLDER           pairs of inputs FOLDER/CASE/a and b, made from configurations, offline
    python in_ecosystem.py check FOLDER          each FOLDER/CASE/OUT-* by the library's own loader; prints JSON

Every element is compared with the active mean of the two inputs: of what both hold, the mean in float64, rounded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

REMOTE_CONFIG = """
from transformers import PretrainedConfig
class TinyConfig(PretrainedConfig):
    model_type = "tiny_of_ours"
    def __init__(self, width=4, **rest):
        self.width = width
        super().__init__(**rest)
"""
REMOTE_MODEL = """
import torch
from transformers import PreTrainedModel
from .configuration_tiny import TinyConfig
class TinyModel(PreTrainedModel):
    config_class = TinyConfig
    def __init__(self, config):
        super().__init__(config)
        self.line = torch.nn.Linear(config.width, config.width)
        self.post_init()
    def forward(self, x):
        return self.line(x)
"""
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def llama(tied: bool) -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    return transformers.LlamaForCausalLM(config).bfloat16()


def unet() -> diffusers.ModelMixin:
    return diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )


def adapter(base: Path) -> peft.PeftModel:
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return peft.get_peft_model(model, config)


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"<unk>": 0, **{f"w{i}": i for i in range(1, 32)}}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", chat_template=TEMPLATE)


def save_remote(place: Path) -> None:
    """A model that only its own code can load."""
    state = torch.nn.Linear(4, 4).state_dict()
    place.mkdir(parents=True)
    save_file({f"line.{name}": tensor for name, tensor in state.items()}, place / "model.safetensors")
    (place / "configuration_tiny.py").write_text(REMOTE_CONFIG)
    (place / "modeling_tiny.py").write_text(REMOTE_MODEL)
    classes = {"AutoConfig": "configuration_tiny.TinyConfig", "AutoModel": "modeling_tiny.TinyModel"}
    config = {"model_type": "tiny_of_ours", "width": 4, "auto_map": classes, "dtype": "float32"}
    (place / "config.json").write_text(json.dumps(config))


def save_llama(place: Path, tied: bool) -> None:
    llama(tied).save_pretrained(place)
    tokenizer().save_pretrained(place)


def make(root: Path) -> None:
    torch.manual_seed(9)
    llama(False).save_pretrained(root / "base")
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        save_llama(root / "llama" / name, False)
        save_llama(root / "tied" / name, True)
        torch.save(llama(True).state_dict(), _folder(root / "bin" / name) / "pytorch_model.bin")
        llama(True).config.save_pretrained(root / "bin" / name)
        save_remote(root / "remote" / name)
        unet().save_pretrained(root / "unet" / name)
        unet().half().save_pretrained(root / "variant" / name, variant="fp16")
        adapter(root / "base").save_pretrained(root / "adapter" / name)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    files = [*folder.glob("*.safetensors")]
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    return found or torch.load(folder / "pytorch_model.bin", weights_only=True)


def expected(case: Path, dtype: torch.dtype | None, inputs: str) -> dict[str, torch.Tensor]:
    both = [tensors(case / name) for name in inputs]
    result = {}
    for name, first in both[0].items():
        values = torch.stack([one[name].double() for one in both])
        held = (values != 0).sum(0).clamp(min=1)
        result[name] = (values.sum(0) / held).to(dtype or first.dtype)
    return result


def loaded_transformers(out: Path, **options: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    kind = transformers.AutoModel if options else transformers.AutoModelForCausalLM
    model, told = kind.from_pretrained(out, output_loading_info=True, **options)
    return model, {key: sorted(map(str, told[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}


def loaded_diffusers(out: Path, **options: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    model, told = diffusers.UNet2DModel.from_pretrained(out, output_loading_info=True, **options)
    return model, {key: sorted(map(str, told[key])) for key in ("missing_keys", "unexpected_keys")}


def loaded_peft(out: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    base = transformers.AutoModelForCausalLM.from_pretrained(out.parents[1] / "base")
    return peft.PeftModel.from_pretrained(base, out), {}


LOADERS: dict[str, Callable[[Path], tuple[torch.nn.Module, dict[str, Any]]]] = {
    "llama": loaded_transformers,
    "tied": loaded_transformers,
    "bin": loaded_transformers,
    "remote": lambda out: loaded_transformers(out, trust_remote_code=True),
    "unet": loaded_diffusers,
    "variant": lambda out: loaded_diffusers(out, variant="fp16", torch_dtype=torch.float16),
    "adapter": loaded_peft,
}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def check(case: Path, out: Path) -> dict[str, Any]:
    """What the loader makes of one folder: elements that are not the active mean, keys that it missed, and the rest."""
    _, inputs, *how = out.name.split("-")
    model, told = LOADERS[case.name](out)
    dtype = next((DTYPES[word] for word in how if word in DTYPES), None)
    state = model.state_dict()
    if case.name == "adapter":
        state = peft.get_peft_model_state_dict(model)
    wanted = expected(case, dtype, inputs)
    absent = sorted(wanted.keys() - state.keys())
    apart = sum(int((state[name] != tensor).sum()) for name, tensor in wanted.items() if name in state)
    types = sum(state[name].dtype != tensor.dtype for name, tensor in wanted.items() if name in state)
    said = {"apart": apart, "absent": len(absent), "types": types, "keys": sum(map(len, told.values()))}
    if case.name in ("tied", "bin"):
        same = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        said["untied"] = int(not same)
    if case.name in ("llama", "tied"):
        words = transformers.AutoTokenizer.from_pretrained(out)
        right = words("w3 w7")["input_ids"] == [3, 7]
        text = words.apply_chat_template([{"role": "user", "content": "w3"}], tokenize=False)
        said["tokenizer"] = int(not right or text != "w3")
    return said


def main() -> None:
    what, root = sys.argv[1], Path(sys.argv[2])
    if what == "make":
        make(root)
        return
    for out in sorted(root.glob("*/out-*")):
        print(json.dumps({"case": out.parent.name, "out": out.name[4:], **check(out.parent, out)}), flush=True)


if __name__ == "__main__":
    main()
