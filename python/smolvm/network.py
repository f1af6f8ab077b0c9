"""What a sandbox may reach and has reached, as ``vm.network``.

A policy is a mode and rules that make exceptions to it::

    vm = SmolVM(network=NetworkPolicy(allow=["pypi.org:443", "*.pythonhosted.org:443"]))
    vm.network.allow("host.smolvm.internal:8080")
    for event in vm.network.events(): ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from smolvm import _native
from smolvm.exceptions import ValidationError
from smolvm.record import Record

if TYPE_CHECKING:
    from smolvm._native import _Policy

__all__ = ["AsyncNetwork", "Network", "NetworkCause", "NetworkEvent", "NetworkPolicy", "internet_policy"]


class NetworkPolicy(Record):
    """What a sandbox may reach.

    ``mode`` is ``off``, ``restricted`` (only what is allowed) or ``open`` (what is public and not
    denied); left out, it is ``restricted`` where something is allowed and ``open`` otherwise. A
    rule is a name, ``*.name``, address or network, with ports and protocol where those matter:
    ``example.com:443``, ``10.0.0.0/8:5432/tcp``. To deny ``from web:5432`` is to keep the sandbox
    ``web`` of the same network from this port. Denied is denied, whatever allows it. Raises a
    :class:`ValidationError` that says where a rule is wrong.
    """

    mode: str
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def __init__(
        self, mode: str | None = None, allow: Iterable[str] = (), deny: Iterable[str] = ()
    ) -> None:
        self._take(_native.check_network("network", _asked("network", mode, allow, deny)))

    def _take(self, parts: _Policy) -> NetworkPolicy:
        mode, allow, deny = parts
        self._fill(mode=mode, allow=tuple(allow), deny=tuple(deny))
        return self

    @classmethod
    def of(cls, given: NetworkPolicy | Mapping[str, Any] | str) -> NetworkPolicy:
        """Returns the policy that a mode, or a mapping with the fields of one, means."""
        if isinstance(given, NetworkPolicy):
            return given
        if isinstance(given, str):
            return cls(given)
        return cls(**_known("network", given, ("mode", "allow", "deny")))

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> NetworkPolicy:
        """Reads a policy as ``smolvm network show`` prints it: the mode, then a rule a line."""
        with open(path, encoding="utf-8") as file:
            return _policy(_native.policy_of_text(file.read()))


def internet_policy(settings: Mapping[str, Any]) -> NetworkPolicy:
    """Returns the policy that ``internet_settings`` mean."""
    field = "internet_settings"
    known = _known(field, settings, ("mode", "allowed_cidrs", "allowed_domains"))
    cidrs = _texts(f"{field}.allowed_cidrs", known.get("allowed_cidrs") or ())
    domains = _texts(f"{field}.allowed_domains", known.get("allowed_domains") or ())
    mode = _mode(field, known.get("mode"))
    return _policy(_native.internet_policy(mode, cidrs, domains))


class NetworkCause(Record):
    """The command that a query or connection comes from, by the guest's word.

    A guest can say what it likes: this is information, and nothing is decided by it.
    """

    #: Its number among the commands that were started in the guest since it booted, from 1.
    exec: int
    #: Its process ID in the guest, which :class:`Process` and :class:`Job` have too.
    pid: int
    #: Name of its program, without arguments, which can be secrets.
    program: str
    #: Name of the job that it is the command of.
    job: str | None = None
    #: Whether it had ended already, and this comes from something that it left running.
    has_ended: bool = False


class NetworkEvent(Record):
    """Something that happened on a sandbox's network."""

    #: ``dns``, ``connection``, ``incoming`` (from a peer), ``name`` (that TLS or HTTP has shown),
    #: ``request``, ``closed``, ``dropped``, ``policy`` or ``lost``.
    type: str
    #: When it happened, in seconds since the Unix epoch.
    time: float
    #: Its number since the sandbox's start, from 0; what is missing is told of by ``lost``.
    sequence: int
    #: What is known of it, by its type.
    fields: dict[str, Any]
    #: What ``dns`` and ``connection`` come from, where it is known. What happens to a connection
    #: later has the same ``connection`` in its fields.
    cause: NetworkCause | None = None

    @property
    def is_allowed(self) -> bool | None:
        """Whether it was allowed; ``None`` where nothing was to be decided."""
        verdict = self.fields.get("verdict")
        return None if verdict is None else bool(verdict["is_allowed"])

    @property
    def rule(self) -> str | None:
        """What decided it, such as the rule ``allow example.com:443`` or ``mode: open``."""
        verdict = self.fields.get("verdict")
        return None if verdict is None else str(verdict["rule"])


class Network:
    """What a sandbox may reach and has reached."""

    def __init__(self, native: _native.Sandbox) -> None:
        self._native = native

    def policy(self) -> NetworkPolicy:
        """Returns what it may reach."""
        return _policy(_native.network_policy(self._native))

    def allow(self, *rules: str) -> None:
        """Allows more, at once where the sandbox runs."""
        _change(self._native, None, allow=rules).wait()

    def deny(self, *rules: str) -> None:
        """Denies more, at once; connections that it denies end."""
        _change(self._native, None, deny=rules).wait()

    def remove(self, *rules: str) -> None:
        """Takes rules back, each as in ``allow example.com:443``; one that is not there raises."""
        _change(self._native, None, remove=rules).wait()

    def set(self, mode: str, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        """Replaces the whole policy, at once."""
        _change(self._native, mode, allow, deny).wait()

    def events(self, follow: bool = False) -> Iterator[NetworkEvent]:
        """Iterates what has happened; with ``follow`` also what happens until the sandbox ends.

        What has happened longest ago is not kept for ever.
        """
        content, log = _native.network_log(self._native).wait()
        yield from _events(content)
        while follow and (more := log.next().wait()) is not None:
            yield from _events(more)


class AsyncNetwork:
    """A :class:`Network` whose methods are awaited."""

    def __init__(self, native: _native.Sandbox) -> None:
        self._native = native

    async def policy(self) -> NetworkPolicy:
        """Returns what it may reach."""
        return _policy(_native.network_policy(self._native))

    async def allow(self, *rules: str) -> None:
        """Allows more; see :meth:`Network.allow`."""
        await _change(self._native, None, allow=rules)

    async def deny(self, *rules: str) -> None:
        """Denies more; see :meth:`Network.deny`."""
        await _change(self._native, None, deny=rules)

    async def remove(self, *rules: str) -> None:
        """Takes rules back; see :meth:`Network.remove`."""
        await _change(self._native, None, remove=rules)

    async def set(self, mode: str, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        """Replaces the whole policy, at once."""
        await _change(self._native, mode, allow, deny)

    async def events(self, follow: bool = False) -> AsyncIterator[NetworkEvent]:
        """Iterates what has happened; see :meth:`Network.events`."""
        content, log = await _native.network_log(self._native)
        for event in _events(content):
            yield event
        while follow and (more := await log.next()) is not None:
            for event in _events(more):
                yield event


def _change(
    native: _native.Sandbox,
    mode: str | None,
    allow: Iterable[str] = (),
    deny: Iterable[str] = (),
    remove: Iterable[str] = (),
) -> _native.Operation[None]:
    asked = _asked("", mode, allow, deny)
    return _native.change_network(native, asked, _texts("remove", remove))


def _policy(parts: _Policy) -> NetworkPolicy:
    return NetworkPolicy.__new__(NetworkPolicy)._take(parts)


def _events(content: str) -> Iterator[NetworkEvent]:
    # Here, as few programs look at events.
    import json

    for record in json.loads(content):
        fields = record["event"]
        kind = fields.pop("type")
        told = record.get("cause")
        cause = None if told is None else NetworkCause(**told)
        yield NetworkEvent(kind, record["time_unix_ms"] / 1000, record["sequence"], fields, cause)


def _asked(field: str, mode: str | None, allow: Iterable[str], deny: Iterable[str]) -> _Policy:
    prefix = f"{field}." if field else ""
    return _mode(field, mode), _texts(f"{prefix}allow", allow), _texts(f"{prefix}deny", deny)


def _mode(field: str, mode: Any) -> str | None:
    if mode is not None and not isinstance(mode, str):
        raise ValidationError(f"{field}.mode: {mode!r} is not a string")
    return mode


def _texts(field: str, given: Any) -> list[str]:
    # A string is a sequence of strings, too, and never meant as one here.
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValidationError(f"{field}: {given!r} is not a list of strings")
    texts = list(given)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValidationError(f"{field}.{index}: {text!r} is not a string")
    return texts


def _known(field: str, given: Any, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ValidationError(f"{field}: {given!r} is not a mapping")
    for name in given:
        if name not in names:
            raise ValidationError(f"{field}: {name!r} is none of {', '.join(names)}")
    return dict(given)
