"""The requests of a benchmark: prompts from a text, lengths as asked for, or what a trace says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
from secateur.config.bench import BenchOptions

POOL_CHARACTERS = 100_000
CALIBRATION_CHARACTERS = 2000
CHARACTERS_PER_TOKEN = 4.0  # of English, where the server does not say how many tokens it saw


async def make_requests(
    target: Target, model: str, options: BenchOptions, trace: Sequence[TraceEntry] = ()
) -> Callable[[int], BenchmarkRequest]:
    """The request of every number, for one model of one server.

    Args:
        trace: whose prompts and lengths are taken in turn; empty where there is none.

    Raises:
        BadInput: no such corpus.
        RequestFailed: the server does not answer.
    """
    prompts = await _prompts(target, model, options)
    if not trace:
        return lambda number: BenchmarkRequest(
            prompts.make(number, options.input_len), options.output_len, not options.stop_at_eos
        )

    def traced(number: int) -> BenchmarkRequest:
        entry = trace[number % len(trace)]
        if entry.text is not None:
            prompt = BenchmarkPrompt(0, text=entry.text)
        else:
            prompt = prompts.make(number, entry.input_tokens or options.input_len)
        return BenchmarkRequest(prompt, entry.output_tokens or options.output_len, not options.stop_at_eos)

    return traced


async def _prompts(target: Target, model: str, options: BenchOptions) -> PromptSource:
    text = _text(options.corpus)
    read = text if options.corpus else text[:POOL_CHARACTERS]
    token_ids = await target.tokenize(model, read) if target.takes_tokens else None
    if token_ids is not None:
        return (TokenPassages if options.corpus else RandomTokens)(token_ids, options.seed)
    per_token = await _characters_per_token(target, model, text, options.input_len)
    if options.corpus:
        return TextPassages(text, per_token, options.seed)
    return RandomWords(text.split(), per_token, options.seed)


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
