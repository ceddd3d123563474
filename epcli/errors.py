"""One error tree. A message says what happened, to which file, and what to do; each class has its own exit code.

EpError            1  anything that could not be done
├── UsageError     2  the command line or a setting is wrong
├── MediaError     4  a media file cannot be read, or lacks what was asked for
├── WeightsError   5  a model's weights are missing, damaged or cannot be fetched
└── CapacityError  6  the work does not fit in memory or in the model's context
(interrupt: 130, some files of a batch failed: 3)
"""

from __future__ import annotations

EXIT_PARTIAL = 3
EXIT_INTERRUPT = 130


class EpError(Exception):
    """Base of every error meant for the user: one line, no traceback."""

    exit_code = 1


class UsageError(EpError):
    """A flag, setting, profile or question that cannot be used as given."""

    exit_code = 2


class MediaError(EpError):
    """A media file that cannot be opened, decoded, or has nothing of what was asked for."""

    exit_code = 4


class WeightsError(EpError):
    """Weights that are missing, do not match their checksum, or cannot be downloaded."""

    exit_code = 5


class CapacityError(EpError):
    """The request needs more memory, or a longer context, than there is."""

    exit_code = 6


def unexpected(error: Exception, debug: bool = False) -> str:
    """The words for an error that nobody foresaw."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"unexpected {what}" + ("" if debug else " (run again with --debug for the traceback)")
