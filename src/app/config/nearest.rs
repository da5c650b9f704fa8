//! Which known name a mistyped one was meant to be.

/// The closest of `known` to `typed`, if few enough letters differ that it could be meant.
pub fn nearest(typed: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    // A third of the letters wrong is a slip; more is another word.
    let most = (typed.len() / 3).clamp(1, 4);
    known
        .map(|name| (distance(typed.as_bytes(), name.as_bytes()), name))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, name)| name)
}

/// Letters to insert, delete or change (Levenshtein), one row of the table at a time.
fn distance(from: &[u8], to: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, letter) in from.iter().enumerate() {
        let mut corner = above;
        row[0] = above + 1;
        for (at, other) in to.iter().enumerate() {
            let changed = corner + usize::from(letter != other);
            corner = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(corner + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod test {
    use super::*;

    const KNOWN: [&str; 3] = ["shared_dir", "host_port", "host_address"];

    #[test]
    fn slip_finds_the_name_that_was_meant() {
        assert_eq!(nearest("share_dir", KNOWN.into_iter()), Some("shared_dir"));
        assert_eq!(nearest("host_adress", KNOWN.into_iter()), Some("host_address"));
        assert_eq!(nearest("hots_port", KNOWN.into_iter()), Some("host_port"));
    }

    #[test]
    fn another_word_finds_nothing() {
        assert_eq!(nearest("colour", KNOWN.into_iter()), None);
        assert_eq!(nearest("", KNOWN.into_iter()), None);
    }

    #[test]
    fn distance_counts_letters() {
        assert_eq!(distance(b"kitten", b"sitting"), 3);
        assert_eq!(distance(b"", b"abc"), 3);
        assert_eq!(distance(b"abc", b"abc"), 0);
    }
}
