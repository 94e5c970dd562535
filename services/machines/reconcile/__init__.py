"""Live reconciliation: what runs against what the record says, and the record against what is wanted.

Level-driven: a pass at the start, whenever something changed, and at every interval, by any number of processes. It
acts through fenced calls, and appends to the version that it decided on.
"""

from services.machines.reconcile.deadlines import Deadlines
from services.machines.reconcile.lease_watch import LeaseWatch
from services.machines.reconcile.reconciler import Reconciler
from services.machines.reconcile.wishes import Wishes

__all__ = ["Deadlines", "LeaseWatch", "Reconciler", "Wishes"]
