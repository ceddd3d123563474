"""Looking at a file once: what a question costs the second time, and that nothing is computed twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_omni
import torch
from media_samples import X264, shared_film

from epcli.config import Profile
from epcli.media import ffmpeg
from epcli.records import Report
from epcli.session import session as session_module
from epcli.session.session import Session

MEDIA = Path(__file__).parents[1] / "docs" / "media"
QUESTION = "What is seen?"


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_omni.write(tmp_path_factory.mktemp("omni") / "tiny")


@pytest.fixture
def profile(omni: Path, tmp_path: Path) -> Profile:
    folder = str(tmp_path / "features")
    return Profile(model=str(omni), device="cpu", max_new_tokens=4, cache_dir=folder, threads=1, dtype="bf16")


@pytest.fixture
def film() -> Path:
    return shared_film("look.mp4", X264, ("aac",), 2)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a file was decoded and a tower was run."""
    count: Counter[str] = Counter()

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            count[name] += 1
            return function(*args, **kwargs)

        return call

    from epcli.models.qwen_omni.model import QwenOmni

    monkeypatch.setattr(session_module, "read", counted("decode", session_module.read))
    monkeypatch.setattr(ffmpeg.subprocess, "Popen", counted("ffmpeg", ffmpeg.subprocess.Popen))
    monkeypatch.setattr(QwenOmni, "encode_video", counted("video", QwenOmni.encode_video))
    monkeypatch.setattr(QwenOmni, "encode_audio", counted("audio", QwenOmni.encode_audio))
    return count


def ask(profile: Profile, film: Path, *range_s: float | None) -> Report:
    session = Session(profile)
    return session.ask(session.look(film, *range_s), QUESTION)


@pytest.mark.slow
def test_asking_again_starts_neither_ffmpeg_nor_towers(profile: Profile, film: Path, runs: Counter[str]) -> None:
    first = ask(profile, film)
    assert (runs["decode"], runs["video"], runs["audio"]) == (1, 1, 1)
    assert runs["ffmpeg"]
    assert first.cache.features == "miss"
    before = Counter(runs)
    again = ask(profile, film)
    assert runs == before
    assert again.cache.features == "hit"
    assert again.answer == first.answer
    for kind in ("media", "tokens", "warnings"):
        assert getattr(again, kind) == getattr(first, kind)
    assert again.timings_s.media == again.timings_s.vision == again.timings_s.audio == 0


@pytest.mark.slow
def test_without_the_cache_nothing_is_stored_or_found(profile: Profile, film: Path, runs: Counter[str]) -> None:
    ask(profile, film)
    assert ask(replace(profile, cache=False), film).cache.features == "off"
    assert runs["decode"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"fps": 1.0}, {"max_frames": 2}, {"audio": False}, {"dtype": "fp32"}, {"model": "other"}], ids=str
)
def test_what_changes_the_features_is_looked_at_anew(
    profile: Profile, film: Path, change: dict[str, Any], tmp_path: Path
) -> None:
    ask(profile, film)
    if "model" in change:
        change = {"model": str(tiny_omni.write(tmp_path / "other", seed=1))}
    assert ask(replace(profile, **change), film).cache.features == "miss"


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"keep": 0.5}, {"max_new_tokens": 2}, {"seed": 3}, {"system": "Be brief."}, {"cache_gb": 1.0}], ids=str
)
def test_what_does_not_is_a_hit(profile: Profile, film: Path, change: dict[str, Any]) -> None:
    ask(profile, film)
    report = ask(replace(profile, **change), film)
    assert report.cache.features == "hit"
    if "keep" in change:  # chosen anew for each question, never stored
        assert 0 < report.tokens.media.kept < report.tokens.media.total


@pytest.mark.slow
def test_each_range_is_an_entry_of_its_own(profile: Profile, film: Path) -> None:
    whole = ask(profile, film)
    part = ask(profile, film, 0.5, 1.5)
    assert part.cache.features == "miss"
    assert part.media.range_s == (0.5, 1.5)
    assert ask(profile, film, 0.5, 1.5).media == part.media
    assert ask(profile, film).media == whole.media


def test_a_sieve_on_top_shares_the_towers_of_its_base(profile: Profile, film: Path, omni: Path, tmp_path: Path) -> None:
    from epcli.models import catalog
    from epcli.models.qwen_omni import sieve_file

    path = tmp_path / "sieve.safetensors"
    sieve_file.save(path, base=str(omni), folder=omni, sieve=None, sections=(9, 9, 9, 5))
    cpu, dtype = torch.device("cpu"), torch.bfloat16

    def key(model: Path, dtype: torch.dtype) -> dict[str, Any]:
        source = catalog.find(str(model))
        return source.family.tower_key(source, cpu, dtype)

    assert key(path, dtype) == key(omni, dtype)
    assert key(omni, torch.float32) != key(omni, dtype)


def test_towers_that_were_trained_on_are_other_towers(omni: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from epcli.models.qwen_omni import tower_weights

    whole = tower_weights.of_folder(omni)
    for key, same in (("thinker.audio_tower.ln_post.bias", False), ("thinker.model.norm.weight", True)):
        folder = tiny_omni.copy(omni, tmp_path / key)
        state = load_file(folder / "model.safetensors")
        state[key] = state[key] + 0.001
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        assert (tower_weights.of_folder(folder) == whole) == same


def test_a_second_question_is_not_charged_for_looking(profile: Profile, film: Path) -> None:
    session = Session(profile)
    looked = session.look(film)
    assert sum(looked.seconds.values()) > 0
    again = session.ask(looked.again(), QUESTION)
    assert again.cache.features == "hit"
    assert again.timings_s.media == again.timings_s.load == 0
    assert session.ask(looked, QUESTION).answer == again.answer


def test_a_hit_can_be_decoded_for_its_pictures(profile: Profile, film: Path) -> None:
    ask(profile, film, 0.5, 1.5)
    looked = Session(profile).look(film, 0.5, 1.5)
    assert looked.cache == "hit"
    clip = looked.decode()
    assert clip.summary() == looked.clip
    assert clip.frames is not None
    assert len(clip.frames) == len(looked.clip.frame_times_s)


def test_a_still_picture_hits_too(profile: Profile, tmp_path: Path) -> None:
    from media_samples import run

    picture = tmp_path / "red.png"
    run("-f", "lavfi", "-i", "color=red:size=64x48:duration=1", "-frames:v", "1", picture)
    first = ask(profile, picture)
    again = ask(profile, picture)
    assert (first.cache.features, again.cache.features) == ("miss", "hit")
    assert first.media == again.media
    assert Session(profile).look(picture).decode().frames is not None


@pytest.fixture
def smol(tmp_path: Path) -> Profile:
    return Profile(cache_dir=str(tmp_path / "features"), max_new_tokens=6, threads=1)


@pytest.mark.slow
def test_ep_smol_runs_each_part_once_and_on_a_hit_none(smol: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """speech.mp4: its still picture, and every sample of its sound, goes through each part exactly once."""
    from epcli.models.smol.ear import Ear
    from epcli.observe.efficientnet_lite import EfficientNetLite0
    from epcli.observe.picture import Eye
    from epcli.observe.whisper import Whisper
    from epcli.observe.yamnet import Yamnet

    seen: Counter[str] = Counter()

    def counting(owner: Any, method: str, amount: Any) -> None:
        original = getattr(owner, method)

        def call(self: Any, *args: Any, **options: Any) -> Any:
            seen[f"{owner.__name__}.{method}"] += amount(*args)
            return original(self, *args, **options)

        monkeypatch.setattr(owner, method, call)

    counting(EfficientNetLite0, "class_logits", len)
    counting(Eye, "see", lambda clip: 1)
    counting(Yamnet, "forward", lambda samples: samples.shape[-1])
    counting(Whisper, "_encode", len)
    counting(Whisper, "words", lambda windows: 1)
    counting(Eye, "__init__", lambda *args: 1)
    counting(Ear, "__init__", lambda *args: 1)

    media = MEDIA / "speech.mp4"
    session = Session(smol)
    looked = session.look(media)
    first = session.ask(looked, "What is said?")
    assert looked.features.audio is not None
    assert looked.features.audio.words is not None
    assert (looked.features.audio.words >= 0).any()  # the words were written, from the same encoder output
    samples = looked.decode().samples
    assert samples is not None
    assert seen == {
        "Eye.see": 1,
        "EfficientNetLite0.class_logits": 1,
        "Yamnet.forward": len(samples),
        "Whisper._encode": len(samples),
        "Whisper.words": 1,
        "Eye.__init__": 1,
        "Ear.__init__": 1,
    }
    before = Counter(seen)
    session = Session(smol)
    again = session.ask(session.look(media), "What is said?")
    assert seen == before  # eye and ear were not even loaded
    assert (again.cache.features, again.answer) == ("hit", first.answer)


@pytest.mark.slow
def test_an_adapter_of_ones_own_shares_ep_smols_features(smol: Profile, tmp_path: Path) -> None:
    import shutil

    from epcli.models.smol.adapter_file import ADAPTER

    own = Path(shutil.copy(ADAPTER, tmp_path / "own.safetensors"))
    Session(smol).look(MEDIA / "silent.mp4")
    assert Session(replace(smol, model=str(own))).look(MEDIA / "silent.mp4").cache == "hit"
