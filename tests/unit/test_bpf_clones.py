"""The program that clones, run by the kernel on frames that we hold: BPF_PROG_TEST_RUN."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from fastpath import bpf
from fastpath.clones import TURNS, clone_program, order
from fastpath.io import _clones as abi

pytestmark = pytest.mark.skipif(bpf.available() is not None, reason=str(bpf.available()))

N_RECORDS = TURNS + 8
NO_INTERFACE = 0x7FFFFFFF
STOLEN, DROP = 4, 2
PAYLOAD = bytes(range(100))
TEST_RUN = 10


class Loaded:
    """The program, its table, and what becomes of frames that it is given."""

    def __init__(self) -> None:
        size = N_RECORDS * abi.RECORD_SIZE
        self.fd = bpf.create_map(bpf.MapKind.ARRAY, 4, size, 1, "fp_test", shared=True)
        self.table = mmap.mmap(self.fd, size)
        self.program = bpf.load_program(
            bpf.ProgramKind.SCHED_CLS, clone_program(self.fd, N_RECORDS), "fp_test"
        )
        for place in range(N_RECORDS):
            at = place * abi.RECORD_SIZE
            struct.pack_into("=II", self.table, at, NO_INTERFACE, abi.UNTOLD)
            self.table[at + abi.HEAD_AT : at + abi.HEAD_AT + abi.HEAD_ROOM] = head(place)

    def run(self, frame: bytes) -> tuple[int, bytes]:
        """What the program returned, and the frame as it left it."""
        given = ctypes.create_string_buffer(frame, len(frame))
        left = ctypes.create_string_buffer(len(frame))
        asked = bytearray(
            struct.pack(
                "=IIIIQQ", self.program, 0, len(frame), len(frame), ctypes.addressof(given),
                ctypes.addressof(left),
            ) + bytes(48)
        )  # fmt: skip
        asked[32:36] = struct.pack("=I", 1)  # once
        attributes = (ctypes.c_char * len(asked)).from_buffer(asked)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(321 if os.uname().machine == "x86_64" else 280, TEST_RUN, attributes, len(asked)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return struct.unpack_from("=I", attributes, 4)[0], left.raw

    def told(self) -> list[int]:
        """The records of whose clone the program said what became of it."""
        return [place for place in range(N_RECORDS) if self.outcome(place) != abi.UNTOLD]

    def outcome(self, place: int) -> int:
        outcome: int = struct.unpack_from("=i", self.table, place * abi.RECORD_SIZE + abi.OUTCOME_AT)[0]
        return outcome

    def close(self) -> None:
        self.table.close()
        os.close(self.program)
        os.close(self.fd)


def head(place: int) -> bytes:
    return bytes((place & 0xFF,)) * abi.HEAD_ROOM


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    made = Loaded()
    yield made
    made.close()


def ordered(first: int, n: int, head_size: int) -> bytes:
    said = order(first, n, head_size)
    return said + b"\x08\0" + bytes(head_size - len(said) - 2) + PAYLOAD


@pytest.mark.parametrize("head_size", [14, 42, 46, 62, 70, 128])
def test_each_record_that_is_ordered_is_told_its_outcome_and_the_frame_has_the_last_head(loaded, head_size):
    assert loaded.run(ordered(3, 4, head_size)) == (STOLEN, head(6)[:head_size] + PAYLOAD)
    assert loaded.told() == [3, 4, 5, 6]
    assert {loaded.outcome(place) for place in loaded.told()} == {-errno.EINVAL}


def test_one_run_makes_no_more_copies_than_the_kernel_bears(loaded):
    loaded.run(ordered(8, 0xFFFF, 42))
    assert loaded.told() == list(range(8, 8 + TURNS))


@pytest.mark.parametrize(
    "frame",
    [
        ordered(9, 1, 42),
        ordered(0xFFFFFFFF, 1, 42),
        ordered(0, 1, 42)[:8] + bytes(4) + ordered(0, 1, 42)[12:],
        b"\x33\x33\0\0\0\1" + bytes.fromhex("02fa57000001") + b"\x86\xdd" + bytes(60),
        order(0, 1, 13) + b"\x08\0" + PAYLOAD,
        order(0, 1, 129) + b"\x08\0" + PAYLOAD,
    ],
    ids=["beyond the table", "far beyond", "no magic", "the kernel's own", "head too short", "too long"],
)
def test_a_frame_that_orders_nothing_that_there_is_is_dropped(loaded, frame):
    assert loaded.run(frame) == (DROP, frame)
    assert loaded.told() == []


def test_a_head_longer_than_the_frame_is_told_and_nothing_is_cloned(loaded):
    frame = order(0, 2, 128) + b"\x08\0" + bytes(20)
    assert loaded.run(frame) == (STOLEN, frame)
    assert [loaded.outcome(place) for place in loaded.told()] == [-errno.EFAULT] * 2


def test_no_copies_are_no_copies(loaded):
    assert loaded.run(ordered(0, 0, 42))[0] == STOLEN
    assert loaded.told() == []
