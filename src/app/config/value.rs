//! A setting's value as it is written (TOML, environment, flag) and the types it becomes. Read by
//! `table`'s rows; knows no key and no file.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Component, Path, PathBuf};

use log::LevelFilter;

use crate::model::settings::{Cidr, OverlayPlan, Subnet, Token};

/// What was written. The environment and flags only know `Text`, so every type reads that too.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Number(i64),
    Flag(bool),
    List(Vec<String>),
}

/// What would have been right; the reason a value is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    Number { least: u64, most: u64 },
    Form(&'static str),
}

/// A type that a setting can have.
pub trait Field: Sized {
    /// What the help calls such a value.
    const NAME: &'static str;
    /// Whether `""` says something (none, no entries) or falls back to the default.
    const EMPTY_COUNTS: bool = false;

    /// # Errors
    /// What would have been allowed.
    fn read(value: &Value) -> Result<Self, Allowed>;

    /// The value as `config show` and `config default` print it.
    fn show(&self) -> Value;
}

impl Value {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text.trim()),
            Value::Number(_) | Value::Flag(_) | Value::List(_) => None,
        }
    }

    pub(super) fn number(&self) -> Option<i64> {
        match self {
            Value::Number(number) => Some(*number),
            Value::Text(text) => text.trim().parse().ok(),
            Value::Flag(_) | Value::List(_) => None,
        }
    }

    /// Entries of a list. Text is a list separated by commas.
    pub(super) fn entries(&self) -> Option<Vec<&str>> {
        match self {
            Value::List(entries) => Some(entries.iter().map(|entry| entry.trim()).collect()),
            Value::Text(text) => {
                Some(text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect())
            }
            Value::Number(_) | Value::Flag(_) => None,
        }
    }

    pub(super) fn is_empty_text(&self) -> bool {
        self.text() == Some("")
    }
}

/// As TOML, on one line.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => toml::Value::from(text.as_str()).fmt(f),
            Value::Number(number) => number.fmt(f),
            Value::Flag(flag) => flag.fmt(f),
            Value::List(entries) => toml::Value::from(entries.clone()).fmt(f),
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Number { least, most } => write!(f, "a whole number from {least} to {most}"),
            Allowed::Form(form) => f.write_str(form),
        }
    }
}

macro_rules! whole_number {
    ($($number:ty)*) => { $(
        impl Field for $number {
            const NAME: &'static str = "NUMBER";

            fn read(value: &Value) -> Result<$number, Allowed> {
                let most = <$number>::MAX.into();
                let number = value.number().and_then(|number| number.try_into().ok());
                number.ok_or(Allowed::Number { least: 0, most })
            }

            fn show(&self) -> Value {
                // A setting above i64::MAX can't be read in, so none can be shown.
                Value::Number(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        }
    )* };
}

whole_number!(u16 u32 u64);

impl Field for bool {
    const NAME: &'static str = "true|false";

    fn read(value: &Value) -> Result<bool, Allowed> {
        if let Value::Flag(flag) = value {
            return Ok(*flag);
        }
        match value.text().map(str::to_ascii_lowercase).as_deref() {
            Some("true" | "yes" | "on" | "1") => Ok(true),
            Some("false" | "no" | "off" | "0") => Ok(false),
            _ => Err(Allowed::Form("true or false")),
        }
    }

    fn show(&self) -> Value {
        Value::Flag(*self)
    }
}

/// A word: text of one line without blanks at its ends. Rows say which words.
impl Field for String {
    const NAME: &'static str = "TEXT";

    fn read(value: &Value) -> Result<String, Allowed> {
        let text = value.text().filter(|text| !text.chars().any(char::is_control));
        text.map(str::to_owned).ok_or(Allowed::Form("text of one line"))
    }

    fn show(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl Field for PathBuf {
    const NAME: &'static str = "PATH";

    fn read(value: &Value) -> Result<PathBuf, Allowed> {
        let text = String::read(value).map_err(|_| PATH_FORM)?;
        if is_plain_path(Path::new(&text)) { Ok(text.into()) } else { Err(PATH_FORM) }
    }

    fn show(&self) -> Value {
        Value::Text(self.display().to_string())
    }
}

const PATH_FORM: Allowed = Allowed::Form("an absolute path without '..'");

pub(super) fn is_plain_path(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
}

impl Field for IpAddr {
    const NAME: &'static str = "ADDRESS";

    fn read(value: &Value) -> Result<IpAddr, Allowed> {
        let address = value.text().and_then(|text| text.parse().ok());
        address.ok_or(Allowed::Form("an IP address such as 0.0.0.0"))
    }

    fn show(&self) -> Value {
        Value::Text(self.to_string())
    }
}

impl Field for Ipv4Addr {
    const NAME: &'static str = "ADDRESS";

    fn read(value: &Value) -> Result<Ipv4Addr, Allowed> {
        let address = value.text().and_then(|text| text.parse().ok());
        address.ok_or(Allowed::Form("an IPv4 address such as 172.30.0.1"))
    }

    fn show(&self) -> Value {
        Value::Text(self.to_string())
    }
}

impl Field for Subnet {
    const NAME: &'static str = "SUBNET";

    fn read(value: &Value) -> Result<Subnet, Allowed> {
        let subnet = value.text().and_then(|text| text.parse().ok());
        let subnet = subnet.filter(|subnet: &Subnet| (8..=30).contains(&subnet.prefix));
        subnet.ok_or(Allowed::Form("an IPv4 network of /8 to /30, such as 172.30.0.0/16"))
    }

    fn show(&self) -> Value {
        Value::Text(self.to_string())
    }
}

impl Field for OverlayPlan {
    const NAME: &'static str = "BASE/NET/NODE/SUB";

    fn read(value: &Value) -> Result<OverlayPlan, Allowed> {
        let plan = value.text().and_then(|text| text.parse().ok());
        plan.ok_or(Allowed::Form(
            "BASE/NET/NODE/SUB with NET 1 to 24, NODE 1 to 16, SUB at least 8 and a sum of 32, \
             such as 10.128.0.0/12/6/14",
        ))
    }

    fn show(&self) -> Value {
        Value::Text(self.to_string())
    }
}

impl Field for LevelFilter {
    const NAME: &'static str = "LEVEL";

    fn read(value: &Value) -> Result<LevelFilter, Allowed> {
        match value.text().map(str::to_ascii_lowercase).as_deref() {
            Some("full" | "trace") => Ok(LevelFilter::Trace),
            Some("debug") => Ok(LevelFilter::Debug),
            Some("info") => Ok(LevelFilter::Info),
            Some("warning" | "warn") => Ok(LevelFilter::Warn),
            Some("error") => Ok(LevelFilter::Error),
            _ => Err(Allowed::Form("one of full, debug, info, warning, error")),
        }
    }

    fn show(&self) -> Value {
        let word = match self {
            LevelFilter::Off | LevelFilter::Error => "error",
            LevelFilter::Warn => "warning",
            LevelFilter::Info => "info",
            LevelFilter::Debug => "debug",
            LevelFilter::Trace => "full",
        };
        Value::Text(word.into())
    }
}

impl<T: Field> Field for Option<T> {
    const NAME: &'static str = T::NAME;
    const EMPTY_COUNTS: bool = true;

    fn read(value: &Value) -> Result<Option<T>, Allowed> {
        if value.is_empty_text() { Ok(None) } else { T::read(value).map(Some) }
    }

    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Text(String::new()), T::show)
    }
}

impl Field for Token {
    const NAME: &'static str = "SECRET";

    /// Printable ASCII, since it travels in an HTTP header.
    fn read(value: &Value) -> Result<Token, Allowed> {
        let text = value.text().filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
        text.map(Token::new).ok_or(Allowed::Form("printable ASCII characters without blanks"))
    }

    fn show(&self) -> Value {
        Value::Text("(set)".into())
    }
}

impl Field for Vec<String> {
    const NAME: &'static str = "LIST";
    const EMPTY_COUNTS: bool = true;

    fn read(value: &Value) -> Result<Vec<String>, Allowed> {
        let entries = value.entries().ok_or(Allowed::Form("a list of texts"))?;
        Ok(entries.into_iter().map(str::to_owned).collect())
    }

    fn show(&self) -> Value {
        Value::List(self.clone())
    }
}

impl Field for Vec<Cidr> {
    const NAME: &'static str = "LIST";
    const EMPTY_COUNTS: bool = true;

    fn read(value: &Value) -> Result<Vec<Cidr>, Allowed> {
        const FORM: Allowed =
            Allowed::Form("a list of addresses or ranges, such as [\"192.168.1.0/24\"]");
        let entries = value.entries().ok_or(FORM)?;
        entries.into_iter().map(|entry| entry.parse().map_err(|_| FORM)).collect()
    }

    fn show(&self) -> Value {
        Value::List(self.iter().map(Cidr::to_string).collect())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn number_from_the_environment_is_read_like_one_from_the_file() {
        assert_eq!(u16::read(&text(" 8001 ")), u16::read(&Value::Number(8001)));
    }

    #[test]
    fn number_that_does_not_fit_names_the_range() {
        let refused = u16::read(&Value::Number(65536)).unwrap_err();
        assert_eq!(refused.to_string(), "a whole number from 0 to 65535");
        assert!(u64::read(&Value::Number(-1)).is_err());
        assert!(u64::read(&text("5.0")).is_err());
    }

    #[test]
    fn flag_takes_the_usual_words_and_nothing_else() {
        assert_eq!(bool::read(&text("Yes")), Ok(true));
        assert_eq!(bool::read(&text("off")), Ok(false));
        assert!(bool::read(&text("maybe")).is_err());
        assert!(bool::read(&Value::Number(1)).is_err());
    }

    #[test]
    fn path_that_is_relative_or_climbs_is_refused() {
        assert!(PathBuf::read(&text("srv/x")).is_err());
        assert!(PathBuf::read(&text("/srv/../x")).is_err());
        assert!(PathBuf::read(&text("~/x")).is_err());
        assert_eq!(PathBuf::read(&text("/srv/x")), Ok("/srv/x".into()));
    }

    #[test]
    fn list_as_text_is_split_at_commas() {
        assert_eq!(
            Vec::<Cidr>::read(&text("10.0.0.0/8, 192.168.1.7")).unwrap().show(),
            Value::List(vec!["10.0.0.0/8".into(), "192.168.1.7/32".into()])
        );
        assert_eq!(Vec::<String>::read(&text("")), Ok(Vec::new()));
    }

    #[test]
    fn reference_log_levels_are_known_by_their_names() {
        assert_eq!(LevelFilter::read(&text("FULL")), Ok(LevelFilter::Trace));
        assert_eq!(LevelFilter::read(&text("warning")), Ok(LevelFilter::Warn));
        assert!(LevelFilter::read(&text("loud")).is_err());
    }

    #[test]
    fn token_with_a_blank_or_beyond_ascii_is_refused() {
        assert!(Token::read(&text("two words")).is_err());
        assert!(Token::read(&text("schlüssel")).is_err());
        assert!(Token::read(&text("0123456789abcdef")).is_ok());
    }

    #[test]
    fn value_with_quotes_and_a_backslash_is_printed_as_toml_that_reads_back() {
        let odd = "a \"quoted\" \\ 'one'\t";
        let document = format!("key = {}", text(odd));
        let read: toml::Table = document.parse().unwrap();
        assert_eq!(read["key"].as_str(), Some(odd));
    }
}
