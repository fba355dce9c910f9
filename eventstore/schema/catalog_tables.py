"""The queries of `catalog` about tables, and about the views that read them."""

from __future__ import annotations

__all__ = ["TABLES", "VIEWS"]

# Binds: the tables beside those of the schema `eventstore`; the application role, the operator role
# and the eraser role. A row for each table, for each of its partitions and children, and for each
# table of which it is a partition or child. See `TableFacts`.
#
# Every connect waits for this query, mostly while it is planned. So each catalog is read once for a
# table, and its facts are aggregates with filters instead of queries of their own.
TABLES = """
with recursive roles as materialized (
    select oid, rolname as name from pg_roles where rolname in ($2, $3, $4)
), named (name, oid) as (
    select name, (select c.oid from pg_class as c  -- to_regclass needs rights on the schema
                  where c.relname = split_part(name, '.', 2)
                    and c.relnamespace = to_regnamespace(split_part(name, '.', 1)))
    from unnest($1::text[]) as name
    union
    select c.oid::regclass::text, c.oid from pg_class as c
    where c.relnamespace = (select to_regnamespace('eventstore'))
      and c.relkind in ('r', 'p', 'f') and c.relname <> 'alembic_version'
), with_children (name, oid) as (  -- a query may name a partition instead of its table
    select name, oid from named
    union
    select i.inhrelid::regclass::text, i.inhrelid
    from pg_inherits as i join with_children as t on t.oid = i.inhparent
), with_parents (name, oid) as (  -- a query of a parent returns the rows of its partitions too
    select name, oid from named
    union
    select i.inhparent::regclass::text, i.inhparent
    from pg_inherits as i join with_parents as t on t.oid = i.inhrelid
), wanted (name, oid) as (
    select name, oid from with_children union select name, oid from with_parents
)
select w.name,
       c.oid is not null as exists,
       coalesce(c.relispartition, false) as is_partition,
       exists (select from pg_inherits as i where i.inhrelid = c.oid)
           and not c.relispartition as inherits,
       exists (select from pg_inherits as i join named as n on n.oid = i.inhrelid
               where i.inhparent = c.oid) as is_parent,
       coalesce(c.relpersistence = 'p', true) as logged,
       columns.user_id,
       columns.column_types,
       columns.sequence_columns,
       keys.immediate_foreign_keys,
       keys.cascading_foreign_keys,
       keys.check_constraints,
       triggers.disabled_triggers,
       coalesce(c.relrowsecurity, false) as row_security,
       coalesce(c.relforcerowsecurity, false) as row_security_forced,
       coalesce((
           select json_agg(json_build_object(
               'name', p.polname, 'permissive', p.polpermissive, 'command', p.polcmd,
               'roles', array(select r.name from roles as r, unnest(p.polroles) as role
                              where role = 0  -- PUBLIC
                                 or pg_has_role(r.oid, role, 'member')),
               'using', pg_get_expr(p.polqual, p.polrelid),
               'check', pg_get_expr(p.polwithcheck, p.polrelid)))
           from pg_policy as p
           where p.polrelid = c.oid
       ), '[]') as policies,
       indexes.cross_user_unique_indexes,
       indexes.cross_user_indexes,
       keys.cross_user_foreign_keys,
       (select json_object_agg(role.name, array(
                   select privilege from unnest(privileges.names) as privilege
                   where has_table_privilege(role.oid, c.oid, privilege)
                      or (privilege in ('INSERT', 'UPDATE', 'REFERENCES')
                          and has_any_column_privilege(role.oid, c.oid, privilege))))
        from roles as role) as rights,
       array(select r.rulename from pg_rewrite as r where r.ev_class = c.oid) as rules,
       triggers.triggers,
       keys.definitions || indexes.definitions || columns.not_null as constraints,
       columns.application_updates,
       columns.application_inserts,
       columns.operator_reads,
       columns.operator_updates,
       columns.eraser_rights
from wanted as w
left join pg_class as c on c.oid = w.oid
cross join (select array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES',
                         'TRIGGER']
                || case when current_setting('server_version_num')::int >= 170000
                        then array['MAINTAIN'] else '{}' end) as privileges (names)
cross join (select max(oid) filter (where name = $2) as application,
                   max(oid) filter (where name = $3) as operator,
                   max(oid) filter (where name = $4) as eraser
            from roles) as role_oids
cross join lateral (
    select max(a.attnum) filter (where a.attname = 'user_id') as user_id_number,
           json_agg(json_build_object('type', format_type(a.atttypid, null),
                                      'exact', coalesce(l.collisdeterministic, true)))
               filter (where a.attname = 'user_id') -> 0 as user_id,
           json_object_agg(a.attname, format_type(a.atttypid, null)) as column_types,
           coalesce(array_agg(a.attname) filter (
               where a.attidentity <> '' or pg_get_expr(d.adbin, d.adrelid) ~ '^nextval'), '{}')
               as sequence_columns,
           coalesce(jsonb_object_agg(concat(a.attname, ' not null'), 'NOT NULL')
                        filter (where a.attnotnull), '{}') as not_null,
           coalesce(array_agg(a.attname) filter (
               where has_column_privilege(role_oids.application, c.oid, a.attnum, 'UPDATE')), '{}')
               as application_updates,
           coalesce(array_agg(a.attname) filter (
               where has_column_privilege(role_oids.application, c.oid, a.attnum, 'INSERT')), '{}')
               as application_inserts,
           coalesce(array_agg(a.attname) filter (
               where has_column_privilege(role_oids.operator, c.oid, a.attnum, 'SELECT')), '{}')
               as operator_reads,
           coalesce(array_agg(a.attname) filter (
               where has_column_privilege(role_oids.operator, c.oid, a.attnum, 'UPDATE')), '{}')
               as operator_updates,
           coalesce(
               array_agg(concat(a.attname, ' select')) filter (
                   where has_column_privilege(role_oids.eraser, c.oid, a.attnum, 'SELECT'))
               || array_agg(concat(a.attname, ' insert')) filter (
                   where has_column_privilege(role_oids.eraser, c.oid, a.attnum, 'INSERT'))
               || array_agg(concat(a.attname, ' update')) filter (
                   where has_column_privilege(role_oids.eraser, c.oid, a.attnum, 'UPDATE')), '{}')
               as eraser_rights
    from pg_attribute as a
    left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    left join pg_collation as l on l.oid = a.attcollation
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
) as columns
cross join lateral (
    select coalesce(array_agg(k.conname) filter (where k.contype = 'f' and not k.condeferrable),
                    '{}') as immediate_foreign_keys,
           coalesce(array_agg(k.conname) filter (
               where k.contype = 'f' and (k.confdeltype not in ('a', 'r')
                                          or k.confupdtype not in ('a', 'r'))), '{}')
               as cascading_foreign_keys,
           coalesce(array_agg(k.conname) filter (where k.contype = 'c'), '{}')
               as check_constraints,
           coalesce(array_agg(k.conname) filter (
               where k.contype = 'f'
                 and (k.conkey[1] is distinct from columns.user_id_number
                      or b.attname is distinct from 'user_id')), '{}') as cross_user_foreign_keys,
           coalesce(jsonb_object_agg(k.conname, pg_get_constraintdef(k.oid))
                        filter (where k.convalidated), '{}') as definitions
    from pg_constraint as k
    left join pg_attribute as b on b.attrelid = k.confrelid and b.attnum = k.confkey[1]
    where k.conrelid = c.oid
) as keys
cross join lateral (
    select coalesce(array_agg(i.indexrelid::regclass::text) filter (
               where (i.indisunique or i.indisexclusion)
                 and (i.indkey[0] is distinct from columns.user_id_number
                      or o.oprname <> '=')), '{}') as cross_user_unique_indexes,
           coalesce(array_agg(i.indexrelid::regclass::text) filter (
               where not (i.indisunique or i.indisexclusion)
                 and i.indkey[0] is distinct from columns.user_id_number), '{}')
               as cross_user_indexes,
           coalesce(jsonb_object_agg(x.relname, pg_get_indexdef(i.indexrelid)) filter (
               where i.indisvalid and k.oid is null), '{}') as definitions
    from pg_index as i
    join pg_class as x on x.oid = i.indexrelid
    left join pg_constraint as k  -- a foreign key names the index that it refers to as well
        on k.conrelid = i.indrelid and k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x')
    left join pg_operator as o on o.oid = k.conexclop[1]
    where i.indrelid = c.oid
) as indexes
cross join lateral (
    select count(*) filter (where t.tgisinternal and t.tgenabled = 'D') as disabled_triggers,
           coalesce(json_object_agg(t.tgname, json_build_object(
                        'enabled', t.tgenabled, 'definition', pg_get_triggerdef(t.oid)))
                        filter (where not t.tgisinternal), '{}') as triggers
    from pg_trigger as t
    where t.tgrelid = c.oid
) as triggers
order by w.name
"""

# Binds: the same tables. A row for each view that reads one of them, directly or through other
# views, with the rights of the owner of the view.
VIEWS = """
with recursive readers (oid) as (
    select c.oid
    from pg_class as c
    where c.relnamespace = (select to_regnamespace('eventstore'))
       or exists (select from unnest($1::text[]) as name
                  where c.relname = split_part(name, '.', 2)
                    and c.relnamespace = to_regnamespace(split_part(name, '.', 1)))
    union
    select r.ev_class
    from pg_depend as d
    join readers on d.refobjid = readers.oid and d.classid = 'pg_rewrite'::regclass
    join pg_rewrite as r on r.oid = d.objid and r.ev_class <> d.refobjid
)
select v.oid::regclass::text, v.relkind = 'm'
from readers
join pg_class as v on v.oid = readers.oid and v.relkind in ('v', 'm')
where v.relkind = 'm'
   or not exists (select from pg_options_to_table(v.reloptions)
                  where option_name = 'security_invoker' and option_value::bool)
order by 1
"""
