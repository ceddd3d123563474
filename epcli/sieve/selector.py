"""What a selector declares about itself, and what it is handed. Light: the command line imports it for its help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from epcli.errors import UsageError

if TYPE_CHECKING:
    from epcli.records import KeptStream, TokenStream
    from epcli.sieve.select import Budget
    from epcli.sieve.sieve import Sieve

WINDOW_TOKENS = 8192  # media tokens that cs2 refines at once; more go in time windows: an hour fits a small GPU
CHUNK_TOKENS = 2048  # that query-aware runs through the early layers at once; their keys and values stay
NEEDS = ("decoder", "sieve", "seed")  # fields of Tools that a selector may ask for


@dataclass(frozen=True, eq=False)
class Tools:
    """What a selector may need besides the stream."""

    decoder: Any = None  # transformers text model
    sieve: Sieve | None = None  # trained for this decoder
    seed: int = 0
    window_tokens: int = WINDOW_TOKENS
    chunk_tokens: int = CHUNK_TOKENS

    def attention_decoder(self, selector: str) -> Any:
        """The decoder, for a selector that computes attention. Raises UsageError without q_proj and k_proj."""
        if self.decoder is None or not hasattr(self.decoder.layers[0].self_attn, "q_proj"):
            raise UsageError(f"selector {selector} needs a decoder with q_proj and k_proj; choose another selector")
        return self.decoder


@dataclass(frozen=True)
class Selector:
    """One way to choose the tokens that stay. A file of `epcli/sieve/selectors/` defines one as `SELECTOR`."""

    name: str  # of `--selector`
    help: str  # what it keeps, one line of docs/sieve.md
    shown: str  # a sentence about the kept tokens, for the page of `ep inspect`
    run: Callable[[TokenStream, Budget, Tools], KeptStream]  # imports torch inside
    needs: tuple[str, ...] = ()  # of NEEDS
    scored_by: str | None = None  # the selector whose scores it goes by, itself or another; None: it gives no scores
    refines: bool = False  # it hands the decoder refined states, not the original embeddings
    drops_inside: bool = False  # tokens leave inside the decoder too: a budget is the mean over its layers

    @property
    def trained(self) -> bool:
        """Whether it needs a trained sieve."""
        return "sieve" in self.needs
