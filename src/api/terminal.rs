//! `/ws/task/{task_id}/terminal` (contract 2.1): a peer and a shell, each as fast as the other. One
//! loop, one poll; neither side's slowness takes more memory than its bound.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::poll::PollFlags;

use crate::limits::{TERMINAL_INPUT_BYTES_MAX, TERMINAL_PIECE_BYTES};
use crate::model::ids::TaskId;
use crate::ops::terminal::{self, Terminal, WindowSize};
use crate::ops::{Node, OpError};
use crate::serve::session::{INTERNAL_ERROR, POLICY};
use crate::serve::{Answer, Call, Message, Reply, Session, Socket, Source, Turn};
use crate::wire::api::terminal::{FromClient, ToClient, whole_characters};

/// Opens a terminal in the task's container.
pub fn open(node: &Arc<Node>, call: Call) -> Answer {
    let Ok(id) = call.param("task_id").parse::<TaskId>() else {
        return Reply::detail(403, "the task id is no number").into();
    };
    let node = Arc::clone(node);
    Answer::Session(Session::new("term", move |socket| match terminal::open(&node, id) {
        Ok(terminal) => relay(socket, terminal),
        Err(fault) => refuse(socket, &fault),
    }))
}

fn refuse(socket: &mut Socket, fault: &OpError) {
    say(socket, ToClient::Error { data: &fault.to_string() });
    let code = match fault {
        OpError::NotKnown(_) | OpError::NotRunning(_) => POLICY,
        _ => INTERNAL_ERROR,
    };
    socket.close(code, "");
}

fn relay(socket: &mut Socket, mut terminal: Terminal) {
    // Clients throw the first message away (contract 2.1, step 5).
    say(socket, ToClient::Output { data: "" });
    let mut output = Output::default();
    let mut input = Vec::new();
    loop {
        while input.len() < TERMINAL_INPUT_BYTES_MAX
            && let Some(message) = socket.receive()
        {
            let Message::Text(text) = message else { continue };
            match FromClient::read(&text) {
                Some(FromClient::Input { data }) => input.extend_from_slice(data.as_bytes()),
                Some(FromClient::Resize { rows, cols }) => {
                    terminal.resize(WindowSize { rows, cols })
                }
                None => {}
            }
        }
        let flow =
            give(&mut terminal, &mut input).and_then(|()| output.pass(&mut terminal, socket));
        match flow {
            Ok(Flow::Open) => {}
            Ok(Flow::Ended) => return,
            Err(error) => {
                let text = format!("the Engine's connection to the terminal broke: {error}");
                say(socket, ToClient::Error { data: &text });
                return socket.close(INTERNAL_ERROR, "");
            }
        }
        let mut wanted = PollFlags::empty();
        if !socket.is_clogged() {
            wanted |= PollFlags::POLLIN;
        }
        if !input.is_empty() {
            wanted |= PollFlags::POLLOUT;
        }
        let mut sources = [Source::new(terminal.as_fd(), wanted)];
        if matches!(socket.wait(&mut sources, None), Turn::PeerLeft | Turn::Stopping) {
            return;
        }
    }
}

/// Gives the shell what it takes.
fn give(terminal: &mut Terminal, input: &mut Vec<u8>) -> io::Result<()> {
    let mut given = 0;
    while given < input.len() {
        match terminal.write(&input[given..]) {
            Ok(count) => given += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // Its last output is still to be read.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => given = input.len(),
            Err(error) => return Err(error),
        }
    }
    input.drain(..given);
    Ok(())
}

enum Flow {
    Open,
    Ended,
}

/// Output on its way to the peer, held back to whole characters.
struct Output {
    bytes: Vec<u8>,
    held: usize,
}

impl Default for Output {
    fn default() -> Output {
        Output { bytes: vec![0; TERMINAL_PIECE_BYTES], held: 0 }
    }
}

impl Output {
    /// Passes on what is there, as far as the peer takes it.
    fn pass(&mut self, terminal: &mut Terminal, socket: &mut Socket) -> io::Result<Flow> {
        while !socket.is_clogged() {
            match terminal.read(&mut self.bytes[self.held..]) {
                Ok(0) => {
                    self.say(self.held, socket);
                    return Ok(Flow::Ended);
                }
                Ok(count) => {
                    let end = self.held + count;
                    let whole = whole_characters(&self.bytes[..end]);
                    self.say(whole, socket);
                    self.bytes.copy_within(whole..end, 0);
                    self.held = end - whole;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Flow::Open)
    }

    fn say(&self, bytes: usize, socket: &mut Socket) {
        if bytes > 0 {
            let text = String::from_utf8_lossy(&self.bytes[..bytes]);
            say(socket, ToClient::Output { data: &text });
        }
    }
}

fn say(socket: &mut Socket, message: ToClient<'_>) {
    match serde_json::to_string(&message) {
        Ok(text) => socket.send_text(text),
        Err(error) => log::error!("terminal: {error}"),
    }
}
