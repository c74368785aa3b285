"""PEFT's side of `benchmarks/adapters.py`, run in its own environment.

peer_peft.py make FOLDER NUM      base and base32 (Llama of random weights), NUM adapters of rank 16 as PEFT saves them
peer_peft.py compare FOLDER NUM   ours (FOLDER/merged32, FOLDER/stacked) and PEFT's: logits, what comes back; JSON
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make(folder: Path, count: int) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(folder / "base")
    model.float().save_pretrained(folder / "base32")
    for number in range(count):
        lora = LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, use_rslora=number % 2 == 1)
        adapted = get_peft_model(LlamaForCausalLM(config), lora)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.005)
        adapted.save_pretrained(folder / f"adapter{number}")


def opened(folder: Path, base: str, count: int, dtype: torch.dtype) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(folder / base, dtype=dtype)
    adapted = PeftModel.from_pretrained(model, folder / "adapter0", adapter_name="a0")
    for number in range(1, count):
        adapted.load_adapter(folder / f"adapter{number}", adapter_name=f"a{number}")
    adapted.base_model.set_adapter([f"a{number}" for number in range(count)])
    return adapted.eval()


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if "base_layer" in name}


@torch.no_grad()
def compare(folder: Path, count: int) -> None:
    ids = torch.randint(0, 2000, (4, 64), generator=torch.Generator().manual_seed(1))
    adapted = opened(folder, "base32", count, torch.float32)
    apart = adapted(ids).logits
    ours = AutoModelForCausalLM.from_pretrained(folder / "merged32", dtype=torch.float32).eval()(ids).logits
    adapted.merge_adapter()
    theirs = adapted(ids).logits
    stacked = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folder / "base32", dtype=torch.float32), folder / "stacked"
    )
    as_one = stacked.eval()(ids).logits
    halves = opened(folder, "base", count, torch.bfloat16)
    before = weights(halves)
    halves.merge_adapter()
    halves.unmerge_adapter()
    after = weights(halves)
    same = sum(int((before[name] == after[name]).sum()) for name in before)
    facts = {
        "ours_from_adapters": float((ours - apart).abs().max()),
        "theirs_from_adapters": float((theirs - apart).abs().max()),
        "ours_from_theirs": float((ours - theirs).abs().max()),
        "stacked_from_adapters": float((as_one - apart).abs().max()),
        "largest_logit": float(apart.abs().max()),
        "came_back": same / sum(tensor.numel() for tensor in before.values()),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    {"make": make, "compare": compare}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
