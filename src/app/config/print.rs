//! `config default` and `config show` as text, made from the table.

use std::fmt::Write;

use super::Loaded;
use super::fault::Origin;
use super::table::{Accessor, Row, SETTINGS, Slot};
use crate::model::settings::Settings;

/// Columns of a comment, so that a file opens without wrapping on an 80-column terminal.
const COMMENT_COLUMNS: usize = 78;

/// A TOML file that sets nothing and explains everything: each key in a comment, with its default.
pub fn commented_defaults() -> String {
    let mut text = String::from(
        "# river-runner's settings with their defaults. Remove the # before a key to set it.\n\
         # Each key is also an environment variable: RIVER_ and the key in upper case.\n",
    );
    let defaults = Settings::default();
    for (row, field) in fields() {
        text.push('\n');
        push_comment(&mut text, row.doc);
        let value = if field.secret { "\"\"".into() } else { (field.get)(&defaults).to_string() };
        // "hostname" and what is made of it would be wrong if somebody uncommented them.
        let shown = if matches!(row.key, "hostname" | "node_id") { "\"\"".into() } else { value };
        let _ = writeln!(text, "#{} = {shown}", row.key);
    }
    text
}

/// What is in force: a TOML line for each key, with where its value came from behind it.
pub fn in_force(loaded: &Loaded) -> String {
    let mut text = String::new();
    for (row, origin) in SETTINGS.iter().zip(&loaded.origins) {
        let Slot::Field(field) = &row.slot else { continue };
        let value = (field.get)(&loaded.settings).to_string();
        let line = match (field.secret, origin) {
            (false, _) => format!("{} = {value}", row.key),
            (true, Origin::Default) => format!("# {} is not set", row.key),
            (true, _) => format!("# {} is set", row.key),
        };
        let _ = writeln!(text, "{line:<50} # {origin}");
    }
    for note in &loaded.notes {
        let _ = writeln!(text, "# note: {note}");
    }
    text
}

fn fields() -> impl Iterator<Item = (&'static Row, &'static Accessor)> {
    SETTINGS.iter().filter_map(|row| match &row.slot {
        Slot::Field(field) => Some((row, field)),
        Slot::Ignored { .. } => None,
    })
}

/// Adds `paragraph` as comment lines, broken between words.
pub(super) fn push_comment(text: &mut String, paragraph: &str) {
    let mut columns = 0;
    for word in paragraph.split_whitespace() {
        if columns == 0 || columns + 1 + word.len() > COMMENT_COLUMNS {
            text.push_str(if columns == 0 { "#" } else { "\n#" });
            columns = 1;
        }
        let _ = write!(text, " {word}");
        columns += 1 + word.len();
    }
    text.push('\n');
}
