"""Traces of several tools are read; a bad line is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateur.bench.load.trace import TraceEntry, read_trace
from secateur.errors import BadInput


def trace(folder: Path, *lines: str) -> Path:
    file = folder / "trace.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_mooncake(tmp_path: Path) -> None:
    file = trace(
        tmp_path,
        '{"timestamp": 3052, "input_length": 2690, "output_length": 26, "hash_ids": [0, 1]}',
        "",
        '{"timestamp": 3000, "input_length": 7, "output_length": 5}',
    )
    assert read_trace(file) == (TraceEntry(0.0, 7, None, 5), TraceEntry(0.052, 2690, None, 26))


def test_texts_without_times(tmp_path: Path) -> None:
    file = trace(tmp_path, '{"prompt": "Once", "output_tokens": 3}', '{"text_input": "upon"}')
    assert read_trace(file) == (TraceEntry(None, None, "Once", 3), TraceEntry(None, None, "upon", None))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["{"], "line 1: not JSON"),
        (["[1]"], "line 1: not a JSON object"),
        (['{"output_length": 3}'], "line 1: give one of input_length"),
        (['{"input_length": 3}', '{"input_length": 0}'], "line 2, input_length=0: a whole number above 0"),
        (['{"input_length": true}'], "input_length=True"),
        (['{"prompt": ""}'], "prompt='': a text"),
        (['{"input_length": 3, "timestamp": -1}'], "timestamp=-1"),
        (['{"input_length": 3, "timestamp": "now"}'], "timestamp='now'"),
        (['{"input_length": 3, "timestamp": 1}', '{"input_length": 3}'], "1 of 2 lines have a timestamp"),
        ([""], "has no line"),
    ],
)
def test_bad_lines(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_trace(trace(tmp_path, *lines))
    assert said in str(caught.value).replace("got ", "")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"trace.*No such file"):
        read_trace(tmp_path / "nowhere.jsonl")
