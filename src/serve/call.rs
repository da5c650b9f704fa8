//! A request as its handler sees it. Owned, so that it can travel to whoever does the work.

use std::time::Duration;

use super::body::Body;
use super::conn::Peer;
use super::desk::Request;
use super::large::LargeBody;
use super::park::{self, Responder};
use super::reply::{Answer, Reply};
use super::route::Method;

/// One request, whole: head, parameters, body.
#[derive(Debug)]
pub struct Call {
    bytes: Vec<u8>,
    request: Request,
    body: Body,
    large: Option<LargeBody>,
    peer: Peer,
}

impl Call {
    pub(super) fn new(
        bytes: Vec<u8>,
        request: Request,
        body: Body,
        large: Option<LargeBody>,
        peer: Peer,
    ) -> Call {
        Call { bytes, request, body, large, peer }
    }

    /// The row's method: HEAD arrives as `Get`.
    pub fn method(&self) -> Method {
        self.request.row.method
    }

    /// The path as it was sent, without the query.
    pub fn path(&self) -> &str {
        self.request.head.path.text(&self.bytes)
    }

    /// The decoded value of `{name}` in the row's path; empty if the row has no such name.
    pub fn param(&self, name: &str) -> &str {
        let found = self.request.params.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// The decoded value of the last `name=` in the query.
    pub fn query(&self, name: &str) -> Option<&str> {
        let found = self.request.query.iter().rfind(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Value of the first header line called `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.request.head.field(&self.bytes, name)
    }

    /// The body; empty if there was none.
    pub fn body(&self) -> &[u8] {
        match &self.body {
            Body::Behind(range) => &self.bytes[range.clone()],
            Body::Apart(bytes) => bytes,
        }
    }

    /// Who is calling.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Lets the caller wait without a thread: the first half is what the handler returns, the
    /// second answers from any thread, before or after that.
    pub fn park(self) -> (Answer, Responder) {
        let (parked, responder) = park::pair(None, self.large);
        (Answer::Parked(parked), responder)
    }

    /// The same for a wait that is known to end: after `patience` the caller gets `late`, which can
    /// say what it was that did not answer.
    pub fn park_for(self, patience: Duration, late: Reply) -> (Answer, Responder) {
        let (parked, responder) = park::pair(Some((patience, late)), self.large);
        (Answer::Parked(parked), responder)
    }
}

/// Undoes percent coding; `plus` is what `+` stands for. `None` for a `%` without two digits,
/// what is not UTF-8 then, and NUL, which no name or path can hold.
pub(super) fn decode(text: &str, plus: u8) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                u8::try_from(high << 4 | low).ok().filter(|byte| *byte != 0)?
            }
            b'+' => plus,
            plain => plain,
        });
    }
    String::from_utf8(decoded).ok()
}

/// The pairs of a query, in order. `a` alone is `a=`.
pub(super) fn decode_query(query: &str) -> Option<Vec<(String, String)>> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name, b' ')?, decode(value, b' ')?))
        })
        .collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn percent_coding_is_undone_once() {
        assert_eq!(decode("a%2Fb%2525+c", b'+').unwrap(), "a/b%25+c");
        assert_eq!(decode("caf%C3%A9+c", b' ').unwrap(), "café c");
    }

    #[test]
    fn percent_coding_that_says_nothing_is_refused() {
        assert_eq!(decode("%", b'+'), None);
        assert_eq!(decode("%4", b'+'), None);
        assert_eq!(decode("%+4", b'+'), None);
        assert_eq!(decode("%ff", b'+'), None);
        assert_eq!(decode("a%00b", b'+'), None);
    }

    #[test]
    fn query_keeps_empty_values_and_drops_empty_pairs() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            decode_query("a=1&&b&c=x=y").unwrap(),
            [pair("a", "1"), pair("b", ""), pair("c", "x=y")]
        );
    }
}
