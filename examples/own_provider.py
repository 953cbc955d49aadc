"""A provider of one's own, in some forty lines: for a server whose wire format nobody here knows.

Limits, retries, deadlines, connections and repairs are the pool's and the library's; a provider asks once. This one
speaks enough of OpenAI's format to pass the contract suite that every provider of ours passes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from typing import Any, Literal

import tanuki_async as tanuki
from tanuki_async.abc import Attachment, Completion, Http, Provider, Request, Turn
from tanuki_async.providers import error_from


class OwnProvider(Provider):
    """Speaks to one server. Holds no connection, so one instance may serve several Tanukis."""

    name = "own"

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = f"{url}/chat/completions", key

    def model(self, name: str) -> tanuki.Model:
        return tanuki.Model(provider=self.name, name=name, attachments=frozenset({"image", "document"}))

    async def complete(self, request: Request, http: Http) -> Completion:
        """Ask once: what goes wrong on the way is an error of the library's, and whoever called may try again."""
        model = request.model.name
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        try:
            reply = await http.send("POST", self._url, headers=headers, body=json.dumps(body_of(request)).encode())
        except tanuki.ProviderUnreachableError as error:
            raise tanuki.ProviderUnreachableError(error.message, self.name, model) from error
        if reply.status != 200:
            raise error_from(reply, provider=self.name, model=model, secrets=(self._key,))
        try:
            answer = json.loads(reply.body)
            choice, used = answer["choices"][0], answer["usage"]
        except (ValueError, LookupError) as error:
            raise tanuki.ProviderUnavailableError("success, but no answer", self.name, model, 200) from error
        if choice["message"].get("refusal") or choice["finish_reason"] == "content_filter":
            raise tanuki.RefusalError(choice["message"].get("refusal") or "it was filtered", self.name, model)
        return Completion(
            text=choice["message"]["content"] or "",
            usage=tanuki.Usage(1, used["prompt_tokens"], 0, used["completion_tokens"]),
            truncated=choice["finish_reason"] == "length",
            model=answer["model"],
            request_id=reply.headers.get("x-request-id"),
        )


def body_of(request: Request) -> dict[str, Any]:
    """Write the question: what the function is, examples of its use, one input; and the form of the answer."""
    head, schema = request.head, {"name": request.head.answer.name, "schema": request.head.answer.schema}
    told = [{"role": "system", "content": head.system}]
    told += [{"role": turn.role, "content": content_of(turn)} for turn in (*head.examples, *request.turns)]
    strict = {"type": "json_schema", "json_schema": {**schema, "strict": True}}
    body: dict[str, Any] = {"model": request.model.name, "messages": told}
    body["response_format"] = strict if head.answer.strict else {"type": "json_object"}
    if limit := request.max_tokens or head.params.max_new_tokens:
        body["max_tokens"] = limit
    return body


def content_of(turn: Turn) -> Any:
    """Write one message with what is attached to it."""
    return [{"type": "text", "text": turn.text}, *map(part_of, turn.attachments)] if turn.attachments else turn.text


def part_of(attachment: Attachment) -> dict[str, Any]:
    """Write an image or a document. A format that has no place for them raises AttachmentRefusedError here."""
    data = base64.b64encode(attachment.data or b"").decode()
    url = attachment.url or f"data:{attachment.media_type};base64,{data}"
    if attachment.kind == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"filename": "document.pdf", "file_data": url}}


@tanuki.patch
async def mood(text: str) -> Literal["good", "bad"]:
    """Classify the sentiment of a message."""
    ...


async def main(url: str, key: str) -> None:
    provider = OwnProvider(url, key)
    async with tanuki.Tanuki(storage="memory:", providers=[provider], teacher_models="own:any-model"):
        print(await mood("I like it"))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
