"""Text becomes windows as the perplexity protocol says, and bad corpora become one line.

Proven: windows are the stream of the whole text cut up, also when only a beginning of the text is
tokenised (property); the embedded parts are disjoint and complete; every bad corpus is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secateur.calibrate.corpus import Corpus, cut_windows, interleave, load_corpus, read_corpora
from secateur.errors import BadInput


def refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


WORDS = st.lists(
    st.one_of(
        st.sampled_from(["the", "statement", " of ", "\n", "\n\n\n", "   ", "\t", "'s", "f(x):", "é", "名"]),
        st.text(max_size=12),
        st.integers(1, 400).map(lambda count: "a" * count),
        st.integers(1, 90).map(lambda count: " " * count),
        st.integers(1, 90).map(lambda count: "\n" * count),
    ),
    min_size=1,
    max_size=30,
)


class TestWindows:
    def test_the_stream_cut_up(self, english: str, tiny_tokenizer: Any) -> None:
        corpus = Corpus("english", english[:5000])
        stream = tiny_tokenizer(corpus.text, add_special_tokens=False)["input_ids"]
        windows = cut_windows(corpus, tiny_tokenizer, 32)
        assert windows.dtype == torch.int64
        assert windows.shape == (len(stream) // 32, 32)
        assert windows.flatten().tolist() == stream[: windows.numel()]

    @pytest.mark.parametrize("limit", [1, 2, 7, 10_000])
    def test_limit_is_a_beginning(self, limit: int, english: str, tiny_tokenizer: Any) -> None:
        corpus = Corpus("english", english[:60_000])
        whole = cut_windows(corpus, tiny_tokenizer, 64)
        assert torch.equal(cut_windows(corpus, tiny_tokenizer, 64, limit), whole[:limit])

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(words=WORDS, repeats=st.integers(1, 60), window=st.integers(2, 12), limit=st.integers(1, 4))
    def test_limit_is_a_beginning_of_any_text(
        self, words: list[str], repeats: int, window: int, limit: int, tiny_tokenizer: Any
    ) -> None:
        text = "".join(words) * repeats
        stream = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(stream) < window:
            return
        windows = cut_windows(Corpus("any", text), tiny_tokenizer, window, limit)
        assert len(windows) == min(limit, len(stream) // window)
        assert windows.flatten().tolist() == stream[: windows.numel()]

    def test_only_a_beginning_is_tokenised(self, english: str, tiny_tokenizer: Any) -> None:
        seen: list[int] = []

        def spy(text: str, **options: Any) -> Any:
            seen.append(len(text))
            return tiny_tokenizer(text, **options)

        cut_windows(Corpus("english", english), spy, 64, 4)
        assert max(seen) < len(english) / 10

    def test_no_special_tokens(self, tiny_tokenizer: Any) -> None:
        windows = cut_windows(Corpus("x", "word " * 50), tiny_tokenizer, 8)
        assert not torch.isin(windows, torch.tensor([0, 1])).any()

    def test_shorter_than_one_window(self, tiny_tokenizer: Any) -> None:
        refused(
            lambda: cut_windows(Corpus("tiny", "a b c"), tiny_tokenizer, 256), "tiny.*shorter than one window"
        )

    @pytest.mark.parametrize("window", [1, 0, -5])
    def test_nothing_to_predict(self, window: int, tiny_tokenizer: Any) -> None:
        refused(lambda: cut_windows(Corpus("x", "a b c"), tiny_tokenizer, window), "window: got")


class TestInterleave:
    def test_in_turn(self) -> None:
        left, right = torch.zeros(3, 4), torch.ones(3, 4)
        assert interleave([left, right])[:, 0].tolist() == [0, 1, 0, 1, 0, 1]

    def test_stops_with_the_shortest(self) -> None:
        parts = [torch.full((count, 2), count) for count in (5, 2, 9)]
        assert interleave(parts)[:, 0].tolist() == [5, 2, 9, 5, 2, 9]

    def test_one_alone_is_left_as_it_is(self) -> None:
        only = torch.arange(6).view(3, 2)
        assert torch.equal(interleave([only]), only)


class TestEmbedded:
    def test_parts_are_disjoint_and_cover_everything(self) -> None:
        from pydoc_data.topics import topics

        parts = [load_corpus(f"pydoc:{part}").text for part in ("calibration", "validation", "test")]
        for text in topics.values():
            assert sum(text in part for part in parts) == 1, text[:60]
        # Nothing but topics: joined by an empty line.
        total = sum(len(text) for text in topics.values())
        joints = len(topics) - len(parts)
        assert sum(map(len, parts)) == total + 2 * joints

    def test_whole(self, english: str) -> None:
        assert load_corpus("pydoc").text == english

    def test_unknown_part(self) -> None:
        refused(lambda: load_corpus("pydoc:train"), "calibration, validation, test")

    def test_digest_is_that_of_the_text(self) -> None:
        assert Corpus("a", "text").digest == Corpus("b", "text").digest != Corpus("a", "Text").digest


class TestFiles:
    def test_file(self, tmp_path: Path) -> None:
        file = tmp_path / "a.txt"
        file.write_text("Grüße\n", encoding="utf-8")
        corpus = load_corpus(str(file))
        assert (corpus.name, corpus.text) == (str(file), "Grüße\n")

    def test_folder(self, tmp_path: Path) -> None:
        for name in ("b.txt", "a.txt", "c.md"):
            (tmp_path / name).write_text(name)
        assert load_corpus(str(tmp_path)).text == "a.txt\n\nb.txt"

    def test_several(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("text")
        names = [corpus.name for corpus in read_corpora(["pydoc:test", str(tmp_path / "a.txt")])]
        assert names == ["pydoc:test", str(tmp_path / "a.txt")]

    def test_unknown(self) -> None:
        refused(lambda: load_corpus("wikitext2"), "wikitext2: no such file or folder; give files.*pydoc")

    @pytest.mark.parametrize("content", ["", " \n\t\n"])
    def test_empty(self, content: str, tmp_path: Path) -> None:
        file = tmp_path / "empty.txt"
        file.write_text(content)
        refused(lambda: load_corpus(str(file)), "empty.txt: the corpus is empty")

    def test_folder_without_text(self, tmp_path: Path) -> None:
        refused(lambda: load_corpus(str(tmp_path)), r"no \*\.txt, .* file")

    def test_not_text(self, tmp_path: Path) -> None:
        file = tmp_path / "binary.txt"
        file.write_bytes(b"ab\xff\xfe")
        refused(lambda: load_corpus(str(file)), "not UTF-8 text .* at byte 2")

    def test_none_named(self) -> None:
        refused(lambda: read_corpora([]), "at least one corpus")

    def test_named_twice(self) -> None:
        refused(lambda: read_corpora(["pydoc:test", "pydoc:test"]), "named twice")

    @pytest.mark.parametrize("name", ["x" * 300, "a\0b"], ids=["too-long", "nul"])
    def test_what_no_file_can_be_called(self, name: str) -> None:
        refused(lambda: load_corpus(name), "no such file")


def test_only_to_calibrate_on() -> None:
    with pytest.raises(BadInput, match="corpus: got self: a model's own text is only to calibrate on"):
        read_corpora(["pydoc", "self"])
