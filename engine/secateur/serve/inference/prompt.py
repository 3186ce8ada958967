"""What a model is asked to continue or to score, and its token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from secateur.serve.engine.engine import Engine
from secateur.serve.failures import FieldViolation, RpcError, invalid_argument
from secateur.serve.guard.call import current_principal
from secateur.serve.text.encoder import TextRefused

# What Tokenize takes in any case: a tenth of a second of work. Stated in inference.proto.
MAX_CHARACTERS = 2**18
MAX_MESSAGES = 4096


class ChatMessage(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class GenerationPrompt:
    """A prompt as it was given: exactly one of text, token ids or a conversation.

    Attributes:
        field: what the request calls it, for complaints.
    """

    field: str
    text: str | None = None
    token_ids: Sequence[int] | None = None
    messages: Sequence[ChatMessage] | None = None

    async def tokens(self, engine: Engine) -> Sequence[int]:
        """Return the token ids the engine would see, of a prompt that may be longer than its context.

        Raises:
            RpcError: INVALID_ARGUMENT for what is too long to be tokenised in one piece, ids the model does
                not have, no messages, or messages that its chat template does not take.
        """
        most = max(MAX_CHARACTERS, engine.most_characters)
        if self._num_characters > most:
            raise self._refused(
                f"got {self._num_characters} characters, allowed are {most}: send it in parts"
            )
        return await self._tokens(engine)

    async def _tokens(self, engine: Engine) -> Sequence[int]:
        if self.messages is not None and not self.messages:
            raise invalid_argument(FieldViolation(f"{self.field}.messages", "at least one message"))
        caller = current_principal()
        try:
            if self.text is not None:
                return await engine.tokenize(self.text, caller=caller)
            if self.messages is not None:
                return await engine.tokenize_chat([one._asdict() for one in self.messages], caller)
        except TextRefused as error:
            if self.messages is None:
                raise self._refused(f"the model's tokeniser {error}") from error
            raise invalid_argument(
                FieldViolation(f"{self.field}.messages", f"the model's chat template {error}")
            ) from error
        token_ids = list(self.token_ids or ())
        check_token_ids(self.field, token_ids, engine.vocabulary)
        return token_ids

    async def fitting_tokens(self, engine: Engine, min_tokens: int = 1) -> Sequence[int]:
        """Return the token ids, at least ``min_tokens``, that leave room for one more in the context.

        Raises:
            RpcError: INVALID_ARGUMENT naming `field`.
        """
        # Said before it is laid out, tokenised or looked at, which takes long for what is long.
        if self._num_characters > engine.most_characters:
            raise self._refused(
                f"got {self._num_characters} characters, the model has room for "
                f"{engine.max_model_len - 1} tokens"
            )
        self._check_length(len(self.token_ids or ()), engine)
        token_ids = await self._tokens(engine)
        if len(token_ids) < min_tokens:
            raise self._refused(f"got {len(token_ids)} tokens, at least {min_tokens}")
        self._check_length(len(token_ids), engine)
        return token_ids

    def _check_length(self, num_tokens: int, engine: Engine) -> None:
        if num_tokens >= engine.max_model_len:
            raise self._refused(f"got {num_tokens} tokens, the model has room for {engine.max_model_len - 1}")

    @property
    def _num_characters(self) -> int:
        return len(self.text or "") + sum(len(one.role) + len(one.content) for one in self.messages or ())

    def _refused(self, description: str) -> RpcError:
        return invalid_argument(FieldViolation(self.field, description))


def check_token_ids(field: str, token_ids: Sequence[int], vocabulary: int) -> None:
    """Refuse token ids that a model with so many does not have."""
    if token_ids and (min(token_ids) < 0 or max(token_ids) >= vocabulary):
        unknown = next(token for token in token_ids if not 0 <= token < vocabulary)
        raise invalid_argument(FieldViolation(field, f"got {unknown}, ids go from 0 to {vocabulary - 1}"))
