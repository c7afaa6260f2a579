"""Put mutated frames through the compiled data path: nothing breaks, nothing is lost, the reference agrees.

The books are balanced after every batch. One frame of `SAMPLE` goes through the reference too. Now and then
a mutated capture is replayed. A batch is written down before it runs: if the process dies, it is left in
build/fuzz/batch.txt. `--replay FILE` runs such a file again, frame by frame. Equal seeds make equal frames.
`--box vms` is for our own NVE alone: what a VM can send it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fastpath.errors import CaptureError
from fastpath.forwarder import Forwarder
from fastpath.model import Frame, Mark, Verdict
from fastpath.ports import MemoryPort, PcapSource
from fastpath.reasons import REASONS
from tests.compiled import Arrival, Compiled, one_by_one
from tests.fuzz.boxes import CAPTURES, NVE_BOXES, Box, all_boxes, all_seeds
from tests.fuzz.mutate import flip_bits, mutate, set_byte

BATCH = 2048
SAMPLE = 500
CAPTURE_EACH = 4
"""Batches per mutated capture."""
STEP_NS = 50_000
"""Between two frames."""
OUT = Path(__file__).resolve().parents[2] / "build" / "fuzz"


class Finding(Exception):
    """The data path did something else than it must."""


def draw(rng: random.Random, box: Box, seeds: Sequence[bytes], n: int) -> list[Arrival]:
    """Frames for a box: three of four from its own seeds; a few marked, or with a tag aside."""
    arrivals: list[Arrival] = []
    while len(arrivals) < n:
        data = mutate(rng, box.seeds if rng.random() < 0.75 else seeds)
        mark = vlan = None
        chance = rng.random()
        if chance < 0.01:
            mark = Mark(rng.choice((34, 54, 84, rng.randrange(300))), rng.choice((6, 16, rng.randrange(300))))
        elif chance < 0.02:
            vlan = (rng.choice((0x8100, 0x88A8)), rng.randrange(65536))
        times = 1 if chance < 0.97 else rng.randrange(2, 9)
        in_port = rng.choice(box.in_ports) if rng.random() < 0.9 else rng.choice(box.ports())
        arrivals += [(in_port, Frame(data, mark, vlan, len(arrivals) * STEP_NS))] * times
    return arrivals[:n]


# --- reproducers --------------------------------------------------------------------------------------------


def write_down(path: Path, seed: int, box: Box, arrivals: Sequence[Arrival]) -> None:
    """Write frames so that `--replay` can read them."""
    lines = [f"box {seed} {box.name}"]
    for in_port, frame in arrivals:
        mark = "-" if frame.mark is None else f"{frame.mark.start}+{frame.mark.offset}"
        vlan = "-" if frame.vlan is None else f"{frame.vlan[0]}:{frame.vlan[1]}"
        lines.append(f"{in_port} {mark} {vlan} {frame.time_ns} {frame.data.hex() or '-'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def read_back(path: Path) -> tuple[Box, list[Arrival]]:
    """Read what `write_down` wrote."""
    first, *rest = path.read_text().splitlines()
    _, seed, name = first.split(" ", 2)
    box = next(box for box in all_boxes(int(seed)) if box.name == name)
    arrivals: list[Arrival] = []
    for line in rest:
        in_port, mark, vlan, time_ns, data = line.split()
        marked = None if mark == "-" else Mark(*map(int, mark.split("+")))
        tagged = None if vlan == "-" else (int(vlan.split(":")[0]), int(vlan.split(":")[1]))
        whole = b"" if data == "-" else bytes.fromhex(data)
        arrivals.append((int(in_port), Frame(whole, marked, tagged, int(time_ns))))
    return box, arrivals


# --- one batch ----------------------------------------------------------------------------------------------


def compare(box: Box, arrivals: Sequence[Arrival]) -> Arrival | None:
    """The first frame that the two engines do not treat alike."""
    outcomes = one_by_one(box.layout, box.lists, arrivals, box.macs)
    return next((arrival for arrival, got, want in outcomes if got != want), None)


def run_batch(rng: random.Random, box: Box, arrivals: Sequence[Arrival], counts: Counter[str]) -> None:
    """Forward a batch and balance its books; compare a few of its frames."""
    n_ports = len(box.layout.ports)
    trains = [i for i in range(n_ports) if rng.random() < 0.5]
    room = 1 << (14 if rng.random() < 0.05 else 24)
    batch = rng.choice((1, 7, 32, 256, 256))
    compiled = Compiled(box.layout, box.lists, batch=batch, trains=trains, room=room, macs=box.macs)
    sent = compiled.forward_batch(arrivals)
    counts.update({verdict.name: n for verdict, n in sent.verdicts.items()})
    counts.update(sent.reasons)
    counts.update(sent.copy_drops)
    counts["copies"] += sum(map(len, sent.copies))
    counts["lessons"] += len(sent.lessons)
    counts["trains"] += compiled.forwarder.statistics().trains
    places = sorted(rng.sample(range(len(arrivals)), max(1, len(arrivals) // SAMPLE)))
    sample = [arrivals[place] for place in places]
    counts["compared"] += len(sample)
    odd = compare(box, sample)
    if odd is not None:
        raise Finding("the reference treats a frame differently")


def run_capture(rng: random.Random, box: Box, path: Path, counts: Counter[str]) -> None:
    """Replay a mutated capture: all that the reader hands over is accounted for."""
    source_path = rng.choice(sorted(p for p in CAPTURES.iterdir() if p.suffix in {".pcap", ".pcapng"}))
    data = bytearray(source_path.read_bytes())
    for _ in range(rng.choice((1, 2, 5, 30))):
        rng.choice((flip_bits, set_byte))(rng, data)
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    path.write_bytes(data)
    counts["captures"] += 1
    places = {f"p{i}": i for i in range(len(box.layout.ports))}
    try:
        source = PcapSource(path, places, 0)
    except CaptureError:
        counts["captures refused"] += 1
        return
    with source:
        ports = [MemoryPort(1 << 16, trains=True, overwrite=True) for _ in box.layout.ports]
        forwarder = Forwarder(box.layout, ports, box.lists, sources=[source])
        n = forwarder.run()
        now = forwarder.statistics()
        if not n == source.n_frames == now.received == now.replicated + now.punted + now.dropped:
            raise Finding(f"{n} frames of {source.n_frames} came in, {now}")


# --- the command --------------------------------------------------------------------------------------------


def fuzz(seed: int, n_frames: int, seconds: float | None, out: Path, only: str | None = None) -> Counter[str]:
    """Run until enough frames or seconds have passed; Finding names the file that shows what was wrong."""
    rng = random.Random(seed)
    every_box = all_boxes(seed)
    seeds = all_seeds(every_box)
    boxes = [box for box in every_box if only in {None, box.name}]
    counts: Counter[str] = Counter()
    begin = time.monotonic()
    batch = 0
    while counts["frames"] < n_frames and (seconds is None or time.monotonic() - begin < seconds):
        box = boxes[batch % len(boxes)]
        arrivals = draw(rng, box, seeds, min(BATCH, n_frames - counts["frames"]))
        write_down(out / "batch.txt", seed, box, arrivals)
        try:
            run_batch(rng, box, arrivals, counts)
            if batch % CAPTURE_EACH == 0 and only is None:
                run_capture(rng, boxes[1], out / "capture", counts)
        except Exception as error:
            odd = compare(box, arrivals)
            path = out / f"finding-{seed}-{batch}.txt"
            write_down(path, seed, box, arrivals if odd is None else [odd])
            raise Finding(f"{type(error).__name__}: {error}; see {path}") from error
        counts["frames"] += len(arrivals)
        batch += 1
    return counts


def closing_line(counts: Counter[str], seconds: float) -> str:
    """What was done and what was reached."""
    reached = [r.name for r in REASONS if counts[r.name]]
    verdicts = ", ".join(f"{counts[v.name]} {v.name.lower()}" for v in Verdict)
    missing = sorted({r.name for r in REASONS} - {*reached})
    return (
        f"{counts['frames']} frames in {seconds:.1f} s ({counts['frames'] / seconds:.0f} a second): "
        f"{verdicts}; {counts['copies']} copies, {counts['trains']} trains, {counts['lessons']} lessons; "
        f"{counts['compared']} frames compared with the reference; "
        f"{counts['captures']} captures, {counts['captures refused']} of them refused; "
        f"{len(reached)} of {len(REASONS)} reasons reached"
        + (f", not {', '.join(missing)}" if missing else "")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run; 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=100_000, help="stop after so many frames")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same frames")
    parser.add_argument("--seconds", type=float, help="stop after so many seconds")
    parser.add_argument("--box", choices=NVE_BOXES, help="send all frames to this box of our own NVE")
    parser.add_argument("--out", type=Path, default=OUT, help="where findings are written")
    parser.add_argument("--replay", type=Path, help="run the frames of a finding again, one by one")
    given = parser.parse_args(arguments)
    if given.replay:
        box, arrivals = read_back(given.replay)
        odd = compare(box, arrivals)
        print("both engines agree" if odd is None else f"they differ: port {odd[0]}, {odd[1].data.hex()}")
        return odd is not None
    begin = time.monotonic()
    try:
        counts = fuzz(given.seed, given.frames, given.seconds, given.out, given.box)
    except Finding as finding:
        print(f"found: {finding}", file=sys.stderr)
        return 1
    print(closing_line(counts, time.monotonic() - begin))
    return 0


if __name__ == "__main__":
    sys.exit(main())
