"""Encoded pictures and sound tracks, to be combined into ever new scenes.

The towers see picture and sound apart, so a scene's features are those of its views and of its sound track. Encoding a
few thousand of each once, and drawing scenes from all their combinations, spares most of the towers' work in training.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from epcli.lab.retold import SHARE, Retold
from epcli.lab.scenes import (
    SIZES,
    Heard,
    Library,
    Script,
    Seen,
    Thing,
    View,
    ViewMaker,
    draw_view,
    frame_times,
    new_view,
    render_sound,
    things_heard,
    write_long_views,
    write_sounds,
    write_timeline,
    write_views,
)
from epcli.models.smol.model import AUDIO_STEP_S, CELL, COLOURS, Towers
from epcli.records import AudioFeatures, Clip, Features, MediaInfo, VideoFeatures

NOTHING, UNSURE = -1, -2  # labels of a cell that shows none of the things, or only the edge of one
Box = tuple[int, int, int, int]


def cell_labels(size: tuple[int, int], boxes: Sequence[Box], numbers: Sequence[int]) -> Tensor:
    """(rows, cols) int64: the number of the thing that covers most of a cell, NOTHING or UNSURE."""
    cols, rows = size[0] // CELL, size[1] // CELL
    labels = torch.full((rows, cols), NOTHING)
    best = torch.zeros(rows, cols)
    left, top = torch.arange(cols) * CELL, torch.arange(rows) * CELL
    for (x, y, w, h), number in zip(boxes, numbers, strict=True):
        across = (torch.minimum(left + CELL, torch.tensor(x + w)) - left.clamp(min=x)).clamp(min=0)
        down = (torch.minimum(top + CELL, torch.tensor(y + h)) - top.clamp(min=y)).clamp(min=0)
        share = down[:, None] * across[None, :] / CELL**2
        share.view(-1)[share.argmax()] = 1.0  # a small thing owns at least the cell it covers most
        labels = torch.where((share >= 0.5) & (share > best), number, labels)
        labels = torch.where((share > 0.1) & (share < 0.5) & (labels == NOTHING), UNSURE, labels)
        best = torch.maximum(best, share)
    return labels


def cells_to_name(cells: Tensor, labels: Tensor, generator: torch.Generator, nothing: float) -> tuple[Tensor, Tensor]:
    """(M, F) of (…, F) cells and (M,) their names: all that show a thing, and a share of those that show none."""
    cells, labels = cells.flatten(0, -2), labels.flatten()
    some = torch.rand(len(labels), generator=generator) < nothing
    use = (labels != UNSURE) & ((labels != NOTHING) | some)
    return cells[use], labels[use]


def tint_labels(labels: Tensor, view: View) -> Tensor:
    """(rows, cols) cells labelled with the number of their object -> the number of their colour, NOTHING or UNSURE.

    A cell without an object has the background's colour.
    """

    def number(colour: str | None) -> int:
        return COLOURS.index(colour) if colour else NOTHING

    tints = torch.where(labels == NOTHING, number(view.background), labels.clamp(max=UNSURE))
    for i, seen in enumerate(view.objects):
        tints[labels == i] = number(seen.colour)
    return tints


def moved(view: View) -> View | None:
    """The same picture with its one object on the opposite side; None if there are more, or no opposite."""
    places = {"on the left": "on the right", "at the top": "at the bottom"}
    places |= {there: here for here, there in places.items()}
    if len(view.objects) != 1 or view.objects[0].place not in places:
        return None
    return replace(view, objects=(replace(view.objects[0], place=places[view.objects[0].place]),))


@dataclass
class ViewPool:
    """Encoded views, by picture size. `where[key]` gives the size and row of a view."""

    views: list[View]
    where: list[tuple[tuple[int, int], int]]
    grids: dict[tuple[int, int], Tensor]  # (n, rows, cols, VIDEO_WIDTH) float16
    labels: dict[tuple[int, int], Tensor]  # (n, rows, cols) int64, index into Library.seen_names
    tints: dict[tuple[int, int], Tensor]  # (n, rows, cols) int64, index into COLOURS
    partner: dict[int, int]  # key of a view -> key of the same view with its object moved to the other side

    def of(self, size: tuple[int, int]) -> list[View]:
        return [v for v in self.views if self.where[v.key][0] == size]


@dataclass
class TrackPool:
    """Encoded sound tracks."""

    tracks: list[tuple[float, tuple[Heard, ...]]]  # length in seconds, parts
    features: list[AudioFeatures]

    def labels(self, index: int, number: dict[str, int]) -> Tensor:
        """(A, K) float: which things sound in each token."""
        return sound_labels(self.tracks[index][1], self.features[index].tokens.shape[0], number)


def sound_labels(parts: Sequence[Heard], tokens: int, number: dict[str, int]) -> Tensor:
    """(tokens, K) float: 1 where the thing of that number sounds at the middle of the token."""
    centre = (torch.arange(tokens) + 0.5) * AUDIO_STEP_S
    labels = torch.zeros(tokens, len(number))
    for part in parts:
        inside = ((centre >= part.start_s) & (centre < part.end_s)).float()
        for thing in part.things:
            if thing.name in number:
                column = labels[:, number[thing.name]]
                column.copy_(torch.maximum(column, inside))
    return labels


def _view_json(view: View) -> dict:
    objects = [[o.thing.name, o.place, str(o.picture), o.size, o.flip, o.colour] for o in view.objects]
    return {"background": view.background, "objects": objects}


MOVING = 0.35  # of the views that can move also come moved


def _heard_json(part: Heard) -> list:
    return [part.start_s, part.end_s, [t.name for t in part.things], part.speech]


def make_views(
    lib: Library, towers: Towers, count: int, seed: int, folder: Path, say: Callable[[str], None] = print
) -> None:
    """Draw and encode `count` views, every thing in turn; writes views.json and views.safetensors into `folder`."""
    rng, nr = random.Random(seed), np.random.default_rng(seed)
    number = {name: i for i, name in enumerate(lib.seen_names)}
    order = [lib.seen[i % len(lib.seen)] for i in range(count)]
    rng.shuffle(order)
    entries: list[dict] = []
    tensors: dict[str, list[Tensor]] = {}
    for size in dict.fromkeys(SIZES):
        share = SIZES.count(size) / len(SIZES)
        mine, order = order[: max(1, round(count * share))], order[round(count * share) :]
        for i in range(0, len(mine), 8):
            drawn = []
            pending: list[tuple[View, int | None, int]] = []  # the view, the view that it is moved from, its seed
            for wanted in mine[i : i + 8]:
                view, look = new_view(lib, rng, 0.0, 0.0, wanted, []), int(nr.integers(1 << 30))
                pending.append((view, None, look))
                if (other := moved(view)) is not None and rng.random() < MOVING:
                    pending.append((other, len(entries) + len(pending) - 1, look))
            for view, origin, look in pending:
                frame, boxes = draw_view(view, size, np.random.default_rng(look))
                drawn.append(frame)
                entries.append({**_view_json(view), "size": size, "moved_from": origin})
                which = cell_labels(size, boxes, range(len(view.objects)))
                names = torch.tensor([number[o.thing.name] for o in view.objects])
                labels = torch.where(which >= 0, names[which.clamp(min=0)], which)
                tensors.setdefault(f"labels.{size[0]}x{size[1]}", []).append(labels[None])
                tensors.setdefault(f"tints.{size[0]}x{size[1]}", []).append(tint_labels(which, view)[None])
            info = MediaInfo(Path("view"), "scene", 1.0, False, *size, 1.0, "scene", ())
            clip = Clip(info, (0.0, 1.0), np.stack(drawn), np.zeros(len(drawn)), None)
            features = towers.video(clip)
            assert features is not None
            tensors.setdefault(f"grid.{size[0]}x{size[1]}", []).append(features.grid)
            if i % 800 == 0:
                say(f"views {size[0]}x{size[1]}: {i}/{len(mine)}")
        if not order:
            break
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: torch.cat(v).contiguous() for k, v in tensors.items()}, folder / "views.safetensors")
    (folder / "views.json").write_text(json.dumps(entries))


def make_tracks(
    lib: Library, towers: Towers, count: int, seed: int, folder: Path, say: Callable[[str], None] = print
) -> None:
    """Write, render and encode `count` sound tracks; writes tracks.json and tracks.safetensors into `folder`."""
    rng = random.Random(seed)
    entries, tensors = [], {}
    for i in range(count):
        duration, parts = write_sounds(lib, rng)
        script = Script(duration, (), parts, SIZES[0], rng.randrange(1 << 30))
        samples = render_sound(script, np.random.default_rng(script.seed))
        info = MediaInfo(Path("track"), "scene", duration, False, 0, 0, None, None, ())
        # Spoken words are known exactly here, but come from the Whisper decoder as they will for a user.
        features = towers.audio(Clip(info, (0.0, duration), None, None, samples))
        assert features is not None
        assert features.words is not None
        entries.append({"duration": duration, "parts": [_heard_json(p) for p in parts]})
        tensors[f"{i}.tokens"], tensors[f"{i}.words"] = features.tokens.contiguous(), features.words
        if i % 200 == 0:
            say(f"tracks: {i}/{count}")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "tracks.safetensors")
    (folder / "tracks.json").write_text(json.dumps(entries))


def load_views(lib: Library, folder: Path) -> ViewPool:
    things = {t.name: t for t in lib.things}
    tensors = load_file(folder / "views.safetensors")
    views, where = [], []
    partner: dict[int, int] = {}
    rows: dict[tuple[int, int], int] = {}
    for key, entry in enumerate(json.loads((folder / "views.json").read_text())):
        size = (entry["size"][0], entry["size"][1])
        objects = tuple(Seen(things[n], p, Path(f), s, flip, c) for n, p, f, s, flip, c in entry["objects"])
        views.append(View(0.0, 0.0, entry["background"], objects, key))
        where.append((size, rows.setdefault(size, 0)))
        rows[size] += 1
        if entry["moved_from"] is not None:
            partner |= {key: entry["moved_from"], entry["moved_from"]: key}
    return ViewPool(
        views,
        where,
        {s: tensors[f"grid.{s[0]}x{s[1]}"] for s in rows},
        {s: tensors[f"labels.{s[0]}x{s[1]}"] for s in rows},
        {s: tensors[f"tints.{s[0]}x{s[1]}"] for s in rows},
        partner,
    )


def load_tracks(lib: Library, folder: Path) -> TrackPool:
    things = {t.name: t for t in lib.things}
    tensors = load_file(folder / "tracks.safetensors")
    tracks, features = [], []
    for i, entry in enumerate(json.loads((folder / "tracks.json").read_text())):
        parts = tuple(Heard(a, b, tuple(things[n] for n in names), (), said) for a, b, names, said in entry["parts"])
        tracks.append((entry["duration"], parts))
        features.append(AudioFeatures(tensors[f"{i}.tokens"], AUDIO_STEP_S, tensors[f"{i}.words"]))
    return TrackPool(tracks, features)


@dataclass(frozen=True, eq=False)
class Scene:
    """A script with its features, and the true names of its tokens."""

    script: Script
    features: Features
    video_labels: Tensor | None  # (N, rows, cols) of cells
    audio_labels: Tensor | None  # (A, K)
    tint_labels: Tensor | None  # (N, rows, cols) of cells


class SceneMaker:
    """Draws scenes from the pools."""

    def __init__(self, lib: Library, views: ViewPool, tracks: TrackPool, retold: Retold | None = None) -> None:
        """`retold` puts other words into the mouths of some voices."""
        self.lib, self.pool, self.tracks, self.retold = lib, views, tracks, retold
        self.number = {name: i for i, name in enumerate(lib.heard_names)}
        self.by_size = {size: views.of(size) for size in views.grids}
        self.moving = {size: [v for v in members if v.key in views.partner] for size, members in self.by_size.items()}
        self.showing: dict[tuple[tuple[int, int], str], list[View]] = {}
        for size, members in self.by_size.items():
            for view in members:
                for o in view.objects:
                    self.showing.setdefault((size, o.thing.name), []).append(view)
        self.quiet = [i for i, (_, parts) in enumerate(tracks.tracks) if not any(p.things or p.speech for p in parts)]

    def _pick(self, rng: random.Random, size: tuple[int, int]) -> ViewMaker:
        def make(start: float, end: float, wanted: Thing | None, avoid: Sequence[Thing]) -> View:
            pool = self.showing.get((size, wanted.name), []) if wanted else []
            for _ in range(40):
                view = rng.choice(pool or self.by_size[size])
                others = [o.thing for o in view.objects if wanted is None or o.thing.name != wanted.name]
                if all(self.lib.differ(o, a) for o in others for a in avoid if wanted is None or a.name != wanted.name):
                    break
            return replace(view, start_s=start, end_s=end)

        return make

    def _sounds(self, rng: random.Random, index: int) -> tuple[float, tuple[Heard, ...], AudioFeatures, Tensor]:
        duration, parts = self.tracks.tracks[index]
        features = self.tracks.features[index]
        if self.retold is not None and any(p.speech for p in parts) and rng.random() < SHARE:
            words = torch.full((len(features.tokens),), -1)
            reworded = [self.retold(rng, p, words) if p.speech else p for p in parts]
            if None not in reworded:  # else a voice would say what stands nowhere
                parts = tuple(p for p in reworded if p is not None)
                features = replace(features, words=words)
        return duration, parts, features, self.tracks.labels(index, self.number)

    def _long_sounds(
        self, rng: random.Random, longest_s: float
    ) -> tuple[float, tuple[Heard, ...], AudioFeatures, Tensor]:
        """Several tracks one after another, with silence between them."""
        tokens: list[Tensor] = []
        words: list[Tensor] = []
        labels: list[Tensor] = []

        def track(avoid: Sequence[Thing]) -> tuple[float, tuple[Heard, ...]]:
            for _ in range(40):
                index = rng.randrange(len(self.tracks.tracks))
                _, parts, features, names = self._sounds(rng, index)
                found = things_heard(parts)
                if (found or any(p.speech for p in parts)) and all(self.lib.differ(t, a) for t in found for a in avoid):
                    break
            assert features.words is not None
            tokens.append(features.tokens)
            words.append(features.words)
            labels.append(names)
            return len(features.tokens) * AUDIO_STEP_S, parts

        def gap(length_s: float) -> float:
            need = max(1, round(length_s / AUDIO_STEP_S))
            features = self.tracks.features[rng.choice(self.quiet)].tokens
            tokens.append(features[torch.arange(need) % len(features)])
            words.append(torch.full((need,), -1))
            labels.append(torch.zeros(need, len(self.number)))
            return need * AUDIO_STEP_S

        duration, parts = write_timeline(rng, longest_s, track, gap)
        return duration, parts, AudioFeatures(torch.cat(tokens), AUDIO_STEP_S, torch.cat(words)), torch.cat(labels)

    def several(self, rng: random.Random) -> Scene:
        """A scene of 8 to 14 seconds with several events and few pictures: few tokens, and much to list."""
        return self.draw(rng, 14.0, rng.choice((3, 6)))

    def draw(self, rng: random.Random, longest_s: float = 0.0, most_frames: int = 24) -> Scene:
        """One scene; one of sixteen without picture, one of twelve without sound.

        With `longest_s`, a long one of 8 seconds up to that: several events, long still or silent stretches.
        """
        kind = rng.random()
        sounds: tuple[Heard, ...]
        audio: AudioFeatures | None
        audio_labels: Tensor | None
        if longest_s and self.quiet:
            duration, sounds, audio, audio_labels = self._long_sounds(rng, longest_s)
        else:
            duration, sounds, audio, audio_labels = self._sounds(rng, rng.randrange(len(self.tracks.tracks)))
        if kind < 0.08:
            sounds, audio, audio_labels = (), None, None
            duration = min(duration, longest_s or 6.0)
        views: tuple[View, ...] = ()
        video = video_labels = tints = None
        size = rng.choice(SIZES)
        if kind < 0.94:
            if self.moving[size] and rng.random() < 0.08:
                view = rng.choice(self.moving[size])
                cut = round(rng.uniform(0.35, 0.65) * duration, 2)
                views = (
                    replace(view, start_s=0.0, end_s=cut),
                    replace(self.pool.views[self.pool.partner[view.key]], start_s=cut, end_s=duration),
                )
            elif longest_s:
                views = write_long_views(rng, duration, sounds, self._pick(rng, size))
            else:
                views = write_views(rng, duration, sounds, things_heard(sounds), self._pick(rng, size))
            script = Script(duration, views, sounds, size, 0)
            times = frame_times(duration, min(1.0, most_frames / duration))
            rows = [self.pool.where[script.view_at(float(t)).key][1] for t in times]  # type: ignore[union-attr]
            video = VideoFeatures(self.pool.grids[size][rows], torch.from_numpy(times), duration / len(times))
            video_labels, tints = self.pool.labels[size][rows], self.pool.tints[size][rows]
        script = Script(duration, views, sounds, size, 0)
        return Scene(script, Features(duration, video, audio), video_labels, audio_labels, tints)
