"""What training Qwen2.5-Omni needs on a GPU, worked out from the shapes: `python -m epcli.lab.memory`.

Nothing here was measured. Counted are weights, 16 bytes for each trained parameter (float32 value and gradient, two of
Adam), and activations with gradient checkpointing for one clip at keep 1.0: each layer's input, and one layer's inner
states twice (run again, and its gradients). Not counted: the towers' own activations (they run before, without
gradients), fragmentation, the CUDA context.
"""

from __future__ import annotations

from epcli.models.qwen_omni.costs import SHAPES, Omni
from epcli.records import REFINER_DEPTH

TRAINED = 16  # bytes a trained parameter
ROWS = [  # model, method, decoder's rank, refiner's rank (0: in full)
    ("qwen2.5-omni-7b", "qlora", 16, 32),
    ("qwen2.5-omni-3b", "lora", 16, 32),
    ("qwen2.5-omni-3b", "lora", 16, 0),
    ("qwen2.5-omni-7b", "lora", 16, 32),
    ("qwen2.5-omni-3b", "full", 0, 0),
    ("qwen2.5-omni-7b", "full", 0, 0),
]


def training_bytes(shape: Omni, method: str, lora_rank: int, refiner_rank: int, tokens: int) -> dict[str, int]:
    """Bytes by what they are for, for prompts of `tokens`."""
    decoder = shape.decoder
    low = sum(rows + columns for rows, columns in decoder.linear_shapes)  # of one layer at rank 1
    head = decoder.sieve_parameters(0)
    weights = shape.weights_bytes(2, "nf4" if method == "qlora" else "none")
    trained = head + (REFINER_DEPTH * decoder.layer if not refiner_rank else REFINER_DEPTH * low * refiner_rank)
    if method == "full":
        weights -= decoder.layers_bytes(2)  # held in float32 only
        trained += decoder.layers * decoder.layer
    else:
        trained += decoder.layers * low * lora_rank
    if refiner_rank:
        weights += REFINER_DEPTH * decoder.layer * 2  # the copies below the change
    inputs = (decoder.layers + REFINER_DEPTH) * tokens * decoder.width * 2
    inner = 2 * decoder.activation_bytes(tokens, 2)
    if method == "qlora":
        inner += 2 * decoder.layer  # one layer in bfloat16 while it is used
    return {"weights": weights, "trained": trained * TRAINED, "activations": inputs + inner}


def table(lengths: tuple[int, ...] = (5_000, 10_000, 20_000)) -> str:
    """Markdown, GB of 10^9 bytes."""
    head = ["model", "method", "LoRA", "refiner", *(f"{n:,} tokens" for n in lengths)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, method, lora_rank, refiner_rank in ROWS:
        needs = [sum(training_bytes(SHAPES[name], method, lora_rank, refiner_rank, n).values()) for n in lengths]
        refiner = f"rank {refiner_rank}" if refiner_rank else "in full"
        lora = f"rank {lora_rank}" if lora_rank else "–"
        lines.append(f"| {name} | {method} | {lora} | {refiner} | {' | '.join(f'{n / 1e9:.0f}' for n in needs)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
