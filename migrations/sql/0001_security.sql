-- The roles and their rights.
--
-- eventstore_app       every append and query runs as this role, for one user at a time. It owns
--                      nothing, bypasses nothing, and may only add to the log. Of user_log and stream
--                      it updates the columns that an append moves: with UPDATE on a whole table it
--                      could also LOCK TABLE, and stop every user's appends. A user's quota it reads
--                      and never writes, in a new row neither.
-- eventstore_operator  lists users and heads for rebuild, verify, status and feeds, and sets quotas;
--                      reads no payload.
-- eventstore_eraser    removes payloads, one user at a time; reads none.
--
-- All three are NOLOGIN: the login of the URL switches to them in every transaction. Row-level security
-- is forced on the owner too, and an unset or empty scope sees and writes nothing.

do $roles$
declare
    v_role text;
begin
    foreach v_role in array array['eventstore_app', 'eventstore_operator', 'eventstore_eraser'] loop
        begin
            if not exists (select from pg_roles where rolname = v_role) then
                execute format(
                    'create role %I nologin nosuperuser nobypassrls nocreatedb nocreaterole', v_role);
            end if;
        exception when duplicate_object or unique_violation then
            null;  -- roles belong to the server: a migration of another database made it just now
        end;

        -- The migrating login may switch to the role but inherits nothing from it: inherited rights
        -- would work outside the scope that the store sets.
        if current_setting('server_version_num')::integer >= 160000 then
            if not pg_has_role(current_user, v_role, 'set') then
                execute format('grant %I to %I with inherit false, set true', v_role, current_user);
            end if;
        elsif not pg_has_role(current_user, v_role, 'member') then
            execute format('grant %I to %I', v_role, current_user);
        end if;
    end loop;
end
$roles$;

-- Parsed when it is created and not when it is called: no search path can replace what it names.
create function eventstore.current_user_id() returns text
language sql stable parallel safe
return nullif(pg_catalog.current_setting('eventstore.user_id', true), '');

grant usage on schema eventstore to eventstore_app, eventstore_operator, eventstore_eraser;

-- The application role: the rows of one user.
grant select, insert on eventstore.stream, eventstore.event to eventstore_app;
grant select, insert (user_id, position, hash, recorded_at) on eventstore.user_log to eventstore_app;
grant update (position, hash, recorded_at, retried) on eventstore.user_log to eventstore_app;
grant update (version, closed) on eventstore.stream to eventstore_app;
grant select, insert, update, delete
    on eventstore.task, eventstore.conversation, eventstore.message, eventstore.tool_call,
       eventstore.turn, eventstore.feed_checkpoint
    to eventstore_app;

-- The operator role: which users there are, where their logs end, and how many calls and turns wait.
grant select (user_id, position, hash, recorded_at, quota), update (quota)
    on eventstore.user_log to eventstore_operator;
grant select (user_id) on eventstore.stream, eventstore.event, eventstore.task,
    eventstore.conversation, eventstore.message, eventstore.tool_call, eventstore.turn
    to eventstore_operator;
grant select (status, claimed_at, claim_seconds) on eventstore.tool_call to eventstore_operator;
grant select (status, leased_at, lease_seconds) on eventstore.turn to eventstore_operator;
grant select, insert, update, delete on eventstore.rebuild_progress to eventstore_operator;
-- What an error says may quote an event, so its column is not for the operator.
grant select (user_id, feed, position, since, free_at, failures, failed_at), delete
    on eventstore.feed_checkpoint to eventstore_operator;
grant select on eventstore.alembic_version to eventstore_app, eventstore_operator;  -- names no user

-- The eraser role: it finds events by their place and removes what they said.
grant select (user_id, position, stream_id, type, salt), update (payload, metadata, salt)
    on eventstore.event to eventstore_eraser;

-- A policy "to" a role also holds for the role's members. The policies of operator and eraser check
-- who is asking, so that a login which inherits several roles does not combine their rights.
do $policies$
declare
    v_table text;
begin
    foreach v_table in array array[
        'user_log', 'stream', 'event', 'task', 'conversation', 'message', 'tool_call', 'turn',
        'rebuild_progress', 'feed_checkpoint']
    loop
        execute format('alter table eventstore.%I enable row level security', v_table);
        execute format('alter table eventstore.%I force row level security', v_table);
        if v_table <> 'rebuild_progress' then
            execute format(
                'create policy own_rows on eventstore.%I to eventstore_app'
                ' using (user_id = eventstore.current_user_id())'
                ' with check (user_id = eventstore.current_user_id())', v_table);
        end if;
        if v_table not in ('user_log', 'rebuild_progress', 'feed_checkpoint') then
            execute format(
                'create policy operator_lists on eventstore.%I for select to eventstore_operator'
                ' using (current_user = ''eventstore_operator'')', v_table);
        end if;
    end loop;
end
$policies$;
create policy operator_works on eventstore.user_log to eventstore_operator
    using (current_user = 'eventstore_operator') with check (current_user = 'eventstore_operator');
create policy operator_works on eventstore.rebuild_progress to eventstore_operator
    using (current_user = 'eventstore_operator') with check (current_user = 'eventstore_operator');
create policy operator_works on eventstore.feed_checkpoint to eventstore_operator
    using (current_user = 'eventstore_operator') with check (current_user = 'eventstore_operator');
create policy eraser_erases on eventstore.event to eventstore_eraser
    using (user_id = eventstore.current_user_id() and current_user = 'eventstore_eraser')
    with check (user_id = eventstore.current_user_id() and current_user = 'eventstore_eraser');

revoke all on function eventstore.append_event, eventstore.append_events, eventstore.position_at
    from public;
grant execute on function eventstore.append_event, eventstore.append_events, eventstore.position_at
    to eventstore_app;
