-- eventstore.append_events: append events of one user to one or more streams, or fail and write
-- nothing.
--
-- Few long arrays cost the client and the server less than many short ones, so several values of a
-- stream or of an event stand next to each other in an array.
--
-- binds    p_user_id          the user whose log it is
--          p_idempotency_key  the caller's key, stored on the first event; null for none
--          p_retry            whether this may have been appended before, without a key
--          p_stream_ids       by stream: its id
--          p_stream_kinds     by stream: its kind
--          p_stream_numbers   by stream, three: the version it must have (0 none yet, -1 any but none,
--                             -2 any); how many of the events are its; 1 if the last one closes it,
--                             and 2 more if the first one reopens it
--          p_ids              by event, three: event_id, correlation_id, causation_id
--          p_numbers          by event, two: the number of its stream; schema_version
--          p_texts            by event, three: type, payload, metadata; payload and metadata are JSON
--                             whose text is stored as it is
--          p_digests          by event, 80 bytes: salt, payload digest, event digest (see
--                             eventstore/log/hash_chain.py)
--          p_occurred_at      by event: when it happened, if that was not now; null if none was told
-- returns  8 bytes each, as PostgreSQL sends them: the position of the first event; the time of the
--          append, in microseconds since 2000; then, one per event, its version
-- locks    the user's row of user_log until the transaction ends, so that positions have no gap and
--          the chain does not fork
-- indexes  user_log_pkey, stream_pkey, event_idempotency_key and event_pkey
-- raises   VE001 wrong version, VE002 stream closed, VE003 appended before, VE004 wrong kind, VE006
--          quota reached; DETAIL is a JSON object with the values of the error
--
-- Runs with the caller's rights, so row-level security and the grants of the application role hold. It
-- sets no search path, which would cost a fifth of its time. So functions and types are named with
-- their schema, and operators have operands of exactly their types: nothing on the path can stand in
-- for them. The types of variables matter most, because PL/pgSQL looks them up once for each server
-- process, with the search path of whoever calls first.

create function eventstore.append_events(
    p_user_id text,
    p_idempotency_key text,
    p_retry boolean,
    p_stream_ids uuid[],
    p_stream_kinds text[],
    p_stream_numbers bigint[],
    p_ids uuid[],
    p_numbers bigint[],
    p_texts text[],
    p_digests bytea,
    p_occurred_at timestamptz[]
) returns bytea
language plpgsql
as $function$
#variable_conflict use_column
declare
    v_events          integer := pg_catalog.cardinality(p_numbers) / 2;
    v_position        bigint;
    v_hash            pg_catalog.bytea;
    v_recorded_at     pg_catalog.timestamptz;
    v_retried         pg_catalog.uuid[];
    v_quota           bigint;
    v_ids             pg_catalog.uuid[];
    v_stream          eventstore.stream%rowtype;
    v_heads           bigint[];  -- by stream: the version of its newest event
    v_key             pg_catalog.text := p_idempotency_key;
    v_append_size     integer;
    v_stream_id       pg_catalog.uuid;
    v_version         bigint;
    v_event_id        pg_catalog.uuid;
    v_type            pg_catalog.text;
    v_schema_version  integer;
    v_payload         pg_catalog.json;
    v_metadata        pg_catalog.json;
    v_correlation_id  pg_catalog.uuid;
    v_causation_id    pg_catalog.uuid;
    v_occurred_at     pg_catalog.timestamptz;
    v_salt            pg_catalog.bytea;
    v_payload_digest  pg_catalog.bytea;
    v_result          pg_catalog.bytea;
    s                 integer;
begin
    select position, hash, recorded_at, retried, quota
    into v_position, v_hash, v_recorded_at, v_retried, v_quota
    from eventstore.user_log where user_id = p_user_id for no key update;
    if not found then
        insert into eventstore.user_log (user_id, position, hash, recorded_at)
        values (p_user_id, 0, pg_catalog.decode(pg_catalog.repeat('00', 32), 'hex'), '-infinity')
        on conflict (user_id) do nothing;
        select position, hash, recorded_at, retried, quota
        into strict v_position, v_hash, v_recorded_at, v_retried, v_quota
        from eventstore.user_log where user_id = p_user_id for no key update;
    end if;

    if v_recorded_at < pg_catalog.clock_timestamp() - pg_catalog.make_interval(hours => 1) then
        v_retried := null;  -- no first attempt of a retry is an hour late
    end if;
    if v_key is not null then
        if exists (select from eventstore.event
                   where user_id = p_user_id and idempotency_key = v_key) then
            raise exception 'the idempotency key was used before' using errcode = 'VE003';
        end if;
        v_append_size := v_events;
    elsif p_retry or v_retried is not null then
        v_ids := array(select p_ids[3 * i - 2] from pg_catalog.generate_series(1, v_events) as i);
        if p_retry then
            -- The first attempt may have been committed. If it was not, it may still arrive, and
            -- must then find that its events were appended.
            if exists (select from eventstore.event
                       where user_id = p_user_id and position > v_position - 100000
                         and event_id = any (v_ids)) then
                raise exception 'the events were appended before' using errcode = 'VE003';
            end if;
            v_retried := (pg_catalog.array_cat(v_ids[:10], v_retried))[:100];
        elsif v_retried operator(pg_catalog.&&) v_ids then
            raise exception 'the events were appended by a retry' using errcode = 'VE003';
        end if;
    end if;

    for s in 1 .. pg_catalog.cardinality(p_stream_ids) loop
        v_version := null;
        if p_stream_numbers[3 * s - 2] <> 0 then
            update eventstore.stream
            set version = version + p_stream_numbers[3 * s - 1],
                closed = p_stream_numbers[3 * s] in (1, 3)
            where user_id = p_user_id and stream_id = p_stream_ids[s]
              and kind = p_stream_kinds[s] and not closed
              and (p_stream_numbers[3 * s - 2] < 0 or version = p_stream_numbers[3 * s - 2])
            returning version - p_stream_numbers[3 * s - 1] into v_version;
        end if;
        if v_version is null and p_stream_numbers[3 * s] >= 2 then
            -- What was erased stays closed, because nothing is known of it that could come back.
            update eventstore.stream
            set version = version + p_stream_numbers[3 * s - 1],
                closed = p_stream_numbers[3 * s] = 3
            where user_id = p_user_id and stream_id = p_stream_ids[s]
              and kind = p_stream_kinds[s] and closed
              and (p_stream_numbers[3 * s - 2] < 0 or version = p_stream_numbers[3 * s - 2])
              and not exists (select from eventstore.event
                              where user_id = p_user_id and stream_id = p_stream_ids[s]
                                and payload is null)
            returning version - p_stream_numbers[3 * s - 1] into v_version;
        end if;
        if v_version is null and p_stream_numbers[3 * s - 2] in (0, -2) then
            insert into eventstore.stream (user_id, stream_id, kind, version, closed)
            values (p_user_id, p_stream_ids[s], p_stream_kinds[s], p_stream_numbers[3 * s - 1],
                    p_stream_numbers[3 * s] in (1, 3))
            on conflict (user_id, stream_id) do nothing
            returning 0 into v_version;
        end if;
        if v_version is null then
            select * into v_stream from eventstore.stream
            where user_id = p_user_id and stream_id = p_stream_ids[s];
            if v_stream.closed
               and (p_stream_numbers[3 * s] < 2 or p_stream_numbers[3 * s - 2] < 0
                    or p_stream_numbers[3 * s - 2] = v_stream.version) then
                raise exception 'the stream is closed' using errcode = 'VE002',
                    detail = pg_catalog.json_build_object(
                        'stream_id', p_stream_ids[s], 'version', v_stream.version);
            elsif v_stream.kind <> p_stream_kinds[s] then
                raise exception 'the stream is of another kind' using errcode = 'VE004',
                    detail = pg_catalog.json_build_object(
                        'stream_id', p_stream_ids[s], 'kind', v_stream.kind,
                        'sent', p_stream_kinds[s]);
            end if;
            raise exception 'the stream is at another version' using errcode = 'VE001',
                detail = pg_catalog.json_build_object(
                    'stream_id', p_stream_ids[s], 'expected', p_stream_numbers[3 * s - 2],
                    'actual', coalesce(v_stream.version, 0));
        end if;
        v_heads[s] := v_version;
    end loop;

    -- What was appended before, and what is there already under its key, was answered so far. The
    -- record of an erasure, an append of its own, is never refused: content must be removable from
    -- a full log.
    if v_position + v_events > v_quota and p_texts[1] <> 'ContentErased' then
        raise exception 'the quota is reached' using errcode = 'VE006',
            detail = pg_catalog.json_build_object(
                'events', v_position, 'adding', v_events, 'limit', v_quota);
    end if;

    -- The clock may step back, but a log's time does not: a moment by time is a moment by position.
    v_recorded_at := greatest(pg_catalog.clock_timestamp(), v_recorded_at);
    v_result := pg_catalog.int8send(v_position + 1) || pg_catalog.timestamptz_send(v_recorded_at);
    for e in 1 .. v_events loop
        s := p_numbers[2 * e - 1];
        v_position := v_position + 1;
        v_version := v_heads[s] + 1;
        v_heads[s] := v_version;
        v_hash := pg_catalog.sha256(
            v_hash || pg_catalog.int8send(v_position) || pg_catalog.int8send(v_version)
            || pg_catalog.timestamptz_send(v_recorded_at)
            || pg_catalog.substr(p_digests, 80 * e - 31, 32));
        v_result := v_result || pg_catalog.int8send(v_version);
        -- A statement with plain variables starts faster than one that takes arrays apart.
        v_stream_id := p_stream_ids[s];
        v_event_id := p_ids[3 * e - 2];
        v_correlation_id := p_ids[3 * e - 1];
        v_causation_id := p_ids[3 * e];
        v_schema_version := p_numbers[2 * e];
        v_type := p_texts[3 * e - 2];
        v_payload := p_texts[3 * e - 1];
        v_metadata := p_texts[3 * e];
        v_occurred_at := p_occurred_at[e];
        v_salt := pg_catalog.substr(p_digests, 80 * e - 79, 16);
        v_payload_digest := pg_catalog.substr(p_digests, 80 * e - 63, 32);
        insert into eventstore.event (
            user_id, position, stream_id, version, event_id, type, schema_version, payload,
            metadata, correlation_id, causation_id, occurred_at, idempotency_key, append_size,
            recorded_at, salt, payload_digest, hash)
        values (
            p_user_id, v_position, v_stream_id, v_version, v_event_id, v_type, v_schema_version,
            v_payload, v_metadata, v_correlation_id, v_causation_id, v_occurred_at, v_key,
            v_append_size, v_recorded_at, v_salt, v_payload_digest, v_hash);
        v_key := null;  -- on the first event only
        v_append_size := null;
    end loop;

    update eventstore.user_log
    set position = v_position, hash = v_hash, recorded_at = v_recorded_at, retried = v_retried
    where user_id = p_user_id;
    return v_result;
end
$function$;

-- eventstore.append_event: the same for one event without a key, which is what most appends are, to a
-- stream that exists. What it cannot do itself, it leaves to append_events.
--
-- binds    p_expected  the version the stream must have; -1 any but none, -2 any
--          p_closes    whether the event closes the stream
--          p_digest    the event digest
--          the others are columns of `event`
-- returns, locks, raises  as append_events

create function eventstore.append_event(
    p_user_id text,
    p_stream_id uuid,
    p_kind text,
    p_expected bigint,
    p_closes boolean,
    p_event_id uuid,
    p_type text,
    p_schema_version integer,
    p_payload json,
    p_metadata json,
    p_correlation_id uuid,
    p_causation_id uuid,
    p_salt bytea,
    p_payload_digest bytea,
    p_digest bytea,
    p_occurred_at timestamptz
) returns bytea
language plpgsql
as $function$
#variable_conflict use_column
declare
    v_position     bigint;
    v_hash         pg_catalog.bytea;
    v_recorded_at  pg_catalog.timestamptz;
    v_version      bigint;
    v_result       pg_catalog.bytea;
begin
    -- The user's row is locked first, so that no two appends wait for each other.
    select position + 1, hash, greatest(pg_catalog.clock_timestamp(), recorded_at)
    into v_position, v_hash, v_recorded_at
    from eventstore.user_log
    where user_id = p_user_id and retried is null and (quota is null or position < quota)
    for no key update;
    if found then
        update eventstore.stream
        set version = version + 1, closed = p_closes
        where user_id = p_user_id and stream_id = p_stream_id and kind = p_kind and not closed
          and (p_expected < 0 or version = p_expected)
        returning version into v_version;
    end if;
    if v_version is null then
        return eventstore.append_events(
            p_user_id, null, false, array[p_stream_id], array[p_kind],
            array[p_expected, 1, case when p_closes then 1 else 0 end],
            array[p_event_id, p_correlation_id, p_causation_id], array[1, p_schema_version],
            array[p_type, p_payload::text, p_metadata::text],
            p_salt || p_payload_digest || p_digest, array[p_occurred_at]);
    end if;
    v_result := pg_catalog.int8send(v_position) || pg_catalog.timestamptz_send(v_recorded_at)
        || pg_catalog.int8send(v_version);
    v_hash := pg_catalog.sha256(
        v_hash || pg_catalog.int8send(v_position) || pg_catalog.int8send(v_version)
        || pg_catalog.timestamptz_send(v_recorded_at) || p_digest);
    insert into eventstore.event (
        user_id, position, stream_id, version, event_id, type, schema_version, payload, metadata,
        correlation_id, causation_id, occurred_at, recorded_at, salt, payload_digest, hash)
    values (
        p_user_id, v_position, p_stream_id, v_version, p_event_id, p_type, p_schema_version,
        p_payload, p_metadata, p_correlation_id, p_causation_id, p_occurred_at, v_recorded_at,
        p_salt, p_payload_digest, v_hash);
    update eventstore.user_log
    set position = v_position, hash = v_hash, recorded_at = v_recorded_at
    where user_id = p_user_id;
    return v_result;
end
$function$;

-- eventstore.position_at: the position of a log's newest event that had been recorded by a timestamp; 0
-- if none had. A moment by time is a moment by position, because recorded_at never runs backwards; and
-- as positions have no gaps, some 20 looks find it in a log of a million events.
--
-- The read models say when things happened, which may be years before they were recorded. So a query of
-- an earlier moment compares positions there, and never times.
--
-- binds    p_user_id    the user whose log it is
--          p_timestamp  null gives null
-- indexes  user_log_pkey and event_pkey

create function eventstore.position_at(p_user_id text, p_timestamp timestamptz) returns bigint
language plpgsql stable strict
as $function$
#variable_conflict use_column
declare
    v_recorded     bigint := 0;  -- was recorded by then
    v_candidate    bigint;       -- might have been, and nothing after it was
    v_middle       bigint;
    v_recorded_at  pg_catalog.timestamptz;
begin
    select position, recorded_at into v_candidate, v_recorded_at
    from eventstore.user_log where user_id = p_user_id;
    if not found then
        return 0;
    elsif v_recorded_at <= p_timestamp then
        return v_candidate;
    end if;
    while v_recorded < v_candidate loop
        v_middle := (v_recorded + v_candidate + 1) / 2;
        select recorded_at into v_recorded_at
        from eventstore.event where user_id = p_user_id and position = v_middle;
        if v_recorded_at <= p_timestamp then
            v_recorded := v_middle;
        else
            v_candidate := v_middle - 1;
        end if;
    end loop;
    return v_recorded;
end
$function$;
