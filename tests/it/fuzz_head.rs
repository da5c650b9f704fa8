//! The fuzz target of the head parser as a loop with fixed seeds: good heads, broken in random ways.

#[path = "../fuzz/head_property.rs"]
mod head_property;

use head_property::head_holds;

const ROUNDS: usize = 100_000;

static SEEDS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://b:1/x?y=%20 HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\nGET",
    "POST /api/execute HTTP/1.1\r\nHost: a:8001\r\nContent-Length: 12\r\n\r\n{\"task_id\":1}",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n0",
];

/// What a break puts in: the bytes that framing turns on.
static PIECES: &[&[u8]] = &[
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b"/",
    b"?",
    b"#",
    b"%",
    b"0",
    b"9",
    b"\xff",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"Host: b\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: x\r\n",
    b"Connection: close\r\n",
    b"\r\n x",
];

#[test]
fn heads_broken_at_random_keep_the_parser_s_promises() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..ROUNDS {
        let mut bytes = SEEDS[random.below(SEEDS.len())].as_bytes().to_vec();
        for _ in 0..=random.below(4) {
            break_once(&mut bytes, &mut random);
        }
        head_holds(&bytes);
    }
}

fn break_once(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let piece = PIECES[random.below(PIECES.len())];
    let gone = random.below(3).min(bytes.len() - at);
    match random.below(3) {
        0 => bytes.truncate(at),
        1 => drop(bytes.splice(at..at, piece.iter().copied())),
        _ => drop(bytes.splice(at..at + gone, piece.iter().copied())),
    }
}

/// xorshift64: the same sequence everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}
