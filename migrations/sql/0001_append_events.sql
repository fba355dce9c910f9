-- eventstore.append_events: append events of one user to one or more streams, or fail and write
-- nothing.
--
-- binds    p_user_id          the user whose log it is
--          p_streams          [{"stream_id", "kind", "expected"}], expected: a version, new, exists
--                             or any
--          p_events           [{"stream": index into p_streams, "event_id", "type", "schema_version",
--                              "correlation_id", "causation_id", "closes", "salt", "digest"}]
--          p_payloads         [payload, …] as json: the text of each element is stored as it is
--          p_metadata         [metadata, …] likewise
--          p_idempotency_key  stored on the first event
--          p_fingerprint      digest of the content, which tells a retry from a reuse of the key
-- returns  first_position, recorded_at, versions (one per event, in order)
-- locks    the user's row of user_log until the transaction ends, so that positions have no gap and
--          the chain does not fork
-- indexes  user_log_pkey, stream_pkey, event_idempotency_key, and the keys of event
-- raises   VE001 wrong version, VE002 stream closed, VE003 key already used, VE004 wrong kind;
--          DETAIL is a JSON object with the facts
--
-- Runs with the caller's rights, so row-level security and the grants of the application role hold.
-- The hash is the one that eventstore/log/hash_chain.py describes and recomputes.

create function eventstore.append_events(
    p_user_id text,
    p_streams jsonb,
    p_events jsonb,
    p_payloads json,
    p_metadata json,
    p_idempotency_key text,
    p_fingerprint bytea
) returns table (first_position bigint, recorded_at timestamptz, versions bigint[])
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
#variable_conflict use_column
declare
    v_head        eventstore.user_log%rowtype;
    v_now         timestamptz;
    v_position    bigint;
    v_found       bigint;
    v_hash        bytea;
    v_stream      record;
    v_event       record;
    v_version     bigint;
    v_closed      boolean;
    v_kind        text;
    v_met         boolean;
    v_ids         uuid[] := '{}';
    v_kinds       text[] := '{}';
    v_heads       bigint[] := '{}';
    v_closing     boolean[] := '{}';
    v_stream_ids  uuid[] := '{}';
    v_versions    bigint[] := '{}';
    v_hashes      bytea[] := '{}';
    v_key         text := p_idempotency_key;
begin
    select * into v_head from eventstore.user_log where user_id = p_user_id for update;
    if not found then
        insert into eventstore.user_log (user_id, position, hash, recorded_at)
        values (p_user_id, 0, decode(repeat('00', 32), 'hex'), '-infinity')
        on conflict (user_id) do nothing;
        select * into strict v_head from eventstore.user_log where user_id = p_user_id for update;
    end if;

    select e.position into v_found from eventstore.event as e
    where e.user_id = p_user_id and e.idempotency_key = p_idempotency_key;
    if found then
        raise exception 'idempotency key already used at position %', v_found
            using errcode = 'VE003',
                  detail = json_build_object('idempotency_key', p_idempotency_key);
    end if;

    for v_stream in
        select s.stream_id, s.kind, s.expected
        from jsonb_to_recordset(p_streams) as s (stream_id uuid, kind text, expected text)
    loop
        select s.version, s.closed, s.kind into v_version, v_closed, v_kind
        from eventstore.stream as s
        where s.user_id = p_user_id and s.stream_id = v_stream.stream_id;
        if not found then
            v_version := 0; v_closed := false; v_kind := v_stream.kind;
        end if;
        if v_closed then
            raise exception 'stream is closed' using errcode = 'VE002',
                detail = json_build_object('stream_id', v_stream.stream_id, 'version', v_version);
        end if;
        if v_kind <> v_stream.kind then
            raise exception 'stream is of another kind' using errcode = 'VE004',
                detail = json_build_object(
                    'stream_id', v_stream.stream_id, 'kind', v_kind, 'sent', v_stream.kind);
        end if;
        v_met := case v_stream.expected
            when 'any' then true
            when 'new' then v_version = 0
            when 'exists' then v_version > 0
            else v_version = v_stream.expected::bigint
        end;
        if not v_met then
            raise exception 'stream is at another version' using errcode = 'VE001',
                detail = json_build_object(
                    'stream_id', v_stream.stream_id,
                    'expected', v_stream.expected,
                    'actual', v_version);
        end if;
        v_ids := v_ids || v_stream.stream_id;
        v_kinds := v_kinds || v_stream.kind;
        v_heads := v_heads || v_version;
        v_closing := v_closing || false;
    end loop;

    -- The clock may step back, but a log's time does not: a moment by time is a moment by position.
    v_now := greatest(clock_timestamp(), v_head.recorded_at);
    v_position := v_head.position;
    v_hash := v_head.hash;

    for v_event in
        select e.*
        from jsonb_to_recordset(p_events) as e (
            stream integer, event_id uuid, type text, schema_version integer,
            correlation_id uuid, causation_id uuid, closes boolean, digest text)
    loop
        v_position := v_position + 1;
        v_version := v_heads[v_event.stream + 1] + 1;
        if v_closing[v_event.stream + 1] then
            raise exception 'stream is closed' using errcode = 'VE002',
                detail = json_build_object(
                    'stream_id', v_ids[v_event.stream + 1], 'version', v_version - 1);
        end if;
        v_heads[v_event.stream + 1] := v_version;
        v_closing[v_event.stream + 1] := v_event.closes;
        v_hash := sha256(v_hash || convert_to(
               '1:1,'
            || octet_length(p_user_id) || ':' || p_user_id || ','
            || length(v_position::text) || ':' || v_position || ','
            || '36:' || v_ids[v_event.stream + 1] || ','
            || length(v_version::text) || ':' || v_version || ','
            || '36:' || v_event.event_id || ','
            || octet_length(v_event.type) || ':' || v_event.type || ','
            || length(v_event.schema_version::text) || ':' || v_event.schema_version || ','
            || '64:' || v_event.digest || ','
            || coalesce('36:' || v_event.correlation_id, '-') || ','
            || coalesce('36:' || v_event.causation_id, '-') || ','
            || coalesce(octet_length(v_key) || ':' || v_key, '-') || ','
            || (select length(t.us) || ':' || t.us || ','
                from (select (extract(epoch from v_now) * 1000000)::bigint::text as us) as t),
            'UTF8'));
        v_key := null;  -- on the first event only
        v_stream_ids := v_stream_ids || v_ids[v_event.stream + 1];
        v_versions := v_versions || v_version;
        v_hashes := v_hashes || v_hash;
    end loop;

    insert into eventstore.event (
        user_id, position, stream_id, version, event_id, type, schema_version, payload, metadata,
        correlation_id, causation_id, idempotency_key, fingerprint, recorded_at, salt,
        payload_digest, hash)
    select
        p_user_id, v_head.position + e.number, v_stream_ids[e.number], v_versions[e.number],
        e.event_id, e.type, e.schema_version, e.payload, e.metadata,
        e.correlation_id, e.causation_id,
        case when e.number = 1 then p_idempotency_key end,
        case when e.number = 1 then p_fingerprint end,
        v_now, decode(e.salt, 'hex'), decode(e.digest, 'hex'), v_hashes[e.number]
    from rows from (
        jsonb_to_recordset(p_events) as (
            event_id uuid, type text, schema_version integer,
            correlation_id uuid, causation_id uuid, salt text, digest text),
        json_array_elements(p_payloads),
        json_array_elements(p_metadata)
    ) with ordinality as e (
        event_id, type, schema_version, correlation_id, causation_id, salt, digest,
        payload, metadata, number);

    insert into eventstore.stream as s (user_id, stream_id, kind, version, closed)
    select p_user_id, t.id, t.kind, t.version, t.closed
    from unnest(v_ids, v_kinds, v_heads, v_closing) as t (id, kind, version, closed)
    on conflict (user_id, stream_id) do update
        set version = excluded.version, closed = excluded.closed;

    update eventstore.user_log
    set position = v_position, hash = v_hash, recorded_at = v_now
    where user_id = p_user_id;

    return query select v_head.position + 1, v_now, v_versions;
end
$function$;
