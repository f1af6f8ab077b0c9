"""Building images of one's own, with an SSH server: without Docker and without root."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from smolvm import _native
from smolvm.exceptions import ImageError
from smolvm.files import PathLike
from smolvm.handle import BUNDLED

__all__ = ["OPENCLAW_BOOT_ARGS", "SSH_BOOT_ARGS", "ImageBuilder"]

#: The kernel's command line of these images, as older clients give it. Our agent is the init, and
#: starts what the image wants started.
SSH_BOOT_ARGS = "console=ttyS0 reboot=k panic=1 pci=off root=/dev/vda rw init=/init"
OPENCLAW_BOOT_ARGS = SSH_BOOT_ARGS

_BASE_IMAGE = "debian:bookworm-slim"


class ImageBuilder:
    """Builds root file systems with an SSH server, and a kernel beside each.

    Every method returns the paths of ``<cache_dir>/<name>/vmlinux.bin`` and ``rootfs.ext4``. What
    is there already and was made of the same is returned at once. ``kernel_profile`` is accepted
    for older clients: ``smolvm kernel use`` chooses the kernel.

    Alpine's files come from Alpine; ``alpine_mirror`` is the URL or directory of a copy,
    ``alpine_minirootfs`` the URL or file of the root file system alone, with its SHA-256 where it
    is not the release that this version pins. The variables ``SMOLVM_ALPINE_MIRROR``,
    ``SMOLVM_ALPINE_MINIROOTFS`` and ``SMOLVM_ALPINE_MINIROOTFS_SHA256`` say the same.
    """

    def __init__(
        self,
        cache_dir: PathLike | None = None,
        *,
        alpine_mirror: PathLike | None = None,
        alpine_minirootfs: PathLike | None = None,
        alpine_minirootfs_sha256: str | None = None,
    ) -> None:
        self.cache_dir = (
            Path.home() / ".smolvm" / "images" if cache_dir is None else Path(cache_dir)
        )
        self._alpine_mirror = alpine_mirror
        self._alpine_minirootfs = alpine_minirootfs
        self._alpine_minirootfs_sha256 = alpine_minirootfs_sha256

    def check_docker(self) -> bool:
        """Whether images can be built: they can, as Docker is not needed."""
        return True

    def docker_requirement_error(self) -> ImageError:
        """For older clients that ask what Docker lacks: nothing."""
        return ImageError("Docker is not needed to build images")

    def build_alpine_ssh(
        self,
        name: str = "alpine-ssh",
        ssh_password: str = "smolvm",
        rootfs_size_mb: int = 512,
        kernel_url: str | None = None,
        kernel_profile: str | None = None,
    ) -> tuple[Path, Path]:
        """Builds an Alpine image that root logs into with a password."""
        return self._build("alpine", name, rootfs_size_mb, kernel_url, password=ssh_password)

    def build_alpine_ssh_key(
        self,
        ssh_public_key: PathLike,
        name: str = "alpine-ssh-key",
        rootfs_size_mb: int = 512,
        kernel_url: str | None = None,
        kernel_profile: str | None = None,
    ) -> tuple[Path, Path]:
        """Builds an Alpine image that root logs into with a key: its text, or its file."""
        return self._build("alpine", name, rootfs_size_mb, kernel_url, public_key=ssh_public_key)

    def build_debian_ssh_key(
        self,
        ssh_public_key: PathLike,
        name: str = "debian-ssh-key",
        rootfs_size_mb: int = 2048,
        base_image: str = _BASE_IMAGE,
        kernel_url: str | None = None,
        kernel_profile: str | None = None,
        *,
        extra_packages: Sequence[str] = (),
    ) -> tuple[Path, Path]:
        """Builds a Debian image that root logs into with a key: its text, or its file."""
        _check_base(base_image)
        return self._build(
            "debian",
            name,
            rootfs_size_mb,
            kernel_url,
            public_key=ssh_public_key,
            packages=extra_packages,
        )

    def build_browser_rootfs(
        self,
        ssh_public_key: PathLike,
        name: str = "browser-chromium",
        rootfs_size_mb: int = 4096,
        base_image: str = _BASE_IMAGE,
        kernel_url: str | None = None,
        kernel_profile: str | None = None,
    ) -> tuple[Path, Path]:
        """Builds a Debian image with Chromium that root logs into with a key."""
        _check_base(base_image)
        return self._build(
            "browser", name, rootfs_size_mb, kernel_url, public_key=ssh_public_key
        )

    def build_openclaw_rootfs(
        self,
        name: str = "openclaw",
        ssh_password: str = "smolvm",
        ssh_public_key: PathLike | None = None,
        rootfs_size_mb: int = 2048,
        kernel_url: str | None = None,
        extra_packages: Sequence[str] | None = None,
        kernel_profile: str | None = None,
    ) -> tuple[Path, Path]:
        """Builds a Debian image with Node.js, for OpenClaw to be installed in."""
        return self._build(
            "openclaw",
            name,
            rootfs_size_mb,
            kernel_url,
            public_key=ssh_public_key,
            password=ssh_password,
            packages=extra_packages or (),
        )

    def _build(
        self,
        recipe: str,
        name: str,
        size_mib: int,
        kernel_url: str | None,
        *,
        public_key: PathLike | None = None,
        password: str | None = None,
        packages: Sequence[str] = (),
    ) -> tuple[Path, Path]:
        if kernel_url is not None:
            raise ImageError(
                "kernel_url: kernels are not downloaded; give VMConfig(kernel_path=) a file"
            )
        image: _native.Image = {
            "recipe": recipe,
            "directory": self.cache_dir,
            "name": name,
            "size_mib": size_mib,
            "public_key": public_key,
            "password": password,
            "packages": list(packages),
            "mirror": self._alpine_mirror,
            "minirootfs": self._alpine_minirootfs,
            "minirootfs_sha256": self._alpine_minirootfs_sha256,
        }
        return _native.build_image(image, BUNDLED).wait()


def _check_base(base_image: str) -> None:
    if os.path.basename(base_image).split(":")[0] != "debian":
        raise ImageError(f"base_image: {base_image!r} is not Debian, which images are made of")
