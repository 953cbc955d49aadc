"""What tests need to run without a provider: fakes of the provider, of its HTTP and of time."""

from tanuki_async.testing.answers import Answer, ChatRequest, EmbeddingRequest, Fault, ScriptError, Value
from tanuki_async.testing.clock import FakeClock
from tanuki_async.testing.loopback import LoopbackServer
from tanuki_async.testing.provider import FakeProvider

__all__ = [
    "Answer",
    "ChatRequest",
    "EmbeddingRequest",
    "FakeClock",
    "FakeProvider",
    "Fault",
    "LoopbackServer",
    "ScriptError",
    "Value",
]
