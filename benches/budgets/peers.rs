//! The servers that the runner's is held against, each in a process of its own, as the runner is:
//! this program again, called with [`PEER`]. They answer every request with 404 and the same body.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// The first argument of a program that is to be a peer; its kind and its answer follow.
pub const PEER: &str = "serve-as-peer";

/// As many as tiny_http needs to serve 64 connections at all.
const TINY_HTTP_WORKERS: usize = 16;

/// A peer at work, until it is dropped.
pub struct Peer {
    pub address: SocketAddr,
    child: Child,
}

impl Peer {
    pub fn start(kind: &str, answer: &str) -> Peer {
        let program = std::env::current_exe().expect("our own name");
        let mut child = Command::new(program)
            .args([PEER, kind, answer])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ourselves");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a peer says where it listens");
        Peer { address: line.trim().parse().expect("an address"), child }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until stdin ends: a peer does not outlive whoever started it.
pub fn serve(kind: &str, answer: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("{}", listener.local_addr().expect("bound"));
    match kind {
        "threads" => serve_by_threads(listener, answer),
        "tiny_http" => serve_by_tiny_http(listener, answer),
        other => panic!("no such peer: {other}"),
    }
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}

fn serve_by_threads(listener: TcpListener, answer: &str) {
    let answer: Arc<[u8]> = format!(
        "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
        answer.len()
    )
    .into_bytes()
    .into();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || serve_one(stream, &answer));
        }
    });
}

/// Head after head; none of them has a body.
fn serve_one(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
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
        let parsed = httparse::Request::new(&mut headers).parse(&buffer[..have]);
        if parsed.map_err(io::Error::other)?.is_complete() {
            have = 0;
            stream.write_all(answer)?;
        }
    }
}

fn serve_by_tiny_http(listener: TcpListener, answer: &str) {
    let server = tiny_http::Server::from_listener(listener, None).expect("tiny_http");
    let server = Arc::new(server);
    let answer: Arc<str> = answer.into();
    for _ in 0..TINY_HTTP_WORKERS {
        let (server, answer) = (Arc::clone(&server), Arc::clone(&answer));
        std::thread::spawn(move || {
            let kind = "Content-Type: application/json".parse::<tiny_http::Header>();
            let kind = kind.expect("a header");
            while let Ok(request) = server.recv() {
                let response = tiny_http::Response::from_string(&*answer).with_status_code(404);
                let _ = request.respond(response.with_header(kind.clone()));
            }
        });
    }
}
