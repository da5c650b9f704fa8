//! The shell script a task's container runs (contract 5.2, design D5). Pure text.
//!
//! Line one redirects, so that nothing in the command can swallow it; line two is the command. A
//! *simple* command (words, quotes, expansions; first word a plain program name) gets `exec` and is
//! PID 1, so signals reach it. Anything else runs whole under the shell.

/// The directory that the container sees for the task's host-side log directory (contract rule 19).
pub const LOGS_MOUNT: &str = "/kohakuriver-logs";

/// Where every container sees the cluster's shared data (contract 5.2).
pub const SHARED_MOUNT: &str = "/shared";

/// The working directory that needs no check: it is always mounted.
pub const WORKING_DIR_DEFAULT: &str = SHARED_MOUNT;

/// Exit code for a working directory that cannot be entered, as `docker` gives for a refused start.
pub const REFUSED_EXIT_CODE: i64 = 125;

/// The text after `/bin/sh -c`.
///
/// `stdout` and `stderr` are paths inside the container. A working directory other than the default
/// is entered here and not by the Engine, which would silently create one that does not exist.
pub fn script(
    command: &str,
    arguments: &[String],
    working_dir: &str,
    stdout: &str,
    stderr: &str,
) -> String {
    let mut text = String::with_capacity(command.len() + 128);
    if working_dir != WORKING_DIR_DEFAULT {
        text.push_str(&format!("cd -- {} || exit {REFUSED_EXIT_CODE}\n", quote(working_dir)));
    }
    // Two openings of one file would overwrite each other.
    let stderr = if stderr == stdout { "&1".to_owned() } else { quote(stderr) };
    text.push_str(&format!("exec >{} 2>{stderr}\n", quote(stdout)));
    if is_simple(command) {
        text.push_str("exec ");
    }
    text.push_str(command);
    for argument in arguments {
        text.push(' ');
        text.push_str(&quote(argument));
    }
    text
}

/// POSIX quoting: any bytes but NUL come through a shell as one word.
pub fn quote(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"@%+=:,./-_".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Whether `exec COMMAND` means the same as `COMMAND`. Says no when in doubt: then the shell stays
/// as PID 1 and nothing else changes.
fn is_simple(command: &str) -> bool {
    let command = command.trim_matches([' ', '\t']);
    let end = command.find([' ', '\t']).unwrap_or(command.len());
    let program = &command[..end];
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"@%+:,./-_".contains(&b);
    let is_program = !program.is_empty() && program.bytes().all(plain);
    is_program && !SHELL_WORDS.contains(&program) && is_words_only(&command[end..])
}

/// Words, quotes and plain `$NAME` expansions up to the end: no operator, no comment, no command
/// substitution, nothing left open.
fn is_words_only(text: &str) -> bool {
    enum Inside {
        Nothing,
        Single,
        Double,
    }
    let mut inside = Inside::Nothing;
    let mut bytes = text.bytes().peekable();
    let mut at_word_start = true;
    while let Some(byte) = bytes.next() {
        match (&inside, byte) {
            (Inside::Single, b'\'') | (Inside::Double, b'"') => inside = Inside::Nothing,
            (Inside::Single, _) => {}
            (_, b'`') => return false,
            // `$'…'` has escapes in some shells and none in others.
            (_, b'$') if matches!(bytes.peek(), Some(b'(' | b'\'')) => return false,
            // `\` at the very end would swallow what is put behind the command.
            (_, b'\\') => {
                if bytes.next().is_none_or(|escaped| escaped == b'\n') {
                    return false;
                }
            }
            (Inside::Double, _) => {}
            (Inside::Nothing, b'\'') => inside = Inside::Single,
            (Inside::Nothing, b'"') => inside = Inside::Double,
            (Inside::Nothing, b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')' | b'\n' | b'\r') => {
                return false;
            }
            (Inside::Nothing, b'#') if at_word_start => return false,
            (Inside::Nothing, _) => {}
        }
        at_word_start = matches!(byte, b' ' | b'\t');
    }
    matches!(inside, Inside::Nothing)
}

/// Keywords and builtins of dash, BusyBox ash and bash. Some also exist as programs, but a minimal
/// image need not have them; under the shell they always work.
#[rustfmt::skip]
const SHELL_WORDS: &[&str] = &[
    "!", "if", "then", "else", "elif", "fi", "do", "done", "case", "esac", "while", "until", "for",
    "in", "select", "function", "time", "coproc",
    ".", ":", "[", "alias", "bg", "bind", "break", "builtin", "caller", "cd", "chdir", "command",
    "compgen", "complete", "compopt", "continue", "declare", "dirs", "disown", "echo", "enable",
    "eval", "exec", "exit", "export", "false", "fc", "fg", "getopts", "hash", "help", "history",
    "jobs", "kill", "let", "local", "logout", "mapfile", "popd", "printf", "pushd", "pwd", "read",
    "readarray", "readonly", "return", "set", "shift", "shopt", "source", "suspend", "test",
    "times", "trap", "true", "type", "typeset", "ulimit", "umask", "unalias", "unset", "wait",
];

#[cfg(test)]
mod test {
    use super::*;

    fn command_line(command: &str) -> String {
        let text = script(command, &[], "/shared", "/o", "/e");
        text.split_once('\n').unwrap().1.to_owned()
    }

    #[test]
    fn simple_command_is_exec_ed() {
        for command in ["sleep 5", "python 'my train.py' --x=\"$A b\"", "./run.sh $HOME ${X}", "ls"]
        {
            assert_eq!(command_line(command), format!("exec {command}"));
        }
    }

    #[test]
    fn compound_command_runs_whole_under_the_shell() {
        for command in [
            "a; b | c",
            "a && b",
            "a > f",
            "a < f",
            "(a)",
            "{ a; }",
            "a\nb",
            "A=1 b",
            "$PROG x",
            "a `b`",
            "a $(b)",
            "a \"$(b)\"",
            r"a $'b'",
            "a # c",
            "a 'open",
            "a \\",
            "",
        ] {
            assert_eq!(command_line(command), command);
        }
    }

    #[test]
    fn keyword_builtin_or_quoted_program_is_left_to_the_shell() {
        for command in ["exit 7", "if true", "cd /x", "echo hi", "'echo' hi", "! a", "[ -e x ]"] {
            assert_eq!(command_line(command), command);
        }
    }

    #[test]
    fn redirection_stands_alone_before_the_command() {
        let text = script("a; b", &[], "/shared", "/kohakuriver-logs/7/it's", "/e");
        assert_eq!(text, "exec >'/kohakuriver-logs/7/it'\\''s' 2>/e\na; b");
    }

    #[test]
    fn arguments_are_quoted_and_empty_ones_kept() {
        let arguments = ["a b".into(), String::new(), "$x'\"\\\n".into(), "-n".into()];
        let text = script("printf %s", &arguments, "/shared", "/o", "/e");
        assert!(text.ends_with("\nprintf %s 'a b' '' '$x'\\''\"\\\n' -n"));
    }

    #[test]
    fn other_working_directory_is_entered_before_the_redirection() {
        let text = script("sleep 1", &[], "/my dir", "/o", "/e");
        assert_eq!(text, "cd -- '/my dir' || exit 125\nexec >/o 2>/e\nexec sleep 1");
    }

    #[test]
    fn one_file_for_both_streams_is_opened_once() {
        assert!(script("ls", &[], "/shared", "/o", "/o").starts_with("exec >/o 2>&1\n"));
    }

    #[test]
    fn hash_inside_a_word_is_no_comment() {
        assert_eq!(command_line("sleep a#b"), "exec sleep a#b");
    }
}
