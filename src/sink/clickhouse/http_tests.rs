use std::time::Duration;

use http_body_util::Either;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::streamed::{Memory, PIECE_BYTES, streamed};
use super::*;
use crate::config::{Secret, ServerUrl, TlsMode};

/// Asked of a server that answers and goes when it has seen the beginning.
const ROUNDS: usize = 50;

/// More than the kernel holds of a connection that nobody reads.
const PIECES: usize = 64;

async fn listen() -> (TcpListener, Http) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let settings = ServerSettings {
        url: ServerUrl {
            written: Secret::new(""),
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().expect("its address").port(),
            user: None,
            password: None,
            database: "default".to_owned(),
        },
        tls: TlsMode::Disable.into(),
        connect_timeout: Duration::from_secs(10),
    };
    (listener, Http::new(settings, Duration::from_secs(60)))
}

/// Sends more rows than the server reads; what the server says.
async fn insert(http: &Http) -> Failure {
    let (writer, body) = streamed(&Memory::default());
    let query = Query {
        data: Some(Either::Right(body)),
        ..Query::new("INSERT INTO t FORMAT Native")
    };
    let write = async move {
        for _piece in 0..PIECES {
            let written = writer.write(|data| data.resize(PIECE_BYTES, 0)).await;
            if written.is_err() {
                return;
            }
        }
        let _unsent = writer.end().await;
    };
    let (answered, ()) = tokio::join!(http.ask(query), write);
    answered.expect_err("no success")
}

async fn seen(listener: &TcpListener) -> TcpStream {
    let (mut stream, _from) = listener.accept().await.expect("a connection");
    let mut seen = vec![0; 64 * 1024];
    stream.read_exact(&mut seen).await.expect("the beginning");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_says_that_reads_no_further_is_heard() {
    const ANSWER: &[u8] =
        b"HTTP/1.1 500 Internal Server Error\r\nX-ClickHouse-Exception-Code: 241\r\n\
        Content-Length: 0\r\nConnection: close\r\n\r\n";
    let (listener, http) = listen().await;
    let server = tokio::spawn(async move {
        for _round in 0..ROUNDS {
            let mut stream = seen(&listener).await;
            stream.write_all(ANSWER).await.expect("an answer");
            // With rows unread, so that the kernel refuses what still comes.
        }
    });
    for round in 0..ROUNDS {
        match insert(&http).await {
            Failure::Refused { code: 241, .. } => {}
            other => panic!("round {round}: {other:?}"),
        }
    }
    server.await.expect("no failure of the server");
}

#[tokio::test]
async fn a_server_that_goes_without_a_word_is_a_lost_connection() {
    let (listener, http) = listen().await;
    let server = tokio::spawn(async move { drop(seen(&listener).await) });
    match insert(&http).await {
        Failure::Unasked(error) => assert!(error.to_string().contains("was lost"), "{error}"),
        refused @ Failure::Refused { .. } => panic!("{refused:?}"),
    }
    server.await.expect("no failure of the server");
}
