"""Text in and out of a Llama-family model: its tokenizer, its ends, and the form of a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from node.manifest import ModelError
from node.runner.backends.llama import GenerationConfig, LlamaConfig, TokenizerConfig, listed
from node.runner.chat_template import ChatTemplate, Message
from node.runner.files import ModelFiles
from node.runner.kinds import BadInputError

FIRST_CHARS: Final = 64 << 10  # 10,000 to 30,000 tokens, in 0.03 s
GROWTH: Final = 4  # the beginnings of a text that fits cost a third of it besides
CUT_TOKENS: Final = 1_024  # more than a word that is cut in two can have besides what it has whole


class TokenText:
    """The text of tokens that come one after the other: only whole characters, each once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def add(self, token: int) -> str:
        """Return the text that this token completes; empty as long as its last character is not
        whole.
        """
        return self._stream.step(self._tokenizer, token) or ""


class LlamaText:
    """What a model reads and writes, as text and as tokens."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        ends: frozenset[int],
        template: ChatTemplate | None,
        first: int | None,
    ) -> None:
        self.ends = ends
        self._tokenizer = tokenizer
        self._template = template
        self._first = first

    @classmethod
    def read(cls, files: ModelFiles, config: LlamaConfig) -> LlamaText:
        """Return the text side of a model; raises ``ModelError``."""
        tokenizer = Tokenizer.from_buffer(files.read("tokenizer.json"))
        if tokenizer.get_vocab_size() > config.vocab_size:
            raise ModelError(
                "tokenizer.json has more tokens than config.json has embeddings",
                code="model-config",
            )
        tokenizer.no_padding()
        tokenizer.no_truncation()
        settings = TokenizerConfig.parse(files.read_if_there("tokenizer_config.json") or b"{}")
        more = GenerationConfig.parse(files.read_if_there("generation_config.json") or b"{}")
        ends = config.end_tokens.union(listed(more.eos_token_id))
        first = tokenizer.token_to_id(settings.token("bos")) if settings.add_bos_token else None
        return cls(tokenizer, ends, _template(files, settings), first)

    def tokenise(self, prompt: str | Sequence[Message], most: int) -> list[int]:
        """Return the tokens of a text, or of a chat in the model's own form; of one that has more
        than ``most``, perhaps only more than ``most`` of its first ones.

        Raises ``BadInputError`` for a chat where the model has no such form.
        """
        text = prompt if isinstance(prompt, str) else self._chat(prompt)
        tokens = self._tokens(text, most)
        if self._first is not None and tokens[:1] != [self._first]:
            tokens.insert(0, self._first)
        return tokens

    def _tokens(self, text: str, most: int) -> list[int]:
        """Tokenise beginnings first: a megabyte takes seconds, in which nothing else is computed
        and no cancellation is seen, only to be refused.
        """
        size = FIRST_CHARS
        while size < len(text):
            tokens = self._encode(text[:size])
            if len(tokens) > most + CUT_TOKENS:
                return tokens
            size *= GROWTH
        return self._encode(text)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def continuation(self) -> TokenText:
        """Return what makes text of a new continuation's tokens."""
        return TokenText(self._tokenizer)

    def _chat(self, messages: Sequence[Message]) -> str:
        if self._template is None:
            raise BadInputError(
                "this model has no chat template", hint="give prompts as plain text, without --chat"
            )
        return self._template.render(messages)


def _template(files: ModelFiles, settings: TokenizerConfig) -> ChatTemplate | None:
    own = files.read_if_there("chat_template.jinja")
    source = own.decode(errors="replace") if own is not None else settings.chat_template
    if source is None:
        return None
    return ChatTemplate(source, {f"{name}_token": settings.token(name) for name in ("bos", "eos")})
