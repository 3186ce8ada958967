"""The command line as a whole: its surface, its errors, its speed, its exit statuses."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer

from secateur import __version__
from secateur.cli import commands as commands_module
from secateur.cli.app import main
from secateur.cli.commands import COMMANDS, run
from secateur.cli.interrupts import exit_on_interrupt_during_import
from secateur.errors import BadInput, OutputFailed, SecateurError

HEAVY = ("torch", "transformers", "vllm", "grpc", "ray", "triton", "xgboost", "sklearn", "optuna", "numpy")


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def command_that(monkeypatch: pytest.MonkeyPatch, action: object) -> None:
    """Replace the application by one whose command `try` runs ``action``."""

    def build() -> typer.Typer:
        app = typer.Typer(pretty_exceptions_enable=False)
        app.callback()(lambda: None)
        app.command("try")(action)  # type: ignore[type-var]
        return app

    monkeypatch.setattr(commands_module, "build_app", build)


def raising(error: BaseException) -> object:
    def act() -> None:
        raise error

    return act


class TestSurface:
    def test_commands(self) -> None:
        app = commands_module.build_app()
        names = [command.name or command.callback.__name__ for command in app.registered_commands]
        groups = [group.typer_instance.info.name for group in app.registered_groups]
        assert sorted(names) == [
            *("bench", "demo", "doctor", "evaluate", "export"),
            *("generate", "prune", "recover", "serve", "token"),
        ]
        assert groups == ["study", "models", "jobs"]

    @pytest.mark.parametrize("name", COMMANDS)
    def test_help_has_an_example(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run([name, "--help"]) == 0
        assert f"secateur {name}" in capsys.readouterr().out.split("Usage:", 1)[1].split("\n", 1)[1]

    @pytest.mark.parametrize("name", COMMANDS)
    def test_json(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        run([name, "--help"])
        assert "--json" in capsys.readouterr().out

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["--version"]) == 0
        assert capsys.readouterr().out == f"secateur {__version__}\n"


class TestImports:
    @pytest.mark.parametrize(
        "statement", ["import secateur", "import secateur.cli.commands as c; c.build_app()"]
    )
    def test_light(self, statement: str) -> None:
        assert not modules_after(statement) & set(HEAVY)

    def test_kernels_know_nothing_of_the_engine(self) -> None:
        assert "secateur" not in modules_after("import secateur_kernels")

    def test_help_answers_at_once(self) -> None:
        """In processor time, which a busy machine does not change."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "secateur.cli.app", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime - before.ru_utime < 2  # 0.3 s on a fast machine, 0.9 on a slow one

    def test_entry_points(self) -> None:
        from importlib.metadata import entry_points

        (script,) = entry_points(group="console_scripts", name="secateur")
        assert script.load() is main
        (plugin,) = entry_points(group="vllm.general_plugins", name="secateur")
        module, _, function = plugin.value.partition(":")
        assert callable(getattr(import_module(module), function))


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (BadInput("--keep", 1.7, "a fraction\nbetween 0 and 1"), 2),
            (OutputFailed("disk full"), 2),
            (SecateurError("something else"), 1),
            (OSError(errno.ENOSPC, "No space left on device", "/out/model"), 2),
        ],
    )
    def test_one_line_on_stderr(
        self,
        error: Exception,
        status: int,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        command_that(monkeypatch, raising(error))
        assert run(["try"]) == status
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1

    @pytest.mark.parametrize("arguments", [["nonsense"], ["doctor", "--nonsense"], ["doctor", "extra"]])
    def test_usage(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert run(arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1

    @pytest.mark.parametrize(
        "arguments",
        [["generate", "caf\udce9"], ["models", "get", "caf\udce9"], ["bench", "--model", "caf\udce9"]],
    )
    def test_bytes_that_are_no_text(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert run(arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err == "error: not UTF-8: b'caf\\xe9'\n"

    def test_no_command_shows_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run([]) == 2
        assert "Usage:" in "".join(capsys.readouterr())

    def test_status_of_a_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        command_that(monkeypatch, raising(typer.Exit(7)))
        assert run(["try"]) == 7
        command_that(monkeypatch, lambda: None)
        assert run(["try"]) == 0

    def test_a_bug_keeps_its_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        command_that(monkeypatch, raising(ZeroDivisionError("bug")))
        with pytest.raises(ZeroDivisionError):
            run(["try"])
        command_that(monkeypatch, raising(OSError(errno.EIO, "I/O error")))
        with pytest.raises(OSError, match="I/O error"):
            run(["try"])

    def test_interrupt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        command_that(monkeypatch, raising(KeyboardInterrupt()))
        assert run(["try"]) == 130

    def test_reader_that_goes_away(self) -> None:
        read_end, write_end = os.pipe()
        os.close(read_end)
        process = subprocess.run(
            [sys.executable, "-m", "secateur.cli.app", "--help"],
            stdout=write_end,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        os.close(write_end)
        assert process.stderr == ""
        assert process.returncode == 1


def interrupted(command: list[str], **environment: str) -> tuple[int, str]:
    """Exit status and stderr of a process that gets Ctrl-C as soon as it has said that it is ready."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    ) as process:
        assert process.stderr is not None
        try:
            assert process.stderr.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            _, rest = process.communicate(timeout=20)
        finally:
            process.kill()
    return process.returncode, rest


MODULE = ("-m", "secateur.cli.app")
SCRIPT = ("-c", "from secateur.cli.app import main; main()")
# Like a native module: what is raised while it initialises itself comes out as something else.
NATIVE = """
import sys, time
print("ready", file=sys.stderr, flush=True)
try:
    time.sleep(60)
except BaseException:
    pass
raise ImportError("initialization failed")
"""


class TestInterrupts:
    @pytest.mark.parametrize(
        ("start", "module", "arguments"),
        [
            (SCRIPT, "typer", "--help"),
            (MODULE, "typer", "--help"),
            (MODULE, "rich", "--help"),
            (MODULE, "torch", "prune {model} --keep 0.5 --out out"),
            (MODULE, "torch", "evaluate {model} --corpus pydoc"),
            (MODULE, "grpc", "serve model={model}"),
            (MODULE, "grpc", "generate hello"),
            (MODULE, "torch", "demo --out out"),
            (MODULE, "torch", "doctor"),
        ],
    )
    def test_while_importing(
        self, start: tuple[str, str], module: str, arguments: str, tmp_path: Path, tiny_llama: Path
    ) -> None:
        (tmp_path / f"{module}.py").write_text(NATIVE)
        command = [sys.executable, *start, *arguments.format(model=tiny_llama).split()]
        assert interrupted(command, PYTHONPATH=str(tmp_path)) == (130, "interrupted\n")

    def test_while_a_command_runs(self) -> None:
        """It cleans up: Ctrl-C is a KeyboardInterrupt again."""
        code = (
            "import sys, time, typer\nfrom secateur.cli import app, commands\n"
            "t = typer.Typer(); t.callback()(lambda: None)\n"
            "def say(text): print(text, file=sys.stderr, flush=True)\n"
            "def wait():\n"
            "    with commands.exit_on_interrupt_during_import(): import json\n"
            "    try: say('ready'); time.sleep(60)\n"
            "    finally: say('cleaned up')\n"
            "t.command('wait')(wait); commands.build_app = lambda: t; app.main(['wait'])"
        )
        assert interrupted([sys.executable, "-c", code]) == (130, "cleaned up\ninterrupted\n")

    def test_a_process_of_others_is_not_ended(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        with exit_on_interrupt_during_import():
            assert signal.getsignal(signal.SIGINT) is before

    def test_ignored_stays_ignored(self) -> None:
        """As `nohup` and shells that start something in the background have it."""
        code = (
            "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
            "from secateur.cli import interrupts\ninterrupts.enable_immediate_exit()\n"
            "with interrupts.exit_on_interrupt_during_import():\n"
            "    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
            "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestDoctor:
    def test_json_is_the_only_thing_on_stdout(self) -> None:
        process = subprocess.run(
            [sys.executable, "-m", "secateur.cli.app", "doctor", "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        report = json.loads(process.stdout)
        assert report.keys() == {"ok", "machine", "packages", "checks"}
        assert report["packages"]["secateur"] == __version__
        assert report["machine"]["cores"] >= 1
        assert report["ok"] == (process.returncode == 0)
        assert report["ok"] == all(check["status"] != "problem" for check in report["checks"])

    @pytest.mark.parametrize(
        ("allowed", "status"),
        [(None, "ok"), ("secateur", "ok"), ("other, secateur", "ok"), ("other", "problem"), ("", "problem")],
    )
    def test_plugin_allow_list(
        self,
        allowed: str | None,
        status: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        if allowed is None:
            monkeypatch.delenv("VLLM_PLUGINS", raising=False)
        else:
            monkeypatch.setenv("VLLM_PLUGINS", allowed)
        outcome = run(["doctor", "--json"])
        checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
        assert checks["vllm plugin"]["status"] == status
        if status == "problem":
            assert outcome == 1
            assert "VLLM_PLUGINS" in checks["vllm plugin"]["detail"]

    def test_missing_packages_say_how_to_get_them(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("secateur.cli.doctor.find_spec", lambda name: None)
        assert run(["doctor"]) == 1
        shown = capsys.readouterr().err
        assert "pip install '.[cpu]'" in shown.replace("\n", " ")
        assert "not everything needed is here" in shown

    def test_torchvision_of_another_build(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from secateur.cli import doctor

        def broken(name: str) -> None:
            raise RuntimeError("operator torchvision::nms does not exist")

        monkeypatch.setattr(doctor, "find_spec", lambda name: True)
        monkeypatch.setattr(doctor, "import_module", broken)
        check = doctor._torchvision()
        assert check.status == "problem"
        assert "pip uninstall torchvision torchaudio torchcodec" in check.detail
