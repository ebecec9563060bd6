"""Snapshots to show, made by hand."""

from collections.abc import Sequence

from edge.snapshot import (
    ClockStatus,
    Destination,
    Device,
    FindingStatus,
    Intake,
    Light,
    Problem,
    Queue,
    Snapshot,
    Storage,
    WatchStatus,
)

NOW = "2026-11-22T12:00:00.000Z"


def destination(name: str, *, problem: str = "", paused: bool = False, queued: int = 0) -> Destination:
    return Destination(
        name=name,
        state="down" if problem else "paused" if paused else "up",
        queued=queued,
        sending=0,
        accepted=7,
        verified=0,
        held=0,
        cancelled=0,
        declined=0,
        rate_bytes_per_second=0,
        drain_seconds=None,
        last_success_at=None,
        problem=Problem(code=problem, text=f"it said {problem}") if problem else None,
    )


def finding(code: str, component: str, severity: str = "warning", *, count: int = 1, since: str = NOW) -> FindingStatus:
    return FindingStatus(
        code=code, severity=severity, component=component, since=since, count=count, text="secret", advice="secret"
    )


def snapshot(
    *,
    destinations: Sequence[str | Destination] = (),
    findings: Sequence[FindingStatus] = (),
    intake_open: bool = True,
    clock_trusted: bool = True,
    watches: Sequence[WatchStatus] = (),
    taken_at: str = NOW,
) -> Snapshot:
    return Snapshot(
        taken_at=taken_at,
        device=Device(id="0123456789abcdef", name="CT room", site="Posta", version="0.1.0"),
        light=Light(code="G1", color="green", pattern="steady", text="Ready."),
        intake=Intake(open=intake_open, associations=0, instances=40, bytes=1000, refused=0, last_at=None),
        queue=Queue(instances=3, bytes=300, oldest_seconds=60),
        destinations=[d if isinstance(d, Destination) else destination(d) for d in destinations],
        storage=Storage(free_bytes=1000, reserve_bytes=10, autonomy_seconds=None),
        watches=list(watches),
        clock=ClockStatus(trusted=clock_trusted),
        findings=list(findings),
    )
