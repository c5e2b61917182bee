"""deltapq: put a model's KV cache into deltapqd, get it back in another process.

    with deltapq.Client("/run/deltapq/grpc.sock") as client:
        sequence = client.create_sequence(profile_id, token_ids=ids)
        client.append(sequence, kv, token_ids=ids)          # kv: [layers, 2, heads, tokens, head_dim]
        same = client.read(sequence, 0, len(ids), dtype="f16")

deltapq.hf joins it to transformers: geometry, calibration, save(), restore().
"""
from .client import Client, Sequence
from .errors import DeltaPQError
from .events import Cursor
from .library import Library
from .tensors import Geometry, TensorDesc, bf16_from_f32, f32_from_bf16

__all__ = ["Client", "Sequence", "Cursor", "DeltaPQError", "Library", "Geometry", "TensorDesc",
           "bf16_from_f32", "f32_from_bf16"]
__version__ = "0.1.0"
