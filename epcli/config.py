"""`Profile`: every setting with its default, its unit and its limits, written once; and where settings come from.

    flag > environment (EP_KEEP) > project file (./ep.yaml) > user file > profile (--profile NAME|PATH) > default

Where no profile is named, the hardware decides (hardware.py). `resolve` walks that line and remembers who said what.
The flags' help, docs/configuration.md and the comments of profiles/default.yaml are all made from the fields below.
Every mistake is a UsageError naming the source and the key.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from epcli import hardware
from epcli.errors import UsageError
from epcli.records import ProfileChoice
from epcli.sieve.selectors import SELECTORS, TRAINED, TRAINING_FREE
from epcli.text import did_you_mean, read_text, well_formed

DEFAULT_PROFILE = "default"
ENV_PREFIX = "EP_"
PROJECT_FILE = "ep.yaml"
DEFAULT_KEEP = 0.2  # of a selector, where no share and no budget is given
DEFAULT_LEAST = 160  # tokens, nor fewer than these: a fifth of five seconds is 40


@dataclass(frozen=True)
class Setting:
    """What a setting is, what it accepts and how its flag looks. An int is taken where a float is asked for."""

    group: str  # the flags it stands with: look, answer, tokens or machine
    meaning: str  # one line: what it is, with its unit
    types: tuple[type, ...]  # of a parsed YAML value: bool, int, float, str
    choices: tuple[str, ...] = ()  # the only words accepted
    low: float = 0
    high: float = math.inf
    over: bool = False  # `low` itself is not accepted
    null: str = ""  # what null, leaving it open, means; "" where null is not accepted
    metavar: str = ""  # what stands for the value in the flag's help; the choices where it is empty
    decides: bool = True  # the answer depends on it; not only where and how fast it is computed

    def describe(self) -> str:
        """The accepted values in words, e.g. "a number over 0 up to 1, or auto"."""
        kinds: list[str] = []
        if bool in self.types:
            kinds.append("true or false")
        if int in self.types or float in self.types:
            number = "a number" if float in self.types else "a whole number"
            least = f"over {self.low}" if self.over else f"from {self.low}"
            kinds.append(f"{number} {least} up to {self.high}" if self.high < math.inf else f"{number} {least} up")
        if str in self.types:
            kinds.append("one of " * (len(self.choices) > 1) + ", ".join(self.choices) if self.choices else "text")
        return ", or ".join(kinds)

    def check(self, value: Any, where: str, typed: str | None = None) -> Any:
        """The value in its own type, or a UsageError that `where` opens; `typed` is the text it was parsed from."""
        if value is None and self.null:
            return None
        if isinstance(value, bool):
            right = bool in self.types
        elif isinstance(value, int | float):
            right = type(value) in self.types or float in self.types
            inside = self.low < value if self.over else self.low <= value
            right = right and abs(value) <= _LARGEST and inside and value <= self.high
        else:
            right = isinstance(value, str) and str in self.types and bool(value.strip())
            right = right and (not self.choices or value in self.choices)
        if not right:
            words = {None: "null", True: "true", False: "false"}
            shown = typed or (words[value] if value is None or isinstance(value, bool) else repr(value))
            raise UsageError(f"{where}: {shown} is not {self.describe()}")
        return float(value) if float in self.types and isinstance(value, int) else value

    def parse(self, text: str, where: str) -> Any:
        """A value typed in a shell. An empty text, or "none" for a number, means null where null is accepted."""
        word = text.strip().lower()
        if self.null and (not word or (word == "none" and "none" not in self.choices and not self._free_text)):
            return None
        if bool in self.types and word in _WORDS:
            return self.check(_WORDS[word], where, text)
        for kind in (int, float):
            if kind in self.types:
                try:
                    return self.check(kind(word), where, text)
                except ValueError:
                    continue
        return self.check(text if self._free_text else word, where)

    @property
    def _free_text(self) -> bool:
        return str in self.types and not self.choices


_LARGEST = 2**53  # whole numbers up to here are exact as floats too, and in JSON
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _setting(default: Any, group: str, meaning: str, *types: type, **more: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(group, meaning, types, **more)})


@dataclass(frozen=True)
class Profile:
    """All settings of one run. A wrong value raises UsageError; what None means stands beside the field."""

    model: str = _setting(
        "ep-smol",
        "answer",
        "Model that answers: a name from `ep models list`, a Qwen2.5-Omni folder, or what `ep train` made",
        str,
        metavar="NAME|PATH",
    )
    keep: float | str | None = _setting(
        None,
        "tokens",
        "Share of the sound and picture tokens to keep (cs2 refines them even at 1.0); `auto` decides for each clip",
        float,
        str,
        choices=("auto",),
        over=True,
        high=1,
        null=f"{DEFAULT_KEEP}, but {DEFAULT_LEAST} tokens at least, with a trained sieve or a selector; else all",
        metavar="SHARE|auto",
    )
    budget: int | None = _setting(
        None,
        "tokens",
        "Number of sound and picture tokens to keep, at most, instead of a share",
        int,
        low=1,
        null="no such limit",
        metavar="COUNT",
    )
    selector: str | None = _setting(
        None,
        "tokens",
        "How the kept tokens are chosen; with none, the plain model reads all tokens",
        str,
        choices=tuple(SELECTORS),
        null=f"{TRAINED} if trained; else {TRAINING_FREE} if --keep or --budget is given, or none",
        metavar="NAME",
    )
    fps: float | None = _setting(
        None,
        "look",
        "Frames to sample per second of video",
        float,
        over=True,
        high=120,
        null="the model's own rate",
        metavar="NUMBER",
    )
    max_frames: int | None = _setting(
        None,
        "look",
        "Most frames to sample; a long video gets fewer frames per second",
        int,
        low=1,
        null="the model's own limit",
        metavar="COUNT",
    )
    max_pixels: int | None = _setting(
        None,
        "look",
        "Most pixels in a frame; a larger picture is scaled down",
        int,
        low=28 * 28,
        null="the model's own limit",
        metavar="COUNT",
    )
    video: bool = _setting(True, "look", "Look at the picture", bool)
    audio: bool = _setting(True, "look", "Listen to the sound", bool)
    audio_track: int | None = _setting(
        None,
        "look",
        "Sound track to listen to, 0 for the file's first",
        int,
        null="the file's default track, else its first",
        metavar="INDEX",
    )
    video_track: int | None = _setting(
        None,
        "look",
        "Picture track to look at, 0 for the file's first",
        int,
        null="the longest, or the largest of equally long ones",
        metavar="INDEX",
    )
    device: str = _setting(
        "auto",
        "machine",
        "Device to compute on; `auto` takes the GPU if there is one",
        str,
        choices=("auto", "cpu", "cuda", "mps"),
        decides=False,
    )
    dtype: str = _setting(
        "auto",
        "machine",
        "Number format of weights and activations; `auto` chooses by device",
        str,
        choices=("auto", "bf16", "fp16", "fp32"),
    )
    quantize: str = _setting(
        "none",
        "machine",
        "Quantize the language model's weights to 4 bits (nf4, recommended) or 8 bits (int8)",
        str,
        choices=("none", "nf4", "int8"),
    )
    system: str | None = _setting(None, "answer", "System prompt", str, null="the model's own", metavar="TEXT")
    max_new_tokens: int = _setting(
        128, "answer", "Maximum length of the answer, in tokens", int, low=1, metavar="COUNT"
    )
    temperature: float = _setting(
        0.0,
        "answer",
        "Randomness of the answer; at 0 the model always takes the likeliest token",
        float,
        high=2,
        metavar="NUMBER",
    )
    seed: int = _setting(
        0,
        "answer",
        "Seed of the random numbers, for a temperature over 0 and the selector random",
        int,
        high=2**32 - 1,
        metavar="NUMBER",
    )
    threads: int | None = _setting(
        None, "machine", "CPU threads to compute with", int, low=1, null="all cores", metavar="COUNT", decides=False
    )
    cache: bool = _setting(
        True,
        "machine",
        "Store the encoded features of a file, so that the next question about it starts sooner",
        bool,
        decides=False,
    )
    cache_gb: float = _setting(
        10.0,
        "machine",
        "Most disk space for stored features, in GB; the least recently used are removed first",
        float,
        metavar="GB",
        decides=False,
    )
    cache_dir: str | None = _setting(
        None,
        "machine",
        "Folder for stored features",
        str,
        null="`features` in ep's cache folder",
        metavar="FOLDER",
        decides=False,
    )

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            object.__setattr__(self, name, setting.check(getattr(self, name), name))
        if self.system is not None:
            object.__setattr__(self, "system", well_formed(self.system))
        hardware.check_threads(self.threads, "threads")
        _check_together(vars(self), {name: name for name in SETTINGS})


SETTINGS: dict[str, Setting] = {item.name: item.metadata["setting"] for item in fields(Profile)}
DEFAULTS: dict[str, Any] = {item.name: item.default for item in fields(Profile)}
DECIDING = tuple(name for name, setting in SETTINGS.items() if setting.decides)  # what an answer depends on


def _check_together(values: Mapping[str, Any], said_by: Mapping[str, str]) -> None:
    """What no single setting can tell. `said_by` names each setting's source for the message."""
    if values["keep"] is not None and values["budget"] is not None:
        raise UsageError(f"{said_by['keep']} and {said_by['budget']} both say how much to keep: give one of them")
    if not (values["video"] or values["audio"]):
        raise UsageError(f"{said_by['video']} and {said_by['audio']} leave neither picture nor sound to ask about")


@dataclass(frozen=True)
class Resolved:
    """A profile and who decided each setting: "--keep", "EP_KEEP", "ep.yaml: keep", "profile NAME: keep", "default"."""

    profile: Profile
    sources: dict[str, str]
    profile_name: str
    profile_path: Path
    why: str  # who named the profile, "--profile" or "ep.yaml: profile", or what the hardware is
    automatic: bool  # nobody named it

    def chosen(self) -> ProfileChoice:
        """The profile as a report has it."""
        return ProfileChoice(self.profile_name, self.why)


def resolve(
    flags: Mapping[str, Any] | None = None,
    profile: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Resolved:
    """The settings of a run.

    Args:
        flags: values given on the command line, by setting; None means not given. Texts are parsed.
        profile: name of a shipped profile or path of a YAML file; None asks EP_PROFILE, the files, then the hardware.
        environment: os.environ unless given; its PATH finds nvidia-smi.
        folder: where ep.yaml is looked for, the working folder unless given.

    Raises:
        UsageError: an unknown key or profile, a wrong type, a value out of range, a file that is no YAML mapping.
    """
    environment = os.environ if environment is None else environment
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    layers = [
        _from_flags(given),
        _from_environment(environment),
        _from_file((folder or Path()) / PROJECT_FILE),
        _from_file(user_file(environment)),
    ]
    named = next((layer["profile"] for layer in layers if "profile" in layer), None)
    if profile is not None:
        named = (profile, "--profile")
    if named is None:
        model, device = (next((layer[key][0] for layer in layers if key in layer), None) for key in ("model", "device"))
        choice = hardware.choose(profile_names(), _model_of, environment, model, device)
        name, why = choice.profile, choice.why
    else:
        name, why = named
    path = find_profile(name, "" if profile is not None or named is None else why)
    layers.append(_from_file(path, nested=False))

    values, sources = _merged(layers)
    _check_together(values, sources)
    hardware.check_threads(values["threads"], sources["threads"])
    return Resolved(Profile(**values), sources, name, path, why, automatic=named is None)


def _merged(layers: Sequence[Mapping[str, tuple[Any, str]]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Each setting's value and who decided it; the first layer that names a setting wins."""
    values, sources = dict(DEFAULTS), dict.fromkeys(DEFAULTS, "default")
    for layer in reversed(layers):
        for key, (value, source) in layer.items():
            if key == "profile":
                continue
            values[key], sources[key] = value, source
            # A share and a budget exclude each other: the one said closer to the command line wins.
            rival = {"keep": "budget", "budget": "keep"}.get(key)
            if rival and value is not None and values[rival] is not None and rival not in layer:
                values[rival], sources[rival] = DEFAULTS[rival], source
    return values, sources


def from_python(profile: Profile | str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> Profile:
    """The settings of a call from Python. Neither the environment, nor a settings file, nor the hardware is asked.

    Args:
        profile: what to start from: a profile, the name of a shipped one, the path of a YAML file, or the defaults.
        settings: those given by keyword, which go before it.

    Raises:
        UsageError: an unknown setting or profile, or a value that a setting does not accept.
    """
    for key in settings:
        if key not in SETTINGS:
            raise UsageError(f"{key}: there is no such setting{did_you_mean(key, SETTINGS)}; `Profile` holds them all")
    given = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in settings.items()}
    if profile is None:
        values = dict(DEFAULTS)
    elif isinstance(profile, Profile):
        values = asdict(profile)
    else:
        layer = _from_file(find_profile(os.fspath(profile)), nested=False)
        values = DEFAULTS | {key: value for key, (value, _) in layer.items()}
    for key, rival in (("keep", "budget"), ("budget", "keep")):  # two ways to say the same: the keyword holds
        if given.get(key) is not None and rival not in given:
            values[rival] = None
    return Profile(**(values | given))


def _model_of(name: str) -> str:
    """The model that a shipped profile is for."""
    return str(_from_file(find_profile(name), nested=False).get("model", (DEFAULTS["model"], ""))[0])


def validate(name: str) -> tuple[Path, dict[str, Any]]:
    """Check a profile by itself: a shipped one by name, or any settings file by path.

    Returns its path and the settings that it holds. Raises UsageError naming file, key and what is allowed.
    """
    path = find_profile(name)
    layer = _from_file(path, nested=path.name == PROJECT_FILE or path.resolve() == user_file().resolve())
    if "profile" in layer:
        find_profile(*layer["profile"])
    said = {key: value for key, (value, _) in layer.items() if key != "profile"}
    sources = {key: source for key, (_, source) in layer.items()}
    _check_together(DEFAULTS | said, dict(zip(DEFAULTS, DEFAULTS, strict=True)) | sources)
    return path, said


# A layer holds what one source says: setting -> (value, name of the source).
_Layer = dict[str, tuple[Any, str]]


def _from_flags(given: Mapping[str, Any]) -> _Layer:
    layer: _Layer = {}
    for key, value in given.items():
        flag = "--" + ("no-" if value is False else "") + key.replace("_", "-")
        setting = SETTINGS[key]
        layer[key] = (setting.parse(value, flag) if isinstance(value, str) else setting.check(value, flag), flag)
    return layer


def _from_environment(environment: Mapping[str, str]) -> _Layer:
    known = {ENV_PREFIX + key.upper(): key for key in (*SETTINGS, "profile")}
    layer: _Layer = {}
    for variable, text in environment.items():
        if key := known.get(variable):
            if text.strip():  # an empty variable is a variable not set
                layer[key] = (text if key == "profile" else SETTINGS[key].parse(text, variable), variable)
        elif variable.startswith(ENV_PREFIX) and (hint := did_you_mean(variable, known, cutoff=0.85)):
            # Only near misses: EP_ is short, and other programs may use it too.
            raise UsageError(f"{variable}: unknown setting in the environment{hint}")
    return layer


def _from_file(path: Path, nested: bool = True) -> _Layer:
    """A YAML file's settings; nothing if there is no such file. `nested`: the file may name a profile to build on."""
    known = [*SETTINGS, "profile"] if nested else list(SETTINGS)
    layer: _Layer = {}
    for key, value in _read_yaml(path).items():
        where = f"{path}: {key}"
        if key not in known:
            raise UsageError(f"{where}: unknown key{did_you_mean(key, known)}; `ep profiles show` lists all keys")
        if key == "profile":
            if not isinstance(value, str) or not value.strip():
                raise UsageError(f"{where}: {value!r} is not the name of a profile or the path of a YAML file")
            layer[key] = (str(path.parent / Path(os.path.expanduser(value))) if _is_path(value) else value, where)
        else:
            layer[key] = (SETTINGS[key].check(value, where), where)
    return layer


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError):
        pass  # reading it says what is wrong
    text = read_text(path)

    import yaml  # 30 ms, and most runs have no file to read

    try:
        table = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2001-99-99
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise UsageError(f"{path}: not valid YAML: {line}{problem}") from error
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise UsageError(f"{path}: no settings: write one `key: value` a line")
    return table


def user_file(environment: Mapping[str, str] | None = None) -> Path:
    """The user's own settings: ${XDG_CONFIG_HOME:-~/.config}/epcli/config.yaml."""
    home = (os.environ if environment is None else environment).get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "epcli" / "config.yaml"


def cache_home() -> Path:
    """Where ep keeps what it can make or fetch again: ${XDG_CACHE_HOME:-~/.cache}/epcli."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "epcli"


def state_home() -> Path:
    """Where ep keeps what it remembers of its use: ${XDG_STATE_HOME:-~/.local/state}/epcli."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "epcli"


def profiles_folder() -> Path:
    """The shipped profiles: inside the package in a wheel, beside it in a source tree."""
    inside = Path(__file__).parent / "_profiles"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "profiles"


def profile_names() -> list[str]:
    """Names of the shipped profiles: default first, then by size."""
    return sorted((path.stem for path in profiles_folder().glob("*.yaml")), key=_natural)


def _natural(name: str) -> tuple[bool, int, str]:
    digits = "".join(filter(str.isdigit, name))
    return name != DEFAULT_PROFILE, int(digits or 0), name  # cpu has no number, so it comes before the GPUs


def find_profile(name: str, source: str = "") -> Path:
    """The file of a shipped profile, or the file at a path. Raises UsageError; `source` is who asked for it."""
    where = f"{source}: " if source else ""
    if _is_path(name):
        path = Path(os.path.expanduser(name))
        if not path.is_file():
            raise UsageError(f"{where}{name}: there is no such file")
        return path
    names = profile_names()
    if name not in names:
        hint = did_you_mean(name, names) or f"; there are: {', '.join(names)}"
        raise UsageError(f"{where}unknown profile {name!r}{hint}")
    return profiles_folder() / f"{name}.yaml"


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or "/" in name or os.sep in name


def profile_summary(path: Path) -> str:
    """The first comment line of a profile's file: what it is for."""
    with path.open(encoding="utf-8") as lines:
        return next((line[1:].strip() for line in lines if line.startswith("#")), "")
