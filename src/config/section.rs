//! Takes fields out of a map of the document, noting every mistake and going on.

use std::{fmt::Display, str::FromStr, time::Duration};

use crate::{
    Mistake,
    forms::AbsolutePath,
    tree::{Entry, Node, Value},
};

/// Sets `$target` where the section has the field; a wrong or absent one leaves the default.
macro_rules! set {
    ($target:expr, $value:expr) => {
        if let Some(value) = $value {
            $target = value.into();
        }
    };
}
pub(crate) use set;

/// More known fields than this are no help in a message.
const MANY: usize = 30;

/// One map of the document, read field by field. What nobody took by [`Section::finish`] is unknown.
pub(crate) struct Section<'a> {
    /// The path of this map, such as `network`; empty at the top.
    path: String,
    /// The line of the map, for what should be in it and is not.
    line: u64,
    entries: Vec<Entry>,
    known: Vec<&'static str>,
    mistakes: &'a mut Vec<Mistake>,
}

impl<'a> Section<'a> {
    pub(crate) fn new(path: String, node: Node, mistakes: &'a mut Vec<Mistake>) -> Self {
        let line = node.line;
        let mut entries: Vec<Entry> = Vec::new();
        match node.value {
            Value::Map(found) => {
                for entry in found {
                    if let Some(first) = entries.iter().find(|e| e.key == entry.key) {
                        let text = format!("stands twice (first in line {}); keep one of them", first.line);
                        mistakes.push(Mistake::new(entry.line, join(&path, &entry.key), text));
                    } else {
                        entries.push(entry);
                    }
                }
            }
            Value::Null => {}
            other => {
                let text = format!("must be a map of fields, not {}", other.kind());
                mistakes.push(Mistake::new(line, path.clone(), text));
            }
        }
        Self { path, line, entries, known: Vec::new(), mistakes }
    }

    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    fn take(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        let index = self.entries.iter().position(|e| e.key == key)?;
        let node = self.entries.remove(index).node;
        (node.value != Value::Null).then_some(node)
    }

    pub(crate) fn mistake(&mut self, line: u64, key: &str, text: impl Into<String>) {
        self.mistakes.push(Mistake::new(line, join(&self.path, key), text.into()));
    }

    /// A map inside this one; an absent one reads as empty.
    pub(crate) fn section(&mut self, key: &'static str) -> Section<'_> {
        let path = join(&self.path, key);
        let node = self.take(key).unwrap_or(Node { line: self.line, value: Value::Null });
        Section::new(path, node, self.mistakes)
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Option<String> {
        let node = self.take(key)?;
        self.as_text(key, node).map(|(_, text)| text)
    }

    fn as_text(&mut self, key: &str, node: Node) -> Option<(u64, String)> {
        match node.value {
            Value::Text(text) => Some((node.line, text)),
            Value::Integer(number) => Some((node.line, number.to_string())),
            other => {
                self.mistake(node.line, key, format!("must be a text, not {}", other.kind()));
                None
            }
        }
    }

    /// A text with a form of its own, such as an address; `what` names the form in the message.
    pub(crate) fn parsed<T: FromStr>(&mut self, key: &'static str, what: &str) -> Option<T>
    where
        T::Err: Display,
    {
        let node = self.take(key)?;
        let (line, text) = self.as_text(key, node)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.mistake(line, key, format!("\"{text}\" is not {what} ({error})"));
                None
            }
        }
    }

    /// A path from the root.
    pub(crate) fn path(&mut self, key: &'static str) -> Option<AbsolutePath> {
        self.parsed(key, "a path")
    }

    pub(crate) fn parsed_list<T: FromStr>(&mut self, key: &'static str, what: &str) -> Option<Vec<T>>
    where
        T::Err: Display,
    {
        let node = self.take(key)?;
        let Value::List(items) = node.value else {
            self.mistake(node.line, key, format!("must be a list, not {}", node.value.kind()));
            return None;
        };
        let mut values = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let name = format!("{key}[{index}]");
            let Some((line, text)) = self.as_text(&name, item) else { continue };
            match text.parse() {
                Ok(value) => values.push(value),
                Err(error) => self.mistake(line, &name, format!("\"{text}\" is not {what} ({error})")),
            }
        }
        Some(values)
    }

    pub(crate) fn bool(&mut self, key: &'static str) -> Option<bool> {
        let node = self.take(key)?;
        match node.value {
            Value::Bool(value) => Some(value),
            other => {
                self.mistake(node.line, key, format!("must be true or false, not {}", other.kind()));
                None
            }
        }
    }

    /// A whole number between `least` and `most`.
    pub(crate) fn number<T: TryFrom<i64>>(&mut self, key: &'static str, least: i64, most: i64) -> Option<T> {
        let node = self.take(key)?;
        let number = match node.value {
            Value::Integer(number) if (least..=most).contains(&number) => T::try_from(number).ok(),
            Value::Integer(_) => None,
            other => {
                self.mistake(node.line, key, format!("must be a whole number, not {}", other.kind()));
                return None;
            }
        };
        if number.is_none() {
            self.mistake(node.line, key, format!("must be between {least} and {most}"));
        }
        number
    }

    /// A length of time in Go's form, such as `8760h` or `10m`.
    pub(crate) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        self.parsed::<GoDuration>(key, "a length of time such as 8760h or 10m").map(|found| found.0)
    }

    /// One of a few words, of which the empty one may be.
    pub(crate) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let node = self.take(key)?;
        let (line, text) = self.as_text(key, node)?;
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<&str> =
                choices.iter().map(|(word, _)| *word).filter(|word| !word.is_empty()).collect();
            self.mistake(line, key, format!("\"{text}\" is none of: {}", words.join(", ")));
        }
        found
    }

    /// A map of texts, such as labels.
    pub(crate) fn texts(&mut self, key: &'static str) -> Option<Vec<(String, String)>> {
        let node = self.take(key)?;
        let Value::Map(entries) = node.value else {
            self.mistake(node.line, key, format!("must be a map of texts, not {}", node.value.kind()));
            return None;
        };
        let mut texts = Vec::new();
        for entry in entries {
            let name = format!("{key}.{}", entry.key);
            if let Some((_, text)) = self.as_text(&name, entry.node) {
                texts.push((entry.key, text));
            }
        }
        Some(texts)
    }

    /// A list of maps; what is no map is told, and left out.
    pub(crate) fn sections(&mut self, key: &'static str, mut read: impl FnMut(Section<'_>)) -> bool {
        let Some(node) = self.take(key) else { return false };
        let Value::List(items) = node.value else {
            self.mistake(node.line, key, format!("must be a list, not {}", node.value.kind()));
            return false;
        };
        for (index, item) in items.into_iter().enumerate() {
            read(Section::new(join(&self.path, &format!("{key}[{index}]")), item, self.mistakes));
        }
        true
    }

    /// A map whose entries `mistake_of` judges, each by its key and what is said.
    pub(crate) fn judged(&mut self, key: &'static str, mistake_of: impl Fn(&str, &str) -> Option<String>) {
        let Some(node) = self.take(key) else { return };
        let Value::Map(entries) = node.value else {
            self.mistake(node.line, key, format!("must be a map, not {}", node.value.kind()));
            return;
        };
        for entry in entries {
            if let Some(text) = mistake_of(&entry.key, &entry.node.value.plain()) {
                self.mistake(entry.line, &format!("{key}.{}", entry.key), text);
            }
        }
    }

    /// Whether a field that nobody took yet stands in a file: what flags say has no line.
    pub(crate) fn is_in_file(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key && entry.node.line != 0)
    }

    /// The line of a field that nobody took yet.
    pub(crate) fn line_of(&self, key: &str) -> u64 {
        self.entries.iter().find(|entry| entry.key == key).map_or(self.line, |entry| entry.line)
    }

    /// The keys of a map that nobody took yet; `None` where there is no map.
    pub(crate) fn keys(&self, key: &str) -> Option<Vec<String>> {
        match &self.entries.iter().find(|entry| entry.key == key)?.node.value {
            Value::Map(entries) => Some(entries.iter().map(|entry| entry.key.clone()).collect()),
            _ => None,
        }
    }

    /// A field that makes no difference here, whatever it says.
    pub(crate) fn moot(&mut self, key: &'static str) {
        self.take(key);
    }

    /// A field that may only say what is so anyway; `why` tells what that is.
    pub(crate) fn only(&mut self, key: &'static str, allowed: &[&str], why: &str) {
        let Some(node) = self.take(key) else { return };
        let said = node.value.plain();
        if allowed.iter().any(|allowed| means_the_same(allowed, &said)) {
            return;
        }
        let mend = match allowed {
            [] => "take it out".to_string(),
            words => format!("only {} can be set, or nothing", words.join(" or ")),
        };
        self.mistake(node.line, key, format!("cannot be {said}: {why}; {mend}"));
    }

    /// Everything that nobody took is a mistake.
    pub(crate) fn finish(self) {
        for entry in &self.entries {
            let near = self.known.iter().min_by_key(|known| distance(known, &entry.key));
            let hint = match near {
                Some(known) if distance(known, &entry.key) <= 3 => format!("; did you mean \"{known}\"?"),
                _ if self.known.len() <= MANY => format!("; known here: {}", self.known.join(", ")),
                _ => String::new(),
            };
            let text = format!("unknown field{hint}");
            self.mistakes.push(Mistake::new(entry.line, join(&self.path, &entry.key), text));
        }
    }
}

/// `5m` and `5m0s` are the same length of time.
fn means_the_same(a: &str, b: &str) -> bool {
    let time = |text: &str| text.parse::<GoDuration>().map(|found| found.0).ok();
    a == b || time(a).is_some_and(|time_of_a| time(b) == Some(time_of_a))
}

/// Hours, minutes and seconds; whole numbers only.
struct GoDuration(Duration);

impl FromStr for GoDuration {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut rest, mut seconds) = (text, 0_u64);
        for (unit, length) in [('h', 3600), ('m', 60), ('s', 1)] {
            let Some((number, after)) = rest.split_once(unit) else { continue };
            let number: u64 = number.parse().map_err(|_| "a whole number and h, m or s, in this order")?;
            seconds =
                number.checked_mul(length).and_then(|more| seconds.checked_add(more)).ok_or("too long")?;
            rest = after;
        }
        if !rest.is_empty() || text.is_empty() {
            return Err("a whole number and h, m or s, in this order");
        }
        Ok(Self(Duration::from_secs(seconds)))
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

/// How many single-character edits (Levenshtein), without regard to case, lie between two words.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let width = b.chars().count();
    let mut row: Vec<usize> = (0..=width).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[width]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_as_go_writes_them() {
        let read = |text: &str| text.parse::<GoDuration>().map(|found| found.0.as_secs());
        assert_eq!(read("8760h"), Ok(31_536_000));
        assert_eq!(read("1h30m5s"), Ok(5405));
        assert_eq!(read("10m"), Ok(600));
        for wrong in ["", "10", "m", "1.5h", "5m1h", "1d", "99999999999999999999h", "99999999999999999h"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
