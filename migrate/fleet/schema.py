"""The tables. Times are seconds since 1970 (UTC), JSON columns hold what only people and the dashboard read.

A change of a table needs a step in migrate/fleet/versions (Alembic); a test compares the two.
"""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

HOSTS: Final = Table(
    "hosts",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("address", String(300), nullable=False),  # [user@]host[:port], or "local"
    Column("peer_address", String(300)),  # what other hosts call it, where that differs
    Column("route", JSON, nullable=False),  # pairs as in a journal: identity_file, known_hosts, remote_command
    Column("labels", JSON, nullable=False),
    Column("cordoned", Boolean, nullable=False),
    Column("cordon_reason", Text, nullable=False),
    Column("facts", JSON),
    Column("facts_at", Float),
    Column("unreachable", Text, nullable=False),  # why the last look failed, "" when it did not
    Column("version", Integer, nullable=False),
)

# state: queued running done failed refused in_doubt cancelled. A lease says who works on it; `fence` grows with
# every lease, and whoever holds an older one can write no more.
MIGRATIONS: Final = Table(
    "migrations",
    METADATA,
    Column("id", String(63), primary_key=True),
    Column("state", String(20), nullable=False),
    Column("source", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("start_time", BigInteger),  # names the process for good, with the boot
    Column("destination", String(200), nullable=False),
    Column("options", JSON, nullable=False),
    Column("workload", JSON, nullable=False),
    Column("drain_id", String(63)),
    Column("leg", String(10), nullable=False),  # of a drain: away or back
    Column("priority", Integer, nullable=False),
    Column("reserved_bytes", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("cancel", Boolean, nullable=False),
    Column("phase", String(40), nullable=False),
    Column("message", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("result", JSON),
    Column("requested_by", String(200), nullable=False),
    Column("lease_owner", String(200)),
    Column("lease_until", Float),
    Column("fence", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Index(None, "state"),
    Index(None, "drain_id"),
)

EVENTS: Final = Table(
    "migration_events",
    METADATA,
    Column("migration_id", String(63), ForeignKey("migrations.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),  # from 1, in the order of the host's file
    Column("at", Float, nullable=False),
    Column("body", JSON, nullable=False),
)

# state: waiting (for its window) running returning done failed cancelled
DRAINS: Final = Table(
    "drains",
    METADATA,
    Column("id", String(63), primary_key=True),
    Column("host", String(200), nullable=False),
    Column("state", String(20), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("plan", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("opens_at", Float),
    Column("closes_at", Float),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("cancel", String(10), nullable=False),  # "", finish or abort
    Column("message", Text, nullable=False),
    Column("requested_by", String(200), nullable=False),
    Column("lease_owner", String(200)),
    Column("lease_until", Float),
    Column("fence", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Index(None, "state"),
)

SELECTORS: Final = Table(
    "selectors",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("place", Integer, nullable=False),  # the first that fits has a process; those of the file come before 0
    Column("body", JSON, nullable=False),  # as an inventory file has one
    Column("version", Integer, nullable=False),
)

WINDOWS: Final = Table(
    "windows",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("text", Text, nullable=False),
    Column("hosts", JSON, nullable=False),
    Column("version", Integer, nullable=False),
)

TOKENS: Final = Table(
    "tokens",
    METADATA,
    Column("name", String(200), primary_key=True),
    Column("role", String(20), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("used_at", Float),
    UniqueConstraint("digest"),
)

AUDIT: Final = Table(
    "audit",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("who", String(200), nullable=False),
    Column("action", String(100), nullable=False),
    Column("target", String(300), nullable=False),
    Column("detail", JSON, nullable=False),
)

ANSWERS: Final = Table(  # what an idempotency key was answered with
    "answers",
    METADATA,
    Column("key", String(200), primary_key=True),
    Column("who", String(200), primary_key=True),
    Column("request", LargeBinary, nullable=False),  # digest of method, path and body
    Column("status", Integer),  # null while the first request is still at work
    Column("body", JSON),
    Column("at", Float, nullable=False),
)
