"""High dynamic range (ITU-R BT.2100, PQ and HLG) to sRGB, by the tone curve of ITU-R BT.2390.

In numpy and not by ffmpeg's filters: zscale is missing from many builds, and swscale shows the code values as they are.
"""

from __future__ import annotations

from enum import Enum
from functools import cache

import numpy as np

PEAK_NITS = 1000.0  # of the display that HLG is meant for and that most PQ films are graded on
WHITE_NITS = 203.0  # of paper in an HDR film (ITU-R BT.2408): what becomes white

_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128  # SMPTE ST 2084
_A, _B, _C = 0.17883277, 0.28466892, 0.55991073  # HLG, BT.2100 table 5
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
_TO_709 = np.array(  # linear BT.2020 to linear BT.709 (BT.2087)
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


class Transfer(Enum):
    """How code values stand for light; the numbers are those of ITU-T H.273."""

    PQ = 16
    HLG = 18


def to_srgb(codes: np.ndarray, transfer: Transfer) -> np.ndarray:
    """(H, W, 3) uint16 full-range RGB of BT.2020 -> (H, W, 3) uint8 sRGB."""
    light = _light(transfer)[codes]  # nits for PQ; share of the scene's most for HLG
    if transfer is Transfer.HLG:
        light = light * np.maximum(light @ _LUMA_2020, 1e-6)[..., None] ** 0.2 * PEAK_NITS  # the display's gamma, 1.2
    light = np.maximum(light @ _TO_709.T, 0.0)
    brightest = light.max(-1, keepdims=True)
    light *= _toned(brightest) / np.maximum(brightest, 1e-6)  # one factor for a pixel: the hue stays
    return np.round(_srgb(light / WHITE_NITS) * 255).astype(np.uint8)


@cache
def _light(transfer: Transfer) -> np.ndarray:
    """(65536,) float32: the light of every code."""
    code = np.linspace(0, 1, 65536)
    if transfer is Transfer.PQ:
        return _from_pq(code).astype(np.float32)
    low, high = code**2 / 3, (np.exp((code - _C) / _A) + _B) / 12
    return np.where(code <= 0.5, low, high).astype(np.float32)


def _from_pq(code: np.ndarray) -> np.ndarray:
    """Nits."""
    power = code ** (1 / _M2)
    return 10_000.0 * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)


def _to_pq(nits: np.ndarray | float) -> np.ndarray:
    power = (np.asarray(nits) / 10_000.0) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


def _toned(nits: np.ndarray) -> np.ndarray:
    """What is left of each brightness on a display of WHITE_NITS: BT.2390-11, section 5.4.1, steps 1 to 4."""
    peak = float(_to_pq(PEAK_NITS))
    code, most = np.minimum(_to_pq(nits) / peak, 1.0), float(_to_pq(WHITE_NITS)) / peak
    knee = 1.5 * most - 0.5
    t = (code - knee) / (1 - knee)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return _from_pq(np.where(code < knee, code, bent) * peak)


def _srgb(light: np.ndarray) -> np.ndarray:
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
