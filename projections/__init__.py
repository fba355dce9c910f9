"""
The read side: tables, projectors, and the three ways to run them.

`Task`, `Conversation`, `Message`, `ToolCall` and `Turn` are SQLModel tables to query. A projector
of your own is a function from events to row changes: see `projector` and examples/own_projector.py.
"""

from __future__ import annotations

from projections.changes import (
    OCCURRED_AT,
    POSITION,
    RECORDED_AT,
    VERSION,
    Delete,
    Increment,
    Insert,
    RowChange,
    Update,
)
from projections.models.conversation import Conversation, project_conversation
from projections.models.message import Message, project_message
from projections.models.task import Task, project_task
from projections.models.tool_call import ToolCall, project_tool_call
from projections.models.turn import Turn, project_turn
from projections.projector import Projections, Projector, projector
from projections.protection import protection_sql

__all__ = [
    "BUILT_IN",
    "OCCURRED_AT",
    "POSITION",
    "RECORDED_AT",
    "VERSION",
    "Conversation",
    "Delete",
    "Increment",
    "Insert",
    "Message",
    "Projections",
    "Projector",
    "RowChange",
    "Task",
    "ToolCall",
    "Turn",
    "Update",
    "project_conversation",
    "project_message",
    "project_task",
    "project_tool_call",
    "project_turn",
    "projector",
    "protection_sql",
]

BUILT_IN: tuple[Projector, ...] = (
    project_task,
    project_conversation,
    project_message,
    project_tool_call,
    project_turn,
)
