//! `/ws/task/{task_id}/terminal` (contract 2.1): a peer and a shell, each as fast as the other. One
//! loop, one poll; neither side's slowness takes more memory than its bound. With `?session=` the
//! shell waits for its peer to come back (contrib/design/0009).

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::poll::PollFlags;

use crate::limits::{TERMINAL_INPUT_BYTES_MAX, TERMINAL_PIECE_BYTES};
use crate::model::ids::TaskId;
use crate::ops::terminal::{self, Name, Named, Said, Seat, Terminal, WindowSize};
use crate::ops::{Node, OpError};
use crate::serve::session::{INTERNAL_ERROR, NORMAL, POLICY};
use crate::serve::{Answer, Call, Message, Reply, Session, Socket, Source, Turn};
use crate::wire::api::terminal::{FromClient, ToClient, whole_characters};

/// Opens a terminal in the task's container, or comes back to one.
pub fn open(node: &Arc<Node>, call: Call) -> Answer {
    let Ok(id) = call.param("task_id").parse::<TaskId>() else {
        return Reply::detail(403, "the task id is no number").into();
    };
    let node = Arc::clone(node);
    let Some(session) = call.query("session") else {
        return Answer::Session(Session::new("term", move |socket| serve(socket, &node, id)));
    };
    let Ok(name) = session.parse::<Name>() else {
        return Reply::detail(400, "session is no name: 1 to 64 of A-Z, a-z, 0-9, _ and -").into();
    };
    let Ok(offset) = call.query("offset").unwrap_or("0").parse::<u64>() else {
        return Reply::detail(400, "offset is no number").into();
    };
    Answer::Session(Session::new("term", move |socket| {
        serve_named(socket, &node, id, &name, offset);
    }))
}

fn serve(socket: &mut Socket, node: &Arc<Node>, id: TaskId) {
    let mut terminal = match terminal::open(node, id) {
        Ok(terminal) => terminal,
        Err(fault) => return refuse(socket, &fault),
    };
    // Clients throw the first message away (contract 2.1, step 5).
    say(socket, ToClient::Output { data: "" });
    let ending = relay(socket, &mut terminal, &mut Vec::new(), None);
    finish(socket, &mut terminal, &ending);
}

/// The first message is what this peer has asked for by giving a name; it expects no other.
fn serve_named(socket: &mut Socket, node: &Arc<Node>, id: TaskId, name: &Name, offset: u64) {
    let mut named = match Named::attach(node, id, name) {
        Ok(named) => named,
        Err(fault) => return refuse(socket, &fault),
    };
    let replay = named.replay(offset);
    let (session, lost) = (&name.to_string(), replay.offset.saturating_sub(offset));
    say(socket, ToClient::Attached { session, offset: replay.offset, lost });
    say_all(socket, &replay.text);
    let mut input = Vec::new();
    loop {
        let ending = relay(socket, &mut named.terminal, &mut input, Some(&named.seat));
        match ending {
            Ending::Peer if !socket.has_taken_leave() => return named.keep(),
            Ending::Wanted => match named.give_on() {
                Some(back) => named = back,
                None => return socket.close(NORMAL, "taken over"),
            },
            Ending::Peer | Ending::Shell | Ending::Lost(_) | Ending::Stop => {
                return finish(socket, &mut named.terminal, &ending);
            }
        }
    }
}

fn refuse(socket: &mut Socket, fault: &OpError) {
    say(socket, ToClient::Error { data: &fault.to_string() });
    let code = match fault {
        OpError::NotKnown(_) | OpError::NotRunning(_) => POLICY,
        _ => INTERNAL_ERROR,
    };
    socket.close(code, "");
}

/// Why a relay is over.
enum Ending {
    /// The shell has ended.
    Shell,
    /// The shell's connection has, and the shell has not.
    Lost(Option<io::Error>),
    Peer,
    Stop,
    /// Somebody else wants the terminal.
    Wanted,
}

/// Says goodbye, before the shell's jobs are waited for.
fn finish(socket: &mut Socket, terminal: &mut Terminal, ending: &Ending) {
    if matches!(ending, Ending::Shell) && terminal.has_lost_its_container() {
        say(socket, ToClient::Error { data: "the container has ended" });
    }
    if let Ending::Lost(error) = ending {
        let why = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let text = format!("the Engine's connection to the terminal broke{why}");
        say(socket, ToClient::Error { data: &text });
        socket.close(INTERNAL_ERROR, "the Engine's connection to the terminal broke");
    }
    terminal.hang_up();
    socket.say_goodbye();
}

/// `input` is what the shell has not taken yet; whoever has a `seat` may be asked to give it on.
fn relay(
    socket: &mut Socket,
    terminal: &mut Terminal,
    input: &mut Vec<u8>,
    seat: Option<&Seat>,
) -> Ending {
    loop {
        receive(socket, terminal, input);
        let flow = terminal.give(input).and_then(|()| pass(terminal, socket));
        match flow {
            Ok(Flow::Open) => {}
            Ok(Flow::Ended) if terminal.has_ended() => return Ending::Shell,
            Ok(Flow::Ended) => return Ending::Lost(None),
            Err(error) => return Ending::Lost(Some(error)),
        }
        // No wait tells again of messages that were left for want of room.
        if socket.has_message() && input.len() < TERMINAL_INPUT_BYTES_MAX {
            continue;
        }
        let mut wanted = PollFlags::empty();
        if !socket.is_clogged() {
            wanted |= PollFlags::POLLIN;
        }
        if !input.is_empty() {
            wanted |= PollFlags::POLLOUT;
        }
        let output = Source::new(terminal.as_fd(), wanted);
        let turn = match seat {
            None => socket.wait(&mut [output], None),
            Some(seat) => {
                let asked = Source::new(seat.as_fd(), PollFlags::POLLIN);
                socket.wait(&mut [output, asked], None)
            }
        };
        match turn {
            Turn::PeerLeft => return Ending::Peer,
            Turn::Stopping => return Ending::Stop,
            Turn::Ready | Turn::Elapsed => {}
        }
        if seat.is_some_and(Seat::is_wanted) {
            return Ending::Wanted;
        }
    }
}

/// Takes what the peer has said, as far as there is room for it.
fn receive(socket: &mut Socket, terminal: &mut Terminal, input: &mut Vec<u8>) {
    let mut size = None;
    while input.len() < TERMINAL_INPUT_BYTES_MAX
        && let Some(message) = socket.receive()
    {
        let Message::Text(text) = message else { continue };
        match FromClient::read(&text) {
            Some(FromClient::Input { data }) => input.extend_from_slice(data.as_bytes()),
            Some(FromClient::Resize { rows, cols }) => size = Some(WindowSize { rows, cols }),
            None => {}
        }
    }
    // Of several only the last is of interest.
    if let Some(size) = size {
        terminal.resize(size);
    }
}

enum Flow {
    Open,
    Ended,
}

/// Passes on the output that is here, as far as the peer takes it.
fn pass(terminal: &mut Terminal, socket: &mut Socket) -> io::Result<Flow> {
    while !socket.is_clogged() {
        match terminal.read()? {
            Said::Text(data) => say(socket, ToClient::Output { data: &data }),
            Said::Nothing => break,
            Said::End => return Ok(Flow::Ended),
        }
    }
    Ok(Flow::Open)
}

/// A text that is longer than a message may be.
fn say_all(socket: &mut Socket, text: &str) {
    let mut rest = text;
    while !rest.is_empty() {
        let piece = whole_characters(&rest.as_bytes()[..rest.len().min(TERMINAL_PIECE_BYTES)]);
        let (data, after) = rest.split_at(piece);
        say(socket, ToClient::Output { data });
        rest = after;
    }
}

fn say(socket: &mut Socket, message: ToClient<'_>) {
    match serde_json::to_string(&message) {
        Ok(text) => socket.send_text(text),
        Err(error) => log::error!("terminal: {error}"),
    }
}
