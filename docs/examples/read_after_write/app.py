"""Notes: written on the leader, read on a follower that has them, else on the leader.

LEADER_URL and FOLLOWER_URL are Postgres URLs; flask --app app run
"""

import os

import psycopg
from flask import Flask, Response, jsonify, request

LEADER = os.environ["LEADER_URL"]
FOLLOWER = os.environ["FOLLOWER_URL"]
# How long a read waits for the follower before it goes to the leader.
PATIENCE = os.environ.get("PATIENCE", "200 ms")

app = Flask(__name__)


@app.post("/notes")
def write():
    with psycopg.connect(LEADER) as leader:
        leader.execute("INSERT INTO notes (text) VALUES (%s)", (request.get_data(as_text=True),))
        leader.commit()
        # After the commit: all that this user has written lies before this position.
        lsn, timeline = leader.execute(
            "SELECT lsn::text, ('x' || left(pg_walfile_name(lsn), 8))::bit(32)::int"
            " FROM pg_current_wal_insert_lsn() AS lsn"
        ).fetchone()
    answer = Response(status=201)
    answer.set_cookie("seen", f"{timeline}:{lsn}", httponly=True, samesite="Lax")
    return answer


def follower_has(follower, seen):
    """Whether the follower shows what this user has written."""
    if seen is None:
        return True
    try:
        timeline, lsn = seen.split(":", 1)
        return follower.execute(
            "SELECT walferry.wait_for(%s, %s::interval, timeline => %s)", (lsn, PATIENCE, int(timeline))
        ).fetchone()[0]
    except (ValueError, psycopg.Error):
        # Another timeline, no walferry here, or a cookie of somebody's making.
        return False


def notes(connection):
    return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY id")]


@app.get("/notes")
def read():
    try:
        with psycopg.connect(FOLLOWER, autocommit=True, connect_timeout=2) as follower:
            if follower_has(follower, request.cookies.get("seen")):
                return jsonify(read_from="follower", notes=notes(follower))
    except psycopg.OperationalError:
        pass  # The follower is down: the leader has it all.
    with psycopg.connect(LEADER, autocommit=True) as leader:
        return jsonify(read_from="leader", notes=notes(leader))
