-- The tables of the log and the read models, each keyed by the user first.
--
-- Nothing is shared between users: there is no sequence, no global unique key, and no foreign key
-- that crosses users. So the same schema also runs where tables are sharded by user_id.


-- One row per user: the head of the log and of the hash chain. Locked for the length of an append.
create table eventstore.user_log (
    user_id      text not null,
    position     bigint not null,
    hash         bytea not null,
    recorded_at  timestamptz not null,
    constraint user_log_pkey primary key (user_id),
    constraint user_log_user_id_check check (length(user_id) between 1 and 255),
    constraint user_log_position_check check (position >= 0)
) with (fillfactor = 80);  -- every append updates the row: the new version fits on the same page

-- One row per task or conversation. It decides version conflicts; a closed one takes no more events.
create table eventstore.stream (
    user_id    text not null,
    stream_id  uuid not null,
    kind       text not null,
    version    bigint not null,
    closed     boolean not null,
    constraint stream_pkey primary key (user_id, stream_id),
    constraint stream_user_id_check check (length(user_id) between 1 and 255),
    constraint stream_kind_check check (kind ~ '^[a-z][a-z0-9_]{0,62}$')
) with (fillfactor = 80);

-- The events. They are appended and never changed, except that an erasure removes payload, metadata,
-- salt and fingerprint.
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
    idempotency_key  text,            -- on the first event of an append
    fingerprint      bytea,           -- likewise: tells a retry from a reuse of the key
    recorded_at      timestamptz not null,
    salt             bytea,
    payload_digest   bytea not null,
    hash             bytea not null,
    constraint event_pkey primary key (user_id, position),
    constraint event_stream_version_key unique (user_id, stream_id, version),
    constraint event_user_id_check check (length(user_id) between 1 and 255),
    constraint event_position_check check (position > 0),
    constraint event_version_check check (version > 0),
    constraint event_type_check check (length(type) between 1 and 100)
);
create unique index event_idempotency_key on eventstore.event (user_id, idempotency_key)
    where idempotency_key is not null;

-- The read models. Projectors keep them in the transaction of each append, and a rebuild makes them
-- again from the events.

create table eventstore.task (
    user_id       text not null,
    id            uuid not null,
    title         text not null,
    description   text,
    completed     boolean not null,
    created_at    timestamptz not null,
    updated_at    timestamptz not null,
    completed_at  timestamptz,
    position      bigint not null,    -- of its creation: the order of the list
    constraint task_pkey primary key (user_id, id),
    constraint task_user_id_check check (length(user_id) between 1 and 255)
);

create table eventstore.conversation (
    user_id           text not null,
    id                uuid not null,
    key               text,
    title             text,
    status            text not null,
    created_at        timestamptz not null,
    updated_at        timestamptz not null,
    position          bigint not null,   -- of its start
    last_position     bigint not null,   -- of its newest event: the order of the list
    message_count     bigint not null,
    deleted_at        timestamptz,
    deleted_position  bigint,
    constraint conversation_pkey primary key (user_id, id),
    constraint conversation_user_id_check check (length(user_id) between 1 and 255),
    constraint conversation_status_check check (status in ('active', 'archived', 'deleted'))
) with (fillfactor = 80);  -- every message updates the row; no index on what changes keeps it HOT

create table eventstore.message (
    user_id             text not null,
    id                  uuid not null,
    conversation_id     uuid not null,
    position            bigint not null,
    sender              text not null,
    content             text,              -- for reading and searching; NUL and lone surrogates as U+FFFD
    body                json not null,     -- the chat message exactly as it came
    tool_calls          json[],
    created_at          timestamptz not null,
    retracted_at        timestamptz,
    retracted_position  bigint,
    constraint message_pkey primary key (user_id, id),
    constraint message_conversation_position_key unique (user_id, conversation_id, position),
    constraint message_user_id_check check (length(user_id) between 1 and 255),
    constraint message_conversation_fkey foreign key (user_id, conversation_id)
        references eventstore.conversation (user_id, id)
        deferrable initially immediate  -- a rebuild replaces parents and children in any order
);

-- The users that a rebuild has still to do. It makes a rebuild resumable, and workers share it.
create table eventstore.rebuild_progress (
    user_id      text not null,
    started_at   timestamptz not null,
    finished_at  timestamptz,
    constraint rebuild_progress_pkey primary key (user_id),
    constraint rebuild_progress_user_id_check check (length(user_id) between 1 and 255)
);
