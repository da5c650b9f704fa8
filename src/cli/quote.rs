//! Words to shell text: what a POSIX shell reads back as the same words.

/// The words quoted where needed, with blanks between.
pub fn join(words: &[String]) -> String {
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let is_plain =
        |byte: u8| byte.is_ascii_alphanumeric() || b"_-./,:+@%=^".contains(&byte) || byte >= 0x80;
    // `a=b` as the first word would be an assignment, which words never are.
    let is_assignment = word.contains('=');
    if !word.is_empty() && !is_assignment && word.bytes().all(is_plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod test {
    use std::process::Command;

    use super::*;

    fn joined(words: &[&str]) -> String {
        join(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn plain_words_stay_as_they_are() {
        assert_eq!(joined(&["ls", "-l", "/tmp/a.b"]), "ls -l /tmp/a.b");
    }

    #[test]
    fn empty_word_stays_a_word() {
        assert_eq!(joined(&["printf", "", "x"]), "printf '' x");
    }

    #[test]
    fn shell_reads_back_the_words_it_was_given() {
        let words =
            ["a b", "it's", "$HOME", "`id`", "a\nb", "*", "~", "#x", "-n", "x=1", "\\", "é"];
        let script = format!("printf '%s\\0' {}", joined(&words));
        let output = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
        let read = String::from_utf8(output.stdout).unwrap();
        assert_eq!(read.split_terminator('\0').collect::<Vec<_>>(), words);
    }

    #[test]
    fn word_that_looks_like_an_assignment_is_quoted() {
        assert_eq!(joined(&["A=1", "true"]), "'A=1' true");
    }
}
