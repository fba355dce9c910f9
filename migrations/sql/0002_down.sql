-- Back to 0001. `event_not_erased` is valid here: the columns become NOT NULL without a scan.

-- The log's head first, as an append does: whoever has it is waited for before anything is held, so
-- that the two never wait for each other.
lock table eventstore.user_log, eventstore.event, eventstore.stream in access exclusive mode;

alter table eventstore.event
    alter column payload set not null,
    alter column metadata set not null,
    alter column salt set not null;
alter table eventstore.event drop constraint event_not_erased;

-- With CASCADE go the triggers, where the server has them.
drop function eventstore.refuse_change(), eventstore.refuse_other_than_erasure() cascade;

drop policy eraser_erases on eventstore.event;
revoke all on eventstore.event from eventstore_eraser;
revoke select (user_id, position, stream_id, type, idempotency_key, salt),
       update (payload, metadata, salt, request_digest)
    on eventstore.event from eventstore_eraser;
revoke usage on schema eventstore from eventstore_eraser;

revoke update (position, hash, recorded_at) on eventstore.user_log from eventstore_app;
revoke update (version, closed) on eventstore.stream from eventstore_app;
grant update on eventstore.user_log, eventstore.stream to eventstore_app;

create or replace function eventstore.current_user_id() returns text
language sql stable parallel safe
as $$ select nullif(current_setting('eventstore.user_id', true), '') $$;
