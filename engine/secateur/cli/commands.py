"""The commands put together; their errors turned into one line and an exit status."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer
from typer.exceptions import TyperException

from secateur import __version__
from secateur.cli.console import print_error
from secateur.cli.interrupts import INTERRUPTED, exit_on_interrupt_during_import, say_interrupted
from secateur.errors import SecateurError

# One module of this package per command. None imports torch, transformers or grpc at its top:
# `secateur --help` has to answer at once.
COMMANDS = (
    *("prune", "recover", "evaluate", "export", "study"),
    *("serve", "token", "generate", "models", "jobs", "bench"),
    *("demo", "doctor"),
)


def build_app() -> typer.Typer:
    """Return the application with every command registered."""
    app = typer.Typer(
        name="secateur",
        help="Find the best smaller shape of a language model for a budget, cut it, serve it.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in COMMANDS:
        import_module(f"secateur.cli.{name}").register(app)
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 2 bad input, 130 interrupted, 1 anything else.

    An error the user can act on becomes one line on stderr. A bug keeps its traceback.
    """
    try:
        with exit_on_interrupt_during_import():
            app = build_app()
        # Not standalone: usage errors come back as exceptions, to be reported like all others.
        outcome = app(arguments, prog_name="secateur", standalone_mode=False)
        sys.stdout.flush()
    except TyperException as error:
        return _usage(error)
    except SecateurError as error:
        print_error(str(error))
        return error.exit_status
    except (KeyboardInterrupt, typer.Abort):
        say_interrupted()
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) went away; python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UnicodeEncodeError as error:
        if not any("\udc80" <= character <= "\udcff" for character in error.object):
            raise
        # What Python makes of bytes in arguments and stdin that are no UTF-8.
        shown = error.object[max(0, error.start - 20) : error.end + 20].encode(errors="surrogateescape")
        print_error(f"not UTF-8: {shown!r}")
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print_error(f"cannot write: {error.strerror}{where}")
        return 2
    if outcome == INTERRUPTED:  # what typer makes of a KeyboardInterrupt in a command
        say_interrupted()
    return outcome if isinstance(outcome, int) else 0


def _usage(error: TyperException) -> int:
    if message := error.format_message():  # empty when help was shown for want of arguments
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context else ""
        print_error(message + hint)
    return error.exit_code


def _print_version(show_version: bool) -> None:
    if show_version:
        print(f"secateur {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Holds the options of `secateur` itself."""
