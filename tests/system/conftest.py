"""What tests among real neighbours need of the system: one that lacks it skips, and names what is missing."""

import shutil

import pytest

NEEDS = {
    "test_checksums": ("ethtool", "tcpdump", "tshark"),
    "test_clones_changes": ("nft",),
    "test_clones_ports": ("ethtool", "tc"),
    "test_clones_process": ("ip", "nft"),
    "test_clones_shared": ("ethtool",),
    "test_exactly_once": ("nft",),
    "test_faults": ("ethtool", "nft"),
    "test_netlink": ("ip",),
    "test_nve_linux": ("ip",),
    "test_nve_nvgre": ("ethtool",),
    "test_ovs_neighbours": ("ethtool",),
    "test_packet_port_out": ("tc",),
    "test_process": ("ip", "nft"),
    "test_reload": ("nft",),
    "test_replay_is_live": ("ethtool", "ip"),
    "test_snooping": ("bridge", "ip"),
    "test_snooping_querier": ("bridge", "ip"),
    "test_snooping_sharing": ("ip",),
    "test_snooping_silence": ("ip", "nft"),
    "test_tap_device": ("ip",),
    "test_vxlan_neighbours": ("ethtool",),
    "test_xdp_port": ("ip",),
}
"""Commands by module; Open vSwitch and others are looked for where they are used."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = [tool for tool in NEEDS.get(item.path.stem, ()) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} missing: PEERS=1 scripts/setup-system.sh")
