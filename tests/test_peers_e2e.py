"""The programs of others at both ends of the installed command: DCMTK, Orthanc and pynetdicom."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import pytest
from pydicom import dcmread

from tests.appliance import Edge, dimse
from tests.peers import objects
from tests.peers.dcmtk import Storescp, dcmsend, storescu
from tests.peers.orthanc import Orthanc
from tests.peers.ports import wait_for
from tests.peers.pynetdicom_peers import PynetdicomScp, pynetdicom_scu
from tests.peers.raw import RawReceiver, RawSender

pytestmark = pytest.mark.rig

Digests = dict[str, bytes]
"""SOP Instance UID to SHA-256 of the dataset."""


def study() -> list[objects.DicomObject]:
    """Three CT and three MR images of one study."""
    uid = objects.uid()
    return [*objects.ct(3, uid), *objects.mr(3, uid)]


def digests(made: Sequence[objects.DicomObject]) -> Digests:
    return {obj.sop_instance_uid: obj.digest for obj in made}


def in_files(paths: Sequence[Path]) -> Digests:
    read = [objects.part10(path) for path in paths]
    return {each.sop_instance_uid: each.digest for each in read}


# in: each sender gives the study to the appliance

Send = Callable[[int, Sequence[Path], Path], None]


def by_storescu(port: int, files: Sequence[Path], _folder: Path) -> None:
    storescu(port, files)


def by_dcmsend(port: int, files: Sequence[Path], _folder: Path) -> None:
    dcmsend(port, files)


def by_pynetdicom(port: int, files: Sequence[Path], _folder: Path) -> None:
    pynetdicom_scu(port, files)


def by_orthanc(port: int, files: Sequence[Path], folder: Path) -> None:
    with Orthanc(folder / "orthanc", modalities={"edge": ("EDGE", port)}) as orthanc:
        account = orthanc.send("edge", [orthanc.upload(path.read_bytes()) for path in files])
        assert account["FailedInstancesCount"] == 0


CALLING: Final[dict[Send, str]] = {
    by_storescu: "STORESCU",
    by_dcmsend: "DCMSEND",
    by_pynetdicom: "PYNETDICOM",
    by_orthanc: "ORTHANC",
}
VERBATIM: Final = frozenset({by_pynetdicom, by_orthanc})
"""Those that put the file's own bytes on the wire."""


@pytest.mark.parametrize("send", CALLING)
def test_what_it_sends_reaches_the_pacs(send: Send, tmp_path: Path) -> None:
    made = study()
    files = [obj.write(tmp_path / f"{number}.dcm") for number, obj in enumerate(made)]
    with RawReceiver() as receiver, Edge(tmp_path / "edge", dimse("pacs", receiver.port)) as edge:
        send(edge.port, files, tmp_path)
        edge.wait_settled("pacs", {"accepted": len(made)})
        delivered = {received.sop_instance_uid: received.digest for received in receiver.received}
        assert len(receiver.received) == len(made)
        assert set(delivered) == set(digests(made))
        assert delivered == in_files(edge.spooled())
        assert receiver.problems == []
        assert {origin(path) for path in edge.spooled()} == {CALLING[send]}
        if send in VERBATIM:
            assert delivered == digests(made)


def origin(path: Path) -> str:
    """The title under which an object came, from the file that keeps it."""
    return str(dcmread(path, stop_before_pixels=True).file_meta.SendingApplicationEntityTitle)


# out: each receiver is the PACS

Kept = Callable[[], Digests]


@contextmanager
def storescp(folder: Path) -> Iterator[tuple[int, Kept]]:
    with Storescp(folder / "storescp", nodelay=True) as peer:
        yield peer.port, lambda: in_files(peer.received())


@contextmanager
def storescp_with_nagle(folder: Path) -> Iterator[tuple[int, Kept]]:
    with Storescp(folder / "storescp", nodelay=False) as peer:
        yield peer.port, lambda: in_files(peer.received())


@contextmanager
def pynetdicom_scp(folder: Path) -> Iterator[tuple[int, Kept]]:
    with PynetdicomScp(folder / "scp", log=folder / "scp.log") as peer:
        yield peer.port, lambda: in_files(peer.received())


@contextmanager
def orthanc(folder: Path) -> Iterator[tuple[int, Kept]]:
    with Orthanc(folder / "orthanc") as peer:
        yield peer.dicom_port, peer.digests


@pytest.mark.parametrize("pacs", [storescp, storescp_with_nagle, pynetdicom_scp, orthanc])
def test_what_is_received_reaches_it_byte_for_byte(
    pacs: Callable[[Path], AbstractContextManager[tuple[int, Kept]]], tmp_path: Path
) -> None:
    made = study()
    with pacs(tmp_path) as (port, kept), Edge(tmp_path / "edge", dimse("pacs", port)) as edge:
        with RawSender(edge.port, timeout=20) as sender:
            sender.associate([(obj.sop_class_uid, [obj.transfer_syntax_uid]) for obj in (made[0], made[-1])])
            assert [sender.store(obj) for obj in made] == [0] * len(made)
        edge.wait_settled("pacs", {"accepted": len(made)})
        wait_for(lambda: kept() == digests(made), 10, "the images at the PACS")
