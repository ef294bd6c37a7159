"""Reading a live store when somebody says so: what `POST /v1/reload` and SIGHUP mean to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bascule.model.problems import Problem
from bascule.process.reloading import Outcome
from bascule.store.interface import StoreError

if TYPE_CHECKING:
    from bascule.process.pipeline import Pipeline

APPLIED_S = 10.0


async def reread(pipeline: Pipeline, because: str) -> Outcome:
    """Read the store now, and wait until every worker has what it says."""
    publisher = pipeline.master.publisher
    before = publisher.revision
    try:
        await pipeline.read_again()
    except StoreError as error:
        problem = Problem(message=str(error), remedy=error.remedy)
        return Outcome(ok=False, changed=False, revision=pipeline.revision, problems=(problem,))
    applied = await pipeline.until_applied(pipeline.revision, APPLIED_S)
    changed = publisher.revision != before
    pipeline.master.log.info("read the store again", because=because, revision=pipeline.revision, changed=changed)
    return Outcome(
        ok=applied.applied,
        changed=changed,
        revision=pipeline.revision,
        applied=applied.applied,
        lagging=applied.lagging,
        problems=tuple(Problem(message=reason, warning=True) for reason in applied.held),
    )
