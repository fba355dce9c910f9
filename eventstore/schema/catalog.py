"""
Read what the system catalog of the server says about logins, roles, tables and functions.

The queries run as the login of the URL, without entering a role, in one round trip. They change
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.roles import Role
from eventstore.database.settings import Settings
from eventstore.log.tables import STORE_TABLES
from eventstore.schema.catalog_tables import TABLES, VIEWS
from eventstore.schema.facts import Catalog, FunctionFacts, RoleFacts, Server, TableFacts

__all__ = ["other_protected_tables", "read_catalog"]

# Without a schema in the search path, PostgreSQL prints names and expressions fully qualified, for
# every login alike. Temporary objects must be named last, because unnamed they come first.
_EMPTY_SEARCH_PATH = Statement(
    "select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true),"
    " pg_catalog.set_config('quote_all_identifiers', 'off', true)"
)

# One row. Objects with an oid below 16384 are PostgreSQL's own.
_SERVER = """
select current_setting('server_version_num')::int as version_number,
       current_setting('server_version') as version,
       current_setting('fsync') = 'on' as fsync,
       current_setting('synchronous_commit') <> 'off' as synchronous_commit,
       current_setting('server_encoding') as encoding,
       coalesce(current_setting('neon.timeline_id', true), '') <> '' as neon,
       session_user as login,
       login.rolsuper as login_superuser,
       login.rolbypassrls as login_bypassrls,
       coalesce(pg_has_role(session_user, event.relowner, 'member'), false) as login_owns_log,
       pg_has_role(session_user, 'pg_write_all_data', 'member') as login_writes_all,
       event.oid is not null as migrated,
       array(select format('%s as %s', format_type(c.castsource, null),
                           format_type(c.casttarget, null))
             from pg_cast as c
             where c.oid >= 16384 and c.castsource < 16384 and c.casttarget < 16384
             order by 1) as added_casts,
       coalesce((select json_object_agg(p.polname, r.rolname)
                 from pg_policy as p join pg_roles as r on array[r.oid] = p.polroles
                 where p.polrelid = event.oid), '{}') as event_policies,
       array(select coalesce(r.rolname, 'every login')
             from pg_db_role_setting as s left join pg_roles as r on r.oid = s.setrole
             where s.setdatabase in (0, (select oid from pg_database
                                         where datname = current_database()))
               and exists (select from unnest(s.setconfig) as setting
                           where setting like 'eventstore.user_id=_%')
             union
             select 'this connection' where current_setting('eventstore.user_id', true) <> ''
             order by 1) as presets
from pg_roles as login
left join pg_class as event
  on event.relname = 'event' and event.relnamespace = to_regnamespace('eventstore')
where login.rolname = session_user
"""

# Binds: the store's roles; the schemas to look for CREATE in; the tables beside those of the schema
# `eventstore`; the schemas of all these tables. A row for each role that exists.
# The memberships matter, because a member may do everything that the role it belongs to may do.
_ROLES = """
with owners as (
    select c.relowner as owner
    from pg_class as c
    where c.relnamespace = (select to_regnamespace('eventstore'))
    union all
    select c.relowner
    from unnest($3::text[]) as name
    join pg_class as c on c.relname = split_part(name, '.', 2)
    join pg_namespace as n on n.oid = c.relnamespace and n.nspname = split_part(name, '.', 1)
    union all
    select p.proowner
    from pg_proc as p
    where p.pronamespace = (select to_regnamespace('eventstore'))
    union all
    select n.nspowner from pg_namespace as n where n.nspname = any($4::text[])
)
select r.rolname as name,
       r.rolsuper as superuser,
       r.rolbypassrls as bypassrls,
       r.rolcreaterole as createrole,
       r.rolreplication as replication,
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
                    or exists (select from owners where owners.owner = g.oid))
             order by 1) as powerful_memberships,
       exists (select from owners where owners.owner = r.oid) as owns_objects,
       array(select n.nspname from pg_namespace as n
             where n.nspname = any($2::text[]) and has_schema_privilege(r.oid, n.oid, 'create')
             order by n.nspname = 'eventstore' desc, 1) as creates_in,
       coalesce(has_schema_privilege(r.oid, to_regnamespace('eventstore'), 'usage'), false)
           as uses_schema
from pg_roles as r
where r.rolname = any($1::text[])
"""

# Binds: the application role; a regular expression of texts that mention the tables. A row for each
# function of the schema, and for each one elsewhere that mentions the tables and runs with its
# owner's rights.
_FUNCTIONS = """
select p.oid::regprocedure::text as name,
       p.prosecdef as security_definer,
       exists (select from unnest(p.proconfig) as setting where setting like 'search_path=%')
           or p.prosqlbody is not null as fixed_search_path,
       coalesce(pg_get_function_sqlbody(p.oid), btrim(p.prosrc)) as body,
       coalesce(p.proconfig, '{}') as settings,
       p.provolatile as volatility,
       p.proisstrict as strict,
       md5(p.prosrc) as digest,
       p.pronamespace = to_regnamespace('eventstore') as in_schema,
       coalesce(has_function_privilege((select oid from pg_roles where rolname = $1),
                                       p.oid, 'execute'), false) as callable
from pg_proc as p
where p.pronamespace = (select to_regnamespace('eventstore'))
   or p.prosecdef
      and concat(coalesce(pg_get_function_sqlbody(p.oid), p.prosrc), p.proconfig::text) ~* $2
order by 1
"""


def read_catalog(tables: Sequence[str], settings: Settings) -> Plan[Catalog]:
    """
    Read the facts that the doctor judges; one round trip.

    :param tables: the tables to read beside every table of the schema `eventstore`, as
        schema-qualified names.
    """
    names = list(tables)
    search_path = ["eventstore", *re.split(", *", settings.search_path)]
    table_schemas = ["eventstore", *{name.partition(".")[0] for name in names}]
    role_names = [settings.role_names[role] for role in Role]  # application, operator, eraser
    _, server_rows, role_rows, table_rows, view_rows, function_rows = yield Batch(
        None,
        (
            _EMPTY_SEARCH_PATH,
            _json_rows(_SERVER),
            _json_rows(_ROLES, role_names, search_path, names, table_schemas),
            _json_rows(TABLES, names, *role_names),
            Statement(VIEWS, (names,)),
            _json_rows(_FUNCTIONS, settings.application_role, _mention_pattern(names)),
        ),
    )
    return Catalog(
        Server(**server_rows[0][0]),
        {row["name"]: RoleFacts(**row) for (row,) in role_rows},
        [TableFacts(**row) for (row,) in table_rows],
        [(name, materialised) for name, materialised in view_rows],
        [FunctionFacts(**row) for (row,) in function_rows],
    )


def _mention_pattern(tables: Sequence[str]) -> str:
    """Return a regular expression for texts that may be about one of the tables."""
    parts = [name.split(".") for name in tables]
    # A table in `public` is searched for by its own name, because too many functions say "public".
    words = {table if schema == "public" else schema for schema, table in parts}
    return rf"\m({'|'.join(map(re.escape, sorted({'eventstore', *words})))})\M"


def _json_rows(sql: str, *parameters: object) -> Statement:
    """Return a statement that gives each row as one JSON object, with the column names as keys."""
    return Statement(f"select row_to_json(facts) from ({sql}) as facts", parameters)


# Binds: the tables that are known. A policy that calls current_user_id() marks a table with rows of
# users; the table counts only if the policy holds for the role that asks.
_OTHER_PROTECTED_TABLES = """
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
    """
    Return the statement that lists the tables with users' rows that the store does not maintain.

    :param tables: the tables of the projectors, as schema-qualified names, which are left out like
        the tables of the log and of feeds.
    """
    return Statement(_OTHER_PROTECTED_TABLES, ([*STORE_TABLES, *tables],))
