"""
Ask the catalog of the server about logins, roles, tables and functions.

Asked as the login of the URL, without entering a role, in one round trip. The search path is
emptied first, so that names and expressions come back fully qualified, whoever asks; temporary
objects are named last in it, or PostgreSQL would look among them first.
"""

from __future__ import annotations

from collections.abc import Sequence

from eventstore.database.expected import LOG_TABLES
from eventstore.database.facts import Catalog, FunctionFacts, RoleFacts, Server, TableFacts
from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.roles import Role
from eventstore.database.settings import Settings

__all__ = ["other_protected_tables", "read_catalog"]

_QUALIFIED = Statement("select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)")

_SERVER = """
select current_setting('server_version_num')::int as number,
       current_setting('server_version') as version,
       current_setting('fsync') = 'on' as fsync,
       current_setting('synchronous_commit') <> 'off' as synchronous_commit,
       current_setting('server_encoding') as encoding,
       exists (select from pg_settings where name like 'neon.%') as neon,
       session_user as login,
       (select rolsuper from pg_roles where rolname = session_user) as superuser,
       (select rolbypassrls from pg_roles where rolname = session_user) as bypasses,
       coalesce(pg_has_role(session_user, event.relowner, 'member'), false) as owner,
       pg_has_role(session_user, 'pg_write_all_data', 'member') as writes_all,
       event.oid is not null as migrated,
       array(select format('%s as %s', format_type(c.castsource, null),
                           format_type(c.casttarget, null))
             from pg_cast as c
             where c.oid >= 16384 and c.castsource < 16384 and c.casttarget < 16384
             order by 1) as casts,
       coalesce((select json_object_agg(p.polname, r.rolname)
                 from pg_policy as p join pg_roles as r on array[r.oid] = p.polroles
                 where p.polrelid = event.oid), '{}') as policies,
       array(select coalesce(r.rolname, 'every login')
             from pg_db_role_setting as s left join pg_roles as r on r.oid = s.setrole
             where s.setdatabase in (0, (select oid from pg_database
                                         where datname = current_database()))
               and exists (select from unnest(s.setconfig) as setting
                           where setting like 'eventstore.user_id=_%')
             order by 1) as presets
from (select 1) as server
left join pg_class as event
  on event.relname = 'event' and event.relnamespace = to_regnamespace('eventstore')
"""

# A member of an owner, a superuser or a pg_write_all_data is what those are.
_ROLES = """
select r.rolname as name,
       r.rolsuper as superuser,
       r.rolbypassrls as bypasses,
       r.rolcreaterole as creates_roles,
       r.rolreplication as replicates,
       case when current_setting('server_version_num')::int >= 160000
            then pg_has_role(session_user, r.oid, 'set')
            else pg_has_role(session_user, r.oid, 'member') end as enterable,
       array(select g.rolname from pg_roles as g
             where g.oid <> r.oid and pg_has_role(r.oid, g.oid, 'member')
               and (g.rolsuper or g.rolbypassrls or g.rolcreaterole
                    or g.rolname in ('pg_read_all_data', 'pg_write_all_data', 'pg_maintain',
                                     'pg_execute_server_program', 'pg_read_server_files',
                                     'pg_write_server_files')
                    or exists (select from pg_class as c where c.relowner = g.oid
                               and c.relnamespace = to_regnamespace('eventstore')))
             order by 1) as powerful,
       exists (select from pg_class as c where c.relowner = r.oid
               and c.relnamespace = to_regnamespace('eventstore'))
           or exists (select from pg_proc as p where p.proowner = r.oid
                      and p.pronamespace = to_regnamespace('eventstore'))
           or exists (select from pg_namespace as n where n.nspowner = r.oid
                      and n.nspname = 'eventstore') as owns,
       coalesce(has_schema_privilege(r.oid, to_regnamespace('eventstore'), 'create'), false)
           as creates,
       coalesce(has_schema_privilege(r.oid, to_regnamespace('eventstore'), 'usage'), false) as uses
from pg_roles as r
where r.rolname = any($1)
"""

_TABLES = """
with recursive application as (
    select oid from pg_roles where rolname = $2
), named (name, oid) as (
    select name, (select c.oid from pg_class as c  -- to_regclass would need rights on the schema
                  where c.relname = split_part(name, '.', 2)
                    and c.relnamespace = to_regnamespace(split_part(name, '.', 1)))
    from unnest($1::text[]) as name
    union
    select c.oid::regclass::text, c.oid from pg_class as c
    where c.relnamespace = to_regnamespace('eventstore') and c.relkind in ('r', 'p', 'f')
      and c.relname <> 'alembic_version'
), wanted (name, oid) as (  -- a partition is a table that can be asked directly
    select name, oid from named
    union
    select i.inhrelid::regclass::text, i.inhrelid
    from pg_inherits as i join wanted on wanted.oid = i.inhparent
)
select w.name,
       c.oid is not null as exists,
       coalesce(c.relispartition, false) as partition,
       exists (select from pg_inherits as i where i.inhrelid = c.oid)
           and not c.relispartition as inherits,
       coalesce(c.relrowsecurity, false) as secured,
       coalesce(c.relforcerowsecurity, false) as forced,
       coalesce((
           select json_agg(json_build_object(
               'name', p.polname, 'permissive', p.polpermissive, 'command', p.polcmd,
               'to', array(select r.rolname from pg_roles as r, unnest(p.polroles) as role
                           where r.rolname in ($2, $3, $4)
                             and (role = 0 or pg_has_role(r.oid, role, 'member'))),
               'using', pg_get_expr(p.polqual, p.polrelid),
               'check', pg_get_expr(p.polwithcheck, p.polrelid)))
           from pg_policy as p
           where p.polrelid = c.oid
       ), '[]') as policies,
       array(select i.indexrelid::regclass::text from pg_index as i
             left join pg_attribute as a on a.attrelid = c.oid and a.attnum = i.indkey[0]
             where i.indrelid = c.oid and a.attname is distinct from 'user_id'
               and (i.indisunique or i.indisexclusion)) as strange_uniques,
       array(select i.indexrelid::regclass::text from pg_index as i
             left join pg_attribute as a on a.attrelid = c.oid and a.attnum = i.indkey[0]
             where i.indrelid = c.oid and a.attname is distinct from 'user_id'
               and not (i.indisunique or i.indisexclusion)) as strange_indexes,
       array(select k.conname from pg_constraint as k
             left join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
             left join pg_attribute as b on b.attrelid = k.confrelid and b.attnum = k.confkey[1]
             where k.conrelid = c.oid and k.contype = 'f'
               and (a.attname, b.attname) is distinct from ('user_id', 'user_id'))
           as strange_keys,
       exists (select from pg_constraint as k join pg_attribute as a
               on a.attrelid = c.oid and a.attname = 'user_id' and k.conkey = array[a.attnum]
               where k.conrelid = c.oid and k.contype = 'c' and k.convalidated) as checked,
       (select json_object_agg(role.rolname, array(
                   select privilege from unnest(rights.every) as privilege
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
                                        c.oid, a.attnum, 'UPDATE')) as movable,
       array(select a.attname from pg_attribute as a
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
               and has_column_privilege((select oid from pg_roles where rolname = $3),
                                        c.oid, a.attnum, 'SELECT')) as listed,
       array(select concat(a.attname, ' ', lower(privilege)) from pg_attribute as a,
                 unnest(array['SELECT', 'INSERT', 'UPDATE']) as privilege
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
               and has_column_privilege((select oid from pg_roles where rolname = $4),
                                        c.oid, a.attnum, privilege)) as erasable
from wanted as w left join pg_class as c on c.oid = w.oid
cross join (select array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES',
                         'TRIGGER']
                || case when current_setting('server_version_num')::int >= 170000
                        then array['MAINTAIN'] else '{}' end) as rights (every)
order by w.name
"""

_VIEWS = """
select distinct v.oid::regclass::text, v.relkind = 'm'
from unnest($1::text[]) as name
join pg_class as c on c.relname = split_part(name, '.', 2)
                      and c.relnamespace = to_regnamespace(split_part(name, '.', 1))
                   or c.relnamespace = to_regnamespace('eventstore')
join pg_depend as d on d.refobjid = c.oid and d.classid = 'pg_rewrite'::regclass
join pg_rewrite as r on r.oid = d.objid and r.ev_class <> d.refobjid
join pg_class as v on v.oid = r.ev_class and v.relkind in ('v', 'm')
where v.relkind = 'm'
   or not exists (select from pg_options_to_table(v.reloptions)
                  where option_name = 'security_invoker' and option_value::bool)
order by 1
"""

_FUNCTIONS = """
select p.oid::regprocedure::text as name,
       p.prosecdef as definer,
       exists (select from unnest(p.proconfig) as setting where setting like 'search_path=%')
           or p.prosqlbody is not null as fixed,
       coalesce(pg_get_function_sqlbody(p.oid), btrim(p.prosrc)) as body,
       p.proconfig is not null as configured,
       md5(p.prosrc) as digest,
       p.pronamespace = to_regnamespace('eventstore') as ours,
       coalesce(has_function_privilege((select oid from pg_roles where rolname = $1),
                                       p.oid, 'execute'), false) as callable
from pg_proc as p
where p.pronamespace = to_regnamespace('eventstore')
   or p.prosecdef
      and coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) ~ '[^a-z_]eventstore[.]'
order by 1
"""


def read_catalog(tables: Sequence[str], settings: Settings) -> Plan[Catalog]:
    """
    Read the facts; one round trip.

    :param tables: schema-qualified names, beside every table of the schema `eventstore`.
    """
    names = list(tables)
    roles_here = [settings.role_names[role] for role in Role]  # application, operator, eraser
    _, server, roles, found, views, functions = yield Batch(
        None,
        (
            _QUALIFIED,
            _facts(_SERVER),
            _facts(_ROLES, roles_here),
            _facts(_TABLES, names, *roles_here),
            Statement(_VIEWS, (names,)),
            _facts(_FUNCTIONS, settings.application_role),
        ),
    )
    return Catalog(
        Server(**server[0][0]),
        {facts["name"]: RoleFacts(**facts) for (facts,) in roles},
        [TableFacts(**facts) for (facts,) in found],
        [(name, materialised) for name, materialised in views],
        [FunctionFacts(**facts) for (facts,) in functions],
    )


def _facts(sql: str, *values: object) -> Statement:
    """Return a statement whose rows are objects, by the names that `sql` gives its columns."""
    return Statement(f"select row_to_json(facts) from ({sql}) as facts", values)


_OTHERS = """
select distinct concat(n.nspname, '.', c.relname)
from pg_policy as p
join pg_class as c on c.oid = p.polrelid
join pg_namespace as n on n.oid = c.relnamespace
where p.polpermissive
  and concat(n.nspname, '.', c.relname) <> all($1)
  and pg_get_expr(p.polqual, p.polrelid) like '%current_user_id()%'
  and exists (select from unnest(p.polroles) as role
              where role = 0 or pg_has_role(current_user, role, 'member'))
order by 1
"""


def other_protected_tables(tables: Sequence[str]) -> Statement:
    """Return the statement for tables with a user's own rows: none of the log's, nor `tables`."""
    return Statement(_OTHERS, ([*LOG_TABLES, *tables],))
