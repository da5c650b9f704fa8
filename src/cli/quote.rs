//! Words to shell text: what a POSIX shell reads back as the same words.

/// The words quoted where needed, with blanks between.
pub fn join(words: &[String]) -> String {
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

/// One word for people: quoted where needed, and with nothing in it that a terminal obeys.
pub fn shown(word: &str) -> String {
    if !word.contains(char::is_control) {
        return quote(word);
    }
    let mut shown = String::from("$'");
    for letter in word.chars() {
        match letter {
            '\n' => shown += "\\n",
            '\t' => shown += "\\t",
            '\'' | '\\' => shown.extend(['\\', letter]),
            letter if letter.is_control() => {
                // Byte by byte: some control characters are two in UTF-8.
                for byte in letter.to_string().bytes() {
                    shown += &format!("\\{byte:03o}");
                }
            }
            letter => shown.push(letter),
        }
    }
    shown + "'"
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
    fn shown_words_have_no_control_characters_and_bash_reads_them_back() {
        let word = "a\nb\t'\\ \x1b[2J\u{9b}c";
        let shown = shown(word);
        assert_eq!(shown, r"$'a\nb\t\'\\ \033[2J\302\233c'");
        let script = format!("printf '%s' {shown}");
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }

    #[test]
    fn shown_words_without_control_characters_are_quoted_as_ever() {
        assert_eq!((shown("a.b"), shown("a b")), ("a.b".into(), "'a b'".into()));
    }

    #[test]
    fn word_that_looks_like_an_assignment_is_quoted() {
        assert_eq!(joined(&["A=1", "true"]), "'A=1' true");
    }
}
