"""`secateur generate`: stream an answer from a running server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.console import emit_json, print_status
from secateur.cli.options import OptionCommand
from secateur.cli.target import with_client
from secateur.errors import SecateurError

if TYPE_CHECKING:
    from secateur.client import Client, Completion, GenerationResult, StreamEvent


class CutOff(SecateurError):
    """The server ended an answer before it was whole."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(cls=OptionCommand)(generate)


@with_client
def generate(
    client: Client,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Prompt text; - reads it from stdin.")],
    model: Annotated[str, typer.Option(help="Name of the model. Default: the server's default model.")] = "",
    version: Annotated[
        str, typer.Option("--model-version", help="Version of the model. Default: the active one.")
    ] = "",
    chat: Annotated[
        bool, typer.Option("--chat", help="Send the prompt as a chat message instead of plain text.")
    ] = False,
    system: Annotated[str | None, typer.Option(help="System message; implies --chat.")] = None,
    n: Annotated[int, typer.Option("--n", help="Number of answers.", min=1)] = 1,
    max_tokens: Annotated[
        int | None, typer.Option(help="Maximum number of new tokens. Default: 256.", min=1)
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 (greedy) to 2. Default: 1.")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Sample from the most likely tokens up to this total probability. Default: 1."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Sample from this many most likely tokens. Default: all.", min=0)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed for repeatable sampling.", min=0)] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text that ends the answer. May be given several times.")
    ] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Continue past the end-of-sequence token.")
    ] = False,
    logprobs: Annotated[
        int | None,
        typer.Option(help="With --json: log-probabilities of this many most likely tokens.", min=0),
    ] = None,
    priority: Annotated[
        int, typer.Option(help="-100 to 100; waiting requests with a higher one go first.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Generate text with a model of a running server.

    Example: secateur generate --model slim --max-tokens 64 "Once upon a time"
    """
    from secateur.client import GenerationResult

    text = sys.stdin.read() if prompt == "-" else prompt
    events = client.generate(
        model,
        _messages(text, system) if chat or system is not None else text,
        version=version,
        priority=priority,
        n=n,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop=stop or None,
        ignore_eos=ignore_eos,
        logprobs=logprobs,
    )
    # Several answers grow side by side: they cannot be shown before they are whole.
    answer = GenerationResult.of(events if as_json or n > 1 else _shown(events))
    if as_json:
        emit_json(document(answer))
    else:
        print("" if n == 1 else _one_by_one(answer), flush=True)
        print_status(_summary(answer))
    if any(one.finish_reason == "abort" for one in answer.completions):
        raise CutOff("the server ended the answer before it was whole (finish reason abort)")


def document(answer: GenerationResult) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    timings = answer.timings
    return {
        "model": answer.model,
        "model_version": answer.model_version,
        "completions": [_completion(one) for one in answer.completions],
        "usage": asdict(answer.usage),
        "engine_ms": timings
        and {name.removesuffix("_ms"): round(value, 3) for name, value in asdict(timings).items()},
        "ttft_ms": answer.ttft_ms and round(answer.ttft_ms, 3),
        "tokens_per_second": answer.tokens_per_second and round(answer.tokens_per_second, 3),
        "seconds": {"total": round(answer.seconds, 4)},
    }


def _completion(completion: Completion) -> dict[str, Any]:
    written = {
        "index": completion.index,
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "finish_reason": completion.finish_reason,
    }
    if completion.stop_match:
        written["stop_match"] = completion.stop_match
    if completion.logprobs:
        written["logprobs"] = [
            {"token_id": one.token_id, "logprob": one.logprob, "top": dict(one.top)}
            for one in completion.logprobs
        ]
    return written


def _shown(events: Iterator[StreamEvent]) -> Iterator[StreamEvent]:
    """Print the text of each event on its way."""
    for event in events:
        print(event.text, end="", flush=True)
        yield event


def _one_by_one(answer: GenerationResult) -> str:
    return "\n\n".join(f"--- {one.index + 1}\n{one.text}" for one in answer.completions)


def _messages(text: str, system: str | None) -> list[dict[str, str]]:
    before = [{"role": "system", "content": system}] if system is not None else []
    return [*before, {"role": "user", "content": text}]


def _summary(answer: GenerationResult) -> str:
    rate, first = answer.tokens_per_second, answer.ttft_ms or 0.0
    reasons = ", ".join(sorted({one.finish_reason for one in answer.completions}))
    return (
        f"[{answer.model}: {answer.usage.completion_tokens} tokens, {reasons}, "
        f"first after {first:.0f} ms" + (f", then {rate:.1f} tokens/s]" if rate else "]")
    )
