//! The Engine's multiplexed output: an 8-byte head (stream, three zeros, big-endian length), then
//! that many bytes. Used for logs and for exec without a terminal. Pure; never holds a payload.

/// Which of a process's outputs the bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
    /// The Engine itself speaks, as in "error from daemon in stream".
    Engine,
}

/// The bytes are no frame head: the stream is not multiplexed, or was cut wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAFrame {
    pub head: [u8; HEAD_BYTES],
}

const HEAD_BYTES: usize = 8;

/// A decoder in the middle of a stream, fed with pieces cut anywhere.
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    payload_left_bytes: usize,
    output: Option<Output>,
}

impl Frames {
    /// A decoder that expects a frame's head.
    pub fn new() -> Frames {
        Frames::default()
    }

    /// Takes the next piece of the stream and hands on each run of payload in it. A frame that is
    /// cut by pieces arrives in as many runs.
    ///
    /// # Errors
    /// Where a head should be there is none. The stream is lost: no later byte can be placed.
    pub fn feed(
        &mut self,
        mut piece: &[u8],
        mut on: impl FnMut(Output, &[u8]),
    ) -> Result<(), NotAFrame> {
        while !piece.is_empty() {
            if let Some(output) = self.output.filter(|_| self.payload_left_bytes > 0) {
                let (run, rest) = piece.split_at(self.payload_left_bytes.min(piece.len()));
                self.payload_left_bytes -= run.len();
                on(output, run);
                piece = rest;
                continue;
            }
            let (part, rest) = piece.split_at((HEAD_BYTES - self.head_bytes).min(piece.len()));
            self.head[self.head_bytes..self.head_bytes + part.len()].copy_from_slice(part);
            self.head_bytes += part.len();
            piece = rest;
            if self.head_bytes == HEAD_BYTES {
                self.head_bytes = 0;
                self.begin_frame()?;
            }
        }
        Ok(())
    }

    /// Whether the stream may end here: between two frames.
    pub fn is_whole(&self) -> bool {
        self.head_bytes == 0 && self.payload_left_bytes == 0
    }

    fn begin_frame(&mut self) -> Result<(), NotAFrame> {
        let [stream, 0, 0, 0, length @ ..] = self.head else {
            return Err(NotAFrame { head: self.head });
        };
        self.output = Some(match stream {
            // 0 is "stdin", which the Engine writes as stdout.
            0 | 1 => Output::Stdout,
            2 => Output::Stderr,
            3 => Output::Engine,
            _ => return Err(NotAFrame { head: self.head }),
        });
        self.payload_left_bytes = u32::from_be_bytes(length) as usize;
        Ok(())
    }
}

impl std::fmt::Display for NotAFrame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no frame of the Engine begins with {:02x?}", self.head)
    }
}

impl std::error::Error for NotAFrame {}

#[cfg(test)]
mod test {
    use super::*;

    const OUT_THEN_ERR: &[u8] = b"\x01\0\0\0\0\0\0\x04out\n\x02\0\0\0\0\0\0\x04err\n";

    fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>), NotAFrame> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut frames = Frames::new();
        for piece in pieces {
            frames.feed(piece, |output, run| match output {
                Output::Stdout => out.extend_from_slice(run),
                Output::Stderr | Output::Engine => err.extend_from_slice(run),
            })?;
        }
        Ok((out, err))
    }

    #[test]
    fn two_frames_in_one_piece_reach_their_streams() {
        let (out, err) = decode(&[OUT_THEN_ERR]).unwrap();
        assert_eq!((out.as_slice(), err.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    }

    #[test]
    fn a_stream_cut_after_every_byte_decodes_the_same() {
        let bytes: Vec<&[u8]> = OUT_THEN_ERR.chunks(1).collect();
        assert_eq!(decode(&bytes), decode(&[OUT_THEN_ERR]));
    }

    #[test]
    fn an_empty_frame_is_passed_over() {
        let (out, err) = decode(&[b"\x01\0\0\0\0\0\0\0", OUT_THEN_ERR]).unwrap();
        assert_eq!((out.len(), err.len()), (4, 4));
    }

    #[test]
    fn plain_text_is_refused_with_its_first_bytes() {
        assert_eq!(decode(&[b"plain text"]), Err(NotAFrame { head: *b"plain te" }));
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_not_whole() {
        let mut frames = Frames::new();
        frames.feed(&OUT_THEN_ERR[..9], |_, _| {}).unwrap();
        assert!(!frames.is_whole());
        frames.feed(&OUT_THEN_ERR[9..], |_, _| {}).unwrap();
        assert!(frames.is_whole());
    }

    #[test]
    fn a_frame_said_to_be_four_gigabytes_takes_no_memory() {
        let mut frames = Frames::new();
        frames.feed(b"\x01\0\0\0\xff\xff\xff\xffx", |_, run| assert_eq!(run, b"x")).unwrap();
        assert_eq!(frames.payload_left_bytes, u32::MAX as usize - 1);
    }
}
