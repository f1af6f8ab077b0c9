"""Secrets that never enter the guest, and rules for requests: over TLS, to a server of the test.

The gateway trusts what this host trusts, which here is an authority that the test makes.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from smolvm import NetworkEvent, Secret, SmolVM, ValidationError, VMConfig

HOST = "host.smolvm.internal"
VALUE = "sk-live-7f3a9c2e51"


class _Server(ThreadingHTTPServer):
    """Keeps the ``Authorization`` of each request."""

    def __init__(self, authority: trustme.CA) -> None:
        super().__init__(("127.0.0.1", 0), _Keeper)
        self.seen: list[str | None] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(HOST).configure_cert(context)
        self.socket = context.wrap_socket(self.socket, server_side=True)


class _Keeper(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        authorization = self.headers["Authorization"]
        self.server.seen.append(authorization)
        # Said back, as careless servers do.
        body = f"you are {authorization}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the requests out of the test's output."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """What this host trusts."""
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority: trustme.CA) -> Iterator[_Server]:
    """A server on this host's loopback with a certificate for its name in the guest."""
    with _Server(authority) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def trusting(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Has this host trust the test's authority, and it alone."""
    root = tmp_path / "root.pem"
    authority.cert_pem.write_to_path(root)
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)


def get(url: str) -> str:
    """A request with the secret, as a program in the guest makes it."""
    return f'curl -sS --noproxy "*" --max-time 20 -H "Authorization: Bearer $API_KEY" {url}'


def requests(vm: SmolVM) -> list[NetworkEvent]:
    return [event for event in vm.network.events() if event.type == "request"]


@pytest.mark.usefixtures("trusting")
def test_server_gets_the_value_and_the_guest_never_has_it(server: _Server) -> None:
    url = f"https://{HOST}:{server.server_port}/"
    network = {"allow": [f"{HOST}:{server.server_port}"]}
    with SmolVM(network=network, secrets={"API_KEY": Secret(VALUE, [HOST])}) as vm:
        answer = vm.run(get(url))
        assert answer.ok, answer
        assert server.seen[-1] == f"Bearer {VALUE}"
        assert VALUE not in answer.stdout
        (request,) = requests(vm)
        assert (request.is_allowed, request.fields["secrets"]) == (True, ["API_KEY"])

        program = (
            "import os, urllib.request as r; "
            "key = {'Authorization': 'Bearer ' + os.environ['API_KEY']}; "
            f"print(r.urlopen(r.Request('{url}', headers=key), timeout=20).status)"
        )
        answer = vm.run(f'python3 -c "{program}"')
        assert answer.output == "200", answer
        assert server.seen[-1] == f"Bearer {VALUE}"

        placeholder = vm.run("echo $API_KEY").output
        assert placeholder.startswith("smolvm-secret-API_KEY-")
        assert VALUE not in vm.run("env").stdout
        everywhere = f"grep -rlF {VALUE[:9]}'{VALUE[9:]}' / --exclude-dir=proc --exclude-dir=sys"
        assert vm.run(everywhere, timeout=300).stdout == ""
        # What looks for it does find what is there.
        assert vm.run(f"grep -rlF {placeholder} /etc").output != ""


@pytest.mark.usefixtures("trusting")
def test_secret_outlives_the_machine_and_no_file_but_its_own_has_it(server: _Server) -> None:
    url = f"https://{HOST}:{server.server_port}/"
    network = {"allow": [f"{HOST}:{server.server_port}"]}
    secrets = {"API_KEY": Secret(VALUE, [HOST])}
    vm = SmolVM(VMConfig(vm_id="keeper", network=network, secrets=secrets))
    try:
        directory = vm.data_dir / "sandboxes" / "keeper"
        for _ in range(2):
            assert vm.run(get(url)).ok
            assert server.seen.pop() == f"Bearer {VALUE}"
            assert requests(vm)
            vm.stop()
        value = VALUE.encode()
        having = [path for path in directory.iterdir() if value in path.read_bytes()]
        assert [path.name for path in having] == ["secrets.json"]
        for name in ("secrets.json", "authority.pem"):
            assert (directory / name).stat().st_mode & 0o777 == 0o600
        assert VALUE not in repr(vm.info)
    finally:
        vm.delete()
    assert not directory.exists()


@pytest.mark.usefixtures("trusting")
def test_placeholder_for_another_host_is_refused_and_told(server: _Server) -> None:
    url = f"https://{HOST}:{server.server_port}/"
    network = {"allow": [f"{HOST}:{server.server_port}"]}
    secrets = {
        "API_KEY": Secret(VALUE, ["api.example.com"]),
        "OTHER": Secret("other-value-123", [HOST]),
    }
    with SmolVM(network=network, secrets=secrets) as vm:
        before = list(server.seen)
        answer = vm.run(get(url) + " -o /dev/null -w '%{http_code}'")
        assert answer.output == "403"
        assert server.seen == before
        (request,) = requests(vm)
        assert request.is_allowed is False
        assert "API_KEY" in str(request.rule)


@pytest.mark.usefixtures("trusting")
def test_http_rules_decide_request_by_request(server: _Server) -> None:
    url = f"https://{HOST}:{server.server_port}"
    network = {"allow": [f"{HOST}:{server.server_port}"]}
    with SmolVM(network=network, http_rules=[f"GET {HOST}/v1/*"]) as vm:
        code = " -o /dev/null -w '%{http_code}'"
        assert vm.run(get(f"{url}/v1/models") + code).output == "200"
        assert vm.run(get(f"{url}/admin") + code).output == "403"
        assert vm.run(get(f"{url}/v1/models") + " -X DELETE" + code).output == "403"
        assert [event.is_allowed for event in requests(vm)] == [True, False, False]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"secrets": {"API_KEY": VALUE}}, "secrets.API_KEY: not a Secret"),
        ({"secrets": {"API-KEY": Secret(VALUE, [HOST])}}, "secrets.API-KEY: a secret's name"),
        ({"secrets": {"API_KEY": Secret("short", [HOST])}}, "secrets.API_KEY: .*5 bytes"),
        ({"secrets": {"API_KEY": Secret(VALUE, [])}}, "secrets.API_KEY: .*no host"),
        ({"secrets": {"API_KEY": Secret(VALUE, ["*"])}}, "secrets.API_KEY: .*anybody"),
        ({"secrets": {"API_KEY": Secret(VALUE, ["a b"])}}, r"secrets.API_KEY.hosts.0: 'a b'"),
        ({"secrets": [VALUE]}, "secrets: not a mapping"),
        ({"http_rules": ["get a.example"]}, r"http_rules\.0: .*column 1"),
        ({"http_rules": "GET a.example"}, "http_rules: .*not a list"),
    ],
)
def test_secret_that_is_not_legal_is_named_without_its_value(
    options: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint) as caught:
        VMConfig(**options)
    assert VALUE not in str(caught.value)


def test_value_of_a_secret_must_be_one() -> None:
    with pytest.raises(ValidationError, match="is the variable set"):
        Secret(None, [HOST])  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="not a list of names"):
        Secret(VALUE, HOST)
    assert VALUE not in repr(Secret(VALUE, [HOST]))
    config = VMConfig(secrets={"API_KEY": Secret(VALUE, [HOST])})
    assert VALUE not in repr(config) + repr(config.model_dump())
