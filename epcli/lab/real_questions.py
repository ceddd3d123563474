"""Questions about a scene of real photographs (real.py), in the words of people, with patterns for free answers.

An answer is right if it says what is there, coarsely or exactly, and names nothing that is not there.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from epcli.lab.photographs import Photo, matches, named
from epcli.lab.questions import SceneEvidence, SceneQuestion
from epcli.lab.sources.catalog import table

if TYPE_CHECKING:
    from epcli.lab.real import RealScene, Sighting, Sounding, Title

NUMBERS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip
# Before a name: "no dog" and "not a dog" do not name a dog.
NEGATED = "".join(f"(?<!{w} )" for w in ("no", "not a", "not an", "not the", "not", "without a", "without"))
UNSURE = r"(?:cannot|can't|can not|unable|impossible|don't|do not) (?:see|hear|tell|say|know)"
NOTHING_SEEN = (
    r"\bnothing\b|\bnone\b|\bblack\b|\bdark|\bblank\b|\bempty\b|\bnobody\b|\bno (?:picture|image|video|visible|objects?"
    rf"|people|things?|one|body)|{UNSURE}|not (?:visible|shown|known|clear)|^\W*no\b|\bno\W*$"
)
NOTHING_HEARD = (
    r"\bnothing\b|\bnone\b|\bsilen|\bquiet\b|\bnobody\b|\bno (?:sound|audio|speech|words?|voices?|music|instruments?"
    rf"|one|noise)|{UNSURE}|^\W*no\b|not (?:said|spoken)"
)
NEGATION = r"^\W*no\b|\bno (?!doubt)|\bnot\b|n't\b|\bcannot\b"
YES, DENIES = r"\byes\b|\byeah\b", r"^\W*no\b|\bno\b|\bnot\b|n't\b|\bnone\b|\bnothing\b|\bcannot\b|\bnobody\b"
PEOPLE_WORDS = ("man", "men", "woman", "women", "people", "person", "boy", "girl")
LEAST_S = 8.0  # of a film in which times are asked for: in shorter ones a guess is near
FEW = {1: r"^\W*an? (?:man|woman|person)\b|\bsingle\b", 2: r"\bcouple\b|\bpair\b"}
SEVERAL = r"\bseveral\b|\ba few\b|\bgroup\b"
NEAR_S = 1  # a time may be off by so many whole seconds
NOBODY, NOBODY_IN_BLACK = 0.08, 0.35  # how often people are to be counted where there are none
CASUAL = 0.15  # share of questions in lower case, without a question mark

SEE = (
    "What do you see?",
    "What is in the video?",
    "What does the clip show?",
    "What can be seen?",
    "What is shown here?",
)
WHO = ("Who do you see?", "Who is in the video?", "What do you see?", "Who can be seen?")
ANIMAL = ("What animal do you see?", "Which animal is this?", "What do you see?", "what animal is that")
PEOPLE = ("How many people are there?", "How many people do you see?", "How many persons are in the video?")
READ = ("What does the title say?", "What is written on the screen?", "Which words are shown?", "Read the text.")
SIGN = ("What does the sign say?", "What is written there?", "Which words can be read?", "Read the sign.")
DESCRIBE = ("Describe the clip.", "Describe the video.", "What happens in this clip?", "Tell me what the video shows.")
HEAR = ("What do you hear?", "What can be heard?", "What sound is this?", "Which sound do you hear?")
SAID = ("What is said?", "What does the voice say?", "What does the speaker say?")
IS = ("Is there {}?", "Is there {} in the video?", "Do you see {}?", "Can you see {}?")


def ask(scene: RealScene, rng: random.Random) -> list[SceneQuestion]:
    """Every question that this scene answers."""
    found = [*_seen(scene, rng), *_read(scene, rng), *_heard(scene, rng), *_both(scene, rng)]
    return [_casual(q) if rng.random() < CASUAL else q for q in found]


def _casual(question: SceneQuestion) -> SceneQuestion:
    text = question.question.rstrip("?.").lower().replace("what is ", "whats ")
    return SceneQuestion(question.type, text, question.answer, question.accept, question.reject, question.evidence)


def _question(
    rng: random.Random,
    kind: str,
    wordings: Sequence[str],
    answer: str,
    accept: str,
    reject: str = "",
    evidence: Iterable[SceneEvidence] = (),
) -> SceneQuestion:
    sentence = answer[0].upper() + answer[1:].rstrip(".")
    return SceneQuestion(kind, rng.choice(wordings), f"{sentence}.", accept, reject, tuple(evidence))


# --- Patterns -------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _everyday() -> tuple[str, ...]:
    return tuple(table("footage")["names"].split())


def falsely(*allowed: str, people: bool = False) -> str:
    """A pattern for everyday names other than those allowed (patterns as in photographs.tsv).

    Names of people are among them unless `people`.
    """
    others = [w for w in _everyday() if not any(a and matches(a, w) for a in allowed)]
    return f"{NEGATED}{named('|'.join([*others, *([] if people else PEOPLE_WORDS)]))}"


def _peopled(photos: Iterable[Photo]) -> bool:
    """Whether people may be in these photographs."""
    return any(p.group == "person" or p.people != 0 for p in photos)


def counted(number: int, *, slack: int = 0) -> str:
    """A pattern for a number, in digits or words."""
    return rf"(?<![\d.:])(?:{_digits(number, slack)})(?![\d.:]*\d)|\b(?:{_words(number, slack)})\b"


def miscounted(number: int, *, slack: int = 0) -> str:
    """A pattern for any other number up to 20."""
    right = range(number - slack, number + slack + 1)
    digits = "|".join(str(n) for n in range(21) if n not in right)
    words = "|".join(w for n, w in enumerate(NUMBERS) if n not in right)
    nobody = r"|\bnobody\b|\bno one\b|\bno people\b|\bnone\b" if number else ""
    return rf"(?<![\d.:])(?:{digits})(?![\d.:]*\d)|\b(?:{words})\b{nobody}"


def _digits(number: int, slack: int) -> str:
    return "|".join(str(n) for n in range(max(0, number - slack), number + slack + 1))


def _words(number: int, slack: int) -> str:
    return "|".join(NUMBERS[max(0, number - slack) : number + slack + 1]) or "-"


def at_second(second: float) -> str:
    """A pattern for an answer whose first number is this second, give or take NEAR_S: 4, 4.0 s, 0:04, four."""
    near = range(max(0, round(second) - NEAR_S), round(second) + NEAR_S + 1)
    digits = "|".join(str(n) for n in near)
    number = rf"^[^\d]*?(?:0?0:)?0?(?:{digits})(?:[.,]\d+)?(?![:\d])"
    words = "|".join(NUMBERS[n] for n in near if n < len(NUMBERS))
    if not words:
        return number
    others = "|".join(w for n, w in enumerate(NUMBERS) if n not in near)
    return rf"{number}|^(?:(?!\b(?:{others})\b|\d).)*\b(?:{words})\b"


def _right_of(sound: Sounding, *others: Sounding) -> str:
    """What the sound may be called; coarsely, if that tells it from the others."""
    if sound.words:
        voice = "voice|speech|speak|spoken|talk|says|said|saying|someone|somebody|woman|man|person|human"
        return rf"\b(?:{voice}|{sound.accept})"
    coarse = "|music|instrument" if sound.instrument and not any(o.instrument for o in others) else ""
    return rf"\b(?:{sound.accept}{coarse})"


def _wrong_sounds(*right: Sounding) -> str:
    """Other sounds that people can name."""
    known = {
        "dog": "bark|barks|barking|dog",
        "cat": "cat|meow",
        "piano": "piano",
        "guitar": "guitar",
        "drum": "drums?",
        "bird": "bird",
        "cow": "cow",
        "train": "train",
        "siren": "siren",
        "trumpet": "a trumpet",
        "violin": "violin",
    }
    names = [names for key, names in known.items() if not any(matches(s.accept, key) for s in right)]
    return f"{NEGATED}{named('|'.join(names))}"


# --- What is seen ---------------------------------------------------------------------------------


def _span(sighting: Sighting) -> SceneEvidence:
    return SceneEvidence("video", sighting.start_s, sighting.end_s)


def _seen(scene: RealScene, rng: random.Random) -> list[SceneQuestion]:
    shown = [s for s in scene.sightings if s.photo is not None]
    photos = scene.photos
    if not shown:
        return _nothing_seen(scene, rng)
    spans = [_span(s) for s in shown]
    said = [t.accept for t in scene.titles]
    false = falsely(*(p.possible for p in photos), *said, people=_peopled(photos))
    out = []
    if len(photos) == 1:
        photo = photos[0]
        wordings = {"person": WHO, "animal": ANIMAL}.get(photo.group, SEE)
        wording = rng.choice(wordings)
        right = photo.accept if "animal" in wording.lower() else photo.true
        out.append(_question(rng, "see", [wording], photo.answer, named(right), false, spans))
    elif len(photos) <= 3:
        answer = ", then ".join(p.answer for p in photos)
        out.append(_question(rng, "see", SEE, answer, named("|".join(p.true for p in photos)), false, spans))
    out += _counts(scene, rng, photos, spans)
    out += _is_there(scene, rng, photos, spans)
    if len(shown) > 1:
        for kind, photo, sighting in (("first", photos[0], shown[0]), ("last", photos[-1], shown[-1])):
            apart = _other_names(photo, [p for p in photos if p is not photo])
            reject = f"{apart}|{falsely(photo.possible, *said, people=_peopled([photo]))}"
            asked = (f"What is seen {kind}?", f"What do you see {kind}?", f"What is shown {kind}?")
            out.append(_question(rng, kind, asked, photo.answer, named(photo.right), reject, [_span(sighting)]))
        if scene.footage.duration_s >= LEAST_S:
            out += _when_seen(rng, shown)
    return out


def _nothing_seen(scene: RealScene, rng: random.Random) -> list[SceneQuestion]:
    if scene.titles:
        return []
    answer = "nothing, the picture is black"
    spans = [_span(s) for s in scene.sightings]
    wordings = (*SEE, "What animal do you see?", "Who do you see?", "What is written on the screen?")
    absent = [w.format(_absent(scene, rng)[0]) for w in IS]
    out = [
        _question(rng, "none", wordings, answer, NOTHING_SEEN, falsely(), spans),
        _question(rng, "is", absent, f"no, {answer}", DENIES, YES, spans),
    ]
    if rng.random() < NOBODY_IN_BLACK:
        accept = rf"{counted(0)}|\bno\b|{NOTHING_SEEN}"
        out.append(_question(rng, "count", PEOPLE, "none, it is black", accept, miscounted(0), spans))
    return out


def _counts(
    scene: RealScene, rng: random.Random, photos: Sequence[Photo], spans: Sequence[SceneEvidence]
) -> list[SceneQuestion]:
    out = []
    people = [p.people for p in photos]
    here = [s for s in scene.sightings if s.photo is not None and s.photo.people]
    if None not in people:
        number = sum(n or 0 for n in people)
        slack = 1 if number > 4 else 0
        if number:
            extra = (
                r"|\bseveral\b|\ba few\b|\bgroup\b" if number > 2 else r"|\bcouple\b|\bpair\b" if number == 2 else ""
            )
            extra += r"|^\W*an? (?:man|woman|person)\b|\bsingle\b" if number == 1 else ""
            accept = f"{counted(number, slack=slack)}|{FEW.get(number, SEVERAL)}"
            out.append(
                _question(
                    rng, "count", PEOPLE, NUMBERS[number], accept, miscounted(number, slack=slack), map(_span, here)
                )
            )
        elif rng.random() < NOBODY:
            accept = rf"{counted(0)}|\bno\b|\bnone\b|\bnobody\b|\bnothing\b|{UNSURE}"
            out.append(_question(rng, "count", PEOPLE, "none", accept, miscounted(0), spans))
    for sighting in scene.sightings:
        if sighting.photo is not None and sighting.photo.count is not None:
            number, what = sighting.photo.count
            slack = 1 if number > 4 else 0
            asked = (f"How many {what} are there?", f"How many {what} do you see?")
            accept = f"{counted(number, slack=slack)}|{FEW.get(number, SEVERAL)}"
            reject = miscounted(number, slack=slack)
            out.append(_question(rng, "count", asked, NUMBERS[number], accept, reject, [_span(sighting)]))
    return out


def _is_there(
    scene: RealScene, rng: random.Random, photos: Sequence[Photo], spans: Sequence[SceneEvidence]
) -> list[SceneQuestion]:
    out = []
    sighting = rng.choice([s for s in scene.sightings if s.photo is not None])
    assert sighting.photo is not None
    if (name := _present(sighting.photo, rng)) is not None:
        noun = name.split()[-1]
        wordings = [w.format(name) for w in IS]
        accept = rf"{YES}|{re.escape(noun)}"
        out.append(_question(rng, "is", wordings, f"yes, there is {name}", accept, NEGATION, [_span(sighting)]))
    if absent := _absent(scene, rng):
        wordings = [w.format(absent[0]) for w in IS]
        out.append(_question(rng, "is", wordings, f"no, there is not {absent[0]}", DENIES, YES, spans))
    return out


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _present(photo: Photo, rng: random.Random) -> str | None:
    """Something in the photograph, as people would ask for it."""
    surest = "|".join(photo.accept.split("|")[:2])  # the others may be what it is only nearly
    common = [w for w in table("footage")["common"].split() if matches(surest, w)]
    if common and (rng.random() < 0.7 or not photo.answer.startswith(("a ", "an "))):
        return _with_article(rng.choice(common))
    return " ".join(photo.answer.split()[:2]) if re.fullmatch(r"an? \w+", photo.answer) else None


def _absent(scene: RealScene, rng: random.Random) -> list[str]:
    """Things neither seen nor heard, nor nearly so, in a drawn order."""
    names = table("footage")["absent"].split()
    possible = [p.possible for p in scene.photos] + [s.accept for s in scene.sounds or ()]
    left = [_with_article(n) for n in names if not any(matches(p, n) for p in possible)]
    if all(p.people == 0 and p.group != "person" for p in scene.photos):
        left += ["a person", "a man"]
    return rng.sample(left, len(left))


def _other_names(photo: Photo, others: Sequence[Photo]) -> str:
    """What only the others show."""
    words = [w for p in others for w in p.accept.split("|") if not matches(photo.possible, w.replace("?", ""))]
    return f"{NEGATED}{named('|'.join(words))}"


def _when_seen(rng: random.Random, shown: Sequence[Sighting]) -> list[SceneQuestion]:
    sighting = rng.choice(shown[1:])
    assert sighting.photo is not None
    what = sighting.photo.answer
    one = what.split()[0] in ("a", "an", "the") and " and " not in what
    does, is_ = ("does", "is") if one else ("do", "are")
    wordings = (
        f"At which second {does} {what} appear?",
        f"When {does} {what} appear?",
        f"When {is_} {what} first seen?",
    )
    second = round(sighting.start_s)
    reject = r"\b(?:never|does not|doesn't)\b"
    return [_question(rng, "when", wordings, f"at {second} s", at_second(sighting.start_s), reject, [_span(sighting)])]


def _read(scene: RealScene, rng: random.Random) -> list[SceneQuestion]:
    out = []
    if len(scene.titles) == 1:
        title: Title = scene.titles[0]
        span = SceneEvidence("video", title.start_s, title.end_s)
        out.append(_question(rng, "read", READ, title.text, title.accept, "", [span]))
    elif len(scene.titles) == 2:
        for title, which in zip(scene.titles, ("first", "last"), strict=True):
            span = SceneEvidence("video", title.start_s, title.end_s)
            other = next(t for t in scene.titles if t is not title)
            wordings = (f"What does the {which} title say?", f"Which title is shown {which}?")
            out.append(_question(rng, "read", wordings, title.text, title.accept, other.accept, [span]))
    for sighting in scene.sightings:
        if sighting.photo is not None and sighting.photo.text and not scene.titles:
            text = sighting.photo.text
            accept = "|".join(re.escape(w) for w in text.split())
            out.append(_question(rng, "read", SIGN, text, rf"\b(?:{accept})", "", [_span(sighting)]))
    return out


# --- What is heard --------------------------------------------------------------------------------


def _sound_span(sound: Sounding) -> SceneEvidence:
    return SceneEvidence("audio", sound.start_s, sound.end_s)


def _heard(scene: RealScene, rng: random.Random) -> list[SceneQuestion]:
    sounds = scene.sounds or ()
    asked: Sequence[str]
    if not sounds:
        asked = (*HEAR, "Is there any sound?", "What is said?", "What instrument plays?")
        return [_question(rng, "none", asked, "nothing, there is no sound", NOTHING_HEARD, _wrong_sounds())]
    out = []
    spoken = [s for s in sounds if s.words]
    answer = ", then ".join(_called(s) for s in sounds)
    if len(sounds) <= 2:
        accept = "|".join(map(_right_of, sounds))
        asked = [*HEAR, "What instrument plays?"] if all(s.instrument for s in sounds) else HEAR
        out.append(_question(rng, "hear", asked, answer, accept, _wrong_sounds(*sounds), map(_sound_span, sounds)))
    if len(spoken) == 1:
        out.append(
            _question(rng, "said", SAID, spoken[0].words, rf"\b(?:{spoken[0].accept})", "", [_sound_span(spoken[0])])
        )
    elif not spoken:
        out.append(_question(rng, "none", SAID, "nothing is said", NOTHING_HEARD))
    if len(sounds) > 1:
        for kind, sound in (("first", sounds[0]), ("last", sounds[-1])):
            others = [s for s in sounds if s is not sound]
            asked = (f"What is heard {kind}?", f"What do you hear {kind}?", f"Which sound comes {kind}?")
            reject = rf"{NEGATED}\b(?:{'|'.join(o.accept for o in others)})\b"
            right = _right_of(sound, *others)
            out.append(_question(rng, kind, asked, _called(sound), right, reject, [_sound_span(sound)]))
    later = [s for s in sounds if s.start_s >= 2.0]
    if later and scene.footage.duration_s >= LEAST_S:
        sound = rng.choice(later)
        voice = "the voice" if sound.words else f"the {sound.name}"
        what = "the speech" if sound.words else f"the sound of the {sound.name}"
        asked = (f"At which second does {what} begin?", f"When does {what} begin?", f"When do you first hear {voice}?")
        second = round(sound.start_s)
        reject = r"\b(?:never|does not|doesn't)\b"
        accept = at_second(sound.start_s)
        out.append(_question(rng, "when", asked, f"at {second} s", accept, reject, [_sound_span(sound)]))
    return out


def _called(sound: Sounding) -> str:
    if sound.words:
        return f'a voice that says "{sound.words.rstrip(".")}"'
    return f"the sound of {sound.name_with_article}"


# --- Both -----------------------------------------------------------------------------------------


def _both(scene: RealScene, rng: random.Random) -> list[SceneQuestion]:
    photos, sounds = scene.photos, scene.sounds or ()
    out = []
    if photos and len(photos) <= 3:
        spans = [_span(s) for s in scene.sightings if s.photo is not None]
        allowed = [*(p.possible for p in photos), *(s.accept for s in sounds), *(t.accept for t in scene.titles)]
        right = named("|".join(p.true for p in photos))
        answer = ", then ".join(p.answer for p in photos)
        false = falsely(*allowed, people=_peopled(photos) or any(s.words for s in sounds))
        out.append(_question(rng, "describe", DESCRIBE, answer, right, false, spans))
    elif not photos and not sounds and not scene.titles:
        reject = rf"{falsely()}|\bplays\b|\bbarks\b"
        accept = f"{NOTHING_SEEN}|{NOTHING_HEARD}"
        out.append(_question(rng, "none", DESCRIBE, "nothing, it is black and silent", accept, reject))
    shown = [s for s in scene.sightings if s.photo is not None]
    for sound in rng.sample(sounds, len(sounds)):
        during = [s for s in shown if min(s.end_s, sound.end_s) - max(s.start_s, sound.start_s) > 0.3]
        if len(shown) > 1 and len(during) == 1 and sound.start_s >= during[0].start_s - 0.3:
            photo = during[0].photo
            assert photo is not None
            others = [s.photo for s in shown if s.photo is not None and s.photo is not photo]
            what = "the voice speaks" if sound.words else f"you hear the {sound.name}"
            wordings = (f"What do you see while {what}?", f"What is shown while {what}?")
            false = falsely(photo.possible, people=_peopled([photo]) or bool(sound.words))
            reject = f"{_other_names(photo, others)}|{false}"
            spans = [_span(during[0]), _sound_span(sound)]
            out.append(_question(rng, "while", wordings, photo.answer, named(photo.right), reject, spans))
            break
    return out
