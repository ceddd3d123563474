"""A sieve's weights: putting them into a `Sieve`, and keeping a refiner as a low-rank change.

A refiner layer starts as a copy of the decoder's layer of the same number. Trained with low rank, only the change is
stored, and the whole is put together again when it is loaded:

    W = gain * W0 + scale * B A     o_proj and down_proj, which write into the residual stream
    W = W0 + scale * B A            the other products
    w = as stored                   RMSNorm weights, and whatever else a file holds in full
    b = b0                          the rest: biases

W0 is the weight of the *base* decoder: as published, before any LoRA of the decoder is merged and before quantization.
So a file does not depend on the order in which its parts are put together. `gain` under 1 lets training start from
states close to the embeddings, which the decoder reads already, and grow from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from epcli.errors import WeightsError
from epcli.models.blank import blank
from epcli.sieve.refiner import Refiner
from epcli.sieve.select import ScoreHead
from epcli.sieve.sieve import Sieve

WRITERS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")  # scaled by `gain`


@dataclass(frozen=True)
class LowRank:
    """How a refiner is stored as a change of the decoder's first layers; the metadata's `refiner`."""

    depth: int
    rank: int
    gain: float
    scale: float  # of B A

    @classmethod
    def of(cls, about: Any) -> LowRank:
        """From a file's metadata. Raises KeyError, TypeError or ValueError."""
        return cls(int(about["depth"]), int(about["rank"]), float(about["gain"]), float(about["scale"]))


def starting_layers(base: Callable[[str], Tensor], names: list[str], depth: int, gain: float) -> dict[str, Tensor]:
    """`layers.N.…` of a refiner before training: the base decoder's own, the writers scaled by `gain`.

    `base` gives a tensor of the base decoder by its name, `names` are the names it has.
    """
    found = {}
    for name in names:
        kind, number, *_ = name.split(".")
        if kind == "layers" and int(number) < depth:
            value = base(name)
            found[name] = (value.float() * gain).to(value.dtype) if gain != 1 and name.endswith(WRITERS) else value
    return found


def unfold(
    stored: dict[str, Tensor], base: Callable[[str], Tensor], names: list[str], about: LowRank, where: Any
) -> dict[str, Tensor]:
    """A stored sieve with a low-rank refiner -> whole weights as `Sieve` names them, the refiner's in float32.

    Raises WeightsError, naming `where`, if the change does not fit the decoder.
    """
    # Copies: the decoder's own weights are changed in place when its LoRA is merged.
    layers = {
        name: value.to(torch.float32, copy=True)
        for name, value in starting_layers(base, names, about.depth, about.gain).items()
    }
    for key, value in stored.items():
        name = key.removeprefix("refiner.")
        if not key.startswith("refiner.") or name.endswith(".B"):
            continue
        try:
            if name.endswith(".A"):
                partner = stored[f"{key[:-2]}.B"]
                layers[f"{name[:-2]}.weight"] += about.scale * (partner.float() @ value.float())
            else:
                layers[name].copy_(value)
        except (KeyError, RuntimeError):
            raise WeightsError(f"{where}: its refiner's {name} does not fit the decoder's layers") from None
    whole = {f"refiner.{name}": value for name, value in layers.items()}
    return whole | {key: value for key, value in stored.items() if key.startswith("scorer.")}


def build_sieve(
    weights: dict[str, Tensor],
    decoder: Any,
    where: Any,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Sieve:
    """A sieve of these whole weights. Raises WeightsError naming `where`.

    `dtype`, `device`: None is the decoder's. Weights that are offloaded are on none: name the device that computes.
    """
    depth = 1 + max((int(key.split(".")[2]) for key in weights if key.startswith("refiner.layers.")), default=-1)
    like, layer = decoder.norm.weight, type(decoder.layers[0])
    with blank():
        layers: list[nn.Module] = [layer(decoder.config, index) for index in range(depth)]
        scorer = ScoreHead(decoder.config.hidden_size)
    sieve = Sieve(Refiner(layers, decoder.config), scorer, decoder.rotary_emb)
    try:
        state = {key: value.to(device or like.device, dtype or like.dtype) for key, value in weights.items()}
        sieve.load_state_dict(state, assign=True)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()  # the first line only says that there are errors
        raise WeightsError(f"{where}: the sieve's weights do not fit its config: {detail}") from error
    return sieve.requires_grad_().eval()


def small_sieve(stored: dict[str, Tensor], about: Any, decoder: Any, where: Any, dtype: torch.dtype) -> Sieve | None:
    """The sieve, in `dtype`, of an adapter whose decoder is still plain: no LoRA merged. None if it holds none.

    Its weights are computed in float32, whatever the decoder's dtype is.
    `about` is the metadata's `refiner`. Raises WeightsError.
    """
    stored = {key: value for key, value in stored.items() if key.startswith(("refiner.", "scorer."))}
    if not stored:
        return None
    try:
        low = LowRank.of(about)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{where}: its metadata do not say how its sieve is stored ({error})") from None
    base = decoder.state_dict()
    whole = unfold(stored, lambda name: base[name].float(), list(base), low, where)
    return build_sieve(whole, decoder, where, dtype).requires_grad_(False)
