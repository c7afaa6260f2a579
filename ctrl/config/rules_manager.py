"""What takes two keys to judge of [manager] and [tls], and of what devices and points say to managers."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path as FilePath

from ctrl.config.finding import Path
from ctrl.config.report import Report
from ctrl.config.rules_layout import repeats
from ctrl.config.schema import Config, ManagerTable, NodeTable, TlsTable

_PEM = {"cert": "CERTIFICATE-----", "key": "PRIVATE KEY-----", "ca": "CERTIFICATE-----"}
_PEM_SIZE = 1 << 20


def check_manager(config: Config, report: Report, folder: FilePath | None) -> None:
    """Check who speaks to whom, and how safely. `folder` is where the config file is, None where the files
    that it names do not matter."""
    nodes: list[tuple[str, NodeTable]] = []
    for name, role in (("device", config.device), ("nve", config.nve), ("replicator", config.replicator)):
        if role:
            _check_node(config, report, role, name)
            nodes += [(name, role)] * bool(role.manager)
    for (first, one), (name, other) in combinations(nodes, 2):
        if other.state and other.state == one.state:
            report.error(
                (name, "state"),
                f"{other.state} is also {first}.state; expected a file of its own, as each role of a box is "
                "another node to a manager",
            )
            break
    if config.manager:
        _check_manager(config, report, config.manager)
    if config.tls and folder:
        _check_files(config.tls, report, folder)


def _check_node(config: Config, report: Report, role: NodeTable, name: str) -> None:
    at: Path = (name, "manager")
    for place, first, address in repeats(((*at, i), m) for i, m in enumerate(role.manager)):
        report.error(place, f"{address} is given twice, first in line {report.line(first)}")
    far = [(i, address) for i, address in enumerate(role.manager) if not address.is_loopback]
    for i, address in far:
        _check_secrecy(config, report, role, name, (*at, i), f"{address} is not of this box")
    if far and role.plaintext:
        report.warning(
            (name, "plaintext"),
            "whoever is on the way to the manager can read and forge what is said; only for a network where "
            "nobody else is",
        )
    has_core = any("core" in port.faces for port in config.ports)
    if role.manager and config.ports and not has_core and not report.is_damaged(("port",)):
        who = {"nve": "other NVEs", "device": "other devices"}.get(name, "devices")
        report.warning((name,), f'no [[port]] has faces = "core", so nothing is tunnelled to {who}')


def _check_secrecy(
    config: Config, report: Report, role: NodeTable | ManagerTable, name: str, at: Path, what: str
) -> None:
    """Beyond this box it takes [tls], or somebody who says that it does not."""
    if config.tls or role.plaintext or report.is_damaged(("tls",)) or report.is_damaged((name, "plaintext")):
        return
    report.error(
        at,
        f"{what}, and nobody would be asked who they are; expected a [tls] table, or, where nobody else is "
        f"on the network, plaintext = true in [{name}]",
    )


def _check_manager(config: Config, report: Report, manager: ManagerTable) -> None:
    if not manager.listen.is_loopback:
        what = f"{manager.listen} is reached by others than this box"
        _check_secrecy(config, report, manager, "manager", ("manager", "listen"), what)
        if manager.plaintext:
            report.warning(
                ("manager", "plaintext"),
                f"whoever reaches {manager.listen} may say to be any device or point, and is told of their "
                "tunnels; only for a network where nobody else is",
            )
    is_known = not report.is_damaged(("manager", "threshold"))
    if (
        is_known
        and manager.hysteresis >= manager.threshold
        and not report.is_damaged(("manager", "hysteresis"))
    ):
        report.error(
            ("manager", "hysteresis"),
            f"{manager.hysteresis} given, but threshold is {manager.threshold}; expected less than that, "
            "else a group never goes back to mesh",
        )
    _check_points(report, manager)


def _check_points(report: Report, manager: ManagerTable) -> None:
    at: Path = ("manager", "point")
    if manager.mode == "mesh":
        for key, is_set in (("point", bool(manager.points)), ("tree", manager.tree)):
            if is_set:
                report.warning(("manager", key), 'has no effect, as mode = "mesh" uses no points')
    points = list(enumerate(manager.points))
    for place, first, address in repeats(((*at, i, "address"), point.address) for i, point in points):
        report.error(place, f"{address} is already the point of line {report.line(first)}")
    groups = [((*at, i, "groups", j), group) for i, point in points for j, group in enumerate(point.groups)]
    for place, first, group in repeats(groups):
        report.error(place, f"{group} is already the group of a point, in line {report.line(first)}")
    vnis = [((*at, i, "vnis", j), vni) for i, point in points for j, vni in enumerate(point.vnis)]
    for (first, one), (place, other) in combinations(vnis, 2):
        if one[0] <= other[1] and other[0] <= one[1]:
            report.error(
                place,
                f"{_range(other)} overlaps {_range(one)} in line {report.line(first)}; expected each VNI at "
                "one point",
            )
    if manager.tree and manager.mode != "mesh":
        for i, point in points:
            if point.vnis or point.groups:
                report.warning(
                    (*at, i), "what is given to a point alone takes no part in the tree (manager.tree)"
                )


def _range(vnis: tuple[int, int]) -> str:
    return f"VNI {vnis[0]}" if vnis[0] == vnis[1] else f"VNIs {vnis[0]}-{vnis[1]}"


def _check_files(tls: TlsTable, report: Report, folder: FilePath) -> None:
    """Whether there are certificates and a key where they should be, and one belongs to the other; what they
    are worth shows when used."""
    n_fit = 0
    for key, name in (("cert", tls.cert), ("key", tls.key), ("ca", tls.ca)):
        try:
            with (folder / name).open("rb") as file:
                text = file.read(_PEM_SIZE)
        except (OSError, ValueError) as problem:
            why = (problem.strerror if isinstance(problem, OSError) else None) or str(problem)
            report.error(("tls", key), f"{folder / name} cannot be read: {why}")
            continue
        if _PEM[key].encode() not in text:
            what = "private key" if key == "key" else "certificate"
            report.error(("tls", key), f"{folder / name} holds no {what} in PEM form")
            continue
        n_fit += 1
    if n_fit == len(_PEM) and _is_of_another(folder / tls.key, folder / tls.cert):
        report.error(
            ("tls", "key"), f"{folder / tls.key} does not belong to the certificate {folder / tls.cert}"
        )


def _is_of_another(key: FilePath, cert: FilePath) -> bool:
    """Whether the two can be read, and the key is another's."""
    import ssl  # noqa: PLC0415  takes 10 ms, and is for who has [tls]

    try:
        # a key with a password is none for us: nobody is asked for it
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        return error.reason == "KEY_VALUES_MISMATCH"
    except OSError:  # it has just gone
        return False
    return False
