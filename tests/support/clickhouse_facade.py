"""ClickHouse for tests: the real engine behind a small HTTP front.

No registry has a package of the server, but PyPI's chdb-core is its engine as a library: parsing, types, MergeTree and its
merges, error codes and texts are ClickHouse's own. What this file adds is what a server's HTTP interface does around it
(https://clickhouse.com/docs/interfaces/http). Where a clickhouse-server is installed, ./dev starts that instead.

Done as a server does it: `query`, `database`, `default_format`, `query_id` and `param_NAME` in the URL or in a form, every
other parameter as a setting, users by header, basic authentication or parameters, an INSERT's data in the body,
X-ClickHouse-Exception-Code, -Summary, -Query-Id and -Format, HTTP codes by error, `/ping`, keep-alive, GET as read-only.

An INSERT takes its data while they come; one whose client is gone before their end writes nothing.

Not done: sessions, compression (refused, not ignored), roles and quotas, the native protocol, Replicated* engines; an answer
is sent when it is whole.
"""

import argparse
import base64
import email.parser
import email.policy
import fcntl
import json
import os
import re
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from chdb.state.sqlitelike import Connection

HEAD_BYTES = 64 * 1024  # an INSERT's words before its data are found in the first of a request's text
CHUNK_BYTES = 1024 * 1024
KILL_SECONDS = 0.01  # until a statement that does not run yet is looked for again
STOP_SECONDS = 5  # how long requests in hand may take when the server is told to end

# exceptionCodeToHTTPStatus.cpp of ClickHouse, by name; every other error is 500.
STATUS = {
    400: "BAD_ARGUMENTS CANNOT_COMPILE_REGEXP CANNOT_PARSE_TEXT CANNOT_PARSE_ESCAPE_SEQUENCE CANNOT_PARSE_QUOTED_STRING"
    " CANNOT_PARSE_DATE CANNOT_PARSE_DATETIME CANNOT_PARSE_NUMBER CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING CANNOT_PARSE_IPV4"
    " CANNOT_PARSE_IPV6 CANNOT_PARSE_INPUT_ASSERTION_FAILED CANNOT_PARSE_UUID DUPLICATE_COLUMN ILLEGAL_COLUMN"
    " UNKNOWN_ELEMENT_IN_AST UNKNOWN_TYPE_OF_AST_NODE THERE_IS_NO_COLUMN TOO_DEEP_AST TOO_BIG_AST UNEXPECTED_AST_STRUCTURE"
    " SYNTAX_ERROR INCORRECT_DATA TYPE_MISMATCH VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
    401: "REQUIRED_PASSWORD",
    403: "UNKNOWN_USER WRONG_PASSWORD AUTHENTICATION_FAILED SET_NON_GRANTED_ROLE",
    404: "UNKNOWN_TABLE UNKNOWN_FUNCTION UNKNOWN_IDENTIFIER UNKNOWN_TYPE UNKNOWN_STORAGE UNKNOWN_DATABASE UNKNOWN_SETTING"
    " UNKNOWN_DIRECTION_OF_SORTING UNKNOWN_AGGREGATE_FUNCTION UNKNOWN_FORMAT UNKNOWN_DATABASE_ENGINE UNKNOWN_TYPE_OF_QUERY"
    " UNKNOWN_ROLE",
    408: "TIMEOUT_EXCEEDED",
    411: "HTTP_LENGTH_REQUIRED",
    413: "QUERY_IS_TOO_LARGE",
    501: "NOT_IMPLEMENTED",
    503: "SOCKET_TIMEOUT CANNOT_OPEN_FILE CANNOT_SCHEDULE_TASK",
}
STATUS_OF = {name: status for status, names in STATUS.items() for name in names.split()}

# Parameters of a request that are no settings.
RESERVED = {"query", "database", "user", "password", "default_format", "query_id", "wait_end_of_query", "buffer_size",
            "client_protocol_version", "send_progress_in_http_headers", "quota_key"}
REFUSED = {"session_id", "compress", "decompress", "role"}

CONTENT_TYPES = {"TabSeparated": "text/tab-separated-values; charset=UTF-8", "TSV": "text/tab-separated-values; charset=UTF-8",
                 "CSV": "text/csv; charset=UTF-8; header=absent", "JSON": "application/json; charset=UTF-8",
                 "JSONEachRow": "application/x-ndjson; charset=UTF-8"}

TOKEN = re.compile(rb"""'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`|--[^\n]*|/\*.*?\*/|\w+|\s+|.""", re.DOTALL)


class Failure(Exception):
    """An error as ClickHouse would tell it."""

    def __init__(self, code, name, text):
        super().__init__(f"Code: {code}. DB::Exception: {text}. ({name})")


class Cut(Exception):
    """The client ended before its request did."""


class Unread(Exception):
    """The engine wants no more of an INSERT's data."""


def words(text):
    """The words of a statement outside of brackets, quotes and comments: (upper case, start, end)."""
    depth = 0
    for token in TOKEN.finditer(text):
        found = token.group()
        if found == b"(":
            depth += 1
        elif found == b")":
            depth -= 1
        elif depth == 0 and (found[:1].isalnum() or found[:1] == b"_"):
            yield found.upper(), token.start(), token.end()


def split_insert(text):
    """(statement, format, where the data begins) of an INSERT whose data follows it; None for every other statement."""
    found = words(text)
    if next(found, (b"",))[0] != b"INSERT":
        return None
    for word, start, end in found:
        if word == b"VALUES":
            return text[:start].decode(), "Values", end
        if word == b"FORMAT":
            name = next(found, None)
            if name is None:
                return None
            # As ClickHouse has it: data begins behind the first line break, or else behind the blanks.
            behind = re.compile(rb"[ \t\f]*;?[ \t\f]*\r?\n?").match(text, name[2])
            return text[:start].decode(), text[name[1]:name[2]].decode(), behind.end()
    return None


def from_file(statement, path):
    """An INSERT's words before its format, with where the data is."""
    text = statement.encode()
    settings = [start for word, start, _ in words(text) if word == b"SETTINGS"]
    before = settings[-1] if settings else len(text)
    place = f" FROM INFILE {quoted(path)} COMPRESSION 'none' ".encode()
    return (text[:before] + place + text[before:]).decode()


def named_format(text):
    """The format that a query asks for by itself."""
    found = list(words(text.encode()))
    for (word, _, _), (_, start, end) in zip(reversed(found[:-1]), reversed(found[1:])):
        if word == b"FORMAT":
            return text.encode()[start:end].decode()
    return None


def quoted(text, quote="'"):
    return quote + text.replace("\\", "\\\\").replace(quote, "\\" + quote) + quote


class Engine:
    """The engine on its directory; a connection a request, so that database and settings are a request's own."""

    def __init__(self, directory, settings):
        self.directory = directory
        self.settings = settings
        self.first = Connection(directory)  # keeps the engine up between requests
        self.version = self.first.query("SELECT version()", "TSVRaw").bytes().decode().strip()

    def connect(self, database, settings):
        connection = Connection(self.directory)
        try:
            if database:
                connection.query(f"USE {quoted(database, '`')}")
            all_settings = {**self.settings, **settings}
            for name in all_settings:
                if not re.fullmatch(r"\w+", name):
                    raise Failure(115, "UNKNOWN_SETTING", f"Unknown setting '{name}'")
            if all_settings:
                connection.query("SET " + ", ".join(f"{name} = {quoted(value)}" for name, value in all_settings.items()))
        except BaseException:
            connection.close()
            raise
        return connection


class Insert:
    """An INSERT under way, in a thread of its own; its data go through a pipe."""

    def __init__(self, engine, connection, statement, format_):
        self.engine, self.connection = engine, connection
        self.out, self.into = os.pipe()
        fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, CHUNK_BYTES)
        self.path = f"/proc/self/fd/{self.out}"
        self.text = f"{from_file(statement, self.path)} FORMAT {format_}"
        self.result, self.error, self.has_ended = None, None, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            # Not by the library's own way to send rows: that says of an insert which the table refuses that it is done.
            self.result = self.connection._conn.query(self.text, "Null", params={})
        except Exception as error:  # of the engine, whose errors have no type of their own
            self.error = error
        finally:
            self.has_ended.set()
            os.close(self.out)  # whoever writes into it need not wait any more

    def feed(self, data):
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self.into, left):]
        except BrokenPipeError:
            raise Unread from None

    def end(self):
        """What came of it, once there are no more data."""
        os.close(self.into)
        self.thread.join()
        if self.error:
            raise self.error
        return self.result

    def kill(self):
        """Has it write nothing: the end of its data would pass for the end of the whole."""
        kill = f"KILL QUERY WHERE startsWith(query, 'INSERT') AND position(query, {quoted(quoted(self.path))}) > 0 ASYNC"
        connection = Connection(self.engine.directory)
        try:
            while not self.has_ended.is_set() and not connection._conn.query(kill, "TSV", params={}).bytes():
                self.has_ended.wait(KILL_SECONDS)
        finally:
            connection.close()
            os.close(self.into)
            self.thread.join()


class Body:
    """A request's body as it comes."""

    def __init__(self, handler):
        self.file = handler.rfile
        self.acknowledge = handler.acknowledge
        self.chunked = "chunked" in handler.headers.get("Transfer-Encoding", "").lower()
        self.left = 0 if self.chunked else int(handler.headers.get("Content-Length") or 0)
        self.ended = not self.chunked and self.left == 0

    def read(self, limit):
        """Up to `limit` bytes; none at the end."""
        if self.ended:
            return b""
        if self.chunked and self.left == 0:
            size = self.file.readline()
            if not size.endswith(b"\n"):
                raise Cut
            self.left = int(size.split(b";")[0], 16)
            if self.left == 0:
                while self.file.readline() not in (b"\r\n", b"\n", b""):
                    pass
                self.ended = True
                return b""
        data = self.file.read1(min(limit, self.left))
        self.acknowledge()
        if not data:
            raise Cut
        self.left -= len(data)
        if self.left == 0:
            if self.chunked:
                self.file.readline()
            else:
                self.ended = True
        return data

    def read_up_to(self, limit):
        parts, size = [], 0
        while size < limit and (part := self.read(limit - size)):
            parts.append(part)
            size += len(part)
        return b"".join(parts)

    def rest(self):
        parts = []
        while part := self.read(CHUNK_BYTES):
            parts.append(part)
        return b"".join(parts)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body of an answer leave together
    disable_nagle_algorithm = True

    def acknowledge(self):
        # Not kept by the kernel, so asked for each time: a client with Nagle's algorithm waits for it.
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def parse_request(self):
        self.acknowledge()
        return super().parse_request()

    def do_GET(self):
        self.serve()

    def do_HEAD(self):
        self.serve()

    def do_POST(self):
        self.serve()

    def serve(self):
        with self.server.in_hand:
            self.server.requests += 1
        try:
            self.serve_one()
        except (Cut, ConnectionError, ssl.SSLError):
            self.close_connection = True
        finally:
            with self.server.in_hand:
                self.server.requests -= 1

    def serve_one(self):
        self.extra = {}
        body = Body(self)
        url = urllib.parse.urlsplit(self.path)
        if url.path in ("/ping", "/") and not url.query and self.command != "POST":
            self.answer(200, b"Ok.\n")
            return
        query = ""
        try:
            params = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query)))
            query = params.get("query", "")
            self.check_user(params)
            self.refuse_unknown(url.path, params, body)
            self.read_form(params, body)
            query = params.get("query", "")
            self.extra["X-ClickHouse-Query-Id"] = params.get("query_id") or str(uuid.uuid4())
            self.answer(200, self.run(params, body))
        except (Cut, ConnectionError):
            raise
        except Exception as error:  # of the engine, whose errors have no type of their own
            self.fail(error, query, body)

    def check_user(self, params):
        user, password = self.headers.get("X-ClickHouse-User"), self.headers.get("X-ClickHouse-Key", "")
        basic = self.headers.get("Authorization", "")
        if user is None and basic.startswith("Basic "):
            user, _, password = base64.b64decode(basic[6:]).decode().partition(":")
        elif user is None:
            user, password = params.get("user", "default"), params.get("password", "")
        if self.server.users.get(user) != password:
            raise Failure(516, "AUTHENTICATION_FAILED", f"{user}: Authentication failed: password is incorrect,"
                          " or there is no user with such name")

    def refuse_unknown(self, path, params, body):
        if path not in ("/", ""):
            raise Failure(404, "NOT_IMPLEMENTED", f"There is no handler {path}")
        for name in REFUSED & params.keys():
            if params[name] not in ("", "0"):
                raise Failure(48, "NOT_IMPLEMENTED", f"{name} is not implemented by the front for tests")
        if self.headers.get("Content-Encoding", "identity") != "identity":
            raise Failure(48, "NOT_IMPLEMENTED", "Content-Encoding is not implemented by the front for tests")
        if self.command == "POST" and not body.chunked and "Content-Length" not in self.headers:
            raise Failure(381, "HTTP_LENGTH_REQUIRED", "There is neither Transfer-Encoding header nor Content-Length header")

    def read_form(self, params, body):
        """Parameters may come as a form, too."""
        kind = self.headers.get("Content-Type", "")
        if not kind.startswith("multipart/form-data"):
            return
        text = f"Content-Type: {kind}\r\n\r\n".encode() + body.rest()
        for part in email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(text).iter_parts():
            name = part.get_param("name", header="content-disposition")
            params[name] = (part.get_payload(decode=True) or b"").decode()

    def run(self, params, body):
        database = params.get("database") or self.headers.get("X-ClickHouse-Database")
        format_ = params.get("default_format") or self.headers.get("X-ClickHouse-Format") or "TabSeparated"
        values = {name[6:]: value for name, value in params.items() if name.startswith("param_")}
        settings = {name: value for name, value in params.items()
                    if name not in RESERVED | REFUSED and not name.startswith("param_")}
        query = params.get("query", "").encode()
        head = (query + b"\n" if query and not body.ended else query) + body.read_up_to(HEAD_BYTES)
        connection = self.server.engine.connect(database, settings)
        try:
            insert = split_insert(head)
            if insert and (insert[1] != "Values" or not values):
                self.refuse_writing()
                return self.insert(connection, insert, head, body)
            return self.query(connection, (head + body.rest()).decode(), format_, values)
        finally:
            connection.close()

    def refuse_writing(self):
        if self.command != "POST":
            raise Failure(164, "READONLY", "Cannot execute query in readonly mode. For queries over HTTP, method GET implies"
                          " readonly. You should use method POST for modifying queries")

    def insert(self, connection, insert, head, body):
        statement, format_, begins = insert
        under_way = Insert(self.server.engine, connection, statement, format_)
        started = time.monotonic()
        try:
            under_way.feed(head[begins:])
            while part := body.read(CHUNK_BYTES):
                under_way.feed(part)
        except Unread:
            pass
        except BaseException:
            under_way.kill()
            raise
        result = under_way.end()
        body.rest()
        self.summarize(written_rows=result.rows_written(), written_bytes=result.bytes_written(), started=started)
        return b""

    def query(self, connection, text, format_, values):
        said = connection._conn.classify_query(text)
        if said["statement_count"] > 1:
            raise Failure(62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
        if said["query_class"].name != "READ_ONLY":
            self.refuse_writing()
        started = time.monotonic()
        result = connection._conn.query(text, format_, params=values)
        format_ = named_format(text) or format_
        self.extra["X-ClickHouse-Format"] = format_
        self.extra["Content-Type"] = CONTENT_TYPES.get(format_, "application/octet-stream")
        self.summarize(read_rows=result.storage_rows_read(), read_bytes=result.storage_bytes_read(),
                       written_rows=result.rows_written(), written_bytes=result.bytes_written(),
                       result_rows=result.rows_read(), result_bytes=result.bytes_read(), started=started)
        return result.bytes()

    def summarize(self, started, **counts):
        names = ("read_rows", "read_bytes", "written_rows", "written_bytes", "total_rows_to_read", "result_rows", "result_bytes")
        summary = {name: str(counts.get(name, 0)) for name in names}
        summary["elapsed_ns"] = str(int((time.monotonic() - started) * 1e9))
        self.extra["X-ClickHouse-Summary"] = json.dumps(summary, separators=(",", ":"))

    def fail(self, error, query, body):
        text = str(error)
        if not (known := re.search(r"Code: (\d+)\. ", text)):
            text, known = f"Code: 1002. DB::Exception: {text}. (UNKNOWN_EXCEPTION)", None
        text = text[known.start():] if known else text
        code = known.group(1) if known else "1002"
        name = re.findall(r"\(([A-Z0-9_]+)\)", text)
        status = STATUS_OF.get(name[-1] if name else "", 500)
        print(f"{self.command} {status}: {text} {query[:500]!r}", file=sys.stderr, flush=True)
        body.rest()  # or it would be taken for the next request
        self.extra = {"X-ClickHouse-Exception-Code": code, "X-ClickHouse-Query-Id": self.extra.get("X-ClickHouse-Query-Id", "")}
        if status == 401:
            self.extra["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        version = f"(version {self.server.engine.version})"
        self.answer(status, (text if version in text else f"{text} {version}").encode() + b"\n")

    def answer(self, status, content):
        self.send_response(status)
        headers = {"Content-Type": "text/plain; charset=UTF-8", "X-ClickHouse-Server-Display-Name": "walferry-test",
                   "X-ClickHouse-Timezone": "UTC", **self.extra, "Content-Length": str(len(content))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, format, *args):
        pass  # errors are told by fail()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port, engine, users, tls=None):
        super().__init__(("127.0.0.1", port), Handler)
        self.engine, self.users, self.tls = engine, users, tls
        self.in_hand, self.requests = threading.Lock(), 0

    def get_request(self):
        connection, address = super().get_request()
        if self.tls:
            # The handshake is left to the connection's own thread, with its first read.
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, ssl.SSLError, TimeoutError)):
            super().handle_error(request, client_address)


def pair(separator):
    def parse(text):
        name, found, value = text.partition(separator)
        if not found:
            raise argparse.ArgumentTypeError(f"wants NAME{separator}VALUE, not {text!r}")
        return name, value

    return parse


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", required=True, metavar="DIR")
    arguments.add_argument("--port", required=True, type=int)
    arguments.add_argument("--secure-port", type=int, help="for TLS, with --certificate")
    arguments.add_argument("--certificate", metavar="FILE", help="PEM with key and certificate")
    arguments.add_argument("--user", action="append", type=pair(":"), default=[], metavar="NAME:PASSWORD")
    arguments.add_argument("--set", action="append", type=pair("="), default=[], metavar="NAME=VALUE")
    given = arguments.parse_args()

    engine = Engine(given.data, dict(given.set))
    users = dict(given.user) or {"default": ""}
    servers = [Server(given.port, engine, users)]
    if given.secure_port:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(given.certificate)
        servers.append(Server(given.secure_port, engine, users, tls))

    asked = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: asked.set())
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    print(f"ready: ClickHouse's engine {engine.version} on port {given.port}", file=sys.stderr, flush=True)
    asked.wait()
    for server in servers:
        server.shutdown()
    end = time.monotonic() + STOP_SECONDS
    while any(server.requests for server in servers) and time.monotonic() < end:
        time.sleep(0.02)
    engine.first.close()
    os._exit(0)  # connections that wait for a next request have threads


if __name__ == "__main__":
    main()
