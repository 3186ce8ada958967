"""What goes to stdout, what goes to stderr, and how long things are said to take."""

from __future__ import annotations

import json
import math
import subprocess

import pytest

from secateur.cli import console


def test_json_is_one_valid_document(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit_json({"perplexity": {"a": math.inf, "b": 2.5}, "widths": (1, math.nan), "name": "é"})
    printed = capsys.readouterr()
    assert json.loads(printed.out, parse_constant=pytest.fail) == {
        "perplexity": {"a": None, "b": 2.5},
        "widths": [1, None],
        "name": "é",
    }
    assert printed.err == ""


def test_say_goes_to_stderr_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_status("layer [3] of [bold]x[/bold] " + "w" * 200)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "layer [3] of [bold]x[/bold] " + "w" * 200 + "\n"


def test_stdout_to_stderr_catches_libraries_and_children(capfd: pytest.CaptureFixture[str]) -> None:
    with console.stdout_to_stderr():
        print("library")
        subprocess.run(["echo", "child"], check=True)
    console.emit_json({"ok": True})
    printed = capfd.readouterr()
    assert json.loads(printed.out) == {"ok": True}
    assert sorted(printed.err.split()) == ["child", "library"]


def test_stdout_comes_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), console.stdout_to_stderr():
        raise ZeroDivisionError
    print("back")
    assert capfd.readouterr().out == "back\n"


def test_progress_without_a_terminal_is_a_few_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 5))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    with console.progress("calibrating", 10) as advance:
        for _ in range(10):
            advance(note="layer 3")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "calibrating ..."
    assert lines[1] == "calibrating: 3/10, about 35 s left, layer 3"
    assert lines[-1] == "calibrating: done in 55 s"
    assert len(lines) == 5


@pytest.mark.parametrize("terminal", [True, False])
def test_the_time_left_is_that_of_the_latest_steps(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step warms up for a minute, then each takes 2 s; later 10 s."""
    at = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: at[0])
    monkeypatch.setattr(console, "LINE_INTERVAL", 0.0)
    shown: list[str] = []
    if terminal:
        monkeypatch.setattr(
            console.Progress, "update", lambda self, task, **fields: shown.append(fields["left"])
        )
    bar = console._bar if terminal else console._lines
    with bar("searching", 200) as advance:
        for step in range(100):
            at[0] += 60.0 if step == 0 else 2.0 if step < 50 else 10.0
            advance()
    if not terminal:
        lines = capsys.readouterr().err.splitlines()[1:101]
        shown = [line.partition(", ")[2] for line in lines]
    assert shown[:2] == ["", ""]
    assert shown[2:50] == [f"about {console.duration(2.0 * (200 - done))} left" for done in range(3, 51)]
    assert shown[99] == f"about {console.duration(10.0 * 100)} left"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3900, "1 h 05 min"),
        (math.nan, "an unknown time"),
    ],
)
def test_duration(seconds: float, said: str) -> None:
    assert console.duration(seconds) == said
