"""What guests are made of: kernels, a root file system and an emulator, built once and kept outside the clone.

Kept by the hash of how it is made, so that a changed recipe makes it anew: `rm -r` the folder for newer packages.
"""

import fcntl
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.vm.packages import SOURCES, Packages, command

HERE = Path(__file__).parent
RECIPE = ("cache.py", "packages.py", "vminit", "sshd_config", "ssh_config")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "migrate-vm"
# Series of the kernels that guests boot, and the packages that they come in.
SUPPORTED_KERNELS = ("6.1", "6.12")
KERNEL_PACKAGES = {"6.1": "linux-image-cloud-amd64", "6.12": "linux-image-6.12-cloud-amd64"}
EMULATOR, EMULATOR_RELEASE = "qemu-system-x86", "bookworm-backports"
ROOT_PACKAGES = (
    "python3", "openssh-server", "openssh-client", "iproute2", "busybox", "procps", "kmod", "redis-server", "criu",
)  # fmt: skip
LEFT_OUT = ("doc", "man", "locale", "info", "lintian")
MODULES = ("kernel/net", "kernel/drivers/net", "kernel/drivers/virtio", "kernel/drivers/block", "kernel/lib")
ROOT_SIZE = "1G"


@dataclass(frozen=True, slots=True)
class Parts:
    """Where everything is."""

    folder: Path

    @property
    def root(self) -> Path:
        """Image of the root file system."""
        return self.folder / "root.img"

    @property
    def key(self) -> Path:
        """Private key with which root may log in to every guest, also from guest to guest."""
        return self.folder / "key"

    @property
    def known_hosts(self) -> Path:
        """The host key that every guest has."""
        return self.folder / "known_hosts"

    def kernel(self, series: str) -> Path:
        """The vmlinuz of a series."""
        return self.folder / f"vmlinuz-{series}"

    def emulator(self) -> tuple[list[str], dict[str, str]]:
        """QEMU's command line as far as it finds itself by it, and its environment."""
        top = self.folder / "qemu"
        libraries = ":".join(str(top / part / "x86_64-linux-gnu") for part in ("usr/lib", "lib"))
        data = [option for part in ("qemu", "seabios") for option in ("-L", str(top / "usr/share" / part))]
        return [str(top / "usr/bin/qemu-system-x86_64"), *data], {**os.environ, "LD_LIBRARY_PATH": libraries}


def get_parts() -> Parts:
    """Build what is missing (about a minute); nothing otherwise."""
    recipe = "".join((HERE / name).read_text() for name in RECIPE)
    parts = Parts(CACHE / hashlib.sha256(recipe.encode()).hexdigest()[:16])
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not parts.folder.exists():
            unfinished = parts.folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            build(Parts(unfinished))
            unfinished.rename(parts.folder)
    return parts


def build(parts: Parts) -> None:
    """Everything, from Debian's packages."""
    parts.folder.mkdir()
    packages = Packages(parts.folder / "apt")
    packages.unpack_with_dependencies(EMULATOR, parts.folder / "qemu", EMULATOR_RELEASE)
    root = parts.folder / "root"
    command(
        ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(ROOT_PACKAGES)}",
         "--dpkgopt=force-unsafe-io", *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT),
         "--skip=cleanup/apt", "bookworm", str(root), *SOURCES[:2]]
    )  # fmt: skip
    for series, package in KERNEL_PACKAGES.items():
        unpacked = parts.folder / f"kernel-{series}"
        packages.unpack(package, unpacked)
        take_kernel(unpacked, parts.kernel(series), root)
        shutil.rmtree(unpacked)
    configure(parts, root)
    command(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(root), str(parts.root), ROOT_SIZE])
    shutil.rmtree(root)
    shutil.rmtree(parts.folder / "apt")


def take_kernel(unpacked: Path, vmlinuz: Path, root: Path) -> None:
    """The kernel itself, and those of its modules that a guest may want, into the root file system."""
    [image] = unpacked.glob("boot/vmlinuz-*")
    shutil.copy(image, vmlinuz)
    release = image.name.removeprefix("vmlinuz-")
    source, target = unpacked / "lib/modules" / release, root / "lib/modules" / release
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target / name)
    for name in MODULES:
        if (source / name).exists():
            shutil.copytree(source / name, target / name)
    command(["depmod", "-b", str(root), release])


def configure(parts: Parts, root: Path) -> None:
    """Init, and keys: one for all guests, and one to log in to them with."""
    shutil.copy(HERE / "vminit", root / "sbin/vminit")
    (root / "sbin/vminit").chmod(0o755)
    (root / "etc/inittab").write_text("::restart:/bin/busybox init\n")
    host_key = root / "etc/ssh/ssh_host_ed25519_key"
    for old in (root / "etc/ssh").glob("ssh_host_*"):
        old.unlink()
    for path in (host_key, parts.key):
        command(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vm", "-f", str(path)])
    known = f"* {host_key.with_suffix('.pub').read_text()}"
    parts.known_hosts.write_text(known)
    home = root / "root/.ssh"
    home.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(parts.key, home / "id_ed25519")
    (home / "authorized_keys").write_text(parts.key.with_suffix(".pub").read_text())
    (home / "known_hosts").write_text(known)
    shutil.copy(HERE / "ssh_config", home / "config")
    shutil.copy(HERE / "sshd_config", root / "etc/ssh/sshd_config")
