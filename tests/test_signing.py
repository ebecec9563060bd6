"""Signatures of commands: what verifies is what was signed, for this box, and what is read of it is the same."""

import base64
import json
from typing import Any, Final

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from edge.messages import Command
from edge.signing import good, key_bytes, sign, signed_bytes

NODE: Final = "node-1"
KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC: Final = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

WORDS: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ARGUMENTS: Final = st.dictionaries(
    WORDS,
    st.recursive(
        st.none()
        | st.booleans()
        | WORDS
        | st.integers(-(2**53) + 1, 2**53 - 1)
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def command(**changed: Any) -> dict[str, Any]:
    bare: dict[str, Any] = {
        "v": 1,
        "id": "c-1",
        "type": "retry",
        "args": {"destination": "pacs"},
        "issued_by": "monitor-1",
        "expires_at": "2027-01-15T08:00:00Z",
    }
    return bare | changed


def signed(payload: dict[str, Any], node: str = NODE) -> dict[str, Any]:
    return payload | {"signature": sign(payload, node, KEY)}


def wire(payload: dict[str, Any]) -> bytes:
    return json.dumps(payload).encode()


def is_good(payload: bytes) -> bool:
    return good(payload, NODE, PUBLIC)


def test_what_was_signed_verifies() -> None:
    assert is_good(wire(signed(command())))


def test_order_spaces_and_escapes_do_not_matter() -> None:
    payload = signed(command(args={"destination": "pacs-ü", "a": "\u2028"}))
    turned = dict(reversed(payload.items()))
    assert is_good(json.dumps(turned, indent=3).encode())
    assert is_good(json.dumps(turned, ensure_ascii=False).encode())


def test_the_signed_bytes_are_the_canonical_form_with_the_node_and_without_the_signature() -> None:
    assert signed_bytes({"b": 2.0, "a": "é", "signature": "x"}, "n") == '{"a":"é","b":2,"node":"n"}'.encode()


@given(ARGUMENTS)
def test_any_arguments_verify_and_are_read_as_they_were_signed(arguments: dict[str, Any]) -> None:
    payload = signed(command(args=arguments))
    text = wire(payload)
    assert is_good(text)
    read = msgspec.to_builtins(msgspec.json.decode(text, type=Command))
    assert signed_bytes(read, NODE) == signed_bytes(payload, NODE)


@pytest.mark.parametrize(
    "changed",
    [
        {"id": "c-2"},
        {"type": "reboot"},
        {"args": {"destination": "archive"}},
        {"args": {}},
        {"issued_by": "monitor-2"},
        {"expires_at": "2028-01-15T08:00:00Z"},
        {"v": 2},
        {"more": 1},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_field_that_was_changed_or_added_does_not_verify(changed: dict[str, Any]) -> None:
    assert not is_good(wire(signed(command()) | changed))


@pytest.mark.parametrize("key", list(command()))
def test_a_field_that_was_taken_away_does_not_verify(key: str) -> None:
    payload = signed(command())
    del payload[key]
    assert not is_good(wire(payload))


def test_a_command_for_another_box_does_not_verify() -> None:
    assert not is_good(wire(signed(command(), "node-2")))


def test_a_node_in_the_payload_does_not_verify() -> None:
    payload = command()
    for node in (NODE, "node-2"):
        assert not is_good(wire(signed(payload, "node-2") | {"node": node}))
        assert not is_good(wire(signed(payload | {"node": node})))


def test_somebody_elses_signature_does_not_verify() -> None:
    payload = command()
    other = Ed25519PrivateKey.generate()
    assert not is_good(wire(payload | {"signature": sign(payload, NODE, other)}))


@pytest.mark.parametrize("signature", ["", "x", "é", None, 7, [], base64.b64encode(bytes(64)).decode(), "A" * 100_000])
def test_what_is_no_signature_does_not_verify(signature: object) -> None:
    assert not is_good(wire(command() | {"signature": signature}))


def test_a_missing_signature_does_not_verify() -> None:
    assert not is_good(wire(command()))


def test_unknown_keys_are_signed_with_the_rest_and_refused_by_who_reads() -> None:
    text = wire(signed(command(more="x")))
    assert is_good(text)
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(text, type=Command)


@pytest.mark.parametrize(
    ("key", "again"),
    [("type", '"reboot"'), ("signature", '"x"'), ("args", '{"destination":"archive"}'), ("id", '"c-1"')],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_key_that_stands_twice_does_not_verify_whichever_counts(key: str, again: str, *, first: bool) -> None:
    text = wire(signed(command())).decode()
    doubled = f'{{"{key}":{again},{text[1:]}' if first else f'{text[:-1]},"{key}":{again}}}'
    assert json.loads(doubled)[key] in (json.loads(text)[key], json.loads(again))
    assert not is_good(doubled.encode())


def test_a_key_that_stands_twice_further_down_or_by_an_escape_does_not_verify() -> None:
    text = wire(signed(command())).decode()
    for again in ('"destination": "archive", "destination"', '"destinatio\\u006e": "archive", "destination"'):
        doubled = text.replace('"destination"', again)
        assert json.loads(doubled) == json.loads(text)
        assert not is_good(doubled.encode())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_another_encoding_does_not_verify(encoding: str) -> None:
    assert not is_good(json.dumps(signed(command())).encode(encoding))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9007199254740993", "1" * 5000])
def test_numbers_without_a_canonical_form_do_not_verify(number: str) -> None:
    assert not is_good(wire(signed(command(args={"n": 1}))).replace(b'"n": 1', f'"n": {number}'.encode()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, {"a": {1, 2}}, "\ud800", {1: 2}])
def test_what_has_no_canonical_form_is_not_signed(value: object) -> None:
    with pytest.raises(ValueError, match=r"canonical|surrogates"):
        signed_bytes(command(args={"value": value}), NODE)


def test_lone_surrogates_do_not_verify() -> None:
    assert not is_good(wire(signed(command())).replace(b"pacs", b"\\ud800"))
    assert not is_good(wire(signed(command())).replace(b"pacs", b"\xed\xa0\x80"))


def test_one_and_one_point_zero_are_the_same_number_to_a_signature() -> None:
    text = wire(signed(command(args={"seconds": 5})))
    assert is_good(text.replace(b'"seconds": 5', b'"seconds": 5.0'))


def test_nesting_without_end_does_not_verify_and_harms_nothing() -> None:
    for depth in (500, 5000, 100_000):
        nested = b"[" * depth + b"]" * depth
        assert not is_good(wire(signed(command())).replace(b'{"destination": "pacs"}', b'{"a": ' + nested + b"}"))


def test_what_can_be_nested_can_be_signed_or_is_refused() -> None:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(ValueError, match="canonical"):
        signed_bytes(command(args={"value": value}), NODE)


@pytest.mark.parametrize("payload", [b"", b"[]", b"1", b"null", b'"x"', b"{", b"\xff", b"{}", b"{}{}"])
def test_what_is_no_object_does_not_verify(payload: bytes) -> None:
    assert not is_good(payload)


@pytest.mark.parametrize("key", [b"", b"short", bytes(33)])
def test_what_is_no_key_verifies_nothing(key: bytes) -> None:
    assert not good(wire(signed(command())), NODE, key)


def test_the_configurations_form_of_a_key_is_read() -> None:
    assert key_bytes(base64.b64encode(PUBLIC).decode()) == PUBLIC
