//! Splits Rust into words and signs, apart from comments, and without what is inside of literals.
//!
//! Knows no grammar.

use std::iter::Peekable;
use std::str::Chars;

/// A word or a sign of the code; no comment, and nothing from inside a literal.
#[derive(Debug)]
pub(super) struct Token {
    /// An identifier, a keyword, a number, `::`, or one other character.
    pub(super) text: String,
    /// Counted from 1.
    pub(super) line: usize,
    /// Compiled for tests only.
    pub(super) test: bool,
}

/// All tokens of `text`, none of them marked as test code, and every line of every comment.
pub(super) fn tokens_and_comments(text: &str) -> (Vec<Token>, Vec<(usize, String)>) {
    let mut lexer = Lexer::new(text);
    lexer.run();
    (lexer.tokens, lexer.comments)
}

struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
    tokens: Vec<Token>,
    comments: Vec<(usize, String)>,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            rest: text.chars().peekable(),
            line: 1,
            tokens: Vec::new(),
            comments: Vec::new(),
        }
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next()?;
        self.line += usize::from(next == '\n');
        Some(next)
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn push(&mut self, text: String, line: usize) {
        self.tokens.push(Token {
            text,
            line,
            test: false,
        });
    }

    fn run(&mut self) {
        while let Some(first) = self.peek() {
            let line = self.line;
            if first.is_alphanumeric() || first == '_' {
                self.word(line);
                continue;
            }
            self.next();
            match (first, self.peek()) {
                ('/', Some('/')) => self.line_comment(line),
                ('/', Some('*')) => self.block_comment(),
                ('"', _) => self.string(None),
                ('\'', _) => self.character_or_lifetime(),
                (':', Some(':')) => {
                    self.next();
                    self.push("::".to_owned(), line);
                }
                _ if first.is_whitespace() => {}
                _ => self.push(first.to_string(), line),
            }
        }
    }

    fn take_word(&mut self) -> String {
        let mut word = String::new();
        while let Some(next) = self
            .peek()
            .filter(|next| next.is_alphanumeric() || *next == '_')
        {
            word.push(next);
            self.next();
        }
        word
    }

    fn word(&mut self, line: usize) {
        let word = self.take_word();
        let literal = matches!(word.as_str(), "r" | "b" | "c" | "br" | "cr");
        match self.peek() {
            Some('"') if literal => {
                self.next();
                self.string(word.contains('r').then_some(0));
            }
            Some('\'') if word == "b" => {
                self.next();
                self.character_or_lifetime();
            }
            Some('#') if literal && word.contains('r') => self.raw(line),
            _ => self.push(word, line),
        }
    }

    /// A raw string, or an identifier such as `r#type`.
    fn raw(&mut self, line: usize) {
        let mut hashes = 0;
        while self.peek() == Some('#') {
            self.next();
            hashes += 1;
        }
        if self.peek() == Some('"') {
            self.next();
            self.string(Some(hashes));
        } else {
            self.word(line);
        }
    }

    /// What follows the opening quote; `raw` is the number of hashes, if it is a raw string.
    fn string(&mut self, raw: Option<usize>) {
        while let Some(next) = self.next() {
            match (next, raw) {
                ('\\', None) => drop(self.next()),
                ('"', None) => return,
                ('"', Some(hashes)) => {
                    let mut found = 0;
                    while found < hashes && self.peek() == Some('#') {
                        self.next();
                        found += 1;
                    }
                    if found == hashes {
                        return;
                    }
                }
                _ => {}
            }
        }
    }

    /// What follows a single quote.
    fn character_or_lifetime(&mut self) {
        match self.next() {
            Some('\\') => {
                self.next();
                while self.next().is_some_and(|next| next != '\'') {}
            }
            Some(_) if self.peek() == Some('\'') => drop(self.next()),
            // A lifetime. Its name is no word, or 'static would be one.
            Some(_) => drop(self.take_word()),
            None => {}
        }
    }

    fn line_comment(&mut self, line: usize) {
        let mut comment = String::new();
        while let Some(next) = self.peek().filter(|next| *next != '\n') {
            comment.push(next);
            self.next();
        }
        self.comments.push((line, comment));
    }

    fn block_comment(&mut self) {
        let mut depth = 1;
        let mut comment = String::new();
        self.next();
        while let (true, Some(next)) = (depth > 0, self.next()) {
            match (next, self.peek()) {
                ('/', Some('*')) => depth += 1,
                ('*', Some('/')) => depth -= 1,
                ('\n', _) => {
                    self.comments
                        .push((self.line - 1, std::mem::take(&mut comment)));
                    continue;
                }
                _ => {
                    comment.push(next);
                    continue;
                }
            }
            self.next();
        }
        self.comments.push((self.line, comment));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        let (tokens, _) = tokens_and_comments(text);
        tokens
            .iter()
            .map(|token| token.text.as_str())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn literals_and_comments_are_no_words() {
        assert_eq!(words(r#"let a = "b // c \" d"; // e"#), "let a = ;");
        assert_eq!(words("a /* b /* c */ d */ e"), "a e");
        assert_eq!(words(r##"r#"a " b"# c br"d\" e r#type"##), "c e type");
        assert_eq!(
            words(r"'a' b'\'' '\u{1f}' fn f<'x>(y: &'x str)"),
            "fn f < > ( y : & str )"
        );
        assert_eq!(words("vhost::a . b"), "vhost :: a . b");
    }

    #[test]
    fn comments_have_their_lines() {
        let (tokens, comments) = tokens_and_comments("a\n// one\nb /* two\nthree */ c");
        let comments: Vec<(usize, &str)> = comments
            .iter()
            .map(|(line, text)| (*line, text.trim_matches(['/', ' '])))
            .collect();
        assert_eq!(comments, [(2, "one"), (3, "two"), (4, "three")]);
        let lines: Vec<usize> = tokens.iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 3, 4]);
    }
}
