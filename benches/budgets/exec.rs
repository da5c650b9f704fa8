//! What `docker exec` and `docker cp` do, over the Engine's socket and nothing else: the floor under
//! files and terminals, and the way in which the Python runner does both.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::engine::{self, Engine};
use crate::http;

/// Longer than any program of ours runs on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Heads of the Engine are below a tenth of this.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Runs a program in the container and gives all it wrote, frame heads and all.
pub fn output(container: &str, command: &[&str]) -> Vec<u8> {
    let exec = create(container, &json!({ "AttachStdout": true, "Cmd": command }));
    let mut stream = start(&exec, false);
    let mut output = Vec::new();
    stream.read_to_end(&mut output).expect("the Engine ends the stream");
    output
}

/// What was written to stdout, of a program's `output`: without the heads, of 8 bytes each.
pub fn stdout(output: &[u8]) -> Vec<u8> {
    let (mut stdout, mut rest) = (Vec::with_capacity(output.len()), output);
    while let Some((head, behind)) = rest.split_first_chunk::<8>() {
        let [stream, _, _, _, length @ ..] = *head;
        let (frame, next) = behind.split_at(u32::from_be_bytes(length) as usize);
        if stream == 1 {
            stdout.extend_from_slice(frame);
        }
        rest = next;
    }
    stdout
}

/// Runs a program that reads `input` to its end.
pub fn feed(container: &str, command: &[&str], input: &[u8]) {
    let attached = json!({ "AttachStdin": true, "AttachStdout": true, "Cmd": command });
    let mut stream = start(&create(container, &attached), false);
    stream.write_all(input).expect("the program reads");
    stream.shutdown(Shutdown::Write).expect("a socket");
    io::copy(&mut stream, &mut io::sink()).expect("the Engine ends the stream");
}

/// A shell on a terminal of its own.
pub fn shell(container: &str) -> UnixStream {
    let attached = json!({
        "AttachStdin": true,
        "AttachStdout": true,
        "AttachStderr": true,
        "Tty": true,
        "Cmd": ["/bin/sh"],
    });
    start(&create(container, &attached), true)
}

/// The directory or file as the Engine packs it.
pub fn fetch(container: &str, path: &str) -> Vec<u8> {
    let target = format!("/containers/{container}/archive?path={path}");
    let answer = Engine::connect().call("GET", &target, None);
    assert_eq!(answer.status, 200);
    answer.body
}

/// Puts a file into the container's root, as the Engine unpacks it.
pub fn put(container: &str, name: &str, content: &[u8]) {
    let mut request = format!(
        "PUT /containers/{container}/archive?path=/ HTTP/1.1\r\nHost: docker\r\n\
         Content-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        packed_bytes(content.len())
    )
    .into_bytes();
    pack(&mut request, name, content);
    assert_eq!(Engine::connect().exchange(&request).status, 200);
}

fn create(container: &str, body: &Value) -> String {
    let target = format!("/containers/{container}/exec");
    let created = Engine::connect().call("POST", &target, Some(body)).expect(201);
    created["Id"].as_str().expect("an id").to_owned()
}

/// The stream of a started exec, behind its head. It is read byte by byte: what follows is not ours.
fn start(exec: &str, tty: bool) -> UnixStream {
    let mut stream = UnixStream::connect(engine::socket()).expect("the Engine's socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let body = json!({ "Detach": false, "Tty": tty });
    let request = http::request("POST", &format!("/exec/{exec}/start"), Some(&body));
    let upgrade = b"Connection: Upgrade\r\nUpgrade: tcp\r\n";
    let line = request.windows(2).position(|pair| pair == b"\r\n").expect("a request line") + 2;
    let request = [&request[..line], &upgrade[..], &request[line..]].concat();
    stream.write_all(&request).expect("the Engine listens");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(head.len() < HEAD_BYTES_MAX, "a head without an end");
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the Engine answers");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream
}

const BLOCK: usize = 512;

fn packed_bytes(content: usize) -> usize {
    BLOCK + content.div_ceil(BLOCK) * BLOCK + 2 * BLOCK
}

/// One file as a tar archive (POSIX ustar).
fn pack(archive: &mut Vec<u8>, name: &str, content: &[u8]) {
    let mut head = [0_u8; BLOCK];
    let mut put =
        |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = head.iter().map(|&byte| u32::from(byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let from = archive.len();
    archive.extend_from_slice(&head);
    archive.extend_from_slice(content);
    archive.resize(from + packed_bytes(content.len()), 0);
}
