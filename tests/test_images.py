"""Images and documents as arguments, through real HTTP: every form, records, examples, routing, and what a server refuses."""

import dataclasses
import json
import logging
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from _pictures import png, png_bytes
from _spine import at_rest, recorded, settings_for, tanuki_for
from pydantic import BaseModel

import tanuki_async as tanuki
from tanuki_async import (
    AttachmentRefusedError,
    Document,
    Image,
    Model,
    PromptTooLongError,
    RequestRejectedError,
    SettingsError,
    Tanuki,
)
from tanuki_async._codec.media import KEPT, content_of
from tanuki_async._records import AnswerSchema, Attachment, Head, Request, Turn
from tanuki_async.providers._abilities import Abilities
from tanuki_async.providers._bodies import Bodies
from tanuki_async.providers.openai import OpenAICompatible
from tanuki_async.storage.memory import MemoryStorage
from tanuki_async.testing import Answer, ChatRequest, FakeProvider, Fault, LoopbackServer, Value

PDF = b"%PDF-1.7 /Type /Page"
URL = "https://pictures.example/cat.png?size=2"


class Page(BaseModel):
    picture: Image
    more: list[Image] = []


@dataclasses.dataclass
class Sheet:
    page: Page
    plan: Document | None = None


@tanuki.patch
async def shade(photo: Image) -> Literal["light", "dark"]:
    """Tell whether it is light or dark."""


@tanuki.patch
async def count(photo: Image | None = None, *others: Image, text: str = "", **named: Image) -> int:
    """Count what is shown."""


@tanuki.patch
async def read(sheet: Sheet, sources: list[Document] = []) -> str:  # noqa: B006
    """Read it."""


@tanuki.patch
async def things(photo: Image) -> AsyncIterator[str]:
    """List what is seen."""


@tanuki.patch(cache="memory", single_flight=True)
async def cached(photo: Image) -> int:
    """Count what is seen."""


def brightness(request: ChatRequest) -> Value:
    """Look at the attached picture's bytes, as a model with eyes would."""
    (picture,) = request.attachments
    return Value("light" if picture.data in (png_bytes(250), png_bytes(251)) else "dark")


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    async with LoopbackServer(strict=True) as running:
        yield running


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def opened(server: LoopbackServer, storage: MemoryStorage) -> AsyncIterator[Tanuki]:
    async with tanuki_for(server, storage) as running:
        yield running
        assert at_rest(running)


def asked(server: LoopbackServer, place: int = -1) -> ChatRequest:
    request = server.requests[place]
    assert isinstance(request, ChatRequest)
    return request


def shown(image: Image | Document) -> Attachment:
    """An attachment as a server sees it."""
    attachment = image.attachment()
    return dataclasses.replace(attachment, media_type="image/*") if attachment.url else attachment


async def test_the_model_sees_the_picture(server: LoopbackServer, opened: Tanuki) -> None:
    server.put(brightness, brightness)
    assert await shade(png(250)) == "light"
    assert await shade(png(3)) == "dark"
    assert asked(server).arguments == {"photo": {"image": 1}}
    user = asked(server).messages[-1]
    assert [part["type"] for part in user["content"]] == ["text", "image_url"]


@pytest.mark.parametrize(
    ("argument", "seen"),
    [
        (png(1), png(1)),
        (png_bytes(1), png(1)),
        (URL, Image(url=URL)),
        (Image(url=URL), Image(url=URL)),
        ("data:image/png;base64,iVBORw0KGgo=", Image(b"\x89PNG\r\n\x1a\n")),
        (png(1).record(), png(1)),
    ],
    ids=["image", "bytes", "address", "image of an address", "data address", "record"],
)
async def test_every_form_of_an_image_is_shown(
    server: LoopbackServer, opened: Tanuki, argument: Any, seen: Image
) -> None:
    await shade(argument)
    assert asked(server).attachments == (shown(seen),)


async def test_images_may_be_anywhere_in_the_arguments(server: LoopbackServer, opened: Tanuki) -> None:
    server.put({"value": 1}, {"value": 1}, Value("x"))

    await count(None, png(1), png(2), text="n", last=png(1))
    assert asked(server).arguments == {
        "photo": None, "others": [{"image": 1}, {"image": 2}], "text": "n", "named": {"last": {"image": 1}},
    }  # fmt: skip
    assert asked(server).attachments == (shown(png(1)), shown(png(2)))

    await count()
    assert asked(server).messages[-1]["content"] == '{"photo":null,"others":[],"text":"","named":{}}'

    await read(Sheet(Page(picture=png(1), more=[png(2)]), Document(PDF)), [Document(PDF + b"2"), Document(PDF)])
    assert asked(server).arguments == {
        "sheet": {"page": {"picture": {"image": 1}, "more": [{"image": 2}]}, "plan": {"document": 1}},
        "sources": [{"document": 2}, {"document": 1}],
    }
    assert asked(server).attachments[2] == Attachment(kind="document", media_type="application/pdf", data=PDF)
    assert '{"document": 2}' in asked(server).system


async def test_a_stream_shows_images_too(server: LoopbackServer, opened: Tanuki) -> None:
    server.put(["a cat", "a hat"])
    assert [each async for each in await things(png(1))] == ["a cat", "a hat"]
    assert asked(server).attachments == (shown(png(1)),)


async def test_a_repair_shows_the_image_again(server: LoopbackServer, opened: Tanuki) -> None:
    server.put('{"value":"grey"}', Value("dark"))
    assert await shade(png(1)) == "dark"
    first = asked(server, 0).messages
    assert asked(server).messages[: len(first)] == first
    assert len(asked(server).messages) == len(first) + 2


async def test_amap_maps_over_images(server: LoopbackServer, opened: Tanuki) -> None:
    server.put(*[brightness] * 4)
    pictures = [png(250), png_bytes(1), png(251), png(2)]
    results = [each async for each in tanuki.amap(shade, pictures, concurrency=2)]
    assert results == ["light", "dark", "light", "dark"]


async def test_a_fake_provider_sees_what_a_server_sees() -> None:
    fake = FakeProvider(brightness)
    async with Tanuki(storage="memory:", providers=[fake], teacher_models="fake:m"):
        assert await shade(png(250)) == "light"
    assert fake.calls[0].turns[0].attachments == (png(250).attachment(),)


async def test_a_call_is_recorded_whole_and_known_again_by_its_content(
    server: LoopbackServer, opened: Tanuki, storage: MemoryStorage
) -> None:
    server.put(*[Value("dark")] * 4)
    for picture in (png(1), png_bytes(1), png(2), png(3, padding=KEPT)):
        await shade(picture)

    records = await recorded(storage, shade)

    assert [record["args"] for record in records] == [
        [png(1).record()],
        [png(2).record()],
        [
            {
                "image": {
                    "media_type": "image/png",
                    "sha256": png(3, padding=KEPT).sha256,
                    "size": png(3, padding=KEPT).size,
                }
            }
        ],
    ]


async def test_aligned_images_are_examples_now_and_after_a_restart(
    server: LoopbackServer, storage: MemoryStorage
) -> None:
    @tanuki.align
    async def lesson() -> None:
        assert await shade(png(250)) == "light"
        assert await shade(png(1)) == "dark"

    prompts = []
    for _ in range(2):
        async with tanuki_for(server, storage):
            if not prompts:
                await lesson()
                assert server.served == 0
            server.put(Value("dark"))
            await shade(png(9))
            prompts.append(asked(server).messages[1:-1])
            assert len(await recorded(storage, shade, "SYMBOLIC_ALIGNMENTS")) == 2
    assert prompts[0] == prompts[1]
    assert [json.loads(message["content"]) for message in prompts[0][1::2]] == [{"value": "light"}, {"value": "dark"}]
    assert prompts[0][2]["content"] == content_of(Turn("user", '{"photo":{"image":1}}', (png(1).attachment(),)))


async def test_an_aligned_image_that_is_too_large_says_so_and_is_not_shown(
    server: LoopbackServer, opened: Tanuki, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="tanuki_async.align"):
        await tanuki.feedback(shade, "dark", png(1, padding=KEPT))
    assert "larger than the 256 KiB that a record keeps" in caplog.text
    await shade(png(2))
    assert len(asked(server).messages) == 2


async def test_two_images_never_share_an_answer(server: LoopbackServer, opened: Tanuki) -> None:
    server.put({"value": 1}, {"value": 2})
    assert [await cached(png(1)), await cached(png(2)), await cached(png(1))] == [1, 2, 1]
    await tanuki.feedback(cached, 7, png(2))
    assert await cached(png(2)) == 7
    assert server.served == 2


def seeing(server: LoopbackServer, **models: frozenset[Any]) -> list[OpenAICompatible]:
    """A provider for each name, whose model `m` takes what is said."""
    return [
        OpenAICompatible(server.url, name=name, models={"m": Model(provider=name, name="m", attachments=kinds)})
        for name, kinds in models.items()
    ]


async def test_a_teacher_that_takes_no_images_is_passed_over(server: LoopbackServer, storage: MemoryStorage) -> None:
    server.put({"value": 1}, {"value": 2}, Value("x"))
    providers = seeing(server, blind=frozenset(), eyes=frozenset({"image"}), reader=frozenset({"image", "document"}))
    teachers = ["blind:m", "eyes:m", "reader:m"]
    async with Tanuki(storage=storage, providers=providers, teacher_models=teachers):
        await count(png(1))
        await count(text="no image at all")
        await read(Sheet(Page(picture=png(1)), Document(PDF)))
        records = [*await recorded(storage, count), *await recorded(storage, read)]
    assert [record["model"] for record in records] == ["eyes:m", "blind:m", "reader:m"]


async def test_where_no_teacher_takes_images_the_error_names_models_that_do(
    server: LoopbackServer, storage: MemoryStorage
) -> None:
    (blind,) = seeing(server, blind=frozenset({"document"}))
    async with Tanuki(storage=storage, providers=[blind], teacher_models="blind:m"):
        with pytest.raises(
            SettingsError,
            match=r"shade\(\) was given images, .* take images \(blind:m\); name one .* such as 'openai:gpt-6\.2-sol', "
            r".*, or describe yours: Model\(…, attachments=\{'image'\}\)",
        ):
            await shade(png(1))
        with pytest.raises(SettingsError, match=r"images and documents .*attachments=\{'document', 'image'\}"):
            await read(Sheet(Page(picture=png(1)), Document(PDF)))
    assert server.served == 0


OPENAI_SAYS = "Invalid content type. image_url is only supported by certain models."


async def test_a_server_that_refuses_images_is_believed_and_the_next_teacher_answers(
    server: LoopbackServer, storage: MemoryStorage
) -> None:
    async with LoopbackServer([Fault.status(400, message=OPENAI_SAYS), {"value": 3}]) as blind:
        providers = [OpenAICompatible(blind.url, name="blind"), OpenAICompatible(server.url, name="eyes")]
        async with Tanuki(storage=storage, providers=providers, teacher_models=["blind:m", "eyes:m"]):
            server.put({"value": 1}, {"value": 2})
            assert await count(png(1)) == 1
            assert await count(png(2)) == 2
            assert blind.served == 1  # it was asked once, and never again
            assert await count(text="words only") == 3
        blind.assert_done()


async def test_the_only_teacher_that_refuses_images_is_an_error_with_its_words(
    server: LoopbackServer, opened: Tanuki
) -> None:
    server.put(Fault.status(400, message=OPENAI_SAYS))
    with pytest.raises(AttachmentRefusedError, match=r"loopback:small: it takes no images, by its own words: Invalid"):
        await shade(png(1))
    with pytest.raises(AttachmentRefusedError, match="it takes no images"):
        await shade(png(2))
    with pytest.raises(AttachmentRefusedError, match="it takes no images"):
        async for _ in await things(png(2)):
            pass
    assert server.served == 1


TAKES_NONE = [
    (400, OPENAI_SAYS),
    (400, "qwen3 is not a multimodal model"),
    (400, "At most 0 image(s) may be provided in one request."),
    (400, "this model does not support image input (ref: b8bd630e)"),
    (404, "No endpoints found that support image input"),
    (400, "Image input is not enabled for this model"),
    (422, "Failed to deserialize the JSON body: messages[1]: unknown variant `image_url`, expected `text`"),
    (400, "messages[1].content must be a string"),
    (400, "This model does not support images."),
]
IS_WRONG = [
    (400, "You uploaded an unsupported image. Please make sure your image has one of: png, jpeg, gif, webp."),
    (400, "The image data you provided does not represent a valid image."),
    (400, "This model does not support images larger than 20 MB"),
    (400, "Error while downloading https://pictures.example/cat.png."),
    (404, "The model `m` does not exist"),
    (413, "this model does not support image input"),
]


@pytest.mark.parametrize(("status", "message"), TAKES_NONE + IS_WRONG)
async def test_only_a_refusal_of_all_images_is_remembered(
    server: LoopbackServer, opened: Tanuki, status: int, message: str
) -> None:
    server.put(Fault.status(status, message=message), Value("dark"))
    with pytest.raises(RequestRejectedError) as caught:
        await shade(png(1))
    assert isinstance(caught.value, AttachmentRefusedError) == ((status, message) in TAKES_NONE)
    if (status, message) in IS_WRONG:
        assert await shade(png(2)) == "dark"


async def test_documents_are_refused_apart_from_images(server: LoopbackServer, opened: Tanuki) -> None:
    server.put(Fault.status(400, message="this model does not support file input"), Value("dark"))
    with pytest.raises(AttachmentRefusedError, match="it takes no documents"):
        await read(Sheet(Page(picture=png(1)), Document(PDF)))
    assert await shade(png(1)) == "dark"


async def test_a_document_by_its_address_cannot_travel_in_this_format(server: LoopbackServer, opened: Tanuki) -> None:
    with pytest.raises(AttachmentRefusedError, match=r"bytes, not its address: give `await Document\.open\(path\)`"):
        await read(Sheet(Page(picture=png(1)), Document(url="https://papers.example/1.pdf")))
    assert server.served == 0


async def test_images_count_towards_the_window(server: LoopbackServer, storage: MemoryStorage) -> None:
    small = Model(provider="loopback", name="small", context_window=3_500, attachments=frozenset({"image"}))
    async with Tanuki(**settings_for(server, storage, teacher_models=small)):
        await count(png(1))
        with pytest.raises(PromptTooLongError, match="its largest part is what is attached"):
            await count(Image(url=URL), *[png(n) for n in range(9)])


async def test_a_local_student_cannot_look_at_images(server: LoopbackServer, opened: Tanuki) -> None:
    status = await tanuki.distill(shade)
    assert status.reason == "its arguments may hold images or documents, which a local student cannot look at"


def test_a_body_holds_the_same_parts_as_a_training_line_and_text_stays_as_it_was() -> None:
    seeing_, plain = (
        Turn(
            "user", 'a "1"', (png(1).attachment(), Image(url=URL + "&x='\"").attachment(), Document(PDF).attachment())
        ),
        Turn("user", "é\n"),
    )
    model = Model(provider="p", name="m", structured="none")
    head = Head(
        function="f",
        system="s",
        examples=(seeing_, Turn("assistant", "1")),
        answer=AnswerSchema(name="f", schema={}, strict=True),
    )
    bodies, abilities = Bodies(), Abilities.of(model)

    first = bodies.encode(Request(model=model, head=head, turns=(seeing_,)), abilities)
    second = bodies.encode(Request(model=model, head=head, turns=(plain,)), abilities)

    assert [message["content"] for message in json.loads(first)["messages"]] == [
        "s", content_of(seeing_), "1", content_of(seeing_),
    ]  # fmt: skip
    assert second.endswith(',{"role":"assistant","content":"1"},{"role":"user","content":"é\\n"}]}'.encode())
    begin = bodies._heads.kept[head]["m"].begin
    assert first.startswith(begin)
    assert second.startswith(begin)


def test_a_body_without_images_is_byte_for_byte_what_it_was() -> None:
    head = Head(
        function="f", system="s", examples=(Turn("user", "{}"), Turn("assistant", "1")),
        answer=AnswerSchema(name="f", schema={}, strict=True),
    )  # fmt: skip
    model = Model(provider="p", name="m", structured="none")
    body = Bodies().encode(Request(model=model, head=head, turns=(Turn("user", '{"a":1}'),)), Abilities.of(model))
    assert body == (
        b'{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"{}"},'
        b'{"role":"assistant","content":"1"},{"role":"user","content":"{\\"a\\":1}"}]}'
    )


async def test_a_refused_answer_about_an_image_is_still_a_refusal(server: LoopbackServer, opened: Tanuki) -> None:
    server.put(Answer(None, refusal="I cannot look at this."))
    with pytest.raises(tanuki.RefusalError):
        await shade(png(1))
