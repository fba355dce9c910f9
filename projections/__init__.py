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
from projections.conversations import project_conversation
from projections.messages import project_message
from projections.projector import Projections, Projector, projector
from projections.protection import protection_sql
from projections.tables import Conversation, Message, Task
from projections.tasks import project_task

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
