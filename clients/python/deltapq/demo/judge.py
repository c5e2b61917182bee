"""How far a model's next-token distributions are from those it has with an exact cache."""
from __future__ import annotations

import dataclasses

import torch
from transformers import DynamicCache

from deltapq.hf import forward


@dataclasses.dataclass
class Verdict:
    """Of all predicted positions: KL in nats, of the exact distribution from the other one."""
    kl: torch.Tensor
    top1: torch.Tensor
    nll_exact: torch.Tensor
    nll: torch.Tensor

    @staticmethod
    def of(exact: torch.Tensor, other: torch.Tensor, targets: torch.Tensor) -> "Verdict":
        """Logits [n, vocabulary] each; targets: the n - 1 tokens that follow positions 0 … n - 2."""
        parts = [_compare(e.float(), o.float()) for e, o in zip(exact.split(128), other.split(128))]
        kl, top1, p, q = (torch.cat(x) for x in zip(*parts))
        return Verdict(kl.double(), top1.double(), *(
            -x[:-1].gather(1, targets[:, None]).squeeze(1).double() for x in (p, q)))

    @staticmethod
    def all(verdicts: list["Verdict"]) -> "Verdict":
        return Verdict(*(torch.cat([getattr(v, f.name) for v in verdicts])
                         for f in dataclasses.fields(Verdict)))

    def __str__(self) -> str:
        return (f"perplexity {self.perplexity_exact:7.3f} -> {self.perplexity:7.3f}, mean KL "
                f"{self.mean_kl:.4f}, 99.9 % {self.tail_kl:.3f}, top-1 {self.agreement:.4f}")

    @property
    def mean_kl(self) -> float:
        return self.kl.mean().item()

    @property
    def tail_kl(self) -> float:
        """99.9 % quantile."""
        return self.kl.quantile(0.999).item()

    @property
    def agreement(self) -> float:
        return self.top1.mean().item()

    @property
    def perplexity(self) -> float:
        return self.nll.mean().exp().item()

    @property
    def perplexity_exact(self) -> float:
        return self.nll_exact.mean().exp().item()


def _compare(exact, other):
    p, q = torch.log_softmax(exact, -1), torch.log_softmax(other, -1)
    return (p.exp() * (p - q)).sum(-1), p.argmax(-1) == q.argmax(-1), p, q


def logits_with(model, ids: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Logits of a pass over ids in which attention sees given keys and values instead of those that the
    pass computes: numbers [layers, 2, heads, tokens, head_dim], keys after RoPE. That is what a whole
    cache that went through a codec means for every position at once."""
    cache = DynamicCache(config=model.config)
    for layer, given in zip(cache.layers, numbers):
        layer.update = _replace(layer, given)
    return forward(model, ids, cache).logits[0]


def _replace(layer, given):
    def update(key_states, value_states, *args, **kwargs):
        layer.is_initialized = True
        return given[0][None].to(key_states.dtype), given[1][None].to(value_states.dtype)
    return update
