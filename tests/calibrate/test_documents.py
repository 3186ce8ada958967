"""Text and chats come out of every format as they went in, and what cannot be read is one line.

Properties: any texts written as any format, compressed in any way, are read as they were; a folder is its
files joined; chats are what the model's own template makes of them.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calibrate.corpus import CorpusFiles, load_corpus, read_corpus
from secateur.calibrate.documents import Chat, read_documents
from secateur.config.prune import PruneOptions
from secateur.config.values import from_given
from secateur.errors import BadInput

TEXTS = st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=40), min_size=1, max_size=5)
TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def jsonl(texts: list[str], file: Path) -> None:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def unescaped(texts: list[str], file: Path) -> None:
    lines = [json.dumps({"content": text, "id": 1}, ensure_ascii=False) for text in texts]
    file.write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")


def records(texts: list[str], file: Path) -> None:
    file.write_text(json.dumps([{"text": text} for text in texts], indent=1), encoding="utf-8")


def parquet(texts: list[str], file: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), file, row_group_size=2)


def arrow_stream(texts: list[str], file: Path) -> None:
    table = pyarrow.table({"text": texts})
    with file.open("wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def arrow_file(texts: list[str], file: Path) -> None:
    table = pyarrow.table({"text": texts})
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


FORMATS: dict[str, tuple[str, Callable[[list[str], Path], None]]] = {
    "JSON Lines": (".jsonl", jsonl),
    "JSON Lines with a mark": (".ndjson", unescaped),
    "JSON": (".json", records),
    "Parquet": (".parquet", parquet),
    "Arrow stream": (".arrow", arrow_stream),
    "Arrow file": (".arrow", arrow_file),
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
}


def compressed(file: Path, ending: str) -> Path:
    target = file.with_name(file.name + ending)
    target.write_bytes(COMPRESSIONS[ending](file.read_bytes()))
    return target


@pytest.mark.parametrize("ending", COMPRESSIONS)
@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=8, deadline=None)
@given(texts=TEXTS)
def test_texts_are_read_as_they_were_written(kind: str, ending: str, texts: list[str]) -> None:
    suffix, write = FORMATS[kind]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"a{suffix}"
        write(texts, file)
        assert list(read_documents(compressed(file, ending))) == texts


@pytest.mark.parametrize("ending", COMPRESSIONS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_plain_text(tmp_path: Path, encoding: str, ending: str) -> None:
    text = 'Grüße, 名\n\n{"text": "not JSON here"}\n'
    file = tmp_path / "a.txt"
    file.write_text(text, encoding=encoding)
    assert load_corpus(str(compressed(file, ending))).text == text


def test_a_folder_is_its_files_joined(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("one")
    jsonl(["two", "", "three"], tmp_path / "b" / "data.jsonl")
    parquet(["four"], tmp_path / "c.parquet")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "notes.md").write_text("no")
    corpus = load_corpus(str(tmp_path))
    assert corpus.text == "one\n\ntwo\n\nthree\n\nfour"
    assert (corpus.documents, corpus.skipped, corpus.chats) == (4, 1, 0)
    assert (
        corpus.describe(7) == f"{tmp_path}: 4 documents, 1 empty ones skipped, 21 characters, 7 tokens used"
    )


MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": MESSAGES},
        {"messages": [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in MESSAGES]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
        {"prompt": "Hi", "completion": "Hello!"},
        {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
        {"instruction": "Hi", "input": "", "output": "Hello!"},
    ],
)
@pytest.mark.parametrize("kind", ["JSON Lines", "Parquet"])
def test_chats_are_what_the_template_makes_of_them(
    record: dict[str, Any], kind: str, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = TEMPLATE
    file = tmp_path / ("a.jsonl" if kind == "JSON Lines" else "a.parquet")
    if kind == "JSON Lines":
        file.write_text(json.dumps(record) + "\n" + json.dumps(record) + "\n")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record, record]), file)
    corpus = read_corpus(str(file)).rendered(tokenizer)
    assert corpus.text == 2 * tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    assert (corpus.documents, corpus.chats) == (2, 2)
    assert "2 chats in the model's chat template" in corpus.describe(5)


def refused(file: Path, words: str, tokenizer: Any = None) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        read_corpus(str(file)).rendered(tokenizer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"line 1 has half a character \(\\ud800\)"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "line 1 is not JSON"),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n", "line 1 is not JSON"),
        (
            "a.jsonl",
            b'{"title": "x", "body": "y"}\n',
            "line 1 has the keys title, body; read are text, content",
        ),
        ("a.jsonl", b"7\n", "line 1 is no record but int"),
        ("a.jsonl", b'{"messages": [{"content": "x"}]}\n', "line 1 has messages that are no list"),
        ("a.jsonl", b'{"messages": [{"role": "user", "text": "x"}]}\n', "line 1 has messages that are no"),
        ("a.jsonl", b'{"text": "x\ny"}\n', "line 1 is not JSON: Invalid control character, column 12"),
        ("a.jsonl", b'{"messages": ["x"]}\n', "line 1 has messages that are no list"),
        ("a.jsonl", b'{"conversations": [{"from": 1, "value": "x"}]}\n', "line 1 has messages"),
        ("a.jsonl", b'{"text": "\xff"}\n', "not UTF-8 text"),
        ("a.jsonl", b'{"text": ""}\n\n', "the corpus is empty"),
        ("a.json", b'{"text": "x"}', "a list of records is read"),
        ("a.parquet", b"PAR1 not really", "not a Parquet file"),
        ("a.arrow", b"ARROW1 not really", "not an Arrow file"),
        ("a.txt.gz", b"not compressed", "cannot be read"),
        ("a.txt.xz", b"not compressed", "cannot be read"),
        ("a.txt.bz2", b"not compressed", "cannot be read"),
        ("a.txt.zst", b"not compressed", "cannot be read"),
        ("a.txt.gz", gzip.compress(b"text" * 1000)[:40], "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_line(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, words)


def test_without_a_template_chats_are_what_was_said(tmp_path: Path) -> None:
    """As tasks and load tests take them."""
    file = tmp_path / "chats.jsonl"
    records = [{"messages": MESSAGES}, {"text": "A document."}, {"prompt": "Hi", "completion": "Yes"}]
    file.write_text("\n".join(map(json.dumps, records)))
    corpus = load_corpus(str(file))
    said = [message["content"] for message in MESSAGES]
    assert corpus.text == "\n\n".join([*said, "A document.", "Hi", "Yes"])
    assert (corpus.documents, corpus.chats) == (3, 0)


def test_chats_in_which_nothing_is_said(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": " "}]}))
    with pytest.raises(BadInput, match="the corpus is empty"):
        load_corpus(str(file))


def test_chats_that_no_template_takes(tiny_tokenizer: Any) -> None:
    import copy

    corpus = CorpusFiles("chats.jsonl", (Chat(MESSAGES, None, "line 3"),), 0)
    with pytest.raises(BadInput, match=r"line 3 is a chat, and the model has no chat template"):
        corpus.rendered(tiny_tokenizer)
    strict = copy.deepcopy(tiny_tokenizer)
    strict.chat_template = "{{ raise_exception('only\nsystem') }}"
    with pytest.raises(BadInput, match="line 3: the model's chat template refuses it: only system"):
        corpus.rendered(strict)


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    jsonl(["text"], tmp_path / "a.jsonl")
    script = f"""
import sys
from secateur.calibrate.corpus import read_corpus
read_corpus({str(tmp_path / "a.jsonl")!r})
assert not {{"torch", "transformers", "pyarrow"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_commas_in_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that exists keeps its commas; lists are never split."""
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.txt", "b.txt", "c, d,e.txt"):
        Path(name).write_text("text")

    def corpora(given: Any) -> tuple[str, ...]:
        return from_given(PruneOptions, {"model": "m", "out": "o", "keep": "0.5", "corpus": given}).corpus

    assert corpora("a,b.txt") == ("a,b.txt",)
    assert corpora("pydoc:test,a,b.txt,b.txt") == ("pydoc:test", "a,b.txt", "b.txt")
    assert corpora("c, d,e.txt, none.txt,") == ("c, d,e.txt", "none.txt")
    assert corpora(["a,b.txt", "x,y"]) == ("a,b.txt", "x,y")
