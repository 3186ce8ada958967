"""The requests of a benchmark: prompts from a text, lengths as asked for, or what a trace says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from secateur.bench.load.prompt import (
    BenchmarkPrompt,
    BenchmarkRequest,
    PromptSource,
    RandomTokens,
    RandomWords,
    TextPassages,
    TokenPassages,
)
from secateur.bench.load.record import StreamedResponse
from secateur.bench.load.target import Target
from secateur.bench.load.trace import TraceEntry

POOL_CHARACTERS = 100_000
CALIBRATION_CHARACTERS = 2000
CHARACTERS_PER_TOKEN = 4.0  # of English, where the server does not say how many tokens it saw


@dataclass(frozen=True)
class RequestSpec:
    """What requests are to be like.

    Attributes:
        corpus: where prompts are cut from; "" = made up.
        input_tokens, output_tokens: lengths, where the trace does not say.
        trace: its entries, in turn; empty = none.
    """

    input_tokens: int
    output_tokens: int
    ignore_eos: bool
    corpus: str
    trace: Sequence[TraceEntry]
    seed: int


async def make_requests(target: Target, model: str, wanted: RequestSpec) -> Callable[[int], BenchmarkRequest]:
    """The request of every number, for one model of one server.

    Raises:
        BadInput: no such corpus.
        RequestFailed: the server does not answer.
    """
    prompts = await _prompts(target, model, wanted)
    if not wanted.trace:
        return lambda number: BenchmarkRequest(
            prompts.make(number, wanted.input_tokens), wanted.output_tokens, wanted.ignore_eos
        )

    def traced(number: int) -> BenchmarkRequest:
        entry = wanted.trace[number % len(wanted.trace)]
        if entry.text is not None:
            prompt = BenchmarkPrompt(0, text=entry.text)
        else:
            prompt = prompts.make(number, entry.input_tokens or wanted.input_tokens)
        return BenchmarkRequest(prompt, entry.output_tokens or wanted.output_tokens, wanted.ignore_eos)

    return traced


async def _prompts(target: Target, model: str, wanted: RequestSpec) -> PromptSource:
    text = _text(wanted.corpus)
    read = text if wanted.corpus else text[:POOL_CHARACTERS]
    token_ids = await target.tokenize(model, read) if target.takes_tokens else None
    if token_ids is not None:
        return (TokenPassages if wanted.corpus else RandomTokens)(token_ids, wanted.seed)
    per_token = await _characters_per_token(target, model, text, wanted.input_tokens)
    if wanted.corpus:
        return TextPassages(text, per_token, wanted.seed)
    return RandomWords(text.split(), per_token, wanted.seed)


async def _characters_per_token(target: Target, model: str, text: str, tokens: int) -> float:
    """Of words drawn at random, found out by asking the server once."""
    # Short enough to fit where the prompts do, whatever the tokenizer.
    characters = max(64, min(2 * tokens, CALIBRATION_CHARACTERS))
    words = RandomWords(text.split(), 1.0, seed=2**31).make(0, characters)
    answer = StreamedResponse()
    await target.stream(model, BenchmarkRequest(words, 1), answer)
    if not answer.prompt_tokens:
        return CHARACTERS_PER_TOKEN
    return len(words.text or "") / answer.prompt_tokens


def _text(corpus: str) -> str:
    if corpus:
        from secateur.calibrate.corpus import load_corpus

        return load_corpus(corpus).text
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))
