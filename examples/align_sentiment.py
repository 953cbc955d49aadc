"""What `mood` should answer: examples for its prompt and its student, written as a test.

`pytest align_sentiment.py` records them, calling no model; so does awaiting the function anywhere.
"""

import asyncio

import pytest
from fastapi_app import mood

import tanuki_async as tanuki


@pytest.mark.asyncio
@tanuki.align
async def test_mood() -> None:
    assert await mood("The parcel came a day early, thank you!") == "good"
    assert await mood("Third time the box arrives empty.") == "bad"
    assert await mood("My customer number is 4711.") is None

    for thanks in ("Danke, super Service!", "Muchas gracias", "Merci beaucoup"):
        assert await mood(thanks) == "good"


if __name__ == "__main__":
    asyncio.run(test_mood())
