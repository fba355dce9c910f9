"""The queries of `catalog` about tables, and about the views that read them."""

from __future__ import annotations

__all__ = ["TABLES", "VIEWS"]

# Binds: the tables beside those of the schema `eventstore`; the application role, the operator role
# and the eraser role. A row for each table, for each of its partitions and children, and for each
# table of which it is a partition or child. See `TableFacts`.
TABLES = """
with recursive application as (
    select oid from pg_roles where rolname = $2
), named (name, oid) as (
    select name, (select c.oid from pg_class as c  -- to_regclass needs rights on the schema
                  where c.relname = split_part(name, '.', 2)
                    and c.relnamespace = to_regnamespace(split_part(name, '.', 1)))
    from unnest($1::text[]) as name
    union
    select c.oid::regclass::text, c.oid from pg_class as c
    where c.relnamespace = to_regnamespace('eventstore') and c.relkind in ('r', 'p', 'f')
      and c.relname <> 'alembic_version'
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
       (select json_build_object('type', format_type(a.atttypid, null),
                                 'exact', coalesce(l.collisdeterministic, true))
        from pg_attribute as a left join pg_collation as l on l.oid = a.attcollation
        where a.attrelid = c.oid and a.attname = 'user_id') as user_id,
       (select json_object_agg(a.attname, format_type(a.atttypid, null))
        from pg_attribute as a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
           as column_types,
       array(select a.attname from pg_attribute as a
             left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
               and (a.attidentity <> '' or pg_get_expr(d.adbin, d.adrelid) ~ '^nextval'))
           as sequence_columns,
       array(select k.conname from pg_constraint as k
             where k.conrelid = c.oid and k.contype = 'f' and not k.condeferrable)
           as immediate_foreign_keys,
       array(select k.conname from pg_constraint as k
             where k.conrelid = c.oid and k.contype = 'f'
               and (k.confdeltype not in ('a', 'r') or k.confupdtype not in ('a', 'r')))
           as cascading_foreign_keys,
       array(select k.conname from pg_constraint as k
             where k.conrelid = c.oid and k.contype = 'c') as check_constraints,
       (select count(*) from pg_trigger as t
        where t.tgrelid = c.oid and t.tgisinternal and t.tgenabled = 'D') as disabled_triggers,
       coalesce(c.relrowsecurity, false) as row_security,
       coalesce(c.relforcerowsecurity, false) as row_security_forced,
       coalesce((
           select json_agg(json_build_object(
               'name', p.polname, 'permissive', p.polpermissive, 'command', p.polcmd,
               'roles', array(select r.rolname from pg_roles as r, unnest(p.polroles) as role
                              where r.rolname in ($2, $3, $4)  -- the role 0 is PUBLIC
                                and (role = 0 or pg_has_role(r.oid, role, 'member'))),
               'using', pg_get_expr(p.polqual, p.polrelid),
               'check', pg_get_expr(p.polwithcheck, p.polrelid)))
           from pg_policy as p
           where p.polrelid = c.oid
       ), '[]') as policies,
       array(select i.indexrelid::regclass::text from pg_index as i
             left join pg_attribute as a on a.attrelid = c.oid and a.attnum = i.indkey[0]
             where i.indrelid = c.oid and (i.indisunique or i.indisexclusion)
               and (a.attname is distinct from 'user_id'
                    or exists (select from pg_constraint as k
                               join pg_operator as o on o.oid = k.conexclop[1]
                               where k.conindid = i.indexrelid and o.oprname <> '=')))
           as cross_user_unique_indexes,
       array(select i.indexrelid::regclass::text from pg_index as i
             left join pg_attribute as a on a.attrelid = c.oid and a.attnum = i.indkey[0]
             where i.indrelid = c.oid and a.attname is distinct from 'user_id'
               and not (i.indisunique or i.indisexclusion)) as cross_user_indexes,
       array(select k.conname from pg_constraint as k
             left join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
             left join pg_attribute as b on b.attrelid = k.confrelid and b.attnum = k.confkey[1]
             where k.conrelid = c.oid and k.contype = 'f'
               and (a.attname, b.attname) is distinct from ('user_id', 'user_id'))
           as cross_user_foreign_keys,
       (select json_object_agg(role.rolname, array(
                   select privilege from unnest(privileges.names) as privilege
                   where has_table_privilege(role.oid, c.oid, privilege)
                      or (privilege in ('INSERT', 'UPDATE', 'REFERENCES')
                          and has_any_column_privilege(role.oid, c.oid, privilege))))
        from pg_roles as role where role.rolname in ($2, $3, $4)) as rights,
       array(select r.rulename from pg_rewrite as r where r.ev_class = c.oid) as rules,
       coalesce((select json_object_agg(t.tgname, json_build_object(
                     'enabled', t.tgenabled, 'definition', pg_get_triggerdef(t.oid)))
                 from pg_trigger as t where t.tgrelid = c.oid and not t.tgisinternal), '{}')
           as triggers,
       coalesce((select json_object_agg(name, definition) from (
                     select k.conname as name, pg_get_constraintdef(k.oid) as definition
                     from pg_constraint as k where k.conrelid = c.oid and k.convalidated
                     union all
                     select x.relname, pg_get_indexdef(x.oid)
                     from pg_index as i join pg_class as x on x.oid = i.indexrelid
                     where i.indrelid = c.oid and i.indisvalid
                       and not exists (select from pg_constraint as k
                                       where k.conindid = i.indexrelid)
                     union all
                     select concat(a.attname, ' not null'), 'NOT NULL'
                     from pg_attribute as a
                     where a.attrelid = c.oid and a.attnum > 0 and a.attnotnull) as made), '{}')
           as constraints,
       array(select a.attname from pg_attribute as a
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
               and has_column_privilege((select oid from application),
                                        c.oid, a.attnum, 'UPDATE')) as application_updates,
       array(select a.attname from pg_attribute as a
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
               and has_column_privilege((select oid from pg_roles where rolname = $3),
                                        c.oid, a.attnum, 'SELECT')) as operator_reads,
       array(select concat(a.attname, ' ', lower(privilege)) from pg_attribute as a,
                 unnest(array['SELECT', 'INSERT', 'UPDATE']) as privilege
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
               and has_column_privilege((select oid from pg_roles where rolname = $4),
                                        c.oid, a.attnum, privilege)) as eraser_rights
from wanted as w left join pg_class as c on c.oid = w.oid
cross join (select array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES',
                         'TRIGGER']
                || case when current_setting('server_version_num')::int >= 170000
                        then array['MAINTAIN'] else '{}' end) as privileges (names)
order by w.name
"""

# Binds: the same tables. A row for each view that reads one of them, directly or through other
# views, with the rights of the owner of the view.
VIEWS = """
with recursive readers (oid) as (
    select c.oid
    from pg_class as c
    where c.relnamespace = to_regnamespace('eventstore')
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
