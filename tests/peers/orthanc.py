"""Orthanc as a PACS, and as a sender, driven by its REST interface."""

import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.peers.part10 import part10_bytes
from tests.peers.ports import LOOPBACK, free_port, missing, require
from tests.peers.program import Program

_TIMEOUT: Final = 60.0


def _plugin(name: str) -> str:
    """Where Debian keeps a plug-in. Where it is missing the test is skipped, as for a tool."""
    path = Path(f"/usr/share/orthanc/plugins/lib{name}.so")
    if not path.exists():
        missing(f"the plug-in {name} of Orthanc is not installed")
    return str(path)


class Orthanc(Program):
    """Orthanc on the loopback, its storage in `directory` and kept over `stop` and `start`.

    Any calling title may store any SOP class in any transfer syntax. What is not named here is as shipped:
    files are synced before the answer, the index is not. `modalities`: name to (AE title, port). `dicomweb`: with
    the plug-in of that name. `settings` go into the configuration last. Its own shutdown takes seconds: `stop` waits
    for it, leaving the context does not.
    """

    def __init__(
        self,
        directory: Path,
        *,
        dicom_port: int | None = None,
        http_port: int | None = None,
        title: str = "ORTHANC",
        modalities: Mapping[str, tuple[str, int]] | None = None,
        dicomweb: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.title = directory, title
        self.dicom_port, self.http_port = dicom_port or free_port(), http_port or free_port()
        configuration = directory / "orthanc.json"
        configuration.write_text(
            json.dumps(
                {
                    "Name": title,
                    "StorageDirectory": str(directory / "storage"),
                    "IndexDirectory": str(directory / "storage"),
                    "HttpPort": self.http_port,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "DicomAet": title,
                    "DicomPort": self.dicom_port,
                    "DicomCheckCalledAet": False,
                    "DicomAlwaysAllowEcho": True,
                    "DicomAlwaysAllowStore": True,
                    "DicomModalities": {
                        name: [aet, LOOPBACK, port] for name, (aet, port) in (modalities or {}).items()
                    },
                    "AcceptedTransferSyntaxes": ["*"],
                    "UnknownSopClassAccepted": True,
                    **({"Plugins": [_plugin("OrthancDicomWeb")]} if dicomweb else {}),
                    **(settings or {}),
                },
                indent=2,
            ),
            encoding="utf-8",
        )
        # nothing may send the REST calls of a test through a proxy
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        super().__init__(
            [require("Orthanc"), str(configuration)],
            ports=[self.dicom_port, self.http_port],
            log=directory / "orthanc.log",
            environment=os.environ,
        )

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def ready(self) -> bool:
        try:
            return bool(self.get("/system"))
        except urllib.error.URLError:
            return False

    @property
    def dicomweb(self) -> str:
        """Where its DICOMweb services begin."""
        return f"http://{LOOPBACK}:{self.http_port}/dicom-web"

    def count(self) -> int:
        """Instances stored."""
        count: int = self.get("/statistics")["CountInstances"]
        return count

    def instances(self) -> list[str]:
        """Orthanc's own identifiers of them."""
        identifiers: list[str] = self.get("/instances")
        return identifiers

    def sop_instance_uid(self, identifier: str) -> str:
        uid: str = self.get(f"/instances/{identifier}")["MainDicomTags"]["SOPInstanceUID"]
        return uid

    def file(self, identifier: str) -> bytes:
        """A stored instance as a Part 10 file."""
        return self._request("GET", f"/instances/{identifier}/file")

    def dataset_digest(self, identifier: str) -> bytes:
        """SHA-256 of the stored dataset, 32 bytes."""
        return hashlib.sha256(part10_bytes(self.file(identifier)).dataset).digest()

    def digests(self) -> dict[str, bytes]:
        """SOP Instance UID to SHA-256 of the stored dataset, for all."""
        return {self.sop_instance_uid(key): self.dataset_digest(key) for key in self.instances()}

    def upload(self, file: bytes) -> str:
        """Give it a Part 10 file; its identifier."""
        identifier: str = json.loads(self._request("POST", "/instances", file))["ID"]
        return identifier

    def modality(self, name: str, title: str, port: int) -> None:
        """Name a destination on the loopback, until the next start."""
        body = json.dumps({"AET": title, "Host": LOOPBACK, "Port": port})
        self._request("PUT", f"/modalities/{name}", body.encode())

    def send(self, modality: str, identifiers: Sequence[str]) -> dict[str, Any]:
        """C-STORE to a modality and wait; the job's own account. Raises HTTPError where Orthanc failed."""
        body = json.dumps({"Resources": list(identifiers), "Synchronous": True})
        account: dict[str, Any] = json.loads(self._request("POST", f"/modalities/{modality}/store", body.encode()))
        return account

    def stow(self, server: str, identifiers: Sequence[str]) -> dict[str, Any]:
        """STOW-RS to a server of the plug-in's configuration and wait. Raises HTTPError where Orthanc failed."""
        body = json.dumps({"Resources": list(identifiers), "Synchronous": True})
        account: dict[str, Any] = json.loads(self._request("POST", f"/dicom-web/servers/{server}/stow", body.encode()))
        return account

    def commit(self, modality: str, references: Sequence[tuple[str, str]]) -> str:
        """Ask a modality for storage commitment of these (SOP class, SOP instance); the transaction UID.

        Raises HTTPError where the N-ACTION failed.
        """
        body = json.dumps({"DicomInstances": [list(each) for each in references], "Timeout": int(_TIMEOUT)})
        path = f"/modalities/{modality}/storage-commitment"
        transaction: str = json.loads(self._request("POST", path, body.encode()))["ID"]
        return transaction

    def commitment(self, transaction: str) -> tuple[str, list[str], dict[str, str]]:
        """What became of a request: "Pending", "Success" or "Failure"; SOP Instance UIDs that are committed; those that
        are not, each with the reason in words.
        """
        told = self.get(f"/storage-commitment/{transaction}")
        committed = sorted(each["SOPInstanceUID"] for each in told.get("Success", []))
        failed = {each["SOPInstanceUID"]: each["Description"] for each in told.get("Failures", [])}
        return told["Status"], committed, failed

    def delete(self, identifier: str) -> None:
        """Lose an instance."""
        self._request("DELETE", f"/instances/{identifier}")

    def get(self, path: str) -> Any:
        """The JSON at a path of the REST interface."""
        return json.loads(self._request("GET", path))

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"http://{LOOPBACK}:{self.http_port}{path}", data=body, method=method)
        with self._opener.open(request, timeout=_TIMEOUT) as answer:
            content: bytes = answer.read()
            return content
