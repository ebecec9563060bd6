"""The way into the dashboard: passwords, the first-start code, sessions, and who tries too often."""

import asyncio
import hashlib
import re
import ssl
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from edge.clock import SystemClock
from edge.web import certificate
from edge.web import sessions as session_rules
from edge.web import throttle as throttling
from edge.web.gate import Gate
from edge.web.secret import PasswordError, Secrets, check
from edge.web.sessions import IDLE, LONGEST, Sessions
from edge.web.throttle import FREE, Throttle
from tests.appliance import COMMAND
from tests.fakes import ManualClock
from tests.web import PASSWORD, Served, log_in, post, stored_password

ANOTHER = "a wholly different one"


def cookie(answer: httpx.Response, name: str = "edge-session") -> str:
    """What is set under this name, attributes and all."""
    return next((line for line in answer.headers.get_list("set-cookie") if line.startswith(f"{name}=")), "")


# secrets


def test_a_password_is_a_hash_that_only_the_owner_reads(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path / "identity")
    assert not secrets.is_set()
    secrets.set(PASSWORD)
    stored = tmp_path / "identity" / "password"
    assert stored.read_text().startswith("$argon2id$v=19$m=32768,t=3,p=1$")
    assert stored.stat().st_mode & 0o777 == 0o600
    assert stored.parent.stat().st_mode & 0o777 == 0o700
    assert secrets.is_set()
    assert secrets.verify(PASSWORD)
    assert not secrets.verify(ANOTHER)


def test_a_password_is_the_same_from_every_keyboard(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path)
    secrets.set("contrase\u00f1a segura")
    assert secrets.verify("contrasen\u0303a segura")


@pytest.mark.parametrize("stored", ["", "nonsense", "$argon2id$v=19$m=1,t=1,p=1$", "$argon2id$v=19$m=99999999,t=1$x$y"])
def test_a_file_that_is_no_hash_lets_nobody_in(tmp_path: Path, stored: str) -> None:
    (tmp_path / "password").write_text(stored)
    for password in ("", PASSWORD, "nonsense"):
        assert not Secrets(tmp_path).verify(password)


@pytest.mark.parametrize("password", ["", "short", "x" * 257, "aaaaaaaaaaaaaa", "with\ncontrol characters"])
def test_a_bad_password_is_refused_with_the_reason(password: str) -> None:
    with pytest.raises(PasswordError, match="The password"):
        check(password)


def test_a_wrong_password_takes_as_long_where_none_is_set(tmp_path: Path) -> None:
    nobody, somebody = Secrets(tmp_path / "a"), Secrets(tmp_path / "b")
    somebody.set(PASSWORD)
    nobody.verify(ANOTHER)  # computes what it compares with, once

    def least(secrets: Secrets, password: str) -> float:
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            assert not secrets.verify(password)
            times.append(time.perf_counter() - begun)
        return min(times)

    compared = least(somebody, ANOTHER)
    assert least(nobody, ANOTHER) > compared / 3
    assert least(somebody, "x" * 100_000) > compared / 3


def test_the_code_is_made_once_and_dead_with_the_first_password(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path / "identity")
    code = secrets.code()
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{4}(-[0-9A-HJKMNP-TV-Z]{4}){2}", code)
    assert secrets.code() == code
    assert (tmp_path / "identity" / "first-code").stat().st_mode & 0o777 == 0o600
    assert secrets.is_code(code.lower().replace("-", " "))
    assert not secrets.is_code("0000-0000-0000")
    assert not secrets.is_code("")
    secrets.set(PASSWORD)
    assert not (tmp_path / "identity" / "first-code").exists()
    assert secrets.code() == ""
    assert not secrets.is_code(code)
    assert not secrets.is_code("")


def test_a_code_left_by_a_power_cut_is_dead_where_there_is_a_password(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path)
    code = secrets.code()
    (tmp_path / "password").write_bytes(stored_password(PASSWORD))
    assert not secrets.is_code(code)
    assert not (tmp_path / "first-code").exists()


# sessions


def test_a_session_ends_idle_and_ends_anyway() -> None:
    clock = ManualClock()
    sessions = Sessions(clock.monotonic)
    one = sessions.begin()
    clock.pass_time(IDLE - 1)
    assert sessions.find(one.id) is one
    clock.pass_time(IDLE - 1)
    assert sessions.find(one.id, touch=False) is one
    clock.pass_time(1)
    assert sessions.find(one.id) is None
    other = sessions.begin()
    for _ in range(int(LONGEST / IDLE * 2)):
        clock.pass_time(IDLE / 2)
        sessions.find(other.id)
    assert sessions.find(other.id) is None
    assert len(sessions) == 0


def test_sessions_are_bounded_and_the_one_unused_longest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_rules, "MOST", 3)
    clock = ManualClock()
    sessions = Sessions(clock.monotonic)
    opened = []
    for _ in range(3):
        clock.pass_time(1)
        opened.append(sessions.begin())
    clock.pass_time(1)
    sessions.find(opened[0].id)
    sessions.begin()
    assert len(sessions) == 3
    assert sessions.find(opened[0].id) is not None
    assert sessions.find(opened[1].id) is None


def test_names_of_sessions_have_256_bits() -> None:
    sessions = Sessions(ManualClock().monotonic)
    names = {sessions.begin().id for _ in range(50)}
    assert len(names) == 50
    assert min(map(len, names)) >= 43


# throttle


def test_an_address_that_fails_waits_longer_each_time_but_never_for_long() -> None:
    clock = ManualClock()
    throttle = Throttle(clock.monotonic)
    waits = []
    for _ in range(15):
        clock.pass_time(wait := throttle.wait("10.0.0.1"))
        assert throttle.wait("10.0.0.1") == 0.0
        throttle.failed("10.0.0.1")
        waits.append(wait)
    assert waits[:FREE] == [0.0] * FREE
    assert waits[FREE : FREE + 4] == [1.0, 2.0, 4.0, 8.0]
    assert max(waits) == throttling.LONGEST


def test_an_address_that_fails_for_days_still_waits_no_longer_than_the_longest() -> None:
    clock = ManualClock()
    throttle = Throttle(clock.monotonic)
    for _ in range(3000):
        throttle.failed("10.0.0.1")
    assert throttle.wait("10.0.0.1") == throttling.LONGEST
    clock.pass_time(throttling.LONGEST)
    assert throttle.wait("10.0.0.1") == 0.0


def test_many_addresses_together_have_a_budget_and_who_logged_in_before_is_outside_it() -> None:
    clock = ManualClock()
    throttle = Throttle(clock.monotonic)
    throttle.succeeded("10.0.0.9")
    tried = 0
    for number in range(1000):
        if throttle.wait(f"10.1.{number // 256}.{number % 256}") == 0:
            throttle.failed(f"10.1.{number // 256}.{number % 256}")
            tried += 1
    assert tried == throttling.TOGETHER
    assert throttle.wait("10.0.0.9") == 0.0
    assert throttle.wait("10.0.0.8") > 0
    clock.pass_time(60)
    assert throttle.wait("10.0.0.8") == 0.0


def test_a_network_of_addresses_is_one_and_what_is_remembered_is_bounded() -> None:
    clock = ManualClock()
    throttle = Throttle(clock.monotonic)
    for number in range(FREE):
        throttle.failed(f"2001:db8::{number:x}")
    assert throttle.wait("2001:db8::ffff") > 0
    assert throttle.wait("2001:db8:0:1::1") == 0.0
    assert throttle.wait("::ffff:10.0.0.1") == 0.0
    for number in range(3000):
        throttle.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(throttle._failures) <= 1024


async def test_more_attempts_than_a_few_at_once_are_turned_away_unread(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(stored_password(PASSWORD))
    gate = Gate(Secrets(tmp_path), ManualClock())
    attempts = await asyncio.gather(*(gate.log_in(f"10.0.0.{n}", ANOTHER) for n in range(20)))
    assert [a.result for a in attempts].count("wrong") == 4
    assert [a.result for a in attempts].count("wait") == 16
    assert all(a.wait > 0 for a in attempts if a.result == "wait")


# in the browser


async def test_a_login_gives_a_session_and_a_logout_ends_it(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        browser = served.client()
        answer = await log_in(browser)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        set_cookie = cookie(answer)
        assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"} <= set(set_cookie.split("; "))
        assert (await browser.get("/api/studies")).status_code == 200
        assert (await post(browser, "/logout", "/")).status_code == 303
        assert (await browser.get("/api/studies")).status_code == 401
        old = set_cookie.partition(";")[0]
        assert (await served.client().get("/api/studies", headers={"Cookie": old})).status_code == 401


async def test_a_wrong_password_says_no_more_than_that(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        browser = served.client()
        answers = [await log_in(browser, password) for password in (ANOTHER, "", "x" * 5000)]
    pages = {re.sub(r'name="token" value="[^"]+"', "", answer.text) for answer in answers}
    assert {answer.status_code for answer in answers} == {403}
    assert len(pages) == 1
    assert "That is not the password." in pages.pop()
    assert not any(cookie(answer) for answer in answers)


async def test_a_session_is_not_fixed_by_who_sets_its_cookie_before(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        attacker, victim = served.client(), served.client()
        planted = "A" * 43
        for browser in (attacker, victim):
            browser.cookies.set("edge-session", planted, domain="127.0.0.1", path="/")
        await log_in(victim)
        assert (await attacker.get("/api/studies")).status_code == 401
        # nor by a session of the attacker's own
        await log_in(attacker)
        own = attacker.cookies["edge-session"]
        again = served.client(cookies={"edge-session": own})
        page = (await again.get("/login")).text
        await again.post(
            "/login", data={"token": re.findall(r'name="token" value="([^"]+)"', page)[0], "password": PASSWORD}
        )
        assert again.cookies.get("edge-session", domain="127.0.0.1") not in {None, own, planted}
        assert (await attacker.get("/api/studies")).status_code == 401


async def test_a_token_from_before_the_login_is_none_after_it(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        browser = served.client()
        before = re.findall(r'name="token" value="([^"]+)"', (await browser.get("/login")).text)[0]
        await log_in(browser)
        assert (await browser.post("/logout", data={"token": before})).status_code == 403


async def test_brute_force_is_slowed_and_locks_nobody_else_out(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        browser = served.client()
        codes = [(await log_in(browser, f"{ANOTHER} {n}")).status_code for n in range(8)]
        assert codes == [403] * FREE + [429] * 5
        turned_away = await log_in(browser, PASSWORD)
        assert turned_away.status_code == 429
        assert int(turned_away.headers["retry-after"]) >= 1
        assert "Too many attempts" in turned_away.text
        # from another address, or after the wait, the right one is taken
        assert (await served.site.gate.log_in("10.0.0.9", PASSWORD)).result == "in"
        served.clock.pass_time(1)
        assert (await log_in(browser, PASSWORD)).status_code == 303


async def test_the_first_password_is_set_with_the_code_and_only_once(tmp_path: Path) -> None:
    async with Served(tmp_path, password="") as served:
        async with asyncio.timeout(10):
            while not (tmp_path / "identity" / "first-code").exists():  # noqa: ASYNC110 - made by a thread
                await asyncio.sleep(0.01)
        code = served.secrets.code()
        browser = served.client()
        assert (await browser.get("/login")).headers["location"] == "/setup"
        wrong = await post(browser, "/setup", "/setup", code="AAAA-AAAA-AAAA", password=PASSWORD, again=PASSWORD)
        assert (wrong.status_code, "not the code" in wrong.text) == (403, True)
        differs = await post(browser, "/setup", "/setup", code=code, password=PASSWORD, again=ANOTHER)
        assert "not the same" in differs.text
        short = await post(browser, "/setup", "/setup", code=code, password="x", again="x")
        assert "at least 10" in short.text
        assert not served.secrets.is_set()
        page = (await served.client().get("/setup")).text
        assert code not in page
        done = await post(browser, "/setup", "/setup", code=code, password=PASSWORD, again=PASSWORD)
        assert done.status_code == 303
        assert (await browser.get("/api/studies")).status_code == 200
        other = served.client()
        assert (await other.get("/setup")).headers["location"] == "/login"
        again = await post(other, "/setup", "/login", code=code, password=ANOTHER, again=ANOTHER)
        assert again.status_code == 403
        assert served.secrets.verify(PASSWORD)


async def test_another_password_logs_everybody_out(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        browser = served.client()
        await log_in(browser)
        (tmp_path / "identity" / "password").write_bytes(stored_password(ANOTHER))
        async with asyncio.timeout(15):
            while (await browser.get("/api/studies")).status_code == 200:  # noqa: ASYNC110 - it is asked again
                await asyncio.sleep(0.05)
        assert (await log_in(browser)).status_code == 403
        assert (await log_in(browser, ANOTHER)).status_code == 303


async def test_a_screen_that_is_only_looked_at_is_logged_out_and_told_so(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        browser = served.client()
        await log_in(browser)
        async with browser.stream("GET", "/events") as stream:
            lines = stream.aiter_lines()
            async for line in lines:
                if line == "event: beat":
                    break
            served.clock.pass_time(IDLE)
            rest = [line async for line in lines]
        assert "event: gone" in rest


# the command


def command(folder: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    config = folder / "edge.toml"
    config.write_text(f'[storage]\npath = "{folder / "storage"}"\n')
    return subprocess.run(
        [COMMAND, "password", *arguments, "--config", str(config)],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_sets_the_password_and_shows_the_code_until_then(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    secrets = Secrets(tmp_path / "storage" / "identity")
    shown = command(tmp_path, "--show-code")
    assert shown.stdout == f"{secrets.code()}\n"
    done = command(tmp_path, "--stdin", given=f"{PASSWORD}\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert secrets.verify(PASSWORD)
    late = command(tmp_path, "--show-code")
    assert (late.returncode, late.stdout) == (1, "")
    assert "A password is set" in late.stderr


@pytest.mark.parametrize("given", ["", "short\n", "\n"])
def test_the_command_refuses_a_bad_password_in_one_line(tmp_path: Path, given: str) -> None:
    (tmp_path / "storage").mkdir()
    done = command(tmp_path, "--stdin", given=given)
    assert done.returncode == 1
    assert done.stderr.startswith("edge: The password needs at least 10 characters")
    assert done.stderr.count("\n") == 1
    assert not Secrets(tmp_path / "storage" / "identity").is_set()


def test_the_command_says_where_no_appliance_has_ever_run(tmp_path: Path) -> None:
    done = command(tmp_path, "--stdin", given=PASSWORD)
    assert done.returncode == 1
    assert "There is no folder" in done.stderr
    assert not (tmp_path / "storage").exists()


def test_the_command_prints_the_fingerprint_that_browsers_show(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    none = command(tmp_path, "--fingerprint")
    assert (none.returncode, none.stdout) == (1, "")
    assert "There is no certificate" in none.stderr
    path = certificate.ensure(tmp_path / "storage" / "identity", ["box"], ManualClock())
    der = ssl.PEM_cert_to_DER_cert(path.read_text().partition("-----BEGIN PRIVATE")[0])
    shown = command(tmp_path, "--fingerprint").stdout.strip()
    assert shown.replace(":", "").lower() == hashlib.sha256(der).hexdigest()
    path.write_text("nonsense")
    assert "holds no certificate" in command(tmp_path, "--fingerprint").stderr


def test_a_password_in_clear_is_nowhere_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    command(tmp_path, "--stdin", given=f"{PASSWORD}\n")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert not any(PASSWORD.encode() in path.read_bytes() for path in files)


async def test_an_attempt_whose_asker_is_gone_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_bytes(stored_password(PASSWORD))
    gate = Gate(Secrets(tmp_path), SystemClock())
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_work: object) -> bool:
        begun.set()
        await go_on.wait()
        return False

    monkeypatch.setattr(asyncio, "to_thread", slow)
    asker = asyncio.create_task(gate.log_in("10.0.0.1", ANOTHER))
    await begun.wait()
    asker.cancel()
    go_on.set()
    async with asyncio.timeout(5):
        while not gate._throttle._failures:  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0)
    assert gate._throttle._failures["10.0.0.1"].count == 1
