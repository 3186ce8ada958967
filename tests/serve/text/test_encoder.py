"""Templates and tokenisers in processes of their own: the same results, with limits, and in turns."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from secateur.serve.text.encoder import TextEncoder, TextRefused, TokenizerDefinition

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HOARDER = (
    "{% set n = namespace(t='x' * 1000000) %}{% for a in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}"
)
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": 'Say "höflich" <b>now</b>'},
]
TEMPLATES = {
    "plain": "{{ bos_token }}{% for m in messages %}\n  [{{ m.role }}] {{ m.content | trim }}\n{% endfor %}",
    "loops": "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}.",
    "json": "{{ messages | tojson(indent=1) }}{% if tools %}tools{% endif %}",
    "date": "{{ strftime_now('%Y') }} {% if add_generation_prompt %}go{% endif %}",
}


@pytest.fixture(scope="module")
def tokenizer(make_tiny: Callable[..., Path]) -> Any:
    return AutoTokenizer.from_pretrained(make_tiny("llama"))


@asynccontextmanager
async def encoder(
    tokenizer: Any, template: str = "", processes: int = 1, seconds: float = 1.0
) -> AsyncIterator[TextEncoder]:
    definition = TokenizerDefinition(
        tokenizer.backend_tokenizer.to_str(), template, tokenizer.special_tokens_map
    )
    made = TextEncoder(definition, processes, seconds)
    try:
        yield made
    finally:
        await made.close()


async def test_text_becomes_the_tokens_of_transformers(tokenizer: Any) -> None:
    async with encoder(tokenizer) as made:
        for text in ("", "It was a bright cold day – 13 o'clock.", "\U0001f600 <s> \x00"):
            assert await made.text(text, special=True) == tokenizer(text)["input_ids"]
            plain = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert await made.text(text, special=False) == plain


@pytest.mark.parametrize("name", TEMPLATES)
async def test_conversations_are_laid_out_as_by_transformers(tokenizer: Any, name: str) -> None:
    template = TEMPLATES[name]
    theirs = tokenizer.apply_chat_template(
        MESSAGES, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    definition = TokenizerDefinition(None, template, tokenizer.special_tokens_map)
    made = TextEncoder(definition, 1, 1.0)
    try:
        assert await made.chat(MESSAGES) == theirs
    finally:
        await made.close()


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        (LOOP, "takes more than 1 s of processor time"),
        (HOARDER, "takes more than 512 MiB of memory"),
        ("{{ raise_exception('nobody may speak') }}", "refuses them: nobody may speak"),
        ("{{ messages.__class__.__mro__ }}", "refuses them: .*__class__.* unsafe"),
        ("{% nonsense %}", "refuses them: .*nonsense"),
    ],
)
async def test_a_template_of_no_good_is_refused_and_the_next_request_answered(
    tokenizer: Any, template: str, complaint: str
) -> None:
    async with encoder(tokenizer, template) as made:
        with pytest.raises(TextRefused, match=complaint):
            await made.chat(MESSAGES)
        assert await made.text("and now", special=True) == tokenizer("and now")["input_ids"]


async def test_one_caller_cannot_hold_all_processes(tokenizer: Any) -> None:
    async with encoder(tokenizer, LOOP, processes=2) as made:
        await made.text("both are there", special=True)
        storm = [asyncio.ensure_future(made.chat(MESSAGES, "attacker")) for _ in range(4)]
        answer = await made.text("hello", special=True, caller="polite")
        assert answer == tokenizer("hello")["input_ids"] and not any(one.done() for one in storm[1:])
        for one in storm:
            one.cancel()


async def test_callers_take_turns(tokenizer: Any) -> None:
    done: list[str] = []

    async def ask(caller: str) -> None:
        await made.text("a word " * 2000, special=True, caller=caller)
        done.append(caller)

    async with encoder(tokenizer) as made:
        await asyncio.gather(*(ask("many") for _ in range(20)), ask("one"))
    assert done.index("one") <= 2


async def test_what_nobody_waits_for_is_dropped(tokenizer: Any) -> None:
    async with encoder(tokenizer, LOOP, seconds=30) as made:
        await made.text("the process is there", special=True)
        storm = [asyncio.ensure_future(made.chat(MESSAGES)) for _ in range(50)]
        await asyncio.sleep(0.1)
        for one in storm:
            one.cancel()
        started = time.monotonic()
        assert await made.text("hello", special=True) == tokenizer("hello")["input_ids"]
        # The one that ran was ended and none of the others begun: each would have taken 30 seconds.
        assert time.monotonic() - started < 30


async def test_processes_end_with_the_encoder(tokenizer: Any) -> None:
    async with encoder(tokenizer) as made:
        await made.text("hello", special=True)
        [pid] = [one._child.pid for one in made._idle if one._child]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
