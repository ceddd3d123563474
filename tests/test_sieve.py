"""The sieve as a specification: what is refined, scored, kept and passed on. Tiny random decoders, float32, CPU."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from inspections import observed_stream
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaModel
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

from epcli.compat import caching
from epcli.errors import UsageError
from epcli.records import Modality, TokenStream
from epcli.sieve import early_attention
from epcli.sieve.refiner import Refiner
from epcli.sieve.select import Budget, keep_count, kept_indices, narrow, straight_through, take, top
from epcli.sieve.selectors import SELECTORS, Tools, select
from epcli.sieve.sieve import Sieve, time_windows
from epcli.sieve.sync_rope import SyncRope, install

BEFORE = [name for name, each in SELECTORS.items() if name != "none" and not each.drops_inside]
SECTIONS = (3, 2, 2, 1)  # of the 8 frequencies of a head of 16


def make_decoder(seed: int = 0) -> Qwen2_5OmniThinkerTextModel:
    torch.manual_seed(seed)
    config = Qwen2_5OmniTextConfig(
        vocab_size=40,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.15,  # far from flat attention
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
    )
    decoder = Qwen2_5OmniThinkerTextModel(config).eval()
    install(decoder, SECTIONS)
    return decoder


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def decoder():
    return make_decoder()


@pytest.fixture(scope="module")
def sieve(decoder):
    torch.manual_seed(1)
    made = Sieve.for_decoder(decoder, depth=2).eval()
    with torch.no_grad():
        made.scorer.score_head[2].weight.mul_(8)  # scores far apart
    return made


def make_prompt(frames: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """3 text tokens, `frames` chunks of 2 x 2 picture and 5 sound tokens, 4 text tokens: embeds, positions, is_av."""
    embeds = torch.randn(7 + 9 * frames, 64, generator=torch.Generator().manual_seed(seed))
    axes = [torch.arange(3).expand(3, -1)]
    for chunk in range(frames):
        start = 3 + 50 * chunk
        picture = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1]]) + torch.tensor([[start], [3], [3]])
        axes += [picture, (start + torch.arange(5) * 10).expand(3, -1)]
    axes.append((int(axes[-1].max() if frames else 2) + 1 + torch.arange(4)).expand(3, -1))
    three = torch.cat(axes, dim=1)
    is_av = torch.tensor([False] * 3 + [True] * (9 * frames) + [False] * 4)
    return embeds, torch.cat([three, three[:1]]), is_av


def make_batch(*frames: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Prompts as one left-padded batch: embeds, positions, is_av, valid. Padding holds noise, which must not matter."""
    prompts = [make_prompt(count, seed) for seed, count in enumerate(frames)]
    length = max(len(is_av) for _, _, is_av in prompts)
    embeds, positions = torch.randn(len(prompts), length, 64), torch.ones(4, len(prompts), length, dtype=torch.int64)
    is_av, valid = (torch.zeros(len(prompts), length, dtype=torch.bool) for _ in range(2))
    for row, (e, p, av) in enumerate(prompts):
        embeds[row, -len(av) :], positions[:, row, -len(av) :] = e, p
        is_av[row, -len(av) :], valid[row, -len(av) :] = av, True
    return embeds, positions, is_av, valid


def make_stream(frames: int, seed: int = 0) -> TokenStream:
    """`make_prompt` as a record: a frame and a chunk of sound every 2 seconds."""
    embeds, positions, is_av = make_prompt(frames, seed)
    modality = torch.zeros(len(is_av), dtype=torch.uint8)
    spans, cells = torch.full((len(is_av), 2), float("nan")), torch.full((len(is_av), 3), -1, dtype=torch.int16)
    for chunk in range(frames):
        first = 3 + 9 * chunk
        modality[first : first + 4], modality[first + 4 : first + 9] = int(Modality.VIDEO), int(Modality.AUDIO)
        spans[first : first + 4] = torch.tensor([2.0 * chunk, 2.0 * chunk + 2])
        spans[first + 4 : first + 9, 0] = 2 * chunk + 0.4 * torch.arange(5)
        spans[first + 4 : first + 9, 1] = spans[first + 4 : first + 9, 0] + 0.4
        cells[first : first + 4] = torch.tensor([[chunk, 0, 0], [chunk, 0, 1], [chunk, 1, 0], [chunk, 1, 1]])
    return TokenStream(embeds, positions, modality, spans, cells, (2, 2), int(positions.max()) + 1)


def assert_same(got: Tensor, want: Tensor, why: str, atol: float = 2e-5) -> None:
    assert got.shape == want.shape, f"{why}: {list(got.shape)}, not {list(want.shape)}"
    assert (gap := (got - want).abs().max().item()) <= atol, f"{why}: off by {gap:.3g}"


# --- Sync-RoPE ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sections", [(8, 8), (8, 8, 8, 9), (-1, 3, 3, 3), (2, 2, 2, 2, 0)])
def test_sections_that_do_not_fit_the_head_are_refused(sections):
    with pytest.raises(UsageError, match="sum to 8"):
        SyncRope(16, 1e4, sections)


def test_each_frequency_turns_by_its_own_axis():
    rope = SyncRope(16, 1e4, SECTIONS)
    positions = torch.tensor([5, 70, 600, 9000]).view(4, 1, 1)
    angles = torch.tensor([5.0] * 3 + [70] * 2 + [600] * 2 + [9000]) * 1e4 ** -(torch.arange(8) / 8)
    cos, sin = rope(torch.zeros(1), positions)
    assert_same(cos[0, 0], angles.cos().repeat(2), "cosine", 1e-4)
    assert_same(sin[0, 0], angles.sin().repeat(2), "sine", 1e-4)


def test_three_sections_are_the_plain_models_rotation_to_the_bit(decoder):
    config = decoder.config
    plain = Qwen2_5OmniThinkerTextModel(config)
    own, positions = plain.rotary_emb, torch.randint(0, 3000, (3, 2, 9))
    ours = install(plain, config.rope_parameters["mrope_section"])
    for got, want in zip(ours(torch.zeros(1), positions), own(torch.zeros(1), positions), strict=True):
        assert torch.equal(got, want)


def test_text_rotates_as_in_the_plain_model_whatever_the_sections(decoder):
    tokens = torch.arange(12)[None]
    other = copy.deepcopy(decoder)
    install(other, (1, 3, 3, 1))
    with torch.inference_mode():
        assert_same(other(tokens).last_hidden_state, decoder(tokens).last_hidden_state, "text")


def test_the_decoder_takes_four_axes_and_reads_all_of_them(decoder):
    embeds, positions, _ = make_prompt(2)
    with torch.inference_mode():
        hidden = decoder(inputs_embeds=embeds[None], position_ids=positions[:, None]).last_hidden_state
        rotation = decoder.rotary_emb(embeds[None], positions[:, None])
        by_hand = embeds[None]
        for layer in decoder.layers:
            by_hand = layer(by_hand, position_embeddings=rotation)
        assert_same(hidden, decoder.norm(by_hand), "four rows through the model")


def test_four_rows_of_another_meaning_are_refused(decoder):
    embeds, positions, _ = make_prompt(1)
    foreign = torch.stack([torch.arange(len(embeds)), *positions[:3]])  # transformers' own: running count, T, H, W
    with pytest.raises(UsageError, match=r"epcli\.session\.generate"):
        decoder(inputs_embeds=embeds[None], position_ids=foreign[:, None])


def test_rounding_the_model_to_bfloat16_leaves_the_frequencies_exact(decoder):
    rounded = copy.deepcopy(decoder).to(torch.bfloat16)
    assert torch.equal(rounded.rotary_emb.inv_freq, decoder.rotary_emb.inv_freq)
    assert rounded.rotary_emb.inv_freq.dtype == torch.float32


# --- Counting and choosing ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "ratio", "expected"),
    [
        (146, 1.0, 146),
        (146, 0.2, 30),  # rounded up
        (146, 0.05, 8),
        (3, 0.01, 1),  # never fewer than one
        (100, 0.07, 8),  # 7.000000000000001 in double precision
        (0, 0.5, 0),  # but none of none
    ],
)
def test_keep_count_rounds_up_in_double_precision(n, ratio, expected):
    assert keep_count(n, ratio) == expected


def test_an_absolute_budget_is_a_ceiling():
    assert [Budget(tokens=30).count(n) for n in (10, 30, 31)] == [10, 30, 30]
    assert [Budget(ratio=0.2, least=30).count(n) for n in (0, 10, 30, 100, 150, 200)] == [0, 10, 30, 30, 30, 40]


def test_auto_keeps_the_fewest_tokens_that_hold_the_share_of_the_score_mass():
    scores = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
    assert [Budget(mass=mass).count(4, scores) for mass in (0.39, 0.41, 0.75, 0.95, 1.0)] == [1, 2, 3, 4, 4]


def test_auto_keeps_all_of_equals_and_one_that_stands_out():
    assert Budget(mass=0.9).count(10, torch.zeros(10)) == 9
    assert Budget(mass=0.9).count(10, torch.tensor([50.0] + [0.0] * 9)) == 1


@pytest.mark.parametrize("wrong", [{}, {"ratio": 0.1, "tokens": 3}, {"ratio": 0.0}, {"ratio": 1.1}, {"tokens": 0}])
def test_a_budget_that_says_nothing_or_too_much_is_refused(wrong):
    with pytest.raises(UsageError):
        Budget(**wrong)


def test_settings_become_a_budget():
    assert Budget.of(0.2) == Budget(ratio=0.2)
    assert Budget.of(0.2, 64) == Budget(tokens=64)
    assert Budget.of("auto").mass is not None


def test_the_best_of_one_pool_stay_and_ties_keep_the_earlier():
    scores = torch.tensor([[9.0, 1, 2, 2, 2, 0], [0, 5, 4, 3, 2, 1]])
    pool = torch.tensor([[False, True, True, True, True, True], [True] * 6])
    kept = top(scores, pool, torch.tensor([2, 3]))
    assert kept.int().tolist() == [[0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0]]


def test_more_places_than_candidates_keep_all_of_them_and_nothing_else():
    pool = torch.tensor([[False, True, True, False]])
    assert top(torch.tensor([[9.0, 1, 2, 9]]), pool, torch.tensor([3])).tolist() == pool.tolist()


def test_the_straight_through_factor_is_one_with_the_gradient_of_the_softmax():
    scores = torch.tensor([[0.3, -1.0, 2.0, 0.5], [1.0, 1, 1, 1]], requires_grad=True)
    pool = torch.tensor([[True, True, False, True], [False] * 4])
    upstream = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    factor = straight_through(scores, pool)
    assert_same(factor, torch.ones(2, 4), "value", 1e-6)
    (got,) = torch.autograd.grad((factor * upstream).sum(), scores)
    inside = scores.detach()[0, pool[0]].requires_grad_()
    (want,) = torch.autograd.grad((inside.softmax(0) * upstream[0, pool[0]]).sum(), inside)
    assert_same(got[0, pool[0]], want, "gradient in the pool", 1e-6)
    assert got[0, 2] == 0
    assert not got[1].any()  # a row without candidates: no gradient and no NaN


def test_kept_places_are_padded_on_the_asked_side():
    kept = torch.tensor([[True, False, True, True], [False, True, False, False]])
    assert kept_indices(kept, pad="left").tolist() == [[0, 2, 3], [-1, -1, 1]]
    assert kept_indices(kept, pad="right").tolist() == [[0, 2, 3], [1, -1, -1]]
    labels = torch.tensor([[10, 11, 12, 13], [20, 21, 22, 23]])
    assert take(labels, kept_indices(kept), fill=-100).tolist() == [[10, 12, 13], [-100, -100, 21]]


# --- Refining -------------------------------------------------------------------------------------


def refine(refiner: Refiner, decoder, embeds: Tensor, positions: Tensor, keys: Tensor) -> Tensor:
    with torch.inference_mode():
        return refiner(embeds, decoder.rotary_emb(embeds, positions), keys)


def test_the_first_token_sees_the_last_one(decoder, sieve):
    embeds, positions, _, valid = make_batch(1)
    before = refine(sieve.refiner, decoder, embeds, positions, valid)
    embeds[0, -1] += 1
    after = refine(sieve.refiner, decoder, embeds, positions, valid)
    assert (before[0, 0] - after[0, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_is_seen_by_none_and_stays_as_it_was(attention):
    decoder = make_decoder()
    decoder.config._attn_implementation = attention
    refiner = Refiner.copied_from(decoder, 2)
    embeds, positions, _, valid = make_batch(2, 1)
    padding = ~valid[1]
    before = refine(refiner, decoder, embeds, positions, valid)
    assert torch.equal(before[1, padding], embeds[1, padding])
    embeds[1, padding] += 3
    after = refine(refiner, decoder, embeds, positions, valid)
    assert torch.equal(after[1, ~padding], before[1, ~padding])


def test_eager_attention_refines_as_sdpa_does(decoder, sieve):
    batch = make_batch(2, 1)
    other = make_decoder()
    other.config._attn_implementation = "eager"
    got = refine(Refiner.copied_from(other, 2), decoder, batch[0], batch[1], batch[3])
    assert_same(got, refine(sieve.refiner, decoder, batch[0], batch[1], batch[3]), "eager against sdpa")


def test_copying_leaves_the_decoder_causal_and_untouched(decoder, sieve):
    layer, copied = decoder.layers[0], sieve.refiner.layers[0]
    assert layer.self_attn.is_causal
    assert not copied.self_attn.is_causal
    assert torch.equal(layer.mlp.up_proj.weight, copied.mlp.up_proj.weight)
    assert layer.mlp.up_proj.weight.data_ptr() != copied.mlp.up_proj.weight.data_ptr()
    assert copied.self_attn.config is decoder.config


def test_layers_of_another_family_refine_too():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=9, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    llama = LlamaModel(config).eval()
    install(llama, (1, 1, 1, 1))
    embeds = torch.randn(1, 6, 32)
    positions = torch.arange(6).expand(4, 1, -1)
    keys = torch.ones(1, 6, dtype=torch.bool)
    before = refine(Refiner.copied_from(llama, 2), llama, embeds, positions, keys)
    embeds[0, -1] += 1
    assert (refine(Refiner.copied_from(llama, 2), llama, embeds, positions, keys) - before)[0, 0].abs().max() > 1e-4


# --- The sieve ------------------------------------------------------------------------------------


def sift(sieve: Sieve, batch, budget: Budget, **options):
    embeds, positions, is_av, valid = batch
    with torch.inference_mode():
        return sieve(embeds, positions, is_av, budget, valid=valid, **options)


def test_all_text_and_the_best_media_stay_in_order_at_their_own_positions(sieve):
    _, positions, is_av, _ = batch = make_batch(3)
    out = sift(sieve, batch, Budget(ratio=0.2))
    kept = out.indices[0]
    assert torch.equal(kept, kept.sort().values)
    assert set((~is_av[0]).nonzero()[:, 0].tolist()) <= set(kept.tolist())
    media = kept[is_av[0, kept]]
    assert len(media) == keep_count(27, 0.2)
    dropped = torch.tensor(sorted(set(is_av[0].nonzero()[:, 0].tolist()) - set(media.tolist())))
    assert out.scores[0, media].min() > out.scores[0, dropped].max()
    assert torch.equal(out.positions[:, 0], positions[:, 0, kept])
    assert_same(out.embeds[0], out.refined[0, kept], "the decoder reads refined states", 1e-5)
    assert int(out.next_positions) == int(positions.max()) + 1


def test_keeping_everything_drops_nothing_but_still_refines(sieve):
    batch = make_batch(2)
    out = sift(sieve, batch, Budget(ratio=1.0))
    assert out.indices[0].tolist() == list(range(25))
    assert (out.embeds - batch[0]).abs().max() > 0.1


def test_what_stays_depends_on_the_question(sieve):
    embeds, positions, is_av, valid = make_batch(4)
    asked = sift(sieve, (embeds, positions, is_av, valid), Budget(ratio=0.3)).indices
    embeds[0, -4:] = torch.randn(4, 64, generator=torch.Generator().manual_seed(5)) * 3
    assert not torch.equal(asked, sift(sieve, (embeds, positions, is_av, valid), Budget(ratio=0.3)).indices)


def test_a_prompt_without_media_passes_unchanged_alone_and_in_a_batch(sieve):
    alone = make_batch(0)
    assert torch.equal(sift(sieve, alone, Budget(ratio=0.2)).embeds, alone[0])
    batch = make_batch(2, 0)
    out = sift(sieve, batch, Budget(ratio=0.2))
    assert torch.equal(out.embeds[1, out.mask[1]], batch[0][1, -7:])


def test_a_row_of_a_batch_is_sifted_as_if_alone(sieve):
    batch = make_batch(4, 1, 2)
    out = sift(sieve, batch, Budget(ratio=0.2))
    for row, frames in enumerate((4, 1, 2)):
        embeds, positions, is_av = make_prompt(frames, row)
        alone = sift(sieve, (embeds[None], positions[:, None], is_av[None], torch.ones_like(is_av)[None]), Budget(0.2))
        mask = out.mask[row]
        assert mask.tolist() == sorted(mask.tolist()), "left padding"
        pad = len(batch[3][row]) - len(is_av)
        assert torch.equal(out.indices[row, mask] - pad, alone.indices[0])
        assert torch.equal(out.positions[:, row, mask], alone.positions[:, 0])
        assert_same(out.embeds[row, mask], alone.embeds[0], "refined states")
        assert_same(out.scores[row, batch[3][row]], alone.scores[0], "scores", 1e-4)
        assert out.next_positions[row] == alone.next_positions[0]
        assert not out.embeds[row, ~mask].any()


def greedy(decoder, out, steps: int) -> Tensor:
    """(B, steps) ids, the embedding table as output head."""
    cache, mask, table = DynamicCache(config=decoder.config), out.mask.long(), decoder.embed_tokens.weight
    given = {"inputs_embeds": out.embeds, "position_ids": out.positions}
    ids = []
    for step in range(steps):
        hidden = decoder(**given, attention_mask=mask, **caching(decoder, cache)).last_hidden_state
        ids.append((hidden[:, -1] @ table.T).argmax(-1, keepdim=True))
        given = {"inputs_embeds": table[ids[-1]], "position_ids": (out.next_positions + step).expand(4, 1, -1).mT}
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return torch.cat(ids, dim=1)


def test_a_batch_of_unequal_rows_generates_what_its_rows_generate_alone(decoder, sieve):
    with torch.inference_mode():
        together = greedy(decoder, sift(sieve, make_batch(4, 1, 2), Budget(ratio=0.2)), 6)
        for row, frames in enumerate((4, 1, 2)):
            embeds, positions, is_av = make_prompt(frames, row)
            batch = (embeds[None], positions[:, None], is_av[None], torch.ones_like(is_av)[None])
            assert greedy(decoder, sift(sieve, batch, Budget(ratio=0.2)), 6)[0].tolist() == together[row].tolist()


def test_generation_goes_on_after_the_largest_position_not_the_last(sieve):
    embeds, positions, is_av, valid = make_batch(2)
    positions[:, 0, -4:] -= 30  # as after a sound track shorter than its video
    assert int(sift(sieve, (embeds, positions, is_av, valid), Budget(ratio=0.2)).next_positions) == 3 + 50 + 40 + 1


def test_in_bfloat16_scores_are_float32_and_hardly_ever_equal():
    decoder = make_decoder().to(torch.bfloat16)
    embeds, positions, is_av, valid = make_batch(40)
    out = sift(Sieve.for_decoder(decoder, 1), (embeds.bfloat16(), positions, is_av, valid), Budget(ratio=0.2))
    assert out.scores.dtype == torch.float32
    assert out.embeds.dtype == torch.bfloat16
    assert len(out.scores[is_av].unique()) > 350  # of 360
    assert len(out.scores[is_av].bfloat16().unique()) < 330


def test_media_that_may_not_compete_are_dropped_but_count(sieve):
    batch = make_batch(3)
    candidates = batch[2].clone()
    candidates[0, :12] = False  # the first chunk
    out = sift(sieve, batch, Budget(ratio=0.5), candidates=candidates)
    media = out.indices[0][batch[2][0, out.indices[0]]]
    assert len(media) == keep_count(27, 0.5)
    assert int(media.min()) >= 12


def test_the_answer_of_a_training_row_changes_neither_states_nor_choice(sieve):
    embeds, positions, is_av, valid = make_batch(2)
    answer = torch.zeros_like(is_av)
    answer[0, -2:] = True
    first = sift(sieve, (embeds, positions, is_av, valid), Budget(ratio=0.2), answer=answer)
    assert torch.equal(first.refined[0, -2:], embeds[0, -2:])
    other = embeds.clone()
    other[0, -2:] += 2
    second = sift(sieve, (other, positions, is_av, valid), Budget(ratio=0.2), answer=answer)
    assert torch.equal(second.refined[0, :-2], first.refined[0, :-2])
    assert torch.equal(second.indices, first.indices)


def test_the_loss_trains_score_head_and_refiner(decoder, sieve):
    embeds, positions, is_av, valid = make_batch(2)
    out = sieve(embeds, positions, is_av, Budget(ratio=0.2), valid=valid)
    hidden = decoder(inputs_embeds=out.embeds, position_ids=out.positions, attention_mask=out.mask.long())
    loss = (hidden.last_hidden_state[0, -1] * torch.linspace(-1, 1, 64)).sum()
    head, layer = sieve.scorer.score_head[0].weight, sieve.refiner.layers[0].mlp.up_proj.weight
    for name, gradient in zip(("head", "refiner"), torch.autograd.grad(loss, [head, layer]), strict=True):
        assert gradient.abs().max() > 1e-4, name


# --- Windows --------------------------------------------------------------------------------------


def test_one_window_gives_exactly_the_unwindowed_result(sieve):
    for batch in (make_batch(3), make_batch(0)):
        whole = sift(sieve, batch, Budget(ratio=0.3))
        windowed = sift(sieve, batch, Budget(ratio=0.3), window_tokens=27)
        assert torch.equal(windowed.refined, whole.refined)
        assert torch.equal(windowed.indices, whole.indices)
        assert torch.equal(windowed.embeds, whole.embeds)


@pytest.mark.parametrize(
    ("frames", "window_tokens", "sizes"),
    [
        (6, 18, [18, 18, 18]),
        (6, 20, [18, 18, 18]),  # as few windows as do, then equal ones
        (4, 12, [14, 10, 12]),  # a cut after 12 would split a picture
        (2, 1, [5, 1, 1, 1, 1, 5, 1, 1, 1, 1]),  # as short as a moment
    ],
)
def test_windows_are_cut_between_moments_and_nearly_equal(frames, window_tokens, sizes):
    _, positions, is_av = make_prompt(frames)
    windows = time_windows(positions[0], is_av, window_tokens)[is_av]
    assert [size for size in windows.bincount().tolist() if size] == sizes
    assert torch.equal(windows, windows.sort().values)


def test_media_are_refined_among_their_window_and_the_text_only(sieve):
    embeds, positions, is_av, valid = make_batch(4)
    before = sift(sieve, (embeds, positions, is_av, valid), Budget(ratio=1.0), window_tokens=18).refined
    changed = embeds.clone()
    changed[0, 3 + 18 :][is_av[0, 3 + 18 :]] += 1  # the second half of the clip
    after = sift(sieve, (changed, positions, is_av, valid), Budget(ratio=1.0), window_tokens=18).refined
    assert torch.equal(after[0, 3 : 3 + 18], before[0, 3 : 3 + 18])
    assert (after[0, :3] - before[0, :3]).abs().max() > 1e-3, "the text sees every window"
    alone = torch.tensor([*range(21), *range(39, 43)])  # as if the clip ended after the first window
    cut = (embeds[:, alone], positions[..., alone], is_av[:, alone], valid[:, alone])
    assert_same(before[0, 3:21], sift(sieve, cut, Budget(ratio=1.0)).refined[0, 3:21], "the first window")


def test_text_is_the_mean_of_its_windows_weighted_by_their_share_of_the_score_mass(sieve):
    embeds, positions, is_av, valid = make_batch(2)
    out = sift(sieve, (embeds, positions, is_av, valid), Budget(ratio=1.0), window_tokens=9)
    text = [*range(3), *range(21, 25)]
    states, masses = [], []
    for media in (range(3, 12), range(12, 21)):
        inside = torch.tensor([*range(3), *media, *range(21, 25)])
        part = sift(sieve, (embeds[:, inside], positions[..., inside], is_av[:, inside], valid[:, inside]), Budget(1.0))
        states.append(part.refined[0, ~is_av[0, inside]])
        masses.append(part.scores[0, is_av[0, inside]].exp().sum())
    share = masses[0] / (masses[0] + masses[1])
    assert 0.01 < share < 0.99
    assert_same(out.refined[0, text], share * states[0] + (1 - share) * states[1], "text")


def test_the_budget_is_shared_over_all_windows(sieve):
    out = sift(sieve, make_batch(6), Budget(ratio=0.3), window_tokens=9)
    is_av = make_batch(6)[2][0]
    media = out.indices[0][is_av[out.indices[0]]]
    assert len(media) == keep_count(54, 0.3)
    best = out.scores[0].masked_fill(~is_av, -torch.inf).topk(len(media)).indices.sort().values
    assert torch.equal(media, best)
    assert len(((media - 3) // 9).bincount(minlength=6).unique()) > 1, "not so many of each window"


def test_the_refiner_never_sees_more_than_a_window_and_the_text(sieve, monkeypatch):
    lengths = []
    forward = Refiner.forward
    monkeypatch.setattr(Refiner, "forward", lambda self, e, r, k: lengths.append(e.shape[1]) or forward(self, e, r, k))
    sift(sieve, make_batch(8), Budget(ratio=0.2), window_tokens=18)
    assert lengths == [18 + 7] * 4


# --- Selectors by name ----------------------------------------------------------------------------


@pytest.fixture
def tools(decoder, sieve):
    return Tools(decoder=decoder, sieve=sieve)


@pytest.mark.parametrize("budget", [Budget(ratio=0.2), Budget(ratio=1.0), Budget(tokens=7)], ids=str)
@pytest.mark.parametrize("name", BEFORE)
def test_every_selector_keeps_all_text_and_its_budget_in_order_at_original_positions(name, budget, tools):
    stream = make_stream(4)
    kept = select(name, stream, budget, tools)
    is_av = stream.modality != Modality.TEXT
    assert torch.equal(kept.indices, kept.indices.unique())
    assert int(is_av[kept.indices].sum()) == budget.count(36)
    assert int((~is_av)[kept.indices].sum()) == 7
    assert torch.equal(kept.positions, stream.positions[:, kept.indices])
    if not SELECTORS[name].refines:
        assert torch.equal(kept.embeds, stream.embeds[kept.indices])


@pytest.mark.parametrize("name", SELECTORS)
def test_every_selector_leaves_a_prompt_without_media_alone(name, tools):
    stream = make_stream(0)
    assert torch.equal(select(name, stream, Budget(ratio=0.1), tools).embeds, stream.embeds)


@pytest.mark.parametrize("budget", [Budget(ratio=0.2), Budget(ratio=1.0), Budget(tokens=7)], ids=str)
@pytest.mark.parametrize("name", BEFORE)
def test_every_selector_reads_frames_with_different_numbers_of_observations(name, budget, tools):
    stream = observed_stream(width=64)
    media = int((stream.modality != Modality.TEXT).sum())
    kept = select(name, stream, budget, tools)
    wanted = budget.count(media)
    assert len(kept.indices) == wanted + len(stream.modality) - media
    assert (kept.indices.diff() > 0).all()
    assert torch.equal(kept.positions, stream.positions[:, kept.indices])


def test_audio_guided_keeps_what_was_not_observed_before(tools):
    cat = (0.0, 0.0, 0.2, 0.2)
    moving = [(frame, "dog", (0.1 * frame, 0.1, 0.1 * frame + 0.3, 0.4), 1) for frame in range(4)]
    stream = observed_stream([*moving, (3, "cat", cat, 1)], seconds=4, width=64)
    there = stream.modality != Modality.AUDIO
    names = [name for name, is_there in zip(stream.labels, there.tolist(), strict=True) if is_there]
    dog = stream.embeds[stream.labels.index("dog")]
    embeds = torch.stack([dog if name == "dog" else row for name, row in zip(names, stream.embeds[there], strict=True)])
    fields = ("modality", "spans_s", "cells", "attention", "boxes")
    parts = {field: getattr(stream, field)[there] for field in fields}
    seen = replace(stream, embeds=embeds, positions=stream.positions[:, there], labels=tuple(names), **parts)
    kept = select("audio-guided", seen, Budget(tokens=1), tools).indices.tolist()
    assert [names[place] for place in kept if names[place]] == ["cat"], "the dog only moves"


@pytest.mark.parametrize("gone", [Modality.VIDEO, Modality.AUDIO])
@pytest.mark.parametrize("name", BEFORE)
def test_every_selector_works_with_one_sense_alone(name, gone, tools):
    stream = make_stream(3)
    there = (stream.modality != gone).nonzero()[:, 0]
    parts = (stream.embeds[there], stream.positions[:, there], stream.modality[there], stream.spans_s[there])
    stream = TokenStream(*parts, stream.cells[there], stream.grid, stream.next_position)
    kept = select(name, stream, Budget(tokens=4), tools)
    assert len(kept.indices) == 7 + 4


@pytest.mark.parametrize("budget", [Budget(ratio=0.3), Budget(tokens=5), Budget(mass=0.6), Budget(ratio=1.0)], ids=str)
@pytest.mark.parametrize("name", [name for name, each in SELECTORS.items() if each.scored_by == name])
def test_narrowing_what_was_kept_is_the_same_as_selecting_anew(name, budget, tools):
    stream = make_stream(4)
    anew = select(name, stream, budget, tools)
    narrowed = narrow(select(name, stream, Budget(ratio=1.0), tools), budget)
    for field in ("embeds", "positions", "indices", "scores"):
        assert torch.equal(getattr(anew, field), getattr(narrowed, field)), field


def test_a_fixed_budget_gives_each_modality_its_share_of_its_own_best(tools):
    stream = make_stream(8)  # 32 picture and 40 sound tokens
    joint, fixed = (select(name, stream, Budget(tokens=18), tools) for name in ("cs2", "cs2-per-modality"))
    assert torch.equal(joint.scores, fixed.scores)
    assert len(joint.indices) == len(fixed.indices)
    for kind, places in ((Modality.VIDEO, 8), (Modality.AUDIO, 10)):
        pool = (stream.modality == kind).nonzero()[:, 0]
        best = pool[fixed.scores[pool].topk(places).indices].sort().values
        assert torch.equal(fixed.indices[stream.modality[fixed.indices] == kind], best)


def test_none_keeps_everything_whatever_the_budget(tools):
    stream = make_stream(2)
    kept = select("none", stream, Budget(tokens=1), tools)
    assert torch.equal(kept.embeds, stream.embeds)
    assert kept.scores is None


def test_random_draws_by_seed(decoder):
    stream = make_stream(6)
    draws = [select("random", stream, Budget(ratio=0.3), Tools(seed=seed)).indices.tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("name", ["uniform", "audio-guided"])
@pytest.mark.parametrize(("tokens", "sounds"), [(4, 4), (16, 14), (21, 18), (28, 22), (36, 26), (71, 40), (72, 40)])
def test_sound_keeps_the_larger_share_that_is_published(name, tokens, sounds, tools):
    stream = make_stream(8)  # 32 picture and 40 sound tokens
    kinds = stream.modality[select(name, stream, Budget(tokens=tokens), tools).indices]
    assert int((kinds == Modality.AUDIO).sum()) == sounds
    assert int((kinds == Modality.VIDEO).sum()) == tokens - sounds


def test_uniform_gives_every_stretch_of_time_its_share(tools):
    stream = make_stream(8)  # 32 picture and 40 sound tokens
    kept = select("uniform", stream, Budget(tokens=33), tools).indices
    frames = stream.cells[kept, 0][stream.modality[kept] == Modality.VIDEO]
    assert frames.tolist() == list(range(8)), "a picture token of each frame"
    cells = stream.cells[kept][stream.modality[kept] == Modality.VIDEO][:, 1:]
    assert len(cells.unique(dim=0)) == 4, "from all over the picture"
    sounds = stream.spans_s[kept, 0][stream.modality[kept] == Modality.AUDIO]
    assert len(sounds) == 25
    assert torch.diff(sounds).max() - torch.diff(sounds).min() < 0.41, "even steps"


def test_query_aware_ranks_by_the_decoders_own_attention(decoder, tools):
    stream = make_stream(3)
    kept = select("query-aware", stream, Budget(ratio=0.2), tools)
    eager = make_decoder()
    eager.config._attn_implementation = "eager"
    with torch.inference_mode():
        out = eager(inputs_embeds=stream.embeds[None], position_ids=stream.positions[:, None], output_attentions=True)
    paid = out.attentions[early_attention.EARLY_LAYER][0, :, -4:].mean((0, 1))  # of the 4 text tokens after the clip
    is_av = stream.modality != Modality.TEXT
    assert_same(kept.scores[is_av].exp(), paid[is_av], "attention", 1e-5)
    best = paid.masked_fill(~is_av, -1).topk(keep_count(27, 0.2)).indices
    assert torch.equal(kept.indices[is_av[kept.indices]], best.sort().values)


def test_audio_guided_spends_picture_tokens_where_the_sound_changes():
    stream = make_stream(6)
    generator = torch.Generator().manual_seed(3)
    embeds = stream.embeds.clone()
    sound = stream.modality == Modality.AUDIO
    hum, picture = torch.randn(2, 64, generator=generator)
    embeds[sound] = hum + 0.05 * torch.randn(int(sound.sum()), 64, generator=generator)
    embeds[stream.modality == Modality.VIDEO] = picture + 0.5 * torch.randn(24, 64, generator=generator)
    crash = sound & (stream.spans_s[:, 0].nan_to_num() // 2 == 4)  # in the fifth chunk
    embeds[crash] = torch.randn(5, 64, generator=generator)
    stream = TokenStream(
        embeds, *(getattr(stream, f) for f in ("positions", "modality", "spans_s", "cells")), (2, 2), 0
    )
    kept = select("audio-guided", stream, Budget(tokens=28), Tools()).indices
    frames = stream.cells[kept, 0][stream.modality[kept] == Modality.VIDEO].long().bincount(minlength=6)
    assert frames[4] >= 3, "most of the picture while it crashes"
    assert frames[[0, 1, 2, 3, 5]].max() <= 1, "little of it else"
    assert set(crash.nonzero()[:, 0].tolist()) <= set(kept.tolist()), "and the crash itself"


@pytest.mark.parametrize("name", [n for n, each in SELECTORS.items() if not each.scored_by and n != "none"])
def test_auto_needs_a_selector_that_scores(name, tools):
    with pytest.raises(UsageError, match="auto"):
        select(name, make_stream(2), Budget.of("auto"), tools)


@pytest.mark.parametrize("name", [name for name, each in SELECTORS.items() if each.scored_by == name])
def test_auto_takes_the_share_of_the_selectors_own_scores(name, tools):
    stream = make_stream(4)
    few, many = (len(select(name, stream, Budget(mass=mass), tools).indices) for mass in (0.3, 0.9))
    assert 7 < few < many < 43


def test_an_unknown_selector_and_a_model_without_a_sieve_are_said_so():
    with pytest.raises(UsageError, match="cs2, cs2-per-modality, audio-guided, none"):
        select("best", make_stream(1), Budget(ratio=0.1), Tools())
    with pytest.raises(UsageError, match="trained sieve"):
        select("cs2", make_stream(1), Budget(ratio=0.1), Tools())
