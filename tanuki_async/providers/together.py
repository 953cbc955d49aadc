"""Together AI."""

from __future__ import annotations

from collections.abc import Mapping

from tanuki_async._records import Limits, Model
from tanuki_async.abc import Batches, Tuning
from tanuki_async.providers._abilities import Abilities
from tanuki_async.providers._together_batches import TogetherBatches
from tanuki_async.providers._together_tuning import TogetherTuning
from tanuki_async.providers.openai import OpenAICompatible

__all__ = ["TogetherAI"]


class TogetherAI(OpenAICompatible):
    """Together AI. Key and address come from TOGETHER_API_KEY and TOGETHER_BASE_URL where they are not given."""

    _title = "Together AI"
    _key_variable = "TOGETHER_API_KEY"
    _url_variable = "TOGETHER_BASE_URL"
    _default_url = "https://api.together.ai/v1"

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        models: Mapping[str, Model] | None = None,
        limits: Limits | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            base_url, name="together", api_key=api_key, models=models, limits=limits, headers=headers, jobs=True
        )

    def _jobs(self) -> tuple[Tuning, Batches]:
        endpoints = self._endpoints()
        return TogetherTuning(endpoints), TogetherBatches(endpoints, self._encode)

    def _assume(self, model: Model) -> Abilities:
        return Abilities.of(model, dropped=frozenset({"stream_options"}))  # it tells the usage without being asked
