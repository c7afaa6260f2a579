"""The lab file: boxes, the wires between them, and what runs in each. TOML, checked as a whole.

1. A box is a network namespace. It has what `ip` would give it: addresses, routes, VXLAN devices, bridges;
   and, where the file says so, `fastpath run` with a config that stands in it as it would in a user's file,
   but for $LAB, the folder of the lab. What it keeps is in a folder of its own there, unless the config
   names another place.
2. What the file does not name it does not make: a device exists because a wire, a bridge or a VXLAN device
   says so.
3. Every error is told with file, line and key, as those of a config are.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from ipaddress import ip_network
from pathlib import Path as FilePath
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError

from ctrl.config import parse
from ctrl.config.finding import ConfigError, Finding, Path, Severity, any_of, given, key_name, nearest
from ctrl.config.positions import line_of, scan
from ctrl.config.schema import Address, Group, Interface, Items, Number, Table, Tables, key
from ctrl.config.table import Read
from ctrl.config.values import as_items_or_one, wrong
from fastpath.model import IPAddress

SUFFIX = ".toml"
FOLDER = "$LAB"
"""In the config of a box: the folder of the lab."""
_DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,15}")  # linux/if.h: IFNAMSIZ, with its zero byte
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


@dataclass(frozen=True, slots=True)
class End:
    """One end of a wire: a device in a box."""

    box: str
    device: str

    def __str__(self) -> str:
        return f"{self.box}/{self.device}"


def _end(value: object) -> End:
    box, slash, device = value.partition("/") if isinstance(value, str) else ("", "", "")
    if not (slash and _NAME.fullmatch(box) and _DEVICE.fullmatch(device)):
        raise wrong()
    return End(box, device)


class WireTable(Table):
    ends: Annotated[tuple[Annotated[End, Read(_end)], ...], Items] = key(
        "Where its two ends are.", 'two ends, each BOX/DEVICE: ["tor1/p1", "host1/up"]',
        min_length=2, max_length=2,
    )  # fmt: skip
    mtu: int = key("The MTU of both ends.", "a number from 576 to 65535", 1500, ge=576, le=65535)


class VxlanTable(Table):
    vni: Number = key("Its network.", "a number from 1 to 16777215")
    group: Group = key(
        "Where its BUM frames go, and what it joins.", "a multicast group above the link-local range"
    )
    under: str = key("The device that it sends by, and whose address is its own.", "a device with an address")


class BoxTable(Table):
    addresses: dict[str, Annotated[tuple[Interface, ...], BeforeValidator(as_items_or_one)]] = key(
        "The addresses of its devices.",
        'an address with its prefix length like "10.0.0.1/24", or a list of such', make=dict,
    )  # fmt: skip
    routes: dict[str, Address] = key("Gateways by prefix.", "the address of a gateway", make=dict)
    forwards: bool = key("Whether its kernel routes unicast packets.", "true or false", False)
    vxlan: dict[str, VxlanTable] = key("Its VXLAN devices.", "[box.NAME.vxlan.DEVICE] tables", make=dict)
    bridges: dict[str, Annotated[tuple[str, ...], Items]] = key(
        "Its bridges, with their ports.", "a list of devices", make=dict
    )
    snoops: bool = key(
        "Whether its bridges read IGMP and MLD, as Linux's do by default.", "true or false", True
    )
    fastpath: str | None = key(
        "The config of the `fastpath run` in it, without node and [control]; $LAB is the lab's own folder.",
        "the text of a config", None,
    )  # fmt: skip


class LabTable(Table):
    about: str = key("What it is, in a sentence.", "a text")
    picture: str = key("How it looks.", "a text", "")
    hints: Annotated[tuple[str, ...], Items] = key(
        "What to try there: a box and a command each, as behind `fastpath lab exec NAME`.",
        'a list of commands like "vm1 ip addr"', (),
    )  # fmt: skip
    wires: Annotated[tuple[WireTable, ...], Tables] = key(
        "Pairs of devices.", "[[wire]] tables", (), alias="wire"
    )
    boxes: dict[str, BoxTable] = key("Namespaces.", "[box.NAME] tables", alias="box", min_length=1)


_TABLES: dict[tuple[str, ...], type[Table]] = {
    (): LabTable,
    ("wire",): WireTable,
    ("box",): BoxTable,
    ("box", "vxlan"): VxlanTable,
}
_NAMED = {"box", "addresses", "routes", "vxlan", "bridges"}
"""Keys whose tables have names for keys: those of boxes and devices."""


@dataclass(frozen=True)
class LabFile:
    """A lab that can be built."""

    name: str
    table: LabTable
    warnings: tuple[Finding, ...] = ()
    """What `fastpath check` warns of in the configs of its boxes."""

    @cached_property
    def fastpaths(self) -> dict[str, str]:
        """The configs to run, by their boxes."""
        return {name: box.fastpath for name, box in self.table.boxes.items() if box.fastpath is not None}


def config_of(name: str, text: str, folder: FilePath) -> str:
    """The config of a box as `fastpath run` reads it: who it is and where it answers is ours to say."""
    head = f'node = "{name}"\n[control]\nsocket = "{folder / name}.sock"\nhttp = ""\n'
    return head + text.replace(FOLDER, str(folder))


def environment_of(name: str, folder: FilePath) -> dict[str, str]:
    """What tells the programs of a box where they find its `fastpath run`, and that where to keep what it
    knows: in the lab's folder, so that it goes with it."""
    return {"FASTPATH_SOCKET": f"{folder / name}.sock", "STATE_DIRECTORY": f"{folder / name}"}


def gateway_device(box: BoxTable, gateway: IPAddress) -> str | None:
    """The device by which a gateway is reached: one with an address of its network."""
    for device, addresses in box.addresses.items():
        if any(gateway in address.network for address in addresses):
            return device
    return None


def known() -> dict[str, FilePath]:
    """The labs that come with the product, by name."""
    folder = FilePath(str(files("ctrl.lab") / "files"))
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def find(name: str) -> FilePath:
    """The file of a lab: of ours by its name, of a user's by its path. LookupError says what is expected."""
    if name.endswith(SUFFIX) or os.sep in name:
        return FilePath(name)
    labs = known()
    if name not in labs:
        if FilePath(name).exists():
            raise LookupError(
                f"{given(name)} is no lab file; expected one whose name ends in {SUFFIX}, or the name of a "
                f"lab: {any_of(list(labs))}"
            )
        close = nearest(name, list(labs))
        hint = f'; did you mean "{close}"?' if close else ""
        raise LookupError(
            f"{given(name)}: no such lab; there is {any_of(list(labs))}, or the path of a file{hint}"
        )
    return labs[name]


def read(path: FilePath) -> LabFile:
    """Read and check a lab file; ConfigError with everything that is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and TOMLDecodeError are of the first
        raise _refused(path, f"is no lab file, as it is not TOML: {error}") from None
    check = _Check(str(path), scan(text))
    if not _NAME.fullmatch(path.stem):
        check.error((), f"{given(path.stem)} names the lab; expected small letters, digits and dashes")
    try:
        table = LabTable.model_validate(data)
    except ValidationError as problem:
        for wrong_value in problem.errors(include_url=False):
            check.error(*_told(wrong_value))
    else:
        check.all(table)
        if not check.findings:
            return LabFile(path.stem, table, tuple(check.warnings))
    raise ConfigError(sorted(check.findings, key=lambda finding: finding.line))


def _refused(path: FilePath, message: str) -> ConfigError:
    return ConfigError([Finding(Severity.ERROR, str(path), 0, "", message)])


def _told(error: Any) -> tuple[Path, str]:
    """The place and our sentence for one of pydantic's errors."""
    place: Path = error["loc"]
    table = _TABLES.get(_kinds(place[:-1]))
    if error["type"] == "extra_forbidden":
        legal = [field.alias or name for name, field in table.model_fields.items()] if table else []
        close = nearest(place[-1], legal)
        hint = f'; did you mean "{close}"?' if close else ""
        return place, f"unknown key; expected {any_of(legal)}{hint}"
    expected = f"expected {_legal(_kinds(place))}"
    if error["type"] == "missing":
        return place, f"missing; {expected}"
    why = error.get("ctx", {}).get("why") or "given"
    return place, f"{given(error['input'])} {why}; {expected}"


def _kinds(place: Path) -> tuple[str, ...]:
    """A place without numbers and without the names that the file gives to boxes and devices."""
    kinds: list[str] = []
    before: str | int = ""
    for part in place:
        if isinstance(part, str) and before not in _NAMED:
            kinds.append(part)
            before = part
        else:
            before = ""
    return tuple(kinds)


def _legal(kinds: tuple[str, ...]) -> str:
    fields = _TABLES[kinds[:-1]].model_fields
    field = next(field for name, field in fields.items() if (field.alias or name) == kinds[-1])
    extra: Any = field.json_schema_extra
    return str(extra["legal"])


class _Check:
    """The rules that take two keys to judge."""

    def __init__(self, file: str, lines: dict[Path, int]) -> None:
        self.file = file
        self.lines = lines
        self.findings: list[Finding] = []
        self.warnings: list[Finding] = []

    def error(self, place: Path, message: str) -> None:
        line = line_of(self.lines, place)
        self.findings.append(Finding(Severity.ERROR, self.file, line, key_name(place), message))

    def all(self, lab: LabTable) -> None:
        wired = self._wires(lab)
        for i, hint in enumerate(lab.hints):
            self._box_named(("hints", i), hint.partition(" ")[0], lab)
        for name, box in lab.boxes.items():
            place: Path = ("box", name)
            if not _NAME.fullmatch(name):
                self.error(place, "no name for a box; expected small letters, digits and dashes")
            devices = wired.get(name, set()) | {"lo"}
            for kind, made in (("vxlan", box.vxlan), ("bridges", box.bridges)):
                for device in made:
                    if device in devices or not _DEVICE.fullmatch(device):
                        self.error((*place, kind, device), "taken already, or no name for a device")
                    devices.add(device)
            self._box(place, box, devices)
            if box.fastpath is not None:
                self._config(name, box.fastpath)

    def _wires(self, lab: LabTable) -> dict[str, set[str]]:
        """The wired devices of each box."""
        wired: dict[str, set[str]] = {}
        for i, wire in enumerate(lab.wires):
            for j, end in enumerate(wire.ends):
                place: Path = ("wire", i, "ends", j)
                self._box_named(place, end.box, lab)
                if end.device in wired.setdefault(end.box, {"lo"}):
                    self.error(place, f"{given(str(end))} is wired already")
                wired[end.box].add(end.device)
        return wired

    def _box(self, place: Path, box: BoxTable, devices: set[str]) -> None:
        named: list[tuple[Path, str]] = [((*place, "addresses", device), device) for device in box.addresses]
        for bridge, ports in box.bridges.items():
            named += [((*place, "bridges", bridge, i), port) for i, port in enumerate(ports)]
        for where, device in named:
            if device not in devices:
                self._not_there(where, device, "device of this box", sorted(devices))
        for device, vxlan in box.vxlan.items():
            own = box.addresses.get(vxlan.under, ())
            if not any(address.version == vxlan.group.version for address in own):
                where = (*place, "vxlan", device, "under")
                self.error(
                    where, f"{given(vxlan.under)} has no IPv{vxlan.group.version} address to send from"
                )
        for prefix, gateway in box.routes.items():
            where = (*place, "routes", prefix)
            try:
                ip_network(prefix)
            except ValueError as why:
                self.error(where, f"no prefix ({why}); expected one like 10.0.0.0/8")
            if gateway_device(box, gateway) is None:
                self.error(where, f"{given(str(gateway))} is on no network of this box")

    def _box_named(self, place: Path, name: str, lab: LabTable) -> None:
        if name not in lab.boxes:
            self._not_there(place, name, "box of this lab", list(lab.boxes))

    def _not_there(self, place: Path, word: str, what: str, legal: list[str]) -> None:
        close = nearest(word, legal)
        hint = f'; did you mean "{close}"?' if close else ""
        self.error(place, f"{given(word)} is no {what}; expected {any_of(legal)}{hint}")

    def _config(self, name: str, text: str) -> None:
        """Check the config of a box as `fastpath check` would, on the lines where it stands."""
        place: Path = ("box", name, "fastpath")
        line = line_of(self.lines, place)
        folder = FilePath("/run/fastpath")
        blank = "\n" * max(0, line - config_of(name, "", folder).count("\n"))
        for finding in parse(config_of(name, blank + text, folder), self.file).findings:
            inner = f"{key_name(place)}: {finding.key}" if finding.key else key_name(place)
            told = Finding(finding.severity, self.file, max(line, finding.line), inner, finding.message)
            (self.findings if finding.severity is Severity.ERROR else self.warnings).append(told)
