"""How the private device of `fastpath.clones` is set up: messages of pyroute2 by a socket of our own.

IPRoute cannot be asked where an event loop runs, nor may a thread start before privileges are given up.
"""

from __future__ import annotations

import os
import socket

from pyroute2 import netlink as nl
from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg
from pyroute2.netlink.rtnl.tcmsg.sched_bpf import TCA_BPF_FLAG_ACT_DIRECT
from pyroute2.protocols import ETH_P_ALL

from ctrl.netlink.messages import encode, read

# Of linux/pkt_sched.h, if_link.h and rtnetlink.h, without a name in pyroute2; and the largest MTU of a TAP.
_CLSACT, _EGRESS, _GEN_NONE, _TABLE_LOCAL, _LONGEST = 0xFFFF0000, 0xFFFFFFF3, 1, 255, 65521


def attach_clones(index: int, program: int) -> None:
    """Let a device run a program on what it is to send, and bring it up, without any address.

    In the network namespace of the calling thread. OSError that names the step where the system refuses.
    """
    no_address = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _GEN_NONE)]})]}
    clsact = {"index": index, "parent": rtnl.TC_H_CLSACT, "handle": _CLSACT}
    egress = {"index": index, "parent": _EGRESS, "info": 1 << 16 | socket.htons(ETH_P_ALL)}
    run = [("TCA_BPF_FD", program), ("TCA_BPF_NAME", "fp_clones"), ("TCA_BPF_FLAGS", TCA_BPF_FLAG_ACT_DIRECT)]
    up = {"index": index, "flags": IFF_UP, "change": IFF_UP}
    # Any device that is up is a way to all groups of IPv6: the host's own frames would end here.
    groups = {"family": socket.AF_INET6, "table": _TABLE_LOCAL, "dst_len": 8}
    steps = (  # those without a name are refused by a kernel without IPv6
        ("", rtnl.RTM_NEWLINK, ifinfmsg(), {"index": index}, {"IFLA_AF_SPEC": no_address}),
        ("the device's clsact", rtnl.RTM_NEWQDISC, tcmsg(), clsact, {"TCA_KIND": "clsact"}),
        (
            *("the device's filter (cls_bpf)", rtnl.RTM_NEWTFILTER, tcmsg(), egress),
            {"TCA_KIND": "bpf", "TCA_OPTIONS": {"attrs": run}},
        ),
        ("bringing the device up", rtnl.RTM_NEWLINK, ifinfmsg(), up, {"IFLA_MTU": _LONGEST}),
        ("", rtnl.RTM_DELROUTE, rtmsg(), groups, {"RTA_DST": "ff00::", "RTA_OIF": index}),
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, nl.NETLINK_ROUTE) as route:
        for step, kind, message, fields, attributes in steps:
            message.update(fields)
            route.send(encode(message, kind, nl.NLM_F_ACK | nl.NLM_F_CREATE, 0, **attributes))
            (answer,) = read(route.recv(1 << 16))
            if answer.error and step:
                raise OSError(answer.error, f"{step}: {os.strerror(answer.error)}")
