"""The typer application: which commands there are, how errors end, what is silenced.

Every command lives in its own module with `register(app)`. These modules import nothing
heavy at import time, so that `speechmeta --help` answers at once.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from speechmeta.errors import SpeechMetaError
from speechmeta.version import __version__

from . import (
    analyze,
    app_,
    batch,
    chat,
    convert,
    erase,
    eval_,
    listen,
    mcp,
    models,
    schema,
    serve,
    train,
)
from .console import TRACEBACK_VARIABLE, describe_fault, print_error, run_as_program, speak_utf8
from .startup import let_threads_sleep

COMMANDS = (
    analyze, batch, erase, serve, listen, mcp, chat, app_, eval_, models, schema, train, convert,
)  # fmt: skip
"""Modules with `register(app)`, in the order of the help."""


class _Interrupted(Exception):
    """Ctrl-C, which typer would turn into a silent end."""


class _Commands(TyperGroup):
    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except KeyboardInterrupt:
            raise _Interrupted from None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted from None


app = typer.Typer(
    name="speechmeta",
    cls=_Commands,
    help=(
        "Turn call recordings into validated JSON: who speaks when, what is said, and how the "
        "voices sound."
    ),
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # whisper's command line spells options with underscores: --batch_size.
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"speechmeta {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        context.get_help()  # typer prints it with rich on the way
        raise typer.Exit(2)


for _module in COMMANDS:
    _module.register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    0: all fine. 1: some inputs failed, each with a line on stderr. 2: usage.
    130: interrupted.
    """
    _silence_libraries()
    let_threads_sleep()
    speak_utf8()
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        run_as_program()
    try:
        command = typer.main.get_command(app)
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            code = command.main(argv, prog_name="speechmeta", standalone_mode=False)
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except SpeechMetaError as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        print_error(error.message, error.hint)
        return error.exit_code
    except typer.TyperException as error:
        # What typer itself finds wrong: unknown options, missing arguments.
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "speechmeta"
        message = error.format_message().replace("Value error, ", "")
        if message:  # none where a group without a command has just printed its help
            print_error(message, f"see {path} --help")
        return error.exit_code
    except (KeyboardInterrupt, _Interrupted, typer.Abort):
        print_error("interrupted")
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has enough. Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _OUTPUT_FAULTS or error.filename is not None:
            return _fault(error)
        # Python would complain once more when it flushes what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print_error(f"the output cannot be written: {error.strerror}", "make room, and try again")
        return 1
    except Exception as error:
        return _fault(error)


_OUTPUT_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _fault(error: Exception) -> int:
    if os.environ.get(TRACEBACK_VARIABLE):
        raise error
    print_error(*describe_fault(error))
    return 1


def _silence_libraries() -> None:
    """Keeps transformers' and the hub's notes off the terminal; what the user set stays."""
    for name, value in {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_VERBOSITY": "error",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    for name in ("transformers", "huggingface_hub", "accelerate", "torch", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
