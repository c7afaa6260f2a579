#!/usr/bin/env python3
"""Record the captures that the project ships, in namespaces of their own.

    scripts/record_captures.py                      all of tests/captures, and its INDEX.md
    scripts/record_captures.py vxlan_igmp -o DIR    one of them, somewhere else, without an index
    scripts/record_captures.py --count FILE...      what captures hold, as JSON; needs neither root nor tools

Recording needs root, tcpdump, ethtool, scapy and, for NVGRE, Open vSwitch; it says what is missing. The
captures are committed: nothing in the tests or the build depends on recording. Exit codes: 0 done, 1 a
recording failed, 2 usage, 4 something that a recording needs is missing.
"""

import argparse
import importlib
import json
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from capture_file import Frame, interface_names, read_capture, write_pcap, write_pcapng
from capture_kinds import count_kinds, list_records
from capture_lab import Lab, require

HOME = Path(__file__).resolve().parent.parent / "tests" / "captures"
TOOLS = ("ip", "tcpdump", "ethtool")
SWITCH_TOOLS = ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl", "ovs-appctl")


@dataclass(frozen=True, slots=True)
class Recording:
    """One file of tests/captures: how it is made, and what the index says of it."""

    file: str
    ports: tuple[str, ...]
    module: str  # holds the scene, a function with the name of the file; imported when it is played
    tools: tuple[str, ...]
    holds: str
    made_by: str


RECORDINGS = {
    entry.file.split(".")[0]: entry
    for entry in (
        Recording(
            "vxlan_igmp.pcapng",
            ("p1", "p2", "p3"),
            "capture_scenes",
            (),
            "Joins, answers to queries (p3: in IGMPv2) and leaves; ARP, ND, MLD, mDNS and market data "
            "inside; unknown unicast flooded and known unicast sent to 10.1.2.2. VNIs 300 and 301 share "
            "239.1.1.7; outer TTL 1 (unicast 64)",
            "all: Linux VXLAN devices and the kernel's own IGMP",
        ),
        Recording(
            "vxlan_v6_mld.pcapng",
            ("p1", "p2"),
            "capture_scenes",
            (),
            "The same in small on an IPv6 underlay: MLDv2, groups ff05::100 (VNI 100) and ff05::200 "
            "(VNI 200)",
            "all: Linux VXLAN devices and the kernel's own MLD",
        ),
        Recording(
            "joins.pcapng",
            ("p1", "p2", "p3", "p4"),
            "capture_joins",
            (),
            "NVEs that join, leave and come back while others send, before and after each: VNI 100 on "
            "239.1.1.100 and VNI 600 on ff05::100; p3 in IGMPv2; p4 wants 239.1.1.100 of 10.1.1.2 alone, "
            "then no more",
            "all: Linux VXLAN devices, a socket, and the kernel's own IGMP and MLD",
        ),
        Recording(
            "nvgre_ovs.pcapng",
            ("core",),
            "capture_scenes",
            SWITCH_TOOLS,
            "NVGRE unicast from 10.0.0.3 to the device 10.0.0.1: VSIDs 5000 (FlowID 42) and 6000 (FlowID "
            "7), ARP with FlowID 0; one ARP reply of the underlay, for the ICMP that the recording ToR "
            "sends back",
            "all: Open vSwitch 3.1, userspace datapath, port type gre with key=flow; VMs are namespaces",
        ),
        Recording(
            "noise.pcap",
            (),
            "capture_mixed",
            ("scapy",),
            "What must not be replicated: foreign protocols, VXLAN on 8472, reserved bits, damage, "
            "fragments, tags, GRE of other kinds, reserved VSIDs 0 and 4095. In replay it arrives on p1; "
            "VLAN 100 and 200/100 hold good VXLAN",
            "ARP, TCP (ssh, bgp), ICMP, DNS, UDP, port 8472, one set of reserved bits (GBP) and the "
            "fragments: Linux. LLDP, the other damaged or tagged VXLAN (from a recorded frame) and GRE: "
            "scapy",
        ),
        Recording(
            "mixed_demo.pcapng",
            ("p1", "p2", "core"),
            "capture_mixed",
            ("scapy", *SWITCH_TOOLS),
            "The demo, in time order: NVEs 10.1.1.2 (p1) and 10.1.2.2 (p2) with VNIs 100, 200, 300 and "
            "NVGRE to 239.1.1.50; on core the peer 10.0.0.2 with nested VXLAN and 10.0.0.3 with NVGRE; some "
            "noise",
            "VXLAN, IGMP and VSID 6000: Linux and Open vSwitch. Built with scapy and commented so: nested "
            "(around frames of a Linux NVE behind the peer), NVGRE to a group (Open vSwitch's, "
            "readdressed), noise (from nothing, or from a recorded frame)",
        ),
    )
}


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog="Without names all are recorded. --count and --index need neither root nor tools.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to record: {', '.join(RECORDINGS)}")
    parser.add_argument(
        "-o", "--output", type=Path, default=HOME, metavar="DIR", help="default: tests/captures"
    )
    parser.add_argument(
        "--count", nargs="+", type=Path, metavar="FILE", help="print what captures hold, as JSON"
    )
    parser.add_argument("--index", action="store_true", help="write INDEX.md anew from the captures in DIR")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in RECORDINGS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(RECORDINGS)}")
    if options.count:
        print(json.dumps({str(path): describe(path) for path in options.count}, indent=1))
        return 0
    for way_out in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a background job starts with it ignored
        signal.signal(way_out, signal.default_int_handler)
    try:
        if not options.index:
            record_all(options.names or list(RECORDINGS), options.output)
        if options.index or options.output == HOME:
            (options.output / "INDEX.md").write_text(index_text(options.output))
    except KeyboardInterrupt:
        print("interrupted; the namespaces are gone", file=sys.stderr)
        return 1
    except (RuntimeError, OSError, ValueError) as error:
        print(f"record_captures: {error}", file=sys.stderr)
        return 4 if str(error).startswith("missing:") else 1
    return 0


def record_all(names: list[str], directory: Path) -> None:
    """Record each name into a file of the directory; a file appears only when its recording is complete."""
    require(*TOOLS, *(tool for name in names for tool in RECORDINGS[name].tools))
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        recording = RECORDINGS[name]
        with Lab() as lab:
            frames: list[Frame] = getattr(importlib.import_module(recording.module), name)(lab)
        target = directory / recording.file
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            made = Path(scratch, recording.file)
            if made.suffix == ".pcapng":
                write_pcapng(made, frames, recording.ports)
            else:
                write_pcap(made, frames)
            made.replace(target)
        print(f"{target}: {len(frames)} frames, {target.stat().st_size} bytes")


def describe(path: Path) -> dict[str, object]:
    """Return the interfaces, the kinds of frames on each, and the membership records on each."""
    frames = read_capture(path, "p1")
    return {
        "interfaces": interface_names(path),
        "frames": len(frames),
        "built": sum(frame.comment != "" for frame in frames),
        "kinds": count_kinds(frames),
        "records": list_records(frames),
    }


def index_text(directory: Path) -> str:
    """Return INDEX.md: what is in the directory, counted, and the words of RECORDINGS."""
    lines = [
        "# Captures that the project made itself",
        "",
        "Written by `scripts/record_captures.py --index`; do not edit. All were recorded on Linux in",
        "namespaces, checksum offload off at the senders, only frames arriving at the ToR. Addresses: p<N>",
        "is 10.1.N.1 with the NVE 10.1.N.2 (fd00:1:N::1 and ::2), core is 10.0.0.1 with the peers 10.0.0.2",
        "and 10.0.0.3. MACs and addresses are fixed; times, source ports, IP ids and how the kernel merges",
        "reports are not. A kind reads from the outside in.",
        "",
        "| file | frames | what it holds | made by | record again (root) |",
        "|---|---|---|---|---|",
    ]
    details = []
    for name, recording in RECORDINGS.items():
        path = directory / recording.file
        frames = read_capture(path, "p1")
        lines.append(
            f"| {recording.file} | {len(frames)} | {recording.holds} | {recording.made_by} | "
            f"`scripts/record_captures.py {name}` |"
        )
        details += ["", f"## {recording.file}", "", "| port | frames | kind |", "|---|---|---|"]
        for port, kinds in count_kinds(frames).items():
            details += [f"| {port} | {count} | {kind} |" for kind, count in kinds.items()]
        for port, records in list_records(frames).items():
            details += ["", f"{port} reports: {', '.join(records)}"]
    return "\n".join([*lines, *details, ""])


if __name__ == "__main__":
    sys.exit(main())
