"""The extension module; private to this package."""

import builtins
import os
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeAlias, TypeVar, final, type_check_only

from smolvm.types import CommandResult, JobStatus, ProcessExit

__all__ = [
    "AttachedJob",
    "BrowserSession",
    "Computer",
    "Created",
    "NetworkLog",
    "Operation",
    "Process",
    "Sandbox",
    "__version__",
    "after_fork",
    "at_exit",
    "attach_job",
    "build_image",
    "change_network",
    "check_backend",
    "check_browser",
    "check_env_key",
    "check_http_rules",
    "check_network",
    "check_networks",
    "check_port_forwards",
    "check_secret",
    "check_vm_id",
    "check_vm_sizes",
    "check_vm_times",
    "create",
    "create_browser",
    "ensure_key_pair",
    "host_report",
    "image_files",
    "internet_policy",
    "known_images",
    "list",
    "list_browsers",
    "list_jobs",
    "network_log",
    "network_policy",
    "open",
    "open_browser",
    "policy_of_text",
    "reap",
    "remove_job",
    "start_job",
    "wait_job",
]

_T = TypeVar("_T")
_Path = str | os.PathLike[str]

#: A point of a page's window in CSS pixels.
_Point: TypeAlias = tuple[float, float]

#: A policy: its mode, what it allows and what it denies.
_Policy: TypeAlias = tuple[str | None, builtins.list[str], builtins.list[str]]

__version__: str

@type_check_only
class Spec(TypedDict):
    vm_id: str | None
    image: str | None
    backend: str | None
    vcpus: int | None
    memory: int | None
    disk: int | None
    labels: dict[str, str]
    idle_timeout: float | None
    max_lifetime: float | None
    max_processes: int | None
    cold: bool
    kernel_path: Path | None
    rootfs_path: Path | None
    initrd_path: Path | None
    extra_drives: builtins.list[Path]
    boot_args: str | None
    is_shared: bool
    keeps_disk: bool
    port_forwards: builtins.list[tuple[str, int, int]]
    network: _Policy | None
    networks: builtins.list[str]
    network_rate_mbps: int | None
    secrets: builtins.list[tuple[str, str, builtins.list[str]]]
    http_rules: builtins.list[str]
    env_vars: dict[str, str]

@type_check_only
class Browser(TypedDict):
    session_id: str | None
    backend: str | None
    browser: str | None
    mode: str | None
    profile_mode: str | None
    profile_id: str | None
    timeout_minutes: int | None
    viewport_width: int | None
    viewport_height: int | None
    viewport: tuple[int, int] | None
    record_video: bool
    allow_downloads: bool
    network_policy_id: str | None
    env_vars: dict[str, str]
    memory: int | None
    disk: int | None
    vcpus: int | None
    allowed_domains: builtins.list[str] | None

@type_check_only
class BrowserInfo(TypedDict):
    session_id: str
    vm_id: str
    status: str
    reason: str | None
    cdp_url: str | None
    viewer_url: str | None
    display_url: str | None
    debug_port: int | None
    mode: str
    profile_id: str | None
    timeout_minutes: int
    viewport: tuple[int, int]
    record_video: bool
    allow_downloads: bool
    memory: int
    disk: int
    vcpus: int
    expires_at_unix_ms: int
    artifacts_dir: Path

@type_check_only
class Image(TypedDict):
    recipe: str
    directory: _Path
    name: str
    size_mib: int
    public_key: _Path | None
    password: str | None
    packages: builtins.list[str]
    mirror: _Path | None
    minirootfs: _Path | None
    minirootfs_sha256: str | None

@type_check_only
class HostReport(TypedDict):
    has_kvm: bool
    reason: str
    missing: builtins.list[tuple[str, str]]
    has_qemu: bool

@type_check_only
class CommandArguments(TypedDict):
    command: str | Sequence[_Path]
    shell: str
    timeout: float | None
    cwd: _Path | None
    env: Mapping[str, str] | None
    user: str | None
    stdin: bool
    terminal: tuple[int, int] | None
    memory: int | None
    cpus: float | None
    max_processes: int | None

@type_check_only
class Addresses(TypedDict, total=False):
    guest_ip: str
    gateway_ip: str
    netmask: str
    guest_mac: str

@type_check_only
class Info(TypedDict):
    vm_id: str
    status: str
    reason: str | None
    image: str
    engine: str | None
    backend: str
    vcpus: int
    memory: int
    disk: int
    is_named: bool
    labels: dict[str, str]
    idle_timeout: float | None
    max_lifetime: float | None
    max_processes: int | None
    cold: bool
    port_forwards: builtins.list[tuple[int, int]]
    network: _Policy
    networks: builtins.list[str]
    network_rate_mbps: int | None
    http_rules: builtins.list[str]
    addresses: Addresses | None
    pid: int | None
    disk_used_bytes: int
    created_unix_ms: int
    directory: str

@final
class Operation(Generic[_T]):
    """Something that takes time. Nothing happens until somebody waits for it, once."""
    def wait(self) -> _T:
        """Waits without the GIL. A signal whose handler raises ends the work."""
    def __await__(self) -> Generator[Any, None, _T]: ...

@final
class Created(Generic[_T]):
    """Something that has been made; it is deleted with this object unless it is taken out."""
    def take(self) -> _T:
        """Takes it out, once."""

@final
class Process:
    """A running command. It is killed when nothing holds on to it any more."""
    @property
    def pid(self) -> int:
        """Its process ID in the guest."""
    def poll(self) -> ProcessExit | None:
        """Returns how it ended, or `None` while it runs."""
    def wait(self, timeout: float | None) -> Operation[ProcessExit]: ...
    def read(self, output: str, max_bytes: int) -> Operation[bytes | str]: ...
    def read_line(self, output: str) -> Operation[bytes | str]: ...
    def read_all(self, output: str) -> Operation[bytes | str]: ...
    def read_any(self) -> Operation[tuple[str, bytes | str] | None]: ...
    def discard(self, output: str) -> None: ...
    def write(self, data: bytes) -> Operation[None]: ...
    def close_stdin(self) -> Operation[None]: ...
    def communicate(
        self, data: bytes | None, timeout: float | None
    ) -> Operation[tuple[bytes | str, bytes | str]]: ...
    def send_signal(self, number: int) -> Operation[None]: ...
    def kill(self) -> Operation[None]: ...
    def resize(self, rows: int, columns: int) -> Operation[None]: ...

@final
class AttachedJob:
    """What holds on to a job. The job goes on when this goes."""
    @property
    def pid(self) -> int:
        """Its process ID in the guest."""
    def read(self, cursor: int) -> Operation[tuple[str, Any, int]]: ...
    def write(self, data: bytes) -> Operation[None]: ...
    def close_stdin(self) -> Operation[None]: ...
    def send_signal(self, number: int) -> Operation[None]: ...
    def kill(self) -> Operation[None]: ...

@final
class NetworkLog:
    """The log of a sandbox's network as far as it was read."""
    def next(self) -> Operation[str | None]:
        """Waits for more records, as JSON; `None` when there will be no more."""

@final
class Sandbox:
    """What every Python handle on one sandbox shares."""
    @property
    def vm_id(self) -> str: ...
    @property
    def data_dir(self) -> Path: ...
    def info(self) -> Info:
        """Returns what is known of it, without asking it anything."""
    def full_info(self) -> Operation[Info]: ...
    def start(self, boot_timeout: float | None) -> Operation[None]: ...
    def stop(self, timeout: float) -> Operation[None]: ...
    def pause(self) -> Operation[None]: ...
    def resume(self) -> Operation[None]: ...
    def forward(self, guest_port: int, host_port: int | None) -> Operation[int]: ...
    def unforward(self, host_port: int, guest_port: int) -> Operation[None]: ...
    def close(self) -> Operation[None]: ...
    def delete(self) -> Operation[None]: ...
    def run(self, command: CommandArguments) -> Operation[CommandResult]: ...
    def exec(self, command: CommandArguments, is_text: bool) -> Operation[Process]: ...
    def set_env(
        self, env_vars: Mapping[str, str], merge: bool
    ) -> Operation[builtins.list[str]]: ...
    def unset_env(self, names: builtins.list[str]) -> Operation[dict[str, str]]: ...
    def list_env(self) -> Operation[dict[str, str]]: ...
    def read_file(self, path: _Path, max_bytes: int) -> Operation[bytes]: ...
    def write_file(
        self, path: _Path, content: bytes, mode: int, parents: bool
    ) -> Operation[None]: ...
    def upload_file(self, local: _Path, remote: _Path, parents: bool) -> Operation[int]: ...
    def download_file(self, remote: _Path, local: _Path) -> Operation[int]: ...
    def copy_in(self, local: _Path, remote: _Path) -> Operation[int]: ...
    def copy_out(self, remote: _Path, local: _Path) -> Operation[int]: ...
    def stat(self, path: _Path, follow: bool) -> Operation[dict[str, Any]]: ...
    def exists(self, path: _Path) -> Operation[bool]: ...
    def list_directory(self, path: _Path) -> Operation[builtins.list[dict[str, Any]]]: ...
    def make_directory(self, path: _Path, mode: int, parents: bool) -> Operation[None]: ...
    def remove_file(self, path: _Path, recursive: bool) -> Operation[None]: ...
    def move_file(
        self, source: _Path, destination: _Path, replace: bool
    ) -> Operation[None]: ...

@final
class BrowserSession:
    """What Python's handles on one browser session share."""
    @property
    def session_id(self) -> str: ...
    @property
    def vm_id(self) -> str: ...
    @property
    def data_dir(self) -> Path: ...
    def info(self) -> Operation[BrowserInfo]: ...
    def start(self, boot_timeout: float | None) -> Operation[BrowserInfo]: ...
    def stop(self) -> Operation[None]: ...
    def close(self) -> Operation[None]: ...
    def downloads(self) -> Operation[builtins.list[Path]]: ...
    def collect_artifacts(self) -> Operation[Path]: ...
    def screenshot(self, path: _Path, full_page: bool) -> Operation[bytes]:
        """Takes a picture of the page, encoded as the end of the file's name says."""
    def computer(self) -> Computer: ...
    def logs(self, tail: int) -> Operation[str]: ...

@final
class Computer:
    """Mouse and keyboard of a browser session."""
    def screenshot(self) -> Operation[bytes]: ...
    def click(
        self, point: _Point, button: str, keys: builtins.list[str], count: int
    ) -> Operation[None]: ...
    def move_to(self, point: _Point, keys: builtins.list[str]) -> Operation[None]: ...
    def press(self, button: str, keys: builtins.list[str]) -> Operation[None]: ...
    def release(self, button: str, keys: builtins.list[str]) -> Operation[None]: ...
    def drag(
        self, path: builtins.list[_Point], button: str, keys: builtins.list[str]
    ) -> Operation[None]: ...
    def scroll(
        self, point: _Point, delta: _Point, keys: builtins.list[str]
    ) -> Operation[None]: ...
    def type_text(self, text: str) -> Operation[None]: ...
    def press_keys(self, keys: builtins.list[str], seconds: float) -> Operation[None]: ...
    def wait(self, seconds: float) -> Operation[None]: ...
    def pointer(self) -> Operation[_Point]: ...
    def current_url(self) -> Operation[str]: ...
    def goto(self, url: str) -> Operation[None]: ...
    def dialog(self) -> Operation[tuple[str, str, str] | None]:
        """Kind, message and default text of the dialog that the page shows."""
    def answer_dialog(self, accept: bool, text: str | None) -> Operation[None]: ...

def check_browser(asked: Browser) -> tuple[int, int]: ...
def create_browser(
    asked: Browser, data_dir: _Path | None, bundled: _Path
) -> Operation[Created[BrowserSession]]: ...
def open_browser(
    session_id: str, data_dir: _Path | None, bundled: _Path
) -> BrowserSession: ...
def list_browsers(
    data_dir: _Path | None, bundled: _Path
) -> Operation[builtins.list[BrowserInfo]]: ...
def create(
    spec: Spec, data_dir: _Path | None, bundled: _Path
) -> Operation[Created[Sandbox]]: ...
def open(vm_id: str, data_dir: _Path | None, bundled: _Path) -> Sandbox: ...
def list(
    data_dir: _Path | None, bundled: _Path, labels: dict[str, str]
) -> builtins.list[Info]: ...
def reap(data_dir: _Path | None, bundled: _Path) -> builtins.list[str]: ...
def build_image(image: Image, bundled: _Path) -> Operation[tuple[Path, Path]]: ...
def host_report(bundled: _Path) -> Operation[HostReport]: ...
def image_files(
    name: str, cache_dir: _Path | None, is_looking: bool, bundled: _Path
) -> Operation[tuple[Path, Path] | None]: ...
def ensure_key_pair(directory: _Path, owner: tuple[int, int] | None) -> tuple[Path, Path]: ...
def start_job(
    sandbox: Sandbox, command: CommandArguments, name: str | None, buffer_bytes: int
) -> Operation[str]: ...
def list_jobs(sandbox: Sandbox) -> Operation[builtins.list[JobStatus]]: ...
def wait_job(sandbox: Sandbox, name: str, timeout: float | None) -> Operation[ProcessExit]: ...
def remove_job(sandbox: Sandbox, name: str) -> Operation[None]: ...
def attach_job(sandbox: Sandbox, name: str, cursor: int) -> Operation[AttachedJob]: ...
def check_network(field: str, asked: _Policy) -> _Policy: ...
def check_networks(
    field: str, names: builtins.list[str]
) -> builtins.list[str]: ...
def check_secret(
    field: str, name: str, value: str, hosts: builtins.list[str]
) -> None: ...
def check_http_rules(field: str, rules: builtins.list[str]) -> None: ...
def internet_policy(
    mode: str | None,
    allowed_cidrs: builtins.list[str],
    allowed_domains: builtins.list[str],
) -> _Policy: ...
def policy_of_text(text: str) -> _Policy: ...
def network_policy(sandbox: Sandbox) -> _Policy: ...
def change_network(
    sandbox: Sandbox, asked: _Policy, remove: builtins.list[str]
) -> Operation[None]: ...
def network_log(sandbox: Sandbox) -> Operation[tuple[str, NetworkLog]]: ...
def check_vm_id(vm_id: str) -> None: ...
def check_vm_sizes(vcpus: int | None, memory: int | None, disk: int | None) -> None: ...
def check_vm_times(idle_timeout: float | None, max_lifetime: float | None) -> None: ...
def check_backend(backend: str) -> None: ...
def check_port_forwards(ports: builtins.list[tuple[str, int, int]]) -> None: ...
def check_env_key(key: str) -> None: ...
def known_images() -> builtins.list[str]: ...
def after_fork() -> None: ...
def at_exit() -> None: ...
