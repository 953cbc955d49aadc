"""An image or document is recognised, refused with reasons, equal by content, and survives pickle and JSON."""

import base64
import dataclasses
import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from _pictures import png, png_bytes
from pydantic import BaseModel, TypeAdapter, ValidationError

import tanuki_async as tanuki
from tanuki_async import Document, Image, InputError, StubError
from tanuki_async._codec.describe import FunctionSpec, describe
from tanuki_async._codec.media import KEPT
from tanuki_async._codec.pixels import document_tokens, image_tokens, pixels
from tanuki_async._records import Attachment

PDF = b"%PDF-1.7\n1 0 obj<</Type /Page>>endobj 2 0 obj<</Type/Pages/Count 2>>endobj 3 0 obj<</Type/Page>>endobj"
# Not whole pictures: what says the format and the size.
GIF = b"GIF89a" + (640).to_bytes(2, "little") + (480).to_bytes(2, "little")
JPEG = (
    b"\xff\xd8\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
    b"\xff\xff\xc0\x00\x11\x08\x01\xe0\x02\x80\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
)
WEBP = b"RIFF\x00\x00\x00\x00WEBP"
LOSSY = WEBP + b"VP8 \0\0\0\0" + b"\0\0\0\x9d\x01\x2a" + (640).to_bytes(2, "little") + (480).to_bytes(2, "little")
LOSSLESS = WEBP + b"VP8L\0\0\0\0" + b"\x2f" + (639 | 479 << 14).to_bytes(4, "little") + b"\0" * 5
EXTENDED = WEBP + b"VP8X\0\0\0\0" + b"\0\0\0\0" + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (png_bytes(), "image/png"),
        (JPEG, "image/jpeg"),
        (GIF, "image/gif"),
        (b"GIF87a", "image/gif"),
        (LOSSY, "image/webp"),
    ],
)
def test_an_image_is_recognised_by_its_bytes(data: bytes, media_type: str) -> None:
    assert Image(data).media_type == media_type
    assert Image(bytearray(data)) == Image(memoryview(data)) == Image(data)


def test_a_document_is_a_pdf() -> None:
    assert Document(PDF).media_type == "application/pdf"
    assert Document(b"\xef\xbb\xbf\n" + PDF).size == len(PDF) + 4  # its header may come a little later


@pytest.mark.parametrize(
    ("make", "parameter", "words"),
    [
        (lambda: Image(), None, "takes its bytes or url=, one of the two"),
        (lambda: Image(png_bytes(), url="https://a.example/x.png"), None, "one of the two"),
        (lambda: Image(b""), "data", "is no PNG, JPEG, GIF or WebP, by how it begins"),
        (lambda: Image(PDF), "data", "is no PNG"),
        (lambda: Document(png_bytes()), "data", "is no PDF"),
        (lambda: Image("photo.png"), "data", r"is a str, not bytes; .* for a file `await Image\.open\(path\)`"),
        (lambda: Document(Path("a.pdf")), "data", r"not bytes; .* `await Document\.open\(path\)`"),
        (lambda: Image(bytes(20 * 2**20 + 1)), "data", "has 20,971,521 bytes, and at most 20,971,520 are sent"),
        (lambda: Image(url="http://a.example/x.png"), "url", "is no https: or data: URL"),
        (lambda: Image(url="file:///etc/passwd"), "url", "is no https: or data: URL"),
        (lambda: Image(url="https://me:secret@a.example/x.png"), "url", "is no https: or data: URL"),
        (lambda: Image(url="https://"), "url", "is no https: or data: URL"),
        (lambda: Image(url="https://[::1/x"), "url", "is no https: or data: URL"),
        (lambda: Image(url="https://a.example/\n"), "url", "is no https: or data: URL"),
        (lambda: Image(url=7), "url", "is no https: or data: URL"),
        (lambda: Image(url="https://a.example/" + "x" * 9_000), "url", "has 9,018 characters, more than the 8,192"),
        (lambda: Image(url="data:image/png;base64"), "url", "without a comma"),
        (lambda: Image(url="data:image/png;base64,*"), "url", "that is not base64"),
        (lambda: Image(url="data:image/png;base64,aGk="), "url", "is no PNG"),
        (lambda: Image(url="data:," + "%00" * (20 * 2**20 + 1)), "url", "holds more than the 20,971,520 bytes"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_what_to_do(make, parameter, words) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert caught.value.parameter == parameter
    assert "secret" not in str(caught.value)


def test_a_data_url_is_its_bytes() -> None:
    data = png_bytes()
    assert Image(url="data:image/png;base64," + base64.b64encode(data).decode()) == Image(data)
    assert Image(url="DATA:;charset=x," + "".join(f"%{byte:02x}" for byte in data)) == Image(data)


def test_an_address_is_kept_as_it_is_and_tells_its_format_by_its_ending() -> None:
    assert Image(url="https://a.example/x.JPG?size=2").media_type == "image/jpeg"
    assert Image(url="https://a.example/x").media_type == "image/*"
    assert Image(url="https://a.example/x.pdf").media_type == "image/*"
    assert Document(url="https://a.example/x").media_type == "application/pdf"
    assert Image(url="https://a.example/x").attachment() == Attachment(
        kind="image", media_type="image/*", url="https://a.example/x"
    )


def test_equal_content_is_equal_and_nothing_can_be_changed() -> None:
    one, same, other = png(1), png(1), png(2)
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert {one: "x"}[same] == "x"
    assert Image(url="https://a.example/1") != Image(url="https://a.example/2")
    assert one.sha256 == hashlib.sha256(png_bytes(1)).hexdigest()
    for name in ("data", "media_type", "more"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(one, name, b"x")


def test_a_repr_is_short_and_has_neither_bytes_nor_keys() -> None:
    assert repr(png(1)) == f"<Image image/png, 71 bytes, sha256 {png(1).sha256[:12]}>"
    assert repr(Image(url="https://a.example/x.png?signature=secret")) == "Image(url='https://a.example/x.png')"
    assert "IHDR" not in repr(png(1).attachment())
    assert "secret" not in repr(Image(url="https://a.example/x.png?signature=secret").attachment())


@pytest.mark.parametrize("value", [png(1), Image(url="https://a.example/x.png"), Document(PDF)])
def test_it_pickles_by_its_public_name(value: Image | Document) -> None:
    pickled = pickle.dumps(value)
    copy = pickle.loads(pickled)
    assert copy == value
    assert (copy.data, copy.tokens) == (value.data, value.tokens)
    assert b"_media" not in pickled


class Page(BaseModel):
    picture: Image
    more: list[Image] = []
    source: Document | None = None


@dataclasses.dataclass
class Sheet:
    pages: list[Page]
    cover: Image | None = None


def test_it_is_a_type_that_pydantic_reads_and_writes() -> None:
    page = Page(picture=png(1), more=[png_bytes(2), "https://a.example/x.png"], source=PDF)
    assert page.model_dump()["picture"] is page.picture
    assert Page.model_validate_json(page.model_dump_json()) == page
    large = Page(picture=png(1, padding=KEPT))
    assert Page.model_validate_json(large.model_dump_json()).picture.data == large.picture.data  # a user's own JSON
    assert Page.model_json_schema()["properties"]["picture"]["format"] == "uri"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"hello", "It is no PNG, JPEG, GIF or WebP"),
        ("photo.png", r"It is no https: or data: URL; for a file write `await Image\.open\(path\)`"),
        (Path("photo.png"), "It is a PosixPath, not bytes"),
        (7, "It is a int, not bytes"),
        (Document(PDF), "It is a Document, not bytes"),
        ({"picture": "x"}, "It is not a recorded image: KeyError"),
        ({"image": {"media_type": "image/png", "sha256": "0", "size": 3}}, "its bytes are missing"),
    ],
)
def test_what_is_no_image_is_a_validation_error(value: object, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(Image).validate_python(value)


async def look(sheet: Sheet, *others: Image, notes: str = "", **named: Image) -> int:
    """Count."""


async def read(text: str) -> int:
    """Count."""


def test_a_call_shows_each_image_once_and_refers_to_it_by_number() -> None:
    spec = describe(look)
    one, two, three = png(1), png(2), png(3)
    sheet = Sheet([Page(picture=one, more=[two, one], source=Document(PDF))], cover=two)

    turn = spec.bind((sheet, three, one), {"notes": '{"image":1}', "last": three}).turn()

    assert turn.text == (
        '{"sheet":{"pages":[{"picture":{"image":1},"more":[{"image":2},{"image":1}],"source":{"document":1}}],'
        '"cover":{"image":2}},"others":[{"image":3},{"image":1}],"notes":"{\\"image\\":1}","named":{"last":{"image":3}}}'
    )
    assert turn.attachments == (
        one.attachment(), two.attachment(), Document(PDF).attachment(), three.attachment()
    )  # fmt: skip


def recorded(spec: FunctionSpec, *args: object, **kwargs: object) -> tuple[list[object], dict[str, object]]:
    import json

    call = spec.bind(args, kwargs)
    return json.loads(call.args_json), json.loads(call.kwargs_json)


def test_a_record_holds_all_that_the_call_showed() -> None:
    spec = describe(look)
    arguments = (Sheet([Page(picture=png(1))], cover=Image(url="https://a.example/x.png?key=1")), png(2), png(1))

    args, kwargs = recorded(spec, *arguments, notes="n", last=Image(GIF))

    assert spec.turn_of(args, kwargs) == spec.bind(arguments, {"notes": "n", "last": Image(GIF)}).turn()
    assert args[1] == {
        "image": {
            "media_type": "image/png",
            "sha256": png(2).sha256,
            "data": base64.b64encode(png_bytes(2)).decode(),
        }
    }
    assert args[0]["cover"] == {"image": {"url": "https://a.example/x.png?key=1"}}


def test_a_large_image_leaves_only_what_it_is_recognised_by() -> None:
    spec = describe(look)
    large = png(2, padding=KEPT)

    args, kwargs = recorded(spec, Sheet([]), large)

    assert args[1] == {"image": {"media_type": "image/png", "sha256": large.sha256, "size": large.size}}
    assert spec.turn_of(args, kwargs) is None
    assert spec.bind((Sheet([]), large), {}).turn().attachments[0].data == large.data
    assert spec.text_of(args, kwargs) == spec.bind((Sheet([]), large), {}).text


def test_a_record_that_does_not_fit_any_more_is_not_shown() -> None:
    spec = describe(look)
    assert spec.turn_of([{"pages": "none"}], {}) is None
    assert spec.turn_of([{"pages": []}, {"image": {"data": "!"}}], {}) is None


def test_what_changes_after_the_call_does_not_show() -> None:
    spec = describe(look)
    page = Page(picture=png(1))
    call = spec.bind((Sheet([page]),), {})
    page.picture = png(2)
    assert call.turn().attachments == (png(1).attachment(),)


def test_a_function_without_images_is_bound_as_before() -> None:
    spec = describe(read)
    call = spec.bind(("x",), {})
    assert spec.media == frozenset()
    assert type(call).__name__ == "Call"
    assert call.turn().attachments == ()


def test_the_error_of_an_argument_names_its_parameter_and_not_the_bytes() -> None:
    async def see(photo: Image) -> int: ...

    with pytest.raises(
        InputError, match=r"argument 'photo' of .*see\(\): should be Image, got .*: It has 20,971,522"
    ) as e:
        describe(see).bind((png_bytes().ljust(20 * 2**20 + 2, b"\0"),), {})
    assert len(str(e.value)) < 500


def test_an_image_cannot_be_returned_or_embedded() -> None:
    async def draw(text: str) -> Image: ...

    async def collect(text: str) -> dict[str, list[Page]]: ...

    async def embed(photo: Image) -> tanuki.Embedding[list[float]]: ...

    with pytest.raises(StubError, match=r"draw\(\) cannot return an Image, .* a model answers in text"):
        describe(draw)
    with pytest.raises(StubError, match=r"cannot return an Document or image"):
        describe(collect)
    with pytest.raises(StubError, match=r"embed\(\) cannot embed an image"):
        describe(embed)


HASH = """
import tanuki_async as tanuki
from _pictures import png
from tanuki_async._codec.describe import describe
{future}
async def see(photo: {annotation}, logo: tanuki.Image = png(1)) -> str:
    "See."
print(describe(see).signature, describe(see).hash)
"""


def test_the_hash_is_the_same_in_every_process_and_differs_with_the_default() -> None:
    other = png(2)

    async def see(photo: Image | None, logo: Image = other) -> str:
        "See."

    told = set()
    for seed, annotation in (("1", "tanuki.Image | None"), ("2", '"tanuki.Image | None"')):
        script = HASH.format(future="", annotation=annotation)
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": f"{Path(__file__).parent}:{Path(tanuki.__file__).parent.parent}"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        told.add(done.stdout)
    (line,) = told
    assert line.startswith(f"def see(photo: Image | None, logo: Image = Image('{png(1).sha256}')) -> str ")
    assert describe(see).hash not in line


@pytest.mark.parametrize("data", [GIF, JPEG, LOSSY, LOSSLESS, EXTENDED, png_bytes(width=640, height=480)])
def test_width_and_height_are_read(data: bytes) -> None:
    assert pixels(data) == (640, 480)
    assert image_tokens(data) == 640 * 480 // 750


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG", b"GIF89a", WEBP + b"?" * 20, b"\xff\xd8\xff", JPEG[:21], b"\xff\xd8\xff\xe0\0\0" * 9]
)
def test_what_does_not_tell_its_size_is_taken_for_a_middling_image(data: bytes) -> None:
    assert pixels(data) is None
    assert image_tokens(data) == image_tokens(None) == 2_500


def test_small_and_large_images_have_bounds() -> None:
    assert image_tokens(png_bytes()) == 258
    assert image_tokens(GIF[:6] + b"\xff" * 4) == 12_000


def test_pages_of_a_document_are_counted_or_guessed() -> None:
    assert document_tokens(PDF) == 6_000
    assert document_tokens(b"%PDF-1.7" + bytes(450_000)) == 9_000
    assert document_tokens(None) == 3_000


async def test_a_file_is_read_in_a_thread(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(png_bytes(7))
    assert await Image.open(path) == await Image.open(str(path)) == png(7)


async def test_a_file_that_is_no_image_or_too_large_or_not_there_says_so(tmp_path: Path) -> None:
    wrong, large = tmp_path / "x.png", tmp_path / "large.png"
    wrong.write_text("hello")
    with large.open("wb") as file:
        file.truncate(20 * 2**20 + 1)
    with pytest.raises(InputError, match=r"argument 'path' of Image\.open\(\): '.*x\.png' is no PNG"):
        await Image.open(wrong)
    with pytest.raises(InputError, match=r"'.*large\.png' has 20,971,521 bytes"):
        await Image.open(large)
    with pytest.raises(FileNotFoundError):
        await Document.open(tmp_path / "none.pdf")
