"""
The read side: tables, projectors, and the three ways to run them.

`Task`, `Conversation` and `Message` are SQLModel tables to query. A projector of your own is a
function from facts to row changes: see `projector` and examples/own_projector.py.
"""

from __future__ import annotations

from projections.changes import (
    POSITION,
    RECORDED_AT,
    VERSION,
    AppendItem,
    Delete,
    ExtendItem,
    Increment,
    Insert,
    RowChange,
    Update,
)
from projections.models.conversation import Conversation, project_conversation
from projections.models.message import Message, project_message
from projections.models.task import Task, project_task
from projections.projector import Projections, Projector, projector
from projections.protection import protection_sql

__all__ = [
    "BUILT_IN",
    "POSITION",
    "RECORDED_AT",
    "VERSION",
    "AppendItem",
    "Conversation",
    "Delete",
    "ExtendItem",
    "Increment",
    "Insert",
    "Message",
    "Projections",
    "Projector",
    "RowChange",
    "Task",
    "Update",
    "project_conversation",
    "project_message",
    "project_task",
    "projector",
    "protection_sql",
]

BUILT_IN: tuple[Projector, ...] = (project_task, project_conversation, project_message)
