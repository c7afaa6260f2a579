"""The lab file: what it may hold, and what is said of one that cannot be built."""

from pathlib import Path

import pytest

from ctrl.config.finding import ConfigError
from ctrl.lab import labfile

SMALL = """\
about = "A ToR between two hosts."
hints = ["tor fastpath show groups"]

wire = [
    { ends = ["tor/p1", "left/up"], mtu = 1550 },
    { ends = ["tor/p2", "right/up"], mtu = 1550 },
]

[box.tor]
addresses = { p1 = "10.1.1.1/24", p2 = ["10.1.2.1/24"] }
forwards = true
fastpath = '''
[[port]]
name = "p1"
faces = "nve"

[[port]]
name = "p2"
faces = "nve"

[device]
address = "10.1.1.1"

[[device.member]]
group = "239.1.1.7"
port = "p2"
'''

[box.left]
addresses = { up = "10.1.1.2/24", blue = "192.168.7.1/24" }
routes = { "0.0.0.0/0" = "10.1.1.1" }
vxlan.vx7 = { vni = 7, group = "239.1.1.7", under = "up" }
bridges = { blue = ["vx7"] }

[box.right]
addresses = { up = "10.1.2.2/24" }
"""


@pytest.fixture
def read(tmp_path: Path):
    def read_text(text: str) -> labfile.LabFile:
        (tmp_path / "small.toml").write_text(text)
        return labfile.read(tmp_path / "small.toml")

    return read_text


def refusals(read, text: str) -> list[str]:
    """What is said of a file, each without the folder."""
    with pytest.raises(ConfigError) as refused:
        read(text)
    return [str(finding).rpartition("/small.toml:")[2] or str(finding) for finding in refused.value.findings]


def test_it_names_boxes_wires_and_what_runs_where(read):
    file = read(SMALL)
    assert file.name == "small"
    assert list(file.table.boxes) == ["tor", "left", "right"]
    assert [[str(end) for end in wire.ends] for wire in file.table.wires] == [
        ["tor/p1", "left/up"],
        ["tor/p2", "right/up"],
    ]
    assert list(file.fastpaths) == ["tor"]
    assert [str(address) for address in file.table.boxes["tor"].addresses["p2"]] == ["10.1.2.1/24"]


def test_what_a_box_keeps_is_in_the_folder_of_the_lab(read):
    file = read(SMALL.replace('address = "10.1.1.1"', 'address = "10.1.1.1"\nstate = "$LAB/tor.db"', 1))
    config = labfile.config_of("tor", file.fastpaths["tor"], Path("/run/labs/small"))
    assert 'state = "/run/labs/small/tor.db"\n' in config
    assert 'socket = "/run/labs/small/tor.sock"\n' in config


def test_what_a_box_keeps_where_its_config_names_no_place_is_in_a_folder_of_its_own_there():
    environment = labfile.environment_of("tor", Path("/run/labs/small"))
    assert environment["STATE_DIRECTORY"] == "/run/labs/small/tor"


@pytest.mark.parametrize("name", labfile.known())
def test_the_labs_that_come_with_fastpath_can_be_built(name: str):
    file = labfile.read(labfile.known()[name])
    assert file.table.about
    assert file.fastpaths


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "about =",
            "abuot =",
            'abuot: unknown key; expected about, picture, hints, wire or box; did you mean "about"?',
        ),
        ('about = "A ToR between two hosts."', "", "1: error: about: missing; expected a text"),
        (
            "mtu = 1550 },\n    {",
            'mtu = "1550" },\n    {',
            '5: error: wire[0].mtu: "1550" given; expected a number',
        ),
        (
            '"left/up"',
            '"left"',
            '5: error: wire[0].ends[1]: "left" given; expected two ends, each BOX/DEVICE',
        ),
        (
            '"left/up"',
            '"lefd/up"',
            '"lefd" is no box of this lab; expected tor, left or right; did you mean "left"?',
        ),
        ('"right/up"', '"left/up"', '6: error: wire[1].ends[1]: "left/up" is wired already'),
        (
            '"tor fast',
            '"tro fast',
            '2: error: hints[0]: "tro" is no box of this lab; expected tor, left or right',
        ),
        ("[box.right]", "[box.RIGHT]", "box.RIGHT: no name for a box"),
        (
            "forwards = true",
            "forward = true",
            "box.tor.forward: unknown key; expected addresses, routes, forwards",
        ),
        ("forwards = true", 'forwards = "yes"', 'box.tor.forwards: "yes" given; expected true or false'),
        ("forwards = true", "snoops = 0", "box.tor.snoops: 0 given; expected true or false"),
        ('p1 = "10.1.1.1/24"', 'p1 = "10.1.1.1/33"', 'box.tor.addresses.p1[0]: "10.1.1.1/33" is not'),
        ('p1 = "10.1.1.1/24"', 'p3 = "10.1.1.1/24"', '"p3" is no device of this box; expected lo, p1 or p2'),
        ('= "10.1.1.1" }', '= "10.9.9.9" }', '"10.9.9.9" is on no network of this box'),
        ('"0.0.0.0/0" =', '"everywhere" =', "box.left.routes.everywhere: no prefix"),
        ('under = "up"', 'under = "blu"', '"blu" has no IPv4 address to send from'),
        (
            'group = "239.1.1.7", under',
            'group = "10.1.1.7", under',
            '"10.1.1.7" is not a multicast group; expected',
        ),
        ("vni = 7", "vni = 0", "box.left.vxlan.vx7.vni: 0 given; expected a number from 1 to 16777215"),
        ("vni = 7,", "", "box.left.vxlan.vx7.vni: missing; expected a number from 1 to 16777215"),
        ("vni = 7", "vni = 7, ttl = 4", "box.left.vxlan.vx7.ttl: unknown key; expected vni, group or under"),
        ('blue = ["vx7"]', 'blue = ["vx8"]', 'box.left.bridges.blue[0]: "vx8" is no device of this box'),
        ("bridges = { blue", "bridges = { up", "box.left.bridges.up: taken already"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_its_key(read, old: str, new: str, said: str):
    assert old in SMALL
    told = refusals(read, SMALL.replace(old, new, 1))
    assert any(said in one for one in told), told


def test_a_wrong_config_in_a_box_is_told_on_the_line_where_it_stands(read):
    wrong = SMALL.replace('name = "p2"\nfaces = "nve"', 'name = "p2"\nfaces = "nvee"')
    (line,) = [i for i, text in enumerate(wrong.splitlines(), 1) if "nvee" in text]
    (said,) = refusals(read, wrong)
    assert said.startswith(f'{line}: error: box.tor.fastpath: port[1].faces: "nvee"')


@pytest.mark.parametrize(
    ("text", "said"), [("about = ", "not TOML"), ("about = '\udcff'", "not TOML"), (None, "cannot be read")]
)
def test_what_is_no_lab_file_is_refused(tmp_path: Path, text: str | None, said: str):
    file = tmp_path / "small.toml"
    if text is not None:
        file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=said):
        labfile.read(file)


def test_a_file_s_name_is_the_lab_s(tmp_path: Path):
    (tmp_path / "My Lab.toml").write_text(SMALL)
    with pytest.raises(ConfigError, match=r'"My Lab" names the lab; expected small letters'):
        labfile.read(tmp_path / "My Lab.toml")


def test_a_lab_is_found_by_its_name_or_its_path():
    assert labfile.find("demo").name == "demo.toml"
    assert labfile.find("./mine.toml") == Path("mine.toml")
    with pytest.raises(LookupError, match=r'"dmeo": no such lab; there is .*; did you mean "demo"\?'):
        labfile.find("dmeo")


def test_a_file_without_the_ending_of_one_is_told_that_it_is_no_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "README.md").write_text("# fastpath\n\nA lab?\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        LookupError, match=r'"README.md" is no lab file; expected one whose name ends in .toml'
    ):
        labfile.find("README.md")
    with pytest.raises(ConfigError, match=r"README.md: error: is no lab file, as it is not TOML: "):
        labfile.read(labfile.find("./README.md"))
