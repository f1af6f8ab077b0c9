"""What a sandbox may reach: rules at creation and live, and the events that tell of it.

The only address behind the rules is this host's loopback, as ``host.smolvm.internal``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from smolvm import (
    AsyncSmolVM,
    NetworkEvent,
    NetworkPolicy,
    SmolVM,
    ValidationError,
    VMConfig,
    VMNotFoundError,
)

HOST = "host.smolvm.internal"


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the requests out of the test's output."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server on this host's loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hello) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def box() -> Iterator[SmolVM]:
    """A sandbox that reaches nothing until a test allows it."""
    with SmolVM(network="restricted") as vm:
        yield vm


def fetch(port: int) -> str:
    """A command that says ``hello`` where the guest reaches the server."""
    return f"curl -s --noproxy '*' --max-time 10 http://{HOST}:{port}/"


def connections(events: list[NetworkEvent], port: int) -> list[tuple[bool | None, str | None]]:
    """The verdicts on connections to a port, with what decided them."""
    return [
        (event.is_allowed, event.rule)
        for event in events
        if event.type == "connection" and event.fields["destination"].endswith(f":{port}")
    ]


def test_rules_change_while_the_sandbox_runs(box: SmolVM, port: int) -> None:
    rule = f"{HOST}:{port}"
    assert not box.run(fetch(port)).ok
    box.network.allow(rule)
    assert box.network.policy() == NetworkPolicy("restricted", allow=[rule])
    assert box.run(fetch(port)).output == "hello"
    box.network.deny(rule)
    assert not box.run(fetch(port)).ok
    box.network.remove(f"allow {rule}", f"deny {rule}")
    assert box.network.policy() == NetworkPolicy("restricted")
    assert not box.run(fetch(port)).ok
    box.network.set("open", allow=[rule])
    assert box.run(fetch(port)).output == "hello"
    box.network.set("restricted")
    assert not box.run(fetch(port)).ok


def test_events_tell_what_was_decided_and_by_which_rule(box: SmolVM, port: int) -> None:
    rule = f"{HOST}:{port}"
    seen = len(list(box.network.events()))
    box.network.set("restricted", allow=[rule])
    assert box.run(fetch(port)).ok
    box.network.set("restricted", deny=[rule])
    assert not box.run(fetch(port)).ok
    events = list(box.network.events())[seen:]
    assert [event.type for event in events].count("policy") == 2
    (asked, *_) = [event for event in events if event.type == "dns"]
    assert (asked.fields["name"], asked.is_allowed) == (HOST, True)
    verdicts = connections(events, port)
    assert verdicts[0] == (True, f"allow {rule}")
    assert all(verdict == (True, f"allow {rule}") for verdict in verdicts if verdict[0])
    sequences = [event.sequence for event in events]
    assert sequences == sorted(set(sequences))
    assert all(event.time > 1_600_000_000 for event in events)


def test_events_are_followed_until_the_sandbox_ends(port: int) -> None:
    rule = f"{HOST}:{port}"
    with SmolVM(network=NetworkPolicy(allow=[rule])) as vm:
        assert vm.run(fetch(port)).output == "hello"
        following = vm.network.events(follow=True)
        first = next(event for event in following if event.type == "connection")
        assert first.is_allowed
        assert first.fields["destination"].endswith(f":{port}")
        seen: list[NetworkEvent] = []
        follower = threading.Thread(target=lambda: seen.extend(following))
        follower.start()
        assert vm.run(fetch(port)).output == "hello"
        vm.stop()
        follower.join(timeout=60)
        assert not follower.is_alive()
        assert (True, f"allow {rule}") in connections(seen, port)


def test_awaited_network(port: int) -> None:
    rule = f"{HOST}:{port}"

    async def main() -> None:
        async with AsyncSmolVM(network={"mode": "restricted"}) as vm:
            assert not (await vm.run(fetch(port))).ok
            await vm.network.allow(rule)
            assert (await vm.run(fetch(port))).output == "hello"
            async for event in vm.network.events(follow=True):
                if event.type == "connection" and event.is_allowed:
                    break
            await vm.network.remove(f"allow {rule}")
            await vm.network.deny("203.0.113.0/24")
            assert (await vm.network.policy()).deny == ("203.0.113.0/24",)
            await vm.network.set("open")
            assert await vm.network.policy() == NetworkPolicy("open")

    asyncio.run(main())


def test_policy_is_kept_and_changed_at_rest(
    port: int, python: Callable[[str], CompletedProcess[str]]
) -> None:
    config = VMConfig(vm_id="guarded", network="restricted", network_rate_limit_mbps=100)
    vm = SmolVM(config)
    try:
        changed = python(
            "from smolvm import SmolVM; "
            f"SmolVM.from_id('guarded').network.allow('{HOST}:{port}')"
        )
        assert changed.returncode == 0, changed.stderr
        info = vm.info
        assert info.config.network == NetworkPolicy("restricted", allow=[f"{HOST}:{port}"])
        assert info.config.network_rate_limit_mbps == 100
        assert vm.run(fetch(port)).output == "hello"
    finally:
        vm.delete()
    with pytest.raises(VMNotFoundError):
        vm.network.policy()


def test_addresses_are_those_of_the_guest(box: SmolVM) -> None:
    network = box.info.network
    assert network is not None
    assert network.guest_ip is not None
    assert network.guest_ip in box.run("ip -4 addr show").stdout
    assert f"via {network.gateway_ip}" in box.run("ip route").stdout
    assert network.guest_mac in box.run("cat /sys/class/net/*/address").stdout.split()
    assert network.netmask == "255.255.255.0"


def test_sandbox_without_a_network_has_no_addresses() -> None:
    with SmolVM(network="off") as vm:
        network = vm.info.network
        assert network is not None
        assert (network.guest_ip, network.guest_mac) == (None, None)
        assert vm.run("ls /sys/class/net").output == "lo"


@pytest.mark.parametrize(
    ("network", "mode", "allow"),
    [
        ("off", "off", ()),
        ({"allow": ["Example.COM:443"]}, "restricted", ("example.com:443",)),
        ({"deny": ["example.com"]}, "open", ()),
        ({"mode": "open", "allow": ["10.0.0.0/8"]}, "open", ("10.0.0.0/8",)),
        (NetworkPolicy("restricted"), "restricted", ()),
    ],
)
def test_policy_is_written_in_several_ways(
    network: object, mode: str, allow: tuple[str, ...]
) -> None:
    policy = VMConfig(network=network).network
    assert policy is not None
    assert (policy.mode, policy.allow) == (mode, allow)


def test_policy_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "policy"
    file.write_text("# what the build needs\nrestricted\n  allow pypi.org:443\n  deny 192.0.2.1\n")
    policy = NetworkPolicy.from_file(file)
    assert policy == NetworkPolicy("restricted", allow=["pypi.org:443"], deny=["192.0.2.1"])
    file.write_text("allow pypi.org\nallow pypi.org:0\n")
    with pytest.raises(ValidationError, match='network.*line 2: rule "allow pypi.org:0", column 16'):
        NetworkPolicy.from_file(file)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mode": "off"}, NetworkPolicy("off")),
        (
            {"allowed_domains": ["https://api.example.com"]},
            NetworkPolicy(allow=["api.example.com"]),
        ),
        ({"allowed_domains": ["*"]}, NetworkPolicy("open", allow=["*"])),
        (
            {"mode": "restricted", "allowed_cidrs": ["203.0.113.0/24"]},
            NetworkPolicy("restricted", allow=["203.0.113.0/24/any"]),
        ),
        ({}, NetworkPolicy("open")),
    ],
)
def test_older_settings_mean_a_policy(
    settings: dict[str, object], expected: NetworkPolicy
) -> None:
    vm = SmolVM(internet_settings=settings)
    try:
        assert vm.network.policy() == expected
    finally:
        vm.delete()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"network": "closed"}, r"network\.mode: .*closed"),
        ({"network": 7}, "network: 7"),
        ({"network": {"allowed": []}}, "network: 'allowed' is none of mode, allow, deny"),
        ({"network": {"allow": "example.com"}}, r"network\.allow: 'example\.com' is not a list"),
        ({"network": {"allow": ["a.example", "a.example:0"]}}, r"network\.allow\.1: .*column 17"),
        ({"network": {"deny": ["10.0.0.1/8"]}}, r"network\.deny\.0: .*column"),
        ({"network": {"deny": [None]}}, r"network\.deny\.0: None is not a string"),
        ({"internet_settings": {"mode": "closed"}}, r'internet_settings\["mode"\]'),
        ({"internet_settings": {"domains": []}}, "internet_settings: 'domains'"),
        (
            {"internet_settings": {"allowed_cidrs": ["10.0.0.1/8"]}},
            r'internet_settings\["allowed_cidrs"\]\[0\]: .*column',
        ),
        ({"network": "open", "internet_settings": {}}, "network or internet_settings"),
        ({"network_rate_limit_mbps": 0}, "network_rate_limit_mbps"),
    ],
)
def test_policy_that_is_not_legal_is_named(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        VMConfig(**options)
    with pytest.raises(ValidationError, match=complaint):
        SmolVM(**options)  # type: ignore[arg-type]


def test_change_that_is_not_legal_changes_nothing(box: SmolVM) -> None:
    before = box.network.policy()
    with pytest.raises(ValidationError, match=r"allow\.1: .*column"):
        box.network.allow("a.example", "a.example:0")
    with pytest.raises(ValidationError, match="there is no rule 'allow b.example'"):
        box.network.remove("allow b.example")
    with pytest.raises(ValidationError, match=r"remove\.0: .*column 1"):
        box.network.remove("b.example")
    with pytest.raises(ValidationError, match="closed"):
        box.network.set("closed")
    assert box.network.policy() == before
