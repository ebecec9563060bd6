"""What becomes of one instance after a try: outcomes into states, and what they tell of the destination as a whole."""

from collections.abc import Callable
from typing import Final

import msgspec

from edge.board import DestinationGauge
from edge.clock import Clock
from edge.evidence import Evidence
from edge.forward.backoff import backoff
from edge.forward.gate import Gate
from edge.forward.outcome import Accepted, Outcome, Refused, TryLater, Unreachable
from edge.forward.oversize import Oversize
from edge.forward.width import Width
from edge.phrase import N_, say
from edge.states import DeliveryState
from edge.store import Parcel, Settlement

_STRIKES: Final = 3
"""Failures in the middle of one instance after which it waits alone."""
_LATER_IN_A_ROW: Final = 3
"""Instances put off in a row after which the destination as a whole is given a rest."""
_ASIDE: Final = 2.0
"""Seconds for which what is too big for the line makes room."""
_HOURLY: Final = 24
_DAY: Final = 86400.0


class Judge:
    """Judges for one lane."""

    def __init__(
        self,
        name: str,
        gate: Gate,
        width: Width,
        oversize: Oversize,
        gauge: DestinationGauge,
        clock: Clock,
        random: Callable[[], float],
        *,
        skip_unsupported: bool,
    ) -> None:
        self._name = name
        self._gate = gate
        self._width = width
        self._oversize = oversize
        self._gauge = gauge
        self._clock = clock
        self._random = random
        self._skip = skip_unsupported
        self._later = 0

    def settlement(self, parcel: Parcel, outcome: Outcome, took: float = 0.0) -> Settlement:
        """Turn an outcome into a state, and tell gate, width and gauge; ``took`` is in seconds."""
        match outcome:
            case Accepted():
                self._later = 0
                self._gate.succeed()
                # of what took longer only so much went lately, or a slow line would seem to be fast
                self._gauge.rate.add(int(parcel.length * min(1.0, self._gauge.rate.window / max(took, 1e-9))))
                self._width.sent(parcel.length)
                self._oversize.passed(parcel)
                done = self._settlement(
                    parcel, DeliveryState.ACCEPTED, outcome.code, outcome.detail, evidence=outcome.evidence
                )
                return msgspec.structs.replace(done, rendering=outcome.rendering)
            case TryLater():
                self._later += 1
                if self._later >= _LATER_IN_A_ROW:
                    self._gate.fail(Unreachable(outcome.code, outcome.detail))
                return self._put_off(parcel, outcome.code, outcome.detail, outcome.after)
            case Refused():
                self._later = 0
                self._gate.succeed()
                self._oversize.over(parcel)
                if outcome.unsupported and self._skip:
                    return self._settlement(parcel, DeliveryState.DECLINED, outcome.code, outcome.detail)
                return self._settlement(parcel, DeliveryState.HELD, outcome.code, outcome.detail)
            case Unreachable():
                return self._unreachable(parcel, outcome)

    def _unreachable(self, parcel: Parcel, outcome: Unreachable) -> Settlement:
        if not outcome.echo and (parcel.strikes + 1 < _STRIKES or self._gate.failing):
            self._gate.fail(outcome)
        if not outcome.midway:
            return self.untouched(parcel)
        if not outcome.echo:
            self._oversize.broke(parcel)
            if parcel.strikes < _STRIKES:
                self._width.lost()
        return self._put_off(parcel, outcome.code, outcome.detail, None)

    def failed(self, parcel: Parcel, error: Exception) -> Settlement:
        """Take a fault of this program for a session that broke: what it was at waits, alone if it happens again."""
        text = say("this program failed in sending: {kind}.", kind=type(error).__name__)
        return self.settlement(parcel, Unreachable("TRANSPORT_FAILED", text, midway=True))

    def _put_off(self, parcel: Parcel, code: str, detail: str, after: float | None) -> Settlement:
        strikes = parcel.strikes + 1
        wait = backoff(strikes, self._random) if after is None else after
        if after is not None and strikes > _HOURLY:
            wait = max(wait, _DAY)
        return self._settlement(
            parcel,
            DeliveryState.QUEUED,
            code,
            detail,
            strikes=strikes,
            not_before=self._clock.monotonic() + wait,
        )

    def _settlement(
        self,
        parcel: Parcel,
        state: DeliveryState,
        code: str,
        detail: str,
        *,
        strikes: int = 0,
        not_before: float | None = None,
        evidence: Evidence | None = None,
    ) -> Settlement:
        return Settlement(
            delivery=parcel.delivery,
            instance=parcel.instance,
            destination=self._name,
            state=state,
            code=code,
            detail=detail,
            strikes=strikes,
            not_before=not_before,
            evidence=evidence,
        )

    def untouched(self, parcel: Parcel) -> Settlement:
        """Give back a parcel that was not tried."""
        return Settlement(
            delivery=parcel.delivery,
            instance=parcel.instance,
            destination=self._name,
            state=DeliveryState.QUEUED,
            strikes=parcel.strikes,
            attempted=False,
        )

    def aside(self, parcel: Parcel) -> Settlement:
        """Give back a parcel that makes room for others."""
        return msgspec.structs.replace(
            self.untouched(parcel),
            detail=N_("it was broken off or is large, and waits until nothing else is sent."),
            not_before=self._clock.monotonic() + _ASIDE,
        )
