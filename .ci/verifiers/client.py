"""Uses the generated Python client: registers a watch, reads its timeline, registers a batch."""

import sys
import time

from ringback_client.api.watches import create_watch, create_watches, show_timeline, show_watch
from ringback_client.client import AuthenticatedClient
from ringback_client.models import (
    Batch,
    BatchItemRefused,
    BatchItemRegistered,
    Problem,
    Registration,
    TimelineEvent,
    TimelineObserved,
    TimelineRegistered,
    Watch,
    WatchStatus,
)

address, key = sys.argv[1:]
client = AuthenticatedClient(base_url=address, token=key, timeout=40)


def check(condition, value):
    if not condition:
        sys.exit(f"client.py: unexpected: {value}")


watch = create_watch.sync(client=client, body=Registration(job_id="job_1s_completed", notify=[]))
check(isinstance(watch, Watch) and watch.status == WatchStatus.WATCHING, watch)

shown = show_watch.sync(watch.id, client=client, wait="30s")
check(isinstance(shown, Watch) and shown.status == WatchStatus.COMPLETED, shown)
check(shown.job.completed_at is not None, shown)

# The event is written with the end of the watch.
timeline = show_timeline.sync(watch.id, client=client)
kinds = [type(entry) for entry in timeline.data]
check(kinds[0] is TimelineRegistered and TimelineObserved in kinds and TimelineEvent in kinds, timeline)
event = next(entry for entry in timeline.data if isinstance(entry, TimelineEvent))
check(event.event_type.value == "job.completed", event)

batch = Batch(watches=[
    Registration(job_id="job_1s_completed", notify=[]),
    Registration(job_id="job_1s_completed", notify=[], provider="unknown"),
])
answer = create_watches.sync(client=client, body=batch, idempotency_key=f"batch-{time.time_ns()}")
registered, refused = answer.data
check(isinstance(registered, BatchItemRegistered) and registered.watch.id != watch.id, registered)
check(isinstance(refused, BatchItemRefused) and refused.status == 422, refused)
check(isinstance(refused.problem, Problem) and refused.problem.errors[0].code == "unknown_provider", refused)
print("the generated Python client registers a watch, reads its timeline and a batch")
