"""Questions about sound, with their true answers: varied wordings in, full short sentences out.

Each question carries `accept`, a regular expression that a true answer matches (case ignored), and `reject`, one that
none may match, so that a free answer can be scored without a judge.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from epcli.lab.scenes import Heard, Library, Thing

NUMBERS = ["No", "One", "Two", "Three", "Four", "Five"]


@dataclass(frozen=True)
class SceneEvidence:
    """Where a part of the answer is to be found."""

    modality: str  # "video" or "audio"
    start_s: float
    end_s: float
    thing: str = ""  # what the tokens that hold it are called; "" for sound


@dataclass(frozen=True)
class SceneQuestion:
    """One question about a scene."""

    type: str
    question: str
    answer: str
    accept: str
    reject: str = ""
    evidence: tuple[SceneEvidence, ...] = ()  # all of it is needed; () where an absence is the answer

    def judge(self, answer: str) -> bool:
        """Whether a free answer is true."""
        found = re.search(self.accept, answer, re.IGNORECASE | re.DOTALL) is not None
        return found and not (self.reject and re.search(self.reject, answer, re.IGNORECASE))


def needs(question: SceneQuestion) -> str:
    """Which senses hold the answer: "sound", "picture" or "both"."""
    kinds = {e.modality for e in question.evidence}
    if len(kinds) == 2:
        return "both"
    return "picture" if kinds == {"video"} else "sound"  # without evidence: that nothing is heard


def as_row(media: str, question: SceneQuestion) -> dict[str, Any]:
    """A line of a benchmark's questions.jsonl."""
    row = {"media": media, "question": question.question, "accept": question.accept}
    row |= {"reject": question.reject} if question.reject else {}
    evidence = [[e.modality, round(e.start_s, 2), round(e.end_s, 2)] for e in question.evidence]
    return row | {"type": question.type, "answer": question.answer, "needs": needs(question), "evidence": evidence}


def _word(name: str) -> str:
    return rf"\b{re.escape(name)}(s|es)?\b"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _all(names: Sequence[str]) -> str:
    return "".join(f"(?=.*{_word(n)})" for n in names)


def _cap(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _plays(things: Sequence[Thing]) -> str:
    """ "a piano and a violin play" or "a dog"."""
    return _join([t.a for t in things])


YES_NO_HEAR = (
    "Do you hear {}?",
    "Can you hear {}?",
    "Is there the sound of {}?",
    "Is {} heard?",
    "Can {} be heard in the clip?",
)


def ask_sounds(sounds: Sequence[Heard], has_track: bool, lib: Library, rng: random.Random) -> list[SceneQuestion]:
    """Every question about sound alone, one wording each. Without a track there is no sound stream."""
    out: list[SceneQuestion] = []

    def add(
        kind: str,
        wordings: Sequence[str],
        answer: str,
        accept: str,
        reject: str = "",
        evidence: Sequence[SceneEvidence] = (),
    ) -> None:
        out.append(SceneQuestion(kind, rng.choice(list(wordings)), _cap(answer), accept, reject, tuple(evidence)))

    parts = [p for p in sounds if p.things or p.speech]
    groups = [p.things for p in parts if p.things]
    heard = list({t.name: t for g in groups for t in g}.values())
    if not parts:
        _ask_silent(add, rng, lib, has_track=has_track)
    else:
        speech = " … ".join(p.speech for p in sounds if p.speech)
        instruments = bool(heard) and all(t.group == "instrument" for t in heard)
        _ask_sounds(sounds, add, rng, lib, parts, groups, heard, speech, instruments)
    return out


def _sounding(parts: Sequence[Heard]) -> list[SceneEvidence]:
    """The parts' time, that of speech in slices: every word counts."""
    found = []
    for p in parts:
        slices = max(1, round((p.end_s - p.start_s) / 0.6)) if p.speech else 1
        step = (p.end_s - p.start_s) / slices
        found += [SceneEvidence("audio", p.start_s + i * step, p.start_s + (i + 1) * step) for i in range(slices)]
    return found


def _of(parts: Sequence[Heard], thing: Thing) -> list[SceneEvidence]:
    """The first time that the thing sounds."""
    return _sounding([p for p in parts if thing in p.things][:1])


def _ask_silent(add, rng: random.Random, lib: Library, *, has_track: bool) -> None:  # type: ignore[no-untyped-def]
    said = "the clip is silent." if has_track else "there is no sound."
    pattern = r"silent|no sound|nothing|silence"
    add(
        "hear",
        (
            "What do you hear?",
            "What sound is there?",
            "What can be heard?",
            "What instrument plays?",
            "What makes the sound?",
            "Which instrument is playing?",
        ),
        said,
        pattern,
    )
    add(
        "silent",
        ("Is it silent?", "Is the clip silent?", "Is there no sound?", "Is it quiet?"),
        f"yes, {said}",
        r"^\W*yes",
    )
    add(
        "sound?",
        ("Is there any sound?", "Is there sound?", "Can you hear anything?", "Do you hear something?"),
        f"no, {said}",
        r"^\W*no\b",
    )
    add(
        "count",
        ("How many instruments play?", "How many instruments do you hear?", "How many sounds are there?"),
        "none, " + said,
        r"\b(no|none|zero|0)\b|silent",
    )
    if rng.random() < 0.4 and lib.heard:
        add("hear?", [w.format(rng.choice(lib.heard).a) for w in YES_NO_HEAR], f"no, {said}", r"^\W*no\b")
    if rng.random() < 0.4:
        add(
            "speech",
            ("What is said?", "What does the voice say?"),
            f"nothing is said; {said}",
            r"nothing|no (one|body|sound|speech)|silent",
        )


def _ask_sounds(  # type: ignore[no-untyped-def]
    sounds: Sequence[Heard],
    add,
    rng: random.Random,
    lib: Library,
    parts: list[Heard],
    groups: list[tuple[Thing, ...]],
    heard: list[Thing],
    speech: str,
    instruments: bool,
) -> None:
    verb = "play" if instruments else "hear"
    what_plays = (
        "What instrument plays?",
        "what instrument plays?",
        "Which instrument is playing?",
        "What instrument do you hear?",
        "Which instrument plays?",
        "What is playing?",
        "Name the instrument.",
        "What instrument is this?",
    )
    what_heard = (
        "What do you hear?",
        "What sound is this?",
        "What makes the sound?",
        "What is making the sound?",
        "What can be heard?",
        "What sounds?",
        "What is the sound?",
        "Which sound do you hear?",
        "What do you hear in this clip?",
    )
    what_together = (
        "Which instruments play?",
        "What instruments do you hear?",
        "Which instruments are playing?",
        "What plays together?",
        "Name the instruments.",
    )
    other = rng.choice([t for t in lib.heard if lib.differ(t, *heard)])
    found = _sounding(parts)
    sounding = [p for p in parts if p.things]

    if len(heard) == 1 and not speech:
        thing = heard[0]
        if instruments:
            add("hear", (*what_plays, *what_plays, *what_heard), f"{thing.a} plays.", _word(thing.name), "", found)
        else:
            add("hear", what_heard, f"you hear {thing.a}.", _word(thing.name), "", found)
    elif len(groups) == 1 and len(heard) > 1:
        add(
            "hear",
            (*what_together, *what_plays, *what_heard),
            f"{_plays(heard)} play together.",
            _all([t.name for t in heard]),
            "",
            found,
        )
    elif heard and not speech and len(groups) <= 4:
        single = [g for g in groups if len(g) == 1]
        if len(single) == len(groups) and len({g[0].name for g in groups}) == len(groups):
            order = [g[0] for g in groups]
            if instruments:
                statement = f"first {order[0].a} plays, then {', then '.join(t.a for t in order[1:])}."
            else:
                statement = f"you hear first {order[0].a}, then {', then '.join(t.a for t in order[1:])}."
            add(
                "hear all",
                (*(what_together if instruments else ()), *(what_plays if instruments else what_heard), *what_heard),
                statement,
                _all([t.name for t in order]),
                "",
                found,
            )
            add(
                "order",
                (
                    "In which order do the sounds come?",
                    "What is the order of the sounds?",
                    "What do you hear, in order?",
                    "List the sounds in order.",
                ),
                statement,
                ".*".join(_word(t.name) for t in order),
                "",
                found,
            )
            add(
                "together?",
                (
                    f"Do {order[0].the} and {order[1].the} sound at the same time?",
                    f"Do you hear {order[0].the} and {order[1].the} together?",
                ),
                f"no, first {order[0].the}, then {order[1].the}.",
                r"^\W*no\b",
                "",
                _sounding(sounding[:2]),
            )
            add(
                "after",
                (
                    f"What do you hear after {order[0].the}?",
                    f"What comes after {order[0].the}?",
                    f"Which sound follows {order[0].the}?",
                ),
                f"after {order[0].the} you hear {order[1].a}.",
                _word(order[1].name),
                "",
                _sounding(sounding[:2]),
            )
            add(
                "before",
                (f"What do you hear before {order[-1].the}?", f"What comes before {order[-1].the}?"),
                f"before {order[-1].the} you hear {order[-2].a}.",
                _word(order[-2].name),
                "",
                _sounding(sounding[-2:]),
            )
        else:
            statement = ", then ".join(_plays(g) for g in groups)
            add(
                "hear all",
                (*what_together, *what_plays, *what_heard),
                f"first {statement}.",
                _all([t.name for t in heard]),
                "",
                found,
            )
    if len(groups) > 1 and not speech:

        def one(kind: str, part: Heard, wordings: Sequence[str], word: str, others: list[str]) -> None:
            group = part.things
            statement = (
                f"{_join([t.the for t in group])} {'plays' if len(group) == 1 else 'play'} {word}."
                if verb == "play"
                else f"you hear {_plays(group)} {word}."
            )
            reject = "|".join(_word(n) for n in others) if len(group) == 1 else ""
            add(kind, wordings, statement, _all([t.name for t in group]), reject, _sounding([part]))

        noun = "instrument" if instruments else "sound"
        first, last = groups[0], groups[-1]
        one(
            "first",
            sounding[0],
            (
                "Which sound comes first?",
                "What do you hear first?",
                "What do you hear at the beginning?",
                f"Which {noun} is first?",
                *(
                    ("Which instrument plays first?", "What instrument starts?")
                    if instruments
                    else ("What is the first sound?",)
                ),
            ),
            "first",
            [t.name for t in last if t not in first],
        )
        one(
            "last",
            sounding[-1],
            (
                "Which sound comes last?",
                "What do you hear last?",
                "What do you hear at the end?",
                f"Which {noun} is last?",
                *(
                    ("Which instrument plays last?", "What instrument ends the clip?")
                    if instruments
                    else ("What is the last sound?",)
                ),
            ),
            "last",
            [t.name for t in first if t not in last],
        )
    if heard and len(sounds) > 1:
        moment = rng.choice(sounds)
        if not moment.speech and moment.end_s - moment.start_s > 1.4:
            second = round(rng.uniform(moment.start_s + 0.5, moment.end_s - 0.5))
            if moment.start_s + 0.3 < second < moment.end_s - 0.3 and second > 0:
                what = f"you hear {_plays(moment.things)}" if moment.things else "it is silent"
                add(
                    "hear at",
                    (
                        f"What do you hear at second {second}?",
                        f"What sounds at {second} seconds?",
                        f"What do you hear {second} seconds into the clip?",
                        f"What do you hear at 0:{second:02d}?",
                    ),
                    f"at {second} seconds {what}.",
                    _all([t.name for t in moment.things]) or r"silent|silence|nothing|no sound",
                    "",
                    [SceneEvidence("audio", max(moment.start_s, second - 1), min(moment.end_s, second + 1.0))],
                )
        once = [p for p in sounding if p.start_s >= 0.8 and all(p is q or p.things != q.things for q in sounding)]
        once = [p for p in once if not any(t in q.things for q in sounding if q is not p for t in p.things)]
        if once:
            part = rng.choice(once)
            name, second = _join([t.the for t in part.things]), round(part.start_s)
            add(
                "when",
                (
                    f"When do you hear {name}?",
                    f"At what second do you hear {name}?",
                    f"When does the sound of {name} begin?",
                    f"How many seconds into the clip do you hear {name}?",
                ),
                f"you hear {name} at {second} seconds.",
                _seconds(part.start_s, part.end_s),
                "",
                _sounding([part]),
            )
    if len(heard) > 1 and len(groups) == 1:
        a, b = rng.sample(heard, 2)
        add(
            "together?",
            (f"Do {a.the} and {b.the} sound at the same time?", f"Do you hear {a.the} and {b.the} together?"),
            "yes, they sound together.",
            r"^\W*yes",
            "",
            found,
        )
    if heard and not speech and len(heard) < len(NUMBERS):
        n, noun = len(heard), "instrument" if instruments else "sound"
        wordings = (
            (
                "How many instruments play?",
                "How many instruments do you hear?",
                "How many different instruments are there?",
            )
            if instruments
            else ("How many different sounds are there?", "How many sounds do you hear?")
        )
        add(
            "count",
            wordings,
            f"{NUMBERS[n].lower()} {noun}{'s' if n > 1 else ''}: {_plays(heard)}.",
            rf"\b({NUMBERS[n]}|{n})\b",
            "",
            found,
        )
    if heard:
        if rng.random() < 0.5:
            thing = rng.choice(heard)
            add(
                "hear?",
                [w.format(thing.a) for w in YES_NO_HEAR],
                f"yes, you hear {thing.a}.",
                r"^\W*yes",
                "",
                _of(sounding, thing),
            )
        else:
            statement = f"no, you hear {_plays(heard)}." if len(heard) <= 3 else f"no, there is no {other.name}."
            add("hear?", [w.format(other.a) for w in YES_NO_HEAR], statement, r"^\W*no\b", "", _sounding(sounding))
    if rng.random() < 0.35:
        statement = f"you hear {_plays(heard)}." if heard else "someone speaks."
        add(
            "silent",
            ("Is it silent?", "Is the clip silent?", "Is there no sound?", "Is it quiet?"),
            f"no, {statement}",
            r"^\W*no\b",
            "",
            _sounding(parts[:1]),
        )
        add(
            "sound?",
            ("Is there any sound?", "Is there sound?", "Can you hear anything?", "Do you hear something?"),
            f"yes, {statement}",
            r"^\W*yes",
            "",
            _sounding(parts[:1]),
        )
    if speech:
        quoted = speech.strip()
        words = [w for w in re.findall(r"[a-z']+", quoted.lower()) if len(w) > 2]
        voice = _sounding([p for p in parts if p.speech])
        add(
            "speech",
            (
                "What is said?",
                "What does the voice say?",
                "What does the person say?",
                "What words are spoken?",
                "Write down what is said.",
                "What do you hear someone say?",
                "Transcribe the speech.",
            ),
            f'the voice says: "{quoted}"',
            _all(words[:6]) or re.escape(quoted),
            "",
            voice,
        )
        add(
            "speech?",
            ("Does someone speak?", "Is there speech?", "Do you hear a voice?", "Is anyone talking?"),
            "yes, someone speaks.",
            r"^\W*yes",
            "",
            voice[:1],
        )
        if not heard:
            add(
                "hear",
                what_heard,
                f'you hear a voice that says: "{quoted}"',
                r"voice|speak|speech|someone|says",
                "",
                voice,
            )
        elif len(heard) <= 3:
            add(
                "hear all",
                what_heard,
                f"you hear {_plays(heard)} and a voice.",
                _all([t.name for t in heard]) + r"(?=.*(voice|speak|speech|says))",
                "",
                [*_sounding(sounding), *voice[:1]],
            )
    elif rng.random() < 0.35:
        add(
            "speech?",
            ("Does someone speak?", "Is there speech?", "Do you hear a voice?", "Is anyone talking?"),
            f"no, you hear {_plays(heard)}.",
            r"^\W*no\b",
        )
        if rng.random() < 0.5:
            add(
                "speech",
                ("What is said?", "What does the voice say?"),
                f"nothing is said; you hear {_plays(heard)}.",
                r"nothing|no (one|body)",
            )


def _seconds(start_s: float, end_s: float) -> str:
    """Matches a whole second at which it sounds or shows, or at most one and a half before."""
    first, last = max(0, int(start_s - 0.5)), int(max(start_s + 1.5, min(end_s, start_s + 3.0)))
    return rf"\b0*({'|'.join(str(n) for n in range(first, last + 1))})\b"
