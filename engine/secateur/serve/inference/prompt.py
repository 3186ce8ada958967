"""What a model is asked to continue or to score, and its token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from secateur.serve.engine.engine import Engine
from secateur.serve.failures import FieldViolation, RpcError, invalid_argument


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
        """Return the token ids the engine would see.

        Raises:
            RpcError: INVALID_ARGUMENT for ids the model does not have, no messages, or messages that
                its chat template does not take.
        """
        if self.text is not None:
            return await engine.tokenize(self.text)
        if self.messages is not None:
            if not self.messages:
                raise invalid_argument(FieldViolation(f"{self.field}.messages", "at least one message"))
            return await engine.tokenize_chat([message._asdict() for message in self.messages])
        token_ids = self.token_ids or ()
        check_token_ids(self.field, token_ids, engine.vocabulary)
        return token_ids

    async def fitting_tokens(self, engine: Engine, min_tokens: int = 1) -> Sequence[int]:
        """Return the token ids, at least ``min_tokens``, that leave room for one more in the context.

        Raises:
            RpcError: INVALID_ARGUMENT naming `field`.
        """
        if self._num_characters > engine.most_characters:
            # Said before it is laid out and tokenised, which takes long for a long text.
            raise self._refused(
                f"got {self._num_characters} characters, the model has room for "
                f"{engine.max_model_len - 1} tokens"
            )
        token_ids = await self.tokens(engine)
        if len(token_ids) < min_tokens:
            raise self._refused(f"got {len(token_ids)} tokens, at least {min_tokens}")
        if len(token_ids) >= engine.max_model_len:
            raise self._refused(
                f"got {len(token_ids)} tokens, the model has room for {engine.max_model_len - 1}"
            )
        return token_ids

    @property
    def _num_characters(self) -> int:
        return len(self.text or "") + sum(len(message.content) for message in self.messages or ())

    def _refused(self, description: str) -> RpcError:
        return invalid_argument(FieldViolation(self.field, description))


def check_token_ids(field: str, token_ids: Sequence[int], vocabulary: int) -> None:
    """Refuse token ids that a model with so many does not have."""
    if token_ids and (min(token_ids) < 0 or max(token_ids) >= vocabulary):
        unknown = next(token for token in token_ids if not 0 <= token < vocabulary)
        raise invalid_argument(FieldViolation(field, f"got {unknown}, ids go from 0 to {vocabulary - 1}"))
