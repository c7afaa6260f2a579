"""Whoever asks a control socket by HTTP, without a line of ours."""

from __future__ import annotations

import asyncio
import http.client
import socket


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("box", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self.path))


async def get(where, page, method="GET", headers=None, body=None):
    """The status and the body of a page; `where` is a path or a TCP port."""

    def ask():
        if isinstance(where, int):
            connection = http.client.HTTPConnection("127.0.0.1", where, timeout=60)
        else:
            connection = Unix(where)
        try:
            connection.request(method, page, body, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
