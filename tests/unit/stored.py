"""A store in memory, as bare as the model of ctrl/store/model.py allows, and what managers write into it."""

from ctrl.store.model import Changes, Item, Write
from ctrl.topology import records
from ctrl.topology.entry import Address, Entry, Key, Node
from ctrl.topology.points import Settings
from ctrl.topology.topology import Dirty, Topology


class Log:
    """All that was ever written, in order of revisions."""

    def __init__(self) -> None:
        self.revision = 0
        self.items: dict[str, Item] = {}
        self.log: list[Item] = []

    def commit(self, write: Write) -> bool:
        if any(self.revision_of(key) != revision for key, revision in write.when.items()):
            return False
        self.put(**write.puts)
        return True

    def put(self, **puts: bytes | None) -> int:
        self.revision += 1
        for key, value in puts.items():
            item = Item(key, value, self.revision)
            self.log.append(item)
            if value is None:
                self.items.pop(key, None)
            else:
                self.items[key] = item
        return self.revision

    def revision_of(self, key: str) -> int:
        return self.items[key].revision if key in self.items else 0

    def since(self, revision: int, until: int | None = None) -> Changes:
        until = self.revision if until is None else min(until, self.revision)
        return Changes(until, [item for item in self.log if revision < item.revision <= until])

    def everything(self) -> Changes:
        return Changes(
            self.revision, sorted(self.items.values(), key=lambda item: item.revision), is_all=True
        )

    # --- what managers write -------------------------------------------------------------------------------

    def device(self, name: str, address: Address) -> Node:
        return self.node(Node(name, "device", address, 1))

    def point(self, name: str, address: Address, replicate: Address = b"", **more) -> Node:
        return self.node(Node(name, "replicator", address, 1, replicate=replicate, **more))

    def node(self, node: Node) -> Node:
        self.put(**{records.node_key(node.name): records.encode_node(node)})
        return node

    def groups(self, name: str, shard: int) -> dict[Key, records.Networks]:
        item = self.items.get(records.groups_key(name, shard))
        return records.decode_groups(item.value) if item is not None and item.value is not None else {}

    def join(self, name: str, key: Key, vnis: tuple[int, ...] = (), vsids: tuple[int, ...] = ()) -> int:
        shard = records.shard_of(key)
        held = self.groups(name, shard) | {key: records.Networks(vnis, vsids)}
        return self.put(**{records.groups_key(name, shard): records.encode_groups(held)})

    def leave(self, name: str, key: Key) -> int:
        shard = records.shard_of(key)
        held = {k: n for k, n in self.groups(name, shard).items() if k != key}
        return self.put(**{records.groups_key(name, shard): records.encode_groups(held) if held else None})

    def ack(self, name: str, revision: int) -> int:
        return self.put(**{records.acked_key(name): records.encode_number(revision)})


G = bytes([239, 1, 1, 1])
A, B, C, D = (bytes([10, 0, 0, n]) for n in (1, 2, 3, 4))
MESHES = Settings("mesh")
POINTS = Settings("point")
AUTO = Settings("auto", threshold=3, hysteresis=1)


class Follower:
    """A topology that sees each change of its store at once."""

    def __init__(self, settings: Settings = MESHES) -> None:
        self.store = Log()
        self.topology = Topology(settings)
        for name, address in (("a", A), ("b", B), ("c", C), ("d", D)):
            self.store.device(name, address)
        self.follow()

    def follow(self) -> Dirty:
        return self.topology.apply(self.store.since(self.topology.revision))

    def join(self, name: str, key: Key = G, vnis: tuple[int, ...] = ()) -> Dirty:
        self.store.join(name, key, vnis)
        return self.follow()

    def leave(self, name: str, key: Key = G) -> Dirty:
        self.store.leave(name, key)
        return self.follow()

    def entry(self, name: str, key: Key = G) -> Entry:
        entry = self.topology.entry(name, key)
        assert entry is not None
        return entry

    def settle(self) -> None:
        """Switch to whatever is due, with all acknowledged at once."""
        while writes := self.topology.steps():
            for write in writes:
                assert self.store.commit(write)
            self.follow()
            for name, revision in dict(self.topology.awaited()).items():
                self.store.ack(name, revision)
            self.follow()
