"""Logging in to a DICOMweb server: each way, secrets that change, tokens that end, and where none of them ever goes."""

import base64
import json
import logging
import os
import ssl
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from edge.config import Auth, ClientTls, Config, DicomwebDestination, Timeouts
from edge.dicomweb.errors import LoginError
from edge.dicomweb.secret import SecretFile
from edge.forward.outcome import Accepted, Outcome, Unreachable
from edge.forward.stow import StowTransport
from edge.forward.web import Web
from edge.forward.webquery import ask
from edge.spool import Syncer
from edge.tls import every
from tests.fakes import ManualClock
from tests.peers.certificates import Authority, Pair
from tests.peers.dicomweb import Reply, Request, WebPacs, hang_up, saying
from tests.peers.http2 import Http2
from tests.peers.objects import ct, mr
from tests.test_transport import parcel

SECRET = "hunter2-correct-horse"


@pytest.fixture
def pacs() -> Iterator[WebPacs]:
    with WebPacs() as server:
        yield server


@pytest.fixture
def issuer() -> Iterator[WebPacs]:
    """Who gives out tokens: another host, as far as anybody can tell."""
    with WebPacs() as server:
        yield server


@pytest.fixture
async def syncer() -> AsyncIterator[Syncer]:
    threads = Syncer()
    yield threads
    threads.close()


class Rig:
    """Deliveries of one image at a time, each over a session of its own."""

    def __init__(self, folder: Path, syncer: Syncer, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = ManualClock()
        self.folder = folder
        self.said: list[str] = []
        self._syncer = syncer
        self._number = 0
        self._transports: dict[str, StowTransport] = {}
        caplog.set_level(logging.DEBUG)

    def secret(self, text: str = SECRET, name: str = "secret") -> Path:
        path = self.folder / name
        path.write_text(text)
        self._number += 1
        os.utime(path, (self._number, self._number))  # files written within a tick of the clock differ
        return path

    def web(self, url: str, auth: Auth, tls: ClientTls | None = None) -> Web:
        timeouts = Timeouts(connect=2.0, response=2.0)
        return Web(DicomwebDestination(name="cloud", url=url, auth=auth, tls=tls, timeouts=timeouts), None, self.clock)

    def transport(self, pacs: WebPacs, auth: Auth, tls: ClientTls | None = None) -> StowTransport:
        return StowTransport(self.web(pacs.url, auth, tls), self._syncer)

    async def send(self, transport: StowTransport) -> Outcome:
        self._number += 1
        session = await transport.open([])
        if isinstance(session, Unreachable):
            outcome: Outcome = session
        else:
            ((_, outcome),) = [each async for each in session.send([parcel(self.folder, mr(1)[0], self._number)])]
            await session.close()
        self.said.append(repr(outcome))
        return outcome


@pytest.fixture
def rig(tmp_path: Path, syncer: Syncer, caplog: pytest.LogCaptureFixture) -> Iterator[Rig]:
    made = Rig(tmp_path, syncer, caplog)
    yield made
    for text in (*made.said, caplog.text):
        for secret in (SECRET, base64.b64encode(SECRET.encode()).decode()[:12], "token-", "PRIVATE KEY"):
            assert secret not in text, "a secret is told"


def authorizations(server: WebPacs) -> list[str]:
    return [each.authorization for each in server.requests]


# files


async def test_by_name_and_password(pacs: WebPacs, rig: Rig) -> None:
    password = rig.secret(SECRET + "\n")
    sent = await rig.send(rig.transport(pacs, Auth(type="basic", username="clinic", password_file=password)))
    assert isinstance(sent, Accepted)
    expected = base64.b64encode(f"clinic:{SECRET}".encode()).decode()
    assert authorizations(pacs) == [f"Basic {expected}"]


async def test_a_token_in_a_file_is_read_again_when_it_changes(pacs: WebPacs, rig: Rig) -> None:
    token = rig.secret("token-1")
    transport = rig.transport(pacs, Auth(type="bearer", token_file=token))
    await rig.send(transport)
    rig.secret("token-2")
    await rig.send(transport)
    assert authorizations(pacs) == ["Bearer token-1", "Bearer token-2"]


async def test_a_token_that_was_changed_while_it_was_refused_is_tried_once(pacs: WebPacs, rig: Rig) -> None:
    token = rig.secret("token-1")

    def judge(header: str) -> bool:
        if header == "Bearer token-1":
            rig.secret("token-2")
        return header == "Bearer token-2"

    pacs.authorized = judge
    assert isinstance(await rig.send(rig.transport(pacs, Auth(type="bearer", token_file=token))), Accepted)
    assert authorizations(pacs) == ["Bearer token-1", "Bearer token-2"]


async def test_a_password_that_is_refused_is_not_tried_again(pacs: WebPacs, rig: Rig) -> None:
    pacs.authorized = lambda _: False
    transport = rig.transport(pacs, Auth(type="basic", username="clinic", password_file=rig.secret()))
    refused = await rig.send(transport)
    assert isinstance(refused, Unreachable)
    assert refused.code == "LOGIN_REFUSED"
    assert len(pacs.requests) == 1


@pytest.mark.parametrize("content", ["", "\n", "two\nlines", "with\0nul", "t\u00f6ken", "two words", "x" * 70_000])
async def test_a_file_that_holds_no_token_is_told_without_what_it_holds(pacs: WebPacs, rig: Rig, content: str) -> None:
    refused = await rig.send(rig.transport(pacs, Auth(type="bearer", token_file=rig.secret(content))))
    assert isinstance(refused, Unreachable)
    assert refused.code == "NO_CREDENTIALS"
    assert str(rig.folder / "secret") in refused.detail
    assert not content.strip() or content not in refused.detail
    assert pacs.requests == []


async def test_what_is_no_file_is_not_waited_for(pacs: WebPacs, rig: Rig) -> None:
    os.mkfifo(rig.folder / "pipe")
    refused = await rig.send(rig.transport(pacs, Auth(type="bearer", token_file=rig.folder / "pipe")))
    assert isinstance(refused, Unreachable)
    assert refused.code == "NO_CREDENTIALS"
    assert "is no regular file" in refused.detail


async def test_a_file_that_is_not_there_is_told(pacs: WebPacs, rig: Rig) -> None:
    refused = await rig.send(rig.transport(pacs, Auth(type="bearer", token_file=rig.folder / "nowhere")))
    assert isinstance(refused, Unreachable)
    assert refused.code == "NO_CREDENTIALS"
    assert "No such file" in refused.detail


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_host_never_sees_the_token(
    pacs: WebPacs, issuer: WebPacs, rig: Rig, status: int
) -> None:
    pacs.always = saying(status, location=f"{issuer.url}/studies")
    pacs.queries = saying(status, location=f"{issuer.url}/studies")
    auth = Auth(type="bearer", token_file=rig.secret("token-1"))
    refused = await rig.send(rig.transport(pacs, auth))
    assert isinstance(refused, Unreachable)
    assert refused.code == "REDIRECTED"
    asked = await ask(rig.web(pacs.url, auth))
    assert asked is not None
    assert asked.code == "REDIRECTED"
    assert issuer.requests == []
    assert len(pacs.requests) == 2


async def test_a_redirect_on_the_same_host_does_not_say_how_we_log_in(pacs: WebPacs, rig: Rig) -> None:
    pacs.script.append(saying(307, location=f"http://user:word@127.0.0.1:{pacs.port}/dicom-web/studies"))
    auth = Auth(type="bearer", token_file=rig.secret("token-1"))
    assert isinstance(await rig.send(rig.transport(pacs, auth)), Accepted)
    assert authorizations(pacs) == ["Bearer token-1"] * 2


async def test_no_proxy_of_the_environment_is_asked(
    pacs: WebPacs, issuer: WebPacs, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, issuer.origin)
    auth = Auth(type="bearer", token_file=rig.secret("token-1"))
    assert isinstance(await rig.send(rig.transport(pacs, auth)), Accepted)
    assert issuer.requests == []


# tokens


class Issuing:
    """Gives out numbered tokens; `life` seconds each, None: it does not say."""

    def __init__(self, life: float | str | None = 3600, *, in_form: bool = False) -> None:
        self.life = life
        self.in_form = in_form
        self.given = 0

    def __call__(self, request: Request) -> Reply:
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if self.in_form == (request.authorization != ""):
            return Reply(401, json.dumps({"error": "invalid_client", "error_description": SECRET}).encode())
        if self.in_form:
            assert (form["client_id"], form["client_secret"]) == ("edge", SECRET)
        self.given += 1
        answer = {"access_token": f"token-{self.given}", "token_type": "bearer", "expires_in": self.life}
        if self.life is None:
            del answer["expires_in"]
        return Reply(200, json.dumps(answer).encode(), "application/json")


def oauth(rig: Rig, issuer: WebPacs, scope: str = "") -> Auth:
    secret = rig.secret()
    url = f"{issuer.origin}/token"
    return Auth(type="oauth2", token_url=url, client_id="edge", client_secret_file=secret, scope=scope)


async def test_a_token_serves_until_shortly_before_its_end(pacs: WebPacs, issuer: WebPacs, rig: Rig) -> None:
    issuer.tokens = Issuing(3600)
    transport = rig.transport(pacs, oauth(rig, issuer, "dicom.write dicom.read"))
    await rig.send(transport)
    rig.clock.pass_time(3500)
    await rig.send(transport)
    rig.clock.pass_time(50)
    await rig.send(transport)
    assert authorizations(pacs) == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]
    first = issuer.requests[0]
    assert first.authorization == f"Basic {base64.b64encode(f'edge:{SECRET}'.encode()).decode()}"
    assert parse_qs(first.body.decode()) == {
        "grant_type": ["client_credentials"],
        "scope": ["dicom.write dicom.read"],
    }
    assert all(SECRET not in repr(each.headers) for each in pacs.requests)


async def test_a_server_of_tokens_that_wants_the_secret_in_the_form_gets_it_there(
    pacs: WebPacs, issuer: WebPacs, rig: Rig
) -> None:
    issuer.tokens = Issuing(1, in_form=True)
    transport = rig.transport(pacs, oauth(rig, issuer))
    assert isinstance(await rig.send(transport), Accepted)
    rig.clock.pass_time(5)
    await rig.send(transport)
    assert [bool(each.authorization) for each in issuer.requests] == [True, False, False], "it is remembered"


@pytest.mark.parametrize(
    ("life", "holds"), [(None, 200), ("3600", 3000), (0, 0.5), (1e12, 80_000), ("nan", 0.5), ("inf", 80_000)]
)
async def test_lifetimes_are_taken_as_they_come(
    pacs: WebPacs, issuer: WebPacs, rig: Rig, life: float | str | None, holds: float
) -> None:
    issuer.tokens = tokens = Issuing(life)
    transport = rig.transport(pacs, oauth(rig, issuer))
    await rig.send(transport)
    rig.clock.pass_time(holds)
    await rig.send(transport)
    assert tokens.given == 1
    rig.clock.pass_time(90_000)
    await rig.send(transport)
    assert tokens.given == 2


async def test_a_token_that_is_refused_midway_is_replaced_once(pacs: WebPacs, issuer: WebPacs, rig: Rig) -> None:
    issuer.tokens = Issuing()
    transport = rig.transport(pacs, oauth(rig, issuer))
    await rig.send(transport)
    pacs.authorized = lambda header: header == "Bearer token-2"
    assert isinstance(await rig.send(transport), Accepted)
    pacs.authorized = lambda _: False
    refused = await rig.send(transport)
    assert isinstance(refused, Unreachable)
    assert refused.code == "LOGIN_REFUSED"
    assert authorizations(pacs)[1:] == ["Bearer token-1", "Bearer token-2", "Bearer token-2", "Bearer token-3"]


async def test_a_token_that_still_holds_is_used_while_none_is_given_out(
    pacs: WebPacs, issuer: WebPacs, rig: Rig
) -> None:
    issuer.tokens = Issuing(3600)
    transport = rig.transport(pacs, oauth(rig, issuer))
    await rig.send(transport)
    issuer.tokens = saying(503)
    rig.clock.pass_time(3590)
    assert isinstance(await rig.send(transport), Accepted)
    rig.clock.pass_time(60)
    refused = await rig.send(transport)
    assert isinstance(refused, Unreachable)
    assert refused.code == "NO_CREDENTIALS"
    assert "503" in refused.detail


async def test_while_a_token_holds_a_server_of_tokens_that_is_slow_is_asked_now_and_then(
    pacs: WebPacs, issuer: WebPacs, rig: Rig
) -> None:
    issuer.tokens = Issuing(3600)
    transport = rig.transport(pacs, oauth(rig, issuer))
    await rig.send(transport)

    def slow(_: Request) -> Reply:
        rig.clock.pass_time(15)
        return Reply(503)

    issuer.tokens = slow
    rig.clock.pass_time(3541)
    for _ in range(5):
        assert isinstance(await rig.send(transport), Accepted)
    assert len(issuer.requests) == 2, "not once for each request"


async def test_a_refusal_that_comes_while_a_request_is_sent_renews_the_token(
    pacs: WebPacs, issuer: WebPacs, rig: Rig
) -> None:
    issuer.tokens = Issuing()
    transport = rig.transport(pacs, oauth(rig, issuer))
    await rig.send(transport)
    pacs.early = lambda request: None if request.authorization == "Bearer token-2" else Reply(401)
    assert isinstance(await rig.send(transport), Accepted)
    assert authorizations(pacs)[1:] == ["Bearer token-1", "Bearer token-2"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (saying(400, json.dumps({"error": "invalid_grant", "error_description": SECRET}).encode()), "(invalid_grant)"),
        (saying(400, json.dumps({"error": SECRET}).encode()), "it answered 400."),
        (saying(200, b"<html>", "text/html"), "holds none"),
        (saying(200, b'{"access_token": "a b"}', "application/json"), "no token"),
        (saying(200, b'{"access_token": "a\\r\\nX: y"}', "application/json"), "no token"),
        (saying(200, b'{"access_token": "x", "token_type": "mac"}', "application/json"), "none of the kind"),
        (saying(307, location="http://elsewhere.example.org/token"), "sends us to"),
        (saying(200, b"[" * 100_000), "holds none"),
    ],
)
async def test_what_is_no_token_is_told_in_a_word(
    pacs: WebPacs, issuer: WebPacs, rig: Rig, script: Callable[[Request], Reply], said: str
) -> None:
    issuer.tokens = script
    refused = await rig.send(rig.transport(pacs, oauth(rig, issuer)))
    assert isinstance(refused, Unreachable)
    assert refused.code == "NO_CREDENTIALS"
    assert said in refused.detail
    assert pacs.requests == []


async def test_a_token_that_a_wrong_clock_keeps_from_us_waits_for_the_clock(
    authority: Authority, pacs: WebPacs, rig: Rig
) -> None:
    rig.clock.believed = False
    with WebPacs(tls=context(authority.issue("issuer", ends=-0.5))) as issuer:
        refused = await rig.send(rig.transport(pacs, oauth(rig, issuer), ClientTls(ca_file=authority.path)))
    assert isinstance(refused, Unreachable)
    assert refused.code == "CLOCK_NOT_TRUSTED"
    assert f"127.0.0.1:{issuer.port}" in refused.detail
    assert pacs.requests == []


async def test_a_server_of_tokens_that_is_gone_is_told(pacs: WebPacs, issuer: WebPacs, rig: Rig) -> None:
    auth = oauth(rig, issuer)
    issuer.stop()
    refused = await rig.send(rig.transport(pacs, auth))
    assert isinstance(refused, Unreachable)
    assert refused.code == "NO_CREDENTIALS"
    assert "Connect" in refused.detail


# certificates and Google


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    return authority.issue("server")


def context(pair: Pair, clients: Path | None = None, protocols: Sequence[str] = ()) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(pair.certificate, pair.key)
    if protocols:
        made.set_alpn_protocols(list(protocols))
    if clients is not None:
        made.load_verify_locations(clients)
        made.verify_mode = ssl.CERT_REQUIRED
    return made


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def account(key: rsa.RSAPrivateKey, uri: str, **changes: object) -> str:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    fields = {
        "type": "service_account",
        "client_email": "box@clinic.iam.gserviceaccount.com",
        "private_key_id": "k1",
        "private_key": pem.decode(),
        "token_uri": uri,
    }
    return json.dumps(fields | changes)


async def test_a_service_account_signs_for_its_tokens(
    authority: Authority, server: Pair, key: rsa.RSAPrivateKey, pacs: WebPacs, rig: Rig
) -> None:
    with WebPacs(tls=context(server)) as issuer:
        uri = f"{issuer.origin}/token"
        claims: list[dict[str, object]] = []

        def issue(request: Request) -> Reply:
            form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
            assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
            assert jwt.get_unverified_header(form["assertion"])["kid"] == "k1"
            assert request.authorization == ""
            options = {"verify_iat": False, "verify_exp": False}
            claims.append(
                jwt.decode(form["assertion"], key.public_key(), algorithms=["RS256"], audience=uri, options=options)  # type: ignore[arg-type]
            )
            return Reply(200, b'{"access_token": "token-1", "expires_in": 3599, "token_type": "Bearer"}')

        issuer.tokens = issue
        auth = Auth(type="google", service_account_file=rig.secret(account(key, uri)))
        sent = await rig.send(rig.transport(pacs, auth, ClientTls(ca_file=authority.path)))
    assert isinstance(sent, Accepted)
    assert authorizations(pacs) == ["Bearer token-1"]
    now = int(rig.clock.wall)
    assert claims == [
        {
            "iss": "box@clinic.iam.gserviceaccount.com",
            "scope": "https://www.googleapis.com/auth/cloud-healthcare",
            "aud": uri,
            "iat": now,
            "exp": now + 3600,
        }
    ]


async def test_a_service_account_goes_to_no_server_of_tokens_without_tls(
    key: rsa.RSAPrivateKey, pacs: WebPacs, issuer: WebPacs, rig: Rig
) -> None:
    auth = Auth(type="google", service_account_file=rig.secret(account(key, f"{issuer.origin}/token")))
    refused = await rig.send(rig.transport(pacs, auth))
    assert isinstance(refused, Unreachable)
    assert "https" in refused.detail
    assert issuer.requests == []


@pytest.mark.parametrize("change", [{"private_key": "-----BEGIN PRIVATE KEY-----"}, {"client_email": 7}])
async def test_a_key_file_that_is_none_is_told_without_what_it_holds(
    key: rsa.RSAPrivateKey, pacs: WebPacs, rig: Rig, change: dict[str, object]
) -> None:
    text = account(key, "https://127.0.0.1:1/token", **change)
    refused = await rig.send(rig.transport(pacs, Auth(type="google", service_account_file=rig.secret(text))))
    assert isinstance(refused, Unreachable)
    assert refused.code == "NO_CREDENTIALS"


async def test_a_certificate_says_who_we_are(authority: Authority, server: Pair, rig: Rig) -> None:
    mine = authority.issue("edge")
    with WebPacs(tls=context(server, clients=authority.path)) as pacs:
        tls = ClientTls(ca_file=authority.path, certificate_file=mine.certificate, key_file=mine.key)
        assert isinstance(await rig.send(rig.transport(pacs, Auth(), tls)), Accepted)
        without = await rig.send(rig.transport(pacs, Auth(), ClientTls(ca_file=authority.path)))
    assert isinstance(without, Unreachable)
    assert without.code in ("TLS_REFUSED", "CONNECTION_LOST")


@pytest.mark.parametrize(
    ("hosts", "ends", "known", "code"),
    [
        (("elsewhere.example.org",), 9, True, "PEER_CERTIFICATE_NAME"),
        (("127.0.0.1",), -0.5, True, "PEER_CERTIFICATE_EXPIRED"),
        (("127.0.0.1",), 9, False, "PEER_CERTIFICATE_UNKNOWN"),
    ],
)
async def test_a_server_that_cannot_prove_who_it_is_gets_nothing(
    authority: Authority,
    rig: Rig,
    hosts: tuple[str, ...],
    ends: float,
    *,
    known: bool,
    code: str,
) -> None:
    pair = authority.issue(f"bad-{code}", hosts=hosts, ends=ends)
    with WebPacs(tls=context(pair)) as pacs:
        tls = ClientTls(ca_file=authority.path) if known else ClientTls()
        auth = Auth(type="bearer", token_file=rig.secret("token-1"))
        refused = await rig.send(rig.transport(pacs, auth, tls))
    assert isinstance(refused, Unreachable)
    assert refused.code == code
    assert not refused.midway
    assert pacs.requests == []


async def test_expired_by_a_clock_that_is_wrong_is_told_as_that(authority: Authority, rig: Rig) -> None:
    rig.clock.believed = False
    with WebPacs(tls=context(authority.issue("expired", ends=-0.5))) as pacs:
        refused = await rig.send(rig.transport(pacs, Auth(), ClientTls(ca_file=authority.path)))
    assert isinstance(refused, Unreachable)
    assert refused.code == "CLOCK_NOT_TRUSTED"


def test_the_lines_of_a_traceback_hold_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(SECRET + " " + SECRET)
    with pytest.raises(LoginError) as told:
        SecretFile(path).word()
    lines = "".join(traceback.format_exception(told.value))
    assert str(path) in lines
    assert SECRET not in lines


async def test_two_is_spoken_where_it_is_offered(authority: Authority, server: Pair, rig: Rig) -> None:
    token = rig.secret("token-1")
    made = context(server)
    pacs = WebPacs(tls=made)
    with Http2(pacs, made) as front:
        auth, tls = Auth(type="bearer", token_file=token), ClientTls(ca_file=authority.path)
        transport = rig.transport(pacs, auth, tls)
        session = await transport.open([])
        assert not isinstance(session, Unreachable)
        objects = [*mr(8), *ct(3)]
        parcels = [parcel(rig.folder, each, number) for number, each in enumerate(objects, 100)]
        outcomes = [outcome async for _, outcome in session.send(parcels)]
        pacs.script.append(hang_up)
        again = [outcome async for _, outcome in session.send(parcels[:1])]
        await session.close()
    assert [type(each) for each in (*outcomes, *again)] == [Accepted] * 12
    assert {uid: each.digest for uid, each in pacs.stored.items()} == {o.sop_instance_uid: o.digest for o in objects}
    assert [len(post.instances) for post in pacs.posts] == [1, 4, 6, 1, 1]
    assert set(authorizations(pacs)) == {"Bearer token-1"}
    assert front.connections == 2, "one that is kept, and another after what it reset"


async def test_nothing_rotten_comes_whole_over_two(authority: Authority, server: Pair, rig: Rig) -> None:
    made = context(server)
    pacs = WebPacs(tls=made)
    with Http2(pacs, made):
        session = await rig.transport(pacs, Auth(), ClientTls(ca_file=authority.path)).open([])
        assert not isinstance(session, Unreachable)
        parcels = [parcel(rig.folder, each, number) for number, each in enumerate(ct(2), 100)]
        data = bytearray(parcels[0].path.read_bytes())
        data[-5] ^= 1
        parcels[0].path.write_bytes(data)
        outcomes = [outcome async for _, outcome in session.send(parcels)]
        await session.close()
    assert [each.code for each in outcomes] == ["FILE_DAMAGED", "LISTED"]
    assert list(pacs.stored) == [parcels[1].sop_instance_uid]


def test_a_destination_by_https_is_among_those_whose_certificates_are_watched(authority: Authority) -> None:
    def where(url: str, tls: ClientTls | None = None) -> list[str]:
        return [one.where for one in every(Config(destination=(DicomwebDestination(name="c", url=url, tls=tls),)))]

    assert where("https://h/x") == ["destination.c.tls"]
    assert where("HTTPS://h/x", ClientTls(ca_file=authority.path)) == ["destination.c.tls"]
    assert where("http://h/x") == []
