"""Sandboxes: :class:`SmolVM`. :class:`AsyncSmolVM` has the same methods, to be awaited.

Both make the same operations of the extension module; one waits for them, the other awaits them.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from smolvm import _native
from smolvm.aliases import AwaitedNames
from smolvm.exceptions import OperationTimeoutError, SmolVMError
from smolvm.files import Files, PathLike
from smolvm.handle import BUNDLED, check_ports, vm_info, warn
from smolvm.jobs import Jobs
from smolvm.network import Network
from smolvm.process import Command, Process, arguments
from smolvm.types import CommandResult, VMInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from smolvm.browser import BrowserSession
    from smolvm.process import ExecOptions, RunOptions

__all__ = ["SmolVM"]


class SmolVM(AwaitedNames):
    """A computer of its own for a program: a microVM with a disk of its own.

    Constructing creates the sandbox and does not start it; :meth:`run` does when needed. One
    without a name of its own goes when this process ends, unless :meth:`close` let go of it while
    it was running. Any thread may use any handle.
    """

    @property
    def files(self) -> Files:
        """The guest's files."""
        return Files(self._native)

    @property
    def jobs(self) -> Jobs:
        """The guest's jobs: commands that outlive this process."""
        return Jobs(self._native)

    @property
    def network(self) -> Network:
        """What it may reach and has reached."""
        return Network(self._native)

    @classmethod
    def from_id(
        cls,
        vm_id: str,
        *,
        data_dir: PathLike | None = None,
        socket_dir: PathLike | None = None,
        backend: str | None = None,
        ssh_user: str = "root",
        ssh_key_path: PathLike | None = None,
    ) -> SmolVM:
        """Returns a handle on an existing sandbox, of this process or of another."""
        # Not the constructor, for which no name means a new sandbox.
        handle = cls.__new__(cls)
        handle._open(vm_id, data_dir)
        handle._ssh_user, handle._ssh_key_path = ssh_user, ssh_key_path
        return handle

    @staticmethod
    def list(
        *, labels: Mapping[str, str] | None = None, data_dir: PathLike | None = None
    ) -> list[VMInfo]:
        """Returns all sandboxes, by name; with ``labels`` those that have all of them."""
        known = _native.list(data_dir, BUNDLED, dict(labels or {}))
        return [vm_info(sandbox) for sandbox in known]

    @staticmethod
    def browser(
        *, headless: bool = True, data_dir: PathLike | None = None, **options: Any
    ) -> BrowserSession:
        """Returns a new session of Chromium in a sandbox of its own, which ``with`` starts.

        The options are those of :class:`BrowserSessionConfig`; without ``headless`` people can
        watch.
        """
        from smolvm.browser import BrowserSession
        from smolvm.browser_config import BrowserSessionConfig

        config = BrowserSessionConfig(**{"mode": "headless" if headless else "live", **options})
        return BrowserSession(config, data_dir=data_dir)

    @property
    def info(self) -> VMInfo:
        """What is known of the sandbox now."""
        return vm_info(self._native.full_info().wait())

    def start(self, boot_timeout: float | None = None) -> SmolVM:
        """Starts the sandbox and waits until it takes commands; nothing when it runs.

        The guest has ``boot_timeout`` seconds to come up, or as many as its engine allows: 30,
        and 120 where a processor is emulated. Raises :class:`OperationTimeoutError` otherwise.
        """
        self._native.start(boot_timeout).wait()
        return self

    def stop(self, timeout: float = 3.0) -> SmolVM:
        """Shuts the guest down; after ``timeout`` seconds it is killed. The disk is kept."""
        self._native.stop(timeout).wait()
        return self

    def pause(self) -> SmolVM:
        """Holds the sandbox still, with its memory; its ports are closed until it goes on."""
        self._native.pause().wait()
        return self

    def resume(self) -> SmolVM:
        """Lets a paused sandbox go on; :meth:`start` does, too."""
        self._native.resume().wait()
        return self

    def expose_local(self, guest_port: int, host_port: int | None = None) -> int:
        """Makes a port of the guest reachable on 127.0.0.1, until the sandbox stops.

        Returns the port on the host: another one than ``host_port`` when that is taken. The same
        pair again is the same port.
        """
        check_ports(guest_port, host_port)
        return self._native.forward(guest_port, host_port).wait()

    def unexpose_local(self, host_port: int, guest_port: int) -> SmolVM:
        """Closes an exposed port and its connections."""
        check_ports(guest_port, host_port)
        self._native.unforward(host_port, guest_port).wait()
        return self

    def ssh_commands(
        self,
        *,
        ssh_user: str | None = None,
        key_path: PathLike | None = None,
        public_host: str | None = None,
    ) -> dict[str, str]:
        """Returns commands that log in with SSH, where the guest's image has a server.

        ``localhost_port`` is the only one: guests have no address that others could reach. It
        works until the sandbox stops.
        """
        import shlex

        key = self._ssh_key_path if key_path is None else key_path
        identity = [] if key is None else ["-i", str(key)]
        user = ssh_user or self._ssh_user
        port = str(self.expose_local(22))
        return {"localhost_port": shlex.join(["ssh", *identity, "-p", port, f"{user}@127.0.0.1"])}

    def delete(self) -> None:
        """Ends the sandbox, whatever it does, and removes its disk."""
        self._native.delete().wait()

    def close(self) -> None:
        """Lets go of the sandbox. One that runs goes on, also without this process."""
        self._native.close().wait()

    def refresh(self) -> SmolVM:
        """Checks that the sandbox exists; ``info`` and ``status`` are always current."""
        self._native.info()
        return self

    def run(
        self,
        command: Command,
        timeout: float = 30,
        shell: str = "login",
        **options: Unpack[RunOptions],
    ) -> CommandResult:
        """Runs a command and returns how it ended: a line for the guest's shell, or a program.

        A sandbox that is created or stopped is started first; ``timeout`` counts from when it
        runs. ``shell`` is ``login``, which reads the profile, or ``raw``, which does not. The
        options are ``cwd``, ``env``, ``user``, and limits of ``memory`` in MiB, ``cpus`` and
        ``max_processes``.

        Raises :class:`OperationTimeoutError` with the output so far when it takes longer.
        """
        return self._native.run(arguments(command, options, timeout, shell)).wait()

    @overload
    def exec(
        self, command: Command, *, text: Literal[True], **options: Unpack[ExecOptions]
    ) -> Process[str]: ...

    @overload
    def exec(
        self, command: Command, *, text: Literal[False] = False, **options: Unpack[ExecOptions]
    ) -> Process[bytes]: ...

    def exec(
        self, command: Command, *, text: bool = False, **options: Unpack[ExecOptions]
    ) -> Process[Any]:
        """Starts a command and returns while it runs: a line for the shell, or a program.

        With ``text`` its outputs are strings, of UTF-8 with what is not replaced. The options are
        those of :meth:`run`, ``timeout``, ``shell``, ``stdin`` and ``terminal``.
        """
        return Process(self._native.exec(arguments(command, options), text).wait())

    def set_env_vars(self, env_vars: Mapping[str, str], *, merge: bool = True) -> builtins.list[str]:
        """Sets variables for every login shell from now on. Returns all names present."""
        return self._native.set_env(env_vars, merge).wait()

    def unset_env_vars(self, keys: Sequence[str]) -> dict[str, str]:
        """Removes variables. Returns those that were there, with their values."""
        return self._native.unset_env(list(keys)).wait()

    def list_env_vars(self) -> dict[str, str]:
        """Returns the variables that were set."""
        return self._native.list_env().wait()

    def upload_file(self, local_path: PathLike, remote_path: PathLike) -> None:
        """Copies a file of the host into the guest, in constant memory."""
        self._native.upload_file(local_path, remote_path, True).wait()

    def download_file(self, remote_path: PathLike, local_path: PathLike) -> Path:
        """Copies a file of the guest to the host, in constant memory."""
        self._native.download_file(remote_path, local_path).wait()
        return Path(local_path)

    def wait_for_ready(self, timeout: float = 60.0) -> SmolVM:
        """Waits until the sandbox takes commands, which is when :meth:`start` returns."""
        if not self.run("true", timeout, "raw").ok:
            raise OperationTimeoutError("wait_for_ready", timeout)
        return self

    def wait_for_ssh(self, timeout: float = 60.0) -> SmolVM:
        """The older name of :meth:`wait_for_ready`."""
        return self.wait_for_ready(timeout)

    def __enter__(self) -> SmolVM:
        if self._is_creator:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The creator's sandbox goes with its disk, so it needs no orderly end. Nothing here may
        # hide what the body raised.
        ending = (self.delete,) if self._is_creator else (self.stop, self.close)
        for step in ending:
            try:
                step()
            except SmolVMError as failure:
                warn(self.vm_id, failure)
