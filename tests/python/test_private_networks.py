"""Sandboxes that reach each other by name, as members of the same private network."""

from __future__ import annotations

import asyncio

import pytest

from smolvm import AsyncSmolVM, SmolVM, ValidationError, VMConfig

SERVE = """python3 - <<'END'
import os, socket
server = socket.create_server(("0.0.0.0", 7000))
if os.fork(): os._exit(0)
os.setsid()
for stream in (0, 1, 2): os.close(stream)
while True:
    connection, _ = server.accept()
    connection.sendall(b"hello")
    connection.close()
END"""


def ask(name: str) -> str:
    """A command that prints ``hello`` where the guest reaches the server of a peer."""
    return (
        "python3 -c 'import socket; "
        f'print(socket.create_connection(("{name}", 7000), 30).recv(5).decode())\''
    )


def test_members_reach_each_other_by_their_names() -> None:
    with SmolVM(networks=["team"]) as db, SmolVM(networks=["team"], network="restricted") as web:
        assert db.run(SERVE).ok
        assert web.run(ask(db.vm_id)).output == "hello"
        assert web.info.config.networks == ["team"]
        (incoming,) = [event for event in db.network.events() if event.type == "incoming"]
        assert incoming.fields["peer"] == web.vm_id
        assert (incoming.is_allowed, incoming.rule) == (True, "network: team")

        db.network.deny(f"from {web.vm_id}:7000")
        assert db.network.policy().deny == (f"from {web.vm_id}:7000",)
        assert not web.run(ask(db.vm_id)).ok
        db.network.remove(f"deny from {web.vm_id}:7000")
        assert web.run(ask(db.vm_id)).output == "hello"


def test_sandbox_without_the_network_finds_nobody() -> None:
    async def main() -> None:
        async with AsyncSmolVM(networks=["team"]) as db, AsyncSmolVM() as other:
            assert (await db.run(SERVE)).ok
            assert not (await other.run(ask(db.vm_id))).ok
            assert other.info.config.networks == []

    asyncio.run(main())


def test_network_that_is_named_twice_is_one() -> None:
    assert VMConfig(networks=("team", "lab", "team")).networks == ["team", "lab"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"networks": "team"}, "networks: 'team' is not a list of strings"),
        ({"networks": ["team", 7]}, r"networks\.1: 7 is not a string"),
        ({"networks": ["team", "../team"]}, r"networks\.1: invalid network name"),
        ({"networks": [f"n{number}" for number in range(17)]}, "networks: 17 networks"),
        ({"network": {"deny": ["from example.com"]}}, r"network\.deny\.0: .*column 11"),
        ({"network": {"allow": ["from web"]}}, r"network\.allow\.0: .*column 7"),
    ],
)
def test_what_is_not_legal_is_named(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        VMConfig(**options)
    with pytest.raises(ValidationError, match=complaint):
        SmolVM(**options)  # type: ignore[arg-type]


def test_name_that_nobody_could_ask_for_cannot_join() -> None:
    with pytest.raises(ValidationError, match="63 characters"):
        SmolVM(VMConfig(vm_id="x" * 64, networks=["team"]))
