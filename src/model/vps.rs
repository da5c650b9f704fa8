//! A VPS: how one gets in (`Login`), and what has become of it (`VpsState`). Contract 1.2 and 5.4.

use std::fmt;
use std::net::IpAddr;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::time::Stamp;
use crate::limits::SSH_KEY_BYTES_MAX;

/// What is asked of a VPS beyond what every task has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vps {
    pub login: Login,
    /// The login is that of an earlier create of this id, not what this one asked for: a restart by the
    /// host asks for mode `none` whatever the VPS was (contract rule 14).
    #[serde(default)]
    pub is_remembered: bool,
}

/// How root gets in by SSH.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Login {
    /// No sshd and no port.
    Disabled,
    /// Without a password: only ever where the first create of this id asked for it.
    Open,
    /// With this key.
    Key(PublicKey),
    /// As the snapshot has it: nobody here knows what the first create asked for.
    Kept,
}

impl Login {
    /// Whether port 22 is published.
    pub fn has_port(&self) -> bool {
        *self != Login::Disabled
    }
}

/// One line of `authorized_keys`, without options: a type, a key, perhaps a comment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(String);

/// Why a text is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAKey {
    /// More bytes than sshd takes.
    Long,
    /// More than one line.
    Lines,
    /// Not one of the known types. A private key looks so, too.
    Type,
    /// The second word is no base64 of a key of that type.
    Body,
    /// The comment has control characters.
    Comment,
}

/// What `sshd(8)` takes.
const KEY_TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

impl PublicKey {
    /// # Errors
    /// See [`NotAKey`].
    pub fn parse(text: &str) -> Result<PublicKey, NotAKey> {
        let text = text.trim();
        if text.len() > SSH_KEY_BYTES_MAX {
            return Err(NotAKey::Long);
        }
        if text.contains(['\n', '\r']) {
            return Err(NotAKey::Lines);
        }
        if text.chars().any(char::is_control) {
            return Err(NotAKey::Comment);
        }
        let mut words = text.split_ascii_whitespace();
        let kind = words.next().filter(|kind| KEY_TYPES.contains(kind)).ok_or(NotAKey::Type)?;
        let body = words.next().ok_or(NotAKey::Body)?;
        if !is_key_of(kind, body) {
            return Err(NotAKey::Body);
        }
        let comment: Vec<&str> = words.collect();
        Ok(PublicKey([&[kind, body][..], &comment[..]].concat().join(" ")))
    }

    /// The line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `body` is base64 of a key's parts, each with its length before it, of which the first is the
/// type's name (RFC 4253, section 6.6). A key that was cut off is none.
fn is_key_of(kind: &str, body: &str) -> bool {
    let Ok(decoded) = BASE64.decode(body.as_bytes()) else { return false };
    let mut parts = Vec::new();
    let mut rest = decoded.as_slice();
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let Some((part, behind)) = behind.split_at_checked(length) else { return false };
        parts.push(part);
        rest = behind;
    }
    rest.is_empty() && parts.len() > 1 && parts[0] == kind.as_bytes()
}

impl TryFrom<String> for PublicKey {
    type Error = NotAKey;

    fn try_from(text: String) -> Result<PublicKey, NotAKey> {
        PublicKey::parse(&text)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.0
    }
}

impl fmt::Display for NotAKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotAKey::Long => write!(f, "must not have more than {SSH_KEY_BYTES_MAX} bytes"),
            NotAKey::Lines => f.write_str("must be one line"),
            NotAKey::Type => write!(f, "must begin with one of {}", KEY_TYPES.join(", ")),
            NotAKey::Body => f.write_str("its second word must be the whole key in base64"),
            NotAKey::Comment => f.write_str("must not contain control characters"),
        }
    }
}

/// What a VPS has become, beside its phase.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpsState {
    /// Where this machine listens for its port 22; 0 for nowhere.
    #[serde(default)]
    pub ssh_port: u16,
    /// At which of its addresses; `None` is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_address: Option<IpAddr>,
    /// The port that the host was told last, or is about to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_port: Option<u16>,
    #[serde(default)]
    pub door: Door,
    /// When an SSH server answered first, so that somebody may have been in it. Of a record that was
    /// lost: when it was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<Stamp>,
    /// The snapshot it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<String>,
    /// The number of the last snapshot that was begun, whatever became of it.
    #[serde(default)]
    pub last_snapshot: u64,
    /// The snapshot that its stop has begun to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saving_as: Option<String>,
    /// The snapshot that its stop has made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_as: Option<String>,
    /// The run of its container that was looked at last, by its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_since: Option<Stamp>,
    /// How often its container has ended without anybody's asking since it was created.
    #[serde(default)]
    pub restarts: u32,
    /// How many of the last of those ends came soon after their starts, one after the other.
    #[serde(default)]
    pub quick_ends: u32,
    /// How often the kernel killed a process of it for memory.
    #[serde(default)]
    pub oom_kills: u32,
    /// How the container last ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<LastEnd>,
}

impl VpsState {
    /// Whether there is nothing to write down.
    pub fn is_default(&self) -> bool {
        *self == VpsState::default()
    }
}

/// Whether somebody can get in by SSH.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// There is none, or the container does not run.
    #[default]
    None,
    /// sshd is being set up, since then.
    Preparing(Stamp),
    /// An SSH server has answered.
    Open,
    /// None answered in time; the container runs all the same.
    Silent,
}

/// An end of the container that nobody asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastEnd {
    /// The start of the run that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_run: Option<Stamp>,
    /// `None`: nobody saw it.
    pub exit_code: Option<i64>,
    pub oom_killed: bool,
    pub at: Stamp,
}

#[cfg(test)]
mod test {
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKrDTWAmNWDHwoCTMEcmZxWjkh1jtN3TlCqGTFhnTA";

    #[test]
    fn key_is_taken_with_and_without_a_comment() {
        assert_eq!(PublicKey::parse(ED25519).unwrap().as_str(), ED25519);
        let text = format!("  {ED25519}  me@home it's  mine\n");
        assert_eq!(
            PublicKey::parse(&text).unwrap().as_str(),
            format!("{ED25519} me@home it's mine")
        );
    }

    #[test]
    fn what_is_no_key_is_refused_for_its_reason() {
        let why = |text: &str| PublicKey::parse(text).unwrap_err();
        assert_eq!(why(""), NotAKey::Type);
        assert_eq!(why("-----BEGIN OPENSSH PRIVATE KEY-----"), NotAKey::Type);
        assert_eq!(why(&format!("command=\"x\" {ED25519}")), NotAKey::Type);
        assert_eq!(why("ssh-ed25519"), NotAKey::Body);
        assert_eq!(why("ssh-ed25519 AAAA"), NotAKey::Body);
        for cut in (24..ED25519.len()).step_by(4) {
            assert_eq!(why(&ED25519[..cut]), NotAKey::Body, "{cut}");
        }
        assert_eq!(why(&format!("{ED25519}AAAA")), NotAKey::Body);
        assert_eq!(why(&ED25519.replace("ssh-ed25519 ", "ssh-rsa ")), NotAKey::Body);
        assert_eq!(why(&ED25519.replace('/', "'").replace("AAAAC3", "AAAA'3")), NotAKey::Body);
        assert_eq!(why(&format!("{ED25519}\n{ED25519}")), NotAKey::Lines);
        assert_eq!(why(&format!("{ED25519} a\u{1}b")), NotAKey::Comment);
        assert_eq!(why(&format!("{ED25519} {}", "x".repeat(SSH_KEY_BYTES_MAX))), NotAKey::Long);
    }
}
