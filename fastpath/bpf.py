"""Programs inside the kernel without a compiler: a small eBPF assembler, and the calls of bpf(2) that we use.

Why not clang and libbpf: what we run in the kernel is a page of instructions that depends on the
configuration, so it is written at start, by the process that needs it. Programs are attached by *links*
alone: a link lives as long as its descriptor, so nothing stays behind when the process ends, by kill -9
either (a clsact filter, or a program attached by netlink, would). All descriptors are plain integers,
close-on-exec, for the caller to close.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

__all__ = [
    "BYTE",
    "DOUBLE",
    "HALF",
    "HELPER_CLONE_REDIRECT",
    "HELPER_MAP_LOOKUP",
    "HELPER_REDIRECT_MAP",
    "HELPER_STORE_BYTES",
    "R0",
    "R1",
    "R2",
    "R3",
    "R4",
    "R5",
    "R6",
    "R7",
    "R8",
    "R9",
    "R10",
    "WORD",
    "XDP_DROP",
    "XDP_PASS",
    "Instruction",
    "Label",
    "MapKind",
    "ProgramKind",
    "Register",
    "alu",
    "assemble",
    "attach_tc",
    "attach_xdp",
    "available",
    "call",
    "create_map",
    "jump",
    "leave",
    "load",
    "load_map",
    "load_program",
    "load_value",
    "map_lookup",
    "map_update",
    "mov",
    "possible_cpus",
    "replace_program",
    "store",
]


class ProgramKind(IntEnum):
    """Where a program runs; the values are the kernel's."""

    SCHED_CLS = 3
    XDP = 6


class MapKind(IntEnum):
    """What a map is; the values are the kernel's."""

    ARRAY = 2
    PERCPU_ARRAY = 6
    XSKMAP = 17


# The assembler


class Register(IntEnum):
    """A register, and no number: `mov(R1, R2)` and `mov(R1, 2)` are different things."""

    R0 = 0
    """The result."""
    R1 = 1
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    """From here on kept across calls."""
    R7 = 7
    R8 = 8
    R9 = 9
    R10 = 10
    """The end of the stack of 512 bytes, read only."""


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register

BYTE, HALF, WORD, DOUBLE = 1, 2, 4, 8
_SIZE_CODES = {WORD: 0x00, HALF: 0x08, BYTE: 0x10, DOUBLE: 0x18}
_ALU_CODES = {
    "add": 0x00,
    "sub": 0x10,
    "mul": 0x20,
    "div": 0x30,
    "or": 0x40,
    "and": 0x50,
    "<<": 0x60,
    ">>": 0x70,
    "mod": 0x90,
    "xor": 0xA0,
    "mov": 0xB0,
}
_JUMP_CODES = {
    "always": 0x00,
    "==": 0x10,
    ">": 0x20,
    ">=": 0x30,
    "&": 0x40,
    "!=": 0x50,
    "<": 0xA0,
    "<=": 0xB0,
}  # of unsigned numbers

HELPER_MAP_LOOKUP = 1
HELPER_STORE_BYTES = 9
HELPER_CLONE_REDIRECT = 13
HELPER_REDIRECT_MAP = 51

XDP_DROP, XDP_PASS = 1, 2


@dataclass(frozen=True, slots=True)
class Label:
    """A place that jumps name; no instruction."""

    name: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of eight bytes (sixteen with `wide`); `to` is the label that a jump goes to."""

    code: int
    target: int = 0
    source: int = 0
    offset: int = 0
    value: int = 0
    to: str | None = None
    wide: bool = False


def mov(target: Register, operand: Register | int) -> Instruction:
    """Set all 64 bits; a number is one of 32 bits with its sign."""
    return alu("mov", target, operand)


def alu(operation: str, target: Register, operand: Register | int, bits: int = 64) -> Instruction:
    """Do `target = target operation operand`; with `bits` 32 the upper half becomes zero."""
    code = _ALU_CODES[operation] | {64: 0x07, 32: 0x04}[bits]
    return _with_operand(code, target, operand)


def load(size: int, target: Register, base: Register, offset: int = 0) -> Instruction:
    """Read `size` bytes from memory, as the machine orders them; the rest of the register becomes zero."""
    return Instruction(0x61 | _SIZE_CODES[size], target, base, offset)


def store(size: int, base: Register, offset: int, operand: Register | int) -> Instruction:
    """Write the lower `size` bytes of a register, or a number, to memory."""
    if isinstance(operand, Register):
        return Instruction(0x63 | _SIZE_CODES[size], base, operand, offset)
    return Instruction(0x62 | _SIZE_CODES[size], base, 0, offset, operand)


def jump(
    to: str, condition: str = "always", left: Register = R0, right: Register | int = 0, bits: int = 64
) -> Instruction:
    """Go to a label if `left condition right`, unsigned; with `bits` 32 the lower halves are compared.

    A number is extended by its sign to 64 bits: compare a loaded word with 32.
    """
    if condition == "always":
        return Instruction(0x05, to=to)
    code = _JUMP_CODES[condition] | {64: 0x05, 32: 0x06}[bits]
    instruction = _with_operand(code, left, right)
    return Instruction(code | instruction.code, left, instruction.source, 0, instruction.value, to)


def call(helper: int) -> Instruction:
    """Call a helper with R1 to R5; its result is in R0, what was in R1 to R5 is gone."""
    return Instruction(0x85, value=helper)


def leave() -> Instruction:
    """End the program with R0."""
    return Instruction(0x95)


def load_map(target: Register, fd: int) -> Instruction:
    """Put the address of a map into a register, for helpers."""
    return Instruction(0x18, target, 1, 0, fd, wide=True)  # source 1: the number is a map's descriptor


def load_value(target: Register, fd: int) -> Instruction:
    """Put the address of the first value of an array into a register: no helper and no look-up is needed."""
    return Instruction(0x18, target, 2, 0, fd, wide=True)


def _with_operand(code: int, target: Register, operand: Register | int) -> Instruction:
    if isinstance(operand, Register):
        return Instruction(code | 0x08, target, operand)
    return Instruction(code, target, value=operand)


def assemble(source: Sequence[Instruction | Label]) -> bytes:
    """Make a program's bytes, each jump with the distance to its label.

    Raises ValueError where a label is missing or stands twice.
    """
    places: dict[str, int] = {}
    at = 0
    for line in source:
        if isinstance(line, Label):
            if line.name in places:
                raise ValueError(f"label {line.name!r} stands twice in the program")
            places[line.name] = at
        else:
            at += 2 if line.wide else 1
    out = bytearray()
    for line in source:
        if isinstance(line, Label):
            continue
        offset = line.offset
        if line.to is not None:
            if line.to not in places:
                raise ValueError(f"a jump to label {line.to!r}, which the program does not have")
            offset = places[line.to] - len(out) // 8 - 1
        value = line.value & 0xFFFFFFFF
        if not -0x80000000 <= line.value <= 0xFFFFFFFF:
            raise ValueError(f"{line.value} is no number of 32 bits")
        out += struct.pack("<BBhI", line.code, line.target | line.source << 4, offset, value)
        if line.wide:
            out += bytes(8)
    return bytes(out)


# The call itself

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _PROG_LOAD, _LINK_CREATE, _LINK_UPDATE = 0, 1, 2, 5, 28, 29
_ATTACH_XDP, _ATTACH_TCX_INGRESS = 37, 46
_MMAPABLE = 1 << 10
_CALL_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_LOG_SIZE = 1 << 20
_LOG_LINES = 8
_LICENSE = b"Apache-2.0"  # no helper that we call asks for another

_libc = ctypes.CDLL(None, use_errno=True)


def load_program(kind: ProgramKind, program: Sequence[Instruction | Label], name: str) -> int:
    """Have the kernel verify and load a program; returns its descriptor.

    Raises OSError with the last lines of what the verifier said.
    """
    code = ctypes.create_string_buffer(assemble(program))
    legal = ctypes.create_string_buffer(_LICENSE)
    n = (len(code) - 1) // 8

    def attributes(log_size: int, log: int) -> bytes:
        return struct.pack(
            "<IIQQIIQII16s",
            kind,
            n,
            ctypes.addressof(code),
            ctypes.addressof(legal),
            1 if log_size else 0,
            log_size,
            log,
            0,
            0,
            _name(name),
        )

    try:
        return _bpf(_PROG_LOAD, attributes(0, 0))
    except OSError as refused:
        if refused.errno in {errno.EPERM, errno.ENOSYS}:
            raise OSError(refused.errno, f"program {name!r} was not loaded: {refused.strerror}") from None
    log = ctypes.create_string_buffer(_LOG_SIZE)
    try:
        return _bpf(_PROG_LOAD, attributes(_LOG_SIZE, ctypes.addressof(log)))
    except OSError as refused:
        said = "\n".join(log.value.decode(errors="replace").splitlines()[-_LOG_LINES:])
        raise OSError(
            refused.errno, f"program {name!r} of {n} instructions was refused: {refused.strerror}\n{said}"
        ) from None


def create_map(
    kind: MapKind, key_size: int, value_size: int, entries: int, name: str, *, shared: bool = False
) -> int:
    """Create a map and return its descriptor. `shared`: an array whose values mmap(2) gives."""
    flags = _MMAPABLE if shared else 0
    try:
        return _bpf(
            _MAP_CREATE,
            struct.pack("<IIIIIII16s", kind, key_size, value_size, entries, flags, 0, 0, _name(name)),
        )
    except OSError as refused:
        raise OSError(refused.errno, f"map {name!r} was not created: {refused.strerror}") from None


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes:
    """Read one value.

    Of a per-CPU map `value_size` is that of one CPU rounded up to 8, times `possible_cpus()`.
    Raises KeyError where the map has no such key.
    """
    value = ctypes.create_string_buffer(value_size)
    place = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(_MAP_LOOKUP, struct.pack("<IxxxxQQQ", fd, ctypes.addressof(place), ctypes.addressof(value), 0))
    except OSError as refused:
        if refused.errno == errno.ENOENT:
            raise KeyError(key) from None
        raise
    return value.raw


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Write one value; sizes as for `map_lookup`."""
    place = ctypes.create_string_buffer(key, len(key))
    data = ctypes.create_string_buffer(value, len(value))
    _bpf(_MAP_UPDATE, struct.pack("<IxxxxQQQ", fd, ctypes.addressof(place), ctypes.addressof(data), 0))


def attach_xdp(program: int, ifindex: int, flags: int = 0) -> int:
    """Attach an XDP program to an interface; it is gone when the returned link is closed.

    `flags` are XDP_FLAGS_* of linux/if_link.h. Raises OSError EBUSY where another program stands.
    """
    try:
        return _bpf(_LINK_CREATE, struct.pack("<IIII", program, ifindex, _ATTACH_XDP, flags))
    except OSError as refused:
        if refused.errno in {errno.EBUSY, errno.EEXIST}:
            raise OSError(
                errno.EBUSY,
                f"interface {_interface(ifindex)} has an XDP program already: another fastpath, or something "
                f"else (`ip link show {_interface(ifindex)}` names it)",
            ) from None
        raise OSError(refused.errno, f"no XDP program on {_interface(ifindex)}: {refused.strerror}") from None


def replace_program(link: int, program: int) -> None:
    """Let another program of the same kind run at a link, from the next frame on."""
    _bpf(_LINK_UPDATE, struct.pack("<IIII", link, program, 0, 0))


def attach_tc(program: int, ifindex: int) -> int:
    """Attach a SCHED_CLS program to an interface's ingress, behind those that are there (tcx: kernel 6.6)."""
    try:
        return _bpf(_LINK_CREATE, struct.pack("<IIIIIIQ", program, ifindex, _ATTACH_TCX_INGRESS, 0, 0, 0, 0))
    except OSError as refused:
        why = "tcx links need kernel 6.6" if refused.errno == errno.EINVAL else refused.strerror
        raise OSError(refused.errno, f"no tc program on {_interface(ifindex)}: {why}") from None


def available() -> str | None:
    """Say why this process cannot load programs; None where it can."""
    try:
        os.close(load_program(ProgramKind.XDP, [mov(R0, XDP_PASS), leave()], "fp_probe"))
    except OSError as refused:
        if refused.errno == errno.EPERM:
            return "bpf(2) is not permitted: it needs CAP_BPF and CAP_NET_ADMIN outside of user namespaces"
        if refused.errno == errno.ENOSYS:
            return f"no bpf(2) here: {refused.strerror}"
        return str(refused)
    return None


def possible_cpus() -> int:
    """Count the CPUs that per-CPU maps have a value for."""
    last = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii").strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1


def _bpf(command: int, attributes: bytes) -> int:
    number = _CALL_NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"the number of bpf(2) on {platform.machine()} is not known to fastpath")
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = _libc.syscall(number, command, buffer, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _name(name: str) -> bytes:
    encoded = name.encode("ascii")
    if len(encoded) > 15:
        raise ValueError(f"name {name!r} has {len(encoded)} characters; the kernel keeps 15")
    return encoded.ljust(16, b"\0")


def _interface(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"number {ifindex}"
