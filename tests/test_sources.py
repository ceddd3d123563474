"""The training media builder: the Qt resource reader, names, melodies, clips, the catalog and its split."""

from __future__ import annotations

import io
import itertools
import json
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mido")

from epcli.errors import EpError, MediaError
from epcli.lab.sources import audio, build, catalog, fetch, melody, rcc, sampler, soundfonts, speech
from epcli.lab.sources.catalog import CatalogThing
from epcli.records import SAMPLE_RATE

INSTRUMENTS = {i.name: i for i in melody.instruments()}


# --- Qt resource files ------------------------------------------------------------------------------------------------


def make_rcc(version: int) -> bytes:
    """A resource with a/plain.txt, stored, and a/packed.txt, compressed."""
    names, offsets = b"", {}
    for name in ("a", "plain.txt", "packed.txt"):
        offsets[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    plain, packed = b"hello", struct.pack(">I", 500) + zlib.compress(b"x" * 500)
    data = struct.pack(">I", len(plain)) + plain + struct.pack(">I", len(packed)) + packed
    stamp = b"" if version == 1 else bytes(8)
    tree = struct.pack(">IHII", 0, 2, 1, 1) + stamp
    tree += struct.pack(">IHII", offsets["a"], 2, 2, 2) + stamp
    tree += struct.pack(">IHHHI", offsets["plain.txt"], 0, 0, 0, 0) + stamp
    tree += struct.pack(">IHHHI", offsets["packed.txt"], 1, 0, 0, 4 + len(plain)) + stamp
    head = 20
    return (
        b"qres"
        + struct.pack(">4I", version, head, head + len(tree), head + len(tree) + len(data))
        + tree
        + data
        + names
    )


@pytest.mark.parametrize("version", [1, 2, 3])
def test_reads_stored_and_compressed_files_of_a_qt_resource(tmp_path, version):
    (tmp_path / "t.rcc").write_bytes(make_rcc(version))
    assert dict(rcc.files(tmp_path / "t.rcc")) == {"a/plain.txt": b"hello", "a/packed.txt": b"x" * 500}


@pytest.mark.parametrize("broken", [b"not a resource", make_rcc(2)[:70], b"qres" + struct.pack(">4I", 9, 20, 20, 20)])
def test_a_damaged_qt_resource_is_refused_in_one_line(tmp_path, broken):
    (tmp_path / "t.rcc").write_bytes(broken)
    with pytest.raises(MediaError, match=r"^t\.rcc: [^\n]+$"):
        list(rcc.files(tmp_path / "t.rcc"))


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "article", "plural"),
    [
        ("dog", "a", "dogs"),
        ("elephant", "an", "elephants"),
        ("steel drum", "a", "steel drums"),
        ("mouse", "a", "mice"),
        ("ukulele", "a", "ukuleles"),
        ("donkey", "a", "donkeys"),
        ("wolf", "a", "wolves"),
        ("car crash", "a", "car crashes"),
        ("glass", "a", "glasses"),
        ("applause", "", "applause"),
        ("scissors", "", "scissors"),
    ],
)
def test_names_take_their_article_and_plural(name, article, plural):
    assert (catalog.article(name), catalog.plural(name)) == (article, plural)


def test_every_exception_is_about_a_thing_that_is_in_the_list():
    known, names = set(catalog.things()), catalog.table("names")
    words = {w for line in names["ambiguous"] for w in (part.strip() for part in line.split(","))}
    words |= set(names["uncounted"]) | set(names["always_plural"])
    assert not words - known
    assert not {i.thing for i in melody.instruments()} - known
    heard = {thing for things in catalog.table("recordings").values() for thing in things} - {"in"}
    assert not heard - known


def test_being_mistaken_for_each_other_is_mutual_and_never_with_itself():
    mistaken = catalog.ambiguous(catalog.things())
    assert "fiddle" in mistaken["violin"]
    assert all(name in mistaken[other] and other != name for name, others in mistaken.items() for other in others)


# --- melodies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(INSTRUMENTS))
def test_a_melody_stays_within_its_instrument_and_its_clip(name):
    instrument = INSTRUMENTS[name]
    clips = melody.write_clips(instrument, instrument.programs, 4, random.Random(name))
    allowed = set(instrument.struck) if instrument.style == "strokes" else set(melody.KIT)
    for clip in clips:
        assert clip.notes
        assert 4 <= clip.end_s - clip.start_s <= 6
        for note in clip.notes:
            if instrument.style in ("strokes", "kit"):
                assert note.key in allowed
            else:
                assert instrument.low <= note.key <= instrument.high
            assert clip.start_s <= note.start_s < note.end_s <= clip.end_s + 0.2
            assert 1 <= note.velocity <= 127
    assert all(a.end_s < b.start_s for a, b in itertools.pairwise(clips))


def test_an_instrument_without_chords_plays_one_note_at_a_time():
    instrument = INSTRUMENTS["trumpet"]
    for clip in melody.write_clips(instrument, instrument.programs, 10, random.Random(1)):
        starts = [note.start_s for note in clip.notes]
        assert len(starts) == len(set(starts))


def test_the_midi_file_plays_the_notes_that_were_written_at_their_times():
    import mido

    instrument = INSTRUMENTS["piano"]
    clips = melody.write_clips(instrument, instrument.programs, 3, random.Random(2))
    file = mido.MidiFile(file=io.BytesIO(melody.midi(clips, random.Random(2))))
    now, heard, programs = 0.0, [], []
    for message in file:
        now += message.time
        if message.type == "note_on":
            heard.append((round(now, 2), message.note))
        elif message.type == "program_change":
            programs.append(message.program)
    written = [(note.start_s, note.key) for clip in clips for note in clip.notes]
    assert [key for _, key in sorted(heard)] == [key for _, key in sorted((round(t, 2), k) for t, k in written)]
    assert max(abs(a - b) for (a, _), (b, _) in zip(sorted(heard), sorted(written), strict=True)) < 0.02
    assert programs == [program for _, program in instrument.programs][:3]


def test_the_same_seed_writes_the_same_music():
    instrument = INSTRUMENTS["harp"]
    one, two = (melody.write_clips(instrument, instrument.programs, 2, random.Random("s")) for _ in range(2))
    assert one == two


def test_presets_of_a_sound_font_are_read_from_its_headers(tmp_path):
    heads = b"".join(
        name.ljust(20, b"\0") + struct.pack("<HHHIII", program, bank, 0, 0, 0, 0)
        for name, program, bank in ((b"Piano", 0, 0), (b"Ukulele", 24, 8), (b"EOP", 255, 255))
    )
    (tmp_path / "f.sf2").write_bytes(b"RIFF\0\0\0\0sfbk" + b"phdr" + struct.pack("<I", len(heads)) + heads)
    assert soundfonts.presets(tmp_path / "f.sf2") == {(0, 0), (8, 24)}


# --- clips ------------------------------------------------------------------------------------------------------------


def tone(seconds: float, hz: float = 440.0, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


def test_silent_ends_are_cut_and_the_level_is_evened_out():
    silence = np.zeros(SAMPLE_RATE, np.float32)
    quiet, loud = (audio.clean(np.concatenate([silence, tone(2, level=level), silence])) for level in (0.01, 0.9))
    assert quiet is not None
    assert loud is not None
    assert len(quiet) / SAMPLE_RATE == pytest.approx(2, abs=0.1)
    assert np.sqrt((quiet**2).mean()) == pytest.approx(np.sqrt((loud**2).mean()), rel=0.05)


@pytest.mark.parametrize("nothing", [np.zeros(32000), np.full(32000, 0.5), tone(0.02), np.full(32000, np.nan)])
def test_what_cannot_be_heard_is_refused(nothing):
    assert audio.clean(nothing.astype(np.float32)) is None


def test_a_short_sound_is_repeated_and_a_long_one_cut_up():
    rng = random.Random(3)
    short = sampler.clips(tone(0.4), rng, variants=2)
    long = sampler.clips(tone(30), rng, variants=2)
    assert len(short) == 2
    assert all(2 < len(clip) / SAMPLE_RATE < 8 for clip in short)
    assert len(long) == 4
    assert all(3.5 < len(clip) / SAMPLE_RATE < 8 for clip in long)


@pytest.mark.parametrize(
    ("name", "key"), [("A4", 69), ("C4", 60), ("As3", 58), ("A#3", 58), ("Bb3", 58), ("c-1", 0), ("index", None)]
)
def test_a_note_is_read_from_its_file_name(name, key):
    assert sampler.key_of(name) == key


def test_a_recorded_note_is_moved_to_the_pitch_that_is_asked_for():
    recorded = np.sin(2 * np.pi * 440 * np.arange(4 * SAMPLE_RATE) / (2 * SAMPLE_RATE)).astype(np.float32)
    moved = sampler._moved(recorded, 3, 1.0)
    spectrum = np.abs(np.fft.rfft(moved[:SAMPLE_RATE]))
    assert spectrum.argmax() == pytest.approx(440 * 2 ** (3 / 12), abs=2)


def test_a_copy_of_a_recording_is_told_from_another_recording():
    rng = np.random.default_rng(0)
    one, other = (np.cumsum(rng.normal(size=2 * SAMPLE_RATE)).astype(np.float32) for _ in range(2))
    one, other = one - one.mean(), np.diff(other, prepend=0).astype(np.float32)
    later = np.concatenate([np.zeros(3000, np.float32), 0.2 * one])
    assert audio.alike(one, later) > 0.9
    assert audio.alike(one, other) < 0.3


# --- the catalog and its split ----------------------------------------------------------------------------------------


def entry(name: str, train: list[str], heldout: list[str]) -> dict:
    return CatalogThing(name, "animal", {"train": train, "heldout": heldout}).record([])


def test_the_catalog_is_written_with_every_field_and_only_things_that_have_files(tmp_path):
    (tmp_path / "a.flac").touch()
    things = {
        "dog": CatalogThing("dog", "animal", {"train": ["a.flac"], "heldout": []}),
        "cat": CatalogThing("cat", "animal"),
    }
    catalog.write(tmp_path, things, [{"source": "s", "licence": "MIT"}])
    written = json.loads((tmp_path / "catalog.json").read_text())
    assert written["schema"] == 1
    assert written["things"] == [
        {
            "name": "dog",
            "plural": "dogs",
            "article": "a",
            "group": "animal",
            "ambiguous_with": [],
            "sounds": {"train": ["a.flac"], "heldout": []},
        }
    ]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry("dog", ["a.flac"], ["a.flac"])], "belongs both to dog"),
        ([entry("dog", ["a.flac"], []), entry("cat", [], ["a.flac"])], "belongs both to dog"),
        ([entry("dog", ["a.flac"], []), entry("dog", ["b.flac"], [])], "twice"),
        ([{k: v for k, v in entry("dog", ["a.flac"], []).items() if k != "plural"}], "lacks plural"),
    ],
)
def test_a_catalog_that_shares_a_file_or_a_name_is_refused(entries, message):
    with pytest.raises(EpError, match=message):
        catalog.check({"things": entries})


def test_a_catalog_naming_a_missing_file_is_refused(tmp_path):
    with pytest.raises(EpError, match="does not exist"):
        catalog.check({"things": [entry("dog", ["a.flac"], [])]}, tmp_path)


def test_nothing_is_held_out_that_is_never_trained_on():
    things = {"dog": CatalogThing("dog", "animal", {"train": [], "heldout": ["s"]})}
    build.balance(things)
    assert things["dog"].sounds == {"train": ["s"], "heldout": []}


# --- speech and packages ----------------------------------------------------------------------------------------------


def test_the_same_words_never_part_and_about_a_seventh_is_held_out():
    words = set(catalog.table("prompts").values())
    share = sum(map(speech.held_out, words)) / len(words)
    assert 0.08 < share < 0.22
    assert speech.held_out("one moment please") == speech.held_out("one moment please")


def test_sentences_differ_and_are_plain_words():
    made = speech.sentences(200, random.Random(0))
    assert len(set(made)) == 200
    assert all(set(sentence) <= set("abcdefghijklmnopqrstuvwxyz' ") for sentence in made)


def test_every_package_states_its_licence_and_nothing_reserved_is_fetched():
    packages = (*fetch.PACKAGES, *fetch.FOOTAGE_PACKAGES)
    keys = [package.key for package in packages]
    assert len(set(keys)) == len(keys)
    assert all(p.licence and p.takes and p.split for p in packages)
    assert all(p.version for p in packages if p.client != "apt"), "npm and PyPI keep old versions: pin them"
    assert not {"musescore-general-soundfont", "webaudiofont", "gnome-backgrounds"} & {p.name for p in packages}


def test_a_failing_program_is_told_in_one_line():
    with pytest.raises(EpError, match=r"^false failed on false: no message$"):
        fetch.run(["false"])
    with pytest.raises(EpError, match=r"^no-such-program: program not found; install it$"):
        fetch.run(["no-such-program"])


def test_the_page_of_sources_lists_the_packages_that_are_fetched():
    page = Path(__file__).parent.parent / "docs" / "sources.md"
    assert fetch.table() in page.read_text(), "paste the output of: python -m epcli.lab.sources --table"
