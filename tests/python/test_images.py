"""Images of one's own, from Python: built, booted, logged into."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from alpine_mirror import AlpineMirror
from smolvm import (
    HostError,
    HostManager,
    ImageError,
    ImageManager,
    ImageSource,
    LocalImage,
    OperationTimeoutError,
    SmolVM,
    SmolVMError,
    SSHClient,
    VMConfig,
    VMState,
)
from smolvm.build import SSH_BOOT_ARGS, ImageBuilder
from smolvm.utils import ensure_ssh_key


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> AlpineMirror:
    return AlpineMirror(tmp_path_factory.mktemp("alpine"))


def test_keys_are_made_once(tmp_path: Path) -> None:
    private, public = ensure_ssh_key(tmp_path / "keys")
    assert (private, public) == (
        tmp_path / "keys" / "id_ed25519",
        tmp_path / "keys" / "id_ed25519.pub",
    )
    assert private.stat().st_mode & 0o777 == 0o600
    assert public.read_text().startswith("ssh-ed25519 ")
    assert public.read_text().strip().endswith("smolvm-auto")
    before = private.read_bytes()
    assert ensure_ssh_key(str(tmp_path / "keys")) == (private, public)
    assert private.read_bytes() == before


def test_keys_are_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SUDO_USER", raising=False)
    private, _ = ensure_ssh_key()
    assert private == tmp_path / ".smolvm" / "keys" / "id_ed25519"
    assert ImageBuilder().cache_dir == tmp_path / ".smolvm" / "images"


def test_alpine_from_a_mirror_is_a_workspace_that_lasts(
    mirror: AlpineMirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private_key, public_key = ensure_ssh_key(tmp_path / "keys")
    server = mirror.serve()
    monkeypatch.setenv("SMOLVM_ALPINE_MIRROR", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("SMOLVM_ALPINE_MINIROOTFS_SHA256", mirror.minirootfs_sha256)
    builder = ImageBuilder(tmp_path / "images")
    assert builder.check_docker()
    kernel, rootfs = builder.build_alpine_ssh_key(public_key, rootfs_size_mb=128)
    server.shutdown()
    server.server_close()
    assert kernel == tmp_path / "images" / "alpine-ssh-key" / "vmlinux.bin"
    assert rootfs == tmp_path / "images" / "alpine-ssh-key" / "rootfs.ext4"
    assert rootfs.stat().st_size == 128 * 1024 * 1024
    # What is there needs no server.
    assert builder.build_alpine_ssh_key(public_key, rootfs_size_mb=128) == (kernel, rootfs)

    config = VMConfig(
        vm_id="agent-workspace",
        vcpu_count=2,
        mem_size_mib=512,
        kernel_path=kernel,
        rootfs_path=rootfs,
        boot_args=SSH_BOOT_ARGS,
    )
    vm = SmolVM(config, ssh_key_path=str(private_key))
    try:
        vm.start()
        assert vm.run("cat /root/.ssh/authorized_keys").stdout == public_key.read_text()
        assert vm.run("echo kept > /root/work && cat /usr/share/curl").output == "here"
        vm.close()

        again = SmolVM.from_id("agent-workspace")
        assert again.status is VMState.RUNNING
        again.stop()
        assert again.run("cat /root/work", timeout=120).output == "kept"
        again.close()
    finally:
        SmolVM.from_id("agent-workspace").delete()
    assert rootfs.exists()


def test_alpine_with_a_password(mirror: AlpineMirror, tmp_path: Path) -> None:
    builder = ImageBuilder(
        tmp_path,
        alpine_mirror=mirror.path,
        alpine_minirootfs_sha256=mirror.minirootfs_sha256,
    )
    kernel, rootfs = builder.build_alpine_ssh("pass", ssh_password="two words", rootfs_size_mb=128)
    with SmolVM(VMConfig(kernel_path=kernel, rootfs_path=rootfs)) as vm:
        assert vm.run("cat /etc/shadow").stdout.startswith("root:$6$")


def test_mirror_of_the_caller_goes_before_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOLVM_ALPINE_MIRROR", "/nowhere/at-all")
    with pytest.raises(ImageError, match="/nowhere/at-all"):
        ImageBuilder(tmp_path).build_alpine_ssh()
    with pytest.raises(ImageError, match="/somewhere/else"):
        ImageBuilder(tmp_path, alpine_mirror="/somewhere/else").build_alpine_ssh()


def test_what_cannot_be_built_is_refused(tmp_path: Path) -> None:
    builder = ImageBuilder(tmp_path)
    with pytest.raises(ImageError, match="ssh-"):
        builder.build_debian_ssh_key("no key at all")
    with pytest.raises(ImageError, match="name"):
        builder.build_debian_ssh_key("ssh-ed25519 AAAA", name="../up")
    with pytest.raises(ImageError, match="MiB"):
        builder.build_debian_ssh_key("ssh-ed25519 AAAA", rootfs_size_mb=1)
    with pytest.raises(ImageError, match="package"):
        builder.build_debian_ssh_key("ssh-ed25519 AAAA", extra_packages=["--now"])
    with pytest.raises(ImageError, match="base_image"):
        builder.build_debian_ssh_key("ssh-ed25519 AAAA", base_image="fedora:41")
    with pytest.raises(ImageError, match="kernel_url"):
        builder.build_alpine_ssh(kernel_url="http://127.0.0.1/kernel")
    with pytest.raises(ImageError, match="password"):
        builder.build_alpine_ssh(ssh_password="")
    with pytest.raises(ValueError, match="minirootfs_sha256"):
        ImageBuilder(tmp_path, alpine_minirootfs_sha256="zz").build_alpine_ssh()
    assert list(tmp_path.iterdir()) == []


def test_debian_lets_in_whoever_has_the_key(tmp_path: Path) -> None:
    private_key, public_key = ensure_ssh_key(tmp_path / "keys")
    builder = ImageBuilder(tmp_path / "images")
    kernel, rootfs = builder.build_debian_ssh_key(public_key.read_text(), rootfs_size_mb=1024)
    with SmolVM(VMConfig(kernel_path=kernel, rootfs_path=rootfs, boot_args=SSH_BOOT_ARGS)) as vm:
        listens = "for i in $(seq 300); do (: < /dev/tcp/127.0.0.1/22) 2>&- && exit 0; sleep 0.1; done; exit 1"
        assert vm.run(["bash", "-c", listens], timeout=60).ok
        port = vm.expose_local(22)
        with SSHClient(port=port, key_path=private_key) as client:
            client.wait_for_ssh(timeout=60)
            assert client.run("id -un; python3 -c 'print(6*7)'").stdout == "root\n42\n"
            assert client.run("echo \"$PATH\" >&2; exit 3", shell="raw").exit_code == 3
            (tmp_path / "up").write_text("over ssh")
            client.upload_file(tmp_path / "up", "/root/up")
            assert vm.files.read_text("/root/up") == "over ssh"
            client.download_file("/root/up", tmp_path / "down")
            assert (tmp_path / "down").read_text() == "over ssh"
            with pytest.raises(OperationTimeoutError) as caught:
                client.run("echo begun; sleep 60", timeout=5)
            assert caught.value.stdout == "begun\n"
        commands = vm.ssh_commands(key_path=private_key)
        assert commands == {"localhost_port": f"ssh -i {private_key} -p {port} root@127.0.0.1"}
        stranger, _ = ensure_ssh_key(tmp_path / "others")
        with SSHClient(port=port, key_path=stranger) as client:
            with pytest.raises(SmolVMError, match="Permission denied"):
                client.run("true")
            with pytest.raises(OperationTimeoutError):
                client.wait_for_ssh(timeout=1)


def test_prepared_image_has_a_name(vm: SmolVM) -> None:
    manager = ImageManager()
    assert "debian" in manager.list_available()
    # The sandbox that runs was made of it.
    assert manager.is_cached("debian")
    assert "debian" in manager.list_cached()
    image = manager.ensure_image("debian")
    with SmolVM(VMConfig(kernel_path=image.kernel_path, rootfs_path=image.rootfs_path)) as own:
        assert own.run("python3 -c 'print(6*7)'", timeout=120).output == "42"
    with pytest.raises(ImageError, match="no-such"):
        manager.ensure_image("no-such")
    with pytest.raises(ImageError, match="no-such"):
        manager.is_cached("no-such")


def test_nothing_is_ready_in_an_empty_cache(tmp_path: Path) -> None:
    assert ImageManager(tmp_path).list_cached() == []


def test_registered_image_is_what_its_digest_says(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(b"kernel")
    (tmp_path / "root").write_bytes(b"root")
    digest = hashlib.sha256(b"kernel").hexdigest()
    kernel, root = f"file://{tmp_path}/kernel", str(tmp_path / "root")
    manager = ImageManager()
    manager.register(ImageSource("own", kernel, root, kernel_sha256=digest.upper()))
    assert manager.is_cached("own")
    assert manager.ensure_image("own") == LocalImage("own", tmp_path / "kernel", tmp_path / "root")
    manager.register(ImageSource("own", kernel, root, rootfs_sha256=digest))
    with pytest.raises(ImageError, match="rootfs_url.*SHA-256"):
        manager.ensure_image("own")
    manager.register(ImageSource("far", "http://127.0.0.1/kernel", root))
    with pytest.raises(ImageError, match="kernel_url.*not downloaded"):
        manager.ensure_image("far")


def test_host_is_looked_at() -> None:
    host = HostManager()
    assert isinstance(host.check_kvm(), bool)
    # Sandboxes run in these tests, so nothing is missing.
    assert host.check_dependencies() == []
    host.validate()


def test_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "qemu-system-x86_64" in HostManager().check_dependencies()
    with pytest.raises(HostError, match="apt-get install .*qemu-system-x86"):
        HostManager().validate()
