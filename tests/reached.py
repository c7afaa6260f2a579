"""What of section 8 random frames reach: that two engines agree says nothing of what they never meet."""

from __future__ import annotations

from collections.abc import Iterator

from fastpath.model import KeyKind, Layout, Scope, Verdict
from fastpath.reference import Outcome, Trail
from fastpath.reference.trail import SourceClass

OF_TENANTS = {
    *(f"{scope.name} {what}" for scope in Scope for what in ("punted", "any group")),
    *(f"{scope.name} refined" for scope in (Scope.DEVICE, Scope.REPLICATOR)),
    *(f"{scope.name} refined and recovered" for scope in (Scope.DEVICE, Scope.REPLICATOR)),
    *("nobody of any group", "NVE goes up alone", "DEVICE goes up alone", "strict refined"),
    *("refined by source", "refined by number", "refused before it was refined"),
}
"""What random frames must meet of section 8."""


def of_tenants(layout: Layout, trail: Trail, outcome: Outcome) -> Iterator[str]:
    """What of section 8 a frame met."""
    scope = "" if trail.scope is None else trail.scope.name
    if trail.snooped and outcome.verdict is Verdict.PUNT:
        yield f"{scope} punted"
    if trail.found is not None and not trail.refining and outcome.reason in {"unknown_peer", "wrong_group"}:
        yield "refused before it was refined"
    if trail.unregistered and outcome.verdict is Verdict.REPLICATE:
        yield f"{scope} goes up alone" if trail.refined is None else f"{scope} any group"
    elif trail.unregistered and trail.refined is not None and outcome.reason == "unregistered_group":
        yield "nobody of any group"
    elif trail.refined is not None and trail.found is not None and outcome.verdict is Verdict.REPLICATE:
        yield f"{scope} refined"
        if trail.recovered is not None:
            yield f"{scope} refined and recovered"
        if layout.strict_members and trail.source_class is SourceClass.LOCAL:
            yield "strict refined"
        if trail.refined.key.kind is KeyKind.INNER_SOURCE_GROUP:
            yield "refined by source"
        if trail.found.key.kind is KeyKind.VNI:
            yield "refined by number"
