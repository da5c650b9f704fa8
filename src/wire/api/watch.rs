//! Messages of `/ws/fs/{task_id}/watch` (contract 2.2): text, one JSON object each.

use serde::{Deserialize, Serialize};

/// What the runner says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Said {
    /// Once, first: the directories that are watched, and how.
    Watching {
        paths: Vec<String>,
        method: &'static str,
    },
    Change {
        event: &'static str,
        path: String,
        is_dir: bool,
    },
    Error {
        message: String,
    },
    Pong,
}

/// Whether a peer's message is the `ping` that wants a `pong`; anything else is to be ignored.
pub fn is_ping(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Heard {
        r#type: String,
    }
    serde_json::from_str::<Heard>(text).is_ok_and(|heard| heard.r#type == "ping")
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn messages_are_the_contracts() {
        let text = |said: &Said| serde_json::to_string(said).unwrap();
        let watching = Said::Watching { paths: vec!["/shared".into()], method: "inotify" };
        assert_eq!(
            text(&watching),
            r#"{"type":"watching","paths":["/shared"],"method":"inotify"}"#
        );
        let change = Said::Change { event: "MOVE", path: "/shared/a".into(), is_dir: true };
        assert_eq!(
            text(&change),
            r#"{"type":"change","event":"MOVE","path":"/shared/a","is_dir":true}"#
        );
        assert_eq!(text(&Said::Pong), r#"{"type":"pong"}"#);
    }

    #[test]
    fn only_a_ping_is_one() {
        assert!(is_ping(r#"{"type":"ping","more":1}"#));
        for other in ["", "ping", "[]", "7", r#"{"type":7}"#, r#"{"type":"pong"}"#, r#"{"a":1}"#] {
            assert!(!is_ping(other), "{other}");
        }
    }
}
