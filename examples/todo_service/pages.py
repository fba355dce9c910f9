"""The pages: plain HTML, made from what the store gives; every text in it is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote
from uuid import uuid4

from projections.models.message import MessageView
from projections.models.task import TaskView
from projections.queries.tool_call_audit import AuditEntry

from .agent import text_of

_STYLE = """
body { font: 16px/1.5 system-ui; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
li.user { font-weight: bold } li.call { color: #777 } td, th { padding: .2rem .8rem .2rem 0;
text-align: left; vertical-align: top } .error { color: #b00 } input[name=text] { width: 24rem }
"""


# The answer grows in the page while it is streamed. Without scripts the form is sent, and answered
# as a page.
_SCRIPT = """
const form = document.getElementById("say"), list = document.getElementById("messages");
const line = (kind) => {
  const item = document.createElement("li");
  item.className = kind;
  return list.appendChild(item);
};
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { text, key } = Object.fromEntries(new FormData(form));
  form.inert = true;  // until the page comes with another key
  try {
    const response = await fetch("/api" + location.pathname + "/stream", {
      method: "POST",
      headers: { "Content-Type": "application/json", "Idempotency-Key": key },
      body: JSON.stringify({ text }),
    });
    if (!response.ok) throw new Error(response.statusText);
    line("user").textContent = text;
    const answer = line("assistant");
    const pieces = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let piece; !(piece = await pieces.read()).done; ) answer.textContent += piece.value;
    location.replace(location.pathname);
  } catch {
    form.submit();  // with the same key: it goes on with what was begun, or says what is wrong
  }
});
"""


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>{body}</html>"
    )


def login_page() -> str:
    return _page(
        "Login stub",
        "<p>There is no password: whoever you say you are, you are. Put your own login here.</p>"
        '<form method="post"><input name="name" required autofocus maxlength="100">'
        "<button>Log in</button></form>",
    )


@dataclass(frozen=True, slots=True)
class Unsent:
    """A request that could not be answered, and why; the form sends it again as it was."""

    text: str
    key: str
    error: str


def chat_page(
    user: str,
    chat: str,
    messages: Iterable[MessageView],
    tasks: Iterable[TaskView],
    unsent: Unsent | None,
) -> str:
    # The key is made with the form: sent twice, or again after an error, it is one request.
    again = unsent or Unsent("", str(uuid4()), "")
    said = "".join(_message(one) for one in messages)
    done = "".join(f"<li>{'☑' if one.completed else '☐'} {escape(one.title)}</li>" for one in tasks)
    alert = f'<p class="error" role="alert">{escape(again.error)}</p>' if unsent else ""
    return _page(
        f"{user}: {chat}",
        f'<p><a href="/chats/{quote(chat, safe="")}/audit">Audit</a></p>'
        f'<ul id="messages">{said}</ul>{alert}'
        f'<form id="say" method="post"><input type="hidden" name="key" value="{escape(again.key)}">'
        f'<input name="text" value="{escape(again.text)}" required autofocus '
        'placeholder="add milk, bread"><button>Send</button></form>'
        f'<h2>Tasks</h2><ul id="tasks">{done}</ul>'
        '<form method="post" action="/logout"><button>Log out</button></form>'
        f"<script>{_SCRIPT}</script>",
    )


def _message(message: MessageView) -> str:
    match message.body.get("type"):
        case "function_call":
            shown = f"{message.body['name']}({message.body['arguments']})"
            return f'<li class="call"><code>{escape(shown)}</code></li>'
        case "function_call_output":
            return ""
        case _:
            return f'<li class="{escape(message.sender)}">{escape(text_of(message.body))}</li>'


def audit_page(chat: str, items: Sequence[MessageView], calls: Iterable[AuditEntry]) -> str:
    """Return the page that joins what the model asked for, what was run, and what that changed."""
    served = {call.call_id: call for call in calls}
    rows = "".join(
        _audited(item, served.get(item.body["call_id"]))
        for item in items
        if item.body.get("type") == "function_call"
    )
    return _page(
        f"Audit of {chat}",
        f'<p><a href="/chats/{quote(chat, safe="")}">Back</a></p><table id="audit">'
        "<tr><th>call id<th>item of the session<th>call of the MCP server<th>what it caused</tr>"
        f"{rows}</table>",
    )


def _audited(item: MessageView, call: AuditEntry | None) -> str:
    wanted = f"#{item.position} {item.body['name']}({item.body['arguments']})"
    served, caused = "not recorded", ""
    if call is not None:
        took = "" if call.duration_ms is None else f", {call.duration_ms:.0f} ms"
        served = f"#{call.position} {call.status}{took}"
        caused = ", ".join(f"#{one.position} {one.type}" for one in call.caused)
    cells = (item.body["call_id"], wanted, served, caused)
    return f"<tr>{''.join(f'<td>{escape(cell)}' for cell in cells)}</tr>"
