//! Names and queries on their way into a request's target. Pure. What the Engine could not call
//! anything is refused here, so that no name can leave its place in a path.

use super::DockerError;
use crate::wire::docker as wire;

/// `value` for a query string.
pub(super) fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// `filters=` as the Engine wants it.
pub(super) fn filters(wanted: &wire::Filters) -> String {
    // A map of strings always has a JSON form.
    escaped(&serde_json::to_string(wanted).unwrap_or_default())
}

/// A container, a network or the id of one, by Docker's own grammar.
pub(super) fn checked_name<'a>(call: &'static str, name: &'a str) -> Result<&'a str, DockerError> {
    let head = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let tail = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if head && name.bytes().all(tail) { Ok(name) } else { Err(DockerError::BadName { call }) }
}

/// An image's reference or id: names with slashes, tag, digest, none of them empty or dots only.
pub(super) fn checked_reference<'a>(
    call: &'static str,
    reference: &'a str,
) -> Result<&'a str, DockerError> {
    let word = |word: &str| {
        word.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
            && word.bytes().all(|byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b':' | b'@')
            })
    };
    if reference.split('/').all(word) { Ok(reference) } else { Err(DockerError::BadName { call }) }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_query_value_is_escaped_byte_by_byte() {
        assert_eq!(escaped("{\"a\":[\"ä b&c\"]}"), "%7B%22a%22:%5B%22%C3%A4%20b%26c%22%5D%7D");
    }

    #[test]
    fn names_that_could_leave_their_place_in_a_path_are_refused() {
        assert!(checked_name("test", "kohakuriver-task-7").is_ok());
        assert!(checked_name("test", "").is_err());
        assert!(checked_name("test", "..").is_err());
        assert!(checked_name("test", "a/../b").is_err());
        assert!(checked_name("test", "a?force=1").is_err());
        assert!(checked_name("test", "a%2fb").is_err());
    }

    #[test]
    fn references_with_registry_tag_and_digest_pass() {
        assert!(checked_reference("test", "127.0.0.1:5000/a_b/c:1.0").is_ok());
        assert!(checked_reference("test", "busybox@sha256:00ff").is_ok());
        assert!(checked_reference("test", "sha256:00ff").is_ok());
    }

    #[test]
    fn references_that_are_options_or_climb_are_refused() {
        assert!(checked_reference("test", "--privileged").is_err());
        assert!(checked_reference("test", "a/../../containers").is_err());
        assert!(checked_reference("test", "a//b").is_err());
        assert!(checked_reference("test", "a b").is_err());
        assert!(checked_reference("test", "").is_err());
    }
}
