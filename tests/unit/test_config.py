"""Reading a config: what single values may be, what files may be, and how findings look."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st

from ctrl.config import ConfigError, Severity, check, load, parse, read
from ctrl.config.document import keys_table
from ctrl.config.finding import given, key_name, nearest
from ctrl.config.schema import TABLES, keys_of
from ctrl.rpc.tls import TlsFiles
from tests.certificates import needs_openssl
from tests.unit.marked import check_marked

ROOT = Path(__file__).parents[2]

# Every table and key of the design's schema, as a live box has them.
LIVE = """\
node = "tor1"
[control]
socket = "/run/fastpath/tor1.sock"
http = "127.0.0.1:9473"
[dataplane]
workers = 1
cpus = [1]
batch = 256
trains = true
verify_checksums = true
vxlan_ports = [4789, 8472]
strict_reserved = false
ring_frames = 8192
[[port]]
name = "p1"
device = "eth1"
kind = "packet"
faces = ["nve"]
encap = "vxlan"
[[port]]
name = "core"
faces = ["nve", "core"]
mac = "02-00-00-00-0a-01"
address = ["10.0.0.1/24", "2001:db8::1/64"]
next_hop_mac = "02:00:00:00:0A:02"
mtu = 1600
[[port]]
name = "vm1"
kind = "tap"
faces = "vm"
network = "blue"
macs = ["02:00:00:00:00:01"]
tagged = "drop"
[port.storm]
broadcast_pps = 100
multicast_pps = 20000
unknown_pps = 0
[[port]]
name = "nve"
kind = "internal"
peer = "tor"
faces = "core"
[[port]]
name = "tor"
kind = "internal"
peer = "nve"
faces = "nve"
[nve]
address = "10.1.1.3"
send_to = ["10.0.0.2", "10.0.0.3"]
allow_from = ["10.1.0.0/16"]
ageing_s = 300
max_macs = 65536
max_macs_per_network = 16384
max_macs_per_port = 4096
max_vteps = 4096
[[nve.mac]]
network = "blue"
mac = "02:00:00:00:00:09"
vtep = "10.0.0.9"
[[nve.mac]]
network = "blue"
mac = "02:00:00:00:00:01"
port = "vm1"
[device]
address = "10.0.0.1"
manager = ["10.0.0.100:9470", "manager.example:9470", "[2001:db8::9]:9470"]
tunnel = "nested"
source = "own"
allow_from = ["10.9.0.0/16", "10.8.0.1"]
strict_members = false
plaintext = true  # warning: device.plaintext: whoever is on the way to the manager can read and forge
state = "/tmp/tor1.db"
peers_from = ["10.0.0.0/8"]
max_groups = 200000
max_peers_per_group = 1024
shrink_hold_s = 30
probe_interval_ms = 300
probe_multiplier = 3
[[device.peer]]
group = "239.1.1.100"
addresses = ["10.0.0.2"]
[[device.member]]
group = "239.1.1.100"
port = "p1"
nve = "10.1.1.2"
[membership]
query_interval_s = 125
[[network]]
name = "blue"
vni = 100
vsid = 5000
encap = "vxlan"
group = "239.1.1.100"
clear_reserved = false
[[network.map]]
inner = "239.0.0.0/8"
group = "239.1.1.7"
[manager]
listen = "10.0.0.100:9470"
store = "etcd://root:secret@10.0.0.1:2379,h2,[2001:db8::3]/fabric"
hold_s = 30
mode = "auto"
threshold = 16
hysteresis = 4
tree = false
plaintext = false
max_nodes = 10000
max_groups = 200000
max_groups_per_node = 100000
max_devices_per_group = 1024
[[manager.point]]
address = "10.0.0.110"
vnis = ["100-199"]
groups = ["239.1.1.100"]
[replicator]
address = "10.0.0.110"
replicate = "10.0.0.111"
manager = []
probe_interval_ms = 0
source = "own"
vnis = ["100-199", 300, "5000"]
allow_from = []
[[replicator.list]]
vni = 100
encap = "vxlan"
addresses = [
    "10.0.0.2",
    # warning: replicator.list[0].addresses[1].source: copies carry replicator.address as source
    { address = "10.0.0.3", encap = "nvgre", vni = 5000, source = "own" },
]
[tls]
cert = "tor1.pem"
key = "tor1.key"
ca = "ca.pem"
"""


def write_tls(folder: Path, node: str = "tor1") -> None:
    """Write what looks like the files that LIVE names."""
    for name, what in (
        (f"{node}.pem", "CERTIFICATE"),
        (f"{node}.key", "PRIVATE KEY"),
        ("ca.pem", "CERTIFICATE"),
    ):
        (folder / name).write_text(f"-----BEGIN {what}-----\n")


# A port each, so that the roles have somewhere to be.
PORTS = """\
[[port]]
name = "p1"
faces = "nve"
[[port]]
name = "core"
faces = "core"
"""


def test_a_live_config_of_every_table_passes_with_warnings_only():
    config = check_marked(LIVE).config
    assert config is not None
    assert config.ports[1].faces == ("nve", "core")
    assert config.ports[1].mac == bytes.fromhex("020000000a01")
    assert config.replicator is not None
    assert config.replicator.vnis == ((100, 199), (300, 300), (5000, 5000))


def test_an_empty_config_has_the_defaults_of_the_design():
    reading = parse("")
    assert [str(f) for f in reading.findings] == [
        "<config>:1: warning: no [nve], [device], [replicator] or [manager] is given, so all is dropped"
    ]
    assert reading.config is not None
    dataplane = reading.config.dataplane
    assert (dataplane.workers, dataplane.cpus, dataplane.batch) == (1, (), 256)
    assert (dataplane.trains, dataplane.verify_checksums, dataplane.strict_reserved) == (True, True, False)
    assert dataplane.vxlan_ports == (4789,)
    assert reading.config.node == os.uname().nodename


def test_what_is_left_out_moves_no_line_and_makes_no_second_error():
    check_marked(f"""
{PORTS}
[[port]]
name = "p9"
faces = "x"  # error: port[2].faces
[[port]]
name = "p3"
faces = "nve"
network = "blue"  # error: port[3].network: given; expected only where faces = "vm"
[device]  # error: device.address: missing
[[device.peer]]
group = "239.1.1.1"
addresses = [
    5,  # error: device.peer[0].addresses[0]: 5 given
    "10.0.0.2",
    "10.0.0.2",  # error: device.peer[0].addresses[2]: 10.0.0.2 is given twice for 239.1.1.1, first in line 21
]
[[device.member]]
group = "239.1.1.1"
port = "p9"
""")


def test_a_missing_tunnel_address_does_not_hide_what_else_is_wrong():
    check_marked(f"""
{PORTS}
mtu = 1500
[device]  # error: device.address: missing
[[device.peer]]
group = "239.1.1.1"
# error: device.peer[0].addresses[2]: 2001:db8::1 is given twice
addresses = ["10.0.0.1", "2001:db8::1", "2001:db8::1"]
[replicator]
address = "x"  # error: replicator.address: "x" is not an IP address
[[replicator.list]]
vni = 100
addresses = ["2001:db8::1", "10.0.0.1", "10.0.0.1"]  # error: 10.0.0.1 is given twice in this list
""")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a = 1\nb = ", 2, "not TOML, at the end of the file: Invalid value"),
        ("a = 1\n\nb == 2\n", 3, "not TOML, at column 4: Invalid value"),
        ("a = 1\na = 2\n", 2, "not TOML, at column 6: Cannot overwrite a value"),
        ("[a]\n[a]\n", 2, "not TOML, at column 3: Cannot declare ('a',) twice"),
        ("a = " + "[" * 5000, 1, "is nested too deeply; expected a TOML file"),
        ("a = 1\nb = " + "9" * 5000, 1, "not TOML: Exceeds the limit"),
    ],
)
def test_a_syntax_error_names_its_line(text, line, message):
    (finding,) = parse(text).findings
    assert (finding.severity, finding.line, finding.key) == (Severity.ERROR, line, "")
    assert finding.message.startswith(message)


def test_a_file_that_cannot_be_read_is_told_like_any_error(tmp_path):
    (tmp_path / "latin").write_bytes(b'node = "a"\n# \xfcber\n')
    (tmp_path / "bom").write_bytes(b'\xef\xbb\xbfnode = "a"\n[manager]\n')
    os.truncate(os.open(tmp_path / "large", os.O_CREAT | os.O_WRONLY), (64 << 20) + 1)
    assert [str(f) for f in check(tmp_path)] == [f"{tmp_path}: error: cannot be read: Is a directory"]
    assert [str(f) for f in check(tmp_path / "no")] == [
        f"{tmp_path}/no: error: cannot be read: No such file or directory"
    ]
    assert [str(f) for f in check(tmp_path / "latin")] == [
        f"{tmp_path}/latin:2: error: byte 0xfc given; expected UTF-8 text"
    ]
    assert check(tmp_path / "large")[0].message == "is larger than 64 MB; expected a TOML file"
    assert "cannot be read" in check("a\0b")[0].message
    assert "\\xff" in str(check(os.fsdecode(b"\xff"))[0])
    assert load(tmp_path / "bom").node == "a"


def test_load_raises_with_every_finding_and_gives_the_config_where_there_are_only_warnings(tmp_path):
    file = tmp_path / "f.toml"
    file.write_text("[dataplane]\nbatch = 0\nworkers = 0\n[tls]\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert [f.line for f in caught.value.findings] == [1, 2, 3, 4, 4, 4]
    assert str(caught.value).splitlines()[1] == (
        f"{file}:2: error: dataplane.batch: 0 given; expected a number from 1 to 256"
    )
    file.write_text(LIVE)
    assert load(file).node == "tor1"
    assert [f.key for f in check(file) if f.severity is Severity.ERROR] == ["tls.cert", "tls.key", "tls.ca"]
    assert read(file).findings == tuple(check(file))


@pytest.mark.parametrize("name", ["device", "point", "vtep-point", "nve/nve", "nve/nvgre", "nve/onebox"])
def test_the_examples_have_nothing_to_complain_about(name):
    assert check(ROOT / "examples" / f"{name}.toml") == []


FABRIC = (("manager", "manager1"), ("device", "tor1"), ("point", "point1"), ("nve", "host1"))


@pytest.mark.parametrize(("name", "node"), FABRIC)
def test_nor_do_those_of_a_fabric_once_the_certificates_are_there(tmp_path, name, node):
    file = tmp_path / f"{name}.toml"
    file.write_text((ROOT / "examples" / "fabric" / file.name).read_text())
    assert [finding.key for finding in check(file)] == ["tls.cert", "tls.key", "tls.ca"]
    write_tls(tmp_path, node)
    assert check(file) == []


@needs_openssl
def test_the_script_beside_them_makes_the_certificates_that_they_name(tmp_path):
    nodes = ("tor1", "point1", "host1", "manager1=10.0.0.100")
    subprocess.run(("sh", ROOT / "examples/fabric/certificates.sh", tmp_path, *nodes), check=True)
    for name, node in FABRIC:
        file = tmp_path / f"{name}.toml"
        file.write_text((ROOT / "examples" / "fabric" / file.name).read_text())
        assert check(file) == []
        files = TlsFiles(tmp_path / f"{node}.pem", tmp_path / f"{node}.key", tmp_path / "ca.pem")
        assert files.read(of_manager=name == "manager").names == (node,)


def test_values_and_keys_are_shown_on_one_line_as_toml_has_them():
    assert given("a\nb\x1b[0m") == '"a\\nb\\u001b[0m"'
    assert given("x" * 100) == f'"{"x" * 57}..."'
    assert given([1, "a", False]) == '[1, "a", false]'
    assert given(list(range(20))) == "[0, 1, 2, 3, 4, 5, 6, 7, ...]"
    assert given(["x" * 50] * 8) == "a list"
    assert given(10**5000) == "a huge number"
    assert key_name(("port", 0, "a b", "c")) == 'port[0]."a b".c'


def test_the_nearest_word_forgives_case_and_hyphens():
    assert nearest("VXLAN-Port", ["vxlan_ports", "batch"]) == "vxlan_ports"
    assert nearest("Batch", ["vxlan_ports", "batch"]) == "batch"
    assert nearest("zzz", ["vxlan_ports", "batch"]) is None
    assert nearest(5, ["5"]) is None


def test_the_table_of_keys_has_each_key_of_the_schema_once():
    rows = keys_table().splitlines()[2:]
    keys = [(table, key.name) for table in TABLES for key in keys_of(table)]
    leaves = [(t, k) for t, k in keys if (*t, k) not in TABLES or k == "addresses"]
    assert len(rows) == len(leaves)
    for row, (_, name) in zip(rows, leaves, strict=True):
        cells = re.split(r"(?<!\\)\|", row)
        assert len(cells) == 7
        assert cells[2].strip() == f"`{name}`"
        assert all(cell.strip() for cell in cells[2:6])
    assert (
        "| `[dataplane]` | `batch` | a number from 1 to 256 | `256` | The most frames that travel together. |"
        in rows
    )


def test_every_default_of_the_schema_is_one_that_it_takes():
    document = {}
    for table in TABLES:
        if len(table) == 1 and table != ("replicator",):
            document[table[0]] = {
                k.name: list(k.default) if isinstance(k.default, tuple) else k.default
                for k in keys_of(table)
                if not k.required and k.default is not None
            }
    lines = [f"[{t}]\n" + "".join(f"{k} = {given(v)}\n" for k, v in d.items()) for t, d in document.items()]
    reading = parse("\n".join(lines).replace("[port]", "[[port]]").replace("[network]", "[[network]]"))
    assert {f.message.partition(";")[0] for f in reading.findings if f.severity is Severity.ERROR} <= {
        "missing"
    }


_WORDS = st.sampled_from([k.name for t in TABLES for k in keys_of(t)] + ["manager", "x", "a.b", '"q q"'])
_VALUES = st.sampled_from(
    """1  -1  0  100  4095  true  nan  1979-05-27  []  {}  [[]]  ["10.0.0.2"]  { address = "::1" }
    [{ vni = 1 }]  "p1"  "10.0.0.1"  "10.0.0.1/8"  "239.1.1.1"  "ff02::1"  "2001:db8::1"  "nve"  "vm"  "core"
    "nvgre"  "rewrite"  "keep"  "blue"  'a\\nb'  02:00""".replace("\n    ", "  ").split("  ")
)
_HEADERS = st.sampled_from(
    [f"{b}{'.'.join(t)}{e}" for t in TABLES if t for b, e in (("[", "]"), ("[[", "]]"))]
)
_LINES = st.one_of(
    st.builds(lambda k, v: f"{k} = {v}", _WORDS, _VALUES),
    _HEADERS,
    st.text(max_size=12),
    st.just('name = "p1"'),
)


@hypothesis_given(st.lists(_LINES, max_size=25).map("\n".join))
@settings(max_examples=400, deadline=None)
def test_no_text_gives_anything_but_findings(text):
    check_any(text)


def check_any(text: str) -> None:
    reading = parse(text)
    n_lines = text.count("\n") + 1
    assert all(1 <= f.line <= n_lines and "\n" not in str(f) for f in reading.findings)
    assert (reading.config is None) == any(f.severity is Severity.ERROR for f in reading.findings)
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        assert reading.config is None


def _lines_of(table: tuple[str, ...]) -> st.SearchStrategy[str]:
    keys = [k.name for k in keys_of(table) if (*table, k.name) not in TABLES or k.name == "addresses"]
    header = (
        f"[{'.'.join(table)}]"
        if table in {("dataplane",), ("device",), ("replicator",)}
        else f"[[{'.'.join(table)}]]"
    )
    pairs = st.dictionaries(st.sampled_from(keys), _VALUES)
    return pairs.map(lambda d: "\n".join([header, *(f"{k} = {v}" for k, v in d.items())]))


@hypothesis_given(
    st.lists(
        st.sampled_from([t for t in TABLES if t and t[-1] != "addresses"]).flatmap(_lines_of), max_size=8
    )
)
@settings(max_examples=400, deadline=None)
def test_no_tables_of_the_schema_with_any_values_give_anything_but_findings(tables):
    check_any("\n".join(tables))
