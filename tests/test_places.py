"""From a URL to the directory that it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from tanuki_async._errors import SettingsError
from tanuki_async._places import open_place
from tanuki_async.storage.filesystem import FilesystemStorage


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("file:some/data", "some/data"),
        ("file:./some/data", "some/data"),
        ("file:/some/data", "/some/data"),
        ("file:///some/data", "/some/data"),
        ("file://localhost/some/data", "/some/data"),
        ("file://LOCALHOST/some/data", "/some/data"),
        ("file:///some%20data/100%25", "/some data/100%"),
        ("file:some%20data", "some data"),
        ("file:///caf%C3%A9", "/café"),
        ("file:///what?is#this", "/what?is#this"),
        ("file:~/data", str(Path.home() / "data")),
        ("some%20data", "some%20data"),  # a path is no URL
    ],
)
def test_a_directory_is_found_whatever_form_its_url_has(place: str, path: str) -> None:
    storage = open_place(place)
    assert isinstance(storage, FilesystemStorage)
    assert storage.path == Path.cwd() / path


@pytest.mark.parametrize(("place", "host"), [("file://server/data", "server"), ("file://some", "some")])
def test_a_directory_of_another_machine_is_refused(place: str, host: str) -> None:
    with pytest.raises(SettingsError, match=rf"'{place}' names a host, '{host}'; write 'file:DIR' or 'file:///DIR'"):
        open_place(place)


@pytest.mark.parametrize("place", ["file:", "file://", "file:///", "file:/", "file://localhost", "file://localhost/"])
def test_no_directory_is_no_place(place: str) -> None:
    with pytest.raises(SettingsError, match="of no known kind"):
        open_place(place)
