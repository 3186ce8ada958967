"""`secateur serve --config`: what it may hold, what wins, and what is said about mistakes."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml

from secateur.cli.commands import run
from secateur.config.file import document
from secateur.config.option import declared
from secateur.config.serve import ServeOptions
from secateur.config.values import from_given
from secateur.serve.guard.callers import Scope, read_callers

KEYS = """models listen insecure tls-cert tls-key client-ca tokens open reflection channelz state-dir state
roots dtype max-model-len max-sequences max-queued max-queued-tokens kv-cache-memory threads compile
prefix-caching rate-limit rate-burst max-calls max-calls-per-caller max-message keepalive
keepalive-timeout max-connection-age max-connection-age-grace lame-duck-seconds drain-seconds
keep-seconds jobs metrics traces log-json log-calls verbose"""


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    """What --print-config shows."""
    assert run(["serve", "--print-config", *arguments]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1, err
    return err


def test_files_of_earlier_versions_are_read() -> None:
    """Keys are what people wrote into files: one that is renamed stops their servers."""
    assert {declaration.key for declaration in declared(ServeOptions)} >= set(KEYS.split())


def test_what_is_not_given_is_none(tmp_path: Path) -> None:
    options = from_given(ServeOptions, {"models": [f"a={tmp_path}"], "state_dir": str(tmp_path / "state")})
    assert options.tls is None and options == from_given(ServeOptions, {**minimal(tmp_path), "threads": None})
    assert options.state_url == f"sqlite:///{tmp_path}/state/server.db"
    assert document(options)["tls-cert"] is None and document(options)["max-message"] == "4MiB"


def minimal(folder: Path) -> dict:
    return {"models": {"a": str(folder)}, "state_dir": folder / "state"}


@pytest.mark.parametrize("kind", ["yaml", "toml"])
def test_the_command_line_wins(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_llama: Path, kind: str
) -> None:
    file = tmp_path / f"server.{kind}"
    (tmp_path / "model").symlink_to(tiny_llama)
    (tmp_path / "data").mkdir()
    if kind == "yaml":
        file.write_text(
            "models: {a: model}\nmax-sequences: 5\nthreads: 3\nprefix-caching: false\ncompile: true\n"
            "roots: [data]\nopen: []\nmax-message: 1MiB\nkeepalive: 30\nstate-dir: state\n"
        )
    else:
        file.write_text(
            'max-sequences = 5\nthreads = 3\nprefix-caching = false\ncompile = true\nroots = ["data"]\n'
            'open = []\nmax-message = "1MiB"\nkeepalive = 30\nstate-dir = "state"\n[models]\na = "model"\n'
        )
    shown = printed(capsys, "--config", str(file), "--threads", "4", "--drain-seconds", "7")
    assert shown["models"] == {"a": str(tmp_path / "model")}
    assert (shown["max-sequences"], shown["threads"], shown["drain-seconds"]) == (5, 4, 7)
    assert (shown["prefix-caching"], shown["compile"], shown["keepalive"]) == (False, True, 30)
    assert (shown["roots"], shown["open"]) == ([str(tmp_path / "data")], [])
    assert shown["state-dir"] == str(tmp_path / "state")
    assert shown["listen"] == "127.0.0.1:50051"  # a default is shown as well
    assert set(shown) == {declaration.key for declaration in declared(ServeOptions)}
    other = printed(capsys, "--config", str(file), f"b={tiny_llama}", "--prefix-caching", "--no-compile")
    assert other["models"] == {"b": str(tiny_llama)}
    assert (other["prefix-caching"], other["compile"]) == (True, False)


def test_what_is_printed_can_be_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_llama: Path
) -> None:
    shown = printed(capsys, f"a={tiny_llama}", "--rate-limit", "5", "--open", "health,reflection")
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(shown))
    assert printed(capsys, "--config", str(file)) == shown
    assert run(["serve", "--config", str(file), "--print-config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == shown


def test_passwords_are_not_shown(capsys: pytest.CaptureFixture[str], tiny_llama: Path) -> None:
    url = "postgresql+psycopg://server:secret@db/secateur"
    assert printed(capsys, f"a={tiny_llama}", "--state", url)["state"] == url.replace("secret", "***")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("max-sequence: 3", "max-sequence: no such key"),
        ("max-sequences: lots", "max-sequences: got lots: Input should be a valid integer"),
        ("max-sequences: true", "max-sequences: got True: Input should be a valid integer"),
        ("models: [a]", "models: Input should be a valid dictionary"),
        ("models: {a: 3}", "models.a: got 3: Input should be a valid string"),
        ("reflection: maybe", "reflection: got maybe: Input should be a valid boolean"),
        ("max-sequences: 0", "max-sequences: got 0: at least 1"),
        ("listen: 0.0.0.0:1", "listen: got 0.0.0.0:1: reachable from other machines"),
        ("listen: '50051'", "listen: got 50051: HOST:PORT"),
        ("rate-limit: 0", "rate-limit: got 0: at least 0.001"),
        ("open: [all]", "open: got all: a list of health, reflection"),
        ("- 1", "holds no options"),
        ("a: [", "while parsing"),
    ],
)
def test_mistakes_name_their_key(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_llama: Path, text: str, key: str
) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(text)
    models = () if "models" in text else (f"a={tiny_llama}",)
    assert key in complaint(capsys, "serve", "--config", str(file), *models)


def test_mistakes_on_the_command_line_are_not_blamed_on_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_llama: Path
) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("max-sequences: 4")
    error = complaint(capsys, "serve", "--config", str(file), f"a={tiny_llama}", "--max-sequences", "0")
    assert error == "error: --max-sequences: got 0: at least 1\n"
    assert "No such file" in complaint(capsys, "serve", "--config", str(tmp_path / "none.yaml"))


def test_tokens_are_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    assert run(["token", "dashboard", "--file", str(file)]) == 0
    first = capsys.readouterr().out.strip()
    assert run(["token", "ops", "--scopes", "infer,admin", "--days", "1", "--file", str(file)]) == 0
    second = capsys.readouterr().out.strip()
    callers = read_callers(file)
    one = callers.identify(f"Bearer {first}", ())
    two = callers.identify(f"Bearer {second}", ())
    assert (one.name, one.scopes, one.expires) == ("dashboard", {Scope.INFER}, None)
    assert (two.name, two.may(Scope.ADMIN)) == ("ops", True) and two.expires is not None
    assert file.stat().st_mode & 0o077 == 0
    assert first not in file.read_text() and len(tomllib.loads(file.read_text())["caller"]) == 2
    assert "--scopes: got root" in complaint(capsys, "token", "x", "--scopes", "root", "--file", str(file))
    assert "--days: got 0" in complaint(capsys, "token", "x", "--days", "0", "--file", str(file))
    assert "NAME: got a b" in complaint(capsys, "token", "a b", "--file", str(file))
    file.write_text("nonsense")
    assert "--file" in complaint(capsys, "token", "x", "--file", str(file))


def test_a_model_that_cannot_be_shared(capsys: pytest.CaptureFixture[str], tiny_llama: Path) -> None:
    """Before anything is started; the layer and the option are named."""
    error = complaint(capsys, "serve", f"m={tiny_llama}", "--listen", "127.0.0.1:0", "--tensor-parallel", "3")
    assert error.startswith("error: --tensor-parallel: got 3:") and "layer 0 has 4 query heads" in error
