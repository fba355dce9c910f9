-- The triggers that keep the log append-only, for its owner too.
--
-- The application role has no right to change events, but an owner has every right. These triggers
-- stop an owner's casual statement, and ENABLE ALWAYS stops it under session_replication_role =
-- replica as well. Whoever disables the triggers can change history; verify then finds the change, and
-- an anchor finds a chain that was recomputed.
--
-- One change is allowed: the role eventstore_eraser may remove payload, metadata and salt of an event
-- together. It can put nothing in their place.

create function eventstore.refuse_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
begin
    raise exception 'the log is append-only: % on %.% is refused',
        lower(tg_op), tg_table_schema, tg_table_name
        using errcode = 'restrict_violation',
              hint = 'to remove a user''s content for good, run `eventstore erase`';
end
$function$;

-- The head of a log and the version of a stream only move forward, and a closed stream is reopened by a
-- new event alone. The condition is in the functions and
-- not in a WHEN clause, which PostgreSQL would parse again for every append; nor
-- do they set a search path, which would cost more than they do.
create function eventstore.refuse_older_head() returns trigger
language plpgsql
as $function$
begin
    if new.position <= old.position then
        raise exception 'the log is append-only: its head cannot go back to position %', new.position
            using errcode = 'restrict_violation';
    end if;
    return new;
end
$function$;

create function eventstore.refuse_older_stream() returns trigger
language plpgsql
as $function$
begin
    if new.version < old.version or (old.closed and not new.closed and new.version = old.version) then
        raise exception 'the log is append-only: a stream cannot go back to version %', new.version
            using errcode = 'restrict_violation';
    end if;
    return new;
end
$function$;

create function eventstore.refuse_other_than_erasure() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
declare
    v_erased eventstore.event%rowtype := old;
begin
    v_erased.payload := null;
    v_erased.metadata := null;
    v_erased.salt := null;
    if new::text is distinct from v_erased::text then  -- as text, because json has no equality
        raise exception 'the log is append-only: position % may be erased, not changed', old.position
            using errcode = 'restrict_violation';
    end if;
    return new;
end
$function$;

revoke all on function eventstore.refuse_change(), eventstore.refuse_older_head(),
    eventstore.refuse_older_stream(), eventstore.refuse_other_than_erasure() from public;

-- Some servers speak PostgreSQL but have no triggers. Grants and the hash chain remain there.
do $triggers$
begin
    create trigger append_only before delete or truncate on eventstore.event
        for each statement execute function eventstore.refuse_change();
    create trigger append_only_update before update on eventstore.event
        for each statement when (current_user <> 'eventstore_eraser')
        execute function eventstore.refuse_change();
    create trigger erasure_only before update on eventstore.event
        for each row execute function eventstore.refuse_other_than_erasure();

    create trigger append_only before delete or truncate on eventstore.user_log
        for each statement execute function eventstore.refuse_change();
    -- The quota is no history, so to change it alone fires nothing.
    create trigger forward_only
        before update of user_id, position, hash, recorded_at, retried on eventstore.user_log
        for each row execute function eventstore.refuse_older_head();

    create trigger append_only before delete or truncate on eventstore.stream
        for each statement execute function eventstore.refuse_change();
    create trigger forward_only before update on eventstore.stream
        for each row execute function eventstore.refuse_older_stream();

    alter table eventstore.event enable always trigger append_only;
    alter table eventstore.event enable always trigger append_only_update;
    alter table eventstore.event enable always trigger erasure_only;
    alter table eventstore.user_log enable always trigger append_only;
    alter table eventstore.user_log enable always trigger forward_only;
    alter table eventstore.stream enable always trigger append_only;
    alter table eventstore.stream enable always trigger forward_only;
exception when feature_not_supported then
    raise notice 'this server has no triggers; `eventstore doctor` will say so';
end
$triggers$;
