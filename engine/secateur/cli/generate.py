"""`secateur generate`: ask a running server, and watch the answer come."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.console import emit_json, say
from secateur.cli.interrupts import importing

if TYPE_CHECKING:
    from secateur.client import Completion


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(generate)


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text; - reads it from stdin.")],
    target: Annotated[str, typer.Option(help="Where the server is.")] = "127.0.0.1:50051",
    model: Annotated[str, typer.Option(help="Name of the model. Default: the only one.")] = "",
    chat: Annotated[bool, typer.Option("--chat", help="Send it as a message, not as plain text.")] = False,
    system: Annotated[str | None, typer.Option(help="System message; implies --chat.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of the answer (256).", min=1)] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy, up to 2 (1).")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the likeliest tokens up to here (1).")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep this many likeliest tokens (all).", min=0)] = None,
    seed: Annotated[int | None, typer.Option(help="Make sampling repeatable.", min=0)] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the answer; repeatable.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on past the end of sequence.")] = False,
    timeout: Annotated[float, typer.Option(help="Give up after this many seconds.", min=0.001)] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Generate text with a model of a running server.

    Example: secateur generate --model slim --max-tokens 64 "Once upon a time"
    """
    import os

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with importing():
        from secateur.client import Client, Completion

    text = sys.stdin.read() if prompt == "-" else prompt
    events = []
    with Client(target, timeout) as client:
        for event in client.generate(
            model,
            _messages(text, system) if chat or system is not None else text,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            stop=stop or None,
            ignore_eos=ignore_eos,
        ):
            events.append(event)
            if not as_json:
                print(event.text, end="", flush=True)
    completion = Completion.of(events)
    if as_json:
        emit_json(document(completion))
    else:
        print(flush=True)
        say(_summary(completion))


def document(completion: Completion) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    return {
        "model": completion.model,
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "usage": {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
        },
        "ttft_ms": round(completion.ttft_ms, 3),
        "tokens_per_second": completion.tokens_per_second and round(completion.tokens_per_second, 3),
        "seconds": {"total": round(completion.seconds, 4)},
    }


def _messages(text: str, system: str | None) -> list[dict[str, str]]:
    before = [{"role": "system", "content": system}] if system is not None else []
    return [*before, {"role": "user", "content": text}]


def _summary(completion: Completion) -> str:
    rate = completion.tokens_per_second
    return (
        f"[{completion.model}: {completion.completion_tokens} tokens, {completion.finish_reason}, "
        f"first after {completion.ttft_ms:.0f} ms" + (f", then {rate:.1f} tokens/s]" if rate else "]")
    )
