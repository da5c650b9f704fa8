//! Python text to logical lines of tokens: what is in brackets or continued is one line.

use std::iter::Peekable;
use std::str::Chars;

use super::Why;

/// A logical line.
#[derive(Debug, PartialEq)]
pub struct Line {
    /// Where it begins, from 1.
    pub number: usize,
    /// Blanks before its first token.
    pub indent: usize,
    pub tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Name(String),
    Text(String),
    Number(i64),
    Sign(char),
    /// Something that is no plain value, with the reason.
    Odd(Why),
}

/// All lines of `source` that hold a token.
pub fn lines(source: &str) -> Vec<Line> {
    let mut lexer = Lexer { rest: source.chars().peekable(), number: 1 };
    let mut lines = Vec::new();
    while lexer.rest.peek().is_some() {
        let line = lexer.line();
        if !line.tokens.is_empty() {
            lines.push(line);
        }
    }
    lines
}

struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    number: usize,
}

impl Lexer<'_> {
    fn line(&mut self) -> Line {
        let mut line = Line { number: self.number, indent: 0, tokens: Vec::new() };
        let mut depth = 0_usize;
        while let Some(letter) = self.next() {
            match letter {
                '\n' if depth == 0 => break,
                ' ' | '\t' if line.tokens.is_empty() => line.indent += 1,
                ' ' | '\t' | '\n' | '\r' => (),
                '#' => while self.rest.next_if(|letter| *letter != '\n').is_some() {},
                '\\' if self.ends_line() => (),
                '"' | '\'' => line.tokens.push(self.text(letter, "")),
                '0'..='9' => line.tokens.push(self.number_from(letter)),
                _ if letter.is_alphabetic() || letter == '_' => {
                    line.tokens.push(self.name_or_text(letter));
                }
                _ => {
                    match letter {
                        '(' | '[' | '{' => depth += 1,
                        ')' | ']' | '}' => depth = depth.saturating_sub(1),
                        _ => (),
                    }
                    line.tokens.push(Token::Sign(letter));
                }
            }
        }
        line
    }

    fn next(&mut self) -> Option<char> {
        let letter = self.rest.next();
        self.number += usize::from(letter == Some('\n'));
        letter
    }

    /// Behind a backslash: eats the end of the line, if that is what follows.
    fn ends_line(&mut self) -> bool {
        self.rest.next_if_eq(&'\r');
        if self.rest.peek() == Some(&'\n') {
            self.next();
            return true;
        }
        false
    }

    fn name_or_text(&mut self, first: char) -> Token {
        let mut word = String::from(first);
        while let Some(letter) = self.rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
            word.push(letter);
        }
        let is_prefix = word.len() <= 2 && word.chars().all(|c| "rRbBuUfF".contains(c));
        match self.rest.next_if(|letter| is_prefix && matches!(letter, '"' | '\'')) {
            Some(quote) => self.text(quote, &word),
            None => Token::Name(word),
        }
    }

    fn number_from(&mut self, first: char) -> Token {
        let mut word = String::from(first);
        while let Some(letter) = self.rest.next_if(|c| c.is_alphanumeric() || "._".contains(*c)) {
            if letter != '_' {
                word.push(letter.to_ascii_lowercase());
            }
        }
        let (digits, radix) = match (word.get(..2), word.get(2..)) {
            (Some("0x"), Some(digits)) => (digits, 16),
            (Some("0o"), Some(digits)) => (digits, 8),
            (Some("0b"), Some(digits)) => (digits, 2),
            _ => (word.as_str(), 10),
        };
        match i64::from_str_radix(digits, radix) {
            Ok(number) => Token::Number(number),
            Err(_) if digits.chars().all(|digit| digit.is_digit(radix)) => {
                Token::Odd(Why::NumberTooLarge)
            }
            Err(_) => Token::Odd(Why::Fraction),
        }
    }

    /// Behind the opening quote.
    fn text(&mut self, quote: char, prefix: &str) -> Token {
        let has = |letters: [char; 2]| prefix.contains(letters);
        let is_triple = match self.rest.next_if_eq(&quote) {
            None => false,
            Some(_) if self.rest.next_if_eq(&quote).is_some() => true,
            Some(_) => return Token::Text(String::new()),
        };
        let Some(text) = self.text_body(quote, is_triple, has(['r', 'R'])) else {
            return Token::Odd(Why::Unclosed);
        };
        if has(['b', 'B']) {
            Token::Odd(Why::Bytes)
        } else if has(['f', 'F']) && text.contains(['{', '}']) {
            Token::Odd(Why::FormatString)
        } else {
            Token::Text(text)
        }
    }

    /// Up to and with the closing quote; `None` when there is none.
    fn text_body(&mut self, quote: char, is_triple: bool, is_raw: bool) -> Option<String> {
        let mut text = String::new();
        loop {
            match self.next()? {
                letter if letter == quote && (!is_triple || self.eat_two(quote)) => {
                    return Some(text);
                }
                '\n' if !is_triple => return None,
                '\\' if is_raw => text.extend(['\\', self.next()?]),
                '\\' => self.escape(&mut text)?,
                letter => text.push(letter),
            }
        }
    }

    fn eat_two(&mut self, quote: char) -> bool {
        let mut ahead = self.rest.clone();
        let both = ahead.next() == Some(quote) && ahead.next() == Some(quote);
        if both {
            self.rest = ahead;
        }
        both
    }

    /// Behind a backslash. An escape that Python doesn't know stays as it is written.
    fn escape(&mut self, text: &mut String) -> Option<()> {
        match self.next()? {
            '\n' => (),
            letter @ ('\\' | '\'' | '"') => text.push(letter),
            'n' => text.push('\n'),
            't' => text.push('\t'),
            'r' => text.push('\r'),
            'x' => text.push(self.code(2)?),
            'u' => text.push(self.code(4)?),
            'U' => text.push(self.code(8)?),
            letter => text.extend(['\\', letter]),
        }
        Some(())
    }

    fn code(&mut self, digits: usize) -> Option<char> {
        let mut code = 0;
        for _ in 0..digits {
            code = code * 16 + self.next()?.to_digit(16)?;
        }
        char::from_u32(code)
    }
}
