"""A web service whose answers come from patched coroutines: in a route, as a dependency, and as a route themselves.

Needs OPENAI_API_KEY: `uvicorn fastapi_app:app`, then
`curl -d '{"text": "My parcel never came"}' -H 'content-type: application/json' localhost:8000/tickets`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import tanuki_async as tanuki

Language = Literal["de", "en", "es", "fr", "other"]


class Ticket(BaseModel):
    text: str = Field(min_length=1, max_length=10_000)


class Triage(BaseModel):
    """Where a ticket belongs."""

    topic: Literal["delivery", "payment", "product", "other"]
    urgency: Annotated[int, Field(ge=1, le=5, description="5 is most urgent")]
    summary: str = Field(description="one sentence")


@tanuki.patch(timeout=20)
async def triage(text: str, language: Language) -> Triage:
    """Sort a customer's message, written in `language`. The summary is in English."""
    ...


@tanuki.patch(timeout=10)
async def language_of(text: str) -> Language:
    """Tell in which language a text is written."""
    ...


@tanuki.patch(timeout=10)
async def mood(text: str) -> Literal["good", "bad"] | None:
    """Classify the sentiment of a message, or None if it has none."""
    ...


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with tanuki.Tanuki():  # requests find it by their event loop; closing writes whatever is still queued
        yield


app = FastAPI(lifespan=lifespan)

app.get("/mood")(mood)


@app.post("/tickets")
async def sort_ticket(ticket: Ticket) -> Triage:
    return await triage(ticket.text, await language_of(ticket.text))


@app.get("/greeting")
async def greet(language: Annotated[Language, Depends(language_of)]) -> dict[str, str]:
    greetings = {"de": "Guten Tag", "en": "Hello", "es": "Hola", "fr": "Bonjour"}
    return {"greeting": greetings.get(language, "👋")}


STATUSES: dict[type[tanuki.TanukiError], int] = {
    tanuki.InputError: 422,
    tanuki.PromptTooLongError: 413,
    tanuki.RefusalError: 422,
    tanuki.RateLimitedError: 503,
    tanuki.ProviderUnavailableError: 503,
    tanuki.CallTimeoutError: 504,
    tanuki.ProviderError: 502,
    tanuki.OutputError: 502,
}


@app.exception_handler(tanuki.TanukiError)
async def answer_failure(_: Request, error: tanuki.TanukiError) -> JSONResponse:
    """Tell the caller what kind of failure it was; the details are for our log."""
    kind = next((kind for kind in STATUSES if isinstance(error, kind)), None)
    wait = getattr(error, "retry_after", None)
    return JSONResponse(
        {"error": type(error).__name__},
        status_code=STATUSES[kind] if kind else 500,
        headers={"retry-after": f"{wait:.0f}"} if wait else None,
    )
