"""What is wrong with options, names and places is said before anything heavy is imported.

Proven in one process of its own: after each refusal, none of torch, transformers, vllm and optuna has been
imported; each is one line with status 2, and nothing is made.
"""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
from pathlib import Path

CHILD = """
import contextlib, io, json, sys
from secateur.cli.commands import run
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        status = run(arguments)
    heavy = [name for name in ("torch", "transformers", "vllm", "optuna") if name in sys.modules]
    print(json.dumps([status, said.getvalue(), heavy]))
"""

REFUSALS = """
prune MODEL --keep 1.7 --out o                               | --keep: got 1.7
prune MODEL --out o                                          | --keep: got nothing
prune MODEL --keep 0.8 --out exists                          | --out: got exists: exists
prune MODEL --keep 0.8 --out file/x                          | --out: got file/x
prune MODEL --keep 0.8 --out o --corpus nowhere.txt          | --corpus: got nowhere.txt: no such file
prune MODEL --keep 0.8 --out o --corpus exists               | --corpus: got exists: the folder has no
prune MODEL --keep 0.8 --out o --corpus pydoc,pydoc          | a corpus is named twice
prune MODEL --keep 0.8 --out o --corpus pydoc:poetry         | pydoc:poetry
prune MODEL --keep 0.8 --out o --corpus broken.jsonl         | line 2 has the keys body
prune MODEL --keep 0.8 --out o --corpus empty.txt            | --corpus: got empty.txt: the corpus is empty
serve m=adapter                                              | a PEFT adapter
prune MODEL --keep 80% --out o                               | --keep: got 80%: allowed are numbers
prune MODEL --keep 0.8 --out o --validation nowhere.txt      | nowhere.txt: no such file or folder
prune MODEL --keep 0.8 --out o --protect first               | --protect: got first: give layers such as
prune MODEL --keep 0.8 --out o --window 9999 --calibration-tokens 99999 | --window: got 9999: the model's
prune MODEL --speedup 1.3 --out o --latency-table nowhere    | --latency-table: got nowhere: No such file
prune nowhere --keep 0.8 --out o                             | MODEL: got nowhere: no such folder
prune exists --keep 0.8 --out o                              | MODEL: got exists: no config.json
prune file --keep 0.8 --out o                                | MODEL: got file: neither a model folder nor a
prune other --keep 0.8 --out o                               | MODEL: got other: architecture gpt2
recover nowhere --out o                                      | SLIM: got nowhere: no such folder
recover MODEL --out exists                                   | --out: got exists: exists
recover MODEL --out o --corpus nowhere.txt                   | --corpus: got nowhere.txt: no such file
recover MODEL --out o --validation self                      | --validation: got self: a model's own
recover MODEL --out o --dense nowhere                        | --dense: got nowhere: no such folder
recover MODEL --out o --train all                            | --train: got all: allowed are scales, last
recover MODEL --out o --minutes 0                            | --minutes: got 0: above 0
recover MODEL --out o --minutes 1 --steps 9                  | --steps: got 9: --minutes says already
recover MODEL --out o --learning-rate nan                    | --learning-rate: got nan
recover MODEL --out o --schedule stairs                      | --schedule: got stairs: allowed are cosine
recover MODEL --out o --window 1                             | --window: got 1: a window needs
recover MODEL --out o --batch 0                              | --batch: got 0: at least 1
evaluate nowhere --corpus pydoc:test                         | MODEL: got nowhere: no such folder
evaluate exists --corpus pydoc:test                          | MODEL: got exists: no config.json
evaluate MODEL                                               | --corpus: got nothing
evaluate MODEL --corpus nowhere.txt                          | --corpus: got nowhere.txt: no such file
evaluate MODEL --corpus self                                 | --corpus: got self: a model's own text
evaluate MODEL --corpus pydoc --window 1                     | --window: got 1: a window needs
evaluate MODEL --corpus pydoc --window 100000                | --window: got 100000: the model's context
evaluate MODEL --corpus pydoc --dense nowhere                | --dense: got nowhere: no such folder
evaluate MODEL --tasks chess                                 | --tasks: got chess: allowed are mmlu
evaluate MODEL --tasks mmlu                                  | --task-data: got nothing: mmlu needs
evaluate MODEL --tasks mmlu --task-data exists               | --task-data: got exists
evaluate MODEL --tasks cloze:nowhere.txt                     | nowhere.txt: no such file or folder
export nowhere --gguf o.gguf                                 | MODEL: got nowhere: no such folder
export MODEL                                                 | --gguf: got nothing
export MODEL --gguf file                                     | --gguf: got file: exists
export MODEL --gguf file/x.gguf                              | --gguf: got file/x.gguf
export MODEL --gguf o.gguf --int8 o                          | --int8: got o: give either
export MODEL --int8 exists                                   | --int8: got exists: exists
export MODEL --int8 o --dtype f16                            | --dtype: got f16: is that of a GGUF file
export MODEL --gguf o.gguf --dtype q4                        | --dtype: got q4: allowed are auto, f16, bf16
study front nowhere                                          | STUDY: got nowhere: there is no such folder
study front exists                                           | STUDY: got exists: no study lies there
study report nowhere                                         | STUDY: got nowhere: there is no such folder
study report study --out file/report.html                    | --out: got file/report.html
study cut nowhere --keep 0.7 --out o                         | STUDY: got nowhere: there is no such folder
study cut study --out o                                      | --keep: got nothing
study cut study --keep 1.7 --out o                           | --keep: got 1.7
study cut study --keep 0.7 --out exists                      | --out: got exists: exists
serve                                                        | NAME=DIR: got nothing
serve m=nowhere                                              | NAME=DIR: got m=nowhere: no such folder
serve m=exists                                               | got exists: no config.json
serve m=MODEL --listen 0.0.0.0:50051                         | reachable from other machines
serve m=MODEL --listen 127.0.0.1:PORT                        | --listen: got 127.0.0.1:PORT: cannot be bound
serve m=MODEL --metrics 127.0.0.1:PORT                       | --metrics: got 127.0.0.1:PORT: cannot be bound
serve m=MODEL --tls-cert file --tls-key file                 | --tls-cert: got file: not a PEM certificate
serve m=MODEL --tokens file                                  | --tokens: got file
serve m=MODEL --state nonsense://                            | --state: got nonsense://: cannot be opened
token bob --file nowhere/tokens.toml                         | --file: got nowhere/tokens.toml
token bob --file file                                        | --file: got file
bench --offline nowhere                                      | nowhere
bench --model a --out exists                                 | --out: got exists: exists
bench --from nowhere                                         | --from: got nowhere
generate hello --token-file nowhere                          | --token-file: got nowhere
jobs submit m --keep 1.7 --token-file nowhere                | --token-file: got nowhere
demo --keep 1.7                                              | --keep: got 1.7
demo --out file                                              | --out: got file
"""


def test_before_anything_heavy(tmp_path: Path, tiny_llama: Path) -> None:
    (tmp_path / "exists").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.journal").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "broken.jsonl").write_text('{"text": "x"}\n{"body": "y"}\n')
    (tmp_path / "empty.txt").touch()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = [
            [part.strip().replace("PORT", port) for part in line.split("|")]
            for line in REFUSALS.strip().splitlines()
        ]
        commands = [shlex.split(command.replace("MODEL", str(tiny_llama))) for command, _ in cases]
        child = subprocess.run(
            [sys.executable, "-c", CHILD],
            input=json.dumps(commands),
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
            timeout=300,
        )
    answers = [json.loads(line) for line in child.stdout.splitlines()]
    for (command, reason), (status, said, heavy) in zip(cases, answers, strict=False):
        assert (status, heavy) == (2, []), f"{command}: {said}"
        assert said.startswith("error: ") and said.count("\n") == 1, f"{command}: {said}"
        assert reason in said, f"{command}: {said}"
    assert len(answers) == len(cases), child.stderr
    assert sorted(tmp_path.rglob("*")) == before
