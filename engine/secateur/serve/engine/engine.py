"""The adapter to vLLM: all of its interfaces that we use are used here, and nowhere else.

Written against vLLM 0.32. An `Engine` is one model in one child process; this process tokenises,
detokenises and routes.
"""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.rpc import code_pb2

from secateur.config.serve import EngineOptions
from secateur.errors import BackendUnavailable, BrokenCheckpoint
from secateur.serve.engine.device_memory import device_count
from secateur.serve.engine.environment import kernel_choice, on_cpu, weights_dtype
from secateur.serve.engine.memory import UNPLANNED_FRACTION, kv_cache_bytes
from secateur.serve.engine.sharding import check_sharding, executor
from secateur.serve.engine.stats import EngineStats
from secateur.serve.engine.steps import num_sequences, step_tokens
from secateur.serve.engine.turns import Stage, Turns, long_part
from secateur.serve.failures import FieldViolation, RpcError, invalid_argument, unavailable
from secateur.serve.text.encoder import TextEncoder, TextRefused, TokenizerDefinition

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

SHUTDOWN_SECONDS = 5.0
ROOT_CAUSE = "See root cause above"  # in what vLLM says to whoever reads its log
DEAD_RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class Engine:
    """A model that answers.

    Attributes:
        architecture: name of the class that runs it.
        dtype: of weights and activations.
        max_model_len: most tokens of prompt and completion together.
        vocabulary: number of token ids.
        kv_cache_tokens: room for keys and values, in tokens.
        load_seconds: what `start_engine` took.
        load: how busy it is.
    """

    architecture: str
    dtype: str
    max_model_len: int
    vocabulary: int
    kv_cache_tokens: int
    load_seconds: float
    load: EngineStats
    _vllm: AsyncLLM = field(repr=False)
    _encoder: TextEncoder = field(repr=False)
    _turns: Turns = field(repr=False)
    _shared_cache: bool = field(default=False, repr=False)
    _calls: list[None] = field(default_factory=list, repr=False)

    @property
    def dead(self) -> bool:
        """True once the child process is gone; it does not come back."""
        return bool(self._vllm.errored)

    @property
    def calls(self) -> int:
        """Calls of its methods in progress: while there are any, it must not be shut down."""
        return len(self._calls)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._calls.append(None)
        try:
            yield
        finally:
            self._calls.pop()

    @property
    def most_characters(self) -> int:
        """No longer text can fit into the context."""
        tokenizer: Any = self._vllm.get_tokenizer()
        return self.max_model_len * int(tokenizer.max_chars_per_token)

    async def tokenize(self, text: str, *, special: bool = True, caller: str = "") -> list[int]:
        """Return a text's token ids, with the tokenizer's special tokens if ``special``.

        Raises:
            TextRefused: it takes too much time or memory.
        """
        with self._counted():
            if self._encoder.definition.tokenizer is not None:
                return await self._encoder.text(text, special=special, caller=caller)
            return await self._tokenize_here(text, special)

    async def _tokenize_here(self, text: str, special: bool) -> list[int]:
        """Use a tokeniser that is written in Python, in vLLM's thread for it."""
        from vllm.renderers import TokenizeParams

        how = TokenizeParams(max_total_tokens=None, add_special_tokens=special)
        prompt = await self._vllm.renderer.tokenize_prompt_async({"prompt": text}, how)
        return list(prompt["prompt_token_ids"])

    async def tokenize_chat(self, messages: Sequence[Mapping[str, str]], caller: str = "") -> list[int]:
        """Return the token ids of a conversation laid out by the chat template, ready to be answered.

        Raises:
            RpcError: INVALID_ARGUMENT when there is no template.
            TextRefused: it does not take these messages, or takes too much time or memory.
        """
        if not self._encoder.definition.chat_template:
            raise invalid_argument(
                FieldViolation("chat", "this model has no chat template: send text instead")
            )
        with self._counted():
            laid_out = await self._encoder.chat(messages, caller)
            if isinstance(laid_out, list):
                return laid_out
            if len(laid_out) > self.most_characters:
                raise TextRefused(f"makes {len(laid_out)} characters of them, more than fit")
            return await self._tokenize_here(laid_out, special=False)

    async def detokenize(self, token_ids: Sequence[int], *, skip_special: bool) -> str:
        """Return the text of token ids, without special tokens if ``skip_special``."""
        tokenizer: Any = self._vllm.get_tokenizer()
        return str(await asyncio.to_thread(tokenizer.decode, token_ids, skip_special_tokens=skip_special))

    async def generate(
        self,
        token_ids: Sequence[int],
        parameters: Mapping[str, Any],
        *,
        caller: str = "",
        priority: int = 0,
        whole: bool = False,
        begin: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[RequestOutput]:
        """Yield what is new after each step. Closing the iterator frees the request's memory.

        Args:
            token_ids: the prompt.
            parameters: keyword arguments of vLLM's ``SamplingParams``.
            caller: whose request it is: callers take turns, and each has a prefix cache of its own.
            priority: higher goes first where the caller's requests have to wait.
            whole: yield only once, at the end.
            begin: called when its turn has come, before the engine has it.

        Raises:
            RpcError: the engine is dead or full, or refuses the request; INTERNAL, `ENGINE_DEAD`, if it
                dies meanwhile, perhaps of this very request: nobody is asked to repeat it.
        """
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        kind = RequestOutputKind.FINAL_ONLY if whole else RequestOutputKind.DELTA
        # Given as the engine's own input, it spares a detour through the tokenizer's threads.
        prompt = tokens_input(list(token_ids), cache_salt=None if self._shared_cache else caller or None)
        request_id, arrived = str(uuid.uuid4()), time.time()
        with self._counted(), _translate_errors():
            # Nobody else has these: vLLM need not copy them.
            how = SamplingParams(**parameters, output_kind=kind, skip_clone=True)
            async with self._turns.turn(caller, len(token_ids), how.n, priority) as turn:
                if self.dead:
                    raise unavailable("ENGINE_RESTARTING", "the model's engine died", DEAD_RETRY_SECONDS)
                begin()
                waited, finished = time.time() - arrived, False
                try:
                    outputs = await self._vllm.add_request(
                        request_id, prompt, how, arrival_time=arrived, priority=turn.rank
                    )
                    turn.request_id = request_id
                    while not finished:
                        output: Any = outputs.get_nowait() or await outputs.get()
                        finished = output.finished
                        turn.used(sum(len(one.token_ids) for one in output.outputs))
                        if finished and output.metrics is not None:
                            output.metrics.queued_ts -= waited
                            self.load.queue.observe(output.metrics.scheduled_ts - output.metrics.queued_ts)
                        yield output
                finally:
                    self.load.left += not finished
                    # vLLM does this itself only for some ways of leaving.
                    if request_id in self._vllm.output_processor.external_req_ids:
                        await self._vllm.abort(request_id)

    def _stage_of(self, request_id: str) -> Stage:
        processor = self._vllm.output_processor
        states = [processor.request_states.get(one) for one in processor.external_req_ids.get(request_id, ())]
        known = [state for state in states if state is not None]
        if not known:
            return Stage.DONE
        return Stage.READING if any(state.is_prefilling for state in known) else Stage.ANSWERING

    def _after_step(self) -> None:
        self._turns.look(self._stage_of)
        self.load.waiting += self._turns.waiting

    async def score(
        self, token_ids: Sequence[int], caller: str = "", begin: Callable[[], None] = lambda: None
    ) -> list[float]:
        """Return the log-probability of each token but the first, given those before it."""
        parameters = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}
        logprobs: Any = None
        scoring = self.generate(token_ids, parameters, caller=caller, whole=True, begin=begin)
        async with aclosing(scoring) as outputs:
            async for output in outputs:
                logprobs = output.prompt_logprobs or logprobs
        if logprobs is None:
            raise unavailable("SHUTTING_DOWN", "the request was cut off")
        later = zip(token_ids[1:], logprobs[1:], strict=True)
        return [candidates[token].logprob for token, candidates in later]

    async def answer(self, token_ids: Sequence[int], length: int) -> list[tuple[int, float]]:
        """Return the greedy continuation of a prompt: ``length`` tokens and their log-probabilities."""
        parameters = {"max_tokens": length, "temperature": 0.0, "logprobs": 0, "ignore_eos": True}
        answer: list[tuple[int, float]] = []
        async with aclosing(self.generate(token_ids, {**parameters, "detokenize": False})) as outputs:
            async for output in outputs:
                new = output.outputs[0]
                pairs = zip(new.token_ids, new.logprobs or (), strict=True)
                answer += [(token, candidates[token].logprob) for token, candidates in pairs]
        return answer

    async def weight_digests(self) -> dict[str, str] | None:
        """Return the SHA-256 of every tensor by its name; None if several processes share the model."""
        ranks = await self._vllm.compute_weight_checksums()
        if len(ranks) != 1:
            return None
        # Their names begin with the rank: "dp0:pp0:pcp0:tp0:model.embed_tokens.weight".
        return {name.rpartition(":")[2]: digest for name, digest in ranks[0].items()}

    async def abort_all(self) -> None:
        """End every request at once; streams finish with the reason ``abort``, if they have begun."""
        self._turns.close()
        await self._vllm.abort([*self._vllm.output_processor.external_req_ids])

    async def shutdown(self) -> None:
        """Stop the child processes and wait for their end."""
        await self._encoder.close()
        if self._vllm.output_handler is not None:  # or it would report the child's end as an accident
            self._vllm.output_handler.cancel()
        await asyncio.to_thread(self._vllm.shutdown, SHUTDOWN_SECONDS)
        await asyncio.sleep(0)  # vLLM closes its sockets in a callback of this loop
        # It leaves the context itself to the garbage collector: four threads and nine descriptors per engine.
        resources: Any = self._vllm.engine_core.resources
        if not resources.ctx.closed:
            resources.ctx.destroy(linger=0)


def import_vllm() -> None:
    """Import vLLM and load its plugins: the slow and not thread-safe part of `start_engine`.

    Raises:
        BackendUnavailable: it cannot be imported.
    """
    try:
        import vllm.engine.arg_utils
        import vllm.v1.engine.async_llm  # noqa: F401
        from vllm.plugins import load_general_plugins
    except ImportError as error:
        raise BackendUnavailable(f"vLLM cannot be imported: {error}") from error
    load_general_plugins()


def start_engine(name: str, folder: Path, options: EngineOptions, num_engines: int) -> Engine:
    """Load a model and wait until it answers; takes about ten seconds on a CPU, mostly imports.

    Blocks; call it off the event loop, after `environment.set_engine_environment` and `import_vllm`.

    Args:
        name: the model's, in errors.
        folder: its checkpoint.
        options: how to run it.
        num_engines: how many engines share the machine, this one included.

    Raises:
        BackendUnavailable: its process died while loading, or cannot be with_field_names with.
        BadInput: the model cannot be shared between so many devices.
        BrokenCheckpoint: vLLM refuses the checkpoint, or options that do not fit it.
    """
    check_sharding(folder, options)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM
    from zmq import ZMQError

    started = time.monotonic()
    load, tokens = EngineStats(), step_tokens(options, on_cpu())
    try:
        with _sigint_ignored():
            config = AsyncEngineArgs(**engine_arguments(folder, options, num_engines)).create_engine_config()
            part = min(long_part(tokens), config.model_config.max_model_len)
            config.scheduler_config.long_prefill_token_threshold = part
            vllm = AsyncLLM.from_vllm_config(
                config, stat_loggers=[_logger_factory(load)], disable_log_stats=True
            )
    except (ValueError, NotImplementedError, OSError) as error:
        raise BrokenCheckpoint("models", f"{name}={folder}", _line(error)) from error
    except (RuntimeError, ZMQError) as error:
        why = "its process ended, the server's log says why" if ROOT_CAUSE in str(error) else _line(error)
        raise BackendUnavailable(f"the engine of {name} did not start: {why}") from error
    load.kv_cache_tokens, load.pids = _kv_cache_tokens(vllm), _pids(vllm)
    model = vllm.model_config
    engine = Engine(
        architecture=model.architectures[0],
        dtype=str(model.dtype).removeprefix("torch."),
        max_model_len=model.max_model_len,
        vocabulary=model.get_vocab_size(),
        kv_cache_tokens=load.kv_cache_tokens,
        load_seconds=time.monotonic() - started,
        load=load,
        _vllm=vllm,
        _encoder=TextEncoder(
            _tokenizer_definition(vllm.get_tokenizer()), options.text_processes, options.text_seconds
        ),
        _turns=Turns(options.max_sequences, tokens, options.max_queued, options.max_queued_tokens),
        _shared_cache=options.shared_prefix_cache,
    )
    load.after_step = engine._after_step
    return engine


def engine_arguments(folder: Path, options: EngineOptions, num_engines: int) -> dict[str, Any]:
    """Arguments of vLLM's ``AsyncEngineArgs``.

    Args:
        folder: the checkpoint.
        options: how to run it.
        num_engines: how many engines share the machine, this one included; counts where the options do not
            say how much memory it gets.

    Raises:
        BackendUnavailable: the model needs more machines than this one, and Ray is not installed.
    """
    cpu = on_cpu()
    compiled = not cpu if options.compiled is None else options.compiled
    arguments: dict[str, Any] = {
        "model": str(folder),
        "dtype": weights_dtype(options, cpu),
        "max_model_len": -1 if options.max_model_len is None else options.max_model_len,
        "max_num_seqs": num_sequences(options),
        "max_num_batched_tokens": step_tokens(options, cpu),
        # Who comes first is our `Turns`' to say; the engine's order says who gives way when room is short.
        "scheduling_policy": "priority",
        "enforce_eager": not compiled,
        **kernel_choice(compiled),
        "enable_prefix_caching": options.prefix_caching,
        "use_tqdm_on_load": options.verbose,
        # Ours takes the counters; vLLM's own would print them, and share one registry between engines.
        "disable_log_stats": True,
    }
    if options.ranks > 1:
        arguments |= {
            "tensor_parallel_size": options.tensor_parallel,
            "pipeline_parallel_size": options.pipeline_parallel,
            "distributed_executor_backend": executor(options.ranks, None if cpu else device_count()),
        }
    return arguments | (_host_memory(options, num_engines) if cpu else _device_memory(options, num_engines))


def _host_memory(options: EngineOptions, num_engines: int) -> dict[str, Any]:
    room = options.kv_cache_bytes or kv_cache_bytes(num_engines)
    return {"kv_cache_memory_bytes": room // options.ranks}


def _device_memory(options: EngineOptions, num_engines: int) -> dict[str, Any]:
    """VLLM counts both by device; with bytes given, the fraction is only what must be free at start."""
    if options.kv_cache_bytes is None:
        return {"gpu_memory_utilization": 0.9 / num_engines}
    return {
        "kv_cache_memory_bytes": options.kv_cache_bytes // options.ranks,
        "gpu_memory_utilization": options.device_fraction or UNPLANNED_FRACTION,
    }


def _logger_factory(load: EngineStats) -> Any:
    from vllm.v1.metrics.loggers import StatLoggerBase

    class Recorder(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(self, *arguments: Any, **keywords: Any) -> None:
            load.record(*arguments, **keywords)

        def log_engine_initialized(self) -> None:
            pass

    return Recorder


def _tokenizer_definition(tokenizer: Any) -> TokenizerDefinition:
    """Return what another process needs to encode as this tokeniser of transformers does."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return TokenizerDefinition(
        tokenizer=None if backend is None else backend.to_str(),
        chat_template=tokenizer.get_chat_template() if getattr(tokenizer, "chat_template", None) else "",
        special_tokens=tokenizer.special_tokens_map,
        split_special_tokens=bool(getattr(tokenizer, "split_special_tokens", False)),
    )


def _kv_cache_tokens(vllm: AsyncLLM) -> int:
    cache = vllm.vllm_config.cache_config
    return int((cache.num_gpu_blocks or 0) * cache.block_size)


def _pids(vllm: AsyncLLM) -> tuple[int, ...]:
    manager: Any = vllm.engine_core.resources.engine_manager  # None where engines run elsewhere
    return tuple(one.pid for one in getattr(manager, "processes", ()))


@contextmanager
def _sigint_ignored() -> Iterator[None]:
    """Let processes started meanwhile never see Ctrl-C.

    A terminal sends SIGINT to the whole process group, and vLLM's engine answers by dropping what it is
    computing. Draining is for the parent to decide; a blocked signal is inherited, and stays blocked.
    """
    # Starting this helper of multiprocessing unblocks SIGINT behind our back: do it before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Turn vLLM's errors into ours."""
    from vllm.exceptions import VLLMClientError
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        message = "the model's engine died while it computed this request"
        raise RpcError(code_pb2.INTERNAL, "ENGINE_DEAD", message) from error
    except (VLLMClientError, ValueError) as error:
        raise invalid_argument(FieldViolation("request", _line(error))) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__
