"""SmolVM: a computer of its own for every AI agent.

    from smolvm import SmolVM

    with SmolVM() as vm:
        print(vm.run("uname -a").output)
"""

from smolvm._native import __version__
from smolvm.async_vm import AsyncSmolVM
from smolvm.browser import AsyncBrowserSession, BrowserSession
from smolvm.browser_config import (
    BrowserSessionConfig,
    BrowserSessionInfo,
    BrowserSessionState,
    BrowserViewport,
)
from smolvm.exceptions import (
    BrowserSessionAlreadyExistsError,
    BrowserSessionNotFoundError,
    CommandExecutionUnavailableError,
    CommandOverError,
    FirecrackerAPIError,
    GuestFileError,
    GuestFileNotFoundError,
    HostError,
    ImageError,
    NetworkError,
    OperationTimeoutError,
    SandboxEndedError,
    SmolVMError,
    SnapshotAlreadyExistsError,
    SnapshotNotFoundError,
    ValidationError,
    VMAlreadyExistsError,
    VMNotFoundError,
)
from smolvm.host import HostManager
from smolvm.images.builder import SSH_BOOT_ARGS, ImageBuilder
from smolvm.images.local import ImageManager, ImageSource, LocalImage
from smolvm.inventory import SmolVMManager
from smolvm.network import NetworkCause, NetworkEvent, NetworkPolicy
from smolvm.process import AsyncProcess, Process
from smolvm.secrets import Secret
from smolvm.ssh import SSHClient
from smolvm.types import (
    CommandResult,
    FileInfo,
    GuestOS,
    JobOutput,
    JobStatus,
    NetworkConfig,
    PortForward,
    ProcessExit,
    VMConfig,
    VMInfo,
    VMState,
)
from smolvm.unavailable import SnapshotArtifacts, SnapshotInfo
from smolvm.vm import SmolVM

__all__ = [
    "AsyncBrowserSession",
    "AsyncProcess",
    "AsyncSmolVM",
    "BrowserSession",
    "BrowserSessionAlreadyExistsError",
    "BrowserSessionConfig",
    "BrowserSessionInfo",
    "BrowserSessionNotFoundError",
    "BrowserSessionState",
    "BrowserViewport",
    "CommandExecutionUnavailableError",
    "CommandOverError",
    "CommandResult",
    "FileInfo",
    "FirecrackerAPIError",
    "GuestFileError",
    "GuestFileNotFoundError",
    "GuestOS",
    "HostError",
    "HostManager",
    "ImageBuilder",
    "ImageError",
    "ImageManager",
    "ImageSource",
    "JobOutput",
    "JobStatus",
    "LocalImage",
    "NetworkCause",
    "NetworkConfig",
    "NetworkError",
    "NetworkEvent",
    "NetworkPolicy",
    "OperationTimeoutError",
    "PortForward",
    "Process",
    "ProcessExit",
    "SSHClient",
    "SSH_BOOT_ARGS",
    "SandboxEndedError",
    "Secret",
    "SmolVM",
    "SmolVMError",
    "SmolVMManager",
    "SnapshotAlreadyExistsError",
    "SnapshotArtifacts",
    "SnapshotInfo",
    "SnapshotNotFoundError",
    "VMAlreadyExistsError",
    "VMConfig",
    "VMInfo",
    "VMNotFoundError",
    "VMState",
    "ValidationError",
    "__version__",
]
