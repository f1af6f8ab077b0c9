"""Images by name: those that are prepared here, and those of files that are registered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from smolvm import _native
from smolvm.exceptions import ImageError
from smolvm.files import PathLike
from smolvm.handle import BUNDLED
from smolvm.record import Record

__all__ = ["ImageManager", "ImageSource", "LocalImage"]

_DEFAULT_BOOT_ARGS = "console=ttyS0 reboot=k panic=1 pci=off"


class ImageSource(Record):
    """Where an image of one's own is: paths or ``file://`` URLs, and their SHA-256 if it counts."""

    name: str
    kernel_url: str
    rootfs_url: str
    kernel_sha256: str | None = None
    rootfs_sha256: str | None = None
    boot_args: str = _DEFAULT_BOOT_ARGS


class LocalImage(Record):
    """Files that ``VMConfig`` takes."""

    name: str
    kernel_path: Path
    rootfs_path: Path
    boot_args: str = _DEFAULT_BOOT_ARGS


class ImageManager:
    """Prepares images by name. ``registry`` adds some of one's own."""

    def __init__(
        self,
        cache_dir: PathLike | None = None,
        registry: Mapping[str, ImageSource] | None = None,
    ) -> None:
        self._cache_dir = cache_dir
        self._registry = dict(registry or {})

    def register(self, source: ImageSource) -> None:
        """Adds an image of one's own."""
        self._registry[source.name] = source

    def list_available(self) -> list[str]:
        """Returns the names there are."""
        return sorted({*_native.known_images(), *self._registry})

    def list_cached(self) -> list[str]:
        """Returns the names of the images that are ready."""
        return [name for name in self.list_available() if self.is_cached(name)]

    def is_cached(self, name: str) -> bool:
        """Whether an image is ready."""
        if (source := self._registry.get(name)) is not None:
            return _file(source.kernel_url).is_file() and _file(source.rootfs_url).is_file()
        return _native.image_files(name, self._cache_dir, True, BUNDLED).wait() is not None

    def ensure_image(self, name: str) -> LocalImage:
        """Returns an image, preparing it when it is not ready: that takes minutes, once."""
        if (source := self._registry.get(name)) is not None:
            kernel = _checked("kernel_url", source.kernel_url, source.kernel_sha256)
            rootfs = _checked("rootfs_url", source.rootfs_url, source.rootfs_sha256)
            return LocalImage(name, kernel, rootfs, source.boot_args)
        files = _native.image_files(name, self._cache_dir, False, BUNDLED).wait()
        if files is None:
            raise ImageError(f"image '{name}' is not there after it was prepared")
        return LocalImage(name, *files)


def _file(location: str) -> Path:
    return Path(location.removeprefix("file://"))


def _checked(field: str, location: str, sha256: str | None) -> Path:
    if "://" in location and not location.startswith("file://"):
        raise ImageError(f"{field}: {location} is not a file; images are not downloaded")
    path = _file(location)
    if not path.is_file():
        raise ImageError(f"{field}: {path} is not a file")
    if sha256 is not None:
        import hashlib

        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        if digest.hexdigest() != sha256.lower():
            raise ImageError(f"{field}: the SHA-256 of {path} is {digest.hexdigest()}")
    return path.absolute()
