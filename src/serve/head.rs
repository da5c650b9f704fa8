//! Request heads: where one ends, and what it says. Pure functions over bytes, called by the desk
//! and by the fuzzer. Strict where leniency would let two readers disagree: anything that could
//! be framed in two ways is an error, never a guess.

use std::fmt;
use std::mem::MaybeUninit;

use super::route::Method;
use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};

/// Whether a head is all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// More bytes are needed.
    Partial,
    /// The head with its blank line is this long.
    Whole { bytes: usize },
}

/// Looks for the end of the head that `bytes` starts with. The first `seen` bytes have been looked
/// at by an earlier call.
///
/// # Errors
/// The head is too long already, or holds bytes that no head may hold.
pub fn scan(bytes: &[u8], seen: usize) -> Result<Scan, HeadError> {
    for (at, &byte) in bytes.iter().enumerate().skip(seen) {
        if at >= HTTP_HEAD_BYTES_MAX {
            return Err(HeadError::TooLarge);
        }
        let after_return = at > 0 && bytes[at - 1] == b'\r';
        match byte {
            b'\n' if !after_return => return Err(HeadError::BareLineEnd),
            b'\n' if bytes[..=at].ends_with(b"\r\n\r\n") => {
                return Ok(Scan::Whole { bytes: at + 1 });
            }
            b'\n' => {}
            _ if after_return => return Err(HeadError::BareLineEnd),
            b'\r' | b'\t' => {}
            0..32 | 127 => return Err(HeadError::ControlByte),
            _ => {}
        }
    }
    Ok(Scan::Partial)
}

/// How long the body is, and how that is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
}

/// A part of the head's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u16,
    end: u16,
}

impl Span {
    /// Where `part`, a slice of `whole`, lies in it. Heads are shorter than 64 KiB.
    fn of(part: &[u8], whole: &[u8]) -> Span {
        let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
        let place = |at: usize| u16::try_from(at).unwrap_or(u16::MAX);
        Span { start: place(start), end: place(start + part.len()) }
    }

    /// The text in the buffer that the head was parsed from.
    pub fn text(self, bytes: &[u8]) -> &str {
        let part = bytes.get(self.start.into()..self.end.into()).unwrap_or_default();
        std::str::from_utf8(part).unwrap_or_default()
    }
}

/// A head that was understood. It keeps places, not texts: the bytes stay where they were read.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// Length of the head, blank line included.
    pub bytes: usize,
    /// `None` for a method that no row can have.
    pub method: Option<Method>,
    /// HEAD: the row of GET runs, its body is not sent.
    pub bodiless: bool,
    /// HTTP/1.0: no 100-continue, and the connection closes unless asked otherwise.
    pub old_version: bool,
    pub path: Span,
    pub query: Option<Span>,
    /// From the target if that is absolute, else from the `Host` line.
    pub host: Option<Span>,
    pub framing: Framing,
    pub keep_alive: bool,
    pub expects_continue: bool,
    fields: Vec<(Span, Span)>,
}

impl Head {
    /// Value of the first header line called `name`, in any case.
    pub fn field<'a>(&self, bytes: &'a [u8], name: &str) -> Option<&'a str> {
        self.fields(bytes, name).next()
    }

    /// Values of all header lines called `name`, in any case.
    pub fn fields<'a>(&self, bytes: &'a [u8], name: &str) -> impl Iterator<Item = &'a str> {
        let named = move |field: &&(Span, Span)| field.0.text(bytes).eq_ignore_ascii_case(name);
        self.fields.iter().filter(named).map(|field| field.1.text(bytes))
    }
}

/// Parses `bytes`, which is one head that [`scan`] found whole.
///
/// # Errors
/// The head is not HTTP/1.0 or 1.1, or leaves two ways to read it.
pub fn parse(bytes: &[u8]) -> Result<Head, HeadError> {
    std::str::from_utf8(bytes).map_err(|_| HeadError::NotText)?;
    let mut lines = [const { MaybeUninit::uninit() }; HTTP_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, &mut lines);
    let status = parsed.map_err(|error| match error {
        httparse::Error::Version => HeadError::Version,
        httparse::Error::TooManyHeaders => HeadError::TooManyHeaders,
        _ => HeadError::Syntax,
    })?;
    if status != httparse::Status::Complete(bytes.len()) {
        return Err(HeadError::Syntax);
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(HeadError::Syntax);
    };

    let said = Said::of(request.headers)?;
    let old_version = minor == 0;
    let target = Target::of(target)?;
    let host = match (target.authority, said.host) {
        (_, None) if !old_version => return Err(HeadError::HostMissing),
        (Some(authority), _) => Some(authority.as_bytes()),
        (None, host) => host,
    };
    let framing = match (said.length, said.chunked) {
        (Some(_), true) => return Err(HeadError::LengthAndChunked),
        (None, true) if old_version => return Err(HeadError::TransferEncoding),
        (None, true) => Framing::Chunked,
        (length, false) => Framing::Length(length.unwrap_or(0)),
    };
    Ok(Head {
        bytes: bytes.len(),
        method: Method::from_text(method),
        bodiless: method == "HEAD",
        old_version,
        path: Span::of(target.path.as_bytes(), bytes),
        query: target.query.map(|query| Span::of(query.as_bytes(), bytes)),
        host: host.map(|host| Span::of(host, bytes)),
        framing,
        keep_alive: !said.close && (!old_version || said.keep_alive),
        expects_continue: said.expects_continue && !old_version,
        fields: request
            .headers
            .iter()
            .map(|line| (Span::of(line.name.as_bytes(), bytes), Span::of(line.value, bytes)))
            .collect(),
    })
}

/// What the header lines say that decides about the connection.
#[derive(Default)]
struct Said<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
}

impl<'a> Said<'a> {
    fn of(lines: &[httparse::Header<'a>]) -> Result<Said<'a>, HeadError> {
        let mut said = Said::default();
        for line in lines {
            let is = |name: &str| line.name.eq_ignore_ascii_case(name);
            if is("host") {
                if said.host.replace(line.value).is_some() {
                    return Err(HeadError::HostTwice);
                }
            } else if is("content-length") {
                if said.length.replace(length(line.value)?).is_some() {
                    return Err(HeadError::LengthTwice);
                }
            } else if is("transfer-encoding") {
                if said.chunked || !line.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::TransferEncoding);
                }
                said.chunked = true;
            } else if is("connection") {
                for word in line.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    said.close |= word.eq_ignore_ascii_case(b"close");
                    said.keep_alive |= word.eq_ignore_ascii_case(b"keep-alive");
                }
            } else if is("expect") {
                if !line.value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(HeadError::Expectation);
                }
                said.expects_continue = true;
            }
        }
        Ok(said)
    }
}

/// Digits only. A number beyond 64 bits is still a length: one that no row takes.
fn length(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(HeadError::LengthInvalid);
    }
    let digit = |sum: u64, byte: &u8| sum.saturating_mul(10).saturating_add((byte - b'0').into());
    Ok(value.iter().fold(0, digit))
}

struct Target<'a> {
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// `/path?query`, or the same behind `http://authority` as a proxy's client writes it.
    fn of(target: &'a str) -> Result<Target<'a>, HeadError> {
        if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(HeadError::Target);
        }
        let (authority, local) = match target.strip_prefix("http://") {
            Some(rest) => {
                let slash = rest.find('/').ok_or(HeadError::Target)?;
                (Some(&rest[..slash]), &rest[slash..])
            }
            None => (None, target),
        };
        if !local.starts_with('/') {
            return Err(HeadError::Target);
        }
        let (path, query) = match local.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (local, None),
        };
        Ok(Target { authority, path, query })
    }
}

/// Why a head is refused. The connection closes after each of them: where the next request would
/// begin is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    TooLarge,
    TooManyHeaders,
    BareLineEnd,
    ControlByte,
    NotText,
    Syntax,
    Version,
    Target,
    HostMissing,
    HostTwice,
    LengthInvalid,
    LengthTwice,
    LengthAndChunked,
    TransferEncoding,
    Expectation,
}

impl HeadError {
    /// The status that says it.
    pub fn status(self) -> u16 {
        match self {
            HeadError::TooLarge | HeadError::TooManyHeaders => 431,
            HeadError::Expectation => 417,
            HeadError::BareLineEnd
            | HeadError::ControlByte
            | HeadError::NotText
            | HeadError::Syntax
            | HeadError::Version
            | HeadError::Target
            | HeadError::HostMissing
            | HeadError::HostTwice
            | HeadError::LengthInvalid
            | HeadError::LengthTwice
            | HeadError::LengthAndChunked
            | HeadError::TransferEncoding => 400,
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeadError::TooLarge => "request head too large",
            HeadError::TooManyHeaders => "too many header lines",
            HeadError::BareLineEnd => "a line of the head does not end with CR LF",
            HeadError::ControlByte => "control character in the head",
            HeadError::NotText => "the head is not UTF-8",
            HeadError::Syntax => "malformed request",
            HeadError::Version => "only HTTP/1.0 and HTTP/1.1 are spoken here",
            HeadError::Target => "malformed request target",
            HeadError::HostMissing => "no Host header",
            HeadError::HostTwice => "more than one Host header",
            HeadError::LengthInvalid => "Content-Length is not a number",
            HeadError::LengthTwice => "more than one Content-Length",
            HeadError::LengthAndChunked => "both Content-Length and Transfer-Encoding",
            HeadError::TransferEncoding => "Transfer-Encoding other than chunked",
            HeadError::Expectation => "unknown expectation",
        })
    }
}

impl std::error::Error for HeadError {}

#[cfg(test)]
mod test {
    use super::*;

    fn read(text: &str) -> Result<Head, HeadError> {
        match scan(text.as_bytes(), 0)? {
            Scan::Whole { bytes } => parse(&text.as_bytes()[..bytes]),
            Scan::Partial => panic!("no end in {text:?}"),
        }
    }

    #[test]
    fn head_in_two_parts_ends_where_the_whole_one_does() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next";
        assert_eq!(scan(&text[..26], 0), Ok(Scan::Partial));
        assert_eq!(scan(text, 26), Ok(Scan::Whole { bytes: 27 }));
    }

    #[test]
    fn head_at_the_limit_passes_and_one_byte_more_does_not() {
        let fill = |total: usize| {
            let frame = "GET / HTTP/1.1\r\nHost: a\r\nx: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "a".repeat(total - frame))
        };
        assert!(read(&fill(HTTP_HEAD_BYTES_MAX)).is_ok());
        assert_eq!(read(&fill(HTTP_HEAD_BYTES_MAX + 1)), Err(HeadError::TooLarge));
    }

    #[test]
    fn line_ends_other_than_cr_lf_are_refused() {
        assert_eq!(read("GET / HTTP/1.1\nHost: a\n\n"), Err(HeadError::BareLineEnd));
        assert_eq!(read("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n"), Err(HeadError::BareLineEnd));
    }

    #[test]
    fn fields_are_found_in_any_case_and_trimmed() {
        let text = "GET /a?b=c HTTP/1.1\r\nHOST: a:1\r\nX-One:  1 \r\n\r\n";
        let head = read(text).unwrap();
        assert_eq!(head.field(text.as_bytes(), "x-oNE"), Some("1"));
        assert_eq!(head.path.text(text.as_bytes()), "/a");
        assert_eq!(head.query.unwrap().text(text.as_bytes()), "b=c");
        assert_eq!(head.host.unwrap().text(text.as_bytes()), "a:1");
    }

    #[test]
    fn absolute_target_gives_the_host_and_the_path() {
        let text = "GET http://b:2/x HTTP/1.1\r\nHost: a\r\n\r\n";
        let head = read(text).unwrap();
        assert_eq!(head.host.unwrap().text(text.as_bytes()), "b:2");
        assert_eq!(head.path.text(text.as_bytes()), "/x");
    }

    #[test]
    fn connection_lives_by_version_and_word() {
        let alive = |version: &str, line: &str| {
            read(&format!("GET / HTTP/{version}\r\nHost: a\r\n{line}\r\n")).unwrap().keep_alive
        };
        assert!(alive("1.1", ""));
        assert!(!alive("1.1", "Connection: x, Close\r\n"));
        assert!(!alive("1.0", ""));
        assert!(alive("1.0", "Connection: Keep-Alive\r\n"));
    }

    #[test]
    fn length_is_one_run_of_digits() {
        let framing = |lines: &str| {
            read(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).map(|head| head.framing)
        };
        assert_eq!(framing(""), Ok(Framing::Length(0)));
        assert_eq!(framing("Content-Length: 007\r\n"), Ok(Framing::Length(7)));
        assert_eq!(
            framing("Content-Length: 99999999999999999999999\r\n"),
            Ok(Framing::Length(u64::MAX))
        );
        assert_eq!(framing("Content-Length: +7\r\n"), Err(HeadError::LengthInvalid));
        assert_eq!(framing("Content-Length: 7, 7\r\n"), Err(HeadError::LengthInvalid));
        assert_eq!(framing("Content-Length:\r\n"), Err(HeadError::LengthInvalid));
        assert_eq!(
            framing("Content-Length: 7\r\nContent-Length: 7\r\n"),
            Err(HeadError::LengthTwice)
        );
    }

    #[test]
    fn chunked_stands_alone() {
        let framing = |version: &str, lines: &str| {
            read(&format!("POST / HTTP/{version}\r\nHost: a\r\n{lines}\r\n"))
                .map(|head| head.framing)
        };
        let chunked = "Transfer-Encoding: Chunked\r\n";
        assert_eq!(framing("1.1", chunked), Ok(Framing::Chunked));
        assert_eq!(framing("1.0", chunked), Err(HeadError::TransferEncoding));
        assert_eq!(
            framing("1.1", &format!("{chunked}Content-Length: 1\r\n")),
            Err(HeadError::LengthAndChunked)
        );
        assert_eq!(
            framing("1.1", &format!("{chunked}{chunked}")),
            Err(HeadError::TransferEncoding)
        );
        assert_eq!(
            framing("1.1", "Transfer-Encoding: gzip, chunked\r\n"),
            Err(HeadError::TransferEncoding)
        );
    }
}
