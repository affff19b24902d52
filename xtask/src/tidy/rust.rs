//! As much of Rust's grammar as the rules need: paths, brackets, and what is test code.
//!
//! Knows no types and no macros. Where the code is odd it sees too little, and never fails.

use super::lexer::{Token, tokens_and_comments};

/// The text of a file.
pub(super) struct Rust {
    pub(super) tokens: Vec<Token>,
    /// Every line of every comment, and where it stands.
    pub(super) comments: Vec<(usize, String)>,
    pub(super) lines: usize,
}

/// `a::b::c`, be it written so or as part of a `use` with braces.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
    pub(super) test: bool,
    /// From a `use` item.
    pub(super) used: bool,
}

impl Name {
    pub(super) fn starts_with(&self, segments: &[&str]) -> bool {
        self.segments.len() >= segments.len()
            && self.segments.iter().zip(segments).all(|(a, b)| a == b)
    }
}

impl Rust {
    pub(super) fn new(text: &str) -> Self {
        let (mut tokens, comments) = tokens_and_comments(text);
        mark_tests(&mut tokens);
        Self {
            tokens,
            comments,
            lines: text.lines().count(),
        }
    }

    /// The text of token `index`; empty past the end.
    pub(super) fn at(&self, index: usize) -> &str {
        at(&self.tokens, index)
    }

    /// Number of lines that are not test code.
    pub(super) fn lines_without_tests(&self) -> usize {
        let regions = self.tokens.chunk_by(|a, b| a.test == b.test);
        let in_tests = regions.map(|region| match (region.first(), region.last()) {
            (Some(first), Some(last)) if first.test => last.line - first.line + 1,
            _ => 0,
        });
        self.lines - in_tests.sum::<usize>()
    }

    /// Index of the bracket that closes the one at `open`, or of the last token.
    pub(super) fn closing(&self, open: usize) -> usize {
        closing(&self.tokens, open)
    }

    /// Every path of two or more segments, and whatever a `use` names.
    pub(super) fn names(&self) -> Vec<Name> {
        let mut names = Vec::new();
        let mut index = 0;
        while let Some(token) = self.tokens.get(index) {
            let continues = index > 0 && self.at(index - 1) == "::" && {
                index > 1 && (is_word(self.at(index - 2)) || self.at(index - 2) == ">")
            };
            // `use<..>` in a type says what it captures.
            if token.text == "use" && self.at(index + 1) != "<" {
                index = self.use_tree(index + 1, &[], &mut names);
            } else if is_word(&token.text) && self.at(index + 1) == "::" && !continues {
                let mut segments = vec![token.text.clone()];
                while self.at(index + 1) == "::" && is_word(self.at(index + 2)) {
                    segments.push(self.at(index + 2).to_owned());
                    index += 2;
                }
                names.push(Name {
                    segments,
                    line: token.line,
                    test: token.test,
                    used: false,
                });
                index += 1;
            } else {
                index += 1;
            }
        }
        names
    }

    /// Reads one branch of a `use`, and returns the index of what follows it.
    fn use_tree(&self, mut index: usize, above: &[String], names: &mut Vec<Name>) -> usize {
        let mut segments = above.to_vec();
        let (line, test) = self
            .tokens
            .get(index)
            .map_or((0, false), |token| (token.line, token.test));
        while index < self.tokens.len() {
            match self.at(index) {
                "{" => {
                    index += 1;
                    while !matches!(self.at(index), "}" | ";" | "") {
                        index = self.use_tree(index, &segments, names);
                        index += usize::from(self.at(index) == ",");
                    }
                    return index + 1;
                }
                "as" => index += 2,
                "::" => index += 1,
                "," | "}" | ";" => break,
                segment => {
                    segments.push(segment.to_owned());
                    index += 1;
                }
            }
        }
        names.push(Name {
            segments,
            line,
            test,
            used: true,
        });
        index
    }
}

/// An identifier, a keyword or a number.
pub(super) fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphanumeric() || first == '_')
}

fn at(tokens: &[Token], index: usize) -> &str {
    tokens.get(index).map_or("", |token| &token.text)
}

fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len().saturating_sub(1)
}

/// Marks items below an attribute such as `#[cfg(test)]`.
fn mark_tests(tokens: &mut [Token]) {
    let mut index = 0;
    while index < tokens.len() {
        let is_cfg = at(tokens, index) == "#" && at(tokens, index + 2) == "cfg";
        let attribute_end = closing(tokens, index + 1);
        let mut condition = tokens.get(index..attribute_end).unwrap_or_default().iter();
        let for_tests = is_cfg
            && condition.clone().any(|token| token.text == "test")
            && !condition.any(|token| token.text == "not");
        if for_tests {
            let end = item_end(tokens, attribute_end + 1);
            let item = tokens.iter_mut().take(end + 1).skip(index);
            item.for_each(|token| token.test = true);
            index = end;
        }
        index += 1;
    }
}

/// Index of the last token of the item that begins at `index`, perhaps with attributes.
fn item_end(tokens: &[Token], mut index: usize) -> usize {
    while index < tokens.len() {
        match at(tokens, index) {
            ";" => return index,
            "{" => return closing(tokens, index),
            "(" | "[" => index = closing(tokens, index) + 1,
            _ => index += 1,
        }
    }
    tokens.len().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_and_outside_of_use() {
        let text = "use a::{b::{c, d as e}, self, *}; use f; fn g() { ::h::i::<j::k>::l(); m.n }";
        let names: Vec<String> = Rust::new(text)
            .names()
            .iter()
            .map(|name| name.segments.join("::"))
            .collect();
        assert_eq!(
            names,
            ["a::b::c", "a::b::d", "a::self", "a::*", "f", "h::i", "j::k"]
        );
    }

    /// It once ended only when the memory did.
    #[test]
    fn what_a_type_captures_is_no_use_item() {
        let text = "fn a() -> impl B + use<'_, C> { d::e(); } use f::{g; h::i";
        let names: Vec<String> = Rust::new(text)
            .names()
            .iter()
            .map(|name| name.segments.join("::"))
            .collect();
        assert_eq!(names, ["d::e", "f::g", "h::i"]);
    }

    #[test]
    fn items_for_tests_are_marked() {
        let text = "a;\n#[cfg(test)]\nmod tests {\n use b;\n fn c() {}\n}\nd;\n\
                    #[cfg(not(test))] e;\n#[cfg(test)] #[f(g)] fn h([i; 3]: j) -> k { l }\nm";
        let rust = Rust::new(text);
        let live: Vec<&str> = rust
            .tokens
            .iter()
            .filter(|token| !token.test && is_word(&token.text))
            .map(|token| token.text.as_str())
            .collect();
        assert_eq!(live, ["a", "d", "cfg", "not", "test", "e", "m"]);
        assert_eq!(rust.lines_without_tests(), 4);
    }
}
