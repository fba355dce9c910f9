-- The tables of the log and the read models, each keyed by the user first.
--
-- Nothing is shared between users: there is no sequence, no global unique key, and no foreign key
-- that crosses users. So the same schema also runs where tables are sharded by user_id.
--
-- There is no CHECK and no foreign key. PostgreSQL parses the CHECKs of a table again for every
-- statement that writes to it, and asks for the parent of every row: together a quarter of an append's
-- time. The client refuses what they would, row-level security keeps an empty user_id out, and verify
-- finds what somebody wrote past both.


-- One row per user: the head of the log and of the hash chain. Locked for the length of an append.
create table eventstore.user_log (
    user_id      text not null,
    position     bigint not null,
    hash         bytea not null,
    recorded_at  timestamptz not null,
    retried      uuid[],   -- event ids of newest appends that came again after a lost connection
    quota        bigint,   -- how many events the log may hold; null: as many as the user appends
    constraint user_log_pkey primary key (user_id)
) with (fillfactor = 80);  -- every append updates the row: the new version fits on the same page

-- One row per task or conversation. It decides version conflicts; a closed one takes no more events.
create table eventstore.stream (
    user_id    text not null,
    stream_id  uuid not null,
    kind       text not null,
    version    bigint not null,
    closed     boolean not null,
    constraint stream_pkey primary key (user_id, stream_id)
) with (fillfactor = 80);

-- The events. They are appended and never changed, except that an erasure removes payload, metadata
-- and salt.
create table eventstore.event (
    user_id          text not null,
    position         bigint not null,
    stream_id        uuid not null,
    version          bigint not null,
    event_id         uuid not null,
    type             text not null,
    schema_version   integer not null,
    payload          json,            -- not jsonb: the text is kept as it was written
    metadata         json,
    correlation_id   uuid,
    causation_id     uuid,
    occurred_at      timestamptz,     -- when it happened; null: when it was recorded
    idempotency_key  text,            -- of its append, on the first event, if the caller gave one
    append_size      integer,         -- likewise: the number of events under that key
    recorded_at      timestamptz not null,
    salt             bytea,
    payload_digest   bytea not null,
    hash             bytea not null,
    constraint event_pkey primary key (user_id, position)
);
-- A stream in its order, or up to a moment. Versions need no index: they are counted in `stream` under
-- the lock on the user's row.
create index event_stream on eventstore.event (user_id, stream_id, position);
-- What a tool call caused elsewhere, for the audit of a conversation. How it ended stands in the
-- conversation itself.
create index event_caused on eventstore.event (user_id, causation_id)
    where causation_id is not null
      and type not in ('ToolCallClaimed', 'ToolCallSucceeded', 'ToolCallFailed', 'ToolCallAbandoned');
create unique index event_idempotency_key on eventstore.event (user_id, idempotency_key)
    where idempotency_key is not null;

-- The read models. Projectors keep them in the transaction of each append, and a rebuild makes them
-- again from the events.

create table eventstore.task (
    user_id           text not null,
    id                uuid not null,
    title             text not null,
    description       text,
    due_on            date,              -- either a date, or a timestamp with
    due_at            timestamptz,
    due_zone          text,              -- the time zone in which the user thinks of it
    priority          text not null,
    tags              text[] not null,
    completed         boolean not null,
    created_at        timestamptz not null,
    updated_at        timestamptz not null,
    completed_at      timestamptz,
    event_id          uuid not null,     -- of its creation
    position          bigint not null,   -- of its creation: the order of the list
    rank              text,              -- its place in the user's own order, if it was moved
    version           bigint not null,   -- of its stream
    last_position     bigint not null,   -- of its newest event
    deleted_at        timestamptz,       -- a deleted task keeps its row, for lists of earlier moments
    deleted_position  bigint,
    constraint task_pkey primary key (user_id, id)
);

create table eventstore.conversation (
    user_id            text not null,
    id                 uuid not null,
    key                text,
    title              text,
    status             text not null,
    created_at         timestamptz not null,
    updated_at         timestamptz not null,
    last_activity_at   timestamptz not null,
    event_id           uuid not null,     -- of its start
    position           bigint not null,   -- of its start
    last_position      bigint not null,   -- of its newest event
    activity_position  bigint not null,   -- of its newest message or call: the order of the list
    deleted_at         timestamptz,
    deleted_position   bigint,
    restored_at        timestamptz,       -- it was deleted before, and came back or began anew
    restored_position  bigint,
    constraint conversation_pkey primary key (user_id, id)
) with (fillfactor = 80);  -- every message updates the row; no index on what changes keeps it HOT

-- The content stands once: see docs/decisions/0022.
create table eventstore.message (
    user_id             text not null,
    id                  uuid not null,
    conversation_id     uuid not null,
    position            bigint not null,
    sender              text not null,
    content             text,              -- for reading and searching; NUL and lone surrogates as U+FFFD
    body                json,              -- the rest of the item; null if that is its role
    tool_call_count     integer not null,  -- the tool calls that it asks for
    created_at          timestamptz not null,
    correlation_id      uuid,              -- of its event: in a turn, the turn's id
    edited_at           timestamptz,
    edited_position     bigint,
    retracted_at        timestamptz,
    retracted_position  bigint,
    constraint message_pkey primary key (user_id, id),
    constraint message_conversation_position_key unique (user_id, conversation_id, position)
);

create table eventstore.tool_call (
    user_id            text not null,
    id                 uuid not null,      -- of the event that requested it
    conversation_id    uuid not null,
    message_id         uuid,               -- the message that asked for it
    index              integer not null,   -- among the calls of that message
    call_id            text not null,      -- the model's name for it
    name               text not null,
    arguments          json not null,      -- a JSON string: the text that the model wrote
    status             text not null,
    output             json,
    error              json,
    requested_at       timestamptz not null,
    finished_at        timestamptz,
    position           bigint not null,    -- of the request
    finished_position  bigint,
    claimed_at         timestamptz,        -- when a worker took it last
    claim_seconds      integer,            -- for how long
    correlation_id     uuid,               -- of its request: in a turn, the turn's id
    constraint tool_call_pkey primary key (user_id, id)
);
create index tool_call_message on eventstore.tool_call (user_id, message_id)
    where message_id is not null;
create index tool_call_call_id on eventstore.tool_call (user_id, conversation_id, call_id, position);
create index tool_call_pending on eventstore.tool_call (user_id, position) where status = 'pending';
create index tool_call_abandoned on eventstore.tool_call (user_id) where status = 'abandoned';

create table eventstore.turn (
    user_id          text not null,
    id               uuid not null,      -- of the event that started it
    conversation_id  uuid not null,
    key              text not null,      -- the caller's name for the request
    request          text not null,      -- a digest of what the user sent
    status           text not null,
    holder           uuid not null,      -- drawn by the process that works on it, or did so last
    attempt          integer not null,   -- how many processes have worked on it
    leased_at        timestamptz not null,
    lease_seconds    integer not null,
    model            text,
    usage            json,
    input_tokens     bigint not null,
    output_tokens    bigint not null,
    error            json,
    started_at       timestamptz not null,
    ended_at         timestamptz,
    position         bigint not null,
    ended_position   bigint,
    constraint turn_pkey primary key (user_id, id)
);
-- One turn of a conversation runs at a time, of those that have a lease.
create unique index turn_running on eventstore.turn (user_id, conversation_id)
    where status = 'running' and lease_seconds > 0;
create index turn_conversation on eventstore.turn (user_id, conversation_id, position);

-- The users that a rebuild has still to do. It makes a rebuild resumable, and workers share it;
-- `fingerprint` tells whose projectors it runs.
create table eventstore.rebuild_progress (
    user_id      text not null,
    started_at   timestamptz not null,
    finished_at  timestamptz,
    fingerprint  text not null,
    constraint rebuild_progress_pkey primary key (user_id)
);

-- How far a feed has come in a user's log: the row is the claim of the worker that delivers as well.
create table eventstore.feed_checkpoint (
    user_id    text not null,
    feed       text not null,
    position   bigint not null,   -- everything up to it was delivered
    since      timestamptz,       -- the feed leaves out what was recorded up to then
    holder     uuid,              -- the worker that has the user
    free_at    timestamptz,       -- until then no other worker gets the user; null: parked
    failures   integer not null,  -- how often the event behind `position` was tried in vain
    failed_at  timestamptz,
    error      text,              -- an erasure leaves the name of its class
    constraint feed_checkpoint_pkey primary key (user_id, feed)
) with (fillfactor = 80);  -- each batch updates the row twice; no index on what changes keeps it HOT
