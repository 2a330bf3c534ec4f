"""Which keys may open the door: key files and the agent's, in the order in which they are offered."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from core.errors import UsageError
from migrate.errors import AuthenticationFailed

DEFAULT_NAMES = ("id_ed25519_sk", "id_ecdsa_sk", "id_ed25519", "id_ecdsa", "id_rsa")


@dataclass(slots=True)
class Identities:
    """Key pairs in the order of offering; `descriptions` are for people, as are the reasons in `left_out`."""

    pairs: list[asyncssh.SSHKeyPair] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    agent_state: str = "no SSH agent (SSH_AUTH_SOCK is not set)"
    agent: asyncssh.SSHAgentClient | None = None

    def add(self, pair: asyncssh.SSHKeyPair, origin: str) -> None:
        """Offer `pair`, once."""
        if all(pair.public_data != known.public_data for known in self.pairs):
            self.pairs.append(pair)
            self.descriptions.append(f"{origin} ({pair.get_algorithm()} {fingerprint(pair.public_data)})")

    def close(self) -> None:
        """Let go of the agent."""
        if self.agent is not None:
            self.agent.close()


def fingerprint(public_key: bytes) -> str:
    """As ssh-keygen -l prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(public_key).digest()).decode().rstrip("=")


async def collect_identities(
    explicit: Sequence[Path], configured: Sequence[Path], agent_socket: str | None, *, agent_keys_too: bool
) -> Identities:
    """`explicit` (-i) first: they must be there. Then the agent's keys, then `configured` or default files.

    Without `agent_keys_too` the agent serves only keys whose files are named (IdentitiesOnly).
    """
    found = Identities()
    agent_pairs = await _ask_agent(found, agent_socket)
    for path in explicit:
        _add_explicit(found, path, agent_pairs)
    wanted = {key for path in configured if (key := _public_part(path)) is not None}
    for pair in agent_pairs:
        if agent_keys_too or pair.public_data in wanted:
            found.add(pair, f"agent: {pair.get_comment()}")
    for path in configured:
        _add_file(found, path)
    return found


async def _ask_agent(found: Identities, agent_socket: str | None) -> Sequence[asyncssh.SSHKeyPair]:
    if not agent_socket:
        return ()
    agent = asyncssh.SSHAgentClient(agent_socket)
    try:
        pairs = await agent.get_keys()
    except (OSError, ValueError) as error:
        found.agent_state = f"the SSH agent at {agent_socket} does not answer ({error})"
        return ()
    found.agent = agent
    found.agent_state = f"the SSH agent has {len(pairs)} keys" if pairs else "the SSH agent is empty"
    return pairs


def _add_explicit(found: Identities, path: Path, agent_pairs: Sequence[asyncssh.SSHKeyPair]) -> None:
    """A key asked for with -i; when its file is protected the agent may have it."""
    public = _public_part(path)
    in_agent = [pair for pair in agent_pairs if pair.public_data == public]
    try:
        for pair in asyncssh.load_keypairs(str(path)):
            found.add(pair, str(path))
    except OSError as error:
        raise UsageError(f"key {path}: cannot be read: {error.strerror}", hint="give a private key with -i") from error
    except ValueError as error:  # KeyImportError, KeyEncryptionError, and a .pub of another key
        if not in_agent:
            raise _unusable(path, error) from error
        found.add(in_agent[0], f"agent, for {path}")


def _unusable(path: Path, error: Exception) -> AuthenticationFailed:
    if "assphrase" in str(error):
        return AuthenticationFailed(
            f"key {path}: is protected by a passphrase, and the agent does not have it",
            hint=f"put it into an agent: eval $(ssh-agent); ssh-add {path}",
        )
    return AuthenticationFailed(f"key {path}: is not a private key: {error}", hint="give the file without .pub")


def _add_file(found: Identities, path: Path) -> None:
    """A key that may be there; what cannot be used is noted."""
    try:
        pairs = asyncssh.load_keypairs(str(path))
    except FileNotFoundError:
        return
    except OSError as error:
        found.left_out.append(f"{path} (cannot be read: {error.strerror})")
    except ValueError as error:  # KeyImportError, KeyEncryptionError, and a .pub of another key
        public = _public_part(path)
        if all(pair.public_data != public for pair in found.pairs):
            found.left_out.append(f"{path} ({'has a passphrase' if 'assphrase' in str(error) else error})")
    else:
        for pair in pairs:
            found.add(pair, str(path))


def _public_part(path: Path) -> bytes | None:
    """Public half of a key file by the .pub beside it."""
    for candidate in (Path(f"{path}.pub"), path):
        try:
            return asyncssh.read_public_key(candidate).public_data
        except (OSError, asyncssh.KeyImportError):
            continue
    return None
