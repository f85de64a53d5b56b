//! Reads label selectors written as text, with upstream's grammar and upstream's complaints.
//!
//! ```text
//!   selector    = [ requirement { "," requirement } ]
//!   requirement = [ "!" ] KEY | KEY ("=" | "==" | "!=" | ">" | "<") [ VALUE ] | KEY ("in" | "notin") "(" values ")"
//!   values      = [ VALUE ] { "," [ VALUE ] }
//! ```
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeSet, str::FromStr};

use super::label::{Operator, Requirement, Selector};
use crate::{names, quote};

const BINARY_OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

/// The sentence is upstream's, whole: clients see it in a 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSelectorError {
    #[error("unable to parse requirement: {0}")]
    Requirement(String),
    #[error("found '{found}', expected: {expected}")]
    Unexpected { found: String, expected: &'static str },
}

impl FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Selector, ParseSelectorError> {
        Parser { tokens: scan(text), at: 0 }.selector().map(Selector::of)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    End,
    Comma,
    Open,
    Close,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
    Word(&'a str),
}

impl Token<'_> {
    fn text(&self) -> &str {
        match self {
            Token::End => "",
            Token::Comma => ",",
            Token::Open => "(",
            Token::Close => ")",
            Token::Not => "!",
            Token::Equals => "=",
            Token::DoubleEquals => "==",
            Token::NotEquals => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::In => "in",
            Token::NotIn => "notin",
            Token::Word(word) => word,
        }
    }
}

/// Symbols take the longest match; `in` and `notin` are words that the grammar may read as operators.
fn scan(text: &str) -> Vec<Token<'_>> {
    const SYMBOLS: [(&str, Token<'_>); 9] = [
        ("==", Token::DoubleEquals),
        ("!=", Token::NotEquals),
        ("=", Token::Equals),
        ("!", Token::Not),
        (",", Token::Comma),
        ("(", Token::Open),
        (")", Token::Close),
        (">", Token::Greater),
        ("<", Token::Less),
    ];
    let blank = [' ', '\t', '\r', '\n'];
    let mut rest = text.trim_start_matches(blank);
    let mut tokens = Vec::new();
    while !rest.is_empty() && !rest.starts_with('\0') {
        if let Some((symbol, token)) = SYMBOLS.iter().find(|(symbol, _)| rest.starts_with(symbol)) {
            tokens.push(*token);
            rest = &rest[symbol.len()..];
        } else {
            let stop = |c: char| blank.contains(&c) || "=!(),><\0".contains(c);
            let (word, after) = rest.split_at(rest.find(stop).unwrap_or(rest.len()));
            tokens.push(match word {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Word(word),
            });
            rest = after;
        }
        rest = rest.trim_start_matches(blank);
    }
    tokens
}

/// Where a token stands decides whether `in` is an operator or a word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Operator,
    Word,
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

type Wrong = String;

impl<'a> Parser<'a> {
    fn peek(&self, reading: Reading) -> Token<'a> {
        match self.tokens.get(self.at).copied().unwrap_or(Token::End) {
            Token::In if reading == Reading::Word => Token::Word("in"),
            Token::NotIn if reading == Reading::Word => Token::Word("notin"),
            token => token,
        }
    }

    fn next(&mut self, reading: Reading) -> Token<'a> {
        let token = self.peek(reading);
        self.at += 1;
        token
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, ParseSelectorError> {
        let unexpected = |token: Token<'_>, expected| ParseSelectorError::Unexpected {
            found: token.text().into(),
            expected,
        };
        let mut requirements = Vec::new();
        loop {
            match self.peek(Reading::Word) {
                Token::End => return Ok(requirements),
                Token::Word(_) | Token::Not => {
                    requirements.push(self.requirement().map_err(ParseSelectorError::Requirement)?);
                }
                other => return Err(unexpected(other, "!, identifier, or 'end of string'")),
            }
            match self.next(Reading::Word) {
                Token::End => return Ok(requirements),
                Token::Comma => {
                    let after = self.peek(Reading::Word);
                    if !matches!(after, Token::Word(_) | Token::Not) {
                        return Err(unexpected(after, "identifier after ','"));
                    }
                }
                other => return Err(unexpected(other, "',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, Wrong> {
        let mut token = self.next(Reading::Word);
        let negated = token == Token::Not;
        if negated {
            token = self.next(Reading::Word);
        }
        let Token::Word(key) = token else {
            return Err(format!("found '{}', expected: identifier", token.text()));
        };
        let errors = names::qualified_name(key);
        if !errors.is_empty() {
            // Upstream prints its absent path so.
            return Err(format!("<nil>: Invalid value: {}: {}", quote(key), errors.join("; ")));
        }
        let alone = matches!(self.peek(Reading::Word), Token::End | Token::Comma);
        let (operator, values) = match (negated, alone) {
            (true, _) => (Operator::DoesNotExist, BTreeSet::new()),
            (false, true) => (Operator::Exists, BTreeSet::new()),
            (false, false) => self.operator_and_values()?,
        };
        let values = values.into_iter().map(String::from).collect();
        Requirement::new(key, operator, values).map_err(|wrong| match wrong.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        })
    }

    fn operator_and_values(&mut self) -> Result<(Operator, BTreeSet<&'a str>), Wrong> {
        let operator = match self.next(Reading::Operator) {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            other => return Err(format!("found '{}', expected: {BINARY_OPERATORS}", other.text())),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.value_set()?,
            _ => BTreeSet::from([self.exact_value()?]),
        };
        Ok((operator, values))
    }

    fn exact_value(&mut self) -> Result<&'a str, Wrong> {
        if matches!(self.peek(Reading::Word), Token::End | Token::Comma) {
            return Ok("");
        }
        match self.next(Reading::Word) {
            Token::Word(word) => Ok(word),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn value_set(&mut self) -> Result<BTreeSet<&'a str>, Wrong> {
        let open = self.next(Reading::Word);
        if open != Token::Open {
            return Err(format!("found '{}' expected: '('", open.text()));
        }
        match self.peek(Reading::Word) {
            Token::Word(_) | Token::Comma => {}
            Token::Close => {
                self.at += 1;
                return Ok(BTreeSet::from([""]));
            }
            other => return Err(format!("found '{}', expected: ',', ')' or identifier", other.text())),
        }
        let mut values = BTreeSet::new();
        loop {
            match self.next(Reading::Word) {
                Token::Word(word) => {
                    values.insert(word);
                    match self.peek(Reading::Word) {
                        Token::Comma => {}
                        Token::Close => break,
                        other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
                    }
                }
                Token::Comma => {
                    if values.is_empty() {
                        values.insert("");
                    }
                    match self.peek(Reading::Word) {
                        Token::Close => {
                            values.insert("");
                            break;
                        }
                        Token::Comma => {
                            values.insert("");
                        }
                        _ => {}
                    }
                }
                other => return Err(format!("found '{}', expected: ',', or identifier", other.text())),
            }
        }
        self.at += 1; // the ")" that both ways out have seen
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_that_parses_prints_in_canonical_form() {
        for (text, printed) in [
            ("", ""),
            ("  \t\n", ""),
            ("x=a,y=b,z=c", "x=a,y=b,z=c"),
            ("z=c, y != b ,x", "x,y!=b,z=c"),
            ("x==a", "x==a"),
            ("x=", "x="),
            ("x= ,z= ", "x=,z="),
            ("!x", "!x"),
            ("x in (c,a,b,a)", "x in (a,b,c)"),
            ("x notin ()", "x notin ()"),
            ("x in (,)", "x in ()"),
            ("x in (a,,b)", "x in (,a,b)"),
            ("x in (a,)", "x in (,a)"),
            ("x in (in,notin)", "x in (in,notin)"),
            ("in in (a)", "in in (a)"),
            ("in", "in"),
            ("notin=in", "notin=in"),
            ("x>1,y<7", "x>1,y<7"),
            ("a.b/c=d", "a.b/c=d"),
        ] {
            assert_eq!(text.parse::<Selector>().unwrap().to_string(), printed, "{text:?}");
        }
    }

    #[test]
    fn text_that_does_not_parse_says_why_in_upstreams_words() {
        let key = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                   alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                   '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
        for (text, error) in [
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("x,", "found '', expected: identifier after ','"),
            ("x,=", "found '=', expected: identifier after ','"),
            ("x=a b", "found 'b', expected: ',' or 'end of string'"),
            ("!x=a", "found '=', expected: ',' or 'end of string'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("x a", "unable to parse requirement: found 'a', expected: in, notin, =, ==, !=, gt, lt"),
            ("x ! a", "unable to parse requirement: found '!', expected: in, notin, =, ==, !=, gt, lt"),
            ("x===a", "unable to parse requirement: found '=', expected: identifier"),
            ("x in a", "unable to parse requirement: found 'a' expected: '('"),
            ("x in (", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
            ("x in (a", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("x in (a,", "unable to parse requirement: found '', expected: ',', or identifier"),
            ("x in (a=b)", "unable to parse requirement: found '=', expected: ',' or ')'"),
            (
                "x>a",
                "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators, the \
              value must be an integer",
            ),
            ("-x", &format!("unable to parse requirement: <nil>: Invalid value: \"-x\": {key}")),
        ] {
            assert_eq!(text.parse::<Selector>().unwrap_err().to_string(), error, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _unused = text.parse::<Selector>();
        }

        #[test]
        fn what_prints_parses_back(text in "[ab!=<>(), 1]{0,16}|[ab] (in|notin) \\([ab,]{0,6}\\),[!]?c") {
            if let Ok(selector) = text.parse::<Selector>() {
                prop_assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector);
            }
        }
    }
}
