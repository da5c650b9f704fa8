//! `~.` at the start of a line: the way out when nothing else gets through. As with `ssh`.

/// Reads along what is typed.
#[derive(Debug)]
pub struct Escape {
    last: Last,
}

/// What was typed last, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    LineStart,
    /// A tilde at the start of a line; it has not been passed on.
    Tilde,
    Other,
}

/// What becomes of typed bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    PassOn(Vec<u8>),
    Leave,
}

impl Escape {
    pub fn new() -> Escape {
        Escape { last: Last::LineStart }
    }

    pub fn typed(&mut self, bytes: &[u8]) -> Typed {
        let mut passed = Vec::with_capacity(bytes.len() + 1);
        for &byte in bytes {
            match (self.last, byte) {
                (Last::Tilde, b'.') => return Typed::Leave,
                (Last::LineStart, b'~') => {
                    self.last = Last::Tilde;
                    continue;
                }
                // The second tilde stands for the first.
                (Last::Tilde, b'~') | (Last::LineStart | Last::Other, _) => (),
                (Last::Tilde, _) => passed.push(b'~'),
            }
            passed.push(byte);
            self.last = if matches!(byte, b'\r' | b'\n') { Last::LineStart } else { Last::Other };
        }
        Typed::PassOn(passed)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn passed(typed: &[u8]) -> Vec<u8> {
        let mut escape = Escape::new();
        let whole = escape.typed(typed);
        let mut one_by_one = Vec::new();
        let mut escape = Escape::new();
        for byte in typed {
            if let Typed::PassOn(bytes) = escape.typed(&[*byte]) {
                one_by_one.extend(bytes);
            }
        }
        assert_eq!(whole, Typed::PassOn(one_by_one.clone()), "pieces make a difference");
        one_by_one
    }

    #[test]
    fn tilde_and_dot_at_the_start_of_a_line_leave() {
        assert_eq!(Escape::new().typed(b"~."), Typed::Leave);
        assert_eq!(Escape::new().typed(b"ls\r~."), Typed::Leave);
        let mut escape = Escape::new();
        assert_eq!(escape.typed(b"ls\r~"), Typed::PassOn(b"ls\r".to_vec()));
        assert_eq!(escape.typed(b"."), Typed::Leave);
    }

    #[test]
    fn tildes_elsewhere_are_the_shells() {
        assert_eq!(passed(b"cd ~.\r"), b"cd ~.\r");
        assert_eq!(passed(b" ~."), b" ~.");
    }

    #[test]
    fn tilde_that_no_dot_follows_is_passed_on_with_what_follows() {
        assert_eq!(passed(b"~/bin/x\r~root\r"), b"~/bin/x\r~root\r");
        assert_eq!(passed(b"~\r~\r"), b"~\r~\r");
    }

    #[test]
    fn two_tildes_are_one() {
        assert_eq!(passed(b"~~.\r"), b"~.\r");
    }
}
