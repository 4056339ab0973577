"""Hostile rows: changes of a valid row that only somebody with write access to Postgres can make.

They are stronger than what the REST door's role may do: the leader must contain them whoever wrote them.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from testing.scenarios.hostile_input import PHRASES, nested


@dataclass(frozen=True)
class HostileRow:
    """Columns of the two tables of a workload, as SQL expressions."""

    name: str
    workload: dict[str, str] = field(default_factory=dict)
    state: dict[str, str] = field(default_factory=dict)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''").replace("\x00", "") + "'"


def hostile_rows(*, victim: str, node: str) -> list[HostileRow]:
    """The corpus; `victim`: another tenant's namespace and Customer, `node`: one of its nodes."""
    deep = {f"spec-deep-{depth}": f"'{nested(depth)}'::jsonb" for depth in (70, 260, 1_100)}
    specs = {
        **deep,
        "spec-null": "'null'::jsonb",
        "spec-list": "'[]'::jsonb",
        "spec-number": "'7'::jsonb",
        "spec-empty": "'{}'::jsonb",
        "spec-template-number": """'{"template": 7}'::jsonb""",
        "spec-containers-text": """'{"template": {"spec": {"containers": "x"}}}'::jsonb""",
        "spec-huge-number": "jsonb_set(spec, '{priority}', '1e400'::jsonb)",
        "spec-65-bits": "jsonb_set(spec, '{priority}', '36893488147419103232'::jsonb)",
        "spec-replicas": "jsonb_set(spec, '{replicas}', '2147483647'::jsonb)",
        "spec-other-pool": f'jsonb_set(spec, \'{{affinity}}\', \'{{"hard": {{"pools": ["{victim}"]}}}}\'::jsonb)',
        "spec-junk": "jsonb_set(spec, '{junk}', to_jsonb(array_fill('{}'::jsonb, ARRAY[20000])))",
        "spec-host-path": (
            'jsonb_set(spec, \'{template,spec,volumes}\', \'[{"name": "root", "hostPath": {"path": "/"}}]\'::jsonb)'
        ),
    }
    found = [HostileRow(name, workload={"spec": text}) for name, text in specs.items()]
    workload = {
        "labels-list": {"labels": "'[]'::jsonb"},
        "labels-nested": {"labels": """'{"a": {"b": 1}}'::jsonb"""},
        "door-kubernetes": {"door": "'kubernetes'"},
        "door-unknown": {"door": "'window'"},
        "namespace-reserved": {"namespace": "'kube-system'"},
        "namespace-operator": {"namespace": "'niyanta-system'"},
        "namespace-victim": {"namespace": _text(victim)},
        "namespace-path": {"namespace": "'../../nodes'"},
        "namespace-empty": {"namespace": "''"},
        "name-empty": {"name": "''"},
        "name-long": {"name": "repeat('x', 5000)"},
        "customer-victim": {"customer_id": _text(victim)},
        "customer-unknown": {"customer_id": "'nobody'"},
        "class-empty": {"class_id": "''"},
        "replicas": {"replicas": "2147483647"},
        "generation": {"generation": "-9223372036854775808"},
        "type-long": {"type": "repeat('t', 100000)"},
        **{f"name-phrase-{n}": {"name": _text(phrase)} for n, phrase in enumerate(PHRASES[:4])},
    }
    found += [HostileRow(name, workload=columns) for name, columns in workload.items()]
    state = {
        "priority": {"priority": "2147483647", "queue_key": "9223372036854775807"},
        "priority-low": {"priority": "-2147483648", "queue_key": "-9223372036854775808"},
        "tier": {"tier_weight": "2147483647"},
        "queued-infinity": {"queued_at": "'infinity'"},
        "queued-ancient": {"queued_at": "'-infinity'", "created_at": "'-infinity'"},
        "wake-infinity": {"wake_at": "'-infinity'"},
        "not-before-infinity": {"not_before": "'infinity'"},
        "attempt": {"attempt": "2147483647", "failures": "2147483647", "rejections": "2147483647"},
        "excluded-list": {"excluded": "'[]'::jsonb"},
        "excluded-text": {"excluded": """'{"a": "b"}'::jsonb"""},
        "scheduled": {
            "status": "'SCHEDULED'",
            "attempt": "1",
            "workers": f"ARRAY[{_text(node)}]",
            "scheduled_at": "now()",
        },
        "running": {"status": "'RUNNING'", "attempt": "1", "workers": f"ARRAY[{_text(node)}]", "started_at": "now()"},
        "running-nowhere": {"status": "'RUNNING'", "attempt": "1", "workers": "ARRAY['', 'no-such-node']"},
        "running-without-workers": {"status": "'RUNNING'", "attempt": "1"},
        "scheduled-infinity": {"status": "'RUNNING'", "started_at": "'infinity'", "scheduled_at": "'-infinity'"},
    }
    return found + [HostileRow(name, state=columns) for name, columns in state.items()]


class HostileRows:
    """Writes the rows as the owner of the tables, as copies of one valid row, and removes them at the end."""

    def __init__(self, dsn: str, template_id: str) -> None:
        """`template_id`: id of the valid row."""
        self._dsn = dsn
        self._template = template_id
        self.ids: list[str] = []

    def write(self, row: HostileRow) -> str | None:
        """Write one row; returns its id, or None if Postgres itself refuses it."""
        id_ = str(uuid.uuid4())
        try:
            with psycopg.connect(self._dsn) as connection:
                self._copy(connection, "workloads", id_, row.workload)
                shared = {key: text for key, text in row.workload.items() if key in ("customer_id", "class_id")}
                self._copy(connection, "workload_state", id_, {**shared, **row.state})
        except (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.StatementTooComplex):
            return None
        self.ids.append(id_)
        return id_

    def _copy(self, connection: psycopg.Connection, table: str, id_: str, columns: dict[str, str]) -> None:
        found = connection.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s "
            "AND is_generated = 'NEVER' ORDER BY ordinal_position",
            (table,),
        ).fetchall()
        values = {
            **columns,
            "id": f"'{id_}'::uuid",
            **({"changed": "pg_current_xact_id()"} if table == "workload_state" else {}),
        }
        names = [name for (name,) in found]
        chosen = [sql.SQL(values[name]) if name in values else sql.Identifier(name) for name in names]  # type: ignore[arg-type]
        statement = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} WHERE id = %s").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join(chosen),
            sql.Identifier(table),
        )
        connection.execute(statement, (self._template,))

    def remove(self) -> None:
        """Delete the rows."""
        with psycopg.connect(self._dsn) as connection:
            connection.execute("DELETE FROM workloads WHERE id = ANY(%s::uuid[])", (self.ids,))
