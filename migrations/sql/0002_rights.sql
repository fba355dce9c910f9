-- Who may do what, beyond 0001.
--
-- eventstore_eraser  removes payloads, one user at a time; reads none. NOLOGIN, entered like the
--                    other two roles; grant it to the login of whoever answers erasure requests.
-- eventstore_app     updates the columns that an append moves, and no others. Without UPDATE on the
--                    whole table it cannot LOCK TABLE either, which would stop every user's appends.

do $roles$
begin
    if not exists (select from pg_roles where rolname = 'eventstore_eraser') then
        create role eventstore_eraser nologin nosuperuser nobypassrls nocreatedb nocreaterole;
    end if;
exception when duplicate_object or unique_violation then
    null;  -- roles belong to the whole server: another database's migration made it just now
end
$roles$;

do $members$
begin
    if current_setting('server_version_num')::integer >= 160000 then
        if not pg_has_role(current_user, 'eventstore_eraser', 'set') then
            execute format(
                'grant eventstore_eraser to %I with inherit false, set true', current_user);
        end if;
    elsif not pg_has_role(current_user, 'eventstore_eraser', 'member') then
        execute format('grant eventstore_eraser to %I', current_user);
    end if;
end
$members$;

grant usage on schema eventstore to eventstore_eraser;
grant select (user_id, position, stream_id, type, idempotency_key, salt),
      update (payload, metadata, salt, request_digest)
    on eventstore.event to eventstore_eraser;
create policy eraser_erases on eventstore.event to eventstore_eraser
    using (user_id = eventstore.current_user_id() and current_user = 'eventstore_eraser')
    with check (user_id = eventstore.current_user_id() and current_user = 'eventstore_eraser');

revoke update on eventstore.user_log, eventstore.stream from eventstore_app;
grant update (position, hash, recorded_at) on eventstore.user_log to eventstore_app;
grant update (version, closed) on eventstore.stream to eventstore_app;

-- Parsed now and not when it is called: no search path can put another function into its place.
create or replace function eventstore.current_user_id() returns text
language sql stable parallel safe
return nullif(pg_catalog.current_setting('eventstore.user_id', true), '');
