-- The log is append-only for its owner too, as far as triggers can say so.
--
-- The application role has no right to change events. An owner has every right: these triggers stop
-- the casual statement, and ENABLE ALWAYS the one under session_replication_role = replica. Who
-- disables them can change history, and verify finds it; an anchor finds what was recomputed.
--
-- The one change there is: the role eventstore_eraser may take the payload, metadata and salt out of
-- an event, and the fingerprint out of the append it belongs to. Nothing can be put in their place.

-- The log's head first, as an append does: whoever has it is waited for before anything is held, so
-- that the two never wait for each other.
lock table eventstore.user_log, eventstore.event, eventstore.stream in access exclusive mode;

alter table eventstore.event
    alter column payload drop not null,
    alter column metadata drop not null,
    alter column salt drop not null;

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

create function eventstore.refuse_other_than_erasure() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
declare
    v_erased eventstore.event%rowtype := old;
begin
    v_erased.request_digest := null;
    if new.salt is null then
        v_erased.payload := null;
        v_erased.metadata := null;
        v_erased.salt := null;
    end if;
    if new::text is distinct from v_erased::text then  -- as text: json has no equality
        raise exception 'the log is append-only: position % may be erased, not changed', old.position
            using errcode = 'restrict_violation';
    end if;
    return new;
end
$function$;

revoke all on function eventstore.refuse_change(), eventstore.refuse_other_than_erasure() from public;

-- Servers without triggers exist that are PostgreSQL otherwise: there, grants and the chain remain.
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
    create trigger forward_only before update on eventstore.user_log
        for each row when (new.position <= old.position)
        execute function eventstore.refuse_change();

    create trigger append_only before delete or truncate on eventstore.stream
        for each statement execute function eventstore.refuse_change();
    create trigger forward_only before update on eventstore.stream
        for each row when (new.version < old.version or (old.closed and not new.closed))
        execute function eventstore.refuse_change();

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
