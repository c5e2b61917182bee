"""A cache that codes keys and values when the model hands them over, before attention sees them: "on the
fly". Errors of one layer then also change what the layers above compute and code.

A coder is a function (layer, keys, values, first_position) -> (keys, values) of tensors
[batch, heads, tokens, head_dim], keys after RoPE."""
import torch
from transformers import DynamicCache

from deltapq import hf


class Rope:
    """Turns keys back to position 0 and forth again, from a geometry's own frequencies; pairing "half"."""

    def __init__(self, geometry):
        if geometry.rope_pairing != "half":
            raise ValueError(f"pairing {geometry.rope_pairing} is not implemented here")
        self.half, self.scale = len(geometry.inv_freq), geometry.attention_scaling
        self.inv_freq = torch.tensor(geometry.inv_freq, dtype=torch.float64)

    def back(self, keys, first: int, step: int = 1):
        """[…, tokens, head_dim] after RoPE, of tokens first, first + step, …, to before RoPE."""
        return self._turn(keys, first, step, -1, 1 / self.scale)

    def forth(self, keys, first: int, step: int = 1):
        return self._turn(keys, first, step, 1, self.scale)

    def back_gradient(self, g, first: int, step: int = 1):
        """Of a loss with respect to keys after RoPE, to that with respect to keys before it."""
        return self._turn(g, first, step, -1, self.scale)

    def _turn(self, x, first, step, sign, scale):
        positions = first + step * torch.arange(x.shape[-2], dtype=torch.float64, device=x.device)
        angle = positions[:, None] * self.inv_freq.to(x.device)
        cos, sin = (angle.cos() * scale).to(x.dtype), (angle.sin() * sign * scale).to(x.dtype)
        a, b, rest = x[..., :self.half], x[..., self.half:2 * self.half], x[..., 2 * self.half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def cache(config, coder) -> DynamicCache:
    """An empty one; every token that is added goes through coder, alone or with others."""
    made = DynamicCache(config=config)
    for i, layer in enumerate(made.layers):
        layer.update = _through(i, layer, coder)
    return made


def _through(i, layer, coder):
    plain = layer.update

    def update(keys, values, *args, **kwargs):
        return plain(*coder(i, keys, values, layer.get_seq_length()), *args, **kwargs)
    return update


def logits(model, ids, coder) -> torch.Tensor:
    """[tokens, vocabulary] of one pass over ids [1, tokens] with everything coded."""
    return hf.forward(model, ids, cache(model.config, coder)).logits[0]
