//! The floor map of `src/lib.rs`, checked by reading the sources, and a few words we do not use.
//!
//! Imports go down only: a room may use rooms of lower floors. Rooms of one floor leave each other
//! alone, but for the rows of `NEIGHBOURS`. `wire` and `model` use neither each other nor anything
//! but `limits`; what turns one into the other is a `TryFrom` in the room whose door the bytes come
//! through (`api` for requests; `host`, `docker`, `qemu` for their peer's replies).

// The house rule spares tests; clippy only knows those inside `#[test]` functions.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const FLOORS: &[(u8, &[&str])] = &[
    (5, &[ROOT]),
    (4, &["app", "cli"]),
    (3, &["api", "loops"]),
    (2, &["ops"]),
    (1, &["serve", "docker", "qemu", "host", "machine", "store", "lanes", "tunnel", "ssh"]),
    (0, &["wire", "model", "limits", "metrics", "threads", "pipe", "stop"]),
];

/// Programs (`main.rs`, `bin/`) and `lib.rs` stand above all rooms.
const ROOT: &str = "the root";

/// On the ground floor nothing is lower, and on the top floor the command line calls the wiring.
const NEIGHBOURS: &[(&str, &[&str])] = &[
    ("cli", &["app"]),
    ("wire", &["limits"]),
    ("model", &["limits"]),
    ("threads", &["limits", "metrics"]),
    ("stop", &["threads"]),
    ("pipe", &["limits", "metrics", "stop", "threads"]),
];

const BANNED_NAMES: &[&str] =
    &["util", "utils", "helper", "helpers", "manager", "managers", "common", "misc"];

/// What `std::thread` starts threads with, and the glob that brings them in.
const THREAD_STARTERS: &[&str] = &["spawn", "Builder", "scope", "*"];

const BANNED_PACKAGES: &[&str] = &[
    "async-executor",
    "async-io",
    "async-std",
    "futures",
    "futures-executor",
    "hyper",
    "mio",
    "smol",
    "tokio",
];

/// A source file: its path below `src`, and its text.
struct Source {
    path: PathBuf,
    text: String,
}

// ── what is checked ──────────────────────────────────────────────────────────────────────────

#[test]
fn sources_keep_to_the_floor_map() {
    let sources = read_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 10, "the sources were not found");
    let complaints = check(&sources);
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn lock_file_holds_no_async_runtime() {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock"));
    let lock = lock.unwrap();
    assert!(lock.contains("name = \"river-runner\""), "the lock file was not found");
    assert_eq!(banned_packages(&lock), Vec::<&str>::new());
}

// ── the checker ──────────────────────────────────────────────────────────────────────────────

/// Every breach of the rules, as lines to read.
fn check(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        let shown = source.path.display();
        let home = Home::of(&source.path);
        for name in home.module.iter().filter(|name| BANNED_NAMES.contains(&name.as_str())) {
            complaints.push(format!("{shown}: nobody owns a module called {name}"));
        }
        let tokens = tokens(&source.text);
        for reach in reaches(&tokens, &home.module) {
            let Reach { line, target } = reach;
            match judge(home.room(), target.as_deref()) {
                Ok(Some(edge)) => {
                    edges.entry(home.room().to_owned()).or_default().insert(edge.to_owned());
                }
                Ok(None) => {}
                Err(why) => complaints.push(format!("{shown}:{line}: {why}")),
            }
        }
        let words = banned_words(&tokens, &home);
        complaints.extend(words.into_iter().map(|(line, why)| format!("{shown}:{line}: {why}")));
    }
    complaints.extend(cycle(&edges).map(|rooms| format!("rooms in a circle: {rooms}")));
    complaints
}

/// Whether `room` may reach `target` (`None`: everything at the root, by a glob). `Ok(Some)` is an
/// edge between two rooms.
fn judge<'a>(room: &str, target: Option<&'a str>) -> Result<Option<&'a str>, String> {
    let target = match target {
        Some(target) if target != room => target,
        Some(_) => return Ok(None),
        None if room == ROOT => return Ok(None),
        None => return Err("a glob of the crate root hides what is used".into()),
    };
    let floor_of = |name: &str| {
        let row = FLOORS.iter().find(|(_, rooms)| rooms.contains(&name));
        row.map(|&(floor, _)| floor).ok_or(format!("{name} is on no floor"))
    };
    let (own, other) = (floor_of(room)?, floor_of(target)?);
    let neighbours = NEIGHBOURS.iter().find(|(name, _)| *name == room).map_or(&[][..], |row| row.1);
    if other < own || neighbours.contains(&target) {
        Ok(Some(target))
    } else {
        Err(format!("{room} (floor {own}) uses {target} (floor {other})"))
    }
}

/// Where a file stands in the module tree.
struct Home {
    /// `src/lanes/board.rs` is `[lanes, board]`; programs and `lib.rs` are `[]`.
    module: Vec<String>,
}

impl Home {
    fn of(path: &Path) -> Home {
        let stem = path.with_extension("");
        let mut module: Vec<String> =
            stem.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if matches!(module[0].as_str(), "main" | "lib" | "bin") {
            module.clear();
        }
        module.pop_if(|last| last == "mod");
        Home { module }
    }

    fn room(&self) -> &str {
        self.module.first().map_or(ROOT, String::as_str)
    }
}

/// A mention of another module from the crate's root.
#[derive(Debug, PartialEq)]
struct Reach {
    line: usize,
    /// The room, or `None` for a glob of the root.
    target: Option<String>,
}

/// Follows every path that starts with `crate`, our own name, `super` or `self` to its room,
/// `{…}` groups and modules written inside the file included.
fn reaches(tokens: &[Token], module: &[String]) -> Vec<Reach> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let inside: Vec<String> = module.iter().chain(&token.modules).cloned().collect();
        let begins = at == 0 || tokens[at - 1].text != "::";
        let base = match token.text.as_str() {
            "river_runner" => Vec::new(),
            "crate" if begins => Vec::new(),
            "self" if begins => inside,
            "super" if begins => inside[..inside.len().saturating_sub(1)].to_vec(),
            _ => continue,
        };
        if tokens.get(at + 1).is_some_and(|next| next.text == "::") {
            follow(tokens, at + 2, base, &mut found);
        }
    }
    found
}

/// Reads one path, or a group of them, from `at`; answers where it ends.
fn follow(tokens: &[Token], mut at: usize, mut base: Vec<String>, found: &mut Vec<Reach>) -> usize {
    while let [up, colons, ..] = &tokens[at.min(tokens.len())..]
        && (up.text.as_str(), colons.text.as_str()) == ("super", "::")
    {
        base.pop();
        at += 2;
    }
    let Some(Token { text, line, .. }) = tokens.get(at) else { return at };
    if text == "{" {
        at += 1;
        while tokens.get(at).is_some_and(|token| token.text != "}") {
            at = follow(tokens, at, base.clone(), found);
            at += usize::from(tokens.get(at).is_some_and(|token| token.text == ","));
        }
        return at + 1;
    }
    let target = match (base.first(), text.as_str()) {
        (Some(room), _) => Some(room.clone()),
        (None, "*" | "self") => None,
        (None, room) => Some(room.to_owned()),
    };
    found.push(Reach { line: *line, target });
    let is_end = |token: &&Token| matches!(token.text.as_str(), "," | "}" | ";" | "{");
    while tokens.get(at).is_some_and(|token| !is_end(&token)) {
        at += 1;
    }
    if tokens.get(at).is_some_and(|token| token.text == "{") { skip_group(tokens, at) } else { at }
}

fn skip_group(tokens: &[Token], mut at: usize) -> usize {
    let mut depth = 0;
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
    }
    at
}

/// Words that have no place in `src`, with their lines.
fn banned_words(tokens: &[Token], home: &Home) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let starts = |at: usize, words: &[&str]| {
        words
            .iter()
            .enumerate()
            .all(|(i, word)| tokens.get(at + i).is_some_and(|t| t.text == *word))
    };
    for (at, token) in tokens.iter().enumerate() {
        let mut complain = |why: String| found.push((token.line, why));
        if starts(at, &["cfg", "!", "(", "test", ")"]) {
            complain("code behaves otherwise under cfg!(test)".into());
        }
        if starts(at, &["#", "[", "path"]) {
            complain("#[path] hides a file from the floor map".into());
        }
        if token.text == "mod"
            && let Some(name) = tokens.get(at + 1)
            && BANNED_NAMES.contains(&name.text.as_str())
        {
            complain(format!("nobody owns a module called {}", name.text));
        }
        let in_test = token.modules.iter().chain(&home.module).any(|name| name == "test");
        if home.module != ["threads"] && !in_test && starts(at, &["thread", "::"]) {
            let grouped = tokens[at + 2..].iter().take_while(|token| token.text != "}");
            let is_group = tokens.get(at + 2).is_some_and(|token| token.text == "{");
            let mut named = grouped.take(if is_group { usize::MAX } else { 1 });
            let is_starter = |token: &&Token| THREAD_STARTERS.contains(&token.text.as_str());
            if let Some(starter) = named.find(is_starter) {
                complain(format!("thread::{} outside threads.rs", starter.text));
            }
        }
    }
    found
}

/// The rooms of a circle, if there is one.
fn cycle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
    fn walk<'a>(
        edges: &'a BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<&'a str>,
        room: &'a str,
    ) -> Option<String> {
        if let Some(start) = way.iter().position(|passed| *passed == room) {
            return Some(way[start..].join(" → "));
        }
        way.push(room);
        let onward = edges.get(room).into_iter().flatten();
        let found = onward.into_iter().find_map(|next| walk(edges, way, next));
        way.pop();
        found
    }
    edges.keys().find_map(|room| walk(edges, &mut Vec::new(), room))
}

fn banned_packages(lock: &str) -> Vec<&str> {
    lock.lines()
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
        .filter(|name| BANNED_PACKAGES.contains(name))
        .collect()
}

fn read_sources(src: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut dirs = vec![src.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                sources.push(Source { path: path.strip_prefix(src).unwrap().to_owned(), text });
            }
        }
    }
    sources
}

// ── just enough of the language ──────────────────────────────────────────────────────────────

/// A word, `::`, or a single mark.
struct Token {
    text: String,
    line: usize,
    /// The modules written inside the file that this stands in, outermost first.
    modules: Vec<String>,
}

/// The code of a file: no comments, no text in quotes.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut modules: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    let mut line = 1;
    let mut rest = text;
    while !rest.is_empty() {
        let length = match quiet_length(rest) {
            Some(length) => length,
            None => {
                let length = word_length(rest);
                let word = &rest[..length];
                match word {
                    "{" => {
                        depth += 1;
                        if let [.., keyword, name] = tokens.as_slice()
                            && keyword.text == "mod"
                        {
                            modules.push((name.text.clone(), depth));
                        }
                    }
                    "}" => {
                        modules.pop_if(|(_, opened)| *opened == depth);
                        depth -= 1;
                    }
                    _ => {}
                }
                let modules = modules.iter().map(|(name, _)| name.clone()).collect();
                let text = word.strip_prefix("r#").unwrap_or(word).to_owned();
                tokens.push(Token { text, line, modules });
                length
            }
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// How much of the start of `rest` is blank, comment or quoted.
fn quiet_length(rest: &str) -> Option<usize> {
    let first = rest.chars().next()?;
    if first.is_whitespace() {
        return Some(first.len_utf8());
    }
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment_length(rest));
    }
    let literal = rest.trim_start_matches(['b', 'c']);
    let prefix = rest.len() - literal.len();
    if let Some(raw) = literal.strip_prefix('r').filter(|_| prefix <= 1) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let opening = prefix + 1 + hashes + 1;
            return Some(
                rest[opening..].find(&end).map_or(rest.len(), |at| opening + at + end.len()),
            );
        }
    }
    if literal.starts_with('"') && prefix <= 1 {
        return Some(prefix + quoted_length(literal, '"'));
    }
    let mut after_quote = literal.strip_prefix('\'').filter(|_| prefix <= 1)?.chars();
    let is_char = after_quote.next() == Some('\\') || after_quote.next() == Some('\'');
    // A lifetime is a mark and then a word.
    is_char.then(|| prefix + quoted_length(literal, '\''))
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

fn quoted_length(literal: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in literal.char_indices().skip(1) {
        if !escaped && c == quote {
            return at + 1;
        }
        escaped = !escaped && c == '\\';
    }
    literal.len()
}

fn word_length(rest: &str) -> usize {
    if rest.starts_with("::") {
        return 2;
    }
    let raw = if rest.starts_with("r#") { 2 } else { 0 };
    let is_mark = |c: char| !c.is_alphanumeric() && c != '_';
    match rest[raw..].find(is_mark) {
        Some(0) => rest.chars().next().map_or(1, char::len_utf8),
        Some(length) => raw + length,
        None => rest.len(),
    }
}

// ── the checker can fail ─────────────────────────────────────────────────────────────────────

fn complaints(path: &str, text: &str) -> Vec<String> {
    check(&[Source { path: path.into(), text: text.into() }])
}

fn assert_refused(path: &str, text: &str, why: &str) {
    let complaints = complaints(path, text);
    assert!(complaints.iter().any(|line| line.contains(why)), "{text}: {complaints:?}");
}

fn assert_fine(path: &str, text: &str) {
    assert_eq!(complaints(path, text), Vec::<String>::new(), "{text}");
}

#[test]
fn use_of_a_higher_floor_is_refused_however_it_is_written() {
    let why = "docker (floor 1) uses ops (floor 2)";
    assert_refused("docker/call.rs", "use crate::ops::task;", why);
    assert_refused("docker/call.rs", "use crate::{limits, ops};", why);
    assert_refused("docker/call.rs", "use crate::{limits::{A, B}, model, ops::{self, x}};", why);
    assert_refused("docker/call.rs", "fn f() { crate::ops::task::go(); }", why);
    assert_refused("docker/call.rs", "use super::super::ops::task;", why);
    assert_refused("docker/call.rs", "use super::{super::ops, error};", why);
    assert_refused("docker/mod.rs", "use super::ops;", why);
    assert_refused("docker.rs", "use super::ops;", why);
    assert_refused("docker/call.rs", "mod deep { use super::super::super::ops; }", why);
    assert_refused("docker/call.rs", "use self::super::super::ops;", why);
    assert_refused("docker/call.rs", "use ::river_runner::ops;", why);
    assert_refused("docker/call.rs", "pub use crate :: /* why not */ ops as o;", why);
    assert_refused("docker/call.rs", "#[cfg(test)] mod test { use crate::ops; }", why);
}

#[test]
fn complaint_names_file_and_line() {
    let text = "//! Words.\n\nuse std::io;\nuse crate::api;\n";
    let expected = "store/file.rs:4: store (floor 1) uses api (floor 3)";
    assert_eq!(complaints("store/file.rs", text), [expected]);
}

#[test]
fn rooms_of_one_floor_leave_each_other_alone() {
    assert_refused("lanes/mod.rs", "use crate::machine::pin;", "lanes (floor 1) uses machine");
    assert_refused("api/tasks.rs", "use crate::loops::sweep;", "api (floor 3) uses loops");
    assert_refused("app/mod.rs", "use crate::cli;", "app (floor 4) uses cli");
    assert_refused("wire/api.rs", "use crate::model::ids;", "wire (floor 0) uses model");
    assert_refused("model/task.rs", "use crate::wire::api;", "model (floor 0) uses wire");
    assert_refused("limits.rs", "use crate::metrics;", "limits (floor 0) uses metrics");
}

#[test]
fn imports_that_go_down_are_fine() {
    assert_fine("ops/node.rs", "use crate::{docker::Docker, lanes::Lanes, model::ids::TaskId};");
    assert_fine("threads.rs", "use crate::{limits, metrics};");
    assert_fine("cli/serve.rs", "use crate::app;");
    assert_fine("main.rs", "use river_runner::cli; mod test { use super::*; }");
    assert_fine("bin/tunnel-client.rs", "use river_runner::wire::tunnel;");
}

#[test]
fn paths_within_a_room_are_fine() {
    assert_fine("lanes/board.rs", "use super::pool; use crate::lanes::Job; use self::x::y;");
    assert_fine("lanes/board.rs", "mod test { use super::*; use super::super::Job; }");
    assert_fine("lanes/board.rs", "pub(super) fn f(self) {} pub(crate) fn g() {}");
}

#[test]
fn words_in_comments_and_quotes_are_not_code() {
    assert_fine("lanes/mod.rs", "// use crate::api;\n/* crate::ops /* nested */ crate::api */");
    assert_fine(
        "lanes/mod.rs",
        r##"const A: &str = "\" crate::ops"; const B: &str = r#"" crate::api"#;"##,
    );
    assert_fine("lanes/mod.rs", "fn f<'a>(x: &'a u8) { let c = ['\\'', '\"', '{']; }");
}

#[test]
fn code_after_quotes_is_still_read() {
    let why = "uses ops";
    assert_refused("lanes/mod.rs", "const A: char = '\"'; use crate::ops;", why);
    assert_refused("lanes/mod.rs", r##"const A: &str = r#"""#; use crate::ops;"##, why);
    assert_refused("lanes/mod.rs", "const A: &[u8] = b\"\\\\\"; use crate::ops;", why);
    assert_refused("lanes/mod.rs", "fn f<'a>(x: &'a u8) { crate::ops::go('\\'') }", why);
}

#[test]
fn room_without_a_floor_is_refused() {
    assert_refused("attic/mod.rs", "use crate::limits;", "attic is on no floor");
    assert_refused("ops/node.rs", "use crate::attic::x;", "attic is on no floor");
}

#[test]
fn glob_of_the_root_is_refused() {
    assert_refused("lanes/mod.rs", "use crate::*;", "glob of the crate root");
    assert_refused("lanes/mod.rs", "use super::*;", "glob of the crate root");
    assert_refused("lanes/mod.rs", "use crate::{self as all};", "glob of the crate root");
}

#[test]
fn names_that_nobody_owns_are_refused() {
    assert_refused("ops/utils.rs", "", "called utils");
    assert_refused("common/mod.rs", "", "called common");
    assert_refused("ops/mod.rs", "mod helpers { }", "called helpers");
    assert_refused("ops/mod.rs", "pub mod manager;", "called manager");
}

#[test]
fn threads_start_in_one_place() {
    let why = "outside threads.rs";
    assert_refused("ops/mod.rs", "fn f() { std::thread::spawn(|| ()); }", why);
    assert_refused("ops/mod.rs", "use std::thread::{self, Builder};", why);
    assert_refused("ops/mod.rs", "use std::thread; fn f() { thread::scope(|_| ()); }", why);
    assert_refused("ops/mod.rs", "use std::{io, thread::spawn};", why);
    assert_fine("threads.rs", "use std::thread::{Builder, JoinHandle};");
    assert_fine("ops/mod.rs", "use std::thread::JoinHandle; fn f() { std::thread::sleep(d) }");
    assert_fine("ops/mod.rs", "mod test { fn f() { std::thread::spawn(|| ()); } }");
    assert_fine("ops/test.rs", "fn f() { std::thread::scope(|_| ()); }");
}

#[test]
fn code_that_asks_whether_it_is_tested_is_refused() {
    assert_refused("ops/mod.rs", "fn f() { if cfg!(test) {} }", "cfg!(test)");
    assert_refused("ops/mod.rs", "#[path = \"x.rs\"] mod y;", "#[path]");
    assert_fine("ops/mod.rs", "#[cfg(test)] mod test { }");
}

#[test]
fn circle_of_rooms_is_found() {
    let edge = |from: &str, to: &str| (from.to_owned(), BTreeSet::from([to.to_owned()]));
    let round = BTreeMap::from([edge("a", "b"), edge("b", "c"), edge("c", "b")]);
    assert_eq!(cycle(&round).unwrap(), "b → c");
    let straight = BTreeMap::from([edge("a", "b"), edge("b", "c")]);
    assert_eq!(cycle(&straight), None);
}

#[test]
fn async_runtime_in_a_lock_file_is_found() {
    let lock = "[[package]]\nname = \"tokio\"\nversion = \"1\"\n\nname = \"mio-like\"\n";
    assert_eq!(banned_packages(lock), ["tokio"]);
}
