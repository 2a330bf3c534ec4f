"""What Prometheus scrapes: counted as events come in, or read from the store when asked."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from migrate.fleet.schema import DRAINS, HOSTS, MIGRATIONS
from migrate.fleet.store import Store

DOWNTIME_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The figures of one coordinator; what it knows of the whole fleet it reads from the store."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._downtime = Histogram(
            "migrate_downtime_seconds",
            "How long processes stood still.",
            buckets=DOWNTIME_BUCKETS,
            registry=self._registry,
        )
        self._phase = Histogram(
            "migrate_downtime_phase_seconds", "Parts of the downtime.", ["phase"], buckets=DOWNTIME_BUCKETS,
            registry=self._registry,
        )  # fmt: skip
        self._duration = Histogram(
            "migrate_duration_seconds", "From start to end.", buckets=(1, 2, 5, 10, 30, 60, 120, 300, 600, 1800),
            registry=self._registry,
        )  # fmt: skip
        self._ended = Counter("migrate_migrations", "Migrations by how they ended.", ["state"], registry=self._registry)
        self._failed = Counter("migrate_failures", "Failures by reason.", ["reason"], registry=self._registry)
        self._bytes = Counter("migrate_sent_bytes", "Bytes of memory sent.", registry=self._registry)
        self._rounds = Counter("migrate_rounds", "Rounds of pre-copy.", registry=self._registry)
        self._dirty = Gauge(
            "migrate_dirty_pages", "Written since the last round.", ["migration"], registry=self._registry
        )
        self._queue = Gauge("migrate_migrations_current", "Migrations by state.", ["state"], registry=self._registry)
        self._drains = Gauge("migrate_drains_current", "Drains under way by state.", ["state"], registry=self._registry)
        self._hosts = Gauge("migrate_hosts", "Hosts by state.", ["state"], registry=self._registry)

    def count(self, migration_id: str, body: dict[str, Any]) -> None:
        """One event of a migration."""
        match body.get("event"):
            case "round_done":
                self._rounds.inc()
                self._bytes.inc(body["sent_bytes"])
                self._dirty.labels(migration_id).set(body["dirty_pages"])
            case "done":
                self._downtime.observe(body["downtime_s"])
                self._duration.observe(body["total_s"])
                for phase in body["phases"]:
                    self._phase.labels(phase["name"]).observe(phase["seconds"])
                self._over(migration_id, "done")
            case "failed":
                self._failed.labels(body["kind"]).inc()
                self._over(migration_id, "failed")
            case "blocked":
                for blocker in body["blockers"]:
                    self._failed.labels(blocker["code"]).inc()
                self._over(migration_id, "refused")
            case "in_doubt" | "lost" as name:
                self._over(migration_id, name)

    def _over(self, migration_id: str, state: str) -> None:
        self._ended.labels(state).inc()
        if (migration_id,) in self._dirty._metrics:
            self._dirty.remove(migration_id)

    async def text(self, store: Store) -> bytes:
        """All of it in Prometheus' text format."""
        rows = await store.rows(MIGRATIONS, MIGRATIONS.c.state.in_(("queued", "running", "in_doubt")))
        for state in ("queued", "running", "in_doubt"):
            self._queue.labels(state).set(sum(row["state"] == state for row in rows))
        drains = await store.rows(DRAINS, DRAINS.c.ended_at.is_(None))
        for state in ("waiting", "running", "away", "returning"):
            self._drains.labels(state).set(sum(row["state"] == state for row in drains))
        hosts = await store.rows(HOSTS)
        self._hosts.labels("unreachable").set(sum(bool(row["unreachable"]) for row in hosts))
        self._hosts.labels("cordoned").set(sum(bool(row["cordoned"]) for row in hosts))
        self._hosts.labels("known").set(len(hosts))
        return generate_latest(self._registry)
