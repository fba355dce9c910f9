"""
Ask the catalog of the server about logins, roles, tables and functions.

Asked as the login of the URL, without entering a role, in one round trip. The search path is
emptied first, so that names and expressions come back fully qualified, whoever asks; temporary
objects are named last in it, or PostgreSQL would look among them first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.roles import Role
from eventstore.database.settings import Settings
from eventstore.log.tables import LOG_TABLES
from eventstore.schema.catalog_tables import TABLES, VIEWS
from eventstore.schema.facts import Catalog, FunctionFacts, RoleFacts, Server, TableFacts

__all__ = ["other_protected_tables", "read_catalog"]

_QUALIFIED = Statement(
    "select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),"
    " pg_catalog.set_config('quote_all_identifiers', 'off', true)"
)

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
             union
             select 'this connection' where current_setting('eventstore.user_id', true) <> ''
             order by 1) as presets
from (select 1) as server
left join pg_class as event
  on event.relname = 'event' and event.relnamespace = to_regnamespace('eventstore')
"""

# A member of an owner, a superuser or a pg_write_all_data is what those are.
_ROLES = """
with ours as (
    select c.relowner as owner
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = 'eventstore' or concat(n.nspname, '.', c.relname) = any($3)
    union all
    select p.proowner from pg_proc as p where p.pronamespace = to_regnamespace('eventstore')
    union all
    select n.nspowner from pg_namespace as n where n.nspname = any($4)
)
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
                                     'pg_write_server_files', 'pg_monitor', 'pg_read_all_stats',
                                     'pg_stat_scan_tables', 'pg_signal_backend')
                    or exists (select from ours where ours.owner = g.oid))
             order by 1) as powerful,
       exists (select from ours where ours.owner = r.oid) as owns,
       array(select n.nspname from pg_namespace as n
             where n.nspname = any($2) and has_schema_privilege(r.oid, n.oid, 'create')
             order by n.nspname = 'eventstore' desc, 1) as creates,
       coalesce(has_schema_privilege(r.oid, to_regnamespace('eventstore'), 'usage'), false) as uses
from pg_roles as r
where r.rolname = any($1)
"""

_FUNCTIONS = """
select p.oid::regprocedure::text as name,
       p.prosecdef as definer,
       exists (select from unnest(p.proconfig) as setting where setting like 'search_path=%')
           or p.prosqlbody is not null as fixed,
       coalesce(pg_get_function_sqlbody(p.oid), btrim(p.prosrc)) as body,
       coalesce(p.proconfig, '{}') as settings,
       p.provolatile as volatility,
       p.proisstrict as strict,
       md5(p.prosrc) as digest,
       p.pronamespace = to_regnamespace('eventstore') as ours,
       coalesce(has_function_privilege((select oid from pg_roles where rolname = $1),
                                       p.oid, 'execute'), false) as callable
from pg_proc as p
where p.pronamespace = to_regnamespace('eventstore')
   or p.prosecdef
      and concat(coalesce(pg_get_function_sqlbody(p.oid), p.prosrc), p.proconfig::text) ~* $2
order by 1
"""


def read_catalog(tables: Sequence[str], settings: Settings) -> Plan[Catalog]:
    """
    Read the facts; one round trip.

    :param tables: schema-qualified names, beside every table of the schema `eventstore`.
    """
    names = list(tables)
    schemas = ["eventstore", *re.split(", *", settings.search_path)]
    homes = ["eventstore", *{name.partition(".")[0] for name in names}]
    roles_here = [settings.role_names[role] for role in Role]  # application, operator, eraser
    _, server, roles, found, views, functions = yield Batch(
        None,
        (
            _QUALIFIED,
            _facts(_SERVER),
            _facts(_ROLES, roles_here, schemas, names, homes),
            _facts(TABLES, names, *roles_here),
            Statement(VIEWS, (names,)),
            _facts(_FUNCTIONS, settings.application_role, _mention(names)),
        ),
    )
    return Catalog(
        Server(**server[0][0]),
        {facts["name"]: RoleFacts(**facts) for (facts,) in roles},
        [TableFacts(**facts) for (facts,) in found],
        [(name, materialised) for name, materialised in views],
        [FunctionFacts(**facts) for (facts,) in functions],
    )


def _mention(tables: Sequence[str]) -> str:
    """Return the regular expression of a text that may be about one of the tables."""
    parts = [name.split(".") for name in tables]
    words = {table if schema == "public" else schema for schema, table in parts}
    return rf"\m({'|'.join(map(re.escape, sorted({'eventstore', *words})))})\M"


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
