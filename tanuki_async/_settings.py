"""Arguments and environment become one frozen Settings; one frozen Options per patched function."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, cast

from tanuki_async._errors import SettingsError
from tanuki_async._models import DEFAULT_EMBEDDING, DEFAULT_TEACHERS, refuse_spaces, split_name
from tanuki_async._records import Budget, Example, GenerationParams, Hedge, Limits, Model
from tanuki_async.abc import Provider, Storage

if TYPE_CHECKING:
    import ssl

    import httpx

ModelChoice = str | Model | Sequence[str | Model]
BudgetChoice = Budget | Sequence[Budget]
RedactChoice = Callable[[Example], Example | None] | str | Sequence[str]


class SettingsKeywords(TypedDict, total=False):
    """What `Tanuki(...)` and `configure(...)` take; each has the meaning of the field of Settings."""

    storage: Storage | str | Path | None
    providers: Sequence[Provider]
    teacher_models: ModelChoice | None
    embedding_model: str | Model
    student_model: str | None
    limits: Mapping[str, Limits]
    shared_limits: str | Literal[False] | None
    http_client: httpx.AsyncClient | None
    verify: ssl.SSLContext | str | os.PathLike[str] | None
    flush_interval: float
    queue_bytes: int
    journal: str | Path | None
    min_agreement: float
    audit_rate: float
    close_timeout: float
    budget: BudgetChoice | None
    redact: RedactChoice | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one Tanuki works. Seconds are floats, sizes are bytes, shares lie between 0 and 1."""

    storage: Storage | str | Path | None = None
    """A Storage, a directory, `"file:DIR"` or `"memory:"`; None takes TANUKI_LOG_DIR, then `.align`."""
    providers: Sequence[Provider] = ()
    """Providers beside the built-in ones, each found by its `name`."""
    teacher_models: tuple[str | Model, ...] = DEFAULT_TEACHERS
    """Who answers functions that name no teacher, in order of preference."""
    embedding_model: str | Model = DEFAULT_EMBEDDING
    student_model: str | None = "auto"
    limits: Mapping[str, Limits] = field(default_factory=lambda: MappingProxyType({}))
    """Limits by provider name, for its models together, or by `"provider:model"`, for that model alone, which then does
    not count towards the others. They replace the provider's own."""
    shared_limits: str | Literal[False] | None = None
    """The URL of a Redis at which all processes share `limits`; None takes that of a storage in Redis, False
    shares none. What has the same name there is shared, so accounts with different keys want different `?prefix=`."""
    http_client: Any = None
    """An `httpx.AsyncClient` (or httpx2's) to use for everything; it stays open when the Tanuki closes."""
    verify: Any = None
    """Whose certificates to trust: an `ssl.SSLContext`, used as it is, or the path of a file or directory of
    authorities. None takes SSL_CERT_FILE or SSL_CERT_DIR, then the authorities that certifi knows."""
    flush_interval: float = 0.05
    queue_bytes: int = 64 * 2**20
    """Of what waits in memory for storage; from half of that on, it waits in the journal."""
    journal: str | Path | None = None
    """The directory of the local journal; None takes TANUKI_JOURNAL_DIR, then the user's directory for state."""
    min_agreement: float = 0.9
    audit_rate: float = 0.02
    close_timeout: float = 30.0
    redact: Callable[[Example], Example | None] | tuple[str, ...] | None = None
    """What is taken out of every example before it is queued for storage: a function (None keeps nothing of it), or
    parameters and paths, such as `["user.email", "return.name"]`, whose values are replaced. Models see all."""
    budget: tuple[Budget, ...] = ()
    """What all functions together may spend; counted in storage, so also over restarts."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, naming what to write instead."""
        if not self.teacher_models:
            raise SettingsError("teacher_models is empty; name at least one model, such as 'openai:gpt-6.2-sol'")
        _check_models(*self.teacher_models, self.embedding_model)
        _check_numbers(self, "flush_interval", "close_timeout")
        _check_numbers(self, "queue_bytes", whole=True)
        for name in ("flush_interval", "close_timeout", "queue_bytes"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} must be greater than 0, not {getattr(self, name)!r}")
        _check_students(self.student_model)
        _check_shares(self)
        _check_verify(self)
        _check_providers(self.providers)
        _check_limits(self.limits)
        if self.shared_limits not in (None, False) and not isinstance(self.shared_limits, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
            raise SettingsError(f"shared_limits is 'redis://HOST', None or False, not {self.shared_limits!r}")
        _check_budgets(self.budget)
        _check_redact(self.redact)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `@patch(...)` says about one function. None means: as the Tanuki is set."""

    teacher_models: tuple[str | Model, ...] | None = None
    student_model: str | Sequence[str] | None = "auto"
    environment_id: int = 0
    ignore_finetune_fetching: bool = False
    ignore_finetuning: bool = False
    ignore_data_storage: bool = False
    generation_params: GenerationParams = field(default_factory=GenerationParams)
    max_repairs: int = 2
    timeout: float = 60.0
    distill_after: int = 200
    min_agreement: float | None = None
    audit_rate: float | None = None
    match: Callable[[Any, Any], bool] | None = None
    hedge: Hedge | None = None
    single_flight: bool = False
    cache: Literal["memory", "storage"] | None = None
    budget: tuple[Budget, ...] = ()
    embedding_dimensions: int | None = None
    redact: Callable[[Example], Example | None] | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot work, naming what to write instead."""
        if self.teacher_models is not None and not self.teacher_models:
            raise SettingsError("teacher_models is empty; name at least one model or leave the keyword out")
        _check_models(*self.teacher_models or ())
        _check_numbers(self, "timeout")
        _check_numbers(self, "environment_id", "max_repairs", "distill_after", whole=True)
        if not self.timeout > 0:
            raise SettingsError(f"timeout is in seconds and must be greater than 0, not {self.timeout!r}")
        if self.max_repairs < 0:
            raise SettingsError(f"max_repairs must be 0 or more, not {self.max_repairs!r}")
        if self.distill_after < 1:
            raise SettingsError(f"distill_after counts examples and must be 1 or more, not {self.distill_after!r}")
        if self.match is not None and not callable(self.match):
            raise SettingsError(f"match is a function of two values that tells whether they agree, not {self.match!r}")
        for name in ("ignore_finetune_fetching", "ignore_finetuning", "ignore_data_storage", "single_flight"):
            if not isinstance(getattr(self, name), bool):
                raise SettingsError(f"{name} is True or False, not {getattr(self, name)!r}")
        _check_students(self.student_model)
        _check_shares(self)
        _check_hedge(self.hedge)
        _check_dimensions(self)
        _check_cache(self)
        _check_budgets(self.budget)
        _check_redact(self.redact)


def _check_hedge(hedge: object) -> None:
    if hedge is None:
        return
    if not isinstance(hedge, Hedge):
        raise SettingsError(f"hedge is True or a Hedge, such as Hedge(after=0.95, share=0.05), not {hedge!r}")
    for name in ("after", "share"):
        _check_numbers(hedge, name)
        if not 0 < getattr(hedge, name) < 1:
            raise SettingsError(f"Hedge({name}=…) lies between 0 and 1, not {getattr(hedge, name)!r}")


def _check_dimensions(of: Options) -> None:
    if of.embedding_dimensions is not None:
        _check_numbers(of, "embedding_dimensions", whole=True)
        if of.embedding_dimensions < 1:
            raise SettingsError(f"embedding_dimensions must be 1 or more, not {of.embedding_dimensions!r}")


def _check_cache(of: Options) -> None:
    if of.cache not in (None, "memory", "storage"):
        raise SettingsError(f"cache is 'memory', 'storage' or None, not {of.cache!r}")
    if of.cache == "storage" and of.ignore_data_storage:
        raise SettingsError(
            "cache='storage' reads what is recorded, and ignore_data_storage records nothing; use 'memory'"
        )


def _check_budgets(budgets: object) -> None:
    for budget in cast(Sequence[object], budgets) if isinstance(budgets, tuple) else (budgets,):
        if not isinstance(budget, Budget):
            raise SettingsError(
                f"budget is a Budget or a list of them, such as Budget(usd=5, per='day'), not {budget!r}"
            )
        named = [name for name in ("usd", "tokens", "requests") if getattr(budget, name) is not None]
        if not named:
            raise SettingsError("a Budget limits usd, tokens or requests; name at least one")
        _check_numbers(budget, *named)
        for name in named:
            if not getattr(budget, name) >= 0:
                raise SettingsError(f"Budget({name}=…) is 0 or more, not {getattr(budget, name)!r}")
        if budget.per not in ("day", "life"):
            raise SettingsError(f"Budget(per=…) is 'day' or 'life', not {budget.per!r}")


def _check_verify(of: Settings) -> None:
    verify = of.verify
    if verify is not None and of.http_client is not None:
        raise SettingsError("verify= is for connections of our own; give it to the client in http_client= instead")
    kinds = {kind.__name__ for kind in type(verify).__mro__}  # by name: this module imports no ssl
    if verify is None or isinstance(verify, (str, os.PathLike)) or "SSLContext" in kinds:
        return
    raise SettingsError(
        "verify is the path of a file or directory of certificate authorities, or an ssl.SSLContext, not "
        f"{verify!r}; to trust any server, at your own risk, make a context and set its check_hostname to False, "
        "then its verify_mode to ssl.CERT_NONE"
    )


def _check_redact(redact: object) -> None:
    if redact is None or callable(redact):
        return
    if isinstance(redact, tuple) and all(isinstance(path, str) and path for path in cast(Sequence[object], redact)):
        return
    raise SettingsError(
        "redact is a function (example → example or None) or a list of parameters and paths, such as "
        f"['user.email', 'return.name'], not {redact!r}"
    )


def _check_providers(providers: object) -> None:
    if not isinstance(providers, Sequence):
        raise SettingsError(f"providers is a list of Provider instances, not {providers!r}")
    for provider in cast(Sequence[object], providers):
        if not isinstance(provider, Provider):
            raise SettingsError(f"providers must be Provider instances, not {provider!r}")


def _check_limits(limits: object) -> None:
    of_each = cast(Mapping[object, object], limits).values() if isinstance(limits, Mapping) else [limits]
    if not isinstance(limits, Mapping) or not all(isinstance(each, Limits) for each in of_each):
        raise SettingsError(
            f"limits are Limits by provider name, such as {{'openai': Limits(concurrency=64)}}, not {limits!r}"
        )


def _check_students(choice: object) -> None:
    ways = cast(Sequence[object], choice) if isinstance(choice, (list, tuple)) else (choice,)
    for way in ways:
        if way not in (None, "auto", "local") and not (isinstance(way, str) and ":" in way.strip(":")):
            raise SettingsError(
                f"student_model is 'auto', 'local', None, a model such as 'openai:gpt-6-luna', or a list, not {way!r}"
            )
        if isinstance(way, str):
            refuse_spaces(way)


def _check_models(*models: object) -> None:
    for model in models:
        if isinstance(model, str):
            split_name(model)
        elif not isinstance(model, Model):
            raise SettingsError(f"a model is written 'provider:name' or is a tanuki_async.Model, not {model!r}")


def _check_numbers(of: Settings | Options | Hedge | Budget, *names: str, whole: bool = False) -> None:
    for name in names:
        value = getattr(of, name)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise SettingsError(f"{name} is {'an integer' if whole else 'a number'}, not {value!r}")


def _check_shares(of: Settings | Options) -> None:
    for name in ("min_agreement", "audit_rate"):
        if getattr(of, name) is not None or isinstance(of, Settings):
            _check_numbers(of, name)
            if not 0 <= getattr(of, name) <= 1:
                raise SettingsError(f"{name} is a share between 0 and 1, not {getattr(of, name)!r}")


T = TypeVar("T", Settings, Options)


def build(kind: type[T], keywords: Mapping[str, Any], *, base: T | None = None) -> T:
    """Make Settings or Options of keywords; SettingsError for an unknown one, naming the nearest."""
    keywords = dict(keywords)
    known = [each.name for each in dataclasses.fields(kind)]
    for name in keywords:
        if name not in known:
            raise SettingsError(f"unknown keyword {name!r}{nearest(name, known)}")
    if "teacher_models" in keywords:
        keywords["teacher_models"] = model_tuple(keywords["teacher_models"])
        if keywords["teacher_models"] is None and kind is Settings:
            keywords["teacher_models"] = DEFAULT_TEACHERS
    if "budget" in keywords:
        keywords["budget"] = _budget_tuple(keywords["budget"])
    if isinstance(paths := keywords.get("redact"), (str, list)):
        keywords["redact"] = (paths,) if isinstance(paths, str) else tuple(cast(Sequence[Any], paths))
    if kind is Options and isinstance(keywords.get("hedge"), bool):
        keywords["hedge"] = Hedge() if keywords["hedge"] else None
    if kind is Options and "generation_params" in keywords:
        keywords["generation_params"] = generation_params(keywords["generation_params"])
    return dataclasses.replace(base, **keywords) if base is not None else kind(**keywords)


def model_tuple(choice: ModelChoice | None) -> tuple[str | Model, ...] | None:
    """Accept one model or a sequence of them."""
    if choice is None or isinstance(choice, tuple):
        return choice
    if isinstance(choice, (str, Model)):
        return (choice,)
    if not isinstance(choice, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
        raise SettingsError(f"teacher_models is a model or a list of them, not {choice!r}")
    return tuple(choice)


def _budget_tuple(choice: Any) -> Any:
    if choice is None:
        return ()
    return tuple(cast(Sequence[Any], choice)) if isinstance(choice, (list, tuple)) else (choice,)


def generation_params(given: Mapping[str, Any] | GenerationParams | None) -> GenerationParams:
    """Check sampler settings by name and kind of value."""
    if given is None or isinstance(given, GenerationParams):
        return given or GenerationParams()
    if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # users without a type checker
        raise SettingsError(f"generation_params is a dict such as {{'temperature': 0}}, not {given!r}")
    known = [each.name for each in dataclasses.fields(GenerationParams)]
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise SettingsError(f"unknown generation parameter {name!r}{nearest(name, known)}")
        checked[name] = _checked_param(name, value)
    return GenerationParams(**checked)


def _checked_param(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name == "stop":
        stops: tuple[Any, ...] = tuple(cast(Sequence[Any], value)) if isinstance(value, (list, tuple)) else (value,)
        if all(isinstance(each, str) for each in stops):
            return stops
        raise SettingsError(f"generation parameter 'stop' is a string or a list of strings, not {value!r}")
    whole = name in ("max_new_tokens", "seed")
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise SettingsError(f"generation parameter {name!r} is {'an integer' if whole else 'a number'}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"generation parameter {name!r} is a finite number, not {value!r}")
    if name == "max_new_tokens" and value < 1:
        raise SettingsError(f"generation parameter 'max_new_tokens' must be 1 or more, not {value!r}")
    return value


def nearest(name: str, known: Sequence[str]) -> str:
    """Suggest what was meant, for the end of a message."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"


def data_directory() -> Path:
    """Where examples are kept when nobody says otherwise."""
    return Path(os.environ.get("TANUKI_LOG_DIR") or ".align")
