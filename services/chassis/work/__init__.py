"""Durable work: what takes long is claimed from the store, done under a heartbeat, and found again after any crash.

A claim carries an attempt number: only the newest claimant can commit. How long a claim lasts: `claims`. When work is
due, the database's clock says: one that jumps makes work start early or late by as much, and ends no claim.
"""

from services.chassis.work.items import Runner, WorkContext, WorkItem
from services.chassis.work.worker import Worker

__all__ = ["Runner", "WorkContext", "WorkItem", "Worker"]
