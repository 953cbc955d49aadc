"""The frozen words that cross floors: what goes to a provider, what comes back, what is remembered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar

from typing_extensions import dataclass_transform

JsonValue: TypeAlias = "dict[str, JsonValue] | list[JsonValue] | str | int | float | bool | None"
JsonSchema: TypeAlias = "dict[str, JsonValue]"

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Make a dataclass that is frozen for type checkers only. For those that every call makes: freezing at run time
    more than doubles what making one costs.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


Structured = Literal["json_schema", "json_object", "tool", "none"]
"""How a model is made to answer in JSON: a strict schema, JSON mode, a tool that it must use, or instructions alone."""

Attached = Literal["image", "document"]
"""What may be attached to a message."""

When = Literal["always", "without_effort", "never"]
"""Whether a model takes something: a model that reasons may take it only with the effort "none"."""

SchemaDialect = Literal["openai_strict", "openai_strict_ft", "anthropic", "plain"]
"""Which keywords a schema may have that a model is sent."""

FILE_NAME = "document.pdf"
"""What a document is called where a format wants a name: never its own, which is not the model's business."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one provider account may be asked for. None means: not limited by us."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrency: int | None = None  # requests at once

    def __post_init__(self) -> None:
        """Refuse a limit of nothing: no call could ever end."""
        for name in self.__slots__:
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"Limits({name}={value!r}) would let nothing through; None means no limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much may be spent, per UTC day or for life. Several limits, and several budgets, hold at once.

    `usd` is in US dollars, `tokens` counts input and output together, `requests` what is sent to a provider: repairs,
    audits and hedges too, but not the pool's retries. A student that runs in this process costs nothing.
    """

    usd: float | None = None
    tokens: int | None = None
    requests: int | None = None
    per: Literal["day", "life"] = "life"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge:
    """Send a request once more when it takes longer than most, and take the first answer that fits.

    `after` is the share of this function's latest requests that were faster, between 0 and 1; `share` the largest
    part of all requests that may be sent twice.
    """

    after: float = 0.95
    share: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model of one provider: what it can do and what it costs.

    Sizes are in tokens; prices in US dollars per million tokens, None where unknown (unknown is not zero).
    """

    provider: str
    name: str
    kind: Literal["chat", "embedding"] = "chat"
    suggested: Literal["teacher", "student", "embedding"] | None = None  # what we would take it for
    context_window: int = 128_000
    max_output: int | None = None
    endpoint: Literal["chat", "responses"] = "chat"  # how OpenAI's models are asked
    structured: Structured = "json_schema"
    schema_dialect: SchemaDialect = "openai_strict"
    instruction_role: Literal["developer", "system"] = "system"
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    efforts: tuple[str, ...] = ()  # that it knows; () where we do not know them
    reasoning_effort: str | None = None  # sent as it is; None sends nothing
    sampling: When = "always"  # temperature and the like
    chat_tools: When = "always"
    attachments: frozenset[Attached] = frozenset()  # what a message may hold beside its text
    dimensions: int | None = None  # of an embedding
    wire_format: str | None = None  # in which of its provider's formats it is asked; None: the usual one
    shortening: Literal["sent", "cut"] | None = None  # how vectors of fewer dimensions are had: asked for, or cut off
    shorten_to: int | None = None  # dimensions of its vectors, where that is fewer than it gives
    price_input: float | None = None
    price_cached: float | None = None
    price_output: float | None = None
    surcharge: tuple[int, float, float] | None = None  # above so many tokens of input: all input times, output times
    retires: str | None = None  # ISO date
    successor: str | None = None  # what to use then, as 'provider:name'
    as_of: str | None = None  # ISO date of these facts
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse an effort that the model does not know."""
        object.__setattr__(self, "_text", f"{self.provider}:{self.name}")  # wanted several times a call
        if self.efforts and self.reasoning_effort not in (None, *self.efforts):
            known = ", ".join(map(repr, self.efforts))
            raise ValueError(f"{self} knows the efforts {known}, not {self.reasoning_effort!r}")

    def __str__(self) -> str:
        return self._text

    def cost(self, usage: Usage) -> float | None:
        """US dollars for `usage`, or None when a price is unknown. Several requests are taken to be equally long."""
        if self.price_input is None or self.price_output is None:
            return None
        cached = self.price_input if self.price_cached is None else self.price_cached
        read = (usage.input_tokens - usage.cached_tokens) * self.price_input + usage.cached_tokens * cached
        written = usage.output_tokens * self.price_output
        if self.surcharge is not None and usage.input_tokens > self.surcharge[0] * max(1, usage.requests):
            read, written = read * self.surcharge[1], written * self.surcharge[2]
        return (read + written) / 1e6


@record
class Usage:
    """Tokens that one or more requests used, as the provider counted them.

    Cached tokens are part of the input, reasoning tokens part of the output.
    """

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            requests=self.requests + other.requests,
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(slots=True)
class Used:
    """Usage that adds up in place, once a request."""

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, usage: Usage | Used) -> None:
        """Count what one or more requests used."""
        self.requests += usage.requests
        self.input_tokens += usage.input_tokens
        self.cached_tokens += usage.cached_tokens
        self.output_tokens += usage.output_tokens
        self.reasoning_tokens += usage.reasoning_tokens

    def usage(self) -> Usage:
        """Return what was counted so far."""
        return Usage(
            requests=self.requests,
            input_tokens=self.input_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            reasoning_tokens=self.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams:
    """What the user asked of the sampler. None is never sent."""

    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """What a message shows beside its text: as bytes, or by the address where the model's provider fetches it."""

    kind: Attached
    media_type: str  # image/png, application/pdf …
    data: bytes | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)  # what follows its `?` may be a key
    tokens: int = field(default=0, compare=False)  # about how much of a prompt it takes


@record
class Turn:
    """One message of a conversation with a model."""

    role: Literal["user", "assistant"]
    text: str
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSchema:
    """The JSON schema of an answer, its root an object.

    `strict` tells whether the strict subset of structured outputs can express it; where it cannot,
    a model is asked in JSON mode instead. `name` is a legal schema name (letters, digits, _ and -, at most 64).
    """

    name: str
    schema: JsonSchema
    strict: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Head:
    """The part of a prompt that stays the same from call to call.

    Compared by identity, so that a provider may keep its encoded form for as long as the head lives.
    `system` holds the instructions, the function and its answer's schema in words.
    """

    function: str
    system: str
    examples: tuple[Turn, ...] = ()  # user, assistant, user, assistant …
    answer: AnswerSchema
    params: GenerationParams = field(default_factory=GenerationParams)


@record
class Request:
    """One question to one model. `turns` is the input, then, in a repair, answers and complaints."""

    model: Model
    head: Head
    turns: tuple[Turn, ...]
    max_tokens: int | None = None  # overrides the head's, for an answer that was cut off
    size: int | None = None  # of head and turns in tokens, about, where somebody has counted already


@dataclass(frozen=True, slots=True, kw_only=True)
class RateHint:
    """What a provider told of its limits beside an answer. None: nothing was told.

    `requests` and `tokens` are what it allows in `seconds`. Where nothing is left of them, `…_back` says in how many
    seconds all are back, `at_once` or bit by bit.
    """

    requests: float | None = None
    tokens: float | None = None
    seconds: float = 60.0
    requests_back: float | None = None
    tokens_back: float | None = None
    at_once: bool = False

    def pause(self, tokens: float) -> float:
        """Seconds until the next request may go that uses as many `tokens`; 0 where something is left."""
        waits = 0.0
        for limit, back, needed in ((self.requests, self.requests_back, 1), (self.tokens, self.tokens_back, tokens)):
            if back is not None:
                share = min(1.0, needed / limit) if limit and not self.at_once else 1.0
                waits = max(waits, back * share)
        return waits


@record
class Completion:
    """What a model answered. A refusal is an error, never a completion."""

    text: str
    usage: Usage
    truncated: bool = False
    model: str = ""  # the provider's own name for what answered
    request_id: str | None = None
    rate: RateHint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a model chose of a short list, and how probable it thinks each value is."""

    value: JsonValue
    probabilities: tuple[tuple[JsonValue, float], ...]
    usage: Usage
    request_id: str | None = None
    rate: RateHint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One remembered call: what it was given, what it returned, and who said so."""

    args: tuple[JsonValue, ...]
    kwargs: Mapping[str, JsonValue]
    output: JsonValue
    source: Literal["align", "call"]
    repaired: bool = False
    model: str | None = None
    at: str = ""  # UTC, ISO 8601 with Z
    redacted: bool = False  # something in it was replaced by a marker before it was stored


@record
class Reply:
    """One HTTP answer, whole. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training or one batch at a provider, as it stands.

    `status` is ours; `told` is the provider's own word for it. An unknown word is "running": only known ends are ends.
    `tag` is the mark that whoever started it gave it, by which it is found again.
    """

    id: str
    status: Literal["running", "succeeded", "failed", "cancelled"]
    told: str = ""
    tag: str | None = None
    model: str | None = None  # of a training: what answers now, as it is written after `provider:`; None: nothing yet
    reason: str | None = None  # why it failed, or what has to be done before its model answers
    output: str | None = None  # of a batch: where its results are, in the provider's words


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a model shall be trained on. Each line is a chat in OpenAI's form: `{"messages": […]}`, as live prompts."""

    base: str  # the model to train, as it is written after `provider:`
    tag: str  # at most 40 of a-z 0-9 and -; the same tag is the same training, whoever starts it
    lines: tuple[bytes, ...]
    validation: tuple[bytes, ...] = ()
    epochs: int | None = None
    seed: int | None = None
