"""POST on the control socket: a moved VM is told, a frame is explained, and what is neither is refused."""

import json
from ipaddress import ip_address

import pytest

from ctrl.config.values import HostPort
from tests.unit.served import serving
from tests.unit.unix_http import free_port, get
from tests.unit.viewed import Box, view

pytestmark = pytest.mark.asyncio

NOTICE = 'expected {"moved": ["10.1.1.2", ...]}'


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tor1.sock"


async def post(path, page, body):
    """The status and what the answer says; `body` is bytes, or to be JSON."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answer = await get(path, page, "POST", body=sent)
    return status, json.loads(answer)


async def test_the_nves_of_a_notice_are_named_to_the_box_each_once_and_the_known_ones_are_counted(path):
    """D19: these and nobody else."""
    box = Box()
    async with serving(box, str(path), None):
        moved = ["10.1.1.2", "10.1.1.3", "10.1.1.2", "fe80::2"]
        assert await post(path, "/v1/notify", {"moved": moved}) == (200, {"queried": 2, "told": None})
        assert box.told == [ip_address(nve) for nve in ("10.1.1.2", "10.1.1.3", "fe80::2")]
        assert await post(path, "/v1/notify", {"moved": []}) == (200, {"queried": 0, "told": None})
        box.n_told = 12
        assert await post(path, "/v1/notify", {"moved": moved}) == (200, {"queried": 2, "told": 12})


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", f"the body is no JSON; {NOTICE}"),
        (b"\xff{}", f"the body is no JSON; {NOTICE}"),
        (b"[" * 60_000, f"the body is no JSON; {NOTICE}"),
        (b"[]", f"the body is no notice; {NOTICE}"),
        (b"{}", f"the body is no notice; {NOTICE}"),
        (b'{"moved": "10.1.1.2"}', f"the body is no notice; {NOTICE}"),
        (b'{"moved": [], "now": true}', f"the body is no notice; {NOTICE}"),
        (b'{"moved": ["10.1.1.2", "10.1.1"]}', f'"10.1.1": no IP address of an NVE; {NOTICE}'),
        (b'{"moved": [5]}', f"5: no IP address of an NVE; {NOTICE}"),
    ],
)
async def test_what_is_no_notice_is_refused_with_what_one_is(path, body, sentence):
    box = Box()
    async with serving(box, str(path), None):
        assert await post(path, "/v1/notify", body) == (400, {"error": sentence})
    assert box.told == []


@pytest.mark.parametrize(("page", "most"), [("/v1/notify", 65536), ("/v1/explain", 524288)])
async def test_a_body_that_is_too_long_is_refused_whether_it_says_so_or_not(path, page, most):
    told = {"error": f"the body is too long; expected up to {most} bytes"}
    async with serving(Box(), str(path), None):
        assert await post(path, page, b" " * (most + 1)) == (413, told)
        parts = (b" " * 10_000 for _ in range(most // 10_000 + 1))
        status, answer = await get(path, page, "POST", body=parts)
        assert (status, json.loads(answer)) == (413, told)


async def test_a_frame_is_explained_by_the_layout_and_the_lists_of_a_view(path, monkeypatch):
    from ctrl.explain import answer

    asked = []

    def explained(body, layout, lists, next_hops, *, strict_headers, macs):
        asked.append((body, layout, lists, next_hops, macs))
        return [{"step": "verdict"}]

    monkeypatch.setattr(answer, "answer", explained)
    seen = view(next_hops={(1, ip_address("10.0.0.2")): b"\2\0\0\0\0\2"})
    box = Box(lambda: seen)
    box.known = {}
    async with serving(box, str(path), None):
        assert await post(path, "/v1/explain", b"frame") == (200, [{"step": "verdict"}])
    assert asked == [(b"frame", seen.layout, seen.lists, seen.next_hops, {})]


async def test_a_question_that_cannot_be_explained_is_refused_with_its_sentence(path):
    async with serving(Box(), str(path), None):
        status, told = await post(path, "/v1/explain", {"frame": "00", "port": "p9"})
        assert status == 400
        assert "p9" in told["error"]


async def test_only_these_pages_take_a_post_and_they_take_nothing_else(path):
    port = free_port()
    async with serving(Box(), str(path), HostPort(ip_address("127.0.0.1"), port)):
        for page in ("/v1/notify", "/v1/explain"):
            status, body = await get(path, page)
            assert (status, json.loads(body)) == (405, {"error": f"GET given; {page} answers POST only"})
            status, body = await get(port, page, "POST", body=b"{}")
            assert (status, json.loads(body)) == (405, {"error": "POST given; only GET is answered"})
        assert (await post(path, "/v1/monitor", b""))[0] == 405
