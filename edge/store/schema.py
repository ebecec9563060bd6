"""The schema and its forward-only migrations.

A migration is a tuple of statements, run one by one in one transaction with the new ``user_version``. It never rewrites
a table, and version N-1 of the program must still accept, claim, settle and retain on what it leaves.
"""

import sqlite3
from typing import Final, get_args

from edge.findings import Severity
from edge.messages import CommandStatus
from edge.states import WAITING, DeliveryState
from edge.store.connection import StoreError

_STATES: Final = ", ".join(f"'{state}'" for state in DeliveryState)
_WAITING: Final = ", ".join(f"'{state}'" for state in DeliveryState if state in WAITING)

_FIRST: Final = (
    """CREATE TABLE study (
        id INTEGER PRIMARY KEY,
        uid TEXT UNIQUE,  -- NULL where the object names no study: then it is a study of its own
        patient_id TEXT NOT NULL,
        patient_name TEXT NOT NULL,
        accession TEXT NOT NULL,
        date TEXT NOT NULL,
        description TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE instance (
        id INTEGER PRIMARY KEY,
        study INTEGER NOT NULL REFERENCES study,
        sop_instance_uid TEXT NOT NULL,
        sop_class_uid TEXT NOT NULL,
        transfer_syntax_uid TEXT NOT NULL,
        digest BLOB NOT NULL CHECK (length(digest) = 32),
        length INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        series_uid TEXT NOT NULL,
        modality TEXT NOT NULL,
        series_number TEXT NOT NULL,
        series_description TEXT NOT NULL,
        instance_number TEXT NOT NULL,
        door TEXT NOT NULL,
        calling TEXT NOT NULL,
        called TEXT NOT NULL,
        address TEXT NOT NULL,
        received_at REAL NOT NULL,
        clock_trusted INTEGER NOT NULL CHECK (clock_trusted IN (0, 1)),
        state TEXT NOT NULL DEFAULT 'stored' CHECK (state IN ('stored', 'lost', 'quarantined', 'expired')),
        owed INTEGER NOT NULL CHECK (owed >= 0),
        unrouted INTEGER NOT NULL CHECK (unrouted IN (0, 1))
    ) STRICT""",
    "CREATE INDEX instance_by_uid ON instance (sop_instance_uid)",
    "CREATE INDEX instance_by_study ON instance (study)",
    "CREATE INDEX instance_owed ON instance (id) WHERE owed > 0",
    "CREATE INDEX instance_unrouted ON instance (id) WHERE unrouted = 1",
    f"""CREATE TABLE delivery (
        id INTEGER PRIMARY KEY,
        instance INTEGER NOT NULL REFERENCES instance,
        destination TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ({_STATES})),
        priority INTEGER NOT NULL,
        needs_proof INTEGER NOT NULL CHECK (needs_proof IN (0, 1)),
        bytes INTEGER NOT NULL,
        not_before REAL,
        behind INTEGER REFERENCES delivery,
        session INTEGER,
        attempts INTEGER NOT NULL DEFAULT 0,
        strikes INTEGER NOT NULL DEFAULT 0,
        code TEXT NOT NULL DEFAULT '',
        detail TEXT NOT NULL DEFAULT '',
        changed_at REAL NOT NULL,
        UNIQUE (instance, destination),
        CHECK ((state = 'sending') = (session IS NOT NULL))
    ) STRICT""",
    """CREATE INDEX delivery_claim ON delivery (destination, priority, id)
        WHERE state = 'queued' AND not_before IS NULL AND behind IS NULL""",
    "CREATE INDEX delivery_ripen ON delivery (not_before) WHERE state = 'queued' AND not_before IS NOT NULL",
    "CREATE INDEX delivery_behind ON delivery (behind) WHERE behind IS NOT NULL",
    "CREATE INDEX delivery_sending ON delivery (session) WHERE state = 'sending'",
    "CREATE INDEX delivery_held ON delivery (destination) WHERE state = 'held'",
    """CREATE TABLE trail (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        instance INTEGER NOT NULL,
        destination TEXT NOT NULL,
        at REAL NOT NULL,
        clock_trusted INTEGER NOT NULL,
        event TEXT NOT NULL,
        code TEXT NOT NULL,
        detail TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX trail_by_instance ON trail (instance)",
    # counters are kept, not counted: one row a destination and state, and '' for what is owed in all
    """CREATE TABLE tally (
        destination TEXT NOT NULL,
        state TEXT NOT NULL,
        instances INTEGER NOT NULL CHECK (instances >= 0),
        bytes INTEGER NOT NULL CHECK (bytes >= 0),
        PRIMARY KEY (destination, state)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TRIGGER delivery_made AFTER INSERT ON delivery BEGIN
        INSERT INTO tally VALUES (NEW.destination, NEW.state, 1, NEW.bytes)
            ON CONFLICT DO UPDATE SET instances = instances + 1, bytes = bytes + excluded.bytes;
    END""",
    f"""CREATE TRIGGER delivery_moved AFTER UPDATE OF state ON delivery WHEN OLD.state <> NEW.state BEGIN
        UPDATE tally SET instances = instances - 1, bytes = bytes - OLD.bytes
            WHERE destination = OLD.destination AND state = OLD.state;
        INSERT INTO tally VALUES (NEW.destination, NEW.state, 1, NEW.bytes)
            ON CONFLICT DO UPDATE SET instances = instances + 1, bytes = bytes + excluded.bytes;
        UPDATE instance SET owed = owed + (NEW.state IN ({_WAITING})) - (OLD.state IN ({_WAITING}))
            WHERE id = NEW.instance AND (NEW.state IN ({_WAITING})) <> (OLD.state IN ({_WAITING}));
    END""",
    """CREATE TRIGGER instance_made AFTER INSERT ON instance WHEN NEW.owed > 0 BEGIN
        INSERT INTO tally VALUES ('', 'owed', 1, NEW.length)
            ON CONFLICT DO UPDATE SET instances = instances + 1, bytes = bytes + excluded.bytes;
    END""",
    """CREATE TRIGGER instance_owed AFTER UPDATE OF owed ON instance WHEN (OLD.owed > 0) <> (NEW.owed > 0) BEGIN
        INSERT INTO tally VALUES ('', 'owed', 0, 0) ON CONFLICT DO NOTHING;
        UPDATE tally SET instances = instances + iif(NEW.owed > 0, 1, -1),
            bytes = bytes + iif(NEW.owed > 0, NEW.length, -NEW.length)
            WHERE destination = '' AND state = 'owed';
    END""",
)

_OPEN: Final = """state IN ('queued', 'sending', 'held') OR state = 'accepted' AND needs_proof = 1"""
"""A delivery that is not over, so that its instance must stay."""

_SECOND: Final = (
    # seconds that the appliance has run, on the monotonic clock: age never jumps, whatever the wall clock does
    "CREATE TABLE uptime (id INTEGER PRIMARY KEY CHECK (id = 1), seconds REAL NOT NULL) STRICT",
    "INSERT INTO uptime VALUES (1, 0)",
    "ALTER TABLE instance ADD COLUMN settled_at REAL",  # uptime when the last delivery was over; NULL: one is not
    "ALTER TABLE instance ADD COLUMN expired_at REAL",  # uptime when the file was deleted
    "CREATE INDEX instance_settled ON instance (settled_at) WHERE settled_at IS NOT NULL AND state = 'stored'",
    "CREATE INDEX instance_expired ON instance (expired_at) WHERE expired_at IS NOT NULL",
    """CREATE TRIGGER delivery_reopens AFTER INSERT ON delivery BEGIN
        UPDATE instance SET settled_at = NULL WHERE id = NEW.instance AND settled_at IS NOT NULL;
    END""",
    f"""CREATE TRIGGER delivery_settles AFTER UPDATE OF state ON delivery
        WHEN OLD.state <> NEW.state AND NEW.state <> 'sending' BEGIN
        UPDATE instance SET settled_at = iif(
                EXISTS (SELECT 1 FROM delivery WHERE instance = NEW.instance AND ({_OPEN})),
                NULL,
                (SELECT seconds FROM uptime)
            ) WHERE id = NEW.instance;
    END""",
    """CREATE TRIGGER delivery_gone AFTER DELETE ON delivery BEGIN
        UPDATE tally SET instances = instances - 1, bytes = bytes - OLD.bytes
            WHERE destination = OLD.destination AND state = OLD.state;
    END""",
    f"""UPDATE instance SET settled_at = 0 WHERE unrouted = 0 AND owed = 0
        AND EXISTS (SELECT 1 FROM delivery WHERE instance = instance.id)
        AND NOT EXISTS (SELECT 1 FROM delivery WHERE instance = instance.id AND ({_OPEN}))""",
    # what people had decided, out of a damaged database: takes effect when the delivery is made again
    """CREATE TABLE salvaged (
        instance INTEGER NOT NULL,
        destination TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('held', 'cancelled')),
        code TEXT NOT NULL,
        detail TEXT NOT NULL,
        PRIMARY KEY (instance, destination)
    ) STRICT, WITHOUT ROWID""",
    # where the slow check of every file's digest has come to
    "CREATE TABLE audit (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL) STRICT",
    "INSERT INTO audit VALUES (1, 0)",
)

_THIRD: Final = (
    # files that were taken, by where they were read: so that one that stays there is not taken again
    """CREATE TABLE taken (
        place TEXT NOT NULL,
        path TEXT NOT NULL,
        inode INTEGER NOT NULL,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        ctime_ns INTEGER NOT NULL,
        digest BLOB NOT NULL,  -- of the dataset; empty for an archive, all of whose members were taken
        instance INTEGER NOT NULL,  -- 0 for an archive
        at REAL NOT NULL,  -- uptime
        PRIMARY KEY (place, path)
    ) STRICT, WITHOUT ROWID""",
)

_SEVERITIES: Final = ", ".join(f"'{severity}'" for severity in Severity)
_STATUSES: Final = ", ".join(f"'{status}'" for status in get_args(CommandStatus))

_FOURTH: Final = (
    # what happened, for who looks after many boxes: rows leave when somebody has them
    f"""CREATE TABLE event (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        clock_trusted INTEGER NOT NULL CHECK (clock_trusted IN (0, 1)),
        severity TEXT NOT NULL CHECK (severity IN ({_SEVERITIES})),
        component TEXT NOT NULL,
        code TEXT NOT NULL,
        data TEXT NOT NULL  -- JSON
    ) STRICT""",
    "CREATE INDEX event_by_severity ON event (severity)",
    # whose numbers the events have, and how many are kept; no row: this log takes none
    """CREATE TABLE log (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        epoch INTEGER NOT NULL CHECK (epoch > 0),
        kept INTEGER NOT NULL CHECK (kept >= 0)
    ) STRICT""",
    # commands that came, so that none is carried out twice; times are wall seconds, as their expiry is
    f"""CREATE TABLE command (
        id TEXT PRIMARY KEY,
        type TEXT NOT NULL,
        issued_by TEXT NOT NULL,
        received_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        status TEXT NOT NULL CHECK (status IN ({_STATUSES})),
        reason TEXT NOT NULL DEFAULT '',
        result TEXT NOT NULL DEFAULT '{{}}'  -- JSON
    ) STRICT""",
    # destinations to which nothing is sent, because somebody said so
    "CREATE TABLE pause (destination TEXT PRIMARY KEY, who TEXT NOT NULL, at REAL NOT NULL) STRICT",
)

_REFUSED: Final = "'held', 'cancelled', 'declined'"

FILL_PROOFS: Final = (
    """INSERT INTO proof (delivery, destination, study, since)
        SELECT d.id, d.destination, i.study, seconds FROM delivery d JOIN instance i ON i.id = d.instance, uptime
        WHERE d.state = 'accepted' AND d.needs_proof = 1""",
    f"INSERT INTO refused SELECT d.id, seconds FROM delivery d, uptime WHERE d.state IN ({_REFUSED})",
)
"""What `proof` and `refused` must hold, from the deliveries alone."""

_FIFTH: Final = (
    # what was accepted and is to be proven: kept by triggers, so whatever program moves a delivery keeps it right
    """CREATE TABLE proof (
        delivery INTEGER PRIMARY KEY REFERENCES delivery,
        destination TEXT NOT NULL,
        study INTEGER NOT NULL,
        since REAL NOT NULL,  -- uptime when it was accepted
        ask_at REAL,  -- monotonic; NULL: it was never asked about
        tries INTEGER NOT NULL DEFAULT 0,
        heard INTEGER NOT NULL DEFAULT 0,  -- of the tries, those up to the last that a report answered
        missing INTEGER NOT NULL DEFAULT 0,  -- times that a query did not find it
        asked INTEGER  -- the first request that named it since, which may be forgotten by now
    ) STRICT""",
    "CREATE INDEX proof_unasked ON proof (destination, study) WHERE ask_at IS NULL",
    "CREATE INDEX proof_due ON proof (destination, ask_at, study) WHERE ask_at IS NOT NULL",
    "CREATE INDEX proof_age ON proof (destination, since)",
    # since when a delivery is refused or given up
    "CREATE TABLE refused (delivery INTEGER PRIMARY KEY REFERENCES delivery, at REAL NOT NULL) STRICT",  # uptime
    """CREATE TRIGGER proof_made AFTER UPDATE OF state ON delivery
        WHEN NEW.state = 'accepted' AND OLD.state <> 'accepted' AND NEW.needs_proof = 1 BEGIN
        INSERT OR REPLACE INTO proof (delivery, destination, study, since)
            SELECT NEW.id, NEW.destination, study, (SELECT seconds FROM uptime) FROM instance WHERE id = NEW.instance;
    END""",
    """CREATE TRIGGER proof_over AFTER UPDATE OF state ON delivery
        WHEN OLD.state = 'accepted' AND NEW.state <> 'accepted' AND NEW.needs_proof = 1 BEGIN
        DELETE FROM proof WHERE delivery = NEW.id;
    END""",
    f"""CREATE TRIGGER refusal_made AFTER UPDATE OF state ON delivery
        WHEN NEW.state IN ({_REFUSED}) AND OLD.state NOT IN ({_REFUSED}) BEGIN
        INSERT OR REPLACE INTO refused SELECT NEW.id, seconds FROM uptime;
    END""",
    f"""CREATE TRIGGER refusal_over AFTER UPDATE OF state ON delivery
        WHEN OLD.state IN ({_REFUSED}) AND NEW.state NOT IN ({_REFUSED}) BEGIN
        DELETE FROM refused WHERE delivery = NEW.id;
    END""",
    """CREATE TRIGGER delivery_forgotten AFTER DELETE ON delivery BEGIN
        DELETE FROM proof WHERE delivery = OLD.id;
        DELETE FROM refused WHERE delivery = OLD.id;
    END""",
    *FILL_PROOFS,
    # commitment that we asked for, kept while its report may come
    """CREATE TABLE request (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        uid TEXT NOT NULL UNIQUE,
        destination TEXT NOT NULL,
        at REAL NOT NULL,
        clock_trusted INTEGER NOT NULL CHECK (clock_trusted IN (0, 1)),
        since REAL NOT NULL  -- uptime
    ) STRICT""",
    """CREATE TABLE requested (
        request INTEGER NOT NULL,
        instance INTEGER NOT NULL,
        PRIMARY KEY (request, instance)
    ) STRICT, WITHOUT ROWID""",
    # commitment that modalities asked us for; both tables can be read row by row where the database is damaged
    """CREATE TABLE promise (
        id INTEGER PRIMARY KEY,
        transaction_uid TEXT NOT NULL,
        calling TEXT NOT NULL,
        called TEXT NOT NULL,
        address TEXT NOT NULL,
        at REAL NOT NULL,
        clock_trusted INTEGER NOT NULL CHECK (clock_trusted IN (0, 1)),
        since REAL NOT NULL,  -- uptime
        state TEXT NOT NULL CHECK (state IN ('waiting', 'ready', 'reported')),
        named INTEGER NOT NULL,  -- images in it
        times INTEGER NOT NULL DEFAULT 1,  -- how often it was asked for
        tries INTEGER NOT NULL DEFAULT 0,
        not_before REAL,  -- monotonic
        ready_since REAL,  -- uptime
        note TEXT NOT NULL DEFAULT '',
        UNIQUE (transaction_uid, calling)
    ) STRICT""",
    "CREATE INDEX promise_open ON promise (state, calling) WHERE state <> 'reported'",
    """CREATE TABLE promised (
        id INTEGER PRIMARY KEY,
        promise INTEGER NOT NULL,
        position INTEGER NOT NULL,
        sop_class_uid TEXT NOT NULL,
        sop_instance_uid TEXT NOT NULL,
        reason INTEGER,  -- NULL: not decided; 0: safe; else a failure reason
        UNIQUE (promise, position)
    ) STRICT""",
    "CREATE INDEX promised_by_uid ON promised (sop_instance_uid, promise)",
    # studies by what came last, and since when nothing comes
    "ALTER TABLE study ADD COLUMN latest INTEGER",  # the instance that came last
    "ALTER TABLE study ADD COLUMN came REAL NOT NULL DEFAULT 0",  # uptime as it was on record then
    "ALTER TABLE study ADD COLUMN arrived REAL",  # the same more exactly, where the program put it down
    "ALTER TABLE study ADD COLUMN gap REAL NOT NULL DEFAULT 0",  # the longest time without anything between two
    "CREATE INDEX study_by_latest ON study (latest)",
    """CREATE TRIGGER study_goes_on AFTER INSERT ON instance BEGIN
        UPDATE study SET latest = max(coalesce(latest, NEW.id), NEW.id), came = (SELECT seconds FROM uptime)
            WHERE id = NEW.study;
    END""",
    """UPDATE study SET came = (SELECT seconds FROM uptime),
        latest = (SELECT max(id) FROM instance WHERE study = study.id)""",
    # asked every second, and mostly empty
    "CREATE INDEX instance_lost ON instance (id) WHERE state = 'lost'",
)

_CAPABILITIES: Final = (
    # what destinations take and refuse, as they answered last
    """CREATE TABLE capability (
        destination TEXT NOT NULL,
        sop_class_uid TEXT NOT NULL,
        transfer_syntax_uid TEXT NOT NULL,
        taken INTEGER NOT NULL CHECK (taken IN (0, 1)),
        at REAL NOT NULL,
        clock_trusted INTEGER NOT NULL CHECK (clock_trusted IN (0, 1)),
        since REAL NOT NULL,  -- uptime
        PRIMARY KEY (destination, sop_class_uid, transfer_syntax_uid)
    ) STRICT, WITHOUT ROWID""",
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (_FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH, _CAPABILITIES)
"""Migration i leads from version i to version i + 1."""
VERSION: Final = len(MIGRATIONS)


def migrate(connection: sqlite3.Connection, target: int = VERSION) -> None:
    """Bring the database forward to ``target``, one transaction a version. Raises `StoreError`, sqlite3.Error.

    A database of the next version is served as it is: an update that was rolled back has left it so.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION + 1:
        raise StoreError(
            f"The database is of version {version}, newer than this program's {VERSION}: install the newer program."
        )
    for number in range(version, target):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in MIGRATIONS[number]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
