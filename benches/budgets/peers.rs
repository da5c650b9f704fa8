//! The servers that the runner's is held against, each in a process of its own, as the runner is:
//! this program again, called with [`PEER`]. They do for a request what no server can do without, and
//! answer as the runner answers this one.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Pid;
use serde_json::json;

use crate::runner;

/// The first argument of a program that is to be a peer; its kind follows.
pub const PEER: &str = "serve-as-peer";

/// As many as tiny_http needs to serve 64 connections at all.
const TINY_HTTP_WORKERS: usize = 16;

/// What the answer says it is.
const KIND: &str = "application/x-ndjson";

/// A peer at work, until it is dropped.
pub struct Peer {
    pub address: SocketAddr,
    child: Child,
}

impl Peer {
    pub fn start(kind: &str) -> Peer {
        let program = std::env::current_exe().expect("our own name");
        let mut child = Command::new(program)
            .args([PEER, kind])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ourselves");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a peer says where it listens");
        Peer { address: line.trim().parse().expect("an address"), child }
    }

    pub fn cpu(&self) -> Duration {
        runner::cpu(Pid::from_raw(self.child.id().cast_signed()))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until stdin ends: a peer does not outlive whoever started it.
pub fn serve(kind: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("{}", listener.local_addr().expect("bound"));
    match kind {
        "threads" => serve_by_threads(listener),
        "tiny_http" => serve_by_tiny_http(listener),
        other => panic!("no such peer: {other}"),
    }
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}

/// The answer's body, made anew for each, as the runner's is.
fn body() -> String {
    format!("{}\n", json!({ "cursor": 0 }))
}

fn serve_by_threads(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve_one(stream));
        }
    });
}

/// Head after head. A body's length is looked for and none is expected.
fn serve_one(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 16 * 1024];
    let mut have = 0;
    loop {
        let read = stream.read(&mut buffer[have..])?;
        if read == 0 {
            return Ok(());
        }
        have += read;
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        if request.parse(&buffer[..have]).map_err(io::Error::other)?.is_partial() {
            continue;
        }
        let framed = |header: &httparse::Header| {
            (header.name.eq_ignore_ascii_case("content-length") && header.value != b"0")
                || header.name.eq_ignore_ascii_case("transfer-encoding")
        };
        let (status, body) = match (request.method, request.path) {
            _ if request.headers.iter().any(framed) => ("411 Length Required", String::new()),
            (Some("GET"), Some("/api/events")) => ("200 OK", body()),
            _ => ("404 Not Found", String::new()),
        };
        have = 0;
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {KIND}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(answer.as_bytes())?;
    }
}

fn serve_by_tiny_http(listener: TcpListener) {
    let server = tiny_http::Server::from_listener(listener, None).expect("tiny_http");
    let server = Arc::new(server);
    for _ in 0..TINY_HTTP_WORKERS {
        let server = Arc::clone(&server);
        std::thread::spawn(move || {
            let kind: tiny_http::Header =
                format!("Content-Type: {KIND}").parse().expect("a header");
            while let Ok(request) = server.recv() {
                let response = tiny_http::Response::from_string(body()).with_header(kind.clone());
                let _ = request.respond(response);
            }
        });
    }
}
