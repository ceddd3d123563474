"""Questions about a script, with their true answers: varied wordings in, full short sentences out.

Each question carries `accept`, a regular expression that a true answer matches (case ignored), and `reject`, one that
none may match, so that a free answer can be scored without a judge.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from epcli.lab.scenes import Heard, Library, Script, Seen, Thing, View

NUMBERS = ["No", "One", "Two", "Three", "Four", "Five"]


@dataclass(frozen=True)
class SceneEvidence:
    """Where a part of the answer is to be found."""

    modality: str  # "video" or "audio"
    start_s: float
    end_s: float
    thing: str = ""  # the object whose cells show it; "" for sound, and for the background


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


YES_NO_SEE = (
    "Is there {} in the picture?",
    "Can you see {}?",
    "Do you see {}?",
    "Is {} visible?",
    "Does the video show {}?",
    "Is there {} in the video?",
)
YES_NO_HEAR = (
    "Do you hear {}?",
    "Can you hear {}?",
    "Is there the sound of {}?",
    "Is {} heard?",
    "Can {} be heard in the clip?",
)


def ask(script: Script, lib: Library, rng: random.Random) -> list[SceneQuestion]:
    """Every question that this scene answers, one wording each."""
    out: list[SceneQuestion] = []
    pick = rng.choice

    def add(
        kind: str,
        wordings: Sequence[str],
        answer: str,
        accept: str,
        reject: str = "",
        evidence: Sequence[SceneEvidence] = (),
    ) -> None:
        out.append(SceneQuestion(kind, pick(list(wordings)), _cap(answer), accept, reject, tuple(evidence)))

    parts = [p for p in script.sounds if p.things or p.speech]
    groups = [p.things for p in parts if p.things]
    heard = list({t.name: t for g in groups for t in g}.values())
    spoken = [p.speech for p in script.sounds if p.speech]
    speech = " … ".join(spoken)
    instruments = bool(heard) and all(t.group == "instrument" for t in heard)
    seen = [o for v in script.views for o in v.objects]

    if not script.sounds or not parts:
        _ask_silent(script, add, rng, lib)
    else:
        _ask_sounds(script, add, rng, lib, parts, groups, heard, speech, instruments)
    if script.views:
        _ask_picture(script, add, rng, lib, seen)
    else:
        add(
            "see",
            ("What do you see?", "What is in the picture?", "What does the video show?"),
            "there is no picture, only sound.",
            r"no (picture|video|image)|only sound",
        )
    if script.views and heard:
        _ask_both(script, add, rng, lib, heard)
    if len(script.views) <= 3 and len(parts) <= 3:
        _ask_describe(script, add, parts, heard)
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


def _shown(views: Sequence[View], *names: str) -> list[SceneEvidence]:
    """The objects of these names (of any) in these views."""
    return [
        SceneEvidence("video", v.start_s, v.end_s, o.thing.name)
        for v in views
        for o in v.objects
        if not names or o.thing.name in names
    ]


def _ask_silent(script: Script, add, rng: random.Random, lib: Library) -> None:  # type: ignore[no-untyped-def]
    said = "the clip is silent." if script.sounds else "there is no sound."
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
    script: Script,
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
    if heard and len(script.sounds) > 1:
        moment = rng.choice(script.sounds)
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


def _ask_picture(script: Script, add, rng: random.Random, lib: Library, seen: list[Seen]) -> None:  # type: ignore[no-untyped-def]
    what = (
        "What do you see?",
        "What is in the picture?",
        "What is shown?",
        "What does the video show?",
        "What can be seen?",
        "What is in the video?",
    )
    other = rng.choice([t for t in lib.seen if lib.differ(t, *(o.thing for o in seen))])
    views = script.views
    view = views[0]
    names = list({o.thing.name: o.thing for o in seen}.values())
    moves = len(views) == 2 and len(names) == 1 and view.objects[0].place != views[1].objects[0].place
    if len(views) == 1 or moves:
        add("see", what, f"you see {_plays(names)}.", _all([t.name for t in names]), "", _shown(views[:1]))
    elif len(views) <= 3:
        statement = ", then ".join(_plays([o.thing for o in v.objects]) for v in views)
        add("see", what, f"you see first {statement}.", _all([t.name for t in names]), "", _shown(views))
    if moves:
        _ask_move(views, add)
    placed = [o for o in seen if {p.place for p in seen if p.thing.name == o.thing.name} == {o.place}]
    for o in rng.sample(placed, min(2, len(placed))):
        add(
            "where",
            (
                f"Where {o.thing.verb} {o.thing.the}?",
                f"Where do you see {o.thing.the}?",
                f"In which part of the picture {o.thing.verb} {o.thing.the}?",
            ),
            f"{o.thing.the} {o.thing.verb} {o.place}.",
            _place(o.place),
            "",
            _shown(views, o.thing.name)[:1],
        )
    if len(views) == 1 and len(view.objects) > 1:
        o = rng.choice(view.objects)
        add(
            "place",
            (f"What is {o.place}?", f"What do you see {o.place}?", f"Which thing is {o.place}?"),
            f"{o.thing.a} {o.thing.verb} {o.place}.",
            _word(o.thing.name),
            "|".join(_word(p.thing.name) for p in view.objects if p is not o),
            _shown(views, o.thing.name),
        )
        n = len(view.objects)
        add(
            "count seen",
            ("How many things do you see?", "How many things are in the picture?", "How many objects are there?"),
            f"{NUMBERS[n].lower()} things: {_plays(names)}.",
            rf"\b({NUMBERS[n]}|{n})\b",
            "",
            _shown(views),
        )
    if len(views) > 1 and not moves:
        _ask_views(views, add, rng, seen)
    if all(v.background == view.background for v in views) and view.background:
        add(
            "colour",
            (
                "What color is the background?",
                "What colour is the background?",
                "Which color does the background have?",
            ),
            f"the background is {view.background}.",
            _word(view.background).replace("gray", "gr[ae]y"),
            "",
            [SceneEvidence("video", 0.0, script.duration_s)],
        )
    coloured = [o for o in seen if o.colour]
    if coloured and rng.random() < 0.6:
        o = rng.choice(coloured)
        add(
            "colour of",
            (
                f"What color {o.thing.verb} {o.thing.the}?",
                f"What colour {o.thing.verb} {o.thing.the}?",
                f"Which color does {o.thing.the} have?",
            ),
            f"{o.thing.the} {o.thing.verb} {o.colour}.",
            _word(str(o.colour)).replace("gray", "gr[ae]y"),
            "",
            _shown(views, o.thing.name)[:1],
        )
    if rng.random() < 0.5:
        o = rng.choice(seen)
        add(
            "see?",
            [w.format(o.thing.a) for w in YES_NO_SEE],
            f"yes, you see {o.thing.a}.",
            r"^\W*yes",
            "",
            _shown(views, o.thing.name)[:1],
        )
    else:
        statement = f"no, you see {_plays(names)}." if len(names) <= 3 else f"no, there is no {other.name}."
        add("see?", [w.format(other.a) for w in YES_NO_SEE], statement, r"^\W*no\b", "", _shown(views))


def _seconds(start_s: float, end_s: float) -> str:
    """Matches a whole second at which it sounds or shows, or at most one and a half before."""
    first, last = max(0, int(start_s - 0.5)), int(max(start_s + 1.5, min(end_s, start_s + 3.0)))
    return rf"\b0*({'|'.join(str(n) for n in range(first, last + 1))})\b"


def _ask_move(views: Sequence[View], add) -> None:  # type: ignore[no-untyped-def]
    before, after = views[0].objects[0], views[1].objects[0]
    here, there = (o.place.split()[-1] for o in (before, after))
    name = before.thing.the
    add(
        "move",
        (f"Which way does {name} move?", f"Where does {name} go?", f"How does {name} move?"),
        f"{name} moves from the {here} to the {there}.",
        rf"(to|towards?) (the )?{there}\b|{there}wards?",
        rf"(to|towards?) (the )?{here}\b|{here}wards?",
        [*_shown(views[:1]), *_shown(views[1:])],
    )
    for kind, o, wordings in (
        ("where first", before, (f"Where is {name} at the beginning?", f"Where is {name} first?")),
        ("where last", after, (f"Where is {name} at the end?", f"Where is {name} last?")),
    ):
        add(
            kind,
            wordings,
            f"{name} is {o.place}.",
            _place(o.place),
            "",
            _shown(views[:1] if o is before else views[1:]),
        )


def _ask_views(views: Sequence[View], add, rng: random.Random, seen: list[Seen]) -> None:  # type: ignore[no-untyped-def]
    """A picture that changes: what is first, last, at a second, for a moment, and when."""
    for kind, chosen, wordings in (
        (
            "see first",
            views[0],
            (
                "What do you see first?",
                "What do you see at the beginning?",
                "What is shown first?",
                "What does the video show at the start?",
            ),
        ),
        (
            "see last",
            views[-1],
            (
                "What do you see last?",
                "What do you see at the end?",
                "What is shown last?",
                "What does the video show at the end?",
            ),
        ),
    ):
        names = [o.thing for o in chosen.objects]
        rest = [o.thing.name for o in seen if o.thing not in names]
        add(
            kind,
            wordings,
            f"{'first' if kind == 'see first' else 'at the end'} you see {_plays(names)}.",
            _all([t.name for t in names]),
            "|".join(_word(n) for n in rest),
            _shown([chosen]),
        )
    v = rng.choice(views)
    second = round((v.start_s + v.end_s) / 2)
    if second > 0 and v.start_s + 0.5 < second < v.end_s - 0.5:
        names = [o.thing for o in v.objects]
        add(
            "see at",
            (
                f"What do you see at second {second}?",
                f"What is shown at {second} seconds?",
                f"What do you see at 0:{second:02d}?",
            ),
            f"at {second} seconds you see {_plays(names)}.",
            _all([t.name for t in names]),
            "",
            [SceneEvidence("video", max(v.start_s, second - 1), min(v.end_s, second + 1.0), t.name) for t in names],
        )
    counts = [sum(o.thing.name == p.thing.name for p in seen) for o in seen]
    once = [o for o, n in zip(seen, counts, strict=True) if n == 1]
    late = [(v, o) for v in views for o in v.objects if o in once and v.start_s >= 0.8]
    if late:
        v, o = rng.choice(late)
        add(
            "see when",
            (
                f"When do you see {o.thing.the}?",
                f"At what second does {o.thing.the} appear?",
                f"When does {o.thing.the} appear?",
                f"When is {o.thing.the} shown?",
            ),
            f"you see {o.thing.the} at {round(v.start_s)} seconds.",
            _seconds(v.start_s, v.end_s),
            "",
            _shown([v], o.thing.name),
        )
    shortest = min(views, key=lambda v: v.end_s - v.start_s)
    others = [v for v in views if v is not shortest]
    if shortest.end_s - shortest.start_s < 0.5 * min(v.end_s - v.start_s for v in others):
        names = [o.thing for o in shortest.objects]
        rest = [o.thing.name for v in others for o in v.objects if o.thing not in names]
        add(
            "see briefly",
            (
                "What do you see only briefly?",
                "What is shown for a moment only?",
                "What appears for a short time?",
                "What flashes up?",
            ),
            f"for a moment you see {_plays(names)}.",
            _all([t.name for t in names]),
            "|".join(_word(n) for n in rest),
            _shown([shortest]),
        )


def _place(place: str) -> str:
    words = re.sub(r"^(on|in|at) the ", "", place).replace("middle", "(middle|center|centre)")
    return rf"\b{words.replace(' ', '[ -]')}\b"


def _ask_both(script: Script, add, rng: random.Random, lib: Library, heard: list[Thing]) -> None:  # type: ignore[no-untyped-def]
    parts = [p for p in script.sounds if p.things or p.speech]
    # What is seen while something sounds, asked only where one view (or one sound) covers that time.
    for part in script.sounds:
        if len(part.things) != 1:
            continue
        during = [v for v in script.views if v.start_s < part.end_s - 0.4 and v.end_s > part.start_s + 0.4]
        if len(during) == 1 and len(script.views) > 1 and sum(p.things == part.things for p in script.sounds) == 1:
            names = [o.thing for o in during[0].objects]
            add(
                "see while",
                (
                    f"What do you see while {part.things[0].the} sounds?",
                    f"What do you see while you hear {part.things[0].the}?",
                    f"What is shown while {part.things[0].the} is heard?",
                ),
                f"while you hear {part.things[0].the} you see {_plays(names)}.",
                _all([t.name for t in names]),
                "|".join(
                    _word(o.thing.name)
                    for v in script.views
                    if v is not during[0]
                    for o in v.objects
                    if o.thing not in names and o.thing not in part.things
                ),
                [
                    *_sounding([part]),
                    *(
                        replace(e, start_s=max(part.start_s, e.start_s), end_s=min(part.end_s, e.end_s))
                        for e in _shown(during)
                    ),
                ],
            )
    for v in script.views:
        during_s = [p for p in parts if p.start_s < v.end_s - 0.4 and p.end_s > v.start_s + 0.4]
        if len(during_s) == 1 and len(during_s[0].things) == 1 and len(parts) > 1:
            o = v.objects[0]
            if sum(o.thing.name == p.thing.name for w in script.views for p in w.objects) == 1:
                t = during_s[0].things[0]
                add(
                    "hear while",
                    (f"What do you hear while you see {o.thing.the}?", f"What sounds while {o.thing.the} is shown?"),
                    f"while you see {o.thing.the} you hear {t.a}.",
                    _word(t.name),
                    "|".join(_word(x.name) for x in heard if x is not t and x.name != o.thing.name),
                    [*_shown([v], o.thing.name), *_sounding(during_s)],
                )
    if len(heard) == 1:
        thing = heard[0]
        shown = [o for v in script.views for o in v.objects if o.thing.name == thing.name]
        hidden = [o.thing for v in script.views for o in v.objects]
        wordings = (
            "Can you see the thing that makes the sound?",
            "Is the thing that makes the sound visible?",
            "Is what you hear also in the picture?",
            "Do you see what you hear?",
            "Is the source of the sound visible?",
        )
        if shown:
            evidence = [*_of(parts, thing), *_shown(script.views, thing.name)[:1]]
            statement = f"you hear {thing.a}, and {thing.the} is {shown[0].place}."
            add("visible", wordings, f"yes, {statement}", r"^\W*yes", "", evidence)
            if len(script.views) == 1 and len(script.views[0].objects) > 1:
                add(
                    "side",
                    (
                        "On which side is the thing that makes the sound?",
                        "Where is the thing that makes the sound?",
                        "Where is what you hear?",
                        "On which side is the sounding thing?",
                    ),
                    statement,
                    _place(shown[0].place),
                    "",
                    evidence,
                )
        else:
            names = list({t.name: t for t in hidden}.values())
            statement = f"no, you hear {thing.a}, but you see {_plays(names[:3])}."
            add("visible", wordings, statement, r"^\W*no\b", "", [*_of(parts, thing), *_shown(script.views)])


def _ask_describe(script: Script, add, parts: list[Heard], heard: list[Thing]) -> None:  # type: ignore[no-untyped-def]
    statement = []
    if script.views:
        views = [_join([f"{o.thing.a} {o.place}" for o in v.objects]) for v in script.views]
        statement.append(f"The picture shows {', then '.join(views)}.")
        if script.views[0].background and len(script.views) == 1:
            statement.append(f"The background is {script.views[0].background}.")
    if not script.sounds:
        statement.append("There is no sound.")
    elif not parts:
        statement.append("It is silent.")
    else:
        said = [f'a voice that says: "{p.speech.strip()}"' if p.speech else _plays(p.things) for p in parts]
        statement.append(f"You hear {', then '.join(said)}.")
    names = [o.thing.name for v in script.views for o in v.objects] + [t.name for t in heard]
    add(
        "describe",
        (
            "Describe the clip.",
            "Describe the video.",
            "What happens in this clip?",
            "Describe what you see and hear.",
            "What is going on?",
        ),
        " ".join(statement),
        _all(names) or "silent|no sound|voice",
        evidence=[*_shown(script.views), *_sounding(parts)],
    )
