//! A Kafka that says at times that it has no brokers, as a cluster does while its only one is fenced: a broker of its
//! own behind a proxy, which it advertises and which takes the brokers out of its answers to Metadata. Shapes: Kafka's
//! message definitions `MetadataRequest.json` and `MetadataResponse.json`, version 9 to 13. It can also be gone for a
//! while right behind an answer.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Kafka;

const METADATA: i16 = 3;
/// How long it is gone: longer than a client needs to find that out.
const GONE: Duration = Duration::from_secs(2);

/// What all connections share.
struct State {
    broker: String,
    forgets: AtomicBool,
    /// Answers without brokers so far.
    forgot: AtomicU32,
    leaving: Mutex<Leaving>,
}

/// Whether it is there.
#[derive(Default)]
enum Leaving {
    #[default]
    Stays,
    /// It leaves right behind the next answer of so many bytes or more.
    Behind(usize),
    /// It has left, and is back then.
    Until(Instant),
}

pub struct ForgetfulKafka {
    state: Arc<State>,
    port: u16,
    _kafka: Kafka,
}

impl ForgetfulKafka {
    /// Starts a broker and the proxy.
    pub fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let advertised = format!("advertised.listeners=PLAINTEXT://127.0.0.1:{port}");
        let kafka = Kafka::start_with(name, &[&advertised]);
        let state = Arc::new(State {
            broker: kafka.bootstrap.clone(),
            forgets: AtomicBool::new(false),
            forgot: AtomicU32::new(0),
            leaving: Mutex::default(),
        });
        let accepting = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&accepting);
                std::thread::spawn(move || state.relay(client));
            }
        });
        ForgetfulKafka {
            state,
            port,
            _kafka: kafka,
        }
    }

    /// Its address.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Whether its answers name no broker from now on.
    pub fn forgets(&self, forgets: bool) {
        self.state.forgets.store(forgets, Ordering::SeqCst);
    }

    /// It is gone for two seconds right behind its next answer of at least so many bytes.
    pub fn leaves_behind_answer_of(&self, bytes: usize) {
        *self.state.leaving.lock().unwrap() = Leaving::Behind(bytes);
    }

    /// Whether it has been gone.
    pub fn has_been_gone(&self) -> bool {
        matches!(*self.state.leaving.lock().unwrap(), Leaving::Until(_))
    }

    /// Answers without brokers so far.
    pub fn forgot(&self) -> u32 {
        self.state.forgot.load(Ordering::SeqCst)
    }
}

impl State {
    fn is_gone(&self) -> bool {
        matches!(*self.leaving.lock().unwrap(), Leaving::Until(back) if Instant::now() < back)
    }

    /// Leaves if this answer is the one to leave behind.
    fn leave(&self, answer: usize) {
        let mut leaving = self.leaving.lock().unwrap();
        if matches!(*leaving, Leaving::Behind(bytes) if answer >= bytes) {
            *leaving = Leaving::Until(Instant::now() + GONE);
        }
    }

    fn relay(&self, mut client: TcpStream) {
        if self.is_gone() {
            return;
        }
        let Ok(mut broker) = TcpStream::connect(&self.broker) else {
            return;
        };
        let copies = [client.try_clone(), broker.try_clone()].map(|copy| copy.expect("a handle"));
        let [mut to_client, mut from_broker] = copies;
        // Version of the Metadata requests that wait for an answer, by correlation id.
        let asked: Mutex<HashMap<[u8; 4], i16>> = Mutex::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while let Some(request) = frame(&mut client) {
                    let number = |at: usize| i16::from_be_bytes([request[at], request[at + 1]]);
                    if number(0) == METADATA {
                        let correlation = request[4..8].try_into().expect("four bytes");
                        asked.lock().unwrap().insert(correlation, number(2));
                    }
                    if send(&mut broker, &request).is_none() {
                        break;
                    }
                }
                let _ = broker.shutdown(Shutdown::Both);
            });
            while let Some(answer) = frame(&mut from_broker) {
                let answer = match asked.lock().unwrap().remove(&answer[..4]) {
                    Some(version) => self.metadata(version, answer),
                    None => answer,
                };
                self.leave(answer.len());
                if send(&mut to_client, &answer).is_none() || self.is_gone() {
                    break;
                }
            }
            let _ = to_client.shutdown(Shutdown::Both);
        });
    }

    /// The answer, without brokers and controller if they are forgotten.
    fn metadata(&self, version: i16, answer: Vec<u8>) -> Vec<u8> {
        if !self.forgets.load(Ordering::SeqCst) {
            return answer;
        }
        self.forgot.fetch_add(1, Ordering::SeqCst);
        assert!(
            (9..=13).contains(&version),
            "Metadata {version}: not one of the shapes known here"
        );
        // Lengths are one too high, and all are below 128: one byte.
        let length = |at: usize| usize::from(answer[at]).saturating_sub(1);
        // Behind correlation id, tags and throttle time: the brokers, each a number, host, port, rack and tags.
        let brokers = 4 + 1 + 4;
        assert_eq!(length(brokers), 1, "one broker");
        let host = brokers + 1 + 4;
        let rack = host + 1 + length(host) + 4;
        let cluster = rack + 1 + length(rack) + 1;
        let controller = cluster + 1 + length(cluster);
        let none = [1];
        let nobody = (-1_i32).to_be_bytes();
        [
            &answer[..brokers],
            &none,
            &answer[cluster..controller],
            &nobody,
            &answer[controller + 4..],
        ]
        .concat()
    }
}

fn frame(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut size = [0; 4];
    from.read_exact(&mut size).ok()?;
    let mut frame = vec![0; u32::from_be_bytes(size) as usize];
    from.read_exact(&mut frame).ok()?;
    Some(frame)
}

fn send(to: &mut TcpStream, frame: &[u8]) -> Option<()> {
    let size = u32::try_from(frame.len())
        .expect("below 4 GiB")
        .to_be_bytes();
    to.write_all(&size).and_then(|()| to.write_all(frame)).ok()
}
