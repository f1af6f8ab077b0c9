"""Tries what a container engine asks of a kernel, and prints the name of each thing that works."""

import ctypes
import socket
import struct
import subprocess
import tempfile

libc = ctypes.CDLL(None, use_errno=True)

# From the kernel's own table (arch/x86/entry/syscalls/syscall_64.tbl).
SYS_BPF, SYS_IO_URING_SETUP = 321, 425


def shell(script):
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=False)
    return done.returncode == 0 or done.stderr.strip()


def overlay():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as d:
        return shell(
            f"cd {d}; mkdir lower upper work joined; echo below > lower/file;"
            "mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay joined;"
            "echo above > joined/file; umount joined; grep below lower/file; grep above upper/file"
        )


def bridge():
    return shell(
        "ip netns add inside; ip link add bridge0 type bridge;"
        "ip link add outer0 type veth peer name inner0 netns inside;"
        "ip link set outer0 master bridge0 up; ip address add 192.0.2.1/24 dev bridge0;"
        "ip link set bridge0 up; ip -n inside address add 192.0.2.2/24 dev inner0;"
        "ip -n inside link set inner0 up;"
        "ip netns exec inside ping -c 1 -W 5 192.0.2.1; ip link delete bridge0;"
        "ip netns delete inside"
    )


def links():
    return shell(
        "ip link add d0 type veth peer name e0; ip link add link d0 name m0 type macvlan;"
        "ip link add x0 type vxlan id 1 dstport 4789 dev d0; ip link add link d0 name v0 type vlan id 5;"
        "ip link add link d0 name i0 type ipvlan || ip link delete m0;"
        "ip link delete x0; ip link delete v0; ip link delete d0"
    )


def user_namespace():
    return shell("test $(setpriv --reuid=1000 --clear-groups unshare -Urpf id -u) = 0")


def iptables(family, level, option):
    """Asks for a table as iptables-legacy does (ip_tables(7), `IPT_SO_GET_INFO`)."""
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as asked:
        for table in [b"filter", b"nat", b"mangle", b"raw"]:
            # `struct ipt_getinfo`: a name of 32 bytes and 13 numbers; getsockopt(2) reads the name.
            info = ctypes.create_string_buffer(table, 84)
            length = ctypes.c_uint32(84)
            if libc.getsockopt(asked.fileno(), level, option, info, ctypes.byref(length)) != 0:
                return f"{table}: errno {ctypes.get_errno()}"
    return True


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def message(kind, flags, family, resource, data=b""):
    body = struct.pack(">BBH", family, 0, resource) + data
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def nftables():
    """Makes a chain that masquerades, as nft(8) does (linux/netfilter/nf_tables.h)."""
    nested, subsystem, create, ack = 0x8000, 10 << 8, 0x401, 0x4
    table, chain = attribute(1, b"t\0"), b"c\0"
    hook = attribute(1, struct.pack(">I", 4)) + attribute(2, struct.pack(">I", 100))
    expression = attribute(1, b"masq\0") + attribute(2 | nested, b"")
    rule = attribute(4 | nested, attribute(1 | nested, expression))
    hooked = attribute(3, chain) + attribute(4 | nested, hook) + attribute(7, b"nat\0")
    batch = [
        message(0x10, 1, 0, 10),
        message(subsystem | 0, create | ack, socket.AF_INET, 0, table),
        message(subsystem | 3, create | ack, socket.AF_INET, 0, table + hooked),
        message(subsystem | 6, create | 0x800 | ack, socket.AF_INET, 0, table + attribute(2, chain) + rule),
        message(0x11, 1, 0, 10),
    ]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        netlink.settimeout(10)
        netlink.bind((0, 0))
        netlink.send(b"".join(batch))
        errors = []
        while len(errors) < 3:
            answer = netlink.recv(65536)
            while answer:
                length, kind = struct.unpack_from("=IH", answer)
                errors.append(struct.unpack_from("=i", answer, 16)[0] if kind == 2 else kind)
                answer = answer[(length + 3) & ~3 :]
        return errors == [0, 0, 0] or str(errors)


def io_uring():
    parameters = ctypes.create_string_buffer(120)
    return libc.syscall(SYS_IO_URING_SETUP, 4, parameters) >= 0 or ctypes.get_errno()


def bpf():
    # BPF_MAP_CREATE of an array (linux/bpf.h): type 2, keys of 4 bytes, values of 8, one entry.
    asked = ctypes.create_string_buffer(struct.pack("=IIII", 2, 4, 8, 1), 128)
    return libc.syscall(SYS_BPF, 0, asked, 128) >= 0 or ctypes.get_errno()


def has(path, *words):
    def look():
        with open(path, encoding="ascii") as file:
            text = file.read().split()
        return all(word in text for word in words) or " ".join(text)

    return look


def device(path):
    return lambda: shell(f"test -c {path}")


CHECKS = {
    "overlay": overlay,
    "bridge": bridge,
    "links": links,
    "user namespace": user_namespace,
    "iptables": lambda: iptables(socket.AF_INET, socket.SOL_IP, 64),
    "ip6tables": lambda: iptables(socket.AF_INET6, socket.IPPROTO_IPV6, 64),
    "nftables": nftables,
    "io_uring": io_uring,
    "bpf": bpf,
    "controllers": has("/sys/fs/cgroup/cgroup.controllers", "cpuset", "cpu", "io", "memory", "pids"),
    "file systems": has("/proc/filesystems", "ext4", "squashfs", "erofs", "fuse", "9p", "overlay"),
    "fuse": device("/dev/fuse"),
    "tun": device("/dev/net/tun"),
    "loop": device("/dev/loop-control"),
    "vsock": device("/dev/vsock"),
    "config": lambda: shell("zcat /proc/config.gz | grep -x CONFIG_VETH=y"),
}

for name, check in CHECKS.items():
    try:
        outcome = check()
    except OSError as error:
        outcome = str(error)
    print(name if outcome is True else f"{name}: {outcome}")
