"""The `ep` command. Commands are thin, a file each; whatever loads a model library waits inside the command.

Answers go to stdout, everything else to stderr. A mistake is one line and an exit code of errors.py, never a traceback
(`--debug` shows it).
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
import warnings
from typing import Annotated, Any

import typer

from epcli import __version__, streams
from epcli.cli import (
    ask,
    batch,
    bench,
    cache,
    chat,
    doctor,
    eval,
    find,
    index,
    inspect,
    mcp,
    models,
    plan,
    profiles,
    summary,
    train,
    transcript,
)
from epcli.cli.help import Command, Group
from epcli.cli.options import DebugFlag
from epcli.errors import EXIT_INTERRUPT, EpError, unexpected
from epcli.text import did_you_mean, one_line

# Every mistake of a command line that Typer finds: unknown flag or command, missing or surplus argument.
_TyperUsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="ep",
    cls=Group,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""Examples:

\b
  ep ask holiday.mp4 "What do you hear?"
  ep ask lecture.mkv "What is on the board?" --start 12:30 --end 13:00
  ep ask clip.mp4 "What happens first?" --json | jq -r .answer

To see the settings in use: ep profiles show. If something does not work: ep doctor.""",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ep {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: DebugFlag = False,
) -> None:
    """Ask questions about your own videos and sounds, on your own machine."""


app.command(
    cls=Command,
    epilog="""Examples:

\b
  ep ask clip.mp4 "Which instrument plays?" --no-video
  ep ask talk.mkv "What is said?" --start 12:30 --end 13:00 --quiet
  echo "What is shown?" | ep ask photo.jpg - --json
  ep ask yard.mp4 "Which animal barks?" --choices dog,cat,cow""",
)(ask.ask)
app.command(
    cls=Command,
    epilog="""Examples:

\b
  ep chat concert.mp4
  ep chat lecture.mkv --start 12:30 --end 20:00 --no-history
  ep chat clip.mp4 --json < questions.txt | jq -r .answer""",
)(chat.chat)
app.command(
    cls=Command,
    epilog="""Examples:

\b
  ep inspect clip.mp4 "Which instrument plays first?" --keep 0.1 --show-kept-tokens
  ep inspect clip.mp4 "What plays first?" "What is on the left?" --keep 0.1 --html kept.html
  ep inspect clip.mp4 "What plays?" --keep 0.1 --compare cs2,uniform,random
  ep inspect clip.mp4 "What plays?" --keep 0.1 --png kept.png --video kept.mp4""",
)(inspect.inspect)
app.command(
    cls=Command,
    epilog="""Examples:

\b
  ep find clips "a dog barking"
  ep find "somebody says 'station'" --json | jq -r '.[0].path'
  ep find talks "the second law" --said --since 30d
  ep find clips "people on bicycles" --limit 3 --clip cuts
  ep find clips "the EXIT sign" --limit 1 --play | sh""",
)(find.find)
app.command(
    cls=Command,
    epilog="""Examples:

\b
  ep index clips talks
  ep index inbox --watch
  ep index
  ep index old --forget""",
)(index.index)
app.command(
    cls=Command,
    epilog="""Examples:

\b
  ep batch clips -Q "What is said?" -Q "Is there music?" --out answers.jsonl
  ep batch clips --questions questions.csv --dry-run
  ep batch --questions set.jsonl --out answers.parquet --retry-failed
  ep batch inbox -Q "What happens?" --watch""",
)(batch.batch)
app.command(
    cls=Command,
    epilog="""Examples:

\b
  ep transcript talk.mp4
  ep transcript talk.mp4 --srt > talk.srt
  ep transcript *.mp4 --vtt --out subtitles/
  ep transcript vortrag.mkv --speech base --language de --start 12:30""",
)(transcript.transcript)
app.command(
    cls=Command,
    epilog="""Examples:

\b
  ep summary lecture.mp4
  ep summary lecture.mp4 --chapters youtube
  ep summary film.mkv --chapters ffmetadata > chapters.txt
  ep summary lecture.mp4 --json | jq -r '.chapters[].title'""",
)(summary.summary)
app.command(
    cls=Command,
    epilog="""Examples:

\b
  ep plan film.mkv --model qwen2.5-omni-7b --quantize nf4 --keep 0.1
  ep plan film.mkv --profile gpu-12gb --memory 12""",
)(plan.plan)
app.command(
    cls=Command,
    epilog="""Examples:

\b
  ep bench --shape qwen2.5-omni-3b --repeat 3
  ep bench --shape qwen2.5-omni-7b --av-tokens 8192 --keep none,0.1 --device cuda
  ep bench clip.mp4 --model ep-smol --keep none,0.2 --json""",
)(bench.bench)
app.command(
    cls=Command,
    epilog="""Examples:

\b
  ep mcp clips talks
  ep mcp clips --model qwen2.5-omni-3b""",
)(mcp.mcp)
app.command("eval", cls=Command)(eval.evaluate)
app.command(cls=Command)(train.train)
app.add_typer(models.app, name="models")
app.add_typer(profiles.app, name="profiles")
app.add_typer(cache.app, name="cache")
app.command(cls=Command)(doctor.doctor)


def main() -> None:
    """The `ep` program: run the command line and exit with its code."""
    arguments = sys.argv[1:] or ["--help"]
    _let_threads_sleep()
    debug = "--debug" in arguments
    if not debug:
        _silence_libraries()
    try:
        code = app(arguments, prog_name="ep", standalone_mode=False)
        sys.stdout.flush()
        if code == EXIT_INTERRUPT:  # Typer has caught the KeyboardInterrupt
            _fail("interrupted", code, debug=False)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("interrupted", EXIT_INTERRUPT, debug)
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does. Nothing is wrong, and there is nobody left to tell.
        streams.drop_output()
        code = 1
    except EpError as error:
        code = _fail(f"error: {error}", error.exit_code, debug)
    except _TyperUsageError as error:
        code = _fail(f"error: {_sentence(error)}", 2, debug)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"{error.filename or 'the output'}: no space left to write it"
        elif error.errno == errno.EBADF and streams.without_output():
            message = streams.CLOSED
        else:
            message = unexpected(error, debug)
        if not error.filename:  # it was standard output
            streams.drop_output()
        code = _fail(f"error: {message}", 1, debug)
    except Exception as error:
        code = _fail(f"error: {unexpected(error, debug)}", 1, debug)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"ep: {one_line(message)}", file=sys.stderr)  # a file may be named anything
    return code


def _sentence(error: Any) -> str:
    """Typer's own message as one line, with where to read on."""
    if possible := getattr(error, "possibilities", None):
        message = error.message.rstrip(".") + did_you_mean(error.option_name, possible)
    else:
        message = error.format_message().rstrip(".")
    if named := next((word for word in sys.argv[1:] if word.startswith("-") and os.path.lexists(word)), None):
        message += f"; write ./{named} for the file of that name"
    page = error.ctx.command_path if error.ctx else "ep"
    return f"{message[:1].lower()}{message[1:]} (see `{page} --help`)"


def _let_threads_sleep() -> None:
    """A thread of OpenMP that waits for the others gives its processor away, unless the user has decided how they wait.

    By default it spins. Beside another busy process the others then wait for it (docs/benchmarks.md). Read when torch
    is first imported.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def _silence_libraries() -> None:
    """Warnings for developers of model code would bury the answer. The libraries read these when first imported."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses an optional kernel and says so at import
