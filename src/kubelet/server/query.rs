//! The query of a request. No IO.
#![deny(clippy::disallowed_methods)]

pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: &str) -> Query {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Query(pairs.collect())
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    pub(super) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// There, and neither `false` nor `0`.
    pub(super) fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0")
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| after.first_chunk::<2>()).flatten();
        let escaped = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (escaped, first) {
            (Some(byte), _) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (None, b'+') => {
                bytes.push(b' ');
                rest = after;
            }
            (None, other) => {
                bytes.push(*other);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_and_repeated_words_keep_their_order() {
        let query = Query::parse("command=a%20b&command=c+d&tty=1&input=0&x=%zz");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["a b", "c d"]);
        assert!(query.flag("tty") && !query.flag("input") && !query.flag("output"));
        assert_eq!(query.get("x"), Some("%zz"));
    }
}
