"""Services that are trees, moved by `migrate` while they work."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hosts import Host
from tests.huge_pages import has_huge_pages
from tests.migrate.moving import Pair, assert_nothing_left, processes
from tests.requires import require, require_program
from tests.services import AS_POSTGRES, NGINX, NODE, PORT, as_postgres, fetch, postgres_programs, wait_postgres
from tests.waiting import wait_until

OPTIONS = ("--tcp", "close", "--max-downtime", "5s")
POOL = """
import multiprocessing, os, sys, time
def square(n):
    time.sleep(0.005)
    return n * n
if __name__ == "__main__":
    folder = sys.argv[1]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        while not os.path.exists(folder + "/worked-enough"):
            assert pool.map(square, range(30)) == [n * n for n in range(30)]
            open(folder + "/working", "w").close()
    open(folder + "/pool", "w").write("all right")
"""


def move(pair: Pair, pid: int) -> None:
    """To host-b."""
    said = pair.migrate(pid, "root@host-b", *OPTIONS)
    assert said.code == 0, said.text
    assert not pair.a.alive(pid) and pair.b.alive(pid), said.text


def end(host: Host, pid: int, *words: str) -> None:
    """Let it end by itself; nobody of its tree is left."""
    host.run(["kill", str(pid)])
    wait_until(lambda: not processes(host, *words), f"{words} have ended")


def test_nginx_with_its_workers_gives_every_reply_right(pair: Pair) -> None:
    nginx = require_program("nginx")
    folder = pair.folder / "nginx"
    (folder / "www").mkdir(parents=True)
    pages = {f"page{n}": str(n) * 3000 for n in range(10)}
    for name, text in pages.items():
        (folder / "www" / name).write_text(text)
    (folder / "conf").write_text(NGINX.format(folder=folder, port=PORT))
    pid = pair.a.start([nginx, "-c", f"{folder}/conf", "-p", str(folder)])
    wait_until(lambda: pair.a.listens(PORT) and len(processes(pair.a, "nginx:", "worker")) == 2, "nginx serves")
    assert {name: fetch(pair.a, name) for name in pages} == pages
    move(pair, pid)
    assert {name: fetch(pair.b, name) for name in pages} == pages
    pair.b.run(["kill", "-HUP", str(pid)])  # the master makes new workers
    assert {name: fetch(pair.b, name) for name in pages} == pages
    end(pair.b, pid, "nginx:")


def test_a_node_server_asks_its_worker_thread_on_the_other_host(pair: Pair) -> None:
    node = require_program("node")
    pid = pair.a.start([node, "-e", NODE])
    wait_until(lambda: pair.a.listens(PORT), "node listens")
    assert json.loads(fetch(pair.a, "7")) == [7, 49, 1]
    move(pair, pid)
    assert json.loads(fetch(pair.b, "9")) == [9, 81, 2]
    assert json.loads(fetch(pair.b, "10")) == [10, 100, 3]
    end(pair.b, pid, "worker_threads")


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_pipeline_loses_and_doubles_no_line(pair: Pair) -> None:
    folder = pair.folder
    script = f"while [ ! -e {folder}/enough ]; do i=$((i+1)); echo $i; sleep 0.02; done | cat -n >>{folder}/lines"
    pid = pair.a.start(["sh", "-c", f"setsid sh -c '{script}' && touch {folder}/over"])
    wait_until(lambda: len(processes(pair.a, "cat", "-n")) >= 1, "the pipeline runs")
    move(pair, pid)
    (folder / "enough").touch()
    wait_until(lambda: (folder / "over").exists() and not pair.b.alive(pid), "the pipeline ends in good order")
    numbers = [line.split() for line in lines_of(folder / "lines")]
    assert numbers == [[str(n), str(n)] for n in range(1, len(numbers) + 1)]
    assert len(numbers) > 3


def test_a_pool_of_processes_finishes_its_work_on_the_other_host(pair: Pair) -> None:
    (pair.folder / "pool.py").write_text(POOL)
    pid = pair.a.start(["/usr/bin/python3", f"{pair.folder}/pool.py", str(pair.folder)])
    wait_until(lambda: (pair.folder / "working").exists(), "the pool works", deadline_s=60)
    move(pair, pid)
    (pair.folder / "worked-enough").touch()
    wait_until(lambda: (pair.folder / "pool").exists(), "the pool has done all", deadline_s=60)
    wait_until(lambda: not processes(pair.b, "pool.py"), "the pool has ended", deadline_s=60)


SUMS = """select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches),
    (select sum(tbalance) from pgbench_tellers), (select sum(delta) from pgbench_history)"""


@pytest.mark.parametrize("huge_pages", ["off", "on"])
def test_postgresql_keeps_its_data_while_pgbench_writes(pair: Pair, huge_pages: str) -> None:
    programs = postgres_programs()
    require(huge_pages == "off" or has_huge_pages(), "nr_overcommit_hugepages")
    os.chmod(pair.folder, 0o755)
    folder = pair.folder / f"pg-{huge_pages}"
    folder.mkdir()
    pair.a.run(["chown", "postgres", str(folder)])
    as_postgres(pair.a, str(programs / "initdb"), "-N", "-A", "trust", "-D", f"{folder}/data")
    started = [str(programs / "postgres"), "-D", f"{folder}/data", "-k", str(folder), "-c", f"huge_pages={huge_pages}"]
    pid = pair.a.start([*AS_POSTGRES, *started])
    query: Callable[[Host, str], str] = lambda host, text: as_postgres(  # noqa: E731
        host, str(programs / "psql"), "-h", str(folder), "-d", "postgres", "-Atc", text
    )
    wait_postgres(pair.a, folder)
    bench = [str(programs / "pgbench"), "-n", "-h", "127.0.0.1", "-c", "2"]
    as_postgres(pair.a, *bench[:1], "-i", "-q", "-h", str(folder), "postgres")
    client = pair.a.start([*AS_POSTGRES, *bench, "-T", "600", "postgres"])
    wait_until(lambda: int(query(pair.a, "select count(*) from pgbench_history")) > 100, "pgbench works")
    move(pair, pid)
    wait_until(lambda: not pair.a.alive(client), "pgbench finds its connections closed")
    done = int(query(pair.b, "select count(*) from pgbench_history"))
    assert done > 100
    assert len(set(query(pair.b, SUMS).strip().split("|"))) == 1
    as_postgres(pair.b, *bench, "-t", "100", "postgres")
    assert int(query(pair.b, "select count(*) from pgbench_history")) == done + 200
    assert len(set(query(pair.b, SUMS).strip().split("|"))) == 1
    pair.b.run(["kill", "-INT", str(pid)])
    wait_until(lambda: not pair.b.alive(pid), "postgres has ended")


def test_all_those_moves_left_nothing_behind(pair: Pair) -> None:
    assert_nothing_left([pair.a, pair.b])
