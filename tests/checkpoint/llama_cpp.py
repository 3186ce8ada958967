"""llama.cpp reads a GGUF file: what it makes of texts. A process of its own, as llama.cpp aborts on errors.

``python llama_cpp.py FILE STEPS ALL`` reads a JSON list of texts and writes one of answers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any


def answers(
    file: Path, texts: list[str], *, steps: int = 1, every_token: bool = True
) -> list[dict[str, Any]]:
    """Per text its ``tokens``, ``log_probabilities`` [T, V] and the ``greedy`` continuation of some steps.

    Log probabilities are those after each token of the text, or after the last alone.
    """
    done = subprocess.run(
        [sys.executable, __file__, str(file), str(steps), str(int(every_token))],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def _answer(server: Any, text: str, steps: int, every_token: bool) -> dict[str, Any]:
    tokens = _post(server, "tokenize", content=text, add_special=True, parse_special=True)["tokens"]
    lengths = range(1 if every_token else len(tokens), len(tokens) + 1)
    # What is drawn is a whole character: the server gives no probabilities with a part of one.
    drawn = [_post(server, "tokenize", content="a")["tokens"][-1], 1e6]
    rows = [_complete(server, tokens[:length], 1, n_probs=1 << 20, logit_bias=[drawn]) for length in lengths]
    greedy = _complete(server, tokens, steps)["tokens"]
    return {
        "tokens": tokens,
        "log_probabilities": [_in_order(row["completion_probabilities"][0]["top_logprobs"]) for row in rows],
        "greedy": greedy,
    }


def _complete(server: Any, tokens: list[int], steps: int, **options: Any) -> dict[str, Any]:
    return _post(
        server,
        "completion",
        prompt=tokens,
        n_predict=steps,
        temperature=0,
        ignore_eos=True,
        return_tokens=True,
        cache_prompt=False,
        **options,
    )


def _in_order(entries: list[dict[str, Any]]) -> list[float]:
    return [entry["logprob"] for entry in sorted(entries, key=lambda entry: entry["id"])]


def _post(server: Any, path: str, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(f"{server.listening_address}/{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def main() -> None:
    file, steps, every_token = sys.argv[1:]
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # llama.cpp reports on both
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.n_ctx = 512
    parameters.n_parallel = 1
    # Keys and values, and with them sums, as in a checkpoint that computes in float32.
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)
    json.dump(
        [_answer(server, text, int(steps), every_token == "1") for text in json.load(sys.stdin)], output
    )
    output.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
