"""Models on the Hugging Face Hub: are they in its cache, fetch them, delete them.

They stay where every program of that family keeps them (HF_HOME, HF_HUB_CACHE). HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE
and HF_HUB_DISABLE_PROGRESS_BARS are honoured. Of Qwen2.5-Omni only the shards that hold a part of the thinker are
fetched.

huggingface_hub goes on with a broken connection, but throws a file away when the process ends. Shards have gigabytes,
so they are fetched here through its `http_get` into a file that outlives the process, checked against their SHA-256,
and put where its cache keeps them; it then does the rest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from epcli.errors import EpError, WeightsError

REPOS = {"qwen2.5-omni-7b": "Qwen/Qwen2.5-Omni-7B", "qwen2.5-omni-3b": "Qwen/Qwen2.5-Omni-3B"}
INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
NEEDED = ("config.json", "preprocessor_config.json", "tokenizer_config.json")  # and the weights
SMALL = (
    *NEEDED,
    "processor_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.*",
    "LICENSE*",
    "README.md",
)
UNUSED = ("talker.", "token2wav.")  # speech output
SPARE_BYTES = 200_000_000  # of disk left after a download


def thinker_shards(index: dict[str, Any]) -> list[str]:
    """Names of the files of an index.json that hold any of the thinker."""
    return sorted({file for key, file in index["weight_map"].items() if not key.startswith(UNUSED)})


def folder(name: str) -> Path:
    """The complete snapshot of a model in the cache. Raises WeightsError if it is not there."""
    found, missing = _look(name)
    if found is None or missing:
        state = "is not downloaded" if found is None else f"is only partly downloaded ({missing[0]} is missing)"
        raise WeightsError(f"{name} {state}; run `ep models pull {name}` with a network connection")
    return found


def status(name: str) -> str:
    """ "ready", "partly downloaded" or "not downloaded"."""
    found, missing = _look(name)
    return "not downloaded" if found is None else "partly downloaded" if missing else "ready"


def location(name: str) -> Path:
    """The model's folder in the Hugging Face cache, present or not."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{REPOS[name].replace('/', '--')}"


def remove(name: str) -> int:
    """Delete a model from the cache; returns the bytes freed."""
    place = location(name)
    if not place.exists():
        return 0
    freed = sum(file.stat().st_size for file in place.rglob("*") if file.is_file() and not file.is_symlink())
    shutil.rmtree(place)
    return freed


def pull(name: str) -> Path:
    """Fetch what is missing of a model; returns its snapshot folder. Progress goes to standard error.

    Raises WeightsError: no network or HF_HUB_OFFLINE, no access, disk full, or a file that arrives damaged.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    repo = REPOS[name]
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(f"{name}: HF_HUB_OFFLINE is set, so nothing is downloaded; unset it to pull")
    with _one_line(name, repo):
        listed = HfApi().model_info(repo, files_metadata=True)
        files = {file.rfilename: file for file in listed.siblings or []}
        if INDEX in files:
            index = snapshot_download(repo, allow_patterns=[INDEX])
            shards = thinker_shards(json.loads((Path(index) / INDEX).read_text(encoding="utf-8")))
        else:
            shards = [WHOLE]
        absent = next((shard for shard in shards if shard not in files), None)
        if absent:
            raise WeightsError(f"{name}: {repo} does not hold {absent}; it is not laid out as expected")
        _check_space(name, sum(files[shard].size or 0 for shard in shards))
        for shard in shards:
            _fetch(name, repo, shard, str(listed.sha))
        return Path(snapshot_download(repo, allow_patterns=[*SMALL, INDEX, *shards]))


def _look(name: str) -> tuple[Path | None, list[str]]:
    """The cached snapshot, complete or not, and the files it lacks."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(REPOS[name], "config.json")
    if not isinstance(config, str):
        return (location(name) if location(name).exists() else None), ["config.json"]
    place = Path(config).parent
    weights = [WHOLE]
    if (place / INDEX).is_file():
        weights = thinker_shards(json.loads((place / INDEX).read_text(encoding="utf-8")))
    return place, [file for file in (*NEEDED, *weights) if not (place / file).is_file()]


def _check_space(name: str, need: int) -> None:
    place = location(name)
    there = sum(file.stat().st_size for file in place.glob("blobs/*") if file.is_file()) if place.exists() else 0
    home = next(parent for parent in place.parents if parent.exists())
    free = shutil.disk_usage(home).free
    if need - there + SPARE_BYTES > free:
        raise WeightsError(
            f"{name}: {(need - there) / 1e9:.1f} GB are to be downloaded, and {home} has {free / 1e9:.1f} GB free; "
            "make room, or set HF_HOME to another disk"
        )


def _fetch(name: str, repo: str, file: str, commit: str) -> None:
    """One large file into the cache's blobs, going on where an earlier try ended."""
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(repo, file, revision=commit)
    about = get_hf_file_metadata(url)
    etag = about.etag or ""
    blobs = location(name) / "blobs"
    if not etag or (blobs / etag).exists():
        return
    blobs.mkdir(parents=True, exist_ok=True)
    partial = blobs / f"{etag}.ep-part"
    headers = build_hf_headers(token=get_token() if about.location == url else False)
    with FileLock(f"{partial}.lock"):
        if not (blobs / etag).exists():
            with partial.open("ab") as out:
                http_get(
                    about.location,
                    out,
                    resume_size=partial.stat().st_size,
                    headers=headers,
                    expected_size=about.size,
                    displayed_filename=file,
                )
            if len(etag) == 64 and _sha256(partial) != etag:
                partial.unlink()
                raise WeightsError(f"{name}: {file} arrived damaged (its SHA-256 differs); pull again")
            partial.replace(blobs / etag)
    Path(f"{partial}.lock").unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _one_line(name: str, repo: str) -> Iterator[None]:
    """What the Hub, the network or the disk says becomes one WeightsError."""
    from huggingface_hub import errors

    try:
        yield
    except EpError:
        raise
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"{name}: access must be asked for: accept the licence at https://huggingface.co/{repo}, set HF_TOKEN, "
            "and pull again"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(f"{name}: the hub has no {repo}, or it wants a token (HF_TOKEN)") from error
    except errors.HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else "an error"
        raise WeightsError(f"{name}: the hub answered {code}; try again later") from error
    except errors.LocalEntryNotFoundError as error:
        raise WeightsError(f"{name}: the hub cannot be reached; check the network and pull again") from error
    except OSError as error:
        if error.errno is None:
            raise WeightsError(
                f"{name}: the download broke off ({type(error).__name__}); pull again to go on"
            ) from error
        raise WeightsError(
            f"{name}: the download cannot be written: {error.strerror}; make room and pull again"
        ) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            raise
        raise WeightsError(
            f"{name}: the connection to the hub failed ({type(error).__name__}); what has arrived is kept, pull again"
        ) from error
