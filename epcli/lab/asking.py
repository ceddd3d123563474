"""Questions about a story, with answers made of what is reported: never a name that no part reports.

Wordings are those that people use, some with typos, without capitals or question marks. What cannot be known from the
reports is answered so: "I cannot tell."
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from epcli.lab.questions import SceneEvidence, SceneQuestion, ask_sounds
from epcli.lab.scenes import Heard, Library, Thing
from epcli.lab.stories import MOST, PEOPLE, Box, Reported, Story, draw_name
from epcli.observe import names
from epcli.observe.nanodet import CLASSES

NUMBERS = (
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
SOMEONE = {  # who is asked for where the detector says "person"
    "man": "men", "woman": "women", "boy": "boys", "girl": "girls", "child": "children", "human": "humans",
    PEOPLE: "people",
}  # fmt: skip
KINDS = (
    "animal",
    "vehicle",
    "food",
    "building",
    "plant",
    "furniture",
    "bird",
    "musical instrument",
    "clothing",
    "fruit",
)
UNSURE = "I cannot tell what is seen."
CANNOT = ("I cannot tell.", "I cannot tell from this clip.")
VERBS = {
    "dog": "bark", "cat": "meow", "duck": "quack", "owl": "hoot", "cow": "moo", "horse": "neigh", "sheep": "bleat",
    "rooster": "crow", "bird": "sing", "chicken": "cluck", "hen": "cluck", "lion": "roar", "pig": "grunt",
    "frog": "croak", "bee": "buzz", "bell": "ring", "telephone": "ring", "phone": "ring", "wolf": "howl",
    "goat": "bleat", "crow": "caw", "elephant": "trumpet", "snake": "hiss", "cricket": "chirp",
}  # fmt: skip
SEE = (
    "What do you see?", "What is in the picture?", "What is shown?", "What does the video show?", "What can be seen?",
    "What is in the video?", "What do you see in this clip?", "What's in this video?", "What is visible?",
    "Which things do you see?", "What is there to see?", "What does the picture show?", "Name what you see.",
)  # fmt: skip
DESCRIBE = (
    "Describe the clip.", "Describe the video.", "What happens in this clip?", "Describe what you see and hear.",
    "What is going on?", "What happens?", "What is this video about?", "Summarize the clip.", "Summarise this video",
    "Tell me what happens.", "What is happening here?", "Describe this.", "What is the clip about?",
)  # fmt: skip
IS_THERE = (
    "Is there {a} in the picture?", "Can you see {a}?", "Do you see {a}?", "Is {a} visible?", "Is there {a}?",
    "Does the video show {a}?", "Is there {a} in the video?", "Is {a} shown?", "Is there {a} in this clip?", "Is there {a}?",
    "Is there {a} anywhere?", "Does {a} appear?", "Are there {many}?", "Are there any {many}?", "Do you see any {many}?",
)  # fmt: skip
READ = (
    "What does the {sign} say?", "What does the {sign} say?", "What is written on the {sign}?", "Read the {sign}.",
    "What is the text on the {sign}?", "Which text is shown?", "What text do you see?", "What can you read?",
    "What is written?", "What words are on screen?", "Read the text.", "What is written in the picture?",
)  # fmt: skip
SIGNS = ("sign", "title", "caption", "label", "banner", "screen", "subtitle", "poster")
UNKNOWABLE = (
    "Why does this happen?", "What is the name of the {person}?", "Who made this film?", "Where was this filmed?",
    "When was this filmed?", "What colour is {the}?", "What color is {the}?", "How old is the {person}?",
    "What is the weather like?", "What is the {person} thinking?", "Who wins?", "What brand is it?",
    "What does it smell like?", "Is the {person} happy?", "How much does it cost?", "What will happen next?",
    "Who is the {person}?", "What is {the} made of?", "How fast is it?", "Which country is this?", "Who is speaking?",
    "What is the {person} wearing?", "What time is it?", "How heavy is {the}?", "What is the {person} doing?",
)  # fmt: skip
AT_ONCE = 0.75  # of what is there from the beginning is not asked for its time: else "0 seconds" is nearly always right
BLACK = "nothing, the picture is black"


class _Asked:
    """Collects questions about one story."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.found: list[SceneQuestion] = []

    def __call__(
        self, kind: str, wordings: Sequence[str] | str, answer: str, evidence: Sequence[SceneEvidence] = ()
    ) -> None:
        question = wordings if isinstance(wordings, str) else self.rng.choice(wordings)
        self.found.append(SceneQuestion(kind, question, answer[0].upper() + answer[1:], "", "", tuple(evidence)))


def ask(story: Story, lib: Library, rng: random.Random) -> list[SceneQuestion]:
    """Every question that this story answers, one wording each."""
    add = _Asked(rng)
    heard = ask_sounds(story.sounds, story.track is not None, lib, rng)
    if story.seen is not None:
        _ask_pictures(story, add)
        if story.track is not None:
            _ask_while(story, add)
    else:
        add("none", SEE, "there is no picture, only sound.")
        add("none", "How many people do you see?", "I cannot tell, there is no picture.")
    _ask_sound_times(story, add)
    _ask_nothing_heard(story, add)
    _ask_unknowable(story, add)
    if len(story.shots) <= 4 and len(story.sounds) <= 5:
        add("describe", DESCRIBE, _description(story), [*_all_shown(story.shots), *_all_heard(story.sounds)])
    return [*add.found, *heard]


def rough(question: str, rng: random.Random) -> str:
    """As people type: without capitals or question mark, with a typo."""
    if rng.random() < 0.3:
        question = question.lower() if rng.random() < 0.5 else question[0].lower() + question[1:]
    if rng.random() < 0.2:
        question = question.rstrip("?.")
    if rng.random() < 0.08:
        words = question.split()
        at = rng.randrange(len(words))
        if len(words[at]) > 3 and words[at].isalpha():
            i = rng.randrange(1, len(words[at]) - 2)
            words[at] = words[at][:i] + words[at][i + 1] + words[at][i] + words[at][i + 2 :]
        question = " ".join(words)
    return question


# --- words ----------------------------------------------------------------------------------------------------------


def number_of(name: str, count: int) -> str:
    """ "a dog", "three dogs", "many people"."""
    if count == 1:
        return a(name)
    return f"{NUMBERS[count] if count <= MOST else 'many'} {names.plural(name)}"


def a(name: str) -> str:
    """With its indefinite article."""
    return f"{names.article(name)} {name}".strip()


def joined(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def is_kind(name: str, kind: str) -> bool:
    """Whether a thing of this name is one of that kind, or is called so."""
    return name == kind or kind in names.kinds(name)


def things(shot: Reported, kind: str = "") -> list[str]:
    """What is seen in a shot, in words, the detector's things first; all, or those of a kind."""
    counts = {n: c for n, c in shot.counts.items() if not kind or is_kind(n, kind)}
    scene = shot.scene if shot.scene and (not kind or is_kind(shot.scene, kind)) else ""
    if scene in counts or any(scene and is_kind(n, scene) for n in counts):
        scene = ""
    said = []
    for name, count in counts.items():
        if scene and name != PEOPLE and is_kind(scene, name):
            said.append(f"{number_of(name, count)} ({scene if count == 1 else names.plural(scene)})")
            scene = ""
        else:
            said.append(number_of(name, count))
    return said[:5] + ([a(scene)] if scene else [])


def seen_in(shot: Reported) -> str:
    """A shot in words."""
    if shot.black:
        return "a black picture"
    return joined(things(shot)) if not shot.unsure else "something that I cannot name"


def place_of(box: Box) -> str:
    """Where in the picture."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    across = "left" if x < 0.36 else "right" if x > 0.64 else ""
    down = "top" if y < 0.33 else "bottom" if y > 0.67 else ""
    if across and down:
        return f"in the {down} {across}"
    return f"on the {across}" if across else f"at the {down}" if down else "in the middle"


def seconds(t: float) -> str:
    return "at 1 second" if round(t) == 1 else f"at {round(t)} seconds"


def _evidence(shot: Reported, *wanted: str) -> list[SceneEvidence]:
    """What was reported of a shot: all, or what has one of these labels."""
    labels = [*shot.counts, *([shot.scene] if shot.scene else ())]
    if shot.black:
        labels = ["black"]
    elif shot.unsure:
        labels = ["unsure"]
    return [SceneEvidence("video", shot.start_s, shot.end_s, n) for n in labels if not wanted or n in wanted]


def _cut(shots: Sequence[Reported], shot: Reported) -> list[SceneEvidence]:
    """The cut with which the shot begins: it tells the second."""
    return [] if shot is shots[0] else [SceneEvidence("video", shot.start_s, shot.end_s, "cut")]


def _all_shown(shots: Sequence[Reported]) -> list[SceneEvidence]:
    return [e for shot in shots for e in _evidence(shot)]


def _read(shots: Sequence[Reported]) -> list[SceneEvidence]:
    return [SceneEvidence("video", s.start_s, s.end_s, f"text '{t}'") for s in shots for t in s.texts]


def _all_heard(sounds: Sequence[Heard]) -> list[SceneEvidence]:
    return [SceneEvidence("audio", p.start_s, p.end_s) for p in sounds if p.things or p.speech]


# --- pictures ---------------------------------------------------------------------------------------------------------


def _ask_pictures(story: Story, add: _Asked) -> None:
    shots, rng = story.shots, add.rng
    every = list(dict.fromkeys(n for s in shots for n in (*s.counts, *([s.scene] if s.scene else ()))))
    dark, lost = all(s.black for s in shots), all(s.unsure or s.black for s in shots)
    texts = [t for s in shots for t in s.texts]
    nothing = BLACK if dark else UNSURE[:-1]
    shown = _all_shown(shots)
    add("none" if lost else "see", SEE, _seen(shots), shown)
    if lost:
        add("none", SEE, _seen(shots), shown)
    who = [s for s in shots if PEOPLE in s.counts]
    best = max(who, key=lambda s: s.counts[PEOPLE], default=None)
    if best is not None:
        said = number_of(PEOPLE, best.counts[PEOPLE])
        add(
            "who",
            ("Who do you see?", "Who is in the picture?", "Who is there?", "Who appears?"),
            f"{said}.",
            _evidence(best, PEOPLE),
        )
    elif rng.random() < 0.4:
        none = f"nobody, {BLACK.split(', ')[1]}" if dark else "nobody that I can see"
        add("who", ("Who do you see?", "Who is in the picture?", "Who is there?"), f"{none}.", shown if dark else ())
    _ask_count(shots, add, every, dark)
    for _ in range(2):
        _ask_is_there(shots, add, every, dark)
    _ask_kind(shots, add, every, nothing)
    _ask_text(shots, add, texts)
    if len(shots) > 1:
        _ask_order(shots, add, every)
    _ask_where(shots, add)
    if len(shots) > 1 or rng.random() < 0.2:
        n = len(shots)
        if n <= MOST:
            add("shots", ("How many shots are there?", "How many scenes are there?", "How often does the picture change?"),
                f"{NUMBERS[n]} {'shot' if n == 1 else 'shots'}.", [SceneEvidence("video", s.start_s, s.end_s, "cut") for s in shots[1:]])  # fmt: skip


def _seen(shots: Sequence[Reported]) -> str:
    """The answer to "What do you see?"."""
    if all(s.black for s in shots):
        return f"{BLACK}."
    if all(s.unsure for s in shots):
        texts = [t for s in shots for t in s.texts]
        return f'I can only read "{texts[0]}".' if texts else UNSURE
    said = [seen_in(s) for s in shots]
    said = [s for i, s in enumerate(said) if not i or s != said[i - 1]]
    if len(said) == 1:
        return f"you see {said[0]}."
    return f"first you see {', then '.join(said[:4])}."


def _ask_count(shots: Sequence[Reported], add: _Asked, every: Sequence[str], dark: bool) -> None:
    rng = add.rng
    counted = list(dict.fromkeys(n for s in shots for n in s.counts))
    asked = [PEOPLE] if rng.random() < 0.6 or not counted else []
    asked += [rng.choice(counted)] if counted else []
    asked += [s.scene for s in shots if s.scene and any(is_kind(s.scene, n) for n in s.counts)][:1]
    if rng.random() < 0.4:
        asked.append(rng.choice((*(n for n in CLASSES if n not in every), "animal", "vehicle")))
    for name in dict.fromkeys(asked):
        many = names.plural(name)
        wordings = (f"How many {many} are there?", f"How many {many} do you see?", f"How many {many} are in the picture?",
                    f"How many {many} can you see?", f"How many {many} are visible?", f"Count the {many}.",
                    f"How many {many} are there in the video?", f"What is the number of {many}?")  # fmt: skip
        totals = [(sum(c for n, c in s.counts.items() if _counts_as(s, n, name)), s) for s in shots]
        total, shot = max(totals, key=lambda t: t[0])
        if total:
            said = number_of(name, total) if total > 1 else f"one {name}"
            of = [n for n in shot.counts if _counts_as(shot, n, name)]
            by_scene = [shot.scene] if any(not is_kind(n, name) for n in of) else []
            add("count", wordings, f"{said}.", _evidence(shot, *of, *by_scene))
        elif any(is_kind(s.scene, name) for s in shots if s.scene):
            found = next(s for s in shots if s.scene and is_kind(s.scene, name))
            add("count", wordings, f"I cannot tell how many; you see {a(found.scene)}.", _evidence(found, found.scene))
        else:
            add(
                "none" if dark else "count",
                wordings,
                "none, the picture is black." if dark else f"none, you see no {many}.",
                _all_shown(shots) if dark else (),
            )


def _counts_as(shot: Reported, name: str, asked: str) -> bool:
    """Whether things of that name are counted among those asked for: birds are chickens where the scene is chickens."""
    return is_kind(name, asked) or (
        name != PEOPLE and bool(shot.scene) and is_kind(shot.scene, name) and is_kind(shot.scene, asked)
    )


def _ask_is_there(shots: Sequence[Reported], add: _Asked, every: Sequence[str], dark: bool) -> None:
    rng = add.rng
    there = [*every, *(k for n in every for k in names.kinds(n)), *(SOMEONE if PEOPLE in every else ())]
    if there and rng.random() < 0.5:
        name = rng.choice(every) if rng.random() < 0.6 else rng.choice(there)
    else:
        name = PEOPLE if rng.random() < 0.08 else rng.choice(list(SOMEONE)) if rng.random() < 0.05 else draw_name(rng)
        if every and rng.random() < 0.3:  # one that is alike
            kinds = names.kinds(rng.choice(every))
            alike = [n for n in CLASSES if kinds and kinds[-1] in names.kinds(n)]
            name = rng.choice(alike) if alike else name
    looked_for = PEOPLE if name in SOMEONE else name
    found = next(
        (s for s in shots if any(is_kind(n, looked_for) for n in (*s.counts, *([s.scene] if s.scene else ())))), None
    )
    many = SOMEONE.get(name) or names.plural(name)
    article = a(name) if name not in SOMEONE else f"a {name}"
    question = rng.choice(IS_THERE).format(a=article, many=many)
    if looked_for == PEOPLE and rng.random() < 0.15:
        question = rng.choice(
            ("Is anybody there?", "Is somebody in the picture?", "Is anyone visible?", "Are people shown?")
        )
    if found is not None:
        which = [n for n in found.counts if is_kind(n, looked_for)]
        if which:
            said = (
                f"there {'is' if found.counts[which[0]] == 1 else 'are'} {number_of(which[0], found.counts[which[0]])}"
            )
        else:
            said = f"there is {a(found.scene)}"
            which = [found.scene]
        add("is", question, f"yes, {said}.", _evidence(found, *which))
    elif dark:
        add("is", question, "no, the picture is black.", _all_shown(shots))
    else:
        add(
            "is",
            question,
            f"no, you see no {many if looked_for == PEOPLE else name}." if rng.random() < 0.99 else "no.",
        )


def _ask_kind(shots: Sequence[Reported], add: _Asked, every: Sequence[str], nothing: str) -> None:
    rng = add.rng
    present = [k for k in KINDS if any(is_kind(n, k) for n in every)]
    kind = rng.choice(present) if present and rng.random() < 0.75 else rng.choice(KINDS[:5])
    many = names.plural(kind)
    wordings = (f"What {kind} do you see?", f"Which {kind} do you see?", f"What {many} do you see?", f"Which {many} are there?",
                f"What kind of {kind} is it?", f"What {kind} is shown?", f"Which {kind} is in the picture?", f"Name the {kind}.",
                f"What {kind} is this?")  # fmt: skip
    found = [s for s in shots if things(s, kind)]
    known = {n for s in found for n in (*s.counts, s.scene) if n and is_kind(n, kind)}
    if known == {kind}:
        add("see", wordings, f"I cannot tell which {kind} it is.", [e for s in found for e in _evidence(s, kind)])
    elif found:
        said = [joined(things(s, kind)) for s in found]
        said = [s for i, s in enumerate(said) if not i or s != said[i - 1]]
        chosen = [e for s in found for e in _evidence(s) if is_kind(e.thing, kind)]
        add("see", wordings, f"{said[0]}." if len(said) == 1 else f"first {', then '.join(said[:3])}.", chosen)
        if len(found) > 1 and said[0] != said[-1]:
            add("first", (f"Which {kind} is seen first?", f"Which {kind} do you see first?", f"What {kind} comes first?"),
                f"{said[0]}.", [e for e in _evidence(found[0]) if is_kind(e.thing, kind)])  # fmt: skip
            add("last", (f"Which {kind} is seen last?", f"Which {kind} do you see last?", f"What {kind} comes last?"),
                f"{said[-1]}.", [e for e in _evidence(found[-1]) if is_kind(e.thing, kind)])  # fmt: skip
    else:
        none = (
            "none, the picture is black."
            if nothing == BLACK
            else f"I cannot see {a(kind) if names.article(kind) else f'any {kind}'}."
        )
        add("none", wordings, none, _all_shown(shots) if nothing == BLACK else ())


def _ask_text(shots: Sequence[Reported], add: _Asked, texts: Sequence[str]) -> None:
    rng = add.rng
    if not texts:
        if rng.random() < 0.35:
            add("none", [w.format(sign=rng.choice(SIGNS)) for w in READ], "I cannot read any text.")
        if rng.random() < 0.1:
            add(
                "is",
                ("Is there any text?", "Is there text on screen?", "Can you read anything?"),
                "no, I cannot read any text.",
            )
        return
    quoted = joined([f'"{t}"' for t in texts[:3]])
    for _ in range(2):
        add("read", [w.format(sign=rng.choice(SIGNS)) for w in READ], f"it says {quoted}.", _read(shots))
    if rng.random() < 0.2:
        add(
            "is",
            ("Is there any text?", "Is there text on screen?", "Can you read anything?"),
            f"yes, it says {quoted}.",
            _read(shots),
        )
    for what, pattern in (("year", r"\b(?:19|20)\d\d\b"), ("number", r"\b\d+\b")):
        with_it = [(m.group(), t) for t in texts if (m := re.search(pattern, t))]
        if with_it:
            number, line = with_it[0]
            add("read", (f"Which {what} is shown?", f"What {what} do you see?", f"Which {what} is written there?", f"What is the {what}?"),
                f"{number}.", [e for e in _read(shots) if line in e.thing])  # fmt: skip
    named = [t for t in texts if not any(c.isdigit() for c in t)]
    if named and rng.random() < 0.3:
        add("read", ("Which name is shown?", "What name is on the sign?", "What is the name?", "What is it called?"),
            f'"{named[0]}".', [e for e in _read(shots) if named[0] in e.thing])  # fmt: skip
    first = next(s for s in shots if s.texts)
    if first.texts_s[0] > 1 and rng.random() < 0.5:
        add("when", ("When does the text appear?", "At which second does the title appear?", "When is the sign shown?"),
            f"{seconds(first.texts_s[0])}.", _read([first])[:1])  # fmt: skip
    if len(texts) > 1:
        which, line = rng.choice((("first", texts[0]), ("last", texts[-1])))
        add("read", (f"What does the {which} {rng.choice(SIGNS)} say?", f"Which text is shown {which}?", f"What do you read {which}?"),
            f'it says "{line}".', [e for e in _read(shots) if e.thing == f"text '{line}'"])  # fmt: skip


def _ask_order(shots: Sequence[Reported], add: _Asked, every: Sequence[str]) -> None:
    rng = add.rng
    for kind, shot, wordings in (
        ("first", shots[0], ("What is seen first?", "What do you see first?", "What do you see at the beginning?", "What is shown first?",
                             "What does the video show at the start?", "What comes first in the picture?")),
        ("last", shots[-1], ("What is seen last?", "What do you see last?", "What do you see at the end?", "What is shown last?",
                             "What does the video show at the end?", "What comes last in the picture?")),
    ):  # fmt: skip
        said = UNSURE if shot.unsure else f"{seen_in(shot)}."
        add(kind, wordings, said, _evidence(shot))
    shot = rng.choice(shots)
    second = round((shot.start_s + shot.end_s) / 2)
    if shot.start_s + 0.5 < second < shot.end_s - 0.5:
        near = [
            SceneEvidence("video", max(shot.start_s, second - 1.1), min(shot.end_s, second + 1.1), e.thing)
            for e in _evidence(shot)
        ]
        add("see at", (f"What do you see at second {second}?", f"What is shown at {second} seconds?", f"What do you see at 0:{second:02d}?",
                       f"What is in the picture after {second} seconds?"),
            UNSURE if shot.unsure else f"{seen_in(shot)}.", near)  # fmt: skip
    for name in rng.sample(every, min(2, len(every))):
        having = [s for s in shots if name in (*s.counts, s.scene)]
        first = having[0]
        at_once = first.start_s < 0.5 and rng.random() < AT_ONCE
        the = f"the {name}" if first.counts.get(name, 1) == 1 else f"the {names.plural(name)}"
        verb = "does" if first.counts.get(name, 1) == 1 else "do"
        when = f"{seconds(first.start_s)}." if first.start_s >= 0.5 else "at 0 seconds, from the beginning."
        if not at_once:
            be = "is" if verb == "does" else "are"
            asked = the if rng.random() < 0.7 else number_of(name, 1) if verb == "does" else names.plural(name)
            add("when", (f"When {verb} {asked} appear?", f"At which second {verb} {asked} appear?", f"At what second do you see {asked}?",
                         f"When do you see {asked}?", f"When do you first see {asked}?", f"When {be} {asked} first seen?", f"When {be} {asked} shown?"),
                when, [*_evidence(first, name), *_cut(shots, first)])  # fmt: skip
        at = shots.index(having[-1])
        if len(having) == 1 and at + 1 < len(shots):
            after = shots[at + 1]
            add("after", (f"What do you see after {the}?", f"What is shown after {the}?", f"What comes after {the}?"),
                UNSURE if after.unsure else f"{seen_in(after)}.", [*_evidence(first, name), *_evidence(after)])  # fmt: skip
        if len(having) == 1 and at > 0:
            before = shots[at - 1]
            add("before", (f"What do you see before {the}?", f"What is shown before {the}?", f"What comes before {the}?"),
                UNSURE if before.unsure else f"{seen_in(before)}.", [*_evidence(first, name), *_evidence(before)])  # fmt: skip


def _ask_where(shots: Sequence[Reported], add: _Asked) -> None:
    rng = add.rng
    placed = [
        (n, b, s)
        for s in shots
        for n, b in s.boxes.items()
        if n in s.counts and len(b) <= 3 and sum(n in o.counts for o in shots) == 1
    ]
    if placed:
        name, boxes, shot = rng.choice(placed)
        the = f"the {name}" if len(boxes) == 1 else f"the {names.plural(name)}"
        verb = "is" if len(boxes) == 1 else "are"
        where = joined(list(dict.fromkeys(place_of(b) for b in boxes)))
        add("where", (f"Where {verb} {the}?", f"Where do you see {the}?", f"In which part of the picture {verb} {the}?"),
            f"{the} {verb} {where}.", _evidence(shot, name))  # fmt: skip


# --- sound, and both --------------------------------------------------------------------------------------------------


def _sound_begins(thing: Thing) -> tuple[str, ...]:
    """Questions for the second at which it begins."""
    verb = VERBS.get(thing.name)
    the = thing.the
    if thing.group == "instrument":
        return (f"At which second does {the} begin?", f"When does {the} start to play?", "At which second does the music begin?",
                "When does the music start?", f"When does {the} begin?", f"At what second does {the} come in?")  # fmt: skip
    more = (
        (
            f"At which second does {the} begin to {verb}?",
            f"When does {the} start to {verb}?",
            f"When does {the} {verb}?",
        )
        if verb
        else ()
    )
    return (*more, *more, f"At which second does {the} begin?", f"When does {the} begin?", f"When do you first hear {the}?",
            f"At what second do you hear {the}?")  # fmt: skip


def _ask_sound_times(story: Story, add: _Asked) -> None:
    sounding = [p for p in story.sounds if p.things or p.speech]
    instruments = [p for p in sounding if any(t.group == "instrument" for t in p.things)]
    for part in sounding:
        if part.start_s < 0.5 and add.rng.random() < AT_ONCE:
            continue
        if len(part.things) == 1 and sum(part.things[0] in p.things for p in sounding) == 1:
            wordings = _sound_begins(part.things[0])
            if len(instruments) > 1:
                wordings = tuple(w for w in wordings if "the music begin" not in w and "the music start" not in w)
            add(
                "when",
                wordings,
                f"{seconds(part.start_s)}.",
                [SceneEvidence("audio", part.start_s, min(part.end_s, part.start_s + 1.0))],
            )
        elif part.speech and sum(bool(p.speech) for p in sounding) == 1:
            add("when", ("When does the voice begin?", "At which second does someone speak?", "When does somebody begin to speak?"),
                f"{seconds(part.start_s)}.", [SceneEvidence("audio", part.start_s, min(part.end_s, part.start_s + 1.0))])  # fmt: skip


def _ask_nothing_heard(story: Story, add: _Asked) -> None:
    if not any(p.things or p.speech for p in story.sounds):
        said = "nothing, it is silent." if story.track is not None else "nothing, there is no sound."
        add(
            "none",
            ("What is heard?", "What can you hear?", "Which sounds are there?", "What do you hear in this clip?"),
            said,
        )
        add("none", ("What is said?", "What does the person say?", "Which words are spoken?"), said)
    elif not any(p.speech for p in story.sounds) and add.rng.random() < 0.3:
        add("none", ("What is said?", "What does the person say?", "What does the man say?"), "nothing is said.")


def _ask_while(story: Story, add: _Asked) -> None:
    rng = add.rng
    sounding = [p for p in story.sounds if p.things or p.speech]
    for part in sounding:
        during = [s for s in story.shots if s.start_s < part.end_s - 0.5 and s.end_s > part.start_s + 0.5]
        wordings = _while_it_sounds(part, sounding)
        if len(story.shots) == 1 and rng.random() < 0.75:
            continue  # only where the picture changes does the time matter
        if wordings and (len(during) == 1 or (len(during) == 2 and rng.random() < 0.4)):
            said = _seen(during)[:-1]
            if during[0].unsure and len(during) == 1:
                said = UNSURE[:-1]  # text is not what was asked for
            add(
                "while",
                wordings,
                f"{said}.",
                [SceneEvidence("audio", part.start_s, part.end_s), *_all_shown(during)],
            )
    for shot in story.shots:
        during_s = [p for p in sounding if p.start_s < shot.end_s - 0.4 and p.end_s > shot.start_s + 0.4]
        label = next(iter(shot.counts), shot.scene)
        if label and sum(label in (*s.counts, s.scene) for s in story.shots) == 1 and len(story.shots) > 1:
            asked = (
                f"What do you hear while you see the {label}?",
                f"What sounds while the {label} is shown?",
                f"What do you hear while the {label} is visible?",
            )
            if not during_s:
                add("while", asked, "nothing.", _evidence(shot, label))
            elif len(during_s) == 1:
                add(
                    "while",
                    asked,
                    f"you hear {_heard(during_s[0])}.",
                    [*_evidence(shot, label), SceneEvidence("audio", during_s[0].start_s, during_s[0].end_s)],
                )
    if len(sounding) == 1 and len(sounding[0].things) == 1 and rng.random() < 0.5:
        thing = sounding[0].things[0]
        shown = next((s for s in story.shots if any(is_kind(n, thing.name) for n in (*s.counts, s.scene) if n)), None)
        hidden = (
            "Can you see the thing that makes the sound?",
            "Do you see what you hear?",
            "Is the source of the sound visible?",
        )
        if shown is not None:
            add(
                "visible",
                hidden,
                f"yes, you hear {thing.a} and see it.",
                [*_evidence(shown, thing.name), *_all_heard(sounding)],
            )
        else:
            add("visible", hidden, f"no, you hear {thing.a}, but you do not see it.", _all_heard(sounding))


def _while_it_sounds(part: Heard, sounding: Sequence[Heard]) -> list[str]:
    """Wordings of what is seen meanwhile; none where it is not the only sound of its name."""
    if part.speech and sum(bool(p.speech) for p in sounding) == 1:
        return ["What do you see while the voice speaks?", "What is shown while someone speaks?", "What do you see when the voice speaks?",
                "What is in the picture while somebody talks?", "What do you see while you hear the voice?"]  # fmt: skip
    if len(part.things) != 1 or sum(part.things[0] in p.things for p in sounding) != 1:
        return []
    thing = part.things[0]
    verb = VERBS.get(thing.name)
    wordings = [f"What do you see while {thing.the} sounds?", f"What do you see while you hear {thing.the}?", f"What do you see when you hear {thing.the}?",
                f"What is shown while {thing.the} is heard?", f"What is in the picture when {thing.the} sounds?", f"What is shown while you hear {thing.the}?"]  # fmt: skip
    if thing.group == "instrument":
        wordings += [f"What do you see while {thing.the} plays?", f"What is shown while {thing.the} is playing?"]
    return wordings + ([f"What do you see while {thing.the} {verb}s?"] * 3 if verb else [])


def _heard(part: Heard) -> str:
    if part.speech:
        return f'a voice that says: "{part.speech.strip()}"'
    return joined([t.a for t in part.things])


def _ask_unknowable(story: Story, add: _Asked) -> None:
    rng = add.rng
    if rng.random() < 0.5:
        named = [n for s in story.shots for n in s.counts]
        the = f"the {rng.choice(named) if named and rng.random() < 0.8 else rng.choice(CLASSES)}"
        add(
            "cannot",
            rng.choice(UNKNOWABLE).format(the=the, person=rng.choice(("man", "woman", "person", "child"))),
            rng.choice(CANNOT),
        )


def _description(story: Story) -> str:
    shots, sounding = story.shots, [p for p in story.sounds if p.things or p.speech]
    said = []
    if shots and all(s.black for s in shots) and not sounding:
        return "Nothing happens: the picture is black and there is no sound."
    if story.seen is None:
        said.append("There is no picture.")
    elif all(s.black for s in shots):
        said.append("The picture is black.")
    else:
        said.append(_seen(shots))
        texts = [t for s in shots for t in s.texts]
        if texts and not all(s.unsure for s in shots):
            said.append(f"""The text says {joined([f'"{t}"' for t in texts[:2]])}.""")
    if story.track is None:
        said.append("There is no sound.")
    elif not sounding:
        said.append("It is silent.")
    else:
        said.append(f"You hear {', then '.join(_heard(p) for p in sounding[:4])}.")
    return " ".join(s[0].upper() + s[1:] for s in said)
