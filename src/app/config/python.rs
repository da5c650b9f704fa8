//! Reads the assignments of a Python module as far as they are plain values, without running it.
//! Called by `import`; knows no setting. What is not plain is named with its reason, never guessed.

mod lex;

use std::collections::HashMap;
use std::fmt;

use lex::{Line, Token};

/// One assignment at the level of the module, or inside an `if` and the like.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub name: String,
    pub line: usize,
    pub value: Result<Literal, Why>,
}

/// A plain Python value.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    Text(String),
    Number(i64),
    Flag(bool),
    Nothing,
    List(Vec<Literal>),
}

/// Why a value was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Bytes,
    Call,
    Changed,
    FormatString,
    Fraction,
    InABlock,
    NotPlain,
    NumberTooLarge,
    Several,
    TooDeep,
    Unclosed,
    UnknownName,
}

/// All assignments of `source`, in its order. Functions and classes are skipped.
pub fn assignments(source: &str) -> Vec<Assignment> {
    let mut reader = Reader::default();
    // The block that is being skipped: how far its head is indented, and what it is.
    let mut block: Option<(usize, Block)> = None;
    for line in lex::lines(source) {
        if let Some((_, kind)) = block.filter(|(indent, _)| line.indent > *indent) {
            reader.pass_over(&line, kind);
            continue;
        }
        block = block_kind(&line).map(|kind| (line.indent, kind));
        match block {
            Some((_, kind)) => reader.pass_over(&line, kind),
            None => line.tokens.split(|token| *token == Token::Sign(';')).for_each(|statement| {
                reader.read_statement(statement, line.number);
            }),
        }
    }
    reader.found
}

/// What kind of statement has lines that belong to it.
#[derive(Clone, Copy)]
enum Block {
    /// Names in it are its own.
    Own,
    /// Names in it are the module's, if it runs.
    Conditional,
}

fn block_kind(line: &Line) -> Option<Block> {
    match line.tokens.first()? {
        Token::Sign('@') => Some(Block::Own),
        Token::Name(word) => match word.as_str() {
            "def" | "class" | "async" => Some(Block::Own),
            "if" | "elif" | "else" | "for" | "while" | "try" | "except" | "finally" | "with" => {
                Some(Block::Conditional)
            }
            _ => None,
        },
        Token::Sign(_) | Token::Text(_) | Token::Number(_) | Token::Odd(_) => None,
    }
}

#[derive(Default)]
struct Reader {
    found: Vec<Assignment>,
    /// Values by name, for later lines that use them.
    known: HashMap<String, Literal>,
}

impl Reader {
    /// Names assigned in a line that is not read.
    fn pass_over(&mut self, line: &Line, kind: Block) {
        if matches!(kind, Block::Own) {
            return;
        }
        let is_end = |token: &Token| matches!(token, Token::Sign(';' | ':'));
        for statement in line.tokens.split(is_end) {
            if let [Token::Name(name), rest @ ..] = statement
                && starts_assignment(rest)
            {
                self.note(name, line.number, Err(Why::InABlock));
            }
        }
    }

    fn read_statement(&mut self, statement: &[Token], line: usize) {
        let [Token::Name(name), rest @ ..] = statement else { return };
        match rest {
            [Token::Sign('='), Token::Sign('='), ..] => (),
            [Token::Sign('='), value @ ..] => {
                let value = self.evaluate(value);
                self.note(name, line, value);
            }
            [Token::Sign(':'), annotated @ ..] => {
                let equals = annotated.iter().position(|token| *token == Token::Sign('='));
                if let Some(equals) = equals {
                    let value = self.evaluate(&annotated[equals + 1..]);
                    self.note(name, line, value);
                }
            }
            [Token::Sign(','), ..] if rest.contains(&Token::Sign('=')) => {
                for token in &statement[..1 + rest.iter().position(is_equals).unwrap_or(0)] {
                    if let Token::Name(name) = token {
                        self.note(name, line, Err(Why::Several));
                    }
                }
            }
            _ if starts_assignment(rest) => self.note(name, line, Err(Why::Changed)),
            // Calls, imports, texts that document.
            _ => (),
        }
    }

    fn note(&mut self, name: &str, line: usize, value: Result<Literal, Why>) {
        match &value {
            Ok(literal) => self.known.insert(name.into(), literal.clone()),
            Err(_) => self.known.remove(name),
        };
        self.found.push(Assignment { name: name.into(), line, value });
    }

    fn evaluate(&self, tokens: &[Token]) -> Result<Literal, Why> {
        let mut expression = Expression { tokens, known: &self.known };
        let value = expression.sum(0)?;
        if expression.tokens.is_empty() { Ok(value) } else { Err(Why::NotPlain) }
    }
}

fn is_equals(token: &Token) -> bool {
    *token == Token::Sign('=')
}

/// Whether what follows a name makes the statement an assignment to it: `=`, `+=`, `: int =`.
fn starts_assignment(rest: &[Token]) -> bool {
    match rest {
        [Token::Sign('='), next, ..] => !is_equals(next),
        [Token::Sign('!' | '<' | '>' | '.' | '(' | '['), ..] => false,
        [Token::Sign(':'), rest @ ..] => rest.iter().any(is_equals),
        [Token::Sign(_), Token::Sign('='), ..] => true,
        [Token::Sign(_), Token::Sign(_), Token::Sign('='), ..] => true,
        _ => false,
    }
}

/// Brackets in brackets that are followed; more is no configuration.
const DEPTH_MAX: usize = 16;

/// What is left of an expression.
struct Expression<'a> {
    tokens: &'a [Token],
    known: &'a HashMap<String, Literal>,
}

impl Expression<'_> {
    fn sum(&mut self, depth: usize) -> Result<Literal, Why> {
        let mut total = self.product(depth)?;
        while self.eat('+') {
            total = match (total, self.product(depth)?) {
                (Literal::Text(left), Literal::Text(right)) => Literal::Text(left + &right),
                (Literal::Number(left), Literal::Number(right)) => {
                    Literal::Number(left.checked_add(right).ok_or(Why::NumberTooLarge)?)
                }
                (Literal::List(left), Literal::List(right)) => {
                    Literal::List(left.into_iter().chain(right).collect())
                }
                _ => return Err(Why::NotPlain),
            };
        }
        Ok(total)
    }

    fn product(&mut self, depth: usize) -> Result<Literal, Why> {
        let mut total = self.atom(depth)?;
        while self.eat('*') {
            let (Literal::Number(left), Literal::Number(right)) = (total, self.atom(depth)?) else {
                return Err(Why::NotPlain);
            };
            total = Literal::Number(left.checked_mul(right).ok_or(Why::NumberTooLarge)?);
        }
        Ok(total)
    }

    fn atom(&mut self, depth: usize) -> Result<Literal, Why> {
        if depth > DEPTH_MAX {
            return Err(Why::TooDeep);
        }
        let (first, rest) = self.tokens.split_first().ok_or(Why::NotPlain)?;
        self.tokens = rest;
        match first {
            Token::Text(text) => {
                let mut whole = text.clone();
                while let [Token::Text(more), rest @ ..] = self.tokens {
                    whole += more;
                    self.tokens = rest;
                }
                match self.tokens.first() {
                    Some(Token::Odd(why)) => Err(*why),
                    _ => Ok(Literal::Text(whole)),
                }
            }
            Token::Number(number) => Ok(Literal::Number(*number)),
            Token::Sign('-') => match self.atom(depth + 1)? {
                Literal::Number(number) => Ok(Literal::Number(-number)),
                _ => Err(Why::NotPlain),
            },
            Token::Sign('[') => self.entries(']', depth).map(|(entries, _)| Literal::List(entries)),
            Token::Sign('(') => self.entries(')', depth).map(|(mut entries, comma)| {
                // `("text")` is a text in brackets, `("text",)` is a list of one.
                match (entries.pop(), comma) {
                    (Some(only), false) => only,
                    (last, _) => Literal::List(entries.into_iter().chain(last).collect()),
                }
            }),
            Token::Name(name) => self.named(name),
            Token::Odd(why) => Err(*why),
            Token::Sign(_) => Err(Why::NotPlain),
        }
    }

    /// Entries up to `close`, and whether there was a comma.
    fn entries(&mut self, close: char, depth: usize) -> Result<(Vec<Literal>, bool), Why> {
        let (mut entries, mut comma) = (Vec::new(), false);
        while !self.eat(close) {
            if self.tokens.is_empty() {
                return Err(Why::Unclosed);
            }
            entries.push(self.sum(depth + 1)?);
            if self.eat(',') {
                comma = true;
            } else if self.tokens.first() != Some(&Token::Sign(close)) {
                return Err(if self.tokens.is_empty() { Why::Unclosed } else { Why::NotPlain });
            }
        }
        Ok((entries, comma))
    }

    fn named(&mut self, name: &str) -> Result<Literal, Why> {
        let mut member = None;
        while let [Token::Sign('.'), Token::Name(next), rest @ ..] = self.tokens {
            member = Some(next);
            self.tokens = rest;
        }
        if self.tokens.first() == Some(&Token::Sign('(')) {
            return Err(Why::Call);
        }
        match (name, member) {
            ("LogLevel", Some(level)) => Ok(Literal::Text(level.to_ascii_lowercase())),
            (_, Some(_)) => Err(Why::NotPlain),
            ("True", None) => Ok(Literal::Flag(true)),
            ("False", None) => Ok(Literal::Flag(false)),
            ("None", None) => Ok(Literal::Nothing),
            (name, None) => self.known.get(name).cloned().ok_or(Why::UnknownName),
        }
    }

    fn eat(&mut self, sign: char) -> bool {
        match self.tokens {
            [Token::Sign(found), rest @ ..] if *found == sign => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Bytes => "bytes are no text",
            Why::Call => "it is a function call",
            Why::Changed => "it changes an earlier value",
            Why::FormatString => "it is a format string with values in it",
            Why::Fraction => "it is not a whole number",
            Why::InABlock => "whether the block around it runs is not known",
            Why::NotPlain => "it is not a plain value",
            Why::NumberTooLarge => "the number is too large",
            Why::Several => "several names are assigned at once",
            Why::TooDeep => "brackets are nested too deeply",
            Why::Unclosed => "a quote or bracket is not closed",
            Why::UnknownName => "it uses a name that has no plain value above it",
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn value(expression: &str) -> Result<Literal, Why> {
        assignments(&format!("X = {expression}\n")).remove(0).value
    }

    fn text(text: &str) -> Result<Literal, Why> {
        Ok(Literal::Text(text.into()))
    }

    #[test]
    fn texts_are_read_with_either_quote_and_joined() {
        assert_eq!(value(r#""a" 'b' + "c""#), text("abc"));
        assert_eq!(value(r#"("a"   "b")"#), text("ab"));
        assert_eq!(value(r"r'\d' '\t\x41\''"), text("\\d\tA'"));
        assert_eq!(value("'''a\nb'''"), text("a\nb"));
    }

    #[test]
    fn numbers_are_read_with_their_arithmetic() {
        assert_eq!(value("10 * 60 + -5"), Ok(Literal::Number(595)));
        assert_eq!(value("0x1F + 1_000"), Ok(Literal::Number(1031)));
        assert_eq!(value("9223372036854775807 + 1"), Err(Why::NumberTooLarge));
        assert_eq!(value("5.0"), Err(Why::Fraction));
    }

    #[test]
    fn lists_over_several_lines_with_comments_are_read() {
        let list = value("[\n  'a',  # first\n  'b',\n]");
        assert_eq!(
            list,
            Ok(Literal::List(vec![Literal::Text("a".into()), Literal::Text("b".into())]))
        );
        assert_eq!(value("[]"), Ok(Literal::List(Vec::new())));
        assert_eq!(value("['a'] + ['b']"), list);
    }

    #[test]
    fn earlier_names_are_known_until_they_are_changed() {
        let found = assignments("A = '/srv'\nB = A + '/x'\nA += 'y'\nC = A\n");
        assert_eq!(found[1].value, text("/srv/x"));
        assert_eq!(found[2].value, Err(Why::Changed));
        assert_eq!(found[3].value, Err(Why::UnknownName));
    }

    #[test]
    fn annotated_assignment_is_one_and_a_bare_annotation_is_none() {
        let found = assignments("A: str = 'x'\nB: int\nC: dict[str, list] = None\n");
        assert_eq!(found[0], Assignment { name: "A".into(), line: 1, value: text("x") });
        assert_eq!(found[1], Assignment { name: "C".into(), line: 3, value: Ok(Literal::Nothing) });
    }

    #[test]
    fn functions_imports_and_documentation_are_skipped() {
        let found = assignments(
            "'''Doc.\nA = 1\n'''\nimport os\nfrom x import (\n  A,\n  B,\n)\n\ndef f(a=1):\n    A = 2\n\n    B = 3\nC = 4\n",
        );
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].line), ("C", 14));
    }

    #[test]
    fn assignment_in_a_condition_is_named_and_not_guessed() {
        let found = assignments("if x == 1:\n    A = 1\nelse: B = 2\nC = 3\n");
        assert_eq!(found[0].value, Err(Why::InABlock));
        assert_eq!(found[1].name, "B");
        assert_eq!(found[1].value, Err(Why::InABlock));
        assert_eq!(found[2].value, Ok(Literal::Number(3)));
    }

    #[test]
    fn what_must_be_run_is_refused_by_its_reason() {
        assert_eq!(value("os.path.join('a', 'b')"), Err(Why::Call));
        assert_eq!(value("Path('a')"), Err(Why::Call));
        assert_eq!(value("f'{A}/x'"), Err(Why::FormatString));
        assert_eq!(value("b'x'"), Err(Why::Bytes));
        assert_eq!(value("1 if A else 2"), Err(Why::NotPlain));
        assert_eq!(value("['a'"), Err(Why::Unclosed));
        assert_eq!(value("'a"), Err(Why::Unclosed));
        assert_eq!(assignments("A, B = 1, 2\n").len(), 2);
    }

    #[test]
    fn log_level_is_its_name() {
        assert_eq!(value("LogLevel.WARNING"), text("warning"));
    }

    #[test]
    fn endless_brackets_are_refused() {
        assert_eq!(value(&"[".repeat(100_000)), Err(Why::TooDeep));
        assert_eq!(value(&"-".repeat(100_000)), Err(Why::TooDeep));
    }
}
