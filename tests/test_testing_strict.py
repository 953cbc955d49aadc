from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tanuki_async.testing._plainest import simplest
from tanuki_async.testing._strict import RefusedError, check_chat, check_embedding, check_schema

USER = [{"role": "user", "content": "hi"}]
GOOD = {
    "type": "object",
    "properties": {"value": {"type": "string"}},
    "required": ["value"],
    "additionalProperties": False,
}


def of(value: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"value": value},
        "required": ["value"],
        "additionalProperties": False,
        **more,
    }


def chat(model: str = "gpt-6-luna", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": USER, **fields}


TEXT = {"type": "text", "text": "hi"}


def parts(*content: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return chat(messages=[{"role": role, "content": list(content)}])


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def pdf(data: str) -> dict[str, Any]:
    return {"type": "file", "file": {"filename": "x.pdf", "file_data": data}}


@pytest.mark.parametrize(
    "body",
    [
        chat(max_completion_tokens=5, reasoning_effort="low", seed=1),
        chat(reasoning_effort="none", temperature=0, top_p=1, logprobs=True),
        chat("gpt-4.1-mini", max_tokens=5, temperature=0.3, stop=["a"]),
        chat(response_format={"type": "json_schema", "json_schema": {"name": "f", "strict": True, "schema": GOOD}}),
        chat(response_format={"type": "json_schema", "json_schema": {"name": "f", "schema": {"type": "array"}}}),
        chat(messages=[{"role": "user", "content": "answer in JSON"}], response_format={"type": "json_object"}),
        parts(
            TEXT,
            image("https://a.example/x"),
            image("data:image/png;base64,aGk="),
            pdf("data:application/pdf;base64,aGk="),
        ),
        parts(TEXT, role="system"),
    ],
)
def test_what_openai_takes_passes(body: dict[str, Any]) -> None:
    check_chat(body)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (chat(temperature=0), "temperature"),
        (chat(reasoning_effort="high", top_p=0.5), "top_p"),
        (chat(reasoning_effort="none", temperature=3), "temperature"),
        (chat(max_tokens=5), "max_tokens"),
        (chat(max_completion_tokens=0), "max_completion_tokens"),
        (chat(stop=["a"]), "stop"),
        (chat(reasoning_effort="minimal"), "reasoning_effort"),
        (chat("gpt-6.1-sol", reasoning_effort="none"), "reasoning_effort"),
        (chat("gpt-4.1-mini", reasoning_effort="low"), "reasoning_effort"),
        (chat("gpt-4.1", stop=list("abcde")), "stop"),
        (chat("gpt-4.1", max_tokens=1, max_completion_tokens=1), "max_tokens"),
        (chat(top_k=3), "top_k"),
        (chat(model=""), "model"),
        (chat(messages=[]), "messages"),
        (chat(messages=[{"role": "robot", "content": "x"}]), "messages[0].role"),
        (chat(messages=[{"role": "user"}]), "messages[0].content"),
        (parts(TEXT, image("https://a.example/x"), role="system"), "messages[0].content[1].type"),
        (parts({"type": "input_image"}), "messages[0].content[0].type"),
        (parts({"type": "text"}), "messages[0].content[0].text"),
        (parts(image("http://a.example/x")), "messages[0].content[0].image_url.url"),
        (parts(image("data:image/tiff;base64,aGk=")), "messages[0].content[0].image_url.url"),
        (parts(pdf("https://a.example/x.pdf")), "messages[0].content[0].file"),
        (parts({"type": "file", "file": {"file_data": "data:application/pdf;base64,aGk="}}), "messages[0].content[0].file"),
        (chat(response_format={"type": "json_object"}), "messages"),
        (chat(response_format={"type": "xml"}), "response_format.type"),
        (chat(response_format={"type": "json_schema", "json_schema": {"name": "a b"}}), "response_format.json_schema.name"),
        (chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "strict": True}}), "response_format"),
    ],
)  # fmt: skip
def test_what_openai_refuses_names_its_parameter(body: dict[str, Any], param: str) -> None:
    with pytest.raises(RefusedError) as raised:
        check_chat(body)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "schema",
    [
        GOOD,
        of({"anyOf": [{"type": "string"}, {"type": "null"}]}),
        of({"type": ["string", "null"]}),
        of({"enum": ["a", 1, None]}),
        of({"const": 1}),
        of({"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1}),
        of({"$ref": "#/$defs/Node"}, **{"$defs": {"Node": of({"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]})}}),
        of({"type": "string", "format": "date-time", "pattern": "a"}),
        {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
    ],
)  # fmt: skip
def test_schemas_inside_the_strict_subset_pass(schema: dict[str, Any]) -> None:
    check_schema("f", schema)


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ({"type": "array", "items": {"type": "string"}}, "type: \"object\""),
        ({"anyOf": [GOOD, GOOD], "type": "object"}, "anyOf"),
        ({**GOOD, "additionalProperties": True}, "additionalProperties"),
        ({"type": "object", "properties": {"value": {"type": "string"}}, "required": ["value"]}, "additionalProperties"),
        ({**GOOD, "required": []}, "required"),
        (of({"oneOf": [{"type": "string"}]}), "oneOf"),
        (of({"allOf": [{"type": "string"}]}), "allOf"),
        (of({"type": "string", "default": "a"}), "default"),
        (of({"type": "string", "minLength": 1}), "minLength"),
        (of({"type": "string", "format": "uri"}), "format"),
        (of({"type": "array"}), "items"),
        (of({"type": "array", "items": {"type": "string"}, "uniqueItems": True}), "uniqueItems"),
        (of({"type": "array", "prefixItems": [], "items": {"type": "string"}}), "prefixItems"),
        (of({"$ref": "#/$defs/Gone"}), "resolved"),
        (of({"$ref": "#/$defs/A", "description": "x"}, **{"$defs": {"A": {"type": "string"}}}), "cannot have keywords"),
        (of({}), "type"),
        (of({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}), "required"),
        (of({"enum": list(range(1001))}), "enum values"),
        (of({"enum": ["x" * 60_000, "y" * 60_001]}), "characters"),
    ],
)  # fmt: skip
def test_schemas_outside_the_strict_subset_are_refused(schema: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RefusedError, match=complaint):
        check_schema("f", schema)


def test_nesting_ends_at_ten_levels() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(10):
        schema = of(schema)
    check_schema("f", schema)
    with pytest.raises(RefusedError, match="levels"):
        check_schema("f", of(schema))


def test_tuned_models_take_no_constraints() -> None:
    schema = of({"type": "integer", "minimum": 1})
    check_schema("f", schema)
    with pytest.raises(RefusedError, match="minimum"):
        check_schema("f", schema, tuned=True)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"model": "text-embedding-ada-002", "input": "a", "dimensions": 3}, "dimensions"),
    ],
)
def test_embeddings_have_bounds(body: dict[str, Any], param: str) -> None:
    check_embedding({"model": "text-embedding-3-small", "input": "a", "dimensions": 3})
    with pytest.raises(RefusedError) as raised:
        check_embedding(body)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "schema",
    [
        GOOD,
        of({"enum": ["b", "a"]}),
        of({"const": 7}),
        of({"type": "integer", "exclusiveMinimum": 3, "maximum": 9}),
        of({"type": "number", "maximum": -2}),
        of({"type": ["boolean", "null"]}),
        of({"type": "array", "items": {"type": "null"}, "minItems": 2}),
        of({"$ref": "#/$defs/Node"}, **{"$defs": {"Node": of({"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]})}}),
    ],
)  # fmt: skip
def test_the_plainest_value_fits_its_schema(schema: dict[str, Any]) -> None:
    Draft202012Validator(schema).validate(simplest(schema))
