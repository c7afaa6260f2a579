"""Loops that send what stands ready, and nothing else: what `fastpath bench wire` holds us against."""

from fastpath.io._limit import Sender, XdpSender

__all__ = ["Sender", "XdpSender"]
