"""Prefix-shared packing: each question sees the clip and itself, and nothing else."""

from __future__ import annotations

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

from epcli.lab.packing import IGNORED, attention_bias, loss, pack
from epcli.models import chatml
from epcli.models.layout import AudioTokens, interleave
from epcli.sieve.sync_rope import install


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer of single characters, with ChatML's marks."""
    alphabet = ["\n", *map(chr, range(32, 123))]
    tokenizer = Tokenizer(models.WordLevel({letter: number for number, letter in enumerate(alphabet)}, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.add_special_tokens([chatml.BEGIN, chatml.END])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def decoder() -> Qwen2_5OmniThinkerTextModel:
    torch.manual_seed(0)
    config = Qwen2_5OmniTextConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    )  # fmt: skip
    model = Qwen2_5OmniThinkerTextModel._from_config(config, attn_implementation="sdpa").eval()
    install(model, (1, 1, 1, 1))
    return model


def states(model: Qwen2_5OmniThinkerTextModel, row) -> torch.Tensor:
    with torch.no_grad():
        return model(
            inputs_embeds=row.embeds[None],
            position_ids=row.positions[:, None],
            attention_mask=attention_bias(row.allowed, torch.float32),
            use_cache=False,
        ).last_hidden_state[0]


def clip(seed: int):
    torch.manual_seed(seed)
    return interleave(None, AudioTokens(torch.randn(5, 32), 3), torch.randn(4, 32), 10)


def test_a_packed_question_gets_the_states_it_gets_alone():
    model, tokenizer = decoder(), letters()
    table = model.get_input_embeddings().weight.detach()
    first, second = clip(1), clip(2)
    scenes = [(first, [("what?", "a dog"), ("who?", "me")]), (second, [("why?", "so")])]
    together = pack(table, tokenizer, scenes)
    packed = states(model, together)
    asked = [(first, ("what?", "a dog")), (first, ("who?", "me")), (second, ("why?", "so"))]
    for number, (media, pair) in enumerate(asked):
        alone = pack(table, tokenizer, [(media, [pair])])
        mine = (together.question == number) & (together.labels != IGNORED)
        theirs = alone.labels != IGNORED
        assert torch.equal(together.labels[mine], alone.labels[theirs])
        assert torch.allclose(packed[mine], states(model, alone)[theirs], atol=1e-5)


def test_the_loss_counts_answer_tokens_only_and_knows_their_question():
    model = decoder()
    table = model.get_input_embeddings().weight.detach()
    row = pack(table, letters(), [(clip(1), [("q", "ab"), ("q", "c")])])
    value, right, question = loss(states(model, row), table, row)
    end = 1  # the mark that ends an answer is one token
    assert value.isfinite()
    assert question.tolist() == [0] * (2 + end) + [1] * (1 + end)
    assert right.shape == question.shape
