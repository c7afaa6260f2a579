"""[manager], [tls] and what devices and points say to managers: who is trusted, and what fits what."""

from pathlib import Path

import pytest

from ctrl.config import check, load, parse, read
from ctrl.config.effective import config_rows
from ctrl.config.schema import Config
from ctrl.config.values import StoreUrl
from tests.certificates import Authority, needs_openssl
from tests.unit.marked import check_marked
from tests.unit.test_config import PORTS

TLS = '[tls]\ncert = "a.pem"\nkey = "a.key"\nca = "ca.pem"\n'


def config_of(text: str) -> Config:
    config = parse(text).config
    assert config is not None, parse(text).findings
    return config


# --- [manager] ----------------------------------------------------------------------------------------------


def test_a_manager_needs_nothing_but_its_table():
    config = check_marked("[manager]").config
    assert config is not None
    assert config.roles == ("manager",)
    manager = config.manager
    assert manager is not None
    assert (str(manager.listen), str(manager.store)) == (
        "127.0.0.1:9470",
        "sqlite:///var/lib/fastpath/manager.db",
    )
    assert (manager.hold_s, manager.mode, manager.threshold, manager.hysteresis) == (30, "auto", 16, 4)
    assert (manager.tree, manager.plaintext, manager.points) == (False, False, ())
    assert (manager.max_nodes, manager.max_groups) == (10_000, 200_000)
    assert (manager.max_groups_per_node, manager.max_devices_per_group) == (100_000, 1024)


def test_whoever_listens_for_others_asks_who_they_are_or_says_that_nobody_else_is_there():
    open_ = (
        'listen = "{}"  # error: manager.listen: {} is reached by others than this box, and nobody would be '
        "asked who they are; expected a [tls] table, or, where nobody else is on the network, plaintext = "
        "true in [manager]\n"
    )
    for listen in ("10.0.0.100:9470", "[2001:db8::9]:9470", "0.0.0.0:9470"):
        check_marked("[manager]\n" + open_.format(listen, listen))
        check_marked(f'[manager]\nlisten = "{listen}"\n{TLS}')
        check_marked(f"""
[manager]
listen = "{listen}"
plaintext = true  # warning: manager.plaintext: whoever reaches {listen} may say to be any device or point
""")
    for listen in ("127.0.0.1:9470", "[::1]:9470"):
        check_marked(f'[manager]\nlisten = "{listen}"\nplaintext = true\n')
        check_marked(f'[manager]\nlisten = "{listen}"\n')


def test_a_damaged_tls_table_makes_no_second_error_of_its_absence():
    check_marked("""
[manager]
listen = "10.0.0.100:9470"
[tls]  # error: tls.ca: missing; expected the path of a PEM file
cert = "a.pem"
key = 5  # error: tls.key: 5 given; expected the path of a PEM file
""")
    check_marked("""
[manager]
listen = "10.0.0.100:9470"
plaintext = 1  # error: manager.plaintext: 1 given; expected true or false
""")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ('""', '"" given; expected an address and a port like "10.0.0.100:9470"'),
        ('"manager:9470"', '"manager:9470" has no IP address before its port'),
        ('"10.0.0.1"', '"10.0.0.1" given; expected an address and a port'),
        ('"239.1.1.1:9470"', '"239.1.1.1:9470" given'),
        ("9470", "9470 given"),
    ],
)
def test_a_manager_listens_at_an_address_and_a_port(given: str, why: str):
    check_marked(f"[manager]\nlisten = {given}  # error: manager.listen: {why}")


def test_a_group_goes_back_to_mesh_at_a_size_that_it_can_have():
    """M12: the hysteresis."""
    check_marked("""
[manager]
threshold = 4
hysteresis = 4  # error: manager.hysteresis: 4 given, but threshold is 4; expected less than that
""")
    check_marked("[manager]\nthreshold = 4\nhysteresis = 3\n")
    check_marked("[manager]\nthreshold = 1  # error: manager.threshold: 1 given; expected a number from 2 to")
    check_marked("""
[manager]
threshold = 2
hysteresis = "x"  # error: manager.hysteresis: "x" given; expected a number from 0 to
""")


def test_m7_each_vni_and_each_group_is_given_to_one_point():
    check_marked("""
[manager]
[[manager.point]]
address = "10.0.0.110"
vnis = ["100-199", 300]
groups = ["239.1.1.1"]
[[manager.point]]
address = "10.0.0.110"  # error: manager.point[1].address: 10.0.0.110 is already the point of line 4
vnis = [
    "90-100",  # error: VNIs 90-100 overlaps VNIs 100-199 in line 5; expected each VNI at one point
    300,  # error: manager.point[1].vnis[1]: VNI 300 overlaps VNI 300 in line 5
    200,
]
groups = [
    "239.1.1.2",
    "239.1.1.1",  # error: manager.point[1].groups[1]: 239.1.1.1 is already the group of a point, in line 6
    "224.0.0.5",  # error: manager.point[1].groups[2]: "224.0.0.5" is link-local
]
[[manager.point]]
address = "239.0.0.1"  # error: manager.point[2].address: "239.0.0.1" is a multicast group
""")
    check_marked("""
[manager]
[[manager.point]]
address = "10.0.0.110"
vnis = ["100-199", "150-160"]  # error: manager.point[0].vnis[1]: VNIs 150-160 overlaps VNIs 100-199
""")


def test_points_that_cannot_be_used_are_warned_about():
    check_marked("""
[manager]
mode = "mesh"
tree = true  # warning: manager.tree: has no effect, as mode = "mesh" uses no points
[[manager.point]]  # warning: manager.point: has no effect
address = "10.0.0.110"
""")
    check_marked("""
[manager]
mode = "point"
""")
    check_marked("""
[manager]
mode = "point"
tree = true
[[manager.point]]
address = "10.0.0.110"
[[manager.point]]  # warning: manager.point[1]: what is given to a point alone takes no part in the tree
address = "10.0.0.111"
vnis = [100]
""")


@pytest.mark.parametrize(
    "key", ["max_nodes", "max_groups", "max_groups_per_node", "max_devices_per_group", "threshold"]
)
def test_every_bound_of_a_manager_is_a_whole_number(key: str):
    for broken in ("0", "-1", "1.5", "true", '"1"', "99999999"):
        check_marked(
            f"[manager]\n# error: manager.{key}: {broken} given; expected a number from\n{key} = {broken}"
        )
    check_marked(f"[manager]\n{key} = 20")


# --- its store ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["sqlite:///var/lib/m.db", "etcd://h1:2379/f", "etcds://me:se:cret@[2001:db8::1]:1,b,c.example:3/a/b"],
)
def test_a_store_is_a_file_or_an_etcd(url: str):
    manager = config_of(f'[manager]\nstore = "{url}"').manager
    assert manager is not None
    assert manager.store == StoreUrl(url)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('"/var/lib/m.db"', "no store of a known kind"),
        ('"sqlite://var/m.db"', "cannot be used (expected sqlite:///PATH with an absolute path, as sqlite"),
        ('"etcd://h1:99999"', "cannot be used (expected a port from 1 to 65535"),
        ('"etcd://h1\\n"', 'given; expected "sqlite:///PATH", "etcd://HOST:PORT,.../PREFIX"'),
        ("5", '5 given; expected "sqlite:///PATH"'),
    ],
)
def test_what_is_no_store_is_told(text: str, why: str):
    check_marked(f"[manager]\n# error: {why}\nstore = {text}")


def test_the_password_of_a_store_is_never_shown():
    config = config_of('[manager]\nstore = "etcd://me:secret@h1"')
    shown = {row["key"]: row["value"] for row in config_rows(config) if row["table"] == "manager"}
    assert shown["store"] == "etcd://me:***@h1"
    assert config.manager is not None
    assert config.manager.store.url == "etcd://me:secret@h1"
    assert "secret" not in repr(config)
    for broken in (
        "etcd//me:secret@h1",
        "etcd://me:secret/@h1",
        "etcd://me:sec@ret@h1:0",
        "etcd://me:secret@",
    ):
        (found,) = parse(f'[manager]\nstore = "{broken}"').findings
        assert "sec" not in found.message
        assert "ret" not in found.message


# --- those that a manager tells -----------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["device", "replicator"])
def test_beyond_this_box_a_manager_shows_who_it_is_or_the_config_says_that_it_need_not(role: str):
    box = f'{PORTS}[{role}]\naddress = "10.0.0.1"\n'
    for manager in ("10.0.0.100:9470", "manager.example:9470"):
        line = f'manager = ["127.0.0.1:9470", "{manager}"]'
        check_marked(
            f"{box}{line}  # error: {role}.manager[1]: {manager} is not of this box, and nobody would"
        )
        check_marked(f"{box}{line}\n{TLS}")
        check_marked(f"{box}{line}\nplaintext = true  # warning: {role}.plaintext: whoever is on the way to")
    for manager in ("127.0.0.2:9470", "[::1]:9470", "localhost:9470"):
        check_marked(f'{box}manager = ["{manager}"]\nplaintext = true\n')


def test_tls_is_for_who_does_not_go_without_it():
    box = f'{PORTS}[device]\naddress = "10.0.0.1"\nmanager = ["10.0.0.9:9470"]\nplaintext = %s\n{TLS}'
    for plaintext in (False, True):
        config = config_of(box % str(plaintext).lower())
        assert config.device is not None
        assert config.tls_of(config.device) == (None if plaintext else config.tls)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ('"10.0.0.9"', 'has no port; expected a list of "host:port"; did you mean "10.0.0.9:9470"?'),
        ('"manager"', 'has no port; expected a list of "host:port"; did you mean "manager:9470"?'),
        ('"2001:db8::9:9470"', 'did you mean "[2001:db8::9]:9470"?'),
        ('"[manager]:9470"', "has brackets, which are for IPv6"),
        ('"10.0.0.999:9470"', "has neither an address nor a name before its port"),
        ('"-a:9470"', "has neither an address nor a name before its port"),
        ('"a b:9470"', "has neither an address nor a name before its port"),
        ('"0.0.0.0:9470"', "is not the address of one host"),
        ('"239.1.1.1:9470"', "is not the address of one host"),
        ('"manager:0"', '"manager:0" given'),
        ('"manager:65536"', '"manager:65536" given'),
        ('"https://manager:9470"', "given"),
        ("9470", "9470 given"),
    ],
)
def test_a_manager_is_a_host_and_a_port(given: str, why: str):
    check_marked(f'{PORTS}[device]\naddress = "10.0.0.1"\n# error: {why}\nmanager = [{given}]')


def test_a_manager_is_named_once():
    check_marked(f"""
{PORTS}
[device]
address = "10.0.0.1"
manager = [
    "127.0.0.1:9470",
    "localhost:9470",
    "127.0.0.1:9470",  # error: device.manager[2]: 127.0.0.1:9470 is given twice, first in line 12
]
""")


def test_r8_a_point_beside_a_device_keeps_its_instructions_in_a_file_of_its_own():
    both = f"""
{PORTS}
[device]
address = "10.0.0.1"
manager = ["127.0.0.1:9470"]
%s
[replicator]
address = "10.0.0.2"
manager = ["127.0.0.1:9470"]
%s
"""
    one = 'state = "/srv/x"'
    check_marked(
        both % (one, f"{one}  # error: replicator.state: /srv/x is also device.state; expected a file")
    )
    check_marked(both % (one, 'state = "/srv/y"'))
    check_marked(f"""
[[port]]
name = "vm1"
faces = "vm"
network = "blue"
[[network]]
name = "blue"
vni = 100
group = "239.1.1.1"
[nve]
address = "10.0.0.3"
manager = ["127.0.0.1:9470"]
{one}
{PORTS}
[replicator]
address = "10.0.0.2"
manager = ["127.0.0.1:9470"]
{one}  # error: replicator.state: /srv/x is also nve.state; expected a file of its own
""")
    check_marked(both % ('state = ""', 'state = ""'))


def test_a_point_without_a_way_to_devices_is_warned_about():
    check_marked("""
[[port]]
name = "p1"
faces = "nve"
[replicator]  # warning: replicator: no [[port]] has faces = "core", so nothing is tunnelled to devices
address = "10.0.0.2"
manager = ["127.0.0.1:9470"]
""")


def test_a_kept_source_is_not_taken_where_only_known_addresses_are():
    """R4 and D20: who a manager leads to knows the sender by its address."""
    check_marked(f"""
{PORTS}
[[network]]
name = "blue"
vni = 100
group = "239.1.1.1"
[device]
address = "10.0.0.1"
manager = ["127.0.0.1:9470"]
tunnel = "rewrite"
# warning: device.source: copies leave with the NVE's own address as source
# warning: device.source: those that a manager leads to take packets from each other's addresses alone
source = "keep"
[replicator]
address = "10.0.0.2"
source = "keep"
""")
    check_marked(f"""
{PORTS}
[replicator]
address = "10.0.0.2"
manager = ["127.0.0.1:9470"]
source = "keep"  # warning: replicator.source: those that a manager leads to take packets from each other's
""")


def test_d14_rewriting_to_what_a_manager_says_takes_networks():
    check_marked(f"""
{PORTS}
[device]
address = "10.0.0.1"
manager = ["127.0.0.1:9470"]
# warning: device.tunnel: rewritten copies carry device.address as source
# warning: device.tunnel: no [[network]] is given: what other devices send rewritten does not carry its group
tunnel = "rewrite"
""")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('state = "tor1.db"', '"tor1.db" does not begin with /; expected the path of a file from /, or ""'),
        ('state = "/var/lib/"', "is no name of a file"),
        ("state = 1", "1 given"),
        ('peers_from = ["10.0.0.1/8"]', "has bits set behind its prefix length; expected a list of prefixes"),
        ("max_peers_per_group = 0", "0 given; expected a number from 1 to 65536"),
        ("shrink_hold_s = -1", "-1 given; expected seconds, from 0 to 86400"),
        ("probe_interval_ms = 9", "9 given; expected 0 or a number from 10 to 60000"),
        ("probe_interval_ms = 300.0", "300.0 given; expected 0 or"),
        ("probe_multiplier = 0", "0 given; expected a number from 1 to 255"),
        ("probe_multiplier = 256", "256 given; expected a number from 1 to 255"),
    ],
)
@pytest.mark.parametrize("role", ["device", "replicator"])
def test_what_a_node_keeps_and_believes_has_its_bounds(role: str, line: str, why: str):
    check_marked(f'{PORTS}[{role}]\naddress = "10.0.0.1"\n# error: {why}\n{line}')


# --- [tls] --------------------------------------------------------------------------------------------------


def test_the_files_of_tls_are_looked_for_beside_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "m.toml"
    file.write_text(f"[manager]\n{TLS}")
    (tmp_path / "a.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "a.key").write_text("-----BEGIN EC PRIVATE KEY-----\n")
    assert [str(f) for f in check(file)] == [
        f"{file}:5: error: tls.ca: {tmp_path}/ca.pem cannot be read: No such file or directory"
    ]
    (tmp_path / "ca.pem").write_text("-----BEGIN EC PRIVATE KEY-----\n")
    (tmp_path / "a.key").write_text("-----BEGIN CERTIFICATE-----\n")
    assert [str(f) for f in check(file)] == [
        f"{file}:4: error: tls.key: {tmp_path}/a.key holds no private key in PEM form",
        f"{file}:5: error: tls.ca: {tmp_path}/ca.pem holds no certificate in PEM form",
    ]
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "a.key").write_text("-----BEGIN PRIVATE KEY-----\n")
    monkeypatch.chdir(tmp_path.parent)
    config = read(f"{tmp_path.name}/m.toml").config
    assert config is not None
    assert config.tls is not None
    assert (config.tls.cert, config.tls.ca) == (f"{tmp_path}/a.pem", f"{tmp_path}/ca.pem")
    assert config.tls.key == f"{tmp_path}/a.key"


@needs_openssl
def test_a_key_of_another_certificate_is_told(tmp_path: Path):
    ca = Authority(tmp_path)
    ca.sign("a")
    ca.sign("b")
    file = tmp_path / "m.toml"
    file.write_text(f"[manager]\n{TLS}")
    assert check(file) == []
    (tmp_path / "b.key").rename(tmp_path / "a.key")
    assert [str(f) for f in check(file)] == [
        f"{file}:4: error: tls.key: {tmp_path}/a.key does not belong to the certificate {tmp_path}/a.pem"
    ]


def test_who_only_looks_at_another_box_s_config_needs_none_of_its_files(tmp_path: Path):
    file = tmp_path / "m.toml"
    file.write_text(f"[manager]\n{TLS}")
    config = load(file)
    assert config.tls is not None
    assert config.tls.key == "a.key"
