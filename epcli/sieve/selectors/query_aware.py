"""What the text after the clip looks at in an early layer of the decoder (as FastV, arXiv 2403.06764).

Runs the decoder's first layers on the stream (early_attention.py), then takes the softmax of those queries over all
tokens in the next layer, averaged over heads and queries. It needs a decoder with q_proj and k_proj, and
text after the clip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from epcli.sieve.selector import Selector, Tools

if TYPE_CHECKING:
    from epcli.records import KeptStream, TokenStream
    from epcli.sieve.select import Budget


def keep(stream: TokenStream, budget: Budget, tools: Tools) -> KeptStream:
    """The `run` of this selector."""
    import torch

    from epcli.errors import UsageError
    from epcli.records import Modality
    from epcli.sieve.early_attention import early_attention
    from epcli.sieve.select import best, keep_only

    decoder = tools.attention_decoder("query-aware")
    device = stream.embeds.device
    is_av = stream.modality.to(device) != Modality.TEXT
    if not is_av.any():
        return keep_only(stream, ~is_av, None)
    first = int(is_av.nonzero().max()) + 1
    if first == len(is_av):
        raise UsageError("selector query-aware needs the question after the clip; choose another selector")
    scores = early_attention(decoder, stream, first, tools.chunk_tokens)
    pool = is_av.nonzero().squeeze(-1)
    # Logarithms, so that the softmax which `auto` takes over scores gives the attention shares back.
    logs = torch.full_like(scores, -torch.inf)
    logs[pool] = scores[pool].clamp(min=torch.finfo(scores.dtype).tiny).log()
    kept = ~is_av | best(logs, is_av, budget.count(len(pool), logs[pool]))
    return keep_only(stream, kept, logs)


SELECTOR = Selector(
    name="query-aware",
    help="the tokens that the question attends to most in the decoder's third layer, as in FastV "
    "([2403.06764](https://arxiv.org/abs/2403.06764))",
    shown="The question attends to them most.",
    run=keep,
    needs=("decoder",),
    scored_by="query-aware",
)
