"""Decoding that begins before the model libraries are there. No torch at import."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Thread

from epcli.config import Profile
from epcli.media.read import read
from epcli.models import catalog
from epcli.records import Clip
from epcli.session.cache import FeatureCache


def read_ahead(profile: Profile, media: Path, start_s: float | None, end_s: float | None) -> Future[Clip] | None:
    """Begin to decode a file for the profile's model, in a thread; ffmpeg does it in a process of its own.

    None if the cache may know the file: then it need not be decoded. The future raises what `read` raises.
    """
    source = catalog.find(profile.model)
    with suppress(OSError):  # what is wrong with the file, reading it tells better
        if (store := FeatureCache.of(profile)) and store.may_hold(media):
            return None
    sampling = source.family.sampling(profile)
    reading: Future[Clip] = Future()

    def work() -> None:
        try:
            reading.set_result(read(media, sampling, start_s, end_s))
        except BaseException as error:
            reading.set_exception(error)

    Thread(target=work, daemon=True).start()  # a daemon: who interrupts the program does not wait for it
    return reading
