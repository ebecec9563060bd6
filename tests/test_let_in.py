"""Storage commitment at the listener: whose reports are let in whatever else is there, in which role and syntax."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from edge.config import Config, DimseDestination, Modality, Receive
from edge.dicom.acceptor import Capacity
from edge.dicom.uids import STORAGE_COMMITMENT
from tests.peers import objects, wire
from tests.peers.ports import LOOPBACK, wait_for
from tests.peers.raw import RawSender, Rejected, Released
from tests.test_association import JPEG, Listener

PUSH: Final = [(STORAGE_COMMITMENT, [wire.EXPLICIT_LITTLE])]
CT: Final = [(objects.CT, [wire.EXPLICIT_LITTLE])]
BOTH: Final = [*PUSH, *CT]
PACS: Final = DimseDestination(name="pacs", host=LOOPBACK, ae_title="PACS", calling_ae_title="US TO PACS")
ARCHIVE: Final = DimseDestination(name="archive", host=LOOPBACK, ae_title="ARCHIVE", calling_ae_title="original")
SITE: Final = Config(
    receive=Receive(accept="known"),
    modality=(Modality(name="CT", ae_title="CT1", address="10.0.0.0/8"), Modality(name="MR", ae_title="MR1")),
    destination=(PACS, ARCHIVE),
)


@pytest.fixture
def senders() -> Iterator[Callable[..., RawSender]]:
    """Makes senders with an association, which end without a word."""
    with ExitStack() as stack:

        def make(
            listener: Listener,
            contexts: list[tuple[str, list[str]]],
            calling: str = "PACS",
            called: str = "EDGE",
            roles: tuple[wire.Role, ...] = (),
        ) -> RawSender:
            sender = RawSender(listener.port, calling=calling, called=called, timeout=10)
            stack.callback(sender.close)
            sender.connect()
            sender.associate(contexts, roles=roles)
            return sender

        yield make


Make = Callable[..., RawSender]


def refusal(make: Make, listener: Listener, *asked: object) -> tuple[int, int, int]:
    with pytest.raises(Rejected) as caught:
        make(listener, *asked)
    return caught.value.result, caught.value.source, caught.value.reason


# names


@pytest.mark.parametrize("contexts", [PUSH, CT, BOTH], ids=["commitment", "storage", "both"])
@pytest.mark.parametrize(
    ("calling", "called"),
    [
        ("PACS", "EDGE"),
        ("PACS", "US TO PACS"),
        ("ARCHIVE", "EDGE"),
        ("ARCHIVE", "CT1"),
        ("ARCHIVE", "MR1"),
    ],
)
def test_a_destination_may_call_us_as_we_call_it(
    senders: Make, calling: str, called: str, contexts: list[tuple[str, list[str]]]
) -> None:
    with Listener(SITE) as listener:
        assert len(senders(listener, contexts, calling, called).accepted) == len(contexts)
        assert listener.findings() == []


@pytest.mark.parametrize(
    ("calling", "called", "reason"),
    [
        ("PACS", "CT1", 7),
        ("PACS", "original", 7),
        ("ARCHIVE", "US TO PACS", 7),
        ("ARCHIVE", "original", 7),
        ("MR1", "US TO PACS", 7),
        ("NOBODY", "US TO PACS", 7),
        ("NOBODY", "EDGE", 3),
        ("US TO PACS", "EDGE", 3),
    ],
)
def test_nobody_else_may_and_only_by_that_name(senders: Make, calling: str, called: str, reason: int) -> None:
    with Listener(SITE) as listener:
        assert refusal(senders, listener, PUSH, calling, called) == (1, 1, reason)


def test_a_full_disk_refuses_those_that_would_store_and_no_report(senders: Make) -> None:
    with Listener(SITE, free=0) as full:
        assert refusal(senders, full, CT) == (2, 3, 2)
        assert senders(full, PUSH).established
        assert senders(full, BOTH).established


# syntaxes and roles


@pytest.mark.parametrize(
    ("syntaxes", "taken"),
    [
        ([wire.EXPLICIT_BIG, wire.IMPLICIT_LITTLE], wire.EXPLICIT_BIG),
        ([wire.DEFLATED, JPEG, wire.IMPLICIT_LITTLE], wire.IMPLICIT_LITTLE),
        ([wire.DEFLATED], None),
        (["1.2.3.4.5"], None),
    ],
)
def test_commitment_is_taken_in_what_is_read_and_storage_in_anything(
    senders: Make, syntaxes: list[str], taken: str | None
) -> None:
    with Listener(SITE) as listener:
        sender = senders(listener, [(STORAGE_COMMITMENT, syntaxes), (objects.CT, syntaxes)])
        found = {number: accepted.transfer_syntax_uid for number, accepted in sender.accepted.items()}
        assert found == {3: syntaxes[0]} | ({1: taken} if taken else {})


@pytest.mark.parametrize("asked", [(0, 1), (1, 0), (1, 1), (0, 0)])
def test_the_roles_of_commitment_are_granted_as_asked_and_of_storage_never_that_of_provider(
    senders: Make, asked: tuple[int, int]
) -> None:
    with Listener(SITE) as listener:
        roles = (wire.Role(STORAGE_COMMITMENT, *asked), wire.Role(objects.CT, *asked))
        sender = senders(listener, BOTH, roles=roles)
        assert sender.answer is not None
        assert sender.answer.user.roles == (roles[0], wire.Role(objects.CT, asked[0], 0))


def test_who_asks_for_no_role_is_answered_none(senders: Make) -> None:
    with Listener(SITE) as listener:
        sender = senders(listener, PUSH)
        assert sender.answer is not None
        assert sender.answer.user.roles == ()


# the reserve


@pytest.mark.parametrize("capacity", [Capacity(associations=1, reserved=2), Capacity(per_address=1, reserved=2)])
def test_a_few_places_are_kept_for_the_reports_of_destinations(senders: Make, capacity: Capacity) -> None:
    with Listener(SITE, capacity=capacity) as listener:
        modality = senders(listener, CT, "MR1")
        assert refusal(senders, listener, CT, "MR1") == (2, 3, 2)
        reports = [senders(listener, PUSH), senders(listener, PUSH, "ARCHIVE", "CT1")]
        assert listener.board.associations == 3
        assert refusal(senders, listener, PUSH) == (2, 3, 2)
        assert modality.established
        reports[0].release()
        wait_for(lambda: listener.board.associations == 2, 10, "the report's association to end")
        senders(listener, PUSH)


@pytest.mark.parametrize(
    ("contexts", "calling"),
    [(BOTH, "PACS"), (CT, "PACS"), ([], "PACS"), ([*PUSH, (wire.VERIFICATION, [JPEG])], "PACS"), (PUSH, "MR1")],
    ids=["also storage", "storage", "nothing", "also verification", "a modality"],
)
def test_the_reserve_is_for_reports_of_destinations_alone(
    senders: Make, contexts: list[tuple[str, list[str]]], calling: str
) -> None:
    with Listener(SITE, capacity=Capacity(associations=1)) as listener:
        senders(listener, CT, "MR1")
        assert refusal(senders, listener, contexts, calling) == (2, 3, 2)


def test_who_reports_takes_no_place_from_those_that_send(senders: Make) -> None:
    with Listener(SITE, capacity=Capacity(associations=2, per_address=2, reserved=2)) as listener:
        made = [senders(listener, PUSH), senders(listener, PUSH), senders(listener, CT, "MR1")]
        made.append(senders(listener, CT, "MR1"))
        assert all(sender.established for sender in made)
        assert listener.board.associations == 4


def test_in_the_reserve_the_longest_idle_gives_way_to_the_next(senders: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with Listener(SITE, capacity=Capacity(associations=1, reserved=1)) as listener:
        senders(listener, CT, "MR1")
        first = senders(listener, PUSH)
        monkeypatch.setattr("edge.dicom.acceptor._AT_WORK", 0.0)
        second = senders(listener, PUSH)
        with pytest.raises(Released):
            first.read_message()
        assert second.established
