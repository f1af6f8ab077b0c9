"""What can go wrong. Every exception of this package is a :class:`SmolVMError`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = [
    "BridgeTapOwnershipError",
    "BrowserSessionAlreadyExistsError",
    "BrowserSessionNotFoundError",
    "CommandBlockedError",
    "CommandExecutionUnavailableError",
    "CommandOverError",
    "FirecrackerAPIError",
    "GuestFileError",
    "GuestFileNotFoundError",
    "HostError",
    "ImageError",
    "NetworkError",
    "OperationTimeoutError",
    "SandboxEndedError",
    "SmolVMError",
    "SnapshotAlreadyExistsError",
    "SnapshotNotFoundError",
    "VMAlreadyExistsError",
    "VMNotFoundError",
    "ValidationError",
    "VsockNotSupportedError",
    "WorkerNodeSecurityError",
]


class SmolVMError(Exception):
    """Base of everything this package raises; ``details`` holds data for programs."""

    message: str
    details: dict[str, Any]

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = dict(details or {})

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Callable[..., SmolVMError], tuple[Any, ...]]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(
    cls: type[SmolVMError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> SmolVMError:
    # Constructors differ; what they have set does not.
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class ValidationError(SmolVMError, ValueError):
    """A value that the caller gave is not legal; the message names it."""


class NetworkError(SmolVMError):
    """The network cannot be used."""


class HostError(SmolVMError):
    """This host cannot do it, or failed: a file, a process, a lack of space."""


class ImageError(SmolVMError):
    """An image does not exist or cannot be made."""


class VMAlreadyExistsError(SmolVMError):
    """A sandbox has this name already."""

    def __init__(self, vm_id: str) -> None:
        super().__init__(f"VM '{vm_id}' already exists", {"vm_id": vm_id})
        self.vm_id = vm_id


class VMNotFoundError(SmolVMError):
    """No sandbox has this name."""

    def __init__(self, vm_id: str) -> None:
        super().__init__(f"VM '{vm_id}' not found", {"vm_id": vm_id})
        self.vm_id = vm_id


class SnapshotAlreadyExistsError(SmolVMError):
    """A snapshot has this name already."""

    def __init__(self, snapshot_id: str) -> None:
        message = f"Snapshot '{snapshot_id}' already exists"
        super().__init__(message, {"snapshot_id": snapshot_id})
        self.snapshot_id = snapshot_id


class SnapshotNotFoundError(SmolVMError):
    """No snapshot has this name."""

    def __init__(self, snapshot_id: str) -> None:
        super().__init__(f"Snapshot '{snapshot_id}' not found", {"snapshot_id": snapshot_id})
        self.snapshot_id = snapshot_id


class BrowserSessionAlreadyExistsError(SmolVMError):
    """A browser session has this name already."""

    def __init__(self, session_id: str) -> None:
        message = f"Browser session '{session_id}' already exists"
        super().__init__(message, {"session_id": session_id})
        self.session_id = session_id


class BrowserSessionNotFoundError(SmolVMError):
    """No browser session has this name."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Browser session '{session_id}' not found", {"session_id": session_id})
        self.session_id = session_id


class FirecrackerAPIError(SmolVMError):
    """For clients that name it; this implementation does not use Firecracker."""

    def __init__(self, message: str, status_code: int | None = None) -> None:
        super().__init__(message, {"status_code": status_code})
        self.status_code = status_code


class WorkerNodeSecurityError(SmolVMError):
    """For clients that name it; ``smolvm doctor`` says what it said."""


class BridgeTapOwnershipError(NetworkError):
    """For clients that name it; there are no bridges and TAP devices."""


class CommandBlockedError(SmolVMError):
    """For clients that name it; no command is blocked."""


class VsockNotSupportedError(SmolVMError):
    """For clients that name it; guests are not reached through vsock."""


class OperationTimeoutError(SmolVMError):
    """Something took longer than the caller allowed.

    After a command's timeout the command and all that it started are gone, the sandbox is not,
    and ``stdout`` and ``stderr`` hold what the command had written.
    """

    stdout: str
    stderr: str

    def __init__(self, operation: str, timeout_seconds: float) -> None:
        super().__init__(
            f"Operation '{operation}' timed out after {timeout_seconds}s",
            {"operation": operation, "timeout_seconds": timeout_seconds},
        )
        self.operation = operation
        self.timeout_seconds = timeout_seconds
        self.stdout = ""
        self.stderr = ""

    def add_hint(self, hint: str) -> None:
        """Says more about why it took long."""
        self.message = f"{self.message}: {hint}"
        self.details["hint"] = hint


class CommandExecutionUnavailableError(SmolVMError):
    """The sandbox runs but takes no commands."""

    def __init__(self, vm_id: str, reason: str, remediation: str | None = None) -> None:
        message = f"Cannot run command in VM '{vm_id}': {reason}"
        if remediation:
            message = f"{message}\n{remediation}"
        super().__init__(message, {"vm_id": vm_id, "reason": reason})
        self.vm_id = vm_id
        self.reason = reason
        self.remediation = remediation


class SandboxEndedError(SmolVMError):
    """The sandbox ended while a command ran.

    ``reason`` is ``sandbox_stopped`` or ``guest_died``; ``details["console_tail"]`` has the last
    lines of a dead guest's console.
    """

    stdout: str
    stderr: str

    def __init__(
        self, message: str, reason: str, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message, {**(details or {}), "reason": reason})
        self.reason = reason
        self.stdout = ""
        self.stderr = ""


class CommandOverError(SmolVMError, BrokenPipeError):
    """The command that was to be written to is over."""


class GuestFileError(SmolVMError):
    """The guest cannot do this with a file."""


class GuestFileNotFoundError(GuestFileError, FileNotFoundError):
    """There is no such file, in the guest or on the host; the message says which."""
