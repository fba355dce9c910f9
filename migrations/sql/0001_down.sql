-- Back to nothing, unless that would destroy recorded events.
--
-- The locks are taken in the order in which an append takes them, so that the two never wait for each
-- other. Whether there are events is asked under the locks: an append that committed before them is
-- seen, and none can follow. Row-level security is forced on the owner too, so the owner must lift it
-- to see the rows; a refusal rolls that back.

lock table eventstore.user_log, eventstore.event, eventstore.stream in access exclusive mode;
alter table eventstore.event no force row level security;

do $refuse$
begin
    if exists (select from eventstore.event) then
        raise exception 'the log holds events that downgrading would destroy' using errcode = 'VE005';
    end if;
end
$refuse$;

drop table eventstore.tool_call, eventstore.turn, eventstore.message, eventstore.conversation, eventstore.task;
drop table eventstore.feed_checkpoint, eventstore.rebuild_progress, eventstore.event, eventstore.stream, eventstore.user_log;
drop function eventstore.append_event, eventstore.append_events, eventstore.position_at;
drop function eventstore.refuse_change(), eventstore.refuse_older_head(),
    eventstore.refuse_older_stream(), eventstore.refuse_other_than_erasure();
drop function eventstore.current_user_id();
