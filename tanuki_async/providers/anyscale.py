"""An Anyscale Service, or any Ray Serve that speaks OpenAI's format."""

from __future__ import annotations

from collections.abc import Mapping

from tanuki_async._errors import SettingsError
from tanuki_async._records import Limits, Model
from tanuki_async.providers.openai import OpenAICompatible

__all__ = ["Anyscale"]

_GONE = "api.endpoints.anyscale.com"


class Anyscale(OpenAICompatible):
    """Your own Anyscale Service. Key and address come from ANYSCALE_API_KEY and ANYSCALE_BASE_URL where not given.

    There is no default address: the public endpoints ended in 2024. `jobs` is for a server with OpenAI's endpoints for
    fine-tuning and batches.
    """

    _title = "Anyscale"
    _key_variable = "ANYSCALE_API_KEY"
    _url_variable = "ANYSCALE_BASE_URL"

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        models: Mapping[str, Model] | None = None,
        limits: Limits | None = None,
        headers: Mapping[str, str] | None = None,
        jobs: bool = False,
    ) -> None:
        super().__init__(
            base_url, name="anyscale", api_key=api_key, models=models, limits=limits, headers=headers, jobs=jobs
        )

    def _base(self) -> str:
        base = super()._base()
        if _GONE in base:
            raise SettingsError(
                f"{_GONE} ended on 2024-08-01; set ANYSCALE_BASE_URL to the address of your own service, with /v1"
            )
        return base
