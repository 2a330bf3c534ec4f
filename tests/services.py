"""Services that tests move: how they are set up and asked. Claims nothing."""

import shutil
from pathlib import Path

from tests.hosts import Host
from tests.requires import require
from tests.waiting import wait_until

PORT = 8080
NGINX = """
daemon off; worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/error.log; user root;
events {{ worker_connections 64; }}
http {{
    access_log off; client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    server {{ listen {port}; location / {{ root {folder}/www; }} }}
}}
"""
NODE = """
const { Worker } = require('worker_threads');
const worker = new Worker(`
  const { parentPort } = require('worker_threads');
  let asked = 0;
  parentPort.on('message', n => parentPort.postMessage([n, n * n, ++asked]));
`, { eval: true });
const waiting = [];
worker.on('message', answer => waiting.shift()(answer));
require('http').createServer((request, reply) => {
  waiting.push(answer => reply.end(JSON.stringify(answer)));
  worker.postMessage(Number(request.url.slice(1)));
}).listen(8080, '127.0.0.1');
"""
AS_POSTGRES = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
FETCH = "import sys, urllib.request as r; sys.stdout.write(r.urlopen(sys.argv[1], timeout=10).read().decode())"


def fetch(host: Host, path: str, port: int = PORT) -> str:
    """A reply over a connection of its own."""
    return host.run(["/usr/bin/python3", "-c", FETCH, f"http://127.0.0.1:{port}/{path}"]).stdout


def as_postgres(host: Host, *argv: str) -> str:
    """Run as the user postgres."""
    return host.run([*AS_POSTGRES, *argv]).stdout


def postgres_programs() -> Path:
    """Where Debian has them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    require(bool(found) and shutil.which("setpriv") is not None, "program postgres")
    return found[-1]


def wait_postgres(host: Host, folder: Path) -> None:
    """Until the server whose socket is in `folder` answers: it listens before it does."""
    ready = [str(postgres_programs() / "pg_isready"), "-q", "-h", str(folder)]
    wait_until(lambda: host.run(ready, check=False).returncode == 0, "postgres answers", deadline_s=60)
