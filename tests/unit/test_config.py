"""Reading a config: what single values may be, what files may be, and how findings look."""

import os
import re
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
from tests.unit.marked import check_marked

ROOT = Path(__file__).parents[2]

# Every table and key of the design's schema, as a live box has them.
LIVE = """\
node = "tor1"
[control]  # warning: control: this version does not use [control]
socket = "/run/fastpath/tor1.sock"
[dataplane]
workers = 1
cpus = [1]
batch = 256
trains = true
verify_checksums = true
vxlan_ports = [4789, 8472]
strict_reserved = false
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
[device]
address = "10.0.0.1"
manager = ["10.0.0.100:9470"]  # warning: device.manager: this version does not use a manager
tunnel = "nested"
source = "own"
allow_from = ["10.9.0.0/16", "10.8.0.1"]
strict_members = false
plaintext = true  # warning: device.plaintext
[[device.peer]]
group = "239.1.1.100"
addresses = ["10.0.0.2"]
[[device.member]]
group = "239.1.1.100"
port = "p1"
nve = "10.1.1.2"
[membership]  # warning: membership
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
[manager]  # warning: manager
listen = "10.0.0.100:9470"
[[manager.point]]
address = "10.0.0.110"
[replicator]
address = "10.0.0.110"
replicate = "10.0.0.111"
manager = ["10.0.0.100:9470"]  # warning: replicator.manager
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
[nve]  # warning: nve
address = "10.1.1.2"
[tls]  # warning: tls
cert = "tor1.pem"
"""

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
        "<config>:1: warning: neither [device] nor [replicator] is given, so every frame is dropped"
    ]
    assert reading.config is not None
    dataplane = reading.config.dataplane
    assert (dataplane.workers, dataplane.cpus, dataplane.batch) == (1, (), 256)
    assert (dataplane.trains, dataplane.verify_checksums, dataplane.strict_reserved) == (True, True, False)
    assert dataplane.vxlan_ports == (4789,)
    assert reading.config.node == os.uname().nodename



@pytest.mark.parametrize("broken", ["0", "257", '"1"', "1.0", "true", "nan", "[1]", "{a = 1}", "1979-05-27", "9" * 60])
def test_a_number_is_a_whole_number_in_its_range(broken):
    check_marked(f"""
[device]
address = "10.0.0.1"
[dataplane]
# error: given; expected a number from 1 to 256
batch = {broken}
{PORTS}""")


def test_every_wrong_value_is_told_at_once_with_its_line_and_key():
    check_marked("""
node = "tor 1"  # error: node: "tor 1" given; expected a name without spaces and slashes
nodes = 1  # error: nodes: unknown key; the top of the file takes node, dataplane, port, network, device, replic
workers = 2  # error: workers: unknown key
# error: did you mean "device"?
[devise]
address = "10.0.0.1"
[dataplane]
# error: dataplane.cpus[1]: -1 given; expected a list of CPU numbers, one a worker
# error: dataplane.cpus[2]: true given
cpus = [0, -1, true]
trains = 1  # error: dataplane.trains: 1 given; expected true or false
vxlan_ports = [
    4789,
    70000,  # error: dataplane.vxlan_ports[1]: 70000 given; expected a list of UDP ports, one at least
]
# error: dataplane.vxlan-ports: unknown key; [dataplane] takes workers, cpus, batch, trains, verify_checksums,
"vxlan-ports" = 1
[[port]]  # error: port[0].faces: missing; expected "nve", "core", "vm" or ["nve", "core"]
name = "a/b"  # error: port[0].name: "a/b" given; expected a name without spaces and slashes
# error: port[0].kind: "pakcet" given; expected "packet", "xdp", "tap", "pcap" or "memory"; did you mean "packet"?
kind = "pakcet"
mtu = 575  # error: port[0].mtu: 575 given; expected 0 or a number from 576 to 65535
[device]
address = "10.0.0.1"
manager = "10.0.0.9:1"  # error: device.manager: "10.0.0.9:1" given; expected a list of "host:port"
peer = 5  # error: device.peer: 5 given; expected [[device.peer]] tables
[device.member]  # error: device.member: a table where a list of tables is needed, which has double brackets
group = "239.1.1.1"
[replicator]  # error: replicator.address: missing; expected the unicast address of a host
""")


def test_a_word_that_stands_in_no_table_gets_no_suggestion():
    (finding,) = (f for f in parse("[device]\naddress = '10.0.0.1'\nqqqq = 1\n").findings if f.line == 3)
    assert finding.message.endswith("strict_members, plaintext, peer or member")


def test_a_word_of_another_table_is_led_there():
    check_marked("workers = 2  # error: did you mean \"workers\" of [dataplane]?\n[nve]  # warning: nve")


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("address", "5", "5 given; expected the unicast address of a host"),
        ("address", '"10.0.0"', '"10.0.0" is not an IP address'),
        ("address", '"10.0.0.1/24"', 'is a prefix; expected the unicast address of a host; did you mean "10.0.0.1"?'),
        ("address", '"239.1.1.1"', "is a multicast group, not the address of one host"),
        ("address", '"0.0.0.0"', "is not the address of a host"),
        ("address", '"255.255.255.255"', "is not the address of a host"),
        ("address", '"::"', "is not an address that packets can travel to"),
        ("address", '"127.0.0.1"', "is not an address that packets can travel to"),
        ("address", '"fe80::1%eth0"', "has a zone"),
        ("tunnel", '"nestd"', '"nestd" given; expected "nested" or "rewrite"; did you mean "nested"?'),
        ("source", '"mine"', '"mine" given; expected "own" or "keep"'),
        ("strict_members", '"yes"', '"yes" given; expected true or false'),
        ("allow_from", '["10.0.0.1/24"]', 'has bits set behind its prefix length; expected a list of prefixes or '
            'addresses; did you mean "10.0.0.0/24"?'),
        ("allow_from", '["224.0.0.0/4"]', "is multicast, and no packet comes from a group"),
        ("allow_from", '["x"]', '"x" is not a prefix; expected a list of prefixes or addresses'),
        ("allow_from", '["x/y"]', "is not a prefix"),
        ("allow_from", "[5]", "allow_from[0]: 5 given"),
        ("allow_from", '["fe80::%a/64"]', "has a zone"),
    ],
)  # fmt: skip
def test_a_value_of_the_device_that_cannot_be_taken_is_explained(key, value, why):
    address = "" if key == "address" else 'address = "10.0.0.1"'
    check_marked(f"""
{PORTS}
[device]
{address}
# error: {why}
{key} = {value}
""")


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("mac", '"01:00:5e:00:00:01"', "is a group address: the lowest bit of its first byte is set; expected a MAC"),
        ("mac", '"00:00:00:00:00:00"', "is no address of a station; expected a MAC address like 02:00:00:00:00:01"),
        ("mac", '"02:00:00:00:00"', '"02:00:00:00:00" given; expected a MAC'),
        ("next_hop_mac", "2", "next_hop_mac: 2 given; expected a MAC"),
        ("address", '"10.0.0.1"', 'has no prefix length; expected an address with its prefix length like "10.0.0.1/24"'),
        ("address", '"10.0.0.1/33"', "is not an address with a prefix length"),
        ("address", '["fe80::1%a/64"]', "port[0].address[0]: "),
        ("address", '["239.0.0.1/8"]', "is a multicast group"),
        ("address", "[1]", "port[0].address[0]: 1 given"),
        ("mtu", "true", "true given; expected 0 or a number from 576 to 65535"),
        ("mtu", "65536", "65536 given"),
        ("encap", '"VXLAN"', '"VXLAN" given; expected "vxlan" or "nvgre"; did you mean "vxlan"?'),
    ],
)
def test_a_value_of_a_port_that_cannot_be_taken_is_explained(key, value, why):
    check_marked(f"""
[nve]  # warning: nve
[[port]]
name = "p1"
faces = "core"
# error: {why}
{key} = {value}
""")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('"both"', '"both" given; expected "nve", "core", "vm" or ["nve", "core"]'),
        ('["nve", "nve"]', '["nve", "nve"] given'),
        ("[]", "[] given"),
        ("{ a = 1 }", "a table given"),
        ("[[1]]", "a list of tables or lists given"),
        ('["vm", "core"]', '["vm", "core"] mixes "vm" with another: a VM\'s own frames carry no tunnel'),
    ],
)
def test_a_port_faces_nves_the_core_both_or_vms_alone(value, why):
    check_marked(f"""
[nve]  # warning: nve
[[port]]
name = "p1"
# error: port[0].faces: {why}
faces = {value}
""")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('"10.0.0.1"', '"10.0.0.1" is not a multicast group; expected a multicast group above the link-local range'),
        ('"224.0.0.5"', "is link-local (224.0.0.0/24): such groups belong to one link and are never tunnelled"),
        ('"ff02::5"', "is link-local (ff02::/16): such groups"),
        ('"ff01::5"', "is interface-local (ff01::/16): such groups"),
        ('"239.1.1.1/32"', 'is a prefix; expected a multicast group above the link-local range; did you mean "239.1.1.1"?'),
        ("239", "239 given; expected a multicast group above the link-local range"),
    ],
)  # fmt: skip
def test_d17_a_group_is_multicast_and_not_link_local_wherever_one_is_given(value, why):
    check_marked(f"""
{PORTS}
[[network]]
name = "blue"
vni = 100
group = {value}  # error: {why}
[[network.map]]
inner = "239.0.0.0/8"
group = {value}  # error: {why}
[device]
address = "10.0.0.1"
[[device.peer]]
group = {value}  # error: {why}
addresses = ["10.0.0.2"]
[[device.member]]
group = {value}  # error: {why}
port = "p1"
[replicator]
address = "10.0.0.9"
[[replicator.list]]
group = {value}  # error: {why}
addresses = ["10.0.0.2"]
""")


def test_numbers_of_networks_and_points_are_in_range():
    check_marked(f"""
{PORTS}
[[network]]
name = "blue"
vni = 0  # error: network[0].vni: 0 given; expected a number from 1 to 16777215
[[network]]
name = "red"
vni = 16777216  # error: 16777216 given
[[network]]
name = "green"
vni = 16777215
vsid = 4095  # error: network[2].vsid: 4095 given; expected a number from 4096 to 16777214 (RFC 7637 reserves
map = [{{ inner = "10.0.0.0/8", group = "239.1.1.1" }}]  # error: is not within 224.0.0.0/4 or ff00::/8: only
[[network]]
name = "grey"
vni = 7
vsid = 0xffffff  # error: 16777215 given
[[network.map]]
inner = 5  # error: network[3].map[0].inner: 5 given; expected a multicast prefix like 239.0.0.0/8
group = "239.1.1.1"
[replicator]
address = "10.0.0.9"
vnis = [
    "199-100",  # error: runs backwards; expected a list of VNIs and ranges like ["100-199", 300]; did you mean "100-199"?
    0,  # error: replicator.vnis[1]: 0 given
    "1-16777216",  # error: given
    true,  # error: true given
    "a",  # error: "a" given
]
[[replicator.list]]
vni = 100
addresses = "10.0.0.2"  # error: "10.0.0.2" given; expected a list of unicast addresses or tables like {{ address =
[[replicator.list]]
vni = 101
# error: replicator.list[1].addresses[0]: 7 given; expected the unicast address of a host
# error: replicator.list[1].addresses[1].address: missing
# error: replicator.list[1].addresses[2].encp: unknown key; an item of addresses takes address, encap, vni or source
addresses = [7, {{ vni = 5 }}, {{ address = "10.0.0.2", encp = "vxlan" }}]
""")


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
    (tmp_path / "bom").write_bytes(b'\xef\xbb\xbfnode = "a"\n[nve]\n')
    os.truncate(os.open(tmp_path / "large", os.O_CREAT | os.O_WRONLY), (64 << 20) + 1)
    assert [str(f) for f in check(tmp_path)] == [f"{tmp_path}: error: cannot be read: Is a directory"]
    assert [str(f) for f in check(tmp_path / "no")] == [f"{tmp_path}/no: error: cannot be read: No such file or directory"]
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
    assert [f.line for f in caught.value.findings] == [1, 2, 3, 4]
    assert str(caught.value).splitlines()[1] == (
        f"{file}:2: error: dataplane.batch: 0 given; expected a number from 1 to 256"
    )
    file.write_text(LIVE)
    assert load(file).node == "tor1"
    assert read(file).findings == tuple(check(file))


@pytest.mark.parametrize("name", ["device", "point", "vtep-point"])
def test_the_examples_have_nothing_to_complain_about(name):
    assert check(ROOT / "examples" / f"{name}.toml") == []


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
    assert "| `[dataplane]` | `batch` | a number from 1 to 256 | `256` | The most frames that travel together. |" in rows


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
    assert {f.message.partition(";")[0] for f in reading.findings if f.severity is Severity.ERROR} <= {"missing"}


_WORDS = st.sampled_from([k.name for t in TABLES for k in keys_of(t)] + ["control", "x", "a.b", '"q q"'])
_VALUES = st.sampled_from(
    ["1", "-1", "0", "100", "4095", "true", '"p1"', '"10.0.0.1"', '"10.0.0.1/8"', '"239.1.1.1"', '"ff02::1"', '"nve"',
     '"vm"', '"core"', "[]", '["10.0.0.2"]', "[[]]", "{}", '{ address = "::1" }', "nan", "1979-05-27", '"""a\nb"""',
     '"nvgre"', '"rewrite"', '"keep"', '"blue"', '[{ vni = 1 }]', '"2001:db8::1"']
)  # fmt: skip
_HEADERS = st.sampled_from([f"{b}{'.'.join(t)}{e}" for t in TABLES if t for b, e in (("[", "]"), ("[[", "]]"))])
_LINES = st.one_of(
    st.builds(lambda k, v: f"{k} = {v}", _WORDS, _VALUES), _HEADERS, st.text(max_size=12), st.just('name = "p1"')
)


@hypothesis_given(st.lists(_LINES, max_size=25).map("\n".join))
@settings(max_examples=400, deadline=None)
def test_no_text_gives_anything_but_findings(text):
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
    header = f"[{'.'.join(table)}]" if table in {("dataplane",), ("device",), ("replicator",)} else f"[[{'.'.join(table)}]]"
    pairs = st.dictionaries(st.sampled_from(keys), _VALUES)
    return pairs.map(lambda d: "\n".join([header, *(f"{k} = {v}" for k, v in d.items())]))


@hypothesis_given(st.lists(st.sampled_from([t for t in TABLES if t and t[-1] != "addresses"]).flatmap(_lines_of), max_size=8))
@settings(max_examples=400, deadline=None)
def test_no_tables_of_the_schema_with_any_values_give_anything_but_findings(tables):
    test_no_text_gives_anything_but_findings.hypothesis.inner_test("\n".join(tables))
